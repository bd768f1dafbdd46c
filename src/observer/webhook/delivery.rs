//! The deliveries of one webhook: events become rows, rows become attempts.
//!
//! Each webhook has a task. It reads events on from its cursor, as far as there is room for pending deliveries (the
//! rest waits in the events), and keeps a few attempts under way. Of each subject only the oldest pending delivery is
//! attempted, so that what happened to a session is told in its order; those of other subjects go on beside it. An
//! attempt keeps its place until its result is on disk: what a kill repeats is what was under way.
//!
//! Time is the clock's, which tests and `sessiond dev` move; a wait therefore looks at it now and then.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Answered, Message};
use super::{PENDING_MAX, Webhooks, WithSecrets};
use crate::clock::{Clock, Timestamp};
use crate::error::Error;
use crate::event::{EventKind, RecordedEvent};
use crate::observer::{EventFilter, FollowError, Follower};
use crate::store::webhooks::{
    Attempted, Delivery, LastAttempt, NewDeliveries, NewDelivery, Verdict, WebhookRecord, WebhookState,
};
use crate::store::{About, EventList, EventsFrom};
use crate::webhook::{FailedAttempt, WebhookId, next_attempt, retry_after_millis};

/// Attempts of one webhook at once: a receiver answers within some 100 ms, so that these are some 40 events a second.
pub(super) const ATTEMPTS_MAX: usize = 4;
/// The same for one whose latest attempt was not answered at all, or slowly, or that was never attempted. Such ones may
/// take long, and places from others.
const ATTEMPTS_OF_SILENT_MAX: usize = 1;
/// An answer that takes longer than this is slow: at that pace all places together make 16 attempts a second.
const SLOW: Duration = Duration::from_secs(2);
/// Pending deliveries of one webhook that were never attempted; further events wait where they are. Those that were and
/// wait for their next attempt do not count here: else a thousand that one bug refuses would hold up all others for a
/// day.
const FRESH_MAX: u64 = 1_000;
/// What stands for a receiver that did not ask to be left alone.
const NOT_HELD: i64 = i64::MIN;
/// Deliveries that are looked up at once.
const READY_LEN: usize = 64;
/// How often a wait looks at the clock, which may have been moved.
const CLOCK_LOOK: Duration = Duration::from_millis(250);
/// How often the cursor is moved past events that were not asked for, so that it stays within what is kept.
const CURSOR_SAVE: Duration = Duration::from_secs(600);
/// How long a failing store is left alone.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// One webhook's deliveries.
pub(super) struct Line {
    webhooks: Arc<Webhooks>,
    id: WebhookId,
    follower: Option<(Vec<EventKind>, Follower)>,
    /// Events that are not rows yet.
    fetched: VecDeque<RecordedEvent>,
    /// Deliveries that can be attempted, each of another subject, none of one that is being attempted.
    ready: VecDeque<Delivery>,
    /// When the next one becomes due that is not among those.
    next_at: Option<Timestamp>,
    attempts: JoinSet<String>,
    /// The subjects of the attempts under way.
    subjects: HashSet<String>,
    /// Whether the latest attempt had no answer at all, or a slow one, or there was none.
    is_silent: Arc<AtomicBool>,
    /// Until when the receiver asks to be left alone, in milliseconds. Only here: after a restart it may ask again.
    held_until: Arc<AtomicI64>,
    /// What this one has added to the gauge.
    pending_shown: i64,
}

/// Why a line goes on, or not.
enum Next {
    GoOn,
    /// The server stops.
    Stop,
    /// The webhook is gone.
    Gone,
}

impl Line {
    pub(super) fn new(webhooks: Arc<Webhooks>, webhook: &WebhookRecord) -> Self {
        let last = webhook.last_attempt.as_ref();
        let is_silent = last.is_none_or(|attempt| attempt.status.is_none());
        Self {
            webhooks,
            id: webhook.id,
            follower: None,
            fetched: VecDeque::new(),
            ready: VecDeque::new(),
            next_at: None,
            attempts: JoinSet::new(),
            subjects: HashSet::new(),
            is_silent: Arc::new(AtomicBool::new(is_silent)),
            held_until: Arc::new(AtomicI64::new(NOT_HELD)),
            pending_shown: 0,
        }
    }

    /// Delivers until the webhook is deleted or `stop` changes; then attempts under way end, as far as they are let.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.webhooks.listen(self.id);
        let mut is_failing = false;
        loop {
            if changes.has_changed().unwrap_or(true) {
                self.forget();
            }
            changes.mark_unchanged();
            let next = match self.step().await {
                Ok(Next::GoOn) => {
                    is_failing = false;
                    self.wait(&mut stop, &mut changes).await
                }
                Ok(next) => next,
                Err(error) => {
                    if !is_failing {
                        log::error!(
                            "deliveries of the webhook {} wait for the store: {error}",
                            self.id
                        );
                    }
                    is_failing = true;
                    tokio::select! {
                        _ = stop.changed() => Next::Stop,
                        () = tokio::time::sleep(STORE_RETRY) => Next::GoOn,
                    }
                }
            };
            match next {
                Next::GoOn => {}
                Next::Gone => return, // with its attempts
                Next::Stop => break,
            }
        }
        while self.attempts.join_next().await.is_some() {}
        if let Err(error) = self.save_cursor().await {
            log::debug!(
                "the cursor of the webhook {} could not be moved: {error}",
                self.id
            );
        }
    }

    /// Does what can be done now.
    async fn step(&mut self) -> Result<Next, Error> {
        loop {
            let Some(webhook) = self.webhooks.store.find_webhook(self.id).await? else {
                return Ok(Next::Gone);
            };
            self.show_pending(i64::try_from(webhook.pending_count).unwrap_or(i64::MAX));
            let webhook = self.webhooks.open(webhook);
            if webhook.state() != WebhookState::Active {
                self.follower = None;
                self.fetched.clear();
                self.ready.clear();
                self.next_at = None;
                return Ok(Next::GoOn);
            }
            self.follow(&webhook);
            if self.enqueue(webhook.record.pending_count).await? {
                break;
            }
            // It was changed meanwhile: what was fetched is read anew, by what is asked for now.
        }
        self.start().await?;
        Ok(Next::GoOn)
    }

    /// Somebody has changed something: it may be another webhook by now, what was to be attempted may be done, and who
    /// asks for deliveries does not mean after the time that the receiver asked for.
    fn forget(&mut self) {
        self.ready.clear();
        self.held_until.store(NOT_HELD, Ordering::Relaxed);
    }

    /// Until when nothing is attempted.
    fn held_until(&self) -> Option<Timestamp> {
        let until = Timestamp::from_millis(self.held_until.load(Ordering::Relaxed));
        (self.webhooks.clock.now() < until).then_some(until)
    }

    fn follow(&mut self, webhook: &WithSecrets) {
        let record = &webhook.record;
        if self
            .follower
            .as_ref()
            .is_some_and(|(kinds, _)| *kinds == record.types)
        {
            return;
        }
        // From the cursor, so that what was fetched and is no row yet is read again, by the kinds that are asked for
        // now.
        self.fetched.clear();
        let filter = EventFilter {
            app: Some(record.app.clone()),
            about: About::Anyone,
            kinds: record.types.clone(),
        };
        let follower = self.webhooks.feed.follow(filter, record.cursor);
        self.follower = Some((record.types.clone(), follower));
    }

    /// Makes rows of events, as far as there is room; `false` if they have to be read anew.
    async fn enqueue(&mut self, pending_count: u64) -> Result<bool, Error> {
        if self.fetched.is_empty() {
            return Ok(true);
        }
        // Fresh ones are no more than all, and are counted only when that matters.
        let fresh_count = if pending_count < FRESH_MAX {
            pending_count
        } else {
            self.webhooks.store.count_fresh(self.id).await?
        };
        let room = FRESH_MAX
            .saturating_sub(fresh_count)
            .min(PENDING_MAX.saturating_sub(pending_count));
        let room = usize::try_from(room).unwrap_or_default();
        let some: Vec<NewDelivery> = self.fetched.iter().take(room).map(NewDelivery::of).collect();
        let Some(last) = some.last().map(|delivery| delivery.event) else {
            return Ok(true);
        };
        let count = some.len();
        if !self.make_rows(some, last).await? {
            return Ok(false);
        }
        self.fetched.drain(..count);
        self.show_pending(self.pending_shown + i64::try_from(count).unwrap_or(i64::MAX));
        Ok(true)
    }

    /// Moves the cursor, if those types are still asked for by which was read; else whatever was read is forgotten.
    async fn make_rows(&mut self, deliveries: Vec<NewDelivery>, cursor: u64) -> Result<bool, Error> {
        let Some((types, _)) = &self.follower else {
            return Ok(false);
        };
        let new = NewDeliveries {
            deliveries,
            types: types.clone(),
            cursor,
        };
        let now = self.webhooks.clock.now();
        let is_moved = self.webhooks.store.enqueue(self.id, new, now).await?;
        if !is_moved {
            self.follower = None;
            self.fetched.clear();
        }
        Ok(is_moved)
    }

    /// Begins attempts, as many as there may be.
    async fn start(&mut self) -> Result<(), Error> {
        while self.has_place() && self.held_until().is_none() {
            if self.ready.is_empty() {
                let now = self.webhooks.clock.now();
                let found = self
                    .webhooks
                    .store
                    .due_deliveries(self.id, now, READY_LEN)
                    .await?;
                self.next_at = found.next_at;
                let due = found.due.into_iter();
                self.ready = due
                    .filter(|delivery| !self.subjects.contains(&delivery.subject))
                    .collect();
            }
            let Some(delivery) = self.ready.pop_front() else {
                break;
            };
            self.subjects.insert(delivery.subject.clone());
            let attempt = Attempt {
                webhooks: Arc::clone(&self.webhooks),
                id: self.id,
                delivery,
                is_silent: Arc::clone(&self.is_silent),
                held_until: Arc::clone(&self.held_until),
            };
            self.attempts.spawn(attempt.make());
        }
        Ok(())
    }

    fn has_place(&self) -> bool {
        let max = if self.is_silent.load(Ordering::Relaxed) {
            ATTEMPTS_OF_SILENT_MAX
        } else {
            ATTEMPTS_MAX
        };
        self.attempts.len() < max
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self, stop: &mut watch::Receiver<bool>, changes: &mut watch::Receiver<u64>) -> Next {
        let has_place = self.has_place();
        let is_following = self.follower.is_some() && self.fetched.is_empty();
        let next_at = self.held_until().or(self.next_at);
        let events = async {
            match &mut self.follower {
                Some((_, follower)) => follower.next().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match next_at {
                Some(at) => wait_for(&self.webhooks.clock, at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.changed() => Next::Stop,
            changed = changes.changed() => {
                self.forget();
                if changed.is_err() { Next::Stop } else { Next::GoOn }
            }
            Some(ended) = self.attempts.join_next() => {
                match ended {
                    Ok(subject) => {
                        self.subjects.remove(&subject);
                    }
                    Err(error) => {
                        log::error!("an attempt of the webhook {} failed inside: {error}", self.id);
                        // Whose it was is not known any more: all others end first.
                        while self.attempts.join_next().await.is_some() {}
                        self.subjects.clear();
                        self.ready.clear();
                        // It may fail at once again.
                        tokio::time::sleep(STORE_RETRY).await;
                    }
                }
                Next::GoOn
            }
            next = events, if is_following => match next {
                Ok(events) => {
                    self.fetched.extend(events);
                    Next::GoOn
                }
                Err(FollowError::Closed) => Next::Stop,
                Err(FollowError::Gone) => {
                    log::warn!(
                        "the webhook {} may have missed events: some were deleted before they were looked at for it",
                        self.id
                    );
                    Next::GoOn
                }
                Err(FollowError::Store(error)) => {
                    log::error!("events for the webhook {} cannot be read and are tried again: {error}", self.id);
                    tokio::time::sleep(STORE_RETRY).await;
                    Next::GoOn
                }
            },
            () = due, if has_place => Next::GoOn,
            () = tokio::time::sleep(CURSOR_SAVE) => {
                if let Err(error) = self.save_cursor().await {
                    log::debug!("the cursor of the webhook {} could not be moved: {error}", self.id);
                }
                Next::GoOn
            }
        }
    }

    /// Moves the cursor to where the follower is, unless something that it has read is no row yet.
    async fn save_cursor(&mut self) -> Result<(), Error> {
        let Some((_, follower)) = self.follower.as_mut().filter(|_| self.fetched.is_empty()) else {
            return Ok(());
        };
        let place = follower.place();
        self.make_rows(Vec::new(), place).await.map(drop)
    }

    fn show_pending(&mut self, count: i64) {
        let gauge = &self.webhooks.metrics.webhook_deliveries_pending;
        gauge.inc_by(count - self.pending_shown);
        self.pending_shown = count;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.webhooks.bells().remove(&self.id);
        self.show_pending(0);
    }
}

/// Waits until the clock says so.
async fn wait_for(clock: &Clock, at: Timestamp) {
    loop {
        let left = u64::try_from(at.millis_since(clock.now())).unwrap_or_default();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(CLOCK_LOOK)).await;
    }
}

/// One attempt of one delivery.
struct Attempt {
    webhooks: Arc<Webhooks>,
    id: WebhookId,
    delivery: Delivery,
    is_silent: Arc<AtomicBool>,
    held_until: Arc<AtomicI64>,
}

impl Attempt {
    /// Makes it, and writes down how it went; answers the subject, which is free again then.
    async fn make(self) -> String {
        let was_silent = self.is_silent.load(Ordering::Relaxed);
        let Some(_place) = self.webhooks.places.take(was_silent).await else {
            return self.delivery.subject; // the server stops: it is due at the next start
        };
        let at = self.webhooks.clock.now();
        // A place may have been long in coming: the receiver may want to be left alone by now.
        if at.as_millis() < self.held_until.load(Ordering::Relaxed) {
            return self.delivery.subject;
        }
        match self.attempt(at).await {
            Ok(Some(attempted)) => {
                self.count(&attempted.verdict);
                self.write(attempted).await;
            }
            Ok(None) => {}
            // Nothing was attempted; it is due as before.
            Err(error) => {
                log::error!("what a webhook is to get cannot be read and is tried again: {error}");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
        self.delivery.subject
    }

    /// `None` if the webhook gets nothing any more. It is read now, as it may be another than when a place was asked
    /// for: nothing goes to where it led, or by a secret that was taken from it.
    async fn attempt(&self, at: Timestamp) -> Result<Option<Attempted>, Error> {
        let Some(webhook) = self.webhooks.store.find_webhook(self.id).await? else {
            return Ok(None);
        };
        let webhook = self.webhooks.open(webhook);
        if webhook.state() != WebhookState::Active {
            return Ok(None);
        }
        let Some(event) = self.event().await? else {
            return Ok(Some(Attempted {
                attempt: LastAttempt {
                    at,
                    status: None,
                    error: Some("the event is no longer kept".to_owned()),
                },
                first_attempt_at: self.delivery.first_attempt_at,
                verdict: Verdict::Failed,
            }));
        };
        let began = Instant::now();
        let answered = self.send(&webhook, &event, at).await;
        self.is_silent
            .store(is_silent(&answered, began.elapsed()), Ordering::Relaxed);
        Ok(Some(self.judge(&webhook, answered, at)))
    }

    async fn event(&self) -> Result<Option<RecordedEvent>, Error> {
        let list = EventList {
            app: None,
            about: About::Anyone,
            kinds: Vec::new(),
            from: EventsFrom::After(self.delivery.event.saturating_sub(1)),
            limit: 1,
        };
        let page = self.webhooks.events.list_events(list).await?;
        let is_it = |recorded: &RecordedEvent| recorded.number == self.delivery.event;
        Ok(page.events.into_iter().find(is_it))
    }

    async fn send(
        &self,
        webhook: &WithSecrets,
        event: &RecordedEvent,
        at: Timestamp,
    ) -> Result<Answered, String> {
        let epoch = self.webhooks.feed.epoch();
        // The same each time, so that a receiver can tell a repetition.
        let id = epoch.id(event.number).to_string();
        let body = serde_json::json!({
            "type": event.event.kind.as_str(),
            "timestamp": event.event.occurred_at.to_string(),
            "data": event.body(epoch),
        });
        let body = body.to_string();
        let timestamp_secs = self.webhooks.sent_at();
        let message = Message {
            id: &id,
            timestamp_secs,
            signatures: webhook.sign(&id, timestamp_secs, &body, at),
            body,
        };
        self.webhooks.client.post(&webhook.record.url, message).await
    }

    /// What follows from an answer, or from there being none.
    fn judge(&self, webhook: &WithSecrets, answered: Result<Answered, String>, at: Timestamp) -> Attempted {
        let now = self.webhooks.clock.now();
        let (status, error, retry_after) = match answered {
            Ok(Answered { status, retry_after }) => {
                let error = (!is_success(status)).then(|| refusal(status));
                (Some(status), error, retry_after)
            }
            Err(error) => (None, Some(error), None),
        };
        let retry_after_millis = retry_after.and_then(|value| retry_after_millis(&value, now));
        // With these the receiver speaks of itself, not of this delivery.
        if let (Some(429 | 503), Some(millis)) = (status, retry_after_millis) {
            let until = now.plus_millis(millis).as_millis();
            self.held_until.fetch_max(until, Ordering::Relaxed);
        }
        let verdict = match status {
            Some(status) if is_success(status) => Verdict::Delivered,
            Some(410) => Verdict::Disable {
                reason: "its receiver answered 410 Gone".to_owned(),
                url: webhook.record.url.clone(),
            },
            _ => {
                let failed = FailedAttempt {
                    now,
                    first_at: self.delivery.first_attempt_at.unwrap_or(at),
                    attempts: self.delivery.attempts + 1,
                    retry_after_millis,
                };
                let random = getrandom::u32().expect("the operating system provides random bytes");
                next_attempt(&failed, random).map_or(Verdict::Failed, Verdict::Retry)
            }
        };
        Attempted {
            attempt: LastAttempt { at, status, error },
            first_attempt_at: self.delivery.first_attempt_at,
            verdict,
        }
    }

    fn count(&self, verdict: &Verdict) {
        let result = match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry(_) => "retried",
            Verdict::Failed => "failed",
            Verdict::Disable { reason, .. } => {
                log::warn!("the webhook {} is disabled: {reason}", self.id);
                "disabled"
            }
        };
        let deliveries = &self.webhooks.metrics.webhook_deliveries;
        deliveries.get_or_create(&[("result", result)]).inc();
    }

    /// Until it is written nothing else takes this place: an attempt whose result is lost would be made again.
    async fn write(&self, attempted: Attempted) {
        let (id, event) = (self.id, self.delivery.event);
        let mut is_told = false;
        loop {
            let now = self.webhooks.clock.now();
            let written = self
                .webhooks
                .store
                .record_attempt(id, event, attempted.clone(), now);
            let Err(error) = written.await else { return };
            if !is_told {
                log::error!("how an attempt of the webhook {id} went cannot be written yet: {error}");
            }
            is_told = true;
            tokio::time::sleep(STORE_RETRY).await;
        }
    }
}

/// Whether a receiver took long, or did not answer at all.
fn is_silent(answered: &Result<Answered, String>, took: Duration) -> bool {
    answered.is_err() || took > SLOW
}

/// Only this is one; a redirect is not followed, as it would lead elsewhere than whoever made the webhook said.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Why a status is no success.
pub(super) fn refusal(status: u16) -> String {
    if (300..400).contains(&status) {
        format!("the answer was {status}, and redirects are not followed")
    } else {
        format!("the answer was {status}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receiver_that_answers_slowly_counts_as_one_that_does_not() {
        let answered = || {
            Ok(Answered {
                status: 204,
                retry_after: None,
            })
        };
        assert!(!is_silent(&answered(), SLOW));
        assert!(is_silent(&answered(), SLOW + Duration::from_millis(1)));
        assert!(is_silent(&Err("no answer".to_owned()), Duration::ZERO));
    }
}
