//! What is left when the power fails at any moment.
//!
//! The real binary runs under load with a library that writes down what it asks of the disk (`power/recorder.c`). From that the
//! files are made as a disk may have them after a loss of power (`power/disk.rs` says what may be lost), at random moments, at the
//! moments when changes had just been acknowledged, and where files begin, end or are synced. Each time the database must open,
//! be whole, and have every change that was acknowledged by then (`power/history.rs`).
//!
//! `SESSIOND_POWER_ROUNDS` is how many recordings are made, one if it is not set; those after the first have longer WALs, up to the
//! length at which the writer itself waits for a checkpoint. `SESSIOND_POWER_CUTS` is how many moments of each kind are looked at.

mod disk;
mod history;
mod recording;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use reqwest::Method;
use rusqlite::config::DbConfig;
use serde_json::{Value, json};
use sessiond::store::SessionStore;
use sessiond::store::sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::harness::PATIENCE;
use crate::process::{Caller, Process, Served, sessiond, text};
use crate::support::{Dice, setting};
use disk::{Disk, Files, Syncs, Unsafe};
use history::{History, State};
use recording::{Call, DATABASE, Recorder, Recording, WAL};

/// Clients at once; as many changes can share a commit.
const CLIENTS: usize = 8;
/// Moments of each kind at which the power fails.
const CUTS: usize = 40;
/// Sessions of each client in the first life of the server.
const SESSIONS_PER_CLIENT: usize = 6;
/// What a frame of the WAL takes in the recording: its head and its page, each with the head of a record.
const FRAME_LEN: usize = 32 + 24 + 32 + 4096;
/// Frames after which a server copies the WAL back.
const CHECKPOINT_FRAMES: usize = 8_000;
/// Acknowledged changes after which the server is killed.
const CHANGES_BEFORE_KILL: usize = 60;
/// Losses of power after which the real binary is asked as well.
const SERVED: usize = 3;
/// What the data of a session takes, in bytes: some pages.
const DATA_LEN: usize = 10_000;
/// The longest WAL with which the whole store is opened.
const STORE_WAL_LEN_MAX: usize = 256 * 1024;

struct Load {
    caller: Caller,
    key: String,
    history: Arc<History>,
    /// Rung for every acknowledged change.
    ring: UnboundedSender<()>,
}

/// A session in the hands of its client.
struct Held {
    user: String,
    id: String,
    token: String,
    state: State,
}

impl Load {
    /// Lives through a whole session, or most of one.
    async fn live(&self, user: String, number: usize) -> Result<(), reqwest::Error> {
        let mut held = self.sign_in(user).await?;
        if number.is_multiple_of(3) {
            self.renew(&mut held).await?;
        }
        if number.is_multiple_of(2) {
            self.write_data(&mut held).await?;
        }
        // A use of the session, which is written later.
        let (status, answer) = self
            .caller
            .try_call(Method::GET, "/v1/session", &held.token, None)
            .await?;
        assert_eq!(status, 200, "{answer}");
        if !number.is_multiple_of(4) {
            self.revoke(held).await?;
        }
        Ok(())
    }

    async fn sign_in(&self, user: String) -> Result<Held, reqwest::Error> {
        let state = State {
            token_hash: None,
            is_renewed: false,
            data: 0,
            is_ended: false,
        };
        self.history.ask(&user, state.clone());
        let body = json!({ "user_id": user });
        let answer = self
            .change(Method::POST, "/v1/sessions", &self.key, Some(body))
            .await?;
        let token = text(&answer["token"]);
        self.acknowledged(&user, &token);
        Ok(Held {
            user,
            id: text(&answer["session"]["id"]),
            token,
            state,
        })
    }

    async fn renew(&self, held: &mut Held) -> Result<(), reqwest::Error> {
        held.state.is_renewed = true;
        self.history.ask(&held.user, held.state.clone());
        let answer = self
            .change(Method::POST, "/v1/session/renew", &held.token, None)
            .await?;
        held.token = text(&answer["token"]);
        self.acknowledged(&held.user, &held.token);
        Ok(())
    }

    async fn write_data(&self, held: &mut Held) -> Result<(), reqwest::Error> {
        held.state.data += 1;
        self.history.ask(&held.user, held.state.clone());
        let path = format!("/v1/sessions/{}/data", held.id);
        let body = json!({ "number": held.state.data, "filling": "x".repeat(DATA_LEN) });
        self.change(Method::PUT, &path, &self.key, Some(body)).await?;
        self.acknowledged(&held.user, &held.token);
        Ok(())
    }

    async fn revoke(&self, mut held: Held) -> Result<(), reqwest::Error> {
        held.state.is_ended = true;
        self.history.ask(&held.user, held.state);
        let path = format!("/v1/sessions/{}", held.id);
        self.change(Method::DELETE, &path, &self.key, None).await?;
        self.acknowledged(&held.user, &held.token);
        Ok(())
    }

    fn acknowledged(&self, user: &str, token: &str) {
        self.history.answered(user, token);
        // Nobody listens while the server is stopped.
        let _ = self.ring.send(());
    }

    async fn change(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Result<Value, reqwest::Error> {
        let (status, answer) = self.caller.try_call(method, path, bearer, body).await?;
        assert!((200..300).contains(&status), "{status} {answer}");
        Ok(answer)
    }
}

/// A server that is recorded through its lives, and what its clients know.
struct Witness {
    recorder: Recorder,
    recording: Recording,
    history: Arc<History>,
    key: String,
    ring: UnboundedSender<()>,
    acknowledged: UnboundedReceiver<()>,
    dir: TempDir,
}

impl Witness {
    /// With a database that was just made.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = Recorder::build(dir.path());
        let create_key = sessiond(dir.path(), ["keys", "create", "test"]);
        let printed = Process::spawn(recorder.record(create_key)).finish();
        let history = Arc::new(History::new(&recorder.log));
        let key = printed.exited(0).trim_end().to_owned();
        let (ring, acknowledged) = mpsc::unbounded_channel();
        Self {
            recorder,
            recording: Recording::default(),
            history,
            key,
            ring,
            acknowledged,
            dir,
        }
    }

    fn serve(&self) -> (Served, Arc<Load>) {
        let serve = sessiond(self.dir.path(), ["serve", "--listen", "127.0.0.1:0"]);
        let server = Served::start(self.recorder.record(serve));
        let load = Arc::new(Load {
            caller: server.caller.clone(),
            key: self.key.clone(),
            history: Arc::clone(&self.history),
            ring: self.ring.clone(),
        });
        (server, load)
    }

    fn read_on(&mut self) {
        self.recording.read_on(&self.recorder.log);
    }

    /// A life with some load, at whose end the server is asked to stop.
    async fn live_and_stop(&mut self, name: &str) {
        let (server, load) = self.serve();
        let clients = each_client(name, &load, |load, name| async move {
            for number in 0..SESSIONS_PER_CLIENT {
                load.live(format!("{name}-{number}"), number)
                    .await
                    .expect("answers");
            }
        });
        clients.join_all().await;
        server.stop();
        self.read_on();
    }

    /// A life in which the WAL becomes long and begins anew, at whose end the server is killed under load.
    async fn live_long_and_be_killed(&mut self, name: &str, wal_frames: usize) {
        let (server, load) = self.serve();
        self.fill_wal(&load, name, wal_frames).await;
        // Small changes, one by one, leave a checkpoint time to reach the end of the WAL; the next change then begins it anew.
        self.read_on();
        let beginnings = self.recording.beginnings_of_wal();
        let deadline = Instant::now() + PATIENCE;
        for number in 0.. {
            let user = format!("{name}-single-{number}");
            load.live(user, number).await.expect("answers");
            self.read_on();
            if self.recording.beginnings_of_wal() > beginnings {
                break;
            }
            assert!(Instant::now() < deadline, "the WAL does not begin anew");
        }
        self.load_and_kill(server, load, name).await;
    }

    /// A life that begins with what was there when the server was killed, and ends likewise.
    async fn live_and_be_killed(&mut self, name: &str) {
        let (server, load) = self.serve();
        self.load_and_kill(server, load, name).await;
    }

    /// Writes so much that a WAL of so many frames comes of it, unless a checkpoint lets it begin anew before.
    async fn fill_wal(&self, load: &Arc<Load>, name: &str, frames: usize) {
        let enough = recording::len(&self.recorder.log) + frames * FRAME_LEN;
        let clients = each_client(name, load, move |load, name| async move {
            for number in 0.. {
                if load.history.now() >= enough {
                    return;
                }
                load.live(format!("{name}-{number}"), number)
                    .await
                    .expect("answers");
            }
        });
        clients.join_all().await;
    }

    async fn load_and_kill(&mut self, mut server: Served, load: Arc<Load>, name: &str) {
        while self.acknowledged.try_recv().is_ok() {}
        let clients = each_client(&format!("{name}-last"), &load, |load, name| async move {
            for number in 0.. {
                if load.live(format!("{name}-{number}"), number).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..CHANGES_BEFORE_KILL {
            let rung = tokio::time::timeout(PATIENCE, self.acknowledged.recv()).await;
            rung.expect("in time").expect("the clients go on");
        }
        server.process.kill();
        clients.join_all().await;
        self.read_on();
    }
}

/// Starts clients, each with a name of its own.
fn each_client<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    load: &Arc<Load>,
    task: impl Fn(Arc<Load>, String) -> F,
) -> JoinSet<()> {
    let client = |number| task(Arc::clone(load), format!("{name}-{number}"));
    (0..CLIENTS).map(client).collect()
}

/// Asserts that the recording knows of everything that was written.
fn assert_complete(witness: &Witness) {
    let mut disk = Disk::new(&witness.recording, Syncs::Obeyed);
    disk.advance(witness.recording.end());
    let files = disk.after_power_loss(Unsafe::Kept, &mut Dice(0));
    let written = std::fs::read(witness.dir.path().join(DATABASE)).expect("the database");
    assert!(files[DATABASE] == written, "the recording is not complete");
}

/// Where to let the power fail: `count` places at random, as many just after acknowledgements, and as many where something
/// else happened than that a page was written or the WAL synced.
fn cuts(recording: &Recording, history: &History, count: usize, dice: &mut Dice) -> Vec<usize> {
    let mut wal = None;
    let is_turn = |call: &Call| {
        match call {
            Call::Create { file, name } if name == WAL => wal = Some(*file),
            Call::Write { file, at, .. } => return *at == 0 && Some(*file) == wal,
            Call::SyncBegin { file, .. } | Call::SyncEnd { file, .. } => return Some(*file) != wal,
            _ => {}
        }
        true
    };
    let is_turn: Vec<bool> = recording
        .calls
        .iter()
        .map(|(_, call)| call)
        .map(is_turn)
        .collect();
    let all: Vec<usize> = recording.calls.iter().map(|(end, _)| *end).collect();
    let turns = all
        .iter()
        .zip(is_turn)
        .filter_map(|(end, is_turn)| is_turn.then_some(*end))
        .collect();
    let mut cuts = BTreeSet::new();
    for places in [all, history.answers(), turns] {
        cuts.extend((0..count).map(|_| places[dice.below(places.len())]));
    }
    cuts.into_iter().collect()
}

/// Puts files into a directory; answers where the database is.
fn write_files(files: &Files, dir: &Path) -> PathBuf {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("written");
    }
    dir.join(DATABASE)
}

/// Says what is wrong with what a loss of power left.
fn examine(files: &Files, cut: usize, history: &History) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = write_files(files, dir.path());
    if files.get(WAL).is_some_and(|wal| wal.len() > STORE_WAL_LEN_MAX) {
        let _recovered = recover(&path).map_err(|error| format!("it is not recovered: {error}"))?;
        return history.compare(&path, cut);
    }
    let options = SqliteOptions {
        path: path.clone(),
        read_pool: 1,
        queue_len_max: 1,
    };
    let store = SqliteStore::open(&options).map_err(|error| format!("it does not open: {error}"))?;
    history.compare(&path, cut)?;
    // The WAL is copied into the database.
    store.close();
    history.compare(&path, cut)
}

/// Opens a database as the store does, but leaves the WAL where it is when it is closed: that would be forced to the disk.
fn recover(path: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Asks the real binary about what a loss of power left.
async fn assert_served(files: &Files, cut: usize, history: &History) {
    let dir = tempfile::tempdir().expect("a directory");
    write_files(files, dir.path());
    let server = Served::serve(dir.path());
    for (token, is_ended) in history.settled(cut) {
        let expected = if is_ended { "session_ended" } else { "active" };
        server.assert_token(&token, expected).await;
    }
    server.stop();
}

/// Lets the power fail at many moments of a recording.
async fn assert_survived(recording: &Recording, history: &History, dice: &mut Dice) {
    let cuts = cuts(recording, history, setting("SESSIOND_POWER_CUTS", CUTS), dice);
    let served: BTreeSet<usize> = (1..=SERVED)
        .map(|nth| cuts[nth * (cuts.len() - 1) / SERVED])
        .collect();
    let mut disk = Disk::new(recording, Syncs::Obeyed);
    for cut in cuts {
        disk.advance(cut);
        let percent = [5, 50, 95][dice.below(3)];
        let some = [Unsafe::Calls(percent), Unsafe::Sectors(percent)][dice.below(2)];
        let fates = [Unsafe::Lost, Unsafe::Kept, some];
        // With nothing to lose all of them are the same.
        let fates = if disk.is_at_rest() { &fates[..1] } else { &fates };
        for fate in fates {
            let files = disk.after_power_loss(*fate, dice);
            if let Err(wrong) = examine(&files, cut, history) {
                let kept = tempfile::tempdir().expect("a directory").keep();
                write_files(&files, &kept);
                panic!("after {cut} bytes, {fate:?}: {wrong}; see {}", kept.display());
            }
        }
        if served.contains(&cut) {
            assert_served(&disk.after_power_loss(some, dice), cut, history).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_a_loss_of_power_at_any_moment() {
    for round in 0..setting("SESSIOND_POWER_ROUNDS", 1) {
        let mut witness = Witness::new();
        witness.live_and_stop("first").await;
        assert_complete(&witness);
        let wal_frames = CHECKPOINT_FRAMES * (1 + round % 5);
        witness.live_long_and_be_killed("second", wal_frames).await;
        witness.live_and_be_killed("third").await;

        let mut dice = Dice(u64::try_from(round).expect("64 bits"));
        assert_survived(&witness.recording, &witness.history, &mut dice).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_change_is_missed_if_the_wal_was_never_synced() {
    let mut witness = Witness::new();
    let key_is_there = witness.history.answers()[0];
    witness.live_and_stop("only").await;
    let mut disk = Disk::new(&witness.recording, Syncs::IgnoredFor(WAL));
    for cut in witness.history.answers() {
        disk.advance(cut);
        let files = disk.after_power_loss(Unsafe::Lost, &mut Dice(0));
        let result = examine(&files, cut, &witness.history);
        assert_eq!(result.is_err(), cut > key_is_there, "{result:?}");
    }
}
