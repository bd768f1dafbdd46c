//! `sessiond events`: what happened, and with `--follow` what happens.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::operator::{self, MessageStream, Operator, OperatorError};
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
        let mut last = self.print_past(operator).await?;
        if self.follow && operator.is_own() {
            eprintln!("No server runs on this database, so nothing more happens.");
        } else if self.follow {
            loop {
                let query = self.query(last.as_deref());
                match operator.stream(&["v1", "events"], &self.app.app, &query).await {
                    Ok(stream) => last = self.print_all(stream).await.or(last),
                    Err(OperatorError::Unreachable(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                eprintln!("The server is away; trying again.");
                tokio::time::sleep(RETRY).await;
            }
        }
        operator.finish().await
    }

    /// Prints what comes until the stream is over; answers the id of the last event.
    async fn print_all(&self, mut stream: MessageStream) -> Option<String> {
        let mut last = None;
        while let Some(message) = stream.next().await {
            if message.event == "reset" {
                eprintln!("Some events were deleted before they could be shown.");
            } else if let Ok(event) = serde_json::from_str(&message.data) {
                self.print(&event);
            }
            last = message.id.or(last);
        }
        last
    }

    /// Prints what has happened so far; answers the id of the last event.
    async fn print_past(&self, operator: &Operator) -> Result<Option<String>, Failure> {
        let limit = self.limit.to_string();
        let mut query = self.query(self.after.as_deref());
        query.push(("limit", &limit));
        if self.after.is_none() {
            query.push(("order", "newest"));
        }
        let page = operator.get(&["v1", "events"], &self.app.app, &query).await?;
        let mut events: Vec<&Value> = page["events"].as_array().into_iter().flatten().collect();
        if self.after.is_none() {
            events.reverse();
        }
        events.iter().for_each(|event| self.print(event));
        if self.after.is_some() && !page["next_cursor"].is_null() && !self.follow {
            eprintln!(
                "There are more; go on with --after {}",
                operator::text(&page, "next_cursor")
            );
        }
        let last = events.last().and_then(|event| event["id"].as_str());
        Ok(last.map(str::to_owned).or_else(|| self.after.clone()))
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

    fn print(&self, event: &Value) {
        if self.json {
            println!("{event}");
            return;
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
        println!("{line}");
    }
}
