//! A receiver of webhooks: plain HTTP on a free port, which answers as a test says and tells what it got.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::harness::PATIENCE;

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub json: Value,
}

impl Received {
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn kind(&self) -> &str {
        self.json["type"].as_str().expect("a type")
    }

    pub fn user(&self) -> &str {
        self.json["data"]["user_id"].as_str().expect("a user")
    }

    pub fn signatures(&self) -> Vec<&str> {
        self.headers["webhook-signature"].split(' ').collect()
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    /// With a header.
    With(u16, &'static str, String),
    /// With a body of so many bytes.
    Long(u16, usize),
    /// With a body that ends before it should.
    BrokenOff(u16),
    /// With a body that never ends.
    Stalled(u16),
    /// Not before [`Receiver::release`].
    Held(u16),
    /// Never.
    Never,
}

type Rule = Box<dyn FnMut(&Received) -> Answer + Send>;

pub struct Receiver {
    /// `http://127.0.0.1:PORT`, or https
    pub base: String,
    rule: Arc<Mutex<Rule>>,
    received: UnboundedReceiver<Received>,
    release: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::answering(|_| Answer::Status(204)).await
    }

    pub async fn answering(rule: impl FnMut(&Received) -> Answer + Send + 'static) -> Self {
        Self::listening(rule, None).await
    }

    /// One that takes everything, by TLS; `base` is an https URL then.
    pub async fn by_tls(tls: TlsAcceptor) -> Self {
        Self::listening(|_| Answer::Status(204), Some(tls)).await
    }

    async fn listening(
        rule: impl FnMut(&Received) -> Answer + Send + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (told, received) = unbounded_channel();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let (release, released) = watch::channel(false);
        let task = tokio::spawn({
            let rule = Arc::clone(&rule);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (rule, told, released) = (Arc::clone(&rule), told.clone(), released.clone());
                    match tls.clone() {
                        None => drop(tokio::spawn(serve(stream, rule, told, released))),
                        Some(tls) => drop(tokio::spawn(async move {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, rule, told, released).await;
                            }
                        })),
                    }
                }
            }
        });
        Self {
            base: format!("{scheme}://{address}"),
            rule,
            received,
            release,
            task,
        }
    }

    /// From now on it answers so.
    pub fn answer(&self, rule: impl FnMut(&Received) -> Answer + Send + 'static) {
        *self.rule.lock().expect("no rule failed") = Box::new(rule);
    }

    /// Answers what was held.
    pub fn release(&self) {
        self.release.send_replace(true);
    }

    /// The next request.
    pub async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        next.expect("a request in time").expect("it runs")
    }

    pub async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.next().await);
        }
        all
    }

    /// Everything that came and was not taken.
    pub fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    rule: Arc<Mutex<Rule>>,
    told: UnboundedSender<Received>,
    mut released: watch::Receiver<bool>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(received) = read(&mut stream).await {
        let answer = rule.lock().expect("no rule failed")(&received);
        // The test may have ended.
        let _ = told.send(received);
        let (status, header, len) = match answer.clone() {
            Answer::Status(status) => (status, String::new(), 0),
            Answer::With(status, name, value) => (status, format!("{name}: {value}\r\n"), 0),
            Answer::Long(status, len) => (status, String::new(), len),
            Answer::BrokenOff(status) | Answer::Stalled(status) => {
                let start = format!("HTTP/1.1 {status} Answer\r\ncontent-length: 100\r\n\r\nand so");
                if stream.get_mut().write_all(start.as_bytes()).await.is_ok()
                    && matches!(answer, Answer::Stalled(_))
                {
                    std::future::pending::<()>().await;
                }
                return;
            }
            Answer::Held(status) => {
                if released.wait_for(|is_released| *is_released).await.is_err() {
                    return;
                }
                (status, String::new(), 0)
            }
            Answer::Never => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} Answer\r\n{header}content-length: {len}\r\n\r\n");
        let whole = [head.into_bytes(), vec![b'x'; len]].concat();
        if stream.get_mut().write_all(&whole).await.is_err() {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Received> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|len| *len > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let len = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).ok()?;
    let json = serde_json::from_str(&body).unwrap_or(Value::Null);
    Some(Received {
        path,
        headers,
        body,
        json,
    })
}

const VERIFY: &str = "
import json, sys
from standardwebhooks import Webhook
asked = json.load(sys.stdin)
Webhook(asked['secret']).verify(asked['body'], asked['headers'])
print('verified')
";

/// What the standard's own library says about a message: that it is verified, or why not.
pub fn verify(secret: &str, received: &Received) -> Result<(), String> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    assert!(
        python.exists(),
        "there is no {}, which ./test.sh makes: python3 -m venv target/python && \
         target/python/bin/pip install --require-hashes -r tests/python/requirements.txt",
        python.display()
    );
    let mut child = Command::new(python)
        .args(["-c", VERIFY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    let asked = json!({ "secret": secret, "body": received.body, "headers": received.headers });
    let stdin = child.stdin.take().expect("a pipe");
    serde_json::to_writer(stdin, &asked).expect("asked");
    let said = child.wait_with_output().expect("an answer");
    let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !stderr.contains("ModuleNotFoundError"),
        "target/python lacks what tests/python/requirements.txt names; run ./test.sh: {stderr}"
    );
    if said.status.success() && said.stdout.starts_with(b"verified") {
        Ok(())
    } else {
        Err(stderr)
    }
}
