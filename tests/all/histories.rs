//! What many clients are told at once, while the server is killed now and then, must be what one session after another could have
//! told them (linearizability): a session is there from a moment within its creation to a moment within whatever ended it, good
//! before and never again after.
//!
//! Every operation is noted with the moments at which it was begun and answered, by one clock for all clients. One whose
//! connection broke has happened, or not, by the moment at which its client noticed. A reason that is told for an ending must be that
//! of something that was asked for, and no session may be forgotten before its retention is over. `load` are the clients and the lives
//! of the server; here is what they were told, and the judge of it.
//!
//! `SESSIOND_HISTORY_CHECKS` is how many checks are made.

pub mod load;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use crate::support::setting;
use load::{Lives, Mix, SESSIONS_PER_USER_MAX};

/// Checks, if nothing else is set.
const CHECKS: usize = 4_000;
/// Operations that are answered in one life of the server, at most.
const OPERATIONS_PER_LIFE_MAX: usize = 2_500;

/// How long the server keeps what has ended.
const RETENTION_SECS: u64 = 3;
/// A session that is unknown was last good at least so long ago, in microseconds: of the retention, half is left to wall clocks that are set.
const UNKNOWN_AFTER: u64 = RETENTION_SECS * 1_000_000 / 2;
/// The reasons of endings.
const SIGNED_OUT: &str = "logout";
const MADE_ROOM: &str = "session_limit_exceeded";
const RAN_OUT: &str = "absolute_timeout";

/// When something was begun and answered, or its connection broke, in microseconds. Moments that are the same can have been in either order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    began: u64,
    ended: u64,
}

/// What a client learned about a session.
#[derive(Debug)]
pub enum Learned {
    /// It was good.
    Good,
    /// It had ended, for this reason.
    Over { reason: String },
    /// It was not in its user's list any more.
    Unlisted,
    /// Nothing was known of it, so it must have ended, and been deleted.
    Unknown,
    /// It made room for another one.
    MadeRoom,
    /// It was asked to end it, and that was answered; it may have ended before.
    Revoked,
    /// It was asked to end it, and nobody answered.
    PerhapsRevoked,
    /// This token was renewed, and that one was given for it.
    Renewed { token: String, successor: String },
    /// So its data was.
    Data(Data),
}

#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub version: u64,
    /// What was in it.
    pub number: u64,
    /// Whether this operation wrote it.
    pub is_written: bool,
}

/// A session that was started.
#[derive(Debug)]
struct Told {
    user: String,
    created: Span,
    /// It ends by itself, soon.
    is_short: bool,
    learned: Vec<(Span, Learned)>,
}

/// What was told, by session and by user.
#[derive(Debug, Default)]
struct Record {
    sessions: HashMap<String, Told>,
    /// What was learned of sessions whose creation is not noted yet, or was not answered: another client can hear that one made
    /// room before the client that started it has read its own answer.
    early: HashMap<String, Vec<(Span, Learned)>>,
    /// Creations that nobody answered.
    lost: HashMap<String, Vec<Span>>,
    checks: usize,
    /// Calls that a kill cut off.
    broken: usize,
}

/// What all clients were told.
pub struct History {
    started: Instant,
    record: Mutex<Record>,
}

impl History {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            record: Mutex::default(),
        }
    }

    /// The moment before a request is sent.
    pub fn begin(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a test's time")
    }

    /// The time from that moment until now, when the answer is there or the connection broke.
    pub fn since(&self, began: u64) -> Span {
        let ended = self.begin();
        Span { began, ended }
    }

    pub fn created(&self, id: &str, user: &str, is_short: bool, created: Span) {
        self.record().create(id, user, is_short, created);
    }

    /// A creation was not answered.
    pub fn creation_lost(&self, user: &str, span: Span) {
        self.record().lose(user, span);
    }

    pub fn learned(&self, id: &str, span: Span, learned: Learned) {
        self.record().learn(id, span, learned);
    }

    pub fn count_check(&self) {
        self.record().checks += 1;
    }

    pub fn count_broken(&self) {
        self.record().broken += 1;
    }

    pub fn checks(&self) -> usize {
        self.record().checks
    }

    /// Says what cannot be.
    pub fn judge(&self) -> Result<(), String> {
        self.record().judge(SESSIONS_PER_USER_MAX)
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().expect("no client failed")
    }
}

impl Record {
    fn create(&mut self, id: &str, user: &str, is_short: bool, created: Span) {
        let told = Told {
            user: user.to_owned(),
            created,
            is_short,
            learned: self.early.remove(id).unwrap_or_default(),
        };
        let known = self.sessions.insert(id.to_owned(), told);
        assert!(known.is_none(), "{id} was given twice");
    }

    fn lose(&mut self, user: &str, span: Span) {
        self.lost.entry(user.to_owned()).or_default().push(span);
    }

    fn learn(&mut self, id: &str, span: Span, learned: Learned) {
        match self.sessions.get_mut(id) {
            Some(told) => told.learned.push((span, learned)),
            None => self.early.entry(id.to_owned()).or_default().push((span, learned)),
        }
    }

    fn judge(&self, sessions_per_user_max: usize) -> Result<(), String> {
        for (id, told) in &self.sessions {
            let lost = self.lost.get(&told.user).map(Vec::as_slice).unwrap_or_default();
            told.judge_ending(lost)
                .and_then(|()| told.judge_successors())
                .and_then(|()| told.judge_data())
                .map_err(|wrong| format!("the session {id} of {}: {wrong}; {told:?}", told.user))?;
        }
        self.judge_limits(sessions_per_user_max)
    }

    /// No user has more active sessions than they may, at any moment.
    fn judge_limits(&self, max: usize) -> Result<(), String> {
        let mut turns: BTreeMap<&str, Vec<(u64, i32)>> = BTreeMap::new();
        for told in self.sessions.values() {
            let (from, to) = (told.created.ended, told.last_good());
            if from < to {
                let turns = turns.entry(&told.user).or_default();
                turns.extend([(from, 1), (to, -1)]);
            }
        }
        for (user, mut turns) in turns {
            turns.sort_unstable();
            let mut active = 0;
            for (moment, change) in turns {
                active += change;
                if usize::try_from(active).is_ok_and(|active| active > max) {
                    return Err(format!("{user} had {active} active sessions at {moment}"));
                }
            }
        }
        Ok(())
    }
}

impl Told {
    /// It was surely active from its creation's answer to here: it was found good by something that began then.
    fn last_good(&self) -> u64 {
        let good = self.learned.iter().filter(|(_, learned)| learned.is_good());
        good.map(|(span, _)| span.began)
            .max()
            .unwrap_or(self.created.began)
    }

    /// There must be a moment at which it ended: after all that began before and found it good, before all that had been answered by
    /// then and found it over, and within something that ends it, for the reason that is told.
    fn judge_ending(&self, lost_creations: &[Span]) -> Result<(), String> {
        let last_good = self.last_good();
        let over = self.learned.iter().filter(|(_, learned)| learned.is_over());
        let Some(first_over) = over.map(|(span, _)| span.ended).min() else {
            return Ok(());
        };
        if last_good > first_over {
            return Err(format!(
                "it had ended by {first_over}, and was good after {last_good}"
            ));
        }
        let mut unknown = self
            .learned
            .iter()
            .filter(|(_, learned)| matches!(learned, Learned::Unknown));
        if let Some((span, _)) = unknown.find(|(span, _)| span.ended < last_good + UNKNOWN_AFTER) {
            return Err(format!(
                "it was good after {last_good} and forgotten by {}, before its retention was over",
                span.ended
            ));
        }
        let mut reasons = self.learned.iter().filter_map(|(_, learned)| learned.reason());
        let reason = reasons.next();
        if let Some(other) = reasons.find(|&other| Some(other) != reason) {
            return Err(format!("it ended for two reasons, {reason:?} and {other:?}"));
        }
        let can_be = |cause| reason.is_none_or(|reason| reason == cause);
        let told = self
            .learned
            .iter()
            .filter(|(_, learned)| learned.cause().is_some_and(can_be))
            .map(|(span, _)| span);
        let untold = lost_creations.iter().filter(|_| can_be(MADE_ROOM));
        let was_ended = told
            .chain(untold)
            .any(|span| span.began <= first_over && last_good <= span.ended);
        let may_have_run_out = self.is_short && can_be(RAN_OUT);
        if !was_ended && !may_have_run_out {
            return Err(format!(
                "it was good after {last_good} and over by {first_over}, and nobody ended it"
            ));
        }
        Ok(())
    }

    /// Everybody who renews a token is given the same one, or is told that the one they have is the latest.
    fn judge_successors(&self) -> Result<(), String> {
        let mut successors = HashMap::new();
        for (_, learned) in &self.learned {
            if let Learned::Renewed { token, successor } = learned
                && token != successor
                && successors
                    .insert(token, successor)
                    .is_some_and(|other| other != successor)
            {
                return Err("one token has two successors".to_owned());
            }
        }
        Ok(())
    }

    /// Its data has one version after another: each is written once, has one content, and is seen by all that begins later.
    fn judge_data(&self) -> Result<(), String> {
        let mut seen: Vec<(Span, Data)> = self
            .learned
            .iter()
            .filter_map(|(span, learned)| match learned {
                Learned::Data(data) => Some((*span, *data)),
                _ => None,
            })
            .collect();
        let mut numbers = HashMap::new();
        let mut written = HashSet::new();
        for (_, data) in &seen {
            if *numbers.entry(data.version).or_insert(data.number) != data.number {
                return Err(format!("version {} of its data is two", data.version));
            }
            if data.is_written && !written.insert(data.version) {
                return Err(format!("version {} of its data was written twice", data.version));
            }
        }
        let mut answered = seen.clone();
        answered.sort_unstable_by_key(|(span, _)| span.ended);
        seen.sort_unstable_by_key(|(span, _)| span.began);
        let mut answered = answered.into_iter().peekable();
        let mut latest = 0;
        for (span, data) in seen {
            while let Some((_, before)) = answered.next_if(|(before, _)| before.ended < span.began) {
                latest = latest.max(before.version);
            }
            if data.version < latest || (data.is_written && data.version == latest) {
                return Err(format!(
                    "after version {latest} of its data came {data:?} at {span:?}"
                ));
            }
        }
        Ok(())
    }
}

impl Learned {
    /// Whether the session was active at some moment of this.
    fn is_good(&self) -> bool {
        matches!(self, Self::Good | Self::Renewed { .. } | Self::Data(_))
    }

    /// Whether it has ended by the end of this.
    fn is_over(&self) -> bool {
        matches!(
            self,
            Self::Over { .. } | Self::Unlisted | Self::Unknown | Self::MadeRoom | Self::Revoked
        )
    }

    /// The reason of its ending that this tells.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Over { reason } => Some(reason),
            Self::MadeRoom => Some(MADE_ROOM),
            _ => None,
        }
    }

    /// The reason for which this can have ended it.
    fn cause(&self) -> Option<&str> {
        match self {
            Self::Revoked | Self::PerhapsRevoked => Some(SIGNED_OUT),
            Self::MadeRoom => Some(MADE_ROOM),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_clients_are_told_is_linearizable_also_when_the_server_is_killed() {
    let checks = setting("SESSIOND_HISTORY_CHECKS", CHECKS);
    let mut lives = Lives::new();
    while lives.history.checks() < checks {
        let server = lives.begin().await;
        lives
            .kill_under_load(server, Mix::Checks, OPERATIONS_PER_LIFE_MAX)
            .await;
    }
    lives.end().await;
    println!("{lives}");
}

mod judge {
    use super::*;

    const ID: &str = "session";
    const USER: &str = "ada";

    fn span(began: u64, ended: u64) -> Span {
        Span { began, ended }
    }

    #[test]
    fn ending_that_is_learned_before_the_creation_is_noted_counts() {
        for (later, is_right) in [(over(MADE_ROOM), true), (Learned::Good, false)] {
            let mut record = Record::default();
            record.learn(ID, span(1, 2), Learned::MadeRoom);
            record.create(ID, USER, false, span(0, 3));
            record.learn(ID, span(4, 5), later);
            let verdict = record.judge(2);
            assert_eq!(verdict.is_ok(), is_right, "{verdict:?}");
        }
    }

    /// Judges what was learned of one session that was created from 0 to 1; a user may have two.
    fn judge(learned: impl IntoIterator<Item = (Span, Learned)>) -> Result<(), String> {
        let mut record = Record::default();
        record.create(ID, USER, false, span(0, 1));
        for (span, learned) in learned {
            record.learn(ID, span, learned);
        }
        record.judge(2)
    }

    #[track_caller]
    fn assert_wrong(result: Result<(), String>, why: &str) {
        let wrong = result.expect_err(why);
        assert!(wrong.contains(why), "{wrong}");
    }

    fn renewed(successor: &str) -> Learned {
        let [token, successor] = ["first", successor].map(str::to_owned);
        Learned::Renewed { token, successor }
    }

    fn over(reason: &str) -> Learned {
        let reason = reason.to_owned();
        Learned::Over { reason }
    }

    fn data(version: u64, number: u64, is_written: bool) -> Learned {
        Learned::Data(Data {
            version,
            number,
            is_written,
        })
    }

    #[test]
    fn what_can_be_is_right() {
        use Learned::{Good, PerhapsRevoked, Revoked, Unlisted};
        let ended = [
            (span(2, 3), renewed("second")),
            (span(4, 5), renewed("second")),
            (span(6, 9), data(1, 7, true)),
            (span(8, 10), data(1, 7, false)),
            (span(7, 11), PerhapsRevoked),
            (span(12, 16), Good),
            (span(13, 17), Revoked),
            (span(14, 15), over(SIGNED_OUT)),
            (span(18, 19), Unlisted),
            (span(20, 12 + UNKNOWN_AFTER), Learned::Unknown),
        ];
        assert_eq!(judge(ended), Ok(()));
    }

    #[test]
    fn check_that_began_after_the_answer_to_an_ending_must_be_refused() {
        let history = [(span(2, 3), Learned::Revoked), (span(4, 5), Learned::Good)];
        assert_wrong(judge(history), "it had ended by 3, and was good after 4");
    }

    #[test]
    fn check_that_began_after_a_refusal_must_be_refused() {
        let history = [
            (span(2, 9), Learned::Revoked),
            (span(3, 4), Learned::Unlisted),
            (span(5, 6), Learned::Good),
        ];
        assert_wrong(judge(history), "it had ended by 4, and was good after 5");
    }

    #[test]
    fn session_must_be_good_until_something_ends_it() {
        let history = [(span(2, 3), Learned::Unlisted), (span(4, 5), Learned::Revoked)];
        assert_wrong(judge(history), "nobody ended it");
    }

    #[test]
    fn session_must_have_ended_for_the_reason_of_something_that_can_have_ended_it() {
        for (cause, reason) in [(Learned::Revoked, SIGNED_OUT), (Learned::MadeRoom, MADE_ROOM)] {
            assert_eq!(judge([(span(2, 3), cause), (span(4, 5), over(reason))]), Ok(()));
        }
        let history = [(span(2, 3), Learned::Revoked), (span(4, 5), over(MADE_ROOM))];
        assert_wrong(judge(history), "nobody ended it");
        let history = [(span(2, 3), Learned::Revoked), (span(4, 5), over(RAN_OUT))];
        assert_wrong(judge(history), "nobody ended it");
    }

    #[test]
    fn session_must_end_for_one_reason() {
        let history = [
            (span(2, 3), Learned::MadeRoom),
            (span(4, 5), Learned::Revoked),
            (span(6, 7), over(SIGNED_OUT)),
        ];
        assert_wrong(judge(history), "it ended for two reasons");
    }

    #[test]
    fn session_must_not_be_forgotten_before_its_retention_is_over() {
        let history = [
            (span(2, 3), Learned::Revoked),
            (span(4, UNKNOWN_AFTER - 1), Learned::Unknown),
        ];
        assert_wrong(
            judge(history),
            "forgotten by 1499999, before its retention was over",
        );
    }

    #[test]
    fn ending_that_had_not_happened_by_its_kill_does_not_happen_later() {
        let history = [
            (span(2, 3), Learned::PerhapsRevoked),
            (span(4, 5), Learned::Good),
            (span(6, 7), Learned::Unlisted),
        ];
        assert_wrong(judge(history), "nobody ended it");
    }

    #[test]
    fn creation_that_was_lost_may_have_ended_another_session_of_its_user_alone() {
        let judge = |user| {
            let mut record = Record::default();
            record.create(ID, USER, false, span(0, 1));
            record.lose(user, span(2, 3));
            record.learn(ID, span(4, 5), over(MADE_ROOM));
            record.judge(2)
        };
        assert_eq!(judge(USER), Ok(()));
        assert_wrong(judge("bob"), "nobody ended it");
    }

    #[test]
    fn short_session_may_end_by_itself_but_once() {
        let judge = |last| {
            let mut record = Record::default();
            record.create(ID, USER, true, span(0, 1));
            record.learn(ID, span(2, 3), Learned::Unlisted);
            record.learn(ID, span(4, 5), last);
            record.judge(2)
        };
        assert_eq!(judge(Learned::Unlisted), Ok(()));
        assert_wrong(judge(Learned::Good), "it had ended by 3");
    }

    #[test]
    fn token_must_have_one_successor() {
        let history = [(span(2, 5), renewed("second")), (span(3, 4), renewed("another"))];
        assert_wrong(judge(history), "one token has two successors");
    }

    #[test]
    fn token_may_be_its_own_successor_beside_another() {
        let history = [(span(2, 5), renewed("first")), (span(6, 7), renewed("second"))];
        assert_eq!(judge(history), Ok(()));
    }

    #[test]
    fn data_that_was_written_must_be_seen_by_what_begins_later() {
        let history = [(span(2, 3), data(2, 8, true)), (span(4, 5), data(1, 7, false))];
        assert_wrong(judge(history), "after version 2 of its data came");
    }

    #[test]
    fn version_of_data_must_be_written_once_and_have_one_content() {
        let twice = [(span(2, 5), data(1, 7, true)), (span(3, 4), data(1, 7, true))];
        assert_wrong(judge(twice), "was written twice");
        let two = [(span(2, 5), data(1, 7, true)), (span(3, 4), data(1, 8, false))];
        assert_wrong(judge(two), "is two");
    }

    #[test]
    fn user_must_not_have_more_sessions_at_any_moment_than_allowed() {
        let judge = |last_use_of_the_first| {
            let mut record = Record::default();
            for (number, last_use) in [last_use_of_the_first, 20, 21].into_iter().enumerate() {
                let id = number.to_string();
                let at = u64::try_from(number).expect("a small number") * 3;
                record.create(&id, USER, false, span(at, at + 1));
                record.learn(&id, span(last_use, last_use + 10), Learned::Good);
            }
            record.judge(2)
        };
        assert_eq!(judge(6), Ok(()), "it may have ended while the third was created");
        assert_wrong(judge(19), "ada had 3 active sessions at 7");
    }
}
