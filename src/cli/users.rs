//! `sessiond users export` and `erase`: all that is kept of a person, for them to have and to have gone.

use serde_json::{Value, json};

use super::Failure;
use super::operator::{self, Operator};
use super::output::{self, OutputError};
use crate::session::AppName;

/// Sessions or events that are asked for at once: as many as a page may have.
const PAGE_LEN: &str = "200";

/// Prints one JSON object, a page at a time: there may be more than should be held in memory.
pub(super) async fn export(operator: &Operator, user: &str, app: &AppName) -> Result<(), Failure> {
    let kept = operator.get(&["v1", "users", user, "kept"], app, &[]).await?;
    output::line(format_args!("{{\n\"user\": {kept},\n\"sessions\": ["))?;
    let sessions = ["v1", "users", user, "sessions"];
    let mut cursor = None;
    let mut list = Printed::default();
    loop {
        let mut query = vec![("status", "all"), ("limit", PAGE_LEN)];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let mut page = operator.get(&sessions, app, &query).await?;
        for session in page["sessions"].as_array_mut().into_iter().flatten() {
            if let Some(data) = data_of(operator, app, session).await? {
                session["data"] = data;
            }
            list.print(session)?;
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    output::line("],\n\"events\": [")?;
    let mut after = None;
    let mut list = Printed::default();
    loop {
        let mut query = vec![("user_id", user), ("limit", PAGE_LEN)];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page = operator.get(&["v1", "events"], app, &query).await?;
        for event in page["events"].as_array().into_iter().flatten() {
            list.print(event)?;
        }
        after = page["next_cursor"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    output::line("]\n}")?;
    Ok(())
}

/// An active session's data; `None` if it has none. One that ended or went meanwhile has none any more; that it cannot be read
/// is a failure, as an export without it would look complete.
async fn data_of(operator: &Operator, app: &AppName, session: &Value) -> Result<Option<Value>, Failure> {
    let has_data = session["status"] == "active" && session["data_version"] != 0;
    let Some(id) = session["id"].as_str().filter(|_| has_data) else {
        return Ok(None);
    };
    let found = operator
        .get_if_there(&["v1", "sessions", id, "data"], app)
        .await?;
    Ok(found.map(|mut found| found["data"].take()))
}

/// Values with commas between them.
#[derive(Default)]
struct Printed {
    has_any: bool,
}

impl Printed {
    fn print(&mut self, value: &Value) -> Result<(), OutputError> {
        let comma = if self.has_any { "," } else { "" };
        self.has_any = true;
        output::line(format_args!("{comma}{value}"))
    }
}

/// Erases a user, by as many calls as it takes.
pub(super) async fn erase(operator: &Operator, user: &str, app: &AppName) -> Result<(), Failure> {
    let kept = operator.get(&["v1", "users", user, "kept"], app, &[]).await?;
    let (mut sessions, mut events) = (0, 0);
    loop {
        let path = ["v1", "users", user, "erase"];
        let erased = operator.post(&path, app, &json!({})).await?;
        sessions += erased["sessions"].as_u64().unwrap_or_default();
        events += erased["events"].as_u64().unwrap_or_default();
        if erased["more"] != true {
            break;
        }
    }
    // Told apart, as it is probably a mistake in the id.
    if sessions == 0 && events == 0 && !has_any(&kept) {
        output::say(format_args!(
            "Nothing was kept of {} in the app {app}.",
            operator::text(&kept, "user_id")
        ));
        return Ok(());
    }
    output::say(format_args!(
        "Erased: {sessions} session(s), {events} event(s), devices and settings. Backups may have them still."
    ));
    Ok(())
}

/// Whether a user has settings or devices.
fn has_any(kept: &Value) -> bool {
    let Some(fields) = kept.as_object() else {
        return false;
    };
    let known_anyway = ["user_id", "app"];
    fields.iter().any(|(name, value)| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        _ => !known_anyway.contains(&name.as_str()),
    })
}
