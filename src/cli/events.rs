//! `sessiond events`: what happened, and with `--follow` what happens.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::operator::{self, MessageStream, Operator, OperatorError};
use super::output::{self, OutputError};
use super::{App, Failure};

/// How long to wait before a stream that was cut off is opened again.
const RETRY: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on printing what happens, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only this user's
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only these types, separated by commas: session.created,session.revoked
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    /// Begin with the first one after the event with this id, instead of the last ones
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// At most so many of those that happened
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    app: App,
}

impl Events {
    pub(super) async fn run(self, operator: &Operator) -> Result<(), Failure> {
        if !self.follow {
            self.print_past(operator).await?;
        } else if operator.is_own() {
            self.print_past(operator).await?;
            output::say("No server runs on this database, so nothing more happens.");
        } else {
            self.print_what_comes(operator).await?;
        }
        Ok(())
    }

    /// Prints what has happened, and then what happens, until interrupted.
    async fn print_what_comes(&self, operator: &Operator) -> Result<(), Failure> {
        let mut last = self.after.clone();
        let mut stream = self.stream(operator, last.as_deref()).await?;
        // After the stream was opened: nothing falls between, and what is in both is printed once.
        let printed = match self.after {
            Some(_) => HashSet::new(),
            None => self.print_past(operator).await?,
        };
        loop {
            while let Some(message) = stream.next().await {
                match message.event.as_str() {
                    "reset" => output::say("Some events were deleted before they could be shown."),
                    "end" => {}
                    _ => self.print_unless(&printed, &message.data)?,
                }
            }
            last = stream.last_id().map(str::to_owned).or(last);
            output::say("The server is away; trying again.");
            stream = loop {
                tokio::time::sleep(RETRY).await;
                match self.stream(operator, last.as_deref()).await {
                    Ok(stream) => break stream,
                    Err(OperatorError::Unreachable(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            };
        }
    }

    async fn stream(&self, operator: &Operator, after: Option<&str>) -> Result<MessageStream, OperatorError> {
        let query = self.query(after);
        operator.stream(&["v1", "events"], &self.app.app, &query).await
    }

    fn print_unless(&self, printed: &HashSet<String>, data: &str) -> Result<(), OutputError> {
        if let Ok(event) = serde_json::from_str::<Value>(data)
            && !event["id"].as_str().is_some_and(|id| printed.contains(id))
        {
            self.print(&event)?;
        }
        Ok(())
    }

    /// Prints what has happened so far; answers the ids.
    async fn print_past(&self, operator: &Operator) -> Result<HashSet<String>, Failure> {
        let newest_first = self.after.is_none();
        let mut events: Vec<Value> = Vec::new();
        let mut after = self.after.clone();
        // A page looks at a bounded number of events, few of which may be asked for.
        loop {
            let limit = (self.limit as usize - events.len()).to_string();
            let mut query = self.query(after.as_deref());
            query.push(("limit", &limit));
            if newest_first {
                query.push(("order", "newest"));
            }
            let mut page = operator.get(&["v1", "events"], &self.app.app, &query).await?;
            if let Value::Array(found) = page["events"].take() {
                events.extend(found);
            }
            after = page["next_cursor"].as_str().map(str::to_owned);
            if after.is_none() || events.len() >= self.limit as usize {
                break;
            }
        }
        if newest_first {
            events.reverse();
        }
        events.iter().try_for_each(|event| self.print(event))?;
        if let (false, Some(after)) = (newest_first, after) {
            output::say(format_args!("There are more; go on with --after {after}"));
        }
        let ids = events.iter().filter_map(|event| event["id"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    fn query<'q>(&'q self, after: Option<&'q str>) -> Vec<(&'q str, &'q str)> {
        let given = [
            ("after", after),
            ("user_id", self.user.as_deref()),
            ("types", self.types.as_deref()),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    fn print(&self, event: &Value) -> Result<(), OutputError> {
        if self.json {
            return output::line(event);
        }
        let field = |name: &str| operator::text(event, name);
        let mut line = format!(
            "{}  {:<27}  {}",
            field("occurred_at"),
            field("type"),
            field("user_id")
        );
        for name in [
            "session_id",
            "device_info",
            "ip_address",
            "location",
            "reason",
            "ended_by",
            "data",
        ] {
            if !event[name].is_null() {
                line.push_str(&format!("  {}", field(name)));
            }
        }
        output::line(line)
    }
}
