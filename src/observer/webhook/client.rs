//! The HTTP of webhooks: one POST, to nobody whom this server would rather not ask for others.
//!
//! Whoever can make a webhook chooses where this server connects to. So the addresses that are connected to are looked
//! at, at every connection, not the name when it was given: names change (DNS rebinding). A name with any address that
//! may not be reached is refused whole. A pooled connection was looked at when it was made.
//!
//! The status decides; what follows it is read for the connection's sake alone. Deliberately absent: redirects,
//! proxies, cookies, HTTP/2, and looking at what the receiver has to say.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tower_service::Service;

use crate::webhook::{Reach, WebhookUrl};

/// How long an attempt may take, from the name to the status of the answer: long enough for a receiver that does its
/// work before it answers, which it should not.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it may take to connect: whoever cannot be reached within this cannot be at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of an answer, and how long, so that the connection can be used again; then it is closed.
const ANSWER_LEN_MAX: usize = 64 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection is kept, and how many for a receiver: as many as one webhook uses at once.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = super::delivery::ATTEMPTS_MAX;
/// Longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 200;

const NOT_PUBLIC: &str = "it leads to an address that is not public";

type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// Sends messages.
pub(super) struct Client {
    reach: Reach,
    /// Made when it is first needed: reading the system's certificates takes some ten milliseconds.
    http: OnceCell<Http>,
    /// Whether it was said that there are no certificates.
    is_warned: AtomicBool,
}

/// A message on its way.
pub(super) struct Message<'m> {
    pub(super) id: &'m str,
    pub(super) timestamp_secs: i64,
    pub(super) signatures: String,
    pub(super) body: String,
}

/// What of an answer matters.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
}

impl Client {
    pub(super) fn new(reach: Reach) -> Self {
        Self {
            reach,
            http: OnceCell::new(),
            is_warned: AtomicBool::new(false),
        }
    }

    /// One that trusts nobody is used once and not kept: the system's certificates may come later.
    async fn http(&self) -> Result<Http, String> {
        let made = self.http.get_or_try_init(|| async {
            let roots = tokio::task::spawn_blocking(system_roots).await;
            let (roots, why) = roots
                .map_err(|_| Err("the certificates that this system trusts cannot be read".to_owned()))?;
            let is_empty = roots.is_empty();
            if (is_empty || !why.is_empty()) && !self.is_warned.swap(true, Ordering::Relaxed) {
                let count = roots.len();
                log::warn!(
                    "webhooks trust {count} certificates of this system for https URLs, and lack some: {why}"
                );
            }
            let http = connect_by(self.reach, roots).map_err(Err)?;
            if is_empty { Err(Ok(http)) } else { Ok(http) }
        });
        match made.await {
            Ok(http) => Ok(http.clone()),
            Err(once) => once,
        }
    }

    /// Sends a message; why there is no answer is a sentence that may be shown.
    pub(super) async fn post(&self, url: &str, message: Message<'_>) -> Result<Answered, String> {
        // Read again, as the rule about addresses may be another than when it was made.
        let url = WebhookUrl::parse(url, self.reach).map_err(|_| NOT_PUBLIC.to_owned())?;
        let request = Request::post(url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("sessiond/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", message.id)
            .header("webhook-timestamp", message.timestamp_secs)
            .header("webhook-signature", message.signatures)
            .body(Full::from(message.body))
            .map_err(|_| "its URL cannot be sent by HTTP".to_owned())?;
        let sent = async {
            let response = self.http().await?.request(request).await;
            let response = response.map_err(|error| reason(&error))?;
            let answered = Answered {
                status: response.status().as_u16(),
                retry_after: response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
            };
            Ok::<_, String>((answered, response.into_body()))
        };
        let Ok(sent) = tokio::time::timeout(ATTEMPT_TIMEOUT, sent).await else {
            let secs = ATTEMPT_TIMEOUT.as_secs();
            return Err(format!("there was no answer within {secs} s"));
        };
        let (answered, body) = sent?;
        // However that goes: what the receiver answered it has answered.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(body, ANSWER_LEN_MAX).collect()).await;
        Ok(answered)
    }
}

fn connect_by(reach: Reach, roots: RootCertStore) -> Result<Http, String> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("there is no TLS here: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new_with_resolver(Resolver(reach));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_MAX)
        .build(connector))
}

/// The certificates that this system trusts, and why it may lack some.
fn system_roots() -> (RootCertStore, String) {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let mut errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    if roots.is_empty() && errors.is_empty() {
        errors.push("there are none".to_owned());
    }
    (roots, errors.join("; "))
}

/// Why a request had no answer, without what was asked.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let is_connect = error.is_connect();
    let mut innermost: &(dyn StdError + 'static) = error;
    while let Some(source) = cause(innermost) {
        innermost = source;
    }
    if innermost.is::<NotPublic>() {
        return NOT_PUBLIC.to_owned();
    }
    let what = if is_connect { "cannot connect" } else { "no answer" };
    let text = format!("{what}: {innermost}");
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(REASON_CHARS_MAX).collect()
}

/// What is behind an error; of what an I/O error wraps it tells only what is behind that.
fn cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Finds the addresses of a name, and refuses them if any may not be connected to.
#[derive(Clone)]
struct Resolver(Reach);

#[derive(Debug, thiserror::Error)]
#[error("{NOT_PUBLIC}")]
struct NotPublic;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.iter().all(|address| reach.includes(address.ip())) {
                Ok(found.into_iter())
            } else {
                Err(io::Error::other(NotPublic))
            }
        })
    }
}
