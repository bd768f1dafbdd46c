//! What an HTTP client would not let a test send: bytes on a connection. And what a test wants to find unchanged.

use std::fmt::Write as _;
use std::time::Duration;

use rusqlite::types::ValueRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use sessiond::server::beside;

use crate::harness::{PATIENCE, TestServer, open_database};

/// An answer as it came.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    /// The head, header names in lower case.
    pub head: String,
    pub body: String,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection to a server.
pub struct Wire {
    stream: Box<dyn Stream>,
    /// What was read beyond the last answer.
    rest: Vec<u8>,
}

impl Wire {
    pub async fn open(server: &TestServer) -> Self {
        let authority = server.base.strip_prefix("http://").expect("a URL");
        let authority = authority.split('/').next().expect("an authority");
        Self::over(TcpStream::connect(authority).await.expect("a connection"))
    }

    /// Opens the operator socket.
    pub async fn open_operator(server: &TestServer) -> Self {
        let path = beside(&server.database(), ".sock");
        Self::over(UnixStream::connect(path).await.expect("a connection"))
    }

    /// Over a connection that is there, also one by TLS.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            rest: Vec::new(),
        }
    }

    /// Sends bytes. That the server has hung up meanwhile is for the one to find who reads.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        drop(sent.expect("the server takes bytes or hangs up"));
    }

    /// Says that nothing more will be sent.
    pub async fn end(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Reads one answer; `None` if the server hung up without any.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        let read = tokio::time::timeout(PATIENCE, self.read_answer()).await;
        read.expect("the server answers or hangs up")
    }

    async fn read_answer(&mut self) -> Option<RawAnswer> {
        let mut bytes = std::mem::take(&mut self.rest);
        let head_len = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more(&mut bytes).await {
                assert!(bytes.is_empty(), "half a head: {bytes:?}");
                return None;
            }
        };
        let head = String::from_utf8(bytes[..head_len].to_vec()).expect("text");
        let head: String = head
            .lines()
            .map(|line| match line.split_once(':') {
                Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
                None => format!("{line}\n"),
            })
            .collect();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let end = head_len + length.unwrap_or(0);
        while bytes.len() < end && self.read_more(&mut bytes).await {}
        self.rest = bytes.split_off(end.min(bytes.len()));
        Some(RawAnswer {
            status: status.expect("a status"),
            body: String::from_utf8(bytes[head_len..].to_vec()).expect("text"),
            head,
        })
    }

    /// Reads on until this has come.
    pub async fn until(&mut self, part: &str) {
        let mut bytes = std::mem::take(&mut self.rest);
        let read = async {
            while !bytes.windows(part.len()).any(|some| some == part.as_bytes()) {
                assert!(self.read_more(&mut bytes).await, "it ended before {part:?}");
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.expect("it comes");
    }

    /// Everything that comes until the server hangs up.
    pub async fn rest(&mut self) -> Vec<u8> {
        self.rest_within(PATIENCE).await.expect("the server hangs up")
    }

    /// Everything that comes until the server hangs up, if it does so in this time.
    pub async fn rest_within(&mut self, time: Duration) -> Option<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.rest);
        let read = async { while self.read_more(&mut bytes).await {} };
        if tokio::time::timeout(time, read).await.is_err() {
            self.rest = bytes;
            return None;
        }
        Some(bytes)
    }

    async fn read_more(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut some = [0; 4096];
        match self.stream.read(&mut some).await {
            Ok(0) | Err(_) => false,
            Ok(len) => {
                bytes.extend_from_slice(&some[..len]);
                true
            }
        }
    }
}

/// Sends bytes on a connection of their own and reads one answer.
pub async fn exchange(server: &TestServer, bytes: &[u8]) -> Option<RawAnswer> {
    let mut wire = Wire::open(server).await;
    wire.send(bytes).await;
    wire.answer().await
}

/// Everything in the database, after pending touches and passed deadlines were written.
pub async fn dump(server: &TestServer) -> String {
    server.tick().await;
    let database = open_database(&server.database());
    let mut tables = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .expect("a query");
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .expect("rows")
        .map(|name| name.expect("a name"))
        .collect();
    assert!(tables.iter().any(|table| table == "sessions"), "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let mut statement = database
            .prepare(&format!("SELECT * FROM {table}"))
            .expect("a query");
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let values: Vec<_> = (0..columns).map(|at| row.get_ref(at).expect("a value")).collect();
            writeln!(text, "{table} {values:?}").expect("text");
        }
    }
    text
}

/// A dump without what is told of refusals to end sessions, which is written and changes nothing else: the events, how many
/// there are, and the time of the latest row.
pub fn without_refusals(dump: &str) -> String {
    let refusal = format!("{:?}", ValueRef::Text(b"session.revocation_failed"));
    let is_besides = |row: &&str| {
        !row.contains(&refusal) && !row.starts_with("sqlite_sequence ") && !row.starts_with("meta ")
    };
    dump.lines().filter(is_besides).collect::<Vec<_>>().join("\n")
}

/// Asserts that two dumps are the same, and shows only what differs.
#[track_caller]
pub fn assert_unchanged(before: &str, after: &str) {
    let missing = |from: &str, other: &str| -> Vec<String> {
        let rows = from
            .lines()
            .filter(|row| !other.lines().any(|known| known == *row));
        rows.map(str::to_owned).collect()
    };
    let (gone, new) = (missing(before, after), missing(after, before));
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}
