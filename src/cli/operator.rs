//! The command line's way to the sessions: the operator socket of the running server, or one of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Failure;
use super::output::{self, OutputError};
use crate::clock::Clock;
use crate::config::Config;
use crate::server::{Mode, Server, StartError, beside, require_database};
use crate::session::AppName;

/// How long one call may take: a bulk ending of 10,000 sessions on a slow disk.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a database is looked at that somebody else has and yet nobody serves: five seconds, in which a command is done.
const LOCK_LOOKS_MAX: u32 = 100;
const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperatorError {
    #[error("{0}")]
    Refused(String),
    /// What was asked for is not there, or no more (404, 410).
    #[error("{0}")]
    Absent(String),
    #[error("cannot reach the server by its operator socket: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("cannot read the server's answer: {0}")]
    Unreadable(serde_json::Error),
    #[error(
        "without the server's key file no secret can be kept; give the --config that names it, or start the server first"
    )]
    NoKey,
}

/// A connection to the operator plane.
pub(super) struct Operator {
    client: Client,
    /// A server of our own, if none was running.
    own: Option<OwnServer>,
}

struct OwnServer {
    has_key: bool,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StartError>>,
}

/// What a command does where there is no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It fails: there is nothing to look at or to change, and the name is probably a mistake.
    Refuse,
    /// It makes one.
    Make,
}

impl Operator {
    /// Reaches the running server, or starts one that has only the socket.
    pub(super) async fn reach(config: Config, missing: Missing) -> Result<Self, Failure> {
        let socket = beside(&config.database.path, ".sock");
        let client = client(&socket)?;
        let mut looks = 0;
        let server = loop {
            if answers(&client).await {
                return Ok(Self { client, own: None });
            }
            if missing == Missing::Refuse {
                require_database(&config.database.path)?;
            }
            let clock = Arc::new(Clock::system());
            match Server::bind(config.clone(), Mode::OperatorOnly, clock).await {
                Ok(server) => break server,
                // Another command, or a server that starts or stops.
                Err(StartError::Locked(_)) if looks < LOCK_LOOKS_MAX => looks += 1,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOCK_LOOK_INTERVAL).await;
        };
        let client = self::client(server.socket())?;
        let has_key = server.has_key();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await; // dropped without a word is a stop too
        }));
        Ok(Self {
            client,
            own: Some(OwnServer { has_key, stop, task }),
        })
    }

    /// Stops our own server, if there is one, and waits until the database is closed.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        let Some(own) = self.own else {
            return Ok(());
        };
        drop(own.stop);
        own.task
            .await
            .map_err(std::io::Error::other)?
            .map_err(Failure::from)
    }

    /// Whether no server was running.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Refuses what would keep a secret, if the key that it is sealed with is not at hand.
    pub(super) fn require_key(&self) -> Result<(), OperatorError> {
        match &self.own {
            Some(own) if !own.has_key => Err(OperatorError::NoKey),
            _ => Ok(()),
        }
    }

    /// Opens a stream of events, which lasts until the server or whoever started this ends it.
    pub(super) async fn stream(
        &self,
        path: &[&str],
        app: &AppName,
        query: &[(&str, &str)],
    ) -> Result<MessageStream, OperatorError> {
        let request = self
            .client
            .get(url(path, app, query)?)
            .timeout(Duration::MAX)
            .header("accept", "text/event-stream");
        let response = request.send().await?;
        let status = response.status();
        if !status.is_success() {
            let problem = response.json().await.unwrap_or(Value::Null);
            return Err(refusal(&problem, status.as_u16()));
        }
        Ok(MessageStream {
            response,
            unread: Vec::new(),
            last_id: None,
        })
    }

    pub(super) async fn get(
        &self,
        path: &[&str],
        app: &AppName,
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        self.call(Method::GET, path, app, query, None).await
    }

    /// `None` if it is not there.
    pub(super) async fn get_if_there(&self, path: &[&str], app: &AppName) -> Result<Option<Value>, Failure> {
        match self.send(Method::GET, path, app, &[], None).await {
            Ok(found) => Ok(Some(found)),
            Err(OperatorError::Absent(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn post(&self, path: &[&str], app: &AppName, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, app, &[], Some(body)).await
    }

    pub(super) async fn patch(&self, path: &[&str], app: &AppName, body: &Value) -> Result<Value, Failure> {
        self.call(Method::PATCH, path, app, &[], Some(body)).await
    }

    pub(super) async fn delete(
        &self,
        path: &[&str],
        app: &AppName,
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, app, query, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        app: &AppName,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        Ok(self.send(method, path, app, query, body).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        app: &AppName,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, OperatorError> {
        let mut request = self.client.request(method, url(path, app, query)?);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if status.is_success() && bytes.is_empty() {
            return Ok(Value::Null);
        }
        match serde_json::from_slice(&bytes) {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(problem) => Err(refusal(&problem, status.as_u16())),
            // Not to be mistaken for an empty list.
            Err(error) if status.is_success() => Err(OperatorError::Unreadable(error)),
            Err(_) => Err(refusal(&Value::Null, status.as_u16())),
        }
    }
}

fn url(path: &[&str], app: &AppName, query: &[(&str, &str)]) -> Result<String, OperatorError> {
    let mut url = format!("http://localhost{}?app={app}", url_path(path)?);
    for (name, value) in query {
        url.push_str(&format!("&{name}={}", encode(value)));
    }
    Ok(url)
}

/// Server-sent events, as the server writes them: a field a line, an empty line after each.
pub(super) struct MessageStream {
    response: reqwest::Response,
    unread: Vec<u8>,
    last_id: Option<String>,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) event: String,
    pub(super) data: String,
}

impl MessageStream {
    /// Where the stream has come to; ids come without an event too.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next one with data; `None` when the stream is over, in order or not.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(at) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let text = String::from_utf8_lossy(&self.unread[..at]).into_owned();
                self.unread.drain(..at + 2);
                let mut message = Message::default();
                for line in text.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => self.last_id = Some(id.to_owned()),
                        Some(("event", event)) => event.clone_into(&mut message.event),
                        Some(("data", data)) => data.clone_into(&mut message.data),
                        _ => {}
                    }
                }
                if !message.data.is_empty() {
                    return Some(message);
                }
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.unread.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

fn client(socket: &Path) -> Result<Client, OperatorError> {
    Ok(Client::builder()
        .unix_socket(socket)
        .timeout(CALL_TIMEOUT)
        .build()?)
}

async fn answers(client: &Client) -> bool {
    client
        .get("http://localhost/healthz")
        .send()
        .await
        .is_ok_and(|response| response.status().is_success())
}

/// A problem in words: its detail, and what is wrong with each field.
fn refusal(problem: &Value, status: u16) -> OperatorError {
    let mut words = match problem["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => format!("the server answered {status}"),
    };
    for error in problem["errors"].as_array().into_iter().flatten() {
        words.push_str(&format!(
            "\n  {} {}",
            text(error, "field"),
            text(error, "message")
        ));
    }
    match status {
        404 | 410 => OperatorError::Absent(words),
        _ => OperatorError::Refused(words),
    }
}

fn encode(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

/// These segments as the path of a URL.
///
/// An empty one and dots are no id of anything, and are refused here: in a URL they mean another path, however they
/// are encoded, and `/v1/users/../sessions` would be the sessions of everybody.
fn url_path(segments: &[&str]) -> Result<String, OperatorError> {
    let mut path = String::new();
    for segment in segments {
        if matches!(*segment, "" | "." | "..") {
            return Err(OperatorError::Refused(format!("{segment:?} is not an id")));
        }
        path.push('/');
        path.push_str(&encode(segment));
    }
    Ok(path)
}

/// A field as text that a terminal shows as it is.
pub(super) fn text(record: &Value, field: &str) -> String {
    let text = match &record[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // Whoever signs in picks their user agent: no escape sequences for the operator's terminal.
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Prints a list of records as columns.
pub(super) fn print_table(records: &Value, columns: &[&str]) -> Result<(), OutputError> {
    let rows: Vec<Vec<String>> = records
        .as_array()
        .into_iter()
        .flatten()
        .map(|record| columns.iter().map(|column| text(record, column)).collect())
        .collect();
    let header: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let width = |index: usize| {
        rows.iter()
            .chain([&header])
            .map(|row| row[index].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in [&header].into_iter().chain(&rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        output::line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Prints one record, a field a line.
pub(super) fn print_record(record: &Value) -> Result<(), OutputError> {
    for name in record.as_object().into_iter().flat_map(|fields| fields.keys()) {
        output::line(format_args!("{name}: {}", text(record, name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_or_no_more_is_absent() {
        for (status, is_absent) in [
            (401, false),
            (404, true),
            (410, true),
            (412, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let refusal = refusal(&Value::Null, status);
            assert_eq!(matches!(refusal, OperatorError::Absent(_)), is_absent, "{status}");
        }
    }
}
