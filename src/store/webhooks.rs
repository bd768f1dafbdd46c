//! Where webhooks and their deliveries live: the contract.
//!
//! A webhook has a *cursor*: the number of the event up to which deliveries were made rows. Rows and cursor move in one
//! transaction ([`WebhookStore::enqueue`]), and an attempt's result is one too, so that whenever the process dies an
//! event is in a row or after the cursor, and only attempts whose result was not written yet are made again.
//!
//! A delivery is about an event by its number; what is sent is made from the event's row at each attempt, so that a
//! person's data is not kept twice. Deliveries of one *subject* (a session, else a user) are due one after the other,
//! oldest first: one that waits for its next attempt holds up those after it, and no others.
//!
//! Everything that changes goes through the same writer as sessions do, with the same promises (see [`super`]). Only
//! the SQLite store keeps webhooks: the rules about them are in what calls it, and there is no second way to compare
//! with.

use super::Answer;
use crate::clock::Timestamp;
use crate::event::{EventKind, RecordedEvent};
use crate::session::AppName;
use crate::webhook::{SealedSecret, WebhookId};

/// A webhook as stored.
#[derive(Debug, Clone)]
pub struct WebhookRecord {
    /// The public handle.
    pub id: WebhookId,
    /// The app whose events it gets.
    pub app: AppName,
    /// Its name, if the configuration made it.
    pub name: Option<String>,
    /// Where it leads.
    pub url: String,
    /// Which events it gets; empty is all.
    pub types: Vec<EventKind>,
    /// What it is for, in somebody's words.
    pub description: Option<String>,
    /// What it signs with.
    pub secret: SealedSecret,
    /// What it signed with before, and until when it signs with that too.
    pub previous: Option<(SealedSecret, Timestamp)>,
    /// Whether it gets events.
    pub state: WebhookState,
    /// The number of the event up to which deliveries were made rows.
    pub cursor: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The latest attempt, if there was one.
    pub last_attempt: Option<LastAttempt>,
    /// Deliveries that are not done; more may wait in the events.
    pub pending_count: u64,
}

/// Whether a webhook gets events. Whatever it is, none are lost while they are kept: they wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookState {
    /// It does.
    Active,
    /// Somebody stopped it for a while.
    Paused,
    /// Its receiver said that it is gone.
    Disabled {
        /// Why, in a sentence.
        reason: String,
    },
}

impl WebhookState {
    /// The stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled { .. } => "disabled",
        }
    }
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAttempt {
    /// When it began.
    pub at: Timestamp,
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why it was no success, in a sentence.
    pub error: Option<String>,
}

/// A webhook to be made.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// The present moment.
    pub now: Timestamp,
    /// Its id.
    pub id: WebhookId,
    /// The app whose events it gets, from now on.
    pub app: AppName,
    /// Its name, if the configuration makes it.
    pub name: Option<String>,
    /// Where it leads.
    pub url: String,
    /// Which events it gets; empty is all.
    pub types: Vec<EventKind>,
    /// What it is for.
    pub description: Option<String>,
    /// What it signs with.
    pub secret: SealedSecret,
    /// How many the app may have, this one included.
    pub max: usize,
}

/// A change to a webhook. An outer `None` leaves the field; an inner one clears it.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    /// Where it leads.
    pub url: Option<String>,
    /// Which events it gets. Pending deliveries of others become [`DeliveryState::Skipped`].
    pub types: Option<Vec<EventKind>>,
    /// What it is for.
    pub description: Option<Option<String>>,
    /// Pause it, or let a paused or disabled one go on: then what is pending is due at once, and has its time anew.
    pub is_paused: Option<bool>,
    /// Another secret, and until when the one before signs too; `None` forgets that one.
    pub secret: Option<(SealedSecret, Option<Timestamp>)>,
}

/// What is to be delivered.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The event's number.
    pub event: u64,
    /// Its kind, to be shown also when the event is no longer kept.
    pub kind: EventKind,
    /// Whom it concerns: a session's id without hyphens, else a user's. What concerns neither has one subject together, "".
    pub subject: String,
}

impl NewDelivery {
    /// The delivery of an event.
    pub fn of(recorded: &RecordedEvent) -> Self {
        let RecordedEvent { number, event } = recorded;
        let session = event.session_id.map(|id| id.to_string().replace('-', ""));
        let user = || event.user_id.as_ref().map(ToString::to_string);
        Self {
            event: *number,
            kind: event.kind,
            subject: session.or_else(user).unwrap_or_default(),
        }
    }
}

/// What was read of the events of a webhook.
#[derive(Debug, Clone)]
pub struct NewDeliveries {
    /// What of that is to be delivered.
    pub deliveries: Vec<NewDelivery>,
    /// The types by which it was read: by others the events up to the cursor may be others.
    pub types: Vec<EventKind>,
    /// The number of the event up to which it was read.
    pub cursor: u64,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be attempted, for the first time or again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It did not, and its time is over.
    Failed,
    /// Nobody asks for it any more.
    Skipped,
}

impl DeliveryState {
    /// Every state with its stable name.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::Pending, "pending"),
        (Self::Delivered, "delivered"),
        (Self::Failed, "failed"),
        (Self::Skipped, "skipped"),
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(state, _)| *state == self);
        found.map_or("", |(_, name)| name)
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(state, _)| *state)
    }
}

/// One event for one webhook.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The event's number.
    pub event: u64,
    /// Its kind.
    pub kind: EventKind,
    /// Whom it concerns.
    pub subject: String,
    /// How far it is.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// When the first one was.
    pub first_attempt_at: Option<Timestamp>,
    /// When the next one is due, while it is pending.
    pub next_attempt_at: Option<Timestamp>,
    /// The latest attempt.
    pub last_attempt: Option<LastAttempt>,
    /// When it became a row.
    pub created_at: Timestamp,
}

/// What can be attempted now.
#[derive(Debug, Clone, Default)]
pub struct DueDeliveries {
    /// The oldest pending delivery of each subject, if its time has come; oldest first.
    pub due: Vec<Delivery>,
    /// When the next one becomes due that is not among them for its time alone.
    pub next_at: Option<Timestamp>,
}

/// What became of an attempt.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// How it went.
    pub attempt: LastAttempt,
    /// When the first attempt of this delivery was, as that stood when this one began.
    pub first_attempt_at: Option<Timestamp>,
    /// What follows from that for the delivery.
    pub verdict: Verdict,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Delivered,
    /// Again then.
    Retry(Timestamp),
    /// Never again.
    Failed,
    /// The receiver is gone: the webhook is disabled if it still leads there, and the delivery waits until somebody
    /// lets it go on.
    Disable {
        /// Why, in a sentence.
        reason: String,
        /// Where that receiver is.
        url: String,
    },
}

/// A page of a webhook's deliveries, newest event first.
#[derive(Debug, Clone)]
pub struct DeliveryList {
    /// Whose.
    pub webhook: WebhookId,
    /// Only those in this state.
    pub state: Option<DeliveryState>,
    /// Go on before the event with this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A page of deliveries. A page looks at a bounded number of them, so that it may be short, or empty, and still have a
/// next one.
#[derive(Debug, Clone)]
pub struct DeliveryPage {
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<u64>,
}

/// Events to be delivered again, or for the first time.
#[derive(Debug, Clone)]
pub struct ReplayRange {
    /// The present moment.
    pub now: Timestamp,
    /// To which webhook.
    pub webhook: WebhookId,
    /// Events after this number.
    pub after: u64,
    /// Events up to this number, as far as the webhook's cursor goes: later ones come by themselves.
    pub until: u64,
    /// Events that are looked at, at most.
    pub limit: usize,
    /// Pending deliveries that the webhook may have; no more events are looked at than there is room for.
    pub pending_max: u64,
}

/// What a [`ReplayRange`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Deliveries that are due now.
    pub count: u64,
    /// The number after which to go on, if there is more.
    pub next_after: Option<u64>,
}

/// A place to keep webhooks in. See the module's text.
pub trait WebhookStore: Send + Sync {
    /// Makes a webhook, whose cursor is the newest event; `None` if its app has as many as it may.
    fn create_webhook(&self, new: NewWebhook) -> Answer<Option<WebhookRecord>>;

    /// Changes a webhook; `None` if there is none with this id.
    fn update_webhook(
        &self,
        id: WebhookId,
        patch: WebhookPatch,
        now: Timestamp,
    ) -> Answer<Option<WebhookRecord>>;

    /// Deletes a webhook and what deliveries it has left; `false` if there is none with this id. It may have millions
    /// of them: [`WebhookStore::delete_deliveries`] comes first.
    fn delete_webhook(&self, id: WebhookId, now: Timestamp) -> Answer<bool>;

    /// Deletes deliveries of a webhook, `limit` at most, whatever their state; answers how many there were.
    fn delete_deliveries(&self, id: WebhookId, limit: usize, now: Timestamp) -> Answer<usize>;

    /// One webhook.
    fn find_webhook(&self, id: WebhookId) -> Answer<Option<WebhookRecord>>;

    /// The webhooks of one app, or of all, oldest first.
    fn list_webhooks(&self, app: Option<AppName>) -> Answer<Vec<WebhookRecord>>;

    /// Makes deliveries rows, due at once, and moves the cursor; `false` and nothing if the webhook is gone, the cursor
    /// is already as far, or other types are asked for by now. One that is a row already stays as it is.
    fn enqueue(&self, id: WebhookId, new: NewDeliveries, now: Timestamp) -> Answer<bool>;

    /// Pending deliveries that were never attempted.
    fn count_fresh(&self, id: WebhookId) -> Answer<u64>;

    /// What can be attempted now, up to `limit`.
    fn due_deliveries(&self, id: WebhookId, now: Timestamp, limit: usize) -> Answer<DueDeliveries>;

    /// Writes down how an attempt went. What was changed while it was under way stays: a delivery that is no longer
    /// pending, and one that was to be made anew and would fail by its former time.
    fn record_attempt(&self, id: WebhookId, event: u64, attempted: Attempted, now: Timestamp) -> Answer<()>;

    /// A page of a webhook's deliveries.
    fn list_deliveries(&self, list: DeliveryList) -> Answer<DeliveryPage>;

    /// Makes a delivery due at once, whatever its state, with its time anew; `false` if there is no such delivery.
    fn replay_delivery(&self, id: WebhookId, event: u64, now: Timestamp) -> Answer<bool>;

    /// Makes the deliveries of a range of events due at once, those that the webhook asks for now, as far as there is
    /// room for pending ones.
    fn replay_range(&self, range: ReplayRange) -> Answer<Replayed>;
}
