//! Reads live streams as the standard says (WHATWG HTML §9.2.6), not as this server happens to write them.

use reqwest::Response;
use serde_json::Value;

use crate::harness::{Reply, Request};
use crate::stores::soon;

/// A live stream.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    unread: Vec<u8>,
    /// The id to go on after.
    pub last_id: Option<String>,
}

/// What stands between two empty lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Fields, in their order.
    pub fields: Vec<(String, String)>,
    pub comments: usize,
}

impl Message {
    fn read(text: &str) -> Self {
        let mut message = Self::default();
        for line in text.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.is_empty() {
                message.comments += 1;
                continue;
            }
            let value = value.strip_prefix(' ').unwrap_or(value);
            message.fields.push((name.to_owned(), value.to_owned()));
        }
        message
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let last = self.fields.iter().rfind(|(known, _)| known == name);
        last.map(|(_, value)| value.as_str())
    }

    /// Whether a browser would tell its page of it.
    fn is_told(&self) -> bool {
        self.field("data").is_some()
    }

    /// What kind of thing it tells.
    pub fn event(&self) -> &str {
        self.field("event").unwrap_or("message")
    }

    pub fn id(&self) -> &str {
        self.field("id").expect("it has an id")
    }

    /// Its data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.field("data").unwrap_or_default()).expect("data in JSON")
    }

    /// Type and user of an event.
    pub fn in_words(&self) -> String {
        let whose = self.json()["user_id"].as_str().unwrap_or("nobody").to_owned();
        format!("{} {whose}", self.event())
    }
}

/// Opens a stream; what is refused is answered as it was.
pub async fn try_open(request: Request<'_>) -> Result<EventStream, Reply> {
    let response = request.header("accept", "text/event-stream").opened().await;
    if response.status() != 200 {
        return Err(Reply::of(response).await);
    }
    assert_eq!(header(&response, "content-type"), Some("text/event-stream"));
    Ok(EventStream::of(response))
}

/// Opens a stream and reads its beginning.
pub async fn open(request: Request<'_>) -> EventStream {
    let mut stream = match try_open(request).await {
        Ok(stream) => stream,
        Err(reply) => panic!("{}: {}", reply.status, reply.text),
    };
    let begin = stream.next().await.expect("a beginning");
    assert!(begin.field("retry").is_some() && !begin.is_told(), "{begin:?}");
    stream
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().expect("text"))
}

impl EventStream {
    pub fn of(response: Response) -> Self {
        Self {
            response,
            unread: Vec::new(),
            last_id: None,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.response, name)
    }

    /// Whatever comes next, comments too; `None` at the end.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let text: Vec<u8> = self.unread.drain(..at + 2).collect();
                let message = Message::read(&String::from_utf8(text).expect("UTF-8"));
                if let Some(id) = message.field("id") {
                    self.last_id = Some(id.to_owned());
                }
                return Some(message);
            }
            match soon("something on the stream", self.response.chunk()).await {
                Ok(Some(bytes)) => self.unread.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return None, // what is cut off is not told
            }
        }
    }

    /// What a page in a browser would be told next; `None` at the end.
    pub async fn told(&mut self) -> Option<Message> {
        loop {
            let message = self.next().await?;
            if message.is_told() {
                return Some(message);
            }
        }
    }

    /// Asserts what is told next, type and user each.
    pub async fn tells<const N: usize>(&mut self, expected: [&str; N]) {
        for words in expected {
            let message = self
                .told()
                .await
                .unwrap_or_else(|| panic!("it ended before {words}"));
            assert_eq!(message.in_words(), words);
        }
    }

    /// Asserts that the stream ends here: with `end`, this code, and nothing after it. Answers the data.
    pub async fn ends(&mut self, code: &str) -> Value {
        let end = self.told().await.expect("the stream says that it ends");
        assert_eq!(end.event(), "end", "{end:?}");
        let data = end.json();
        assert_eq!(data["code"], code, "{data}");
        let id = header(&self.response, "x-request-id");
        assert_eq!(data["request_id"].as_str(), id, "{data}");
        assert_eq!(self.next().await, None);
        data
    }
}
