//! `sessiond webhooks`: where events are sent, what became of them, and sending them again.

use clap::Subcommand;
use serde_json::{Value, json};

use super::operator::{self, Operator};
use super::output::{self, OutputError};
use super::{App, Failure};
use crate::session::AppName;

#[derive(Debug, Subcommand)]
pub(super) enum Webhooks {
    /// List the app's webhooks
    List {
        #[command(flatten)]
        app: App,
    },
    /// Make a webhook; its secret is printed once, alone on its line
    Add {
        /// Where it leads: an https or http URL
        url: String,
        /// Only these types of events, separated by commas: session.created,session.revoked
        #[arg(long, value_name = "TYPES", value_delimiter = ',')]
        types: Vec<String>,
        /// What it is for, up to 255 characters
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        app: App,
    },
    /// Show a webhook
    Show {
        /// The webhook's id, from `webhooks list`
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// Send a signed message now and say what became of it
    Test {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// Stop a webhook for a while; events wait
    Pause {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// Let a paused or disabled webhook go on, with what has waited
    Resume {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// Give a webhook another secret, printed once; for a day the old one signs too
    Rotate {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// Delete a webhook, and with it what it has not delivered
    Delete {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        app: App,
    },
    /// List a webhook's deliveries, newest event first
    Deliveries {
        /// The webhook's id
        id: String,
        /// Only these: pending, delivered, failed or skipped
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        #[command(flatten)]
        app: App,
    },
    /// Send deliveries again: that of one event, or those of a range
    Replay {
        /// The webhook's id
        id: String,
        /// The event's id, from `webhooks deliveries`
        #[arg(required_unless_present = "after", conflicts_with = "after")]
        event: Option<String>,
        /// All events after the one with this id
        #[arg(long, value_name = "EVENT")]
        after: Option<String>,
        /// Up to the event with this id
        #[arg(long, value_name = "EVENT", requires = "after")]
        until: Option<String>,
        #[command(flatten)]
        app: App,
    },
}

impl Webhooks {
    pub(super) async fn run(self, operator: &Operator) -> Result<(), Failure> {
        match self {
            Self::List { app } => {
                let listed = operator.get(&["v1", "webhooks"], &app.app, &[]).await?;
                let columns = ["id", "name", "state", "pending_count", "url"];
                operator::print_table(&listed["webhooks"], &columns)?;
            }
            Self::Add {
                url,
                types,
                description,
                app,
            } => {
                operator.require_key()?;
                let body = json!({ "url": url, "types": types, "description": description });
                let made = operator.post(&["v1", "webhooks"], &app.app, &body).await?;
                print_secret(&made, &app.app, "")?;
            }
            Self::Show { id, app } => {
                let shown = operator.get(&["v1", "webhooks", &id], &app.app, &[]).await?;
                print_webhook(shown)?;
            }
            Self::Test { id, app } => {
                let path = &["v1", "webhooks", &id, "test"];
                let tested = operator.post(path, &app.app, &json!({})).await?;
                operator::print_record(&tested)?;
                if !tested["error"].is_null() {
                    return Err(Failure::WebhookTest);
                }
            }
            Self::Pause { id, app } => set_paused(operator, &id, &app, true).await?,
            Self::Resume { id, app } => set_paused(operator, &id, &app, false).await?,
            Self::Rotate { id, app } => {
                operator.require_key()?;
                let path = &["v1", "webhooks", &id, "rotate-secret"];
                let rotated = operator.post(path, &app.app, &json!({})).await?;
                let before = ". The secret from before signs beside it for a day, or until then";
                print_secret(&rotated, &app.app, before)?;
            }
            Self::Delete { id, app } => {
                let path = &["v1", "webhooks", &id];
                operator.delete(path, &app.app, &[]).await?;
                output::say("Deleted.");
            }
            Self::Deliveries {
                id,
                status,
                limit,
                app,
            } => {
                let limit = limit.to_string();
                let mut query = vec![("limit", limit.as_str())];
                query.extend(status.as_deref().map(|status| ("status", status)));
                let path = &["v1", "webhooks", &id, "deliveries"];
                let mut listed = operator.get(path, &app.app, &query).await?;
                for delivery in listed["deliveries"].as_array_mut().into_iter().flatten() {
                    delivery["last_result"] = result(&delivery["last_attempt"]);
                }
                let columns = [
                    "event_id",
                    "type",
                    "status",
                    "attempts",
                    "next_attempt_at",
                    "last_result",
                ];
                operator::print_table(&listed["deliveries"], &columns)?;
                if !listed["next_cursor"].is_null() {
                    output::say("There are more; --limit goes up to 200.");
                }
            }
            Self::Replay {
                id,
                event,
                after,
                until,
                app,
            } => replay(operator, &id, event, after, until, &app).await?,
        }
        Ok(())
    }
}

async fn replay(
    operator: &Operator,
    id: &str,
    event: Option<String>,
    after: Option<String>,
    until: Option<String>,
    app: &App,
) -> Result<(), Failure> {
    if let Some(event) = event {
        let path = &["v1", "webhooks", id, "deliveries", &event, "replay"];
        operator.post(path, &app.app, &json!({})).await?;
        output::say("1 delivery is due now.");
        return Ok(());
    }
    // A call looks at so many events; the next goes on after them.
    let mut count = 0;
    let mut next = json!(after);
    while !next.is_null() {
        let mut body = json!({ "after": next });
        if let Some(until) = &until {
            body["until"] = json!(until);
        }
        let path = &["v1", "webhooks", id, "replay"];
        let replayed = operator.post(path, &app.app, &body).await?;
        let due = replayed["count"].as_u64().unwrap_or_default();
        count += due;
        let former = std::mem::replace(&mut next, replayed["next_after"].clone());
        if due == 0 && next == former {
            output::say(format_args!(
                "{count} deliveries are due now. As many wait as may; go on when there are fewer, with --after {}",
                next.as_str().unwrap_or_default()
            ));
            return Ok(());
        }
    }
    output::say(format_args!("{count} deliveries are due now."));
    Ok(())
}

async fn set_paused(operator: &Operator, id: &str, app: &App, is_paused: bool) -> Result<(), Failure> {
    let path = &["v1", "webhooks", id];
    let body = json!({ "is_paused": is_paused });
    let shown = operator.patch(path, &app.app, &body).await?;
    Ok(print_webhook(shown)?)
}

/// A webhook, with its lists and parts in words.
fn print_webhook(mut webhook: Value) -> Result<(), OutputError> {
    let types: Vec<&str> = webhook["types"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    webhook["types"] = json!(if types.is_empty() {
        "all".to_owned()
    } else {
        types.join(",")
    });
    webhook["last_delivery"] = result(&webhook["last_delivery"]);
    operator::print_record(&webhook)
}

/// How an attempt went, in words.
fn result(attempt: &Value) -> Value {
    match (&attempt["http_status"], &attempt["error"]) {
        (Value::Null, Value::Null) => Value::Null,
        (status, Value::Null) => status.clone(),
        (_, error) => error.clone(),
    }
}

/// The secret on stdout, alone, and words about it on stderr. `before` is what there is to know before another is made.
fn print_secret(made: &Value, app: &AppName, before: &'static str) -> Result<(), Failure> {
    let id = operator::text(&made["webhook"], "id");
    output::secret(operator::text(made, "secret")).map_err(|printing| Failure::SecretNotPrinted {
        printing,
        id: id.clone(),
        app: app.clone(),
        before,
    })?;
    output::say(format_args!(
        "The webhook {id} signs with this secret. It is shown only now; its receiver verifies with it."
    ));
    Ok(())
}
