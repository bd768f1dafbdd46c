//! The real binary: started with pipes that are read line by line, waited for with a bound, killed when dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use reqwest::{Client, Method};
use serde_json::Value;

use crate::harness::PATIENCE;

/// The binary, to be run in `dir` with nothing of the environment of the tests.
pub fn sessiond<A: AsRef<OsStr>>(dir: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessiond"));
    command.args(arguments).current_dir(dir).env_clear();
    command
}

/// Where an example of the project is: beside the directory of the test binary.
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this binary");
    let profile = this
        .parent()
        .and_then(Path::parent)
        .expect("it is in target/PROFILE/deps");
    let example = profile.join("examples").join(name);
    assert!(
        example.is_file(),
        "{} is not there: `cargo build --examples` makes it, as do `cargo test` and `cargo nextest run` without `--test`",
        example.display()
    );
    example
}

/// Builds a library that is loaded before the C library of a process (`LD_PRELOAD`), with what Rust links with.
pub fn build_preloaded(dir: &Path, source: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let library = dir.join(source.with_extension("so").file_name().expect("a file"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-pthread", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .output()
        .expect("a C compiler, as Rust needs one to link");
    assert!(built.status.success() && built.stderr.is_empty(), "{built:?}");
    library
}

/// Runs a command to its end.
pub fn run<A: AsRef<OsStr>>(dir: &Path, arguments: impl IntoIterator<Item = A>) -> Finished {
    Process::spawn(sessiond(dir, arguments)).finish()
}

/// Runs a command whose results go elsewhere.
pub fn run_into<A: AsRef<OsStr>>(
    dir: &Path,
    arguments: impl IntoIterator<Item = A>,
    stdout: impl Into<Stdio>,
) -> Finished {
    let mut command = sessiond(dir, arguments);
    let output = command.stdin(Stdio::null()).stdout(stdout).output();
    let output = output.expect("the binary starts");
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A pipe whose reader has gone.
pub fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A device that is always full.
pub fn full_disk() -> Stdio {
    let device = std::fs::File::options().write(true).open("/dev/full");
    device.expect("Linux has it").into()
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Asserts the exit code; answers what was printed on stdout.
    #[track_caller]
    pub fn exited(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self.stdout
    }

    /// Asserts the exit code and that stderr contains all of these.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
    }
}

/// A running process.
pub struct Process {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success(), "kill -s {name}");
    }

    /// Bytes of memory that it has (proc(5), VmRSS).
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("a line");
        kib.parse::<u64>().expect("a number") * 1_024
    }

    /// Ends the process at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it was there to be killed");
        self.child.wait().expect("it has ended");
    }

    /// Waits until it has ended by itself.
    pub fn finish(mut self) -> Finished {
        // A process closes its pipes when it ends, so that this wait has a bound and the next one is none.
        self.stdout.read_to_end();
        self.stderr.read_to_end();
        Finished {
            status: self.child.wait().expect("it has ended"),
            stdout: std::mem::take(&mut self.stdout.seen),
            stderr: std::mem::take(&mut self.stderr.seen),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe.
pub struct Lines {
    lines: Receiver<String>,
    /// Everything that was read so far.
    pub seen: String,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let seen = String::new();
        Self { lines, seen }
    }

    /// Waits for a line that contains this, and answers it.
    #[track_caller]
    pub fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(why) => panic!("no line with {part:?} ({why}) in:\n{}", self.seen),
            }
        }
    }

    #[track_caller]
    pub fn read_to_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.seen),
            }
        }
    }
}

/// A running `serve` or `dev`, and a client for it.
pub struct Served {
    pub process: Process,
    pub caller: Caller,
}

/// Everything that a client can ask a server for can be asked of this one.
impl Deref for Served {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Served {
    /// `serve` on a free port over `s.db` in `dir`.
    pub fn serve(dir: &Path) -> Self {
        Self::start(sessiond(
            dir,
            ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
        ))
    }

    /// `dev` on a free port with its database in `dir`.
    pub fn dev(dir: &Path) -> Self {
        Self::start(sessiond(dir, ["dev", "--listen", "127.0.0.1:0"]))
    }

    /// Starts a command that serves, and waits until it says where.
    pub fn start(command: Command) -> Self {
        let is_dev = command.get_args().next() == Some(OsStr::new("dev"));
        let mut process = Process::spawn(command);
        let line = if is_dev {
            process.stdout.until("Dashboard")
        } else {
            process.stderr.until("serving on http")
        };
        let scheme = if line.contains("https://") {
            "https"
        } else {
            "http"
        };
        let (_, rest) = line.split_once("://").expect("an address");
        let (host, _) = rest.split_once('/').expect("an address and a path");
        let (_, port) = host.rsplit_once(':').expect("a port");
        Self {
            process,
            caller: Caller {
                base: format!("{scheme}://127.0.0.1:{port}"),
                client: Client::builder()
                    .no_proxy()
                    .timeout(PATIENCE)
                    .build()
                    .expect("a client"),
            },
        }
    }

    /// Asks it to stop and waits until it has; its exit code must be 0.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.process.signal("TERM");
        let finished = self.process.finish();
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        finished
    }
}

/// A client of a server, which may be one of several.
#[derive(Clone)]
pub struct Caller {
    /// `http://127.0.0.1:PORT`; with TLS https, which the client here does not speak
    pub base: String,
    pub client: Client,
}

impl Caller {
    /// Where it listens, as `std::net` takes it.
    pub fn address(&self) -> &str {
        self.base.split("://").nth(1).expect("a URL")
    }

    /// One call: status and body; `Null` for a body that is no JSON, an error for a connection that broke.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), reqwest::Error> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(bearer);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// One call that must be answered.
    pub async fn call(&self, method: Method, path: &str, bearer: &str, body: Option<Value>) -> (u16, Value) {
        self.try_call(method, path, bearer, body)
            .await
            .expect("an answer")
    }

    pub async fn get(&self, path: &str, bearer: &str) -> (u16, Value) {
        self.call(Method::GET, path, bearer, None).await
    }

    /// Starts a session; answers its id and token.
    pub async fn create(&self, key: &str, body: Value) -> (String, String) {
        let (status, answer) = self.call(Method::POST, "/v1/sessions", key, Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        (text(&answer["session"]["id"]), text(&answer["token"]))
    }

    /// Asserts what the token plane says of a token: `active`, or the code of the refusal.
    pub async fn assert_token(&self, token: &str, expected: &str) {
        let (status, answer) = self.get("/v1/session", token).await;
        let refusal = answer["code"].as_str().unwrap_or("no code");
        let said = if status == 200 { "active" } else { refusal };
        assert_eq!(said, expected, "{answer}");
    }
}

/// A text in an answer.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Makes an API key by the command line.
pub fn create_key(dir: &Path) -> String {
    let printed = run(dir, ["keys", "create", "test", "--database", "s.db"]).exited(0);
    printed.trim_end().to_owned()
}

/// The names in a folder, sorted.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
