//! Webhooks of the real binary: killed while it delivers, looked through for secrets, and by the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Method;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio_rustls::TlsAcceptor;

use crate::harness::{eventually, open_database};
use crate::process::{Finished, Process, Served, create_key, names_in, sessiond, text};
use crate::receiver::{Answer, Receiver, verify};

/// Attempts of one webhook that are under way at once.
const UNDER_WAY: usize = 4;

/// A command about `s.db` in `dir`, whose webhooks may lead to this machine.
fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = sessiond(dir, arguments.iter().copied().chain(["--database", "s.db"]));
    command.env("SESSIOND_WEBHOOKS__ALLOW_PRIVATE", "true");
    command
}

fn serve(dir: &Path) -> Served {
    Served::start(command(dir, &["serve", "--listen", "127.0.0.1:0"]))
}

/// Runs a command to its end, while the receiver goes on answering.
async fn run(dir: &Path, arguments: &[&str]) -> Finished {
    let process = Process::spawn(command(dir, arguments));
    let finished = tokio::task::spawn_blocking(|| process.finish()).await;
    finished.expect("it ends")
}

async fn make(server: &Served, key: &str, url: &str) -> (String, String) {
    let body = Some(json!({ "url": url }));
    let (status, made) = server.call(Method::POST, "/v1/webhooks", key, body).await;
    assert_eq!(status, 201, "{made}");
    (text(&made["webhook"]["id"]), text(&made["secret"]))
}

async fn pending_count(server: &Served, key: &str, id: &str) -> Value {
    let (_, webhook) = server.get(&format!("/v1/webhooks/{id}"), key).await;
    webhook["pending_count"].clone()
}

/// How often each message came.
#[derive(Default)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn note(&mut self, id: &str) {
        *self.0.entry(id.to_owned()).or_default() += 1;
    }

    fn repeated(&self) -> usize {
        self.0.values().map(|count| count - 1).sum()
    }
}

/// Starts sessions of as many users.
async fn sign_in(server: &Served, key: &str, who: &str, count: usize) {
    for number in 0..count {
        server
            .create(key, json!({ "user_id": format!("{who}-{number}") }))
            .await;
    }
}

async fn event_ids(server: &Served, key: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut path = "/v1/events?limit=200".to_owned();
    loop {
        let (status, page) = server.get(&path, key).await;
        assert_eq!(status, 200, "{page}");
        ids.extend(
            page["events"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|event| text(&event["id"])),
        );
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/events?limit=200&after={next}"),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn kill_loses_no_event_and_repeats_no_more_than_was_under_way() {
    const KILLS: usize = 8;
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let mut receiver = Receiver::start().await;
    let mut seen = Seen::default();
    let mut id = None;
    for life in 0..KILLS {
        let mut server = serve(dir.path());
        if id.is_none() {
            id = Some(make(&server, &key, &receiver.base).await.0);
        }
        sign_in(&server, &key, &format!("life-{life}"), 15).await;
        // Another number each time, so that the kill falls into other moments; now and then nothing is answered.
        for _ in 0..1 + life {
            seen.note(receiver.next().await.id());
        }
        if life % 3 == 2 {
            receiver.answer(|_| Answer::Never);
            seen.note(receiver.next().await.id());
        }
        server.process.kill();
        receiver
            .rest()
            .iter()
            .for_each(|received| seen.note(received.id()));
        receiver.answer(|_| Answer::Status(204));
    }
    let (server, id) = (serve(dir.path()), id.expect("it was made"));
    eventually("everything is delivered", || async {
        pending_count(&server, &key, &id).await == 0
    })
    .await;
    let events = event_ids(&server, &key).await;
    while seen.0.len() < events.len() {
        seen.note(receiver.next().await.id());
    }
    server.stop();
    receiver
        .rest()
        .iter()
        .for_each(|received| seen.note(received.id()));
    assert_eq!(seen.0.keys().cloned().collect::<BTreeSet<_>>(), events);
    assert!(events.len() >= KILLS * 15, "{}", events.len());
    assert!(
        seen.repeated() <= KILLS * UNDER_WAY,
        "{} were repeated",
        seen.repeated()
    );
}

#[tokio::test]
async fn no_signing_secret_is_in_any_file_or_log_or_metric() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let mut receiver = Receiver::start().await;
    let mut start = command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let configured = format!("whsec_{}", STANDARD.encode([0xa7; 48]));
    start
        .env("RUST_LOG", "trace")
        .env("SESSIOND_WEBHOOKS__BILLING__URL", &receiver.base)
        .env("SESSIOND_WEBHOOKS__BILLING__SECRET", &configured);
    let mut server = Served::start(start);
    let (id, first) = make(&server, &key, &receiver.base).await;
    server.create(&key, json!({ "user_id": "ada" })).await;
    let path = format!("/v1/webhooks/{id}/rotate-secret");
    let (_, rotated) = server.call(Method::POST, &path, &key, Some(json!({}))).await;
    let (status, _) = server
        .call(
            Method::POST,
            &format!("/v1/webhooks/{id}/test"),
            &key,
            Some(json!({})),
        )
        .await;
    assert_eq!(status, 200);
    server.create(&key, json!({ "user_id": "grace" })).await;
    // Two events for two webhooks, and the test.
    let signatures: Vec<String> = receiver
        .take(5)
        .await
        .iter()
        .map(|received| received.headers["webhook-signature"].clone())
        .collect();
    let (status, metrics) = server.get("/metrics", &key).await;
    assert_eq!((status, metrics), (200, Value::Null), "they are no JSON");
    let metrics = server.client.get(format!("{}/metrics", server.base)).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a text");
    assert!(metrics.contains("sessiond_webhook_deliveries_total"), "{metrics}");
    server.process.kill();
    let log = server.process.finish().stderr;
    assert!(log.contains(" TRACE "), "everything was logged");

    let is_in = |part: &[u8], place: &[u8]| place.windows(part.len()).any(|window| window == part);
    let log_file = std::fs::read(dir.path().join("s.db-wal")).expect("read");
    assert!(
        is_in(receiver.base.as_bytes(), &log_file),
        "what is looked for would be found"
    );
    for secret in [first, text(&rotated["secret"]), configured] {
        let bytes = STANDARD.decode(&secret[6..]).expect("base64");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let forms = [
            bytes.clone(),
            STANDARD_NO_PAD.encode(&bytes).into_bytes(),
            URL_SAFE_NO_PAD.encode(&bytes).into_bytes(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec(),
        ];
        let is_there = |place: &[u8]| forms.iter().any(|form| is_in(form, place));
        assert!(!is_there(log.as_bytes()), "the log has a secret");
        assert!(!is_there(metrics.as_bytes()), "the metrics have a secret");
        for name in names_in(dir.path())
            .iter()
            .filter(|name| !name.ends_with(".sock"))
        {
            let file = std::fs::read(dir.path().join(name)).expect("read");
            assert!(!is_there(&file), "{name} has a secret");
        }
    }
    assert!(
        signatures.iter().any(|signature| signature.contains(' ')),
        "both signed"
    );
}

#[tokio::test]
async fn printed_configuration_shows_no_secret() {
    let dir = tempdir().expect("a directory");
    let secret = format!("whsec_{}", STANDARD.encode([0xa7; 32]));
    let mut check = command(dir.path(), &["config", "check"]);
    check
        .env("SESSIOND_WEBHOOKS__BILLING__URL", "https://hooks.example.com/")
        .env("SESSIOND_WEBHOOKS__BILLING__SECRET", &secret);
    let finished = Process::spawn(check).finish();
    assert!(!finished.stderr.contains(&secret[6..]), "{finished:?}");
    let printed = finished.exited(0);
    assert!(printed.contains("[webhooks.billing]"), "{printed}");
    assert!(!printed.contains(&secret[6..]), "{printed}");
}

#[tokio::test]
async fn command_line_makes_looks_after_and_deletes_webhooks() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let mut receiver = Receiver::start().await;
    let server = serve(dir.path());
    let added = run(
        dir.path(),
        &[
            "webhooks",
            "add",
            &receiver.base,
            "--types",
            "session.created,session.revoked",
        ],
    )
    .await;
    assert!(added.stderr.contains("only now"), "{added:?}");
    let printed = added.exited(0);
    let secret = printed.strip_suffix('\n').expect("a line");
    let listed = run(dir.path(), &["webhooks", "list"]).await.exited(0);
    let line = listed.lines().nth(1).expect("a webhook");
    assert!(
        line.contains("active") && line.contains(&receiver.base),
        "{listed}"
    );
    let id = line.split_whitespace().next().expect("an id");

    let tested = run(dir.path(), &["webhooks", "test", id]).await.exited(0);
    assert!(tested.contains("status: 204"), "{tested}");
    assert_eq!(verify(secret, &receiver.next().await), Ok(()));
    server.create(&key, json!({ "user_id": "ada" })).await;
    let event = receiver.next().await.id().to_owned();
    eventually("it is delivered", || async {
        pending_count(&server, &key, id).await == 0
    })
    .await;
    let deliveries = run(
        dir.path(),
        &["webhooks", "deliveries", id, "--status", "delivered"],
    )
    .await
    .exited(0);
    assert!(
        deliveries.contains(&event) && deliveries.contains(" 204"),
        "{deliveries}"
    );
    run(dir.path(), &["webhooks", "replay", id, &event])
        .await
        .exited(0);
    assert_eq!(receiver.next().await.id(), event);
    let paused = run(dir.path(), &["webhooks", "pause", id]).await.exited(0);
    assert!(paused.contains("state: paused"), "{paused}");
    server.create(&key, json!({ "user_id": "grace" })).await;
    let rotated = run(dir.path(), &["webhooks", "rotate", id]).await.exited(0);
    let resumed = run(dir.path(), &["webhooks", "resume", id]).await.exited(0);
    assert!(
        resumed.contains("state: active") && resumed.contains("session.revoked"),
        "{resumed}"
    );
    let received = receiver.next().await;
    assert_eq!(received.user(), "grace");
    for secret in [secret, rotated.trim_end()] {
        assert_eq!(verify(secret, &received), Ok(()));
    }
    let replayed = run(dir.path(), &["webhooks", "replay", id, "--after", &event]).await;
    assert!(
        replayed.stderr.contains("1 deliveries are due now"),
        "{replayed:?}"
    );
    assert_eq!(receiver.next().await.id(), received.id());
    receiver.answer(|_| Answer::Status(500));
    run(dir.path(), &["webhooks", "test", id])
        .await
        .failed(1, &["was not taken"]);
    run(dir.path(), &["webhooks", "delete", id]).await.exited(0);
    run(dir.path(), &["webhooks", "show", id])
        .await
        .failed(1, &["webhook"]);
    server.stop();
}

#[tokio::test]
async fn command_line_works_on_webhooks_without_a_server() {
    let dir = tempdir().expect("a directory");
    create_key(dir.path());
    let url = "https://hooks.example.com/events";
    run(
        dir.path(),
        &["webhooks", "add", url, "--description", "for the shop"],
    )
    .await
    .exited(0);
    let listed = run(dir.path(), &["webhooks", "list"]).await.exited(0);
    assert!(listed.contains(url), "{listed}");
    let database = open_database(&dir.path().join("s.db"));
    let count: i64 = database
        .query_row("SELECT count(*) FROM webhooks", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(count, 1);
    run(dir.path(), &["webhooks", "add", "ftp://hooks.example.com/"])
        .await
        .failed(1, &["url must be an https or http URL"]);
}

/// A certificate for localhost, and in PEM the authority that signed it.
fn certificate() -> (TlsAcceptor, String) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).expect("signed").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = leaf.signed_by(&key, &issuer).expect("signed");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    (TlsAcceptor::from(Arc::new(config)), authority_pem)
}

#[tokio::test]
async fn https_is_spoken_with_receivers_whose_certificate_the_system_trusts_and_no_others() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let (acceptor, authority) = certificate();
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, authority).expect("written");
    let mut receiver = Receiver::by_tls(acceptor).await;
    let by_name = receiver.base.replace("127.0.0.1", "localhost");
    let mut start = command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    start.env("SSL_CERT_FILE", &trusted);
    let server = Served::start(start);
    let test = async |server: &Served, id: &str| -> Value {
        let path = format!("/v1/webhooks/{id}/test");
        let (status, tested) = server.call(Method::POST, &path, &key, Some(json!({}))).await;
        assert_eq!(status, 200, "{tested}");
        tested
    };
    let (id, secret) = make(&server, &key, &by_name).await;
    let tested = test(&server, &id).await;
    assert_eq!((&tested["status"], &tested["error"]), (&json!(204), &Value::Null));
    assert_eq!(verify(&secret, &receiver.next().await), Ok(()));
    let (other_id, _) = make(&server, &key, &receiver.base).await;
    let tested = test(&server, &other_id).await;
    assert_eq!(
        tested["status"],
        Value::Null,
        "a certificate for another name: {tested}"
    );
    server.stop();

    let mut start = command(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let (_, other_authority) = certificate();
    std::fs::write(&trusted, other_authority).expect("written");
    start.env("SSL_CERT_FILE", &trusted);
    let server = Served::start(start);
    let tested = test(&server, &id).await;
    let error = tested["error"].as_str().expect("a reason");
    assert!(
        error.starts_with("cannot connect") && error.contains("certificate"),
        "{tested}"
    );
    assert_eq!(receiver.rest().len(), 0);
    server.stop();
}

#[tokio::test]
async fn webhooks_of_a_developer_lead_to_their_own_machine() {
    let dir = tempdir().expect("a directory");
    let mut receiver = Receiver::start().await;
    let mut dev = Served::dev(dir.path());
    let line = dev.process.stdout.until("export KEY=");
    let (_, key) = line.trim_end().split_once('=').expect("a key");
    let (id, _) = make(&dev, key, &receiver.base.replace("127.0.0.1", "localhost")).await;
    let path = format!("/v1/webhooks/{id}/test");
    let (_, tested) = dev.call(Method::POST, &path, key, Some(json!({}))).await;
    assert_eq!(tested["status"], 204, "{tested}");
    assert_eq!(receiver.next().await.kind(), "webhook.test");
}
