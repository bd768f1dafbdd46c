//! Compares layouts of the table of sessions: `cargo bench --bench layouts`, `-- --rows 10000000` for more than a million.
//!
//! In process, with the pragmas of the store (`src/store/sqlite.rs`) and the statements of its changes, so that nothing else
//! is measured. The variants are made from `schema.sql` by replacing what differs; a text that is not found there fails it.
//! CPU times include copying the log back, after about as many pages as in the store; times on the clock do not.
//! Databases are in `target/layouts` while it runs: 1.3 GB for each million rows. It takes an hour at most.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::types::{FromSql, Value};
use rusqlite::{Connection, OpenFlags, Params, ToSql, params, params_from_iter};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Change = fn(&mut Database) -> Result<()>;

const SCHEMA: &str = include_str!("../schema.sql");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/layouts");
const ROWS_MAX: u64 = 20_000_000;
const TIME_MAX: Duration = Duration::from_secs(3_000);
/// The layouts take turns.
const ROUNDS: usize = 5;
const FINDS: usize = 10_000;
const TOUCHES: usize = 20_000;
/// What a reader is given: page cache and map, in MiB.
const READERS: [(i64, i64); 4] = [(2, 0), (32, 0), (2, 1_024), (2, 8_192)];
const BEGIN: u64 = 1_790_000_000_000;
const DAY: u64 = 86_400_000;
const SESSIONS_PER_USER: u64 = 5;

/// Each with its name, the column by which sessions are found, and what differs from the schema.
const LAYOUTS: [(&str, &str, &str); 3] = [
    ("as it is: rowid, index on the id", "id", ""),
    ("`WITHOUT ROWID`", "id", "(ended_by IS NULL))\n) STRICT => (ended_by IS NULL))\n) STRICT, WITHOUT ROWID"),
    // Of the id the 63 bits that grow. An entry of an index ends with the rowid anyway.
    (
        "rowid made from the id",
        "key",
        "id                  BLOB    NOT NULL PRIMARY KEY => key INTEGER NOT NULL PRIMARY KEY, id BLOB NOT NULL;
         signed_in_at, id, ended_at) => signed_in_at, ended_at);
         signed_in_at, id) WHERE => signed_in_at) WHERE;
         session_id BLOB NOT NULL PRIMARY KEY REFERENCES sessions (id) => session_id INTEGER PRIMARY KEY REFERENCES sessions (key)",
    ),
];
/// Gives the first an index for the sweeper that every use moves.
const MOVED: &str = "DROP INDEX sessions_by_sweep;
    CREATE INDEX sessions_by_deadline ON sessions (expires_at) WHERE ended_at IS NULL";

const INSERT: &str = "INSERT INTO sessions (id, app, user_id, token_hash, is_trusted, user_agent, browser, browser_version,
        os, device_type, is_bot, country, ip_address, created_at, signed_in_at, authenticated_at, last_activity_at,
        idle_timeout, absolute_expires_at, expires_at, sweep_at)
    VALUES (?1, 'default', ?2, randomblob(32), 0, 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
        ?3, '140.0', 'Linux', 'desktop', 0, 'DE', '194.25.2.123', ?4, ?4, ?4, ?5,
        2592000000, ?4 + 34560000000, ?5 + 2592000000, ?4 + 2592000000)";
const COUNT: &str = "SELECT count(*) FROM sessions
    WHERE app = 'default' AND user_id = ?1 AND ended_at IS NULL AND id IS NOT NULL";
const FIND: &str = "SELECT * FROM sessions WHERE id = ?1";
const TOUCH: &str = "UPDATE sessions SET last_activity_at = ?2,
        expires_at = min(?2 + idle_timeout, absolute_expires_at)
    WHERE id = ?1 AND ended_at IS NULL AND last_activity_at < ?2";
const END: &str = "UPDATE sessions SET ended_at = ?2, revoked_reason = 'idle_timeout', ended_by = 'timeout'
    WHERE id = ?1 AND ended_at IS NULL";
const SETTINGS: &str = "SELECT * FROM users WHERE app = 'default' AND user_id = ?1";
const IS_KNOWN: &str = "SELECT 1 FROM user_devices
    WHERE app = 'default' AND user_id = ?1 AND browser = ?2 AND os = 'Linux'";
const DEVICE: &str = "INSERT INTO user_devices VALUES ('default', ?1, ?2, 'Linux', ?3)";
const EVENT: &str =
    "INSERT INTO events (type, occurred_at, recorded_at, app, user_id, session_id, device_info,
        ip_address, location)
    VALUES (?1, ?2, ?2, 'default', ?3, ?4, 'Firefox on Linux', '194.25.2.123', 'DE')";
const HIGH_WATER: &str = "INSERT INTO meta (key, value) VALUES ('high_water', ?1)
    ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)";

thread_local! {
    /// Pages in the log after the last commit.
    static WAL_PAGES: Cell<i32> = const { Cell::new(0) };
}

struct Session {
    id: [u8; 16],
    user: String,
    created_at: u64,
}

/// A database with one of the layouts.
struct Database {
    is_keyed: bool,
    writer: Connection,
    readers: Vec<Connection>,
    /// [`INSERT`], [`COUNT`], [`FIND`], [`TOUCH`], [`END`] of this layout.
    sql: [String; 5],
    rows: u64,
    made: u64,
    picked: u64,
    now: u64,
    /// Sessions that are to be touched, the first one last.
    due: Vec<Value>,
    /// For each line of the table: microseconds, those of a CPU, pages.
    costs: [Vec<[f64; 3]>; 6],
    /// Microseconds, by reader.
    finds: [Vec<f64>; READERS.len()],
    load: String,
}

impl Database {
    fn load(nth: usize, folder: &Path, rows: u64) -> Result<Self> {
        let (_, column, differences) = LAYOUTS[nth];
        let changes = differences
            .split(';')
            .filter_map(|change| change.split_once(" => "));
        let schema = changes.fold(SCHEMA.to_owned(), |schema, (old, new)| {
            let old = old.trim_start();
            assert_eq!(schema.matches(old).count(), 1, "schema.sql has changed: {old}");
            schema.replace(old, new)
        });
        let of_layout = |sql: &str| match column {
            "key" if sql == INSERT => sql.replace("(id,", "(key, id,").replace("(?1,", "(?6, ?1,"),
            _ => sql.replace(" id ", &format!(" {column} ")),
        };
        let path = folder.join(format!("{nth}.db"));
        let mut new = Self {
            is_keyed: column == "key",
            writer: Connection::open(&path)?,
            readers: Vec::new(),
            sql: [INSERT, COUNT, FIND, TOUCH, END].map(of_layout),
            rows,
            made: 0,
            picked: 0,
            now: BEGIN + 10 * DAY,
            due: Vec::new(),
            costs: Default::default(),
            finds: Default::default(),
            load: String::new(),
        };
        // If it fails the file is thrown away: nothing need be safe.
        let pragmas = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1048576;";
        new.writer.execute_batch(&format!("{pragmas} {schema}"))?;
        new.fill()?;
        std::fs::File::open(&path)?.sync_all()?;
        // As `prepare` and the pool of the store do it.
        new.writer = Connection::open(&path)?;
        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0";
        new.writer.execute_batch(pragmas)?;
        new.writer.wal_hook(Some(|_, pages| {
            WAL_PAGES.set(pages);
            Ok(())
        }));
        for (cache, map) in READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = Connection::open_with_flags(&path, flags)?;
            let (cache, map) = (cache * 1_000, map << 20);
            reader.execute_batch(&format!("PRAGMA cache_size = -{cache}; PRAGMA mmap_size = {map}"))?;
            new.readers.push(reader);
        }
        Ok(new)
    }

    /// Sessions, oldest first, last used at some moment of their first day; a device of each user; and the events of the
    /// last tenth, as if the others had been purged.
    fn fill(&mut self) -> Result<()> {
        let (began, cpu, rows) = (Instant::now(), cpu_micros()?, self.rows as f64);
        self.writer.execute_batch("BEGIN")?;
        for number in 0..self.rows {
            let session = self.session(number);
            self.insert(&session, session.created_at + random(!number) % DAY, "Firefox")?;
        }
        self.writer.execute_batch("COMMIT")?;
        let (wall, cpu) = (micros(began) / rows, (cpu_micros()? - cpu) / rows);
        let pages: f64 = pragma(&self.writer, "page_count")?;
        self.load = format!("{wall:.1} / {cpu:.1} / {:.0}", pages * 4_096.0 / rows);
        self.writer.execute_batch("BEGIN")?;
        for user in 0..self.users() {
            self.run(DEVICE, params![format!("user-{user}"), "Firefox", BEGIN])?;
        }
        for number in self.rows / 10 * 9..self.rows {
            self.tell("session.created", &self.session(number))?;
        }
        Ok(self.writer.execute_batch("COMMIT")?)
    }

    fn users(&self) -> u64 {
        self.rows.div_ceil(SESSIONS_PER_USER)
    }

    /// The session that was loaded as this one.
    fn session(&self, number: u64) -> Session {
        self.session_of(number, BEGIN + number * 7 * DAY / self.rows)
    }

    fn session_of(&self, number: u64, created_at: u64) -> Session {
        let id = u128::from(created_at) << 80 | 0x7 << 76 | 0b10 << 62 | u128::from(random(number) >> 2);
        let (id, nth) = (id.to_be_bytes(), random(number << 1 | 1 << 63) % self.users());
        let user = format!("user-{nth}");
        Session { id, user, created_at }
    }

    /// What one of the sessions that were loaded is found by, and what it is.
    fn pick(&mut self) -> (Value, Session) {
        self.picked += 1;
        let session = self.session(random(self.picked << 32) % self.rows);
        match self.is_keyed {
            true => (key(session.id).into(), session),
            false => (session.id.to_vec().into(), session),
        }
    }

    fn insert(&self, session: &Session, used_at: u64, browser: &str) -> Result<()> {
        let Session { id, user, created_at } = session;
        let values: [&dyn ToSql; 6] = [id, user, &browser, created_at, &used_at, &key(*id)];
        let count = if self.is_keyed { 6 } else { 5 };
        self.run(&self.sql[0], params_from_iter(&values[..count]))
    }

    fn tell(&self, kind: &str, session: &Session) -> Result<()> {
        self.run(EVENT, params![kind, self.now, session.user, session.id])
    }

    /// As `sign_ins::create`; one in ten comes with another browser, which is new to most users.
    fn create(&mut self) -> Result<()> {
        self.made += 1;
        self.now += 1;
        let session = self.session_of(self.rows + self.made, self.now);
        let browser = ["Safari", "Firefox"][usize::from(!self.made.is_multiple_of(10))];
        self.has(SETTINGS, [&session.user])?;
        self.has(&self.sql[1], [&session.user])?;
        self.insert(&session, self.now, browser)?;
        self.tell("session.created", &session)?;
        if !self.has(IS_KNOWN, [&session.user, browser])? {
            self.run(DEVICE, params![session.user, browser, self.now])?;
            self.tell("device.new", &session)?;
        }
        Ok(())
    }

    /// As `changes::end_session`.
    fn end(&mut self) -> Result<()> {
        let (name, session) = self.pick();
        self.has(&self.sql[2], [&name])?;
        self.run(&self.sql[4], params![name, self.now])?;
        self.tell("session.expired", &session)
    }

    fn touch(&mut self) -> Result<()> {
        let name = self.due.pop().ok_or("as many are due as are touched")?;
        self.run(&self.sql[3], params![name, self.now])
    }

    /// In one transaction: by id, then others in any order.
    fn touch_many(&mut self, lines: [usize; 2]) -> Result<()> {
        for (line, is_sorted) in lines.into_iter().zip([true, false]) {
            self.now += 60_000;
            let mut due: Vec<_> = (0..TOUCHES).map(|_| self.pick()).collect();
            if is_sorted {
                due.sort_unstable_by_key(|(_, session)| std::cmp::Reverse(session.id));
            }
            self.due = due.into_iter().map(|(name, _)| name).collect();
            self.change(line, 1, TOUCHES, Self::touch)?;
        }
        Ok(())
    }

    /// Notes what a change costs, in so many transactions of so many.
    fn change(&mut self, line: usize, batches: usize, batch: usize, one: Change) -> Result<()> {
        let (began, cpu) = (Instant::now(), cpu_micros()?);
        for _ in 0..batches {
            self.run("BEGIN IMMEDIATE", [])?;
            (0..batch).try_for_each(|_| one(self))?;
            self.run(HIGH_WATER, [self.now])?;
            self.run("COMMIT", [])?;
        }
        let wall = micros(began);
        self.checkpoint()?;
        let costs = [wall, cpu_micros()? - cpu, f64::from(WAL_PAGES.get())];
        self.costs[line].push(costs.map(|cost| cost / (batches * batch) as f64));
        Ok(())
    }

    fn run(&self, sql: &str, values: impl Params) -> Result<()> {
        self.writer.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn has(&self, sql: &str, values: impl Params) -> Result<bool> {
        Ok(self.writer.prepare_cached(sql)?.exists(values)?)
    }

    fn checkpoint(&self) -> Result<()> {
        pragma::<i64>(&self.writer, "wal_checkpoint(TRUNCATE)").map(drop)
    }

    /// Has the system read all of it: what it still had in memory would depend on whose turn it was.
    fn warm(&self) -> Result<()> {
        let mut file = std::fs::File::open(self.writer.path().unwrap_or_default())?;
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.warm()?;
        self.change(0, 40, 60, Self::create)?;
        for reader in 0..READERS.len() {
            // Every change empties a reader's cache: it fills first.
            for nth in 0..2 * FINDS {
                let (name, _) = self.pick();
                let began = Instant::now();
                let is_there = self.readers[reader]
                    .prepare_cached(&self.sql[2])?
                    .exists([name])?;
                assert!(is_there, "it was loaded");
                self.finds[reader].extend((nth >= FINDS).then(|| micros(began)));
            }
        }
        self.touch_many([1, 2])?;
        self.change(3, 8, 300, Self::end)
    }
}

fn pragma<T: FromSql>(connection: &Connection, name: &str) -> Result<T> {
    Ok(connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?)
}

fn key(id: [u8; 16]) -> i64 {
    (u128::from_be_bytes(id) >> 65) as i64
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same in every run.
fn random(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// Of this thread, as the kernel counts it (`Documentation/scheduler/sched-stats.rst`).
fn cpu_micros() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e3)
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn medians(costs: &[[f64; 3]]) -> String {
    let [wall, cpu, pages] = [0, 1, 2].map(|nth| quantile(costs.iter().map(|cost| cost[nth]).collect(), 0.5));
    format!("{wall:.1} / {cpu:.1} / {pages:.2}")
}

fn main() -> Result<()> {
    let rows = std::env::args()
        .skip_while(|argument| argument != "--rows")
        .nth(1);
    let rows = rows.map_or(Ok(1_000_000), |rows| rows.parse())?;
    if !(1_000..=ROWS_MAX).contains(&rows) {
        return Err(format!("from 1,000 to {ROWS_MAX} rows").into());
    }
    let until = Instant::now() + TIME_MAX;
    let in_time = || (Instant::now() < until).then_some(()).ok_or("it takes too long");
    std::fs::create_dir_all(FOLDER)?;
    let folder = tempfile::tempdir_in(FOLDER)?;
    let mut all = Vec::new();
    for (nth, (name, ..)) in LAYOUTS.iter().enumerate() {
        in_time()?;
        eprintln!("loading {rows} rows: {name}");
        all.push(Database::load(nth, folder.path(), rows)?);
    }
    for round in 1..=ROUNDS {
        in_time()?;
        eprintln!("round {round} of {ROUNDS}");
        all.iter_mut().try_for_each(Database::round)?;
    }
    all[0].writer.execute_batch(MOVED)?;
    all[0].checkpoint()?;
    all[0].warm()?;
    (0..ROUNDS).try_for_each(|_| all[0].touch_many([4, 5]))?;

    let names = LAYOUTS.map(|(name, ..)| name).join(" | ");
    println!(
        "\n| {rows} rows | {names} | as it is, uses move the sweeper's index |\n|---|---:|---:|---:|---:|"
    );
    let line = |what: &str, cell: &dyn Fn(&Database) -> String, last: &str| {
        let cells: Vec<String> = all.iter().map(cell).collect();
        println!("| {what} | {} | {last} |", cells.join(" | "));
    };
    line("load: µs, CPU µs, bytes", &|one| one.load.clone(), "");
    for (nth, (cache, _)) in READERS.iter().enumerate() {
        // SQLite maps less than it is told to if it was built so.
        let map = pragma::<i64>(&all[0].readers[nth], "mmap_size")? >> 20;
        let what = format!("find, {cache} MiB of cache, {map} MiB mapped: µs p50, p99");
        let share = |one: &Database, share| quantile(one.finds[nth].clone(), share);
        let cell = |one: &Database| format!("{:.1} / {:.1}", share(one, 0.5), share(one, 0.99));
        line(&what, &cell, "");
    }
    let moved = [4, 5].map(|nth| medians(&all[0].costs[nth]));
    let lasts = ["", &moved[0], &moved[1], ""];
    let changes = [
        "create, 60",
        "touch, by id, 20,000",
        "touch, in any order, 20,000",
        "end, 300",
    ];
    for (nth, (what, last)) in changes.into_iter().zip(lasts).enumerate() {
        let what = format!("{what} a commit: µs, CPU µs, pages");
        line(&what, &|one| medians(&one.costs[nth]), last);
    }
    Ok(())
}
