//! Webhooks: events sent by HTTP, signed after [Standard Webhooks](https://www.standardwebhooks.com), at least once
//! each, and in the order in which they happened to a session.
//!
//! [`Webhooks`] makes, changes and lists them, and [`Webhooks::run`] delivers: a task for each (`delivery`), with a
//! bound of its own, and one over all. Whoever did not answer soon the last time, or has yet to answer for the first,
//! waits in turn with others of that kind, and those take no more than half of the places, so that many dead receivers
//! do not delay the living. What is to be sent and how it went is in the store ([`crate::store::webhooks`]); nothing
//! here is lost with the process.
//!
//! Those that the configuration names are made, changed and deleted at the start of a server ([`Webhooks::apply`]), and
//! by nobody else; only pausing them is anyone's.

mod client;
mod delivery;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::{Id, JoinSet};

use self::client::{Client, Message};
use self::delivery::{Line, is_success, refusal};
use super::Feed;
use crate::clock::{Clock, Timestamp};
use crate::config::WebhookConfig;
use crate::error::{Error, FieldError};
use crate::event::{EventId, EventKind};
use crate::metrics::Metrics;
use crate::session::{AppName, is_clean_text};
use crate::store::SessionStore;
use crate::store::webhooks::{
    DeliveryList, DeliveryPage, DeliveryState, NewWebhook, ReplayRange, WebhookPatch, WebhookRecord,
    WebhookState, WebhookStore,
};
use crate::webhook::{
    DESCRIPTION_CHARS_MAX, ROTATION_MILLIS, Reach, Sealer, SigningSecret, WEBHOOKS_PER_APP_MAX, WebhookId,
    WebhookUrl,
};

/// Attempts of all webhooks at once: some sockets, and a batch of the writer's when they end together.
const PLACES: usize = 32;
/// Those of them that receivers may take which did not answer soon the last time, or never did yet.
const PLACES_OF_SILENT: usize = PLACES / 2;
/// Tests at once; they wait for nobody's deliveries, and nobody's wait for them.
const TESTS_MAX: usize = 4;
/// Pending deliveries of one webhook, whatever became of them so far; further events wait where they are, and so do
/// replays.
const PENDING_MAX: u64 = 10_000;
/// Events that a replay of a range looks at, at most: some 5 ms of the writer's time.
pub const REPLAY_LEN_MAX: usize = 1_000;
/// Deliveries of a webhook that is deleted which go at once: as long as that.
const DELETE_LEN: usize = 1_000;
/// How long the list of webhooks is left alone when it cannot be read, and a task that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Why a webhook whose secret cannot be opened gets nothing.
const UNOPENED: &str = "its secret cannot be opened with this key file; rotate it";

/// The webhooks of a server.
pub struct Webhooks {
    store: Arc<dyn WebhookStore>,
    events: Arc<dyn SessionStore>,
    feed: Arc<Feed>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    sealer: Sealer,
    reach: Reach,
    client: Client,
    places: Places,
    tests: Semaphore,
    /// One replay of a range at a time, so that many who ask do not keep the writer from sessions.
    replays: Semaphore,
    /// Rung when something about a webhook was changed that has no bell of its own.
    changed: watch::Sender<u64>,
    /// Those of the webhooks that are delivered to; guards nothing else.
    bells: Mutex<HashMap<WebhookId, watch::Sender<u64>>>,
}

/// The attempts that may be made at once.
struct Places {
    all: Semaphore,
    of_silent: Semaphore,
}

impl Places {
    /// Waits for a place; `None` when the server stops. First among those of its kind: else the silent would hold
    /// places while they wait.
    async fn take(&self, is_silent: bool) -> Option<Place<'_>> {
        let among_silent = if is_silent {
            Some(self.of_silent.acquire().await.ok()?)
        } else {
            None
        };
        Some(Place {
            _among_silent: among_silent,
            _among_all: self.all.acquire().await.ok()?,
        })
    }

    fn close(&self) {
        self.all.close();
        self.of_silent.close();
    }
}

/// A place, as long as it lives.
struct Place<'p> {
    _among_silent: Option<SemaphorePermit<'p>>,
    _among_all: SemaphorePermit<'p>,
}

/// A webhook with its secrets, as far as they can be opened.
pub struct WithSecrets {
    /// The webhook as stored.
    pub record: WebhookRecord,
    secret: Option<SigningSecret>,
    previous: Option<(SigningSecret, Timestamp)>,
}

impl WithSecrets {
    /// Whether it gets events, and if not, why.
    pub fn state(&self) -> WebhookState {
        match (&self.record.state, &self.secret) {
            (WebhookState::Active, None) => WebhookState::Disabled {
                reason: UNOPENED.to_owned(),
            },
            (state, _) => state.clone(),
        }
    }

    /// Until when the secret before the last rotation signs too.
    pub fn rotates_until(&self, now: Timestamp) -> Option<Timestamp> {
        let (_, until) = self.record.previous.as_ref()?;
        (now < *until).then_some(*until)
    }

    /// The signatures of a message, one for each secret that is good at `at`, with spaces between them.
    fn sign(&self, id: &str, timestamp_secs: i64, body: &str, at: Timestamp) -> String {
        let previous = self.previous.iter().filter(|(_, until)| at < *until);
        let secrets = self.secret.iter().chain(previous.map(|(secret, _)| secret));
        let signatures: Vec<String> = secrets
            .map(|secret| secret.sign(id, timestamp_secs, body))
            .collect();
        signatures.join(" ")
    }
}

/// A change that somebody asks for. An outer `None` leaves the field; an inner one clears it.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Where it leads.
    pub url: Option<String>,
    /// Which events it gets; empty is all.
    pub types: Option<Vec<EventKind>>,
    /// What it is for.
    pub description: Option<Option<String>>,
    /// Pause it, or let it go on.
    pub is_paused: Option<bool>,
}

/// What a test of a webhook found.
#[derive(Debug)]
pub struct Tested {
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why that is no success.
    pub error: Option<String>,
    /// How long it took.
    pub duration: Duration,
}

/// What the webhooks of a server are made of.
pub struct Parts {
    /// Where they are kept.
    pub store: Arc<dyn WebhookStore>,
    /// Where the events are.
    pub events: Arc<dyn SessionStore>,
    /// What rings when there are new ones.
    pub feed: Arc<Feed>,
    /// The time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What opens their secrets.
    pub sealer: Sealer,
    /// Where they may lead.
    pub reach: Reach,
}

impl Webhooks {
    /// The webhooks of a server. Nothing is delivered before [`Webhooks::run`].
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            store: parts.store,
            events: parts.events,
            feed: parts.feed,
            clock: parts.clock,
            metrics: parts.metrics,
            sealer: parts.sealer,
            reach: parts.reach,
            client: Client::new(parts.reach),
            places: Places {
                all: Semaphore::new(PLACES),
                of_silent: Semaphore::new(PLACES_OF_SILENT),
            },
            tests: Semaphore::new(TESTS_MAX),
            replays: Semaphore::new(1),
            changed: watch::Sender::new(0),
            bells: Mutex::new(HashMap::new()),
        })
    }

    /// Makes a webhook that gets an app's events from now on. The secret is in the answer and nowhere else.
    pub async fn create(
        &self,
        app: &AppName,
        url: &str,
        types: Vec<EventKind>,
        description: Option<String>,
    ) -> Result<(WithSecrets, SigningSecret), Error> {
        let mut errors = Vec::new();
        let url = self.parse_url(url).map_err(|error| errors.push(error)).ok();
        errors.extend(description.as_deref().and_then(wrong_description));
        let Some(url) = url.filter(|_| errors.is_empty()) else {
            return Err(Error::Invalid(errors));
        };
        let (id, secret) = (WebhookId::random(), SigningSecret::random());
        let new = NewWebhook {
            now: self.clock.now(),
            id,
            app: app.clone(),
            name: None,
            url,
            types: as_asked(types),
            description,
            secret: self.sealer.seal(id, &secret),
            max: WEBHOOKS_PER_APP_MAX,
        };
        let Some(record) = self.store.create_webhook(new).await? else {
            let rule =
                format!("has {WEBHOOKS_PER_APP_MAX} webhooks, as many as an app may have; delete some");
            return Err(Error::invalid("app", rule));
        };
        self.ring(id);
        Ok((self.open(record), secret))
    }

    /// The webhooks of an app, oldest first.
    pub async fn list(&self, app: &AppName) -> Result<Vec<WithSecrets>, Error> {
        let records = self.store.list_webhooks(Some(app.clone())).await?;
        Ok(records.into_iter().map(|record| self.open(record)).collect())
    }

    /// One webhook of an app.
    pub async fn find(&self, app: &AppName, id: WebhookId) -> Result<WithSecrets, Error> {
        let record = self.store.find_webhook(id).await?;
        let record = record.filter(|record| record.app == *app);
        record.map(|record| self.open(record)).ok_or_else(not_found)
    }

    /// Changes a webhook of an app.
    pub async fn update(
        &self,
        app: &AppName,
        id: WebhookId,
        change: WebhookChange,
    ) -> Result<WithSecrets, Error> {
        let before = self.find(app, id).await?.record;
        let mut errors = Vec::new();
        for (field, is_changed) in [
            ("url", change.url.is_some()),
            ("types", change.types.is_some()),
            ("description", change.description.is_some()),
        ] {
            errors.extend(
                before
                    .name
                    .as_ref()
                    .filter(|_| is_changed)
                    .map(|name| configured(name, field)),
            );
        }
        let url = change
            .url
            .filter(|_| errors.is_empty())
            .and_then(|url| self.parse_url(&url).map_err(|error| errors.push(error)).ok());
        let description = change.description.as_ref().and_then(Option::as_deref);
        errors.extend(description.and_then(wrong_description));
        if !errors.is_empty() {
            return Err(Error::Invalid(errors));
        }
        let patch = WebhookPatch {
            url,
            types: change.types.map(as_asked),
            description: change.description,
            is_paused: change.is_paused,
            secret: None,
        };
        self.change(id, patch).await
    }

    /// Deletes a webhook of an app, and with it what it has not delivered.
    pub async fn delete(self: &Arc<Self>, app: &AppName, id: WebhookId) -> Result<(), Error> {
        let before = self.find(app, id).await?.record;
        if let Some(name) = &before.name {
            return Err(Error::Invalid(vec![configured(name, "id")]));
        }
        // In a task of its own: whoever asked may go away, and half a webhook is of no use.
        let this = Arc::clone(self);
        let deleted = tokio::spawn(async move { this.delete_with_deliveries(id).await });
        if deleted.await.map_err(Error::store)?? {
            Ok(())
        } else {
            Err(not_found())
        }
    }

    /// Many small commands, between which the writer does what others ask for. It is paused first, so that it is not
    /// delivered to meanwhile.
    async fn delete_with_deliveries(&self, id: WebhookId) -> Result<bool, Error> {
        let pause = WebhookPatch {
            is_paused: Some(true),
            ..WebhookPatch::default()
        };
        self.store.update_webhook(id, pause, self.clock.now()).await?;
        self.ring(id);
        loop {
            let now = self.clock.now();
            if self.store.delete_deliveries(id, DELETE_LEN, now).await? < DELETE_LEN {
                break;
            }
        }
        let is_deleted = self.store.delete_webhook(id, self.clock.now()).await?;
        self.ring(id);
        Ok(is_deleted)
    }

    /// Gives a webhook another secret, which is in the answer and nowhere else. For a day the one before signs too, so
    /// that its receiver can change over; one that cannot be opened is forgotten.
    pub async fn rotate(&self, app: &AppName, id: WebhookId) -> Result<(WithSecrets, SigningSecret), Error> {
        let before = self.find(app, id).await?;
        if let Some(name) = &before.record.name {
            return Err(Error::Invalid(vec![configured(name, "secret")]));
        }
        let secret = SigningSecret::random();
        let patch = self.rotation(&before, &secret);
        Ok((self.change(id, patch).await?, secret))
    }

    fn rotation(&self, before: &WithSecrets, secret: &SigningSecret) -> WebhookPatch {
        let until = self.clock.now().plus_millis(ROTATION_MILLIS);
        let sealed = self.sealer.seal(before.record.id, secret);
        WebhookPatch {
            secret: Some((sealed, before.secret.as_ref().map(|_| until))),
            ..WebhookPatch::default()
        }
    }

    async fn change(&self, id: WebhookId, patch: WebhookPatch) -> Result<WithSecrets, Error> {
        let record = self.store.update_webhook(id, patch, self.clock.now()).await?;
        self.ring(id);
        record.map(|record| self.open(record)).ok_or_else(not_found)
    }

    /// Sends a message of the type `webhook.test` now, whatever the webhook's state, and tells what became of it.
    pub async fn test(&self, app: &AppName, id: WebhookId) -> Result<Tested, Error> {
        let webhook = self.find(app, id).await?;
        let Ok(_place) = self.tests.try_acquire() else {
            return Err(Error::Overloaded);
        };
        let started = Instant::now();
        let tested = |status, error| Tested {
            status,
            error,
            duration: started.elapsed(),
        };
        if webhook.secret.is_none() {
            return Ok(tested(None, Some(UNOPENED.to_owned())));
        }
        let now = self.clock.now();
        let message_id = format!("test_{}", WebhookId::random());
        let body = serde_json::json!({
            "type": "webhook.test",
            "timestamp": now.to_string(),
            "data": { "webhook_id": id.to_string(), "app": app.as_str() },
        });
        let body = body.to_string();
        let timestamp_secs = self.sent_at();
        let message = Message {
            id: &message_id,
            timestamp_secs,
            signatures: webhook.sign(&message_id, timestamp_secs, &body, now),
            body,
        };
        Ok(match self.client.post(&webhook.record.url, message).await {
            Ok(answered) if is_success(answered.status) => tested(Some(answered.status), None),
            Ok(answered) => tested(Some(answered.status), Some(refusal(answered.status))),
            Err(error) => tested(None, Some(error)),
        })
    }

    /// A page of a webhook's deliveries, newest event first.
    pub async fn list_deliveries(
        &self,
        app: &AppName,
        id: WebhookId,
        state: Option<DeliveryState>,
        before: Option<EventId>,
        limit: usize,
    ) -> Result<DeliveryPage, Error> {
        self.find(app, id).await?;
        let before = before.map(|event| self.number(event, "cursor")).transpose()?;
        let list = DeliveryList {
            webhook: id,
            state,
            before,
            limit,
        };
        self.store.list_deliveries(list).await
    }

    /// Makes one delivery due at once, whatever became of it.
    pub async fn replay_delivery(&self, app: &AppName, id: WebhookId, event: EventId) -> Result<(), Error> {
        self.find(app, id).await?;
        let not_found = || Error::NotFound("delivery");
        let number = self.feed.epoch().number(event).ok_or_else(not_found)?;
        let now = self.clock.now();
        if !self.store.replay_delivery(id, number, now).await? {
            return Err(not_found());
        }
        self.ring(id);
        Ok(())
    }

    /// Makes the deliveries of a range of events due at once, from the oldest that is kept unless it begins after one;
    /// answers how many, and after which event to go on if more than [`REPLAY_LEN_MAX`] events would have to be looked
    /// at, or more than there is room for.
    pub async fn replay_range(
        &self,
        app: &AppName,
        id: WebhookId,
        after: Option<EventId>,
        until: Option<EventId>,
    ) -> Result<(u64, Option<EventId>), Error> {
        self.find(app, id).await?;
        let after = after.map(|event| self.number(event, "after")).transpose()?;
        let until = until.map(|event| self.number(event, "until")).transpose()?;
        let range = ReplayRange {
            now: self.clock.now(),
            webhook: id,
            after: after.unwrap_or_default(),
            until: until.unwrap_or(u64::MAX),
            limit: REPLAY_LEN_MAX,
            pending_max: PENDING_MAX,
        };
        let _turn = self.replays.acquire().await;
        let replayed = self.store.replay_range(range).await?;
        self.ring(id);
        let next_after = replayed.next_after.map(|number| self.id_of(number));
        Ok((replayed.count, next_after))
    }

    /// The time of a message, in seconds: the wall clock's, as receivers refuse what is minutes off theirs.
    fn sent_at(&self) -> i64 {
        self.clock.wall().as_millis().div_euclid(1_000)
    }

    /// The public id of the event with this number.
    pub fn id_of(&self, number: u64) -> EventId {
        self.feed.epoch().id(number)
    }

    fn number(&self, event: EventId, field: &str) -> Result<u64, Error> {
        let number = self.feed.epoch().number(event);
        number.ok_or_else(|| Error::invalid(field, "is not the id of an event of this server"))
    }

    /// Makes, changes and deletes those that the configuration names, as it says now. A secret that is another than
    /// before is a rotation: for a day both sign.
    pub async fn apply(&self, configured: &BTreeMap<String, WebhookConfig>) -> Result<(), Error> {
        let mut known: HashMap<String, WithSecrets> = HashMap::new();
        for record in self.store.list_webhooks(None).await? {
            if let Some(name) = record.name.clone() {
                known.insert(name, self.open(record));
            }
        }
        for (name, config) in configured {
            match known.remove(name) {
                Some(before) if before.record.app == config.app => self.apply_change(&before, config).await?,
                before => {
                    // Another app's events are another webhook's.
                    if let Some(before) = before {
                        self.delete_with_deliveries(before.record.id).await?;
                    }
                    self.apply_new(name, config).await?;
                }
            }
        }
        for webhook in known.into_values() {
            self.delete_with_deliveries(webhook.record.id).await?;
        }
        Ok(())
    }

    /// How many cannot be delivered to, as the key that opens their secrets is another one.
    pub async fn count_unopened(&self) -> Result<usize, Error> {
        let records = self.store.list_webhooks(None).await?;
        let opened = records.into_iter().map(|record| self.open(record));
        Ok(opened.filter(|webhook| webhook.secret.is_none()).count())
    }

    async fn apply_change(&self, before: &WithSecrets, config: &WebhookConfig) -> Result<(), Error> {
        let is_other = before.secret.as_ref() != Some(&config.secret);
        let rotation = is_other.then(|| self.rotation(before, &config.secret));
        let types = as_asked(config.types.clone());
        let patch = WebhookPatch {
            url: (before.record.url != config.url.as_str()).then(|| config.url.as_str().to_owned()),
            types: (before.record.types != types).then_some(types),
            ..rotation.unwrap_or_default()
        };
        // The receiver that was gone was the one at the former URL.
        let patch = match &before.record.state {
            WebhookState::Disabled { .. } if patch.url.is_some() => WebhookPatch {
                is_paused: Some(false),
                ..patch
            },
            WebhookState::Disabled { reason } => {
                log::warn!(
                    "the webhook {} of the configuration is disabled: {reason}",
                    before.record.id
                );
                patch
            }
            _ => patch,
        };
        if patch.url.is_some() || patch.types.is_some() || patch.secret.is_some() {
            self.store
                .update_webhook(before.record.id, patch, self.clock.now())
                .await?;
        }
        Ok(())
    }

    async fn apply_new(&self, name: &str, config: &WebhookConfig) -> Result<(), Error> {
        let id = WebhookId::random();
        let new = NewWebhook {
            now: self.clock.now(),
            id,
            app: config.app.clone(),
            name: Some(name.to_owned()),
            url: config.url.as_str().to_owned(),
            types: as_asked(config.types.clone()),
            description: None,
            secret: self.sealer.seal(id, &config.secret),
            // How many the configuration names is bounded there, and is the operator's own matter.
            max: u32::MAX as usize,
        };
        self.store.create_webhook(new).await.map(drop)
    }

    /// Delivers until `stop` changes; then attempts under way may end within `grace`.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>, grace: Duration) {
        let mut changes = self.changed.subscribe();
        let mut lines = JoinSet::new();
        let mut running: HashMap<Id, WebhookId> = HashMap::new();
        loop {
            changes.mark_unchanged();
            match self.store.list_webhooks(None).await {
                Ok(all) => {
                    for webhook in all {
                        if running.values().all(|id| *id != webhook.id) {
                            let line = Line::new(Arc::clone(&self), &webhook);
                            running.insert(lines.spawn(line.run(stop.clone())).id(), webhook.id);
                        }
                    }
                }
                Err(error) => {
                    log::error!("the webhooks cannot be read and are tried again: {error}");
                    self.changed.send_modify(|count| *count += 1);
                    tokio::time::sleep(RETRY).await;
                }
            }
            tokio::select! {
                _ = stop.changed() => break,
                _ = changes.changed() => {}
                Some(ended) = lines.join_next_with_id() => match ended {
                    Ok((id, ())) => {
                        running.remove(&id);
                    }
                    Err(error) => {
                        log::error!("the deliveries of a webhook failed inside and begin anew: {error}");
                        running.remove(&error.id());
                        tokio::time::sleep(RETRY).await;
                    }
                },
            }
        }
        self.places.close();
        let ended = async { while lines.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, ended).await.is_err() {
            log::warn!(
                "attempts of webhooks were cut after the grace time; they are made again at the next start"
            );
        }
    }

    /// Tells that something about a webhook was changed: its deliveries, or what begins them if nothing does yet.
    fn ring(&self, id: WebhookId) {
        let bells = self.bells();
        let bell = bells.get(&id).unwrap_or(&self.changed);
        bell.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A webhook's bell, from now on.
    fn listen(&self, id: WebhookId) -> watch::Receiver<u64> {
        let mut bells = self.bells();
        bells
            .entry(id)
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    fn bells(&self) -> MutexGuard<'_, HashMap<WebhookId, watch::Sender<u64>>> {
        // Nothing is half done in there.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, record: WebhookRecord) -> WithSecrets {
        let secret = self.sealer.open(record.id, &record.secret);
        let previous = record.previous.as_ref();
        let previous =
            previous.and_then(|(sealed, until)| Some((self.sealer.open(record.id, sealed)?, *until)));
        WithSecrets {
            record,
            secret,
            previous,
        }
    }

    fn parse_url(&self, text: &str) -> Result<String, FieldError> {
        let url = WebhookUrl::parse(text, self.reach);
        url.map(|url| url.as_str().to_owned())
            .map_err(|rule| FieldError::new("url", rule))
    }
}

/// Each kind once, in one order.
fn as_asked(mut types: Vec<EventKind>) -> Vec<EventKind> {
    types.sort_unstable();
    types.dedup();
    types
}

fn wrong_description(text: &str) -> Option<FieldError> {
    let rule = format!("must be 1 to {DESCRIPTION_CHARS_MAX} characters without control characters");
    (!is_clean_text(text, DESCRIPTION_CHARS_MAX)).then(|| FieldError::new("description", rule))
}

fn configured(name: &str, field: &str) -> FieldError {
    let rule = format!("is set by [webhooks.{name}] in the configuration; change it there");
    FieldError::new(field, rule)
}

fn not_found() -> Error {
    Error::NotFound("webhook")
}
