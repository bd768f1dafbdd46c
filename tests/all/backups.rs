//! Backups by the schedule: when they are due, which are removed, and what a failure does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sessiond::backups::Backups;
use sessiond::clock::Clock;
use sessiond::config::BackupConfig;
use sessiond::metrics::Metrics;
use tempfile::TempDir;

use crate::harness::{START, TestServer, make_first_version};
use crate::process::{Served, names_in, run, sessiond};

const HOUR: u64 = 3_600;
/// What a backup is called that is made when every test's clock begins.
const FIRST: &str = "s-20260101T000000Z.db";

/// A server's database, an empty folder, and the schedule that is asked to look.
struct Scheduled {
    server: TestServer,
    folder: TempDir,
    metrics: Arc<Metrics>,
    backups: Backups,
}

impl Scheduled {
    /// One every hour, of which so many are kept.
    async fn start(keep: usize) -> Self {
        let server = TestServer::start().await;
        let folder = tempfile::tempdir().expect("a directory");
        let metrics = Arc::new(Metrics::new());
        let backups = schedule(&server.database(), folder.path(), keep, &server.clock, &metrics);
        Self {
            server,
            folder,
            metrics,
            backups,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The names after a look that comes so much later.
    fn after(&self, secs: u64) -> Vec<String> {
        self.server.advance(secs);
        self.backups.make_due();
        names_in(self.folder.path())
    }

    fn counted(&self, result: &'static str) -> u64 {
        self.metrics.backups.get_or_create(&[("result", result)]).get()
    }
}

fn schedule(
    database: &Path,
    folder: &Path,
    keep: usize,
    clock: &Arc<Clock>,
    metrics: &Arc<Metrics>,
) -> Backups {
    let config = BackupConfig {
        folder: Some(folder.to_owned()),
        every_secs: HOUR,
        keep,
    };
    Backups::new(database, &config, Arc::clone(clock), Arc::clone(metrics)).expect("a folder is named")
}

#[tokio::test]
async fn backup_is_due_at_once_and_then_when_the_newest_is_old_enough() {
    let scheduled = Scheduled::start(7).await;
    scheduled.server.sign_in("ada").await;
    assert_eq!(scheduled.after(0), [FIRST]);
    assert_eq!(scheduled.after(HOUR - 1), [FIRST]);
    let both = [FIRST, "s-20260101T010000Z.db"];
    assert_eq!(scheduled.after(1), both);
    assert_eq!(scheduled.after(0), both);
    assert_eq!((scheduled.counted("made"), scheduled.counted("failed")), (2, 0));
    let copy = scheduled.path(FIRST);
    let copy = copy.to_str().expect("UTF-8");
    let checked = run(scheduled.folder.path(), ["check", "--database", copy]).exited(0);
    assert_eq!(checked, "ok: 1 session(s), 1 event(s)\n");
}

#[tokio::test]
async fn restart_neither_skips_nor_repeats_a_backup() {
    let mut scheduled = Scheduled::start(7).await;
    scheduled.after(0);
    let database = scheduled.server.database();
    let (clock, metrics) = (&scheduled.server.clock, &scheduled.metrics);
    scheduled.backups = schedule(&database, scheduled.folder.path(), 7, clock, metrics);
    assert_eq!(scheduled.after(HOUR - 1), [FIRST]);
    assert_eq!(scheduled.after(1).len(), 2);
}

#[tokio::test]
async fn oldest_beyond_those_that_are_kept_are_removed() {
    let scheduled = Scheduled::start(2).await;
    for _ in 0..4 {
        scheduled.after(HOUR);
    }
    assert_eq!(
        names_in(scheduled.folder.path()),
        ["s-20260101T030000Z.db", "s-20260101T040000Z.db"]
    );
}

#[tokio::test]
async fn what_is_not_of_the_schedule_is_left_alone() {
    let scheduled = Scheduled::start(1).await;
    let others = [
        "a list.txt",
        "other-20250101T000000Z.db",
        "s-20250101T000000Z.db.gz",
        "s-20251301T000000Z.db",
        "s-20250101T000000Z-wal.db",
        "s-99990101T000000Z.db",
        "s.db",
    ];
    for name in others {
        fs::write(scheduled.path(name), "mine").expect("written");
    }
    fs::create_dir(scheduled.path("s-20250101T000000Z.db")).expect("made");
    scheduled.after(0);
    let names = scheduled.after(HOUR);
    for name in others
        .iter()
        .chain(&["s-20250101T000000Z.db", "s-20260101T010000Z.db"])
    {
        assert!(
            names.iter().any(|there| there == name),
            "{name} is not in {names:?}"
        );
    }
    assert_eq!(names.len(), others.len() + 2, "{names:?}");
}

#[tokio::test]
async fn failure_is_counted_removes_nothing_and_is_tried_again_later() {
    let scheduled = Scheduled::start(1).await;
    scheduled.after(0);
    // Nothing can be made in a folder in which another is being made.
    let held = fs::File::create(scheduled.path(".sessiond-backup-lock")).expect("made");
    held.lock().expect("locked");
    let left = [".sessiond-backup-lock", FIRST];
    assert_eq!(scheduled.after(HOUR), left);
    assert_eq!((scheduled.counted("made"), scheduled.counted("failed")), (1, 1));
    drop(held);
    assert_eq!(scheduled.after(599), left, "not at once");
    assert_eq!(scheduled.after(1), ["s-20260101T011000Z.db"]);
    assert_eq!((scheduled.counted("made"), scheduled.counted("failed")), (2, 1));
}

#[tokio::test]
async fn backups_go_on_where_the_time_stands_still_until_the_wall_clock_has_caught_up() {
    let scheduled = Scheduled::start(7).await;
    // As a start takes it from a database whose server ran by a clock that was wrong.
    scheduled.server.clock.raise_to(START.plus_millis(7 * 86_400_000));
    assert_eq!(scheduled.after(0), [FIRST], "named by the wall clock");
    assert_eq!(scheduled.after(HOUR), [FIRST, "s-20260101T010000Z.db"]);
}

#[tokio::test]
async fn wall_clock_that_is_set_back_stops_neither_backups_nor_their_retries() {
    let scheduled = Scheduled::start(1).await;
    scheduled.after(0);
    let held = fs::File::create(scheduled.path(".sessiond-backup-lock")).expect("made");
    held.lock().expect("locked");
    scheduled.after(HOUR);
    assert_eq!(scheduled.counted("failed"), 1);
    drop(held);
    scheduled.server.clock.go_on_from(START.plus_millis(-86_400_000));
    assert_eq!(
        scheduled.after(599),
        [".sessiond-backup-lock", FIRST],
        "not at once"
    );
    let both = ["s-20251231T001000Z.db", FIRST];
    assert_eq!(scheduled.after(1), both, "what is yet to come is left alone");
    assert_eq!(scheduled.after(HOUR - 1), both);
    assert_eq!(scheduled.after(1), ["s-20251231T011000Z.db", FIRST]);
}

#[tokio::test]
async fn databases_whose_names_end_in_different_ways_share_a_folder() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("backups");
    fs::create_dir(&folder).expect("made");
    let (clock, metrics) = (Arc::new(Clock::manual(START)), Arc::new(Metrics::new()));
    for name in ["prod.eu", "prod.us", "s.db", "s.sqlite", "t.db.db"] {
        let database = dir.path().join(name);
        make_first_version(&database);
        schedule(&database, &folder, 1, &clock, &metrics).make_due();
    }
    let made = ["prod.eu", "prod.us", "s", "s.sqlite", "t.db"];
    assert_eq!(
        names_in(&folder),
        made.map(|name| format!("{name}-20260101T000000Z.db"))
    );
}

#[tokio::test]
async fn folder_that_is_not_there_is_a_failure_and_is_not_made() {
    let scheduled = Scheduled::start(1).await;
    let folder = scheduled.path("mounted");
    let database = scheduled.server.database();
    let backups = schedule(&database, &folder, 1, &scheduled.server.clock, &scheduled.metrics);
    backups.make_due();
    assert_eq!(scheduled.counted("failed"), 1);
    assert!(!folder.exists());
}

#[test]
fn schedule_without_a_folder_is_none() {
    let config = BackupConfig {
        folder: None,
        every_secs: HOUR,
        keep: 1,
    };
    let clock = Arc::new(Clock::manual(START));
    assert!(Backups::new(Path::new("s.db"), &config, clock, Arc::new(Metrics::new())).is_none());
}

#[test]
fn both_results_are_counted_from_the_start_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = BackupConfig {
        folder: Some(dir.path().to_owned()),
        every_secs: HOUR,
        keep: 1,
    };
    let (clock, metrics) = (Arc::new(Clock::manual(START)), Arc::new(Metrics::new()));
    let backups = Backups::new(Path::new("s.db"), &config, clock, Arc::clone(&metrics));
    assert!(backups.is_some());
    let text = metrics.render();
    for result in ["made", "failed"] {
        let line = format!("sessiond_backups_total{{result=\"{result}\"}} 0\n");
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn server_makes_the_first_backup_by_itself_and_counts_it() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("backups")).expect("made");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"];
    let mut command = sessiond(dir.path(), arguments);
    command.env("SESSIOND_BACKUP__FOLDER", "backups");
    let mut server = Served::start(command);
    server.process.stderr.until("backup backups/s-");
    let text = server.client.get(format!("{}/metrics", server.base)).send().await;
    let text = text.expect("an answer").text().await.expect("a text");
    assert!(
        text.contains("sessiond_backups_total{result=\"made\"} 1"),
        "{text}"
    );
    server.stop().exited(0);
    assert_eq!(names_in(&dir.path().join("backups")).len(), 1);
}

#[test]
fn key_file_among_the_backups_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("backups")).expect("made");
    std::os::unix::fs::symlink("backups", dir.path().join("link")).expect("made");
    for (key_file, is_told) in [("backups/s.key", true), ("link/s.key", true), ("s.key", false)] {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"];
        let mut command = sessiond(dir.path(), arguments);
        command.env("SESSIOND_BACKUP__FOLDER", "backups");
        command.env("SESSIOND_SERVER__KEY_FILE", key_file);
        let finished = Served::start(command).stop();
        let words = format!("the key file {key_file} lies among the backups");
        assert_eq!(finished.stderr.contains(&words), is_told, "{finished:?}");
        finished.exited(0);
    }
}

#[tokio::test]
async fn dev_makes_none_as_its_clock_is_moved_and_its_name_is_another_server_s() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("backups")).expect("made");
    let mut command = sessiond(dir.path(), ["dev", "--listen", "127.0.0.1:0"]);
    command.env("SESSIOND_BACKUP__FOLDER", "backups");
    let dev = Served::start(command);
    let (status, _) = dev.get("/healthz", "").await;
    assert_eq!(status, 200);
    dev.stop().exited(0);
    assert_eq!(names_in(&dir.path().join("backups")), [""; 0]);
}
