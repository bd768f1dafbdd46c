//! Service plane: webhooks of an app, their deliveries, and sending those again.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, StateData};
use super::input::{self, Body, Query, present};
use super::json;
use super::problem::{Problem, ProblemBody};
use super::sessions::caller_without_query;
use crate::error::FieldError;
use crate::event::{EventId, EventKind};
use crate::observer::webhook::{WebhookChange, Webhooks, WithSecrets};
use crate::store::webhooks::{Delivery, DeliveryState, LastAttempt, WebhookState};
use crate::webhook::{SigningSecret, WebhookId};

/// A webhook: where an app's events are sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookBody<'w> {
    /// The public handle.
    #[schema(format = "uuid")]
    id: String,
    /// The app whose events it gets.
    app: &'w str,
    /// Its name, if the configuration made it; then only pausing it is possible here.
    name: Option<&'w str>,
    /// Where it leads.
    #[schema(example = "https://shop.example.com/sessiond-events")]
    url: &'w str,
    /// The types of events it gets; empty is all.
    types: Vec<&'static str>,
    /// What it is for.
    description: Option<&'w str>,
    /// `active`, `paused` or `disabled`. Events wait while it is not active, as long as they are kept.
    #[schema(example = "active")]
    state: &'static str,
    /// Why it is disabled.
    disabled_reason: Option<String>,
    /// Deliveries that are not done, of at most 10,000 at once; further events wait where they are.
    pending_count: u64,
    /// The latest attempt of any delivery.
    last_delivery: Option<AttemptBody<'w>>,
    /// Until when the secret before the last rotation signs too.
    #[schema(format = DateTime)]
    secret_rotates_at: Option<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
}

/// How an attempt went.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookAttempt)]
pub struct AttemptBody<'w> {
    /// When it began.
    #[schema(format = DateTime)]
    at: String,
    /// What the receiver answered, if it did.
    http_status: Option<u16>,
    /// Why that is no success; null for a success.
    error: Option<&'w str>,
}

impl<'w> From<&'w LastAttempt> for AttemptBody<'w> {
    fn from(attempt: &'w LastAttempt) -> Self {
        Self {
            at: attempt.at.to_string(),
            http_status: attempt.status,
            error: attempt.error.as_deref(),
        }
    }
}

impl<'w> WebhookBody<'w> {
    fn new(webhook: &'w WithSecrets, now: crate::clock::Timestamp) -> Self {
        let record = &webhook.record;
        let state = webhook.state();
        Self {
            id: record.id.to_string(),
            app: record.app.as_str(),
            name: record.name.as_deref(),
            url: &record.url,
            types: record.types.iter().map(|kind| kind.as_str()).collect(),
            description: record.description.as_deref(),
            state: state.as_str(),
            disabled_reason: match state {
                WebhookState::Disabled { reason } => Some(reason),
                WebhookState::Active | WebhookState::Paused => None,
            },
            pending_count: record.pending_count,
            last_delivery: record.last_attempt.as_ref().map(AttemptBody::from),
            secret_rotates_at: webhook.rotates_until(now).map(|at| at.to_string()),
            created_at: record.created_at.to_string(),
        }
    }
}

/// A webhook with its secret, which is shown in this answer and nowhere else.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookWithSecret)]
pub struct WebhookWithSecretBody<'w> {
    webhook: WebhookBody<'w>,
    /// What its receiver verifies with.
    #[schema(example = "whsec_…")]
    secret: String,
}

/// The webhooks of an app.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhooks)]
pub struct WebhooksBody<'w> {
    /// Oldest first; at most 20, besides those of the configuration.
    webhooks: Vec<WebhookBody<'w>>,
}

/// A webhook to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// An https or http URL without user and password, of at most 2,000 bytes.
    url: String,
    /// Only events of these types; absent or empty is all.
    #[serde(default)]
    types: Vec<String>,
    /// What it is for, up to 255 characters.
    description: Option<String>,
}

/// Makes a webhook, which gets the app's events from now on.
///
/// Messages are signed after Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`), and sent at
/// least once each, in the order in which they happened to a session. Only an answer 2xx within 15 s is success; else
/// it is tried again for a day.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "service", security(("api_key" = [])), request_body = CreateWebhook,
    responses(
        (status = 201, description = "Made; the secret is shown now and never again",
         body = WebhookWithSecretBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`: also an address that is not public, and a webhook too many",
         body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn create_webhook(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let body: CreateWebhook = input::json(&request, payload, Body::Required).await?;
    let types = parse_types(&body.types)?;
    let made = state
        .webhooks
        .create(&backend.app, &body.url, types, body.description)
        .await?;
    Ok(with_secret(&state, HttpResponse::Created(), &made))
}

fn with_secret(
    state: &StateData,
    response: actix_web::HttpResponseBuilder,
    (webhook, secret): &(WithSecrets, SigningSecret),
) -> HttpResponse {
    let body = WebhookWithSecretBody {
        webhook: WebhookBody::new(webhook, state.manager.clock().now()),
        secret: secret.reveal(),
    };
    json(response, &body)
}

fn parse_types(names: &[String]) -> Result<Vec<EventKind>, Problem> {
    let kinds = names
        .iter()
        .map(|name| EventKind::parse(name))
        .collect::<Option<_>>();
    kinds.ok_or_else(|| {
        let known = EventKind::ALL.map(EventKind::as_str).join(", ");
        Problem::invalid_field("types", format!("has a type that is none of {known}"))
    })
}

/// The id in a path. What is not an id is no webhook's.
fn webhook_id(request: &HttpRequest) -> Result<WebhookId, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    WebhookId::parse(text).ok_or_else(|| Problem::not_found("webhook"))
}

/// Lists the app's webhooks, oldest first.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "service", security(("api_key" = [])),
    responses(
        (status = 200, description = "All of them", body = WebhooksBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
    )
)]
pub async fn list_webhooks(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let now = state.manager.clock().now();
    let webhooks = state.webhooks.list(&backend.app).await?;
    let body = WebhooksBody {
        webhooks: webhooks
            .iter()
            .map(|webhook| WebhookBody::new(webhook, now))
            .collect(),
    };
    Ok(json(HttpResponse::Ok(), &body))
}

fn one(state: &StateData, webhook: &WithSecrets) -> HttpResponse {
    let now = state.manager.clock().now();
    json(HttpResponse::Ok(), &WebhookBody::new(webhook, now))
}

/// One webhook.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "The webhook", body = WebhookBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
    )
)]
pub async fn get_webhook(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let webhook = state.webhooks.find(&backend.app, webhook_id(&request)?).await?;
    Ok(one(&state, &webhook))
}

/// Changes to a webhook. Absent fields stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateWebhook {
    /// Where it leads.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String)]
    url: Option<Option<String>>,
    /// Only events of these types; empty or null is all. Pending deliveries of others are skipped.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    types: Option<Option<Vec<String>>>,
    /// What it is for; null clears it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// True stops it for a while; false lets a paused or disabled one go on, with what has waited.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool)]
    is_paused: Option<Option<bool>>,
}

/// The value of a field that cannot be cleared.
fn not_null<T>(field: Option<Option<T>>, name: &str, errors: &mut Vec<FieldError>) -> Option<T> {
    if matches!(field, Some(None)) {
        errors.push(FieldError::new(name, "must not be null"));
    }
    field.flatten()
}

/// Changes a webhook.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "service", security(("api_key" = [])), request_body = UpdateWebhook,
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "The webhook as it is now", body = WebhookBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`: also for what the configuration sets",
         body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn update_webhook(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = webhook_id(&request)?;
    let body: UpdateWebhook = input::json(&request, payload, Body::Required).await?;
    let mut errors = Vec::new();
    let types = body.types.map(|types| parse_types(&types.unwrap_or_default()));
    let change = WebhookChange {
        url: not_null(body.url, "url", &mut errors),
        types: types.transpose()?,
        description: body.description,
        is_paused: not_null(body.is_paused, "is_paused", &mut errors),
    };
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let webhook = state.webhooks.update(&backend.app, id, change).await?;
    Ok(one(&state, &webhook))
}

/// Deletes a webhook, and with it what it has not delivered.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`: for one that the configuration makes",
         body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn delete_webhook(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    state.webhooks.delete(&backend.app, webhook_id(&request)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Gives a webhook another secret.
///
/// For 24 hours messages have two signatures, by the new secret and by the one before, so that the receiver can change
/// over. Rotating again within that time ends the oldest one.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotate-secret", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "Rotated; the secret is shown now and never again",
         body = WebhookWithSecretBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`: for one whose secret the configuration sets",
         body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn rotate_webhook_secret(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let rotated = state.webhooks.rotate(&backend.app, webhook_id(&request)?).await?;
    Ok(with_secret(&state, HttpResponse::Ok(), &rotated))
}

/// What a test found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookTest)]
pub struct TestBody {
    /// What the receiver answered, if it did.
    status: Option<u16>,
    /// Why that is no success; null for a success.
    error: Option<String>,
    /// How long it took.
    duration_ms: u64,
}

/// Sends a signed message of the type `webhook.test` now, and tells what became of it.
///
/// It is no event, is in no log, and is not tried again. A paused webhook is tested, too.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/test", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "Sent, or not: see its fields", body = TestBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`: too many tests at once; `store_unavailable`",
         body = ProblemBody<'static>),
    )
)]
pub async fn test_webhook(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let tested = state.webhooks.test(&backend.app, webhook_id(&request)?).await?;
    let body = TestBody {
        status: tested.status,
        error: tested.error,
        duration_ms: u64::try_from(tested.duration.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(json(HttpResponse::Ok(), &body))
}

/// An event on its way to a webhook, or one that was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct DeliveryBody<'d> {
    /// The event's id, which is also the message's `webhook-id`.
    event_id: String,
    /// The event's type.
    r#type: &'static str,
    /// `pending`, `delivered`, `failed` (its time is over) or `skipped` (nobody asks for it any more).
    #[schema(example = "delivered")]
    status: &'static str,
    /// Attempts so far; since the last replay, if there was one.
    attempts: u32,
    /// When the next attempt is due, at the earliest: those of one session go one after the other.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// The latest attempt.
    last_attempt: Option<AttemptBody<'d>>,
    /// When it was queued.
    #[schema(format = DateTime)]
    created_at: String,
}

impl<'d> DeliveryBody<'d> {
    fn new(delivery: &'d Delivery, webhooks: &Webhooks) -> Self {
        Self {
            event_id: webhooks.id_of(delivery.event).to_string(),
            r#type: delivery.kind.as_str(),
            status: delivery.state.as_str(),
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at.map(|at| at.to_string()),
            last_attempt: delivery.last_attempt.as_ref().map(AttemptBody::from),
            created_at: delivery.created_at.to_string(),
        }
    }
}

/// A page of deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDeliveryPage)]
pub struct DeliveryPageBody<'d> {
    /// Newest event first.
    deliveries: Vec<DeliveryBody<'d>>,
    /// Pass it as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Which deliveries to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct ListDeliveries {
    /// `pending`, `delivered`, `failed` or `skipped`; absent: all.
    status: Option<String>,
    /// 1-200, default 50.
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists a webhook's deliveries, newest event first.
///
/// A page looks at 5,000 deliveries at most: with `status` it may be short, or empty, and still have a `next_cursor`.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id"), ListDeliveries),
    responses(
        (status = 200, description = "A page", body = DeliveryPageBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
    )
)]
pub async fn list_webhook_deliveries(
    request: HttpRequest,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let rule = "must be pending, delivered, failed or skipped";
    let status = query.parsed("status", rule, DeliveryState::parse);
    let limit = query.limit().unwrap_or(input::PAGE_LEN_DEFAULT);
    let before = query.parsed("cursor", "must be a next_cursor of this list", EventId::parse);
    query.finish()?;
    let page = state
        .webhooks
        .list_deliveries(&backend.app, webhook_id(&request)?, status, before, limit)
        .await?;
    let body = DeliveryPageBody {
        deliveries: page
            .deliveries
            .iter()
            .map(|delivery| DeliveryBody::new(delivery, &state.webhooks))
            .collect(),
        next_cursor: page.next.map(|number| state.webhooks.id_of(number).to_string()),
    };
    Ok(json(HttpResponse::Ok(), &body))
}

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookReplay)]
pub struct ReplayBody {
    /// Deliveries that are due now.
    count: u64,
    /// Repeat the call with this as `after`: there is more than one call does. Null: that was all.
    next_after: Option<String>,
}

/// Sends one delivery again, or at once if it waits for its next attempt.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/deliveries/{event_id}/replay", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The webhook's id"),
           ("event_id" = String, Path, description = "The event's id")),
    responses(
        (status = 202, description = "It is due now", body = ReplayBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn replay_webhook_delivery(
    request: HttpRequest,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = webhook_id(&request)?;
    let event = request.match_info().get("event_id").and_then(EventId::parse);
    let event = event.ok_or_else(|| Problem::not_found("delivery"))?;
    state.webhooks.replay_delivery(&backend.app, id, event).await?;
    let body = ReplayBody {
        count: 1,
        next_after: None,
    };
    Ok(json(HttpResponse::Accepted(), &body))
}

/// Which events to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRange {
    /// Those after the event with this id; absent: from the oldest that is kept.
    after: Option<String>,
    /// Up to the event with this id; absent: all that came since.
    until: Option<String>,
}

/// Sends a range of events, again or for the first time: those of the types that the webhook asks for now.
///
/// Also events from before the webhook was made, as long as they are kept. A call looks at 1,000 events at most,
/// and at none while 10,000 deliveries wait.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/replay", tag = "service", security(("api_key" = [])),
    request_body = ReplayRange, params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 202, description = "They are due now", body = ReplayBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn replay_webhook(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = webhook_id(&request)?;
    let body: ReplayRange = input::json(&request, payload, Body::Required).await?;
    let parse = |field: &str, text: &str| {
        EventId::parse(text).ok_or_else(|| Problem::invalid_field(field, "must be the id of an event"))
    };
    let after = body.after.map(|after| parse("after", &after)).transpose()?;
    let until = body.until.map(|until| parse("until", &until)).transpose()?;
    let (count, next_after) = state
        .webhooks
        .replay_range(&backend.app, id, after, until)
        .await?;
    let body = ReplayBody {
        count,
        next_after: next_after.map(|id| id.to_string()),
    };
    Ok(json(HttpResponse::Accepted(), &body))
}
