//! Connections of those who mean no good: requests that hide others, heads without end, clients that dribble or never read,
//! and more connections than there is room for. What cannot be parsed at all is in `bad_input`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use sessiond::session::AppName;
use tempfile::tempdir;

use crate::harness::{PATIENCE, SignedIn, TestServer};
use crate::process::{Served, create_key, run, sessiond};
use crate::support::add_app;
use crate::wire::Wire;

const GET: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
/// What ends a body in chunks.
const END: &str = "0\r\n\r\n";

/// Asks the operator socket for an app's live stream.
fn follow(app: &str) -> String {
    format!("GET /v1/events?app={app} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
}

/// A server with a session that must survive.
struct Scene {
    server: TestServer,
    ada: SignedIn,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let ada = server.sign_in("ada").await;
        Self { server, ada }
    }

    /// A head that a body belongs to, up to the lines that tell its length.
    fn post(&self) -> String {
        format!(
            "POST /v1/sessions/check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n",
            self.server.key
        )
    }

    /// A request that ends the session, if it is taken for one.
    fn hidden(&self) -> String {
        format!(
            "DELETE /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            self.ada.token
        )
    }

    /// Sends this, and a request after it with which the connection ends. The statuses that were answered.
    async fn statuses(&self, bytes: &[u8]) -> Vec<u16> {
        let mut wire = Wire::open(&self.server).await;
        wire.send(bytes).await;
        wire.send(format!("{GET}Connection: close\r\n\r\n").as_bytes())
            .await;
        let text = String::from_utf8(wire.rest().await).expect("text");
        let answers = text.split("HTTP/1.1 ").skip(1);
        answers
            .map(|answer| answer[..3].parse().expect("a status"))
            .collect()
    }
}

#[tokio::test]
async fn request_whose_end_can_be_read_in_two_ways_is_refused_with_all_that_follows_it() {
    let scene = Scene::set().await;
    let (post, hidden) = (scene.post(), scene.hidden());
    let len = END.len() + hidden.len();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let lengths = |lines: &str| format!("{post}{lines}\r\n{{}}{hidden}");
    let codings = |lines: &str| format!("{post}{lines}\r\n{END}{hidden}");
    let chunks = |chunks: &str| format!("{post}{chunked}\r\n{chunks}{hidden}");
    let cases = [
        (
            "length, chunks",
            codings(&format!("Content-Length: {len}\r\n{chunked}")),
        ),
        (
            "chunks, length",
            codings(&format!("{chunked}Content-Length: {len}\r\n")),
        ),
        (
            "chunks, no length",
            codings(&format!("{chunked}Content-Length: 0\r\n")),
        ),
        (
            "length twice",
            lengths("Content-Length: 2\r\nContent-Length: 2\r\n"),
        ),
        (
            "two lengths",
            lengths("Content-Length: 2\r\nContent-Length: 200\r\n"),
        ),
        (
            "none and a length",
            lengths("Content-Length: 0\r\nContent-Length: 2\r\n"),
        ),
        ("list of lengths", lengths("Content-Length: 2, 2\r\n")),
        ("length in base 16", lengths("Content-Length: 0x2\r\n")),
        ("length in groups", lengths("Content-Length: 0_2\r\n")),
        ("empty length", lengths("Content-Length: \r\n")),
        ("xchunked", codings("Transfer-Encoding: xchunked\r\n")),
        ("two codings", codings("Transfer-Encoding: chunked, identity\r\n")),
        (
            "codings turned",
            codings("Transfer-Encoding: identity, chunked\r\n"),
        ),
        (
            "chunked twice",
            codings("Transfer-Encoding: chunked, chunked\r\n"),
        ),
        ("coding twice", codings(&format!("{chunked}{chunked}"))),
        (
            "coding and none",
            codings(&format!("{chunked}Transfer-Encoding: identity\r\n")),
        ),
        ("no coding", codings("Transfer-Encoding: identity\r\n")),
        ("empty coding", codings("Transfer-Encoding:\r\n")),
        (
            "coding with parameter",
            codings("Transfer-Encoding: chunked;q=1\r\n"),
        ),
        (
            "coding after a tabulator",
            codings("Transfer-Encoding: \x0bchunked\r\n"),
        ),
        ("coding with a zero", codings("Transfer-Encoding: chunked\0\r\n")),
        ("folded coding", codings("Transfer-Encoding:\r\n chunked\r\n")),
        (
            "coding as a folded line",
            codings("X: a\r\n Transfer-Encoding: chunked\r\n"),
        ),
        (
            "space before the colon",
            codings("Transfer-Encoding : chunked\r\n"),
        ),
        ("tabulator before it", codings("Transfer-Encoding\t: chunked\r\n")),
        (
            "coding after a lone CR",
            codings("X: a\rTransfer-Encoding: chunked\r\n"),
        ),
        ("zero in a name", codings("Transfer\0-Encoding: chunked\r\n")),
        (
            "coding of HTTP/1.0",
            codings(chunked).replacen("HTTP/1.1", "HTTP/1.0", 1),
        ),
        ("chunk beyond all", chunks("10000000000000002\r\n{}\r\n0\r\n\r\n")),
        ("signed chunk", chunks("+2\r\n{}\r\n0\r\n\r\n")),
        ("negative chunk", chunks("-2\r\n{}\r\n0\r\n\r\n")),
        ("chunk with a prefix", chunks("0x2\r\n{}\r\n0\r\n\r\n")),
        ("lines of chunks that end in LF", chunks("2\n{}\n0\n\n")),
        ("extension that ends in LF", chunks("2;a\n{}\r\n0\r\n\r\n")),
        ("chunk longer than it says", chunks("2\r\n{}xx\r\n0\r\n\r\n")),
        ("two hosts", format!("{GET}Host: y\r\n\r\n{hidden}")),
        (
            "folded host",
            format!("GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n{hidden}"),
        ),
        (
            "zero in the path",
            format!("GET /heal\0thz HTTP/1.1\r\nHost: x\r\n\r\n{hidden}"),
        ),
        (
            "lines that end in CR",
            format!("GET /healthz HTTP/1.1\rHost: x\r\r{hidden}"),
        ),
        ("HTTP/0.9", format!("GET /healthz\r\n{hidden}")),
        ("HTTP/2", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}")),
        (
            "body before a WebSocket",
            lengths("Upgrade: websocket\r\nContent-Length: 2\r\n"),
        ),
    ];
    for (case, request) in cases {
        assert_eq!(scene.statuses(request.as_bytes()).await, [400], "{case}");
        assert_eq!(scene.server.check(&scene.ada.token).await.status, 200, "{case}");
    }
}

#[tokio::test]
async fn what_belongs_to_a_request_is_not_taken_for_the_next() {
    let scene = Scene::set().await;
    let (post, hidden) = (scene.post(), scene.hidden());
    let (len, in_hex) = (hidden.len(), format!("{:x}", hidden.len()));
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    let cases = [
        (
            "a body",
            format!("{post}Content-Length: {len}\r\n\r\n{hidden}"),
            [400, 200].as_slice(),
        ),
        (
            "a body after zeros",
            format!("{post}Content-Length: 000{len}\r\n\r\n{hidden}"),
            &[400, 200],
        ),
        (
            "a chunk",
            format!("{chunked}{in_hex}\r\n{hidden}\r\n{END}"),
            &[400, 200],
        ),
        (
            "an extension",
            format!("{chunked}2;a=\"{hidden}\"\r\n{{}}\r\n{END}"),
            &[400],
        ),
        (
            "a trailer",
            format!("{chunked}2\r\n{{}}\r\n0\r\nX: {hidden}"),
            &[422, 200],
        ),
        (
            "CHUNKED",
            format!("{post}Transfer-Encoding: CHUNKED\r\n\r\n{in_hex}\r\n{hidden}\r\n{END}"),
            &[400, 200],
        ),
        // A lone LF may end a line (RFC 9112, section 2.2), so that this has a coding.
        (
            "a chunk after a lone LF",
            format!("{post}X: a\nTransfer-Encoding: chunked\r\n\r\n{in_hex}\r\n{hidden}\r\n{END}"),
            &[400, 200],
        ),
        // What follows these is no request any more, and nobody reads it.
        (
            "a WebSocket",
            format!("{GET}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n{hidden}"),
            &[200],
        ),
        (
            "a tunnel",
            format!("CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n{hidden}"),
            &[404],
        ),
    ];
    for (case, request, statuses) in cases {
        assert_eq!(scene.statuses(request.as_bytes()).await, statuses, "{case}");
        assert_eq!(scene.server.check(&scene.ada.token).await.status, 200, "{case}");
    }
}

#[tokio::test]
async fn whole_url_says_which_app_a_request_is_for_and_not_the_host_beside_it() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        let shop = AppName::parse("shop").expect("a name");
        let shop = config.apps.get_mut(&shop).expect("an app");
        shop.hosts = vec!["shop.example".to_owned()];
    })
    .await;
    let ada = server.sign_in("ada").await;
    let cases = [
        ("/v1/session", "x", 200),
        ("/v1/session", "shop.example", 401),
        ("http://x/v1/session", "shop.example", 200),
        ("http://shop.example/v1/session", "x", 401),
        ("http://SHOP.example:80/v1/session", "x", 401),
    ];
    for (target, host, status) in cases {
        let mut wire = Wire::open(&server).await;
        let token = &ada.token;
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
        wire.send(head.as_bytes()).await;
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, status, "{target} at {host}: {}", answer.body);
    }
}

#[tokio::test]
async fn head_with_a_header_of_64_kib_is_read_and_one_of_many_small_ones_is_not() {
    let scene = Scene::set().await;
    let hidden = scene.hidden();
    let one = format!("{GET}X: {}\r\n\r\n", "a".repeat(64 * 1024));
    assert_eq!(scene.statuses(one.as_bytes()).await, [200, 200]);
    for count in [100, 64 * 1024 / "X: a\r\n".len()] {
        let many = format!("{GET}{}\r\n{hidden}", "X: a\r\n".repeat(count));
        assert_eq!(scene.statuses(many.as_bytes()).await, [431], "{count}");
    }
    assert_eq!(scene.server.check(&scene.ada.token).await.status, 200);
}

/// Sends a byte whenever the server has said nothing for a while; answers what it said until it hung up.
async fn dribble(mut wire: Wire) -> String {
    let bytes = loop {
        let said = wire.rest_within(Duration::from_millis(500)).await;
        match said {
            Some(bytes) => break bytes,
            None => wire.send(b"a").await,
        }
    };
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn client_that_dribbles_is_hung_up_on_whatever_it_dribbles() {
    let scene = Scene::set().await;
    let body = format!("{}Content-Length: 60000\r\n\r\n", scene.post());
    let chunks = format!("{}Transfer-Encoding: chunked\r\n\r\nea60\r\n", scene.post());
    let extension = format!("{}Transfer-Encoding: chunked\r\n\r\n2;", scene.post());
    let cases = [
        ("the first head", GET.to_owned(), ["408"].as_slice()),
        ("a further head", format!("{GET}\r\n{GET}"), &["200"]),
        ("a body", body, &["408"]),
        ("a body in chunks", chunks, &["408"]),
        ("an extension", extension, &["408"]),
    ];
    let dribbled = cases.map(|(case, begin, statuses)| {
        let wire = Wire::open(&scene.server);
        async move {
            let mut wire = wire.await;
            wire.send(begin.as_bytes()).await;
            let said = tokio::time::timeout(2 * PATIENCE, dribble(wire)).await;
            let said = said.unwrap_or_else(|_| panic!("{case}: it may go on for ever"));
            let answered: Vec<&str> = said.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
            assert_eq!(answered, statuses, "{case}: {said}");
        }
    });
    // At the same time: each takes as long as a head may.
    futures_util::future::join_all(dribbled).await;
}

#[tokio::test]
async fn answer_has_a_body_if_its_own_request_wants_one_whatever_follows() {
    let scene = Scene::set().await;
    // What waits for the database is not there when the next request is.
    let cases = [
        ("GET /readyz", "HEAD /healthz", true),
        ("HEAD /readyz", "GET /healthz", false),
    ];
    for (first, second, has_body) in cases {
        let mut wire = Wire::open(&scene.server).await;
        let both = format!(
            "{first} HTTP/1.1\r\nHost: x\r\n\r\n{second} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        wire.send(both.as_bytes()).await;
        let said = String::from_utf8(wire.rest().await).expect("text");
        let answers: Vec<&str> = said.split("HTTP/1.1 200 ").skip(1).collect();
        let has_bodies: Vec<bool> = answers
            .iter()
            .map(|answer| !answer.ends_with("\r\n\r\n"))
            .collect();
        assert_eq!(has_bodies, [has_body, !has_body], "{first}, {second}: {said}");
    }
}

#[tokio::test]
async fn client_that_sends_far_ahead_while_it_follows_events_is_told_of_them_and_answered_afterwards() {
    let scene = Scene::set().await;
    let mut wire = Wire::open(&scene.server).await;
    let token = &scene.ada.token;
    let follow = format!(
        "GET /v1/me/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    wire.send(follow.as_bytes()).await;
    let head = wire.answer().await.expect("a head");
    assert_eq!(head.status, 200, "{}", head.head);
    let count = 32 * 1024 / GET.len();
    let ahead = format!("{GET}\r\n").repeat(count);

    wire.send(format!("{ahead}{GET}Connection: close\r\n\r\n").as_bytes())
        .await;

    scene.server.sign_in("ada").await;
    wire.until("session.created").await;
    let signed_out = scene.server.delete("/v1/session").bearer(token).send().await;
    assert_eq!(signed_out.status, 204, "{}", signed_out.text);
    let said = String::from_utf8(wire.rest().await).expect("text");
    assert_eq!(said.matches("HTTP/1.1 200").count(), count + 1);
}

/// Sends so many bytes of what is repeated, or what the server takes of them.
fn send_ahead(stream: &mut TcpStream, request: &str, len_max: usize) -> usize {
    let bytes = request.repeat((64 * 1024 / request.len()).max(1));
    stream.set_nonblocking(true).expect("set");
    let mut sent = 0;
    while sent < len_max {
        // Always whole requests but for the last piece.
        match stream.write(&bytes.as_bytes()[sent % bytes.len()..]) {
            Ok(len) => sent += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).expect("set");
    sent
}

#[tokio::test]
async fn requests_that_are_sent_ahead_of_answers_that_nobody_reads_take_no_memory() {
    const MIB: u64 = 1024 * 1024;
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let (_, token) = server.create(&key, serde_json::json!({ "user_id": "ada" })).await;
    let head = format!("HEAD /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    assert_served(&mut connect(&server, format!("{GET}\r\n").as_bytes()));
    let before = server.process.resident();
    let answered = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(12);
    let cases = [
        (
            "after answers",
            answered.as_str(),
            "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            128 * 1024,
        ),
        ("without answers' bodies", "", head.as_str(), 64 * 1024 * 1024),
    ];
    for (case, first, ahead, len_max) in cases {
        let mut open: Vec<TcpStream> = (0..20).map(|_| connect(&server, first.as_bytes())).collect();
        // In turns, so that the server takes what it would take.
        for round in 0.. {
            let sent: usize = open
                .iter_mut()
                .map(|stream| send_ahead(stream, ahead, len_max))
                .sum();
            assert_served(&mut connect(&server, format!("{GET}\r\n").as_bytes()));
            if sent == 0 || round == 10 {
                break;
            }
        }
        let grown = server.process.resident().saturating_sub(before);
        assert!(grown < 32 * MIB, "{case}: {} MiB", grown / MIB);
    }
    server.stop();
}

/// How many connections the tests below open: some, or what the environment says.
fn connections() -> usize {
    let count = std::env::var("SESSIOND_CONNECTIONS").ok();
    count.map_or(300, |count| count.parse().expect("a number"))
}

fn connect(server: &Served, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(bytes).expect("sent");
    stream
}

#[track_caller]
fn assert_served(stream: &mut TcpStream) {
    let mut answer = [0; 512];
    let len = stream.read(&mut answer).expect("an answer");
    assert!(answer[..len].starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn many_connections_that_do_nothing_keep_nobody_out() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let health = format!("{GET}\r\n");
    let open: Vec<TcpStream> = (0..connections())
        .map(|number| match number % 3 {
            0 => connect(&server, b""),
            1 => connect(&server, GET.as_bytes()),
            _ => {
                let mut asked = connect(&server, health.as_bytes());
                assert_served(&mut asked);
                asked
            }
        })
        .collect();

    let (_, token) = server.create(&key, serde_json::json!({ "user_id": "ada" })).await;

    server.assert_token(&token, "active").await;
    let listed = run(dir.path(), ["users", "show", "ada", "--database", "s.db"]).exited(0);
    assert!(listed.contains("ada"), "{listed}");
    drop(open);
    server.stop();
}

/// `serve` with so many files that it may open; `-S` or `-H` first for one of the two limits alone.
fn serve_with_files(dir: &std::path::Path, limits: &str, workers: &str) -> Served {
    let serve = sessiond(dir, ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit {limits} && exec \"$@\""), "sh"])
        .arg(serve.get_program())
        .args(serve.get_args())
        .current_dir(dir)
        .env_clear()
        .env("SESSIOND_SERVER__WORKERS", workers);
    Served::start(shell)
}

#[test]
fn connections_beyond_the_files_there_are_wait_and_leave_the_operator_some() {
    let dir = tempdir().expect("a directory");
    create_key(dir.path());
    // With as many workers as a large machine has, each of which opens some of its own.
    let mut server = serve_with_files(dir.path(), "-n 700", "64");
    let warning = server.process.stderr.until("may open 700 files");
    let (_, rest) = warning.split_once("only ").expect("a number");
    let room: usize = rest
        .split(' ')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    let health = format!("{GET}\r\n");
    let mut served: Vec<TcpStream> = (0..room).map(|_| connect(&server, health.as_bytes())).collect();
    served.iter_mut().for_each(assert_served);

    let mut waiting = connect(&server, health.as_bytes());
    let listed = run(dir.path(), ["keys", "list", "--database", "s.db"]).exited(0);

    assert!(listed.contains("test"), "{listed}");
    waiting.set_nonblocking(true).expect("set");
    let peeked = waiting.peek(&mut [0]).expect_err("no answer").kind();
    assert_eq!(peeked, ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).expect("set");
    drop(served.pop());
    assert_served(&mut waiting);
    let log = server.stop().stderr;
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn those_who_follow_events_by_the_operator_socket_leave_room_for_commands() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let mut followers = Vec::new();
    for number in 0..64 {
        let app = ["default", "shop"][number % 2];
        let mut wire = Wire::open_operator(&server).await;
        wire.send(follow(app).as_bytes()).await;
        assert_eq!(wire.answer().await.expect("a head").status, 200, "{number}");
        followers.push(wire);
    }
    let mut wire = Wire::open_operator(&server).await;
    wire.send(follow("shop").as_bytes()).await;
    assert_eq!(wire.answer().await.expect("an answer").status, 429);
    wire.send(b"GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(wire.answer().await.expect("an answer").status, 200);
    drop(followers);
}

#[test]
fn soft_limit_of_files_is_raised_to_the_hard_one() {
    let dir = tempdir().expect("a directory");
    let server = serve_with_files(dir.path(), "-S -n 200", "1");
    let log = server.stop().stderr;
    assert!(!log.contains("may open"), "{log}");
}

#[test]
fn requests_that_cannot_be_parsed_leave_no_line_in_the_log() {
    let dir = tempdir().expect("a directory");
    let server = Served::serve(dir.path());
    for _ in 0..3 {
        let mut answer = String::new();
        let mut stream = connect(&server, b"GET /\0 HTTP/1.1\r\n\r\n");
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let log = server.stop().stderr;
    assert!(!log.contains("ERROR") && !log.contains("parse"), "{log}");
}

#[test]
fn answer_that_comes_before_the_body_was_read_reaches_who_sends_all_of_it_first() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let cases = [
        (format!("Authorization: Bearer {key}\r\n"), "413"),
        (String::new(), "401"),
    ];
    for (credential, status) in cases {
        let head = format!(
            "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{credential}\
             Content-Length: 5000000\r\n\r\n"
        );
        let mut stream = connect(&server, head.as_bytes());
        let mut sending = stream.try_clone().expect("a second handle");
        let sender = std::thread::spawn(move || sending.write_all(&vec![b'a'; 5_000_000]).is_ok());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("no reset");
        let is_whole = answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with('}');
        assert!(is_whole, "{status}: {answer}");
        assert!(sender.join().expect("it ends"), "{status}: all was taken");
    }
    server.stop();
}

#[test]
fn client_that_never_reads_is_hung_up_on() {
    let dir = tempdir().expect("a directory");
    let server = Served::serve(dir.path());
    let mut stream = connect(&server, b"");
    stream.set_write_timeout(Some(3 * PATIENCE)).expect("set");
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    // When nothing can be sent it is read a little further, and then no more.
    let error = loop {
        if let Err(error) = stream.write_all(request) {
            break error.kind();
        }
    };
    assert!(
        matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error:?}"
    );
    server.stop();
}
