//! The only reader of time.
//!
//! A [`Clock`] never goes back: it answers the largest of the wall clock, everything it answered before, and the
//! largest time that the store remembers ([`Clock::raise_to`]). So a wall clock that is set back revives no
//! session, and the order of sign-ins stays. `sessiond dev` and the tests move it forward ([`Clock::advance`]);
//! a manual clock moves only so.
//!
//! While the wall clock is behind, that time stands still. What must go on then (a budget that refills, a retry) goes by
//! [`Clock::running`], which is no time of day; what others date by their clocks (a backup, a message) by [`Clock::wall`].

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};

/// ISO 8601 in its basic form, without what some file systems do not take in a name.
const COMPACT: &str = "%Y%m%dT%H%M%SZ";

/// A moment, in milliseconds since the Unix epoch (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment moved by `millis`, which may be negative; it stops at the ends of the range.
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this moment; negative if `earlier` is later.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment as HTTP writes it in `Date` (RFC 9110 §5.6.7), to the second.
    pub fn to_http_date(self) -> String {
        self.to_utc().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// Reads what HTTP writes in `Date`, in the one of its forms that is not obsolete.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        chrono::NaiveDateTime::parse_from_str(text, "%a, %d %b %Y %H:%M:%S GMT")
            .ok()
            .map(|moment| Self(moment.and_utc().timestamp_millis()))
    }

    /// The moment as it may stand in the name of a file, to the second: `20261120T215000Z`. In the order of names they are in
    /// the order of time.
    pub fn to_compact(self) -> String {
        self.to_utc().format(COMPACT).to_string()
    }

    /// Reads what [`Self::to_compact`] writes, and nothing else.
    pub fn parse_compact(text: &str) -> Option<Self> {
        let moment = chrono::NaiveDateTime::parse_from_str(text, COMPACT).ok()?;
        let read = Self(moment.and_utc().timestamp_millis());
        (read.to_compact() == text).then_some(read)
    }

    fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Reads RFC 3339 text; a fraction finer than a millisecond is cut.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|moment| Self(moment.timestamp_millis()))
    }
}

impl Timestamp {
    /// RFC 3339 in UTC with milliseconds, if the year has four digits. Every answer has half a dozen of these, and a
    /// format's directives take longer to follow than to do.
    pub fn encode(self) -> Option<[u8; 24]> {
        let moment = self.to_utc();
        let year @ 0..=9_999 = u32::try_from(moment.year()).ok()? else {
            return None;
        };
        let digit = |number: u32| b'0' + number as u8;
        let two = |number: u32| [digit(number / 10), digit(number - number / 10 * 10)];
        let [y1, y2] = two(year / 100);
        let [y3, y4] = two(year % 100);
        let [mo1, mo2] = two(moment.month());
        let [d1, d2] = two(moment.day());
        let [h1, h2] = two(moment.hour());
        let [mi1, mi2] = two(moment.minute());
        let [s1, s2] = two(moment.second());
        let millis = moment.timestamp_subsec_millis();
        let (f1, [f2, f3]) = (digit(millis / 100), two(millis % 100));
        Some([
            y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T', h1, h2, b':', mi1, mi2, b':', s1, s2, b'.',
            f1, f2, f3, b'Z',
        ])
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, `2026-11-20T21:50:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.encode() {
            Some(text) => f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?),
            None => f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }
}

/// Tells the time; shared by everything that asks for it.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    /// Added to the source's time; moved by [`Clock::advance`].
    offset_millis: AtomicI64,
    /// How far [`Clock::advance`] has moved it in all, by which it has run longer.
    advanced_millis: AtomicI64,
    /// The largest time told or raised to.
    high_water: AtomicI64,
}

#[derive(Debug)]
enum Source {
    System {
        /// When it was made.
        since: Instant,
    },
    Manual(Timestamp),
}

/// More than any process runs, and little enough to be counted in nanoseconds with room to spare: 100 years.
const RUNNING_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Clock {
    /// The wall clock.
    pub fn system() -> Self {
        Self::new(Source::System {
            since: Instant::now(),
        })
    }

    /// A clock that stands at `start` until it is advanced.
    pub fn manual(start: Timestamp) -> Self {
        Self::new(Source::Manual(start))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            offset_millis: AtomicI64::new(0),
            advanced_millis: AtomicI64::new(0),
            high_water: AtomicI64::new(i64::MIN),
        }
    }

    /// The present moment; never earlier than any answer before.
    pub fn now(&self) -> Timestamp {
        let read = self.unbounded();
        // Most calls fall into a millisecond that was already told: then nothing is written, and no cache line moves.
        let told = self.high_water.load(Ordering::Acquire);
        if read <= told {
            return Timestamp(told);
        }
        Timestamp(self.high_water.fetch_max(read, Ordering::AcqRel).max(read))
    }

    /// What the wall clock says, for others who compare it with theirs: it goes back when that is set back, and moves
    /// only with it. Nothing about a session follows from it.
    pub fn wall(&self) -> Timestamp {
        match self.source {
            Source::System { .. } => Timestamp(Utc::now().timestamp_millis()),
            Source::Manual(_) => Timestamp(self.unbounded()),
        }
    }

    /// For how long the clock has run. It goes on evenly, whatever the wall clock is set to.
    pub fn running(&self) -> Duration {
        let measured = match self.source {
            Source::System { since } => since.elapsed(),
            Source::Manual(_) => Duration::ZERO,
        };
        let millis = u64::try_from(self.advanced_millis.load(Ordering::Acquire)).unwrap_or_default();
        measured
            .saturating_add(Duration::from_millis(millis))
            .min(RUNNING_MAX)
    }

    /// From now on the clock answers at least `floor`.
    pub fn raise_to(&self, floor: Timestamp) {
        self.high_water.fetch_max(floor.0, Ordering::AcqRel);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_millis.fetch_add(millis, Ordering::AcqRel);
        self.advanced_millis.fetch_add(millis, Ordering::AcqRel);
    }

    /// Shifts the clock so that it goes on from `moment` instead of standing there until the wall clock has caught
    /// up. For `sessiond dev`, where a person may have moved the clock by days before a restart, and whose sample
    /// people signed in before today.
    pub fn go_on_from(&self, moment: Timestamp) {
        let behind = moment.0.saturating_sub(self.unbounded());
        self.offset_millis.fetch_add(behind, Ordering::AcqRel);
    }

    /// Milliseconds by which the store's time is ahead of this clock's source; 0 or less when it is not.
    pub fn millis_behind(&self, stored: Timestamp) -> i64 {
        stored.0.saturating_sub(self.unbounded())
    }

    fn unbounded(&self) -> i64 {
        let source = match self.source {
            Source::System { .. } => Utc::now().timestamp_millis(),
            Source::Manual(start) => start.0,
        };
        source.saturating_add(self.offset_millis.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_in_a_name_is_read_back_and_nothing_else_is() {
        let moment = Timestamp::from_millis(1_795_211_400_000);
        let text = moment.to_compact();
        assert_eq!(text, "20261120T215000Z");
        assert_eq!(Timestamp::parse_compact(&text), Some(moment));
        for other in [
            "",
            "20261120T215000",
            "20261320T215000Z",
            "2026120T215000Z",
            "20261120T215000Z ",
        ] {
            assert_eq!(Timestamp::parse_compact(other), None, "{other:?}");
        }
    }

    #[test]
    fn clock_never_goes_back() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        assert_eq!(clock.now().as_millis(), 1_000);
        clock.raise_to(Timestamp::from_millis(5_000));
        assert_eq!(clock.now().as_millis(), 5_000, "raised by the store");
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now().as_millis(), 5_000, "still behind what was told");
        clock.advance(Duration::from_secs(10));
        assert_eq!(clock.now().as_millis(), 12_000);
        clock.go_on_from(Timestamp::from_millis(3_000));
        assert_eq!(clock.now().as_millis(), 12_000, "a step back changes no answer");
    }

    #[test]
    fn wall_clock_is_told_as_it_is() {
        let clock = Clock::system();
        let before = clock.now();
        clock.advance(Duration::from_secs(86_400));
        clock.raise_to(before.plus_millis(7 * 86_400_000));
        assert!(clock.wall().millis_since(before) < 86_400_000, "it was not moved");
    }

    #[test]
    fn running_goes_on_whatever_the_time_of_day_is_set_to() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        clock.raise_to(Timestamp::from_millis(90_000_000));
        clock.go_on_from(Timestamp::from_millis(-5_000));
        assert_eq!(clock.running(), Duration::ZERO);
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.running(), Duration::from_millis(1_500));
        assert_eq!(clock.now().as_millis(), 90_000_000, "which stands still");

        let system = Clock::system();
        let before = system.running();
        system.advance(Duration::from_secs(7));
        assert!(system.running() >= before + Duration::from_secs(7));
        system.advance(RUNNING_MAX);
        assert_eq!(system.running(), RUNNING_MAX);
    }

    #[test]
    fn timestamps_are_rfc_3339_with_milliseconds() {
        let moment = Timestamp::parse_rfc3339("2026-11-20T21:50:00.5+01:00").expect("valid");
        assert_eq!(moment.to_string(), "2026-11-20T20:50:00.500Z");
        assert_eq!(moment.to_http_date(), "Fri, 20 Nov 2026 20:50:00 GMT");
        let read = Timestamp::parse_http_date("Fri, 20 Nov 2026 20:50:00 GMT").expect("valid");
        assert_eq!(moment.millis_since(read), 500);
        assert_eq!(Timestamp::parse_http_date("Friday"), None);
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        let moments = [
            i64::MIN,
            -62_167_219_200_001,
            -62_167_219_200_000,
            -1,
            0,
            951_827_696_789,
        ];
        for millis in moments
            .into_iter()
            .chain([253_402_300_799_999, 253_402_300_800_000, i64::MAX])
        {
            let moment = Timestamp::from_millis(millis);
            let expected = moment.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
            assert_eq!(moment.to_string(), expected);
        }
    }
}
