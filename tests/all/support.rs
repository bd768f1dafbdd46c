//! What several modules look at beside answers: rows of the database, metrics, a second app, plain wire bytes.

use rusqlite::types::ValueRef;
use serde_json::{Map, Value};
use sessiond::clock::Timestamp;
use sessiond::config::Config;
use sessiond::session::AppName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::harness::{Reply, Request, START, TestServer, open_database};

pub const HOUR: u64 = 60 * 60;
pub const DAY: u64 = 24 * HOUR;

/// A session id that no server gives: it is of a time long before every test's.
pub const UNKNOWN_ID: &str = "01900000-0000-7000-8000-000000000000";

/// So many seconds after every test's beginning, as answers show it.
pub fn at(secs: u64) -> String {
    millis_after(secs * 1_000).to_string()
}

/// So many milliseconds after every test's beginning.
pub fn millis_after(millis: u64) -> Timestamp {
    START.plus_millis(i64::try_from(millis).expect("a small number"))
}

/// Adds an app with the policy of `default`.
pub fn add_app(config: &mut Config, name: &str) {
    let policy = config.apps[&AppName::default_app()].clone();
    config.apps.insert(AppName::parse(name).expect("a name"), policy);
}

/// Rows of a query as objects by column; a blob is shown in hexadecimal digits.
pub fn rows(server: &TestServer, sql: &str) -> Vec<Value> {
    let database = open_database(&server.database());
    let mut statement = database.prepare(sql).expect("a query");
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let rows = statement
        .query_map([], |row| {
            let cells = names.iter().enumerate().map(|(index, name)| {
                let value = match row.get_ref(index)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => number.into(),
                    ValueRef::Real(number) => number.into(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                    ValueRef::Blob(bytes) => hexadecimal(bytes).into(),
                };
                Ok((name.clone(), value))
            });
            cells.collect::<rusqlite::Result<Map<_, _>>>().map(Value::Object)
        })
        .expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// The number that a query answers.
pub fn count(server: &TestServer, sql: &str) -> i64 {
    open_database(&server.database())
        .query_row(sql, [], |row| row.get(0))
        .expect("a number")
}

/// A counter or gauge without labels, as scrapers see it.
pub async fn metric(server: &TestServer, name: &str) -> u64 {
    let reply = server.get("/metrics").send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let line = reply
        .text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name} in {}", reply.text))
        .parse()
        .expect("a number")
}

/// The ids of a list's sessions, in its order.
pub fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let sessions = reply.json["sessions"].as_array().expect("sessions");
    let id = |session: &Value| session["id"].as_str().expect("an id").to_owned();
    sessions.iter().map(id).collect()
}

/// A body without what differs between any two answers.
pub fn without_request_id(reply: &Reply) -> Value {
    let mut body = reply.json.clone();
    let id = body
        .as_object_mut()
        .and_then(|body| body.shift_remove("request_id"));
    assert!(id.is_some_and(|id| id.is_string()), "{}", reply.text);
    body
}

/// Status and body of a GET whose path is sent as it stands: clients tidy dot segments and bad escapes up.
pub async fn get_exactly(server: &TestServer, path: &str, key: &str) -> (u16, Value) {
    let authority = server.base.split('/').nth(2).expect("a base URL");
    let mut stream = tokio::net::TcpStream::connect(authority)
        .await
        .expect("a connection");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let json = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.expect("a status"), json)
}

/// Sends all of these at once; the answers come in the order of the requests.
pub async fn at_once<'s>(requests: impl IntoIterator<Item = Request<'s>>) -> Vec<Reply> {
    let mut calls = JoinSet::new();
    for (number, request) in requests.into_iter().enumerate() {
        let reply = request.sent();
        calls.spawn(async move { (number, reply.await) });
    }
    let mut replies = calls.join_all().await;
    replies.sort_by_key(|(number, _)| *number);
    replies.into_iter().map(|(_, reply)| reply).collect()
}

/// How many of the answers have this status.
pub fn with_status(replies: &[Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let bound = u64::try_from(bound).expect("64 bits");
        usize::try_from(bits % bound).expect("64 bits")
    }

    pub fn says(&mut self, percent: u64) -> bool {
        self.below(100) < usize::try_from(percent).expect("64 bits")
    }
}

/// A number from the environment of the tests.
pub fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
