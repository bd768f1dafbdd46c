//! HTTPS: served with a certificate of one's own, which is read again when the server is told to.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};
use sessiond::config::{Config, TlsConfig};
use sessiond::session::AppName;
use tempfile::{TempDir, tempdir};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::TestServer;
use crate::process::{Process, Served, create_key, run, sessiond};
use crate::wire::{RawAnswer, Wire};

const CERTIFICATE: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";
/// How long one may take, by docs/OPERATIONS.md.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HSTS: &str = "\nstrict-transport-security: max-age=31536000\n";
const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Somebody who signs certificates by one in between, as those on the web do; and whoever trusts them.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate in between, which a server has to send.
    between: String,
    roots: Arc<RootCertStore>,
}

impl Authority {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().expect("a key"))
        };
        let (root, root_key) = authority("root");
        let (between, between_key) = authority("between");
        let mut roots = RootCertStore::empty();
        let root_certificate = root.self_signed(&root_key).expect("signed");
        roots.add(root_certificate.der().clone()).expect("an authority");
        let root = Issuer::new(root, root_key);
        Self {
            between: between.signed_by(&between_key, &root).expect("signed").pem(),
            issuer: Issuer::new(between, between_key),
            roots: Arc::new(roots),
        }
    }

    /// Puts a new certificate for localhost into a folder, with its key; answers the certificate.
    fn renew(&self, dir: &Path) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let chain = certificate.pem() + &self.between;
        std::fs::write(dir.join(CERTIFICATE), chain).expect("written");
        write_key(dir, &key.serialize_pem());
        certificate.der().clone()
    }

    async fn connect(&self, address: &str) -> TlsStream<TcpStream> {
        self.connect_by(address, &version::TLS13, b"http/1.1")
            .await
            .expect("a connection")
    }

    async fn connect_by(
        &self,
        address: &str,
        version: &'static SupportedProtocolVersion,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(address).await.expect("a connection");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn write_key(dir: &Path, text: &str) {
    // A new file, as the old one may be read-only.
    let path = dir.join(KEY);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
}

fn files_in(dir: &Path) -> TlsConfig {
    TlsConfig {
        certificate: dir.join(CERTIFICATE),
        key: dir.join(KEY),
    }
}

/// What a server showed: its own certificate.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().expect("certificates");
    chain[0].clone().into_owned()
}

async fn ask(stream: TlsStream<TcpStream>, request: &[u8]) -> RawAnswer {
    let mut wire = Wire::over(stream);
    wire.send(request).await;
    wire.answer().await.expect("an answer")
}

/// A server with a certificate.
struct Scene {
    server: TestServer,
    authority: Authority,
    _files: TempDir,
}

impl Scene {
    async fn set() -> Self {
        Self::set_with(|_| {}).await
    }

    async fn set_with(change: impl FnOnce(&mut Config)) -> Self {
        let (files, authority) = (tempdir().expect("a directory"), Authority::new());
        authority.renew(files.path());
        let server = TestServer::start_with(|config| {
            config.server.tls = Some(files_in(files.path()));
            change(config);
        })
        .await;
        Self {
            server,
            authority,
            _files: files,
        }
    }

    fn address(&self) -> &str {
        let authority = self.server.base.strip_prefix("https://").expect("a URL");
        authority.split('/').next().expect("an authority")
    }

    async fn open(&self) -> Wire {
        Wire::over(self.authority.connect(self.address()).await)
    }

    async fn ask(&self, request: &str) -> RawAnswer {
        ask(self.authority.connect(self.address()).await, request.as_bytes()).await
    }
}

#[tokio::test]
async fn sessions_are_served_by_tls_as_without_it() {
    let scene = Scene::set_with(|config| config.server.base_path = "/auth".into()).await;
    let (key, mut wire) = (&scene.server.key, scene.open().await);
    let body = r#"{"user_id":"ada"}"#;
    let create = format!(
        "POST /auth/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );

    wire.send(create.as_bytes()).await;
    let created = wire.answer().await.expect("an answer");

    assert_eq!(created.status, 201, "{}", created.body);
    let created: serde_json::Value = serde_json::from_str(&created.body).expect("JSON");
    let token = created["token"].as_str().expect("a token");
    let cookie = created["set_cookie"].as_str().expect("a cookie");
    assert!(cookie.contains("; Secure"), "{cookie}");
    let check = format!("GET /auth/v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    wire.send(check.as_bytes()).await;
    let checked = wire.answer().await.expect("an answer on the same connection");
    assert_eq!(checked.status, 200, "{}", checked.body);
    let whoami = scene.ask("GET /auth/v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(whoami.body.contains("127.0.0.1"), "the peer: {}", whoami.body);
    let metrics = scene.ask("GET /auth/metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(metrics.status, 200, "{}", metrics.body);
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_only_http_1_1_over_them() {
    let scene = Scene::set().await;
    let versions = [
        (&version::TLS12, ProtocolVersion::TLSv1_2),
        (&version::TLS13, ProtocolVersion::TLSv1_3),
    ];
    for (version, expected) in versions {
        let connect = |protocol| scene.authority.connect_by(scene.address(), version, protocol);
        let stream = connect(b"http/1.1").await.expect("a connection");
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
        assert_eq!(ask(stream, HEALTH).await.status, 200, "{expected:?}");
        assert!(connect(b"h2").await.is_err(), "{expected:?}");
    }
}

#[tokio::test]
async fn live_stream_by_tls_tells_what_happens() {
    let scene = Scene::set().await;
    let mut wire = scene.open().await;
    let key = &scene.server.key;
    let follow = format!(
        "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nAccept: text/event-stream\r\n\r\n"
    );
    wire.send(follow.as_bytes()).await;
    let head = wire.answer().await.expect("a head");
    assert_eq!(head.status, 200, "{}", head.head);
    let body = r#"{"user_id":"ada"}"#;
    let create = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(scene.ask(&create).await.status, 201);
    wire.until("session.created").await;
}

#[tokio::test]
async fn every_answer_by_tls_says_to_come_by_tls() {
    let scene = Scene::set().await;
    let requests = [
        ("GET /healthz", 200),
        ("HEAD /healthz", 200),
        ("GET /", 200),
        ("GET /nowhere", 404),
        ("PUT /v1/session", 405),
        ("GET /v1/session", 401),
    ];
    for (request, status) in requests {
        let answer = scene
            .ask(&format!(
                "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status, status, "{request}");
        assert!(answer.head.contains(HSTS), "{request}: {}", answer.head);
    }
}

#[tokio::test]
async fn no_answer_without_tls_says_to_come_by_it() {
    let by_tls = Scene::set().await;
    let plain = TestServer::start().await;
    for mut wire in [
        Wire::open(&plain).await,
        Wire::open_operator(&by_tls.server).await,
    ] {
        wire.send(HEALTH).await;
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert!(
            !answer.head.contains("strict-transport-security"),
            "{}",
            answer.head
        );
    }
}

#[tokio::test]
async fn plain_http_to_a_server_with_tls_is_hung_up_on() {
    let scene = Scene::set().await;
    let mut wire = Wire::over(TcpStream::connect(scene.address()).await.expect("a connection"));
    wire.send(HEALTH).await;
    // What comes is an alert of TLS.
    assert!(!wire.rest().await.starts_with(b"HTTP"));
}

#[tokio::test]
async fn page_that_came_without_tls_is_no_page_of_a_server_with_tls() {
    let scene = Scene::set_with(|config| {
        let app = config.apps.get_mut(&AppName::default_app()).expect("an app");
        app.anonymous = true;
    })
    .await;
    for (scheme, status) in [("http", 403), ("https", 201)] {
        let visit = format!(
            "POST /v1/me/session HTTP/1.1\r\nHost: x\r\nOrigin: {scheme}://x\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = scene.ask(&visit).await;
        assert_eq!(answer.status, status, "{scheme}: {}", answer.body);
    }
}

#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_out_and_are_hung_up_on() {
    let scene = Scene::set().await;
    let mut silent = Vec::new();
    // More than actix would do at the same time by itself.
    for _ in 0..300 {
        let stream = TcpStream::connect(scene.address()).await.expect("a connection");
        silent.push(Wire::over(stream));
    }
    // The first bytes of a greeting.
    silent[0].send(&[22, 3, 1]).await;

    let answer = scene.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;

    assert_eq!(answer.status, 200);
    for mut wire in silent {
        assert!(!wire.rest().await.starts_with(b"HTTP"), "it ends");
    }
}

#[tokio::test]
async fn handshake_that_somebody_leaves_open_delays_no_stop() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    authority.renew(dir.path());
    let server = serve(dir.path());
    let _silent = TcpStream::connect(server.address()).await.expect("a connection");
    // One worker, which takes connections as they come: the silent one is taken when this one is served.
    let served = authority.connect(server.address()).await;
    assert_eq!(ask(served, HEALTH).await.status, 200);
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < HANDSHAKE_TIMEOUT / 2, "{:?}", began.elapsed());
}

/// The binary with the files in `dir`, waited for until it serves.
fn serve(dir: &Path) -> Served {
    Served::start(command(dir))
}

fn command(dir: &Path) -> std::process::Command {
    let mut command = sessiond(dir, ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"]);
    command.env("SESSIOND_SERVER__TLS_CERTIFICATE", CERTIFICATE);
    command.env("SESSIOND_SERVER__TLS_KEY", KEY);
    command.env("SESSIOND_SERVER__WORKERS", "1");
    command
}

#[tokio::test]
async fn renewed_certificate_is_for_new_connections_and_old_ones_go_on() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    let before = authority.renew(dir.path());
    let mut server = serve(dir.path());
    let old = authority.connect(server.address()).await;
    assert_eq!(shown(&old), before);
    let mut old = Wire::over(old);
    old.send(HEALTH).await;
    assert_eq!(old.answer().await.expect("an answer").status, 200);

    let after = authority.renew(dir.path());
    server.process.signal("HUP");
    server.process.stderr.until("new connections get what is in");

    assert_ne!(before, after);
    let new = authority.connect(server.address()).await;
    assert_eq!(shown(&new), after);
    assert_eq!(ask(new, HEALTH).await.status, 200);
    old.send(HEALTH).await;
    assert_eq!(old.answer().await.expect("an answer").status, 200);
    server.stop();
}

#[tokio::test]
async fn renewal_that_went_wrong_leaves_the_certificate_that_was_there() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    let certificate = authority.renew(dir.path());
    let good = std::fs::read(dir.path().join(CERTIFICATE)).expect("there");
    let mut server = serve(dir.path());
    let path = dir.path().join(CERTIFICATE);
    let mistakes: [(&[u8], &str); 3] = [
        (b"", "has no certificate in it"),
        (&good[..good.len() - 40], "is damaged"),
        (authority.between.as_bytes(), "does not belong to"),
    ];
    for (bytes, why) in mistakes {
        std::fs::write(&path, bytes).expect("written");
        server.process.signal("HUP");
        let line = server.process.stderr.until("SIGHUP");
        assert!(
            line.contains("ERROR") && line.contains(why) && line.contains("from before"),
            "{why}: {line}"
        );
        let stream = authority.connect(server.address()).await;
        assert_eq!(shown(&stream), certificate, "{why}");
    }
    let renewed = authority.renew(dir.path());
    server.process.signal("HUP");
    server.process.stderr.until("new connections get what is in");
    let stream = authority.connect(server.address()).await;
    assert_eq!(shown(&stream), renewed, "it was not given up");
    server.stop();
}

#[tokio::test]
async fn hangup_without_a_certificate_leaves_the_server_running() {
    let dir = tempdir().expect("a directory");
    let mut server = Served::serve(dir.path());
    server.process.signal("HUP");
    server.process.stderr.until("there is no certificate");
    assert_eq!(server.get("/healthz", "x").await.0, 200);
    server.stop();
}

/// Starts a server that cannot: what it says, having made no database.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    Process::spawn(command(dir)).finish().failed(1, words);
    assert!(!dir.join("s.db").exists(), "{words:?}");
}

#[test]
fn certificate_that_cannot_be_used_is_told_at_the_start_with_its_file() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    let dir = dir.path();
    let path = dir.join(CERTIFICATE);
    refused(dir, &["cannot read fullchain.pem for TLS", "No such file"]);
    authority.renew(dir);
    let good = std::fs::read_to_string(&path).expect("there");
    let key = std::fs::read_to_string(dir.join(KEY)).expect("there");
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (
            key.as_str(),
            ["fullchain.pem has no certificate in it", "BEGIN CERTIFICATE"],
        ),
        ("words", ["fullchain.pem has no certificate in it", ""]),
        (&good[..good.len() - 40], ["fullchain.pem is damaged", ""]),
        (
            no_certificate,
            ["cannot use the first certificate in fullchain.pem", ""],
        ),
        (
            &authority.between,
            [
                "the key in privkey.pem does not belong",
                "certificate in fullchain.pem",
            ],
        ),
        (
            &"x".repeat(1024 * 1024 + 1),
            ["fullchain.pem is longer than 1048576 bytes", ""],
        ),
    ];
    for (text, words) in cases {
        std::fs::write(&path, text).expect("written");
        refused(dir, &words);
    }
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("made");
    refused(dir, &["fullchain.pem is not a regular file"]);
}

#[test]
fn key_that_cannot_be_used_is_told_at_the_start_with_its_file_and_not_shown() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    let dir = dir.path();
    authority.renew(dir);
    let good = std::fs::read_to_string(dir.join(KEY)).expect("there");
    let certificate = std::fs::read_to_string(dir.join(CERTIFICATE)).expect("there");
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let encrypted = good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let damaged = good.replacen('M', "!", 1);
    let cases = [
        (&certificate, "privkey.pem has no private key in it"),
        (&encrypted, "privkey.pem has no private key in it"),
        (&damaged, "privkey.pem is damaged"),
        (&other, "the key in privkey.pem does not belong to"),
        (
            &"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            "cannot use the TLS key in privkey.pem",
        ),
    ];
    for (text, part) in cases {
        write_key(dir, text);
        let finished = Process::spawn(command(dir)).finish();
        let secret = text.lines().nth(1).expect("a second line");
        assert!(!finished.stderr.contains(secret), "{finished:?}");
        finished.failed(1, &[part]);
    }
    std::fs::remove_file(dir.join(KEY)).expect("removed");
    refused(dir, &["cannot read privkey.pem for TLS", "No such file"]);
}

#[test]
fn key_that_is_open_to_everyone_is_refused_and_a_group_may_read_it() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    authority.renew(dir.path());
    let set = |mode| {
        let path = dir.path().join(KEY);
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    };
    for mode in [0o644, 0o604, 0o660, 0o601] {
        set(mode);
        refused(dir.path(), &["privkey.pem", &format!("mode {mode:04o}"), "chmod"]);
    }
    set(0o440);
    serve(dir.path()).stop();
}

#[test]
fn start_that_serves_others_without_tls_is_warned_of() {
    let (dir, authority) = (tempdir().expect("a directory"), Authority::new());
    authority.renew(dir.path());
    let said = |mut command: std::process::Command, listen: &str| {
        command.env("SESSIOND_SERVER__LISTEN", listen);
        Served::start(command).stop().stderr
    };
    let plain = || sessiond(dir.path(), ["serve", "--database", "s.db"]);
    let by_tls = || {
        let mut by_tls = plain();
        by_tls.env("SESSIOND_SERVER__TLS_CERTIFICATE", CERTIFICATE);
        by_tls.env("SESSIOND_SERVER__TLS_KEY", KEY);
        by_tls
    };
    let warning = "can be reached from other machines";
    let log = said(plain(), "0.0.0.0:0");
    let line = log.lines().find(|line| line.contains(warning)).expect("warned");
    assert!(
        line.contains("WARN") && line.contains("tls_certificate"),
        "{line}"
    );
    for log in [
        said(plain(), "127.0.0.1:0"),
        said(by_tls(), "0.0.0.0:0"),
        said(by_tls(), "127.0.0.1:0"),
    ] {
        assert!(!log.contains(warning), "{log}");
    }
}

#[tokio::test]
async fn commands_need_no_certificate_and_dev_serves_http() {
    let dir = tempdir().expect("a directory");
    create_key(dir.path());
    let with_missing_files = |arguments: &[&str]| {
        let mut command = sessiond(dir.path(), arguments);
        command.env("SESSIOND_SERVER__TLS_CERTIFICATE", "missing.pem");
        command.env("SESSIOND_SERVER__TLS_KEY", "missing.pem");
        command
    };
    let list = with_missing_files(&["keys", "list", "--database", "s.db"]);
    assert!(Process::spawn(list).finish().exited(0).contains("test"));
    let dev = Served::start(with_missing_files(&["dev", "--listen", "127.0.0.1:0"]));
    assert_eq!(dev.get("/healthz", "x").await.0, 200);
    dev.stop();
}

#[test]
fn certificate_and_key_are_given_together() {
    let dir = tempdir().expect("a directory");
    for (given, missing) in [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")] {
        let file = dir.path().join("config.toml");
        std::fs::write(&file, format!("[server]\n{given} = \"a.pem\"\n")).expect("written");
        let finished = run(dir.path(), ["config", "check", "--config", "config.toml"]);
        let told = format!("config.toml:2: [server] {given}: must be given together with {missing}");
        finished.failed(2, &[&told]);
    }
}
