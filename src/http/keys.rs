//! Operator plane only: API keys.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::auth::StateData;
use super::input::{self, Body};
use super::json_writer::Text;
use super::problem::Problem;
use super::{json, sessions};
use crate::clock::Timestamp;
use crate::session::{AppName, KeyId};
use crate::store::KeyRecord;

/// A key to be made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    name: String,
}

/// A key as it can be shown: never the key itself.
#[derive(Debug, Serialize)]
struct KeyBody<'k> {
    id: Text<KeyId>,
    app: &'k str,
    name: &'k str,
    created_at: Text<Timestamp>,
    revoked_at: Option<Text<Timestamp>>,
}

impl<'k> From<&'k KeyRecord> for KeyBody<'k> {
    fn from(record: &'k KeyRecord) -> Self {
        Self {
            id: Text(record.id),
            app: record.app.as_str(),
            name: &record.name,
            created_at: Text(record.created_at),
            revoked_at: record.revoked_at.map(Text),
        }
    }
}

#[derive(Debug, Serialize)]
struct CreatedKeyBody<'k> {
    key: String,
    #[serde(flatten)]
    record: KeyBody<'k>,
}

#[derive(Debug, Serialize)]
struct KeysBody<'k> {
    keys: Vec<KeyBody<'k>>,
}

/// Makes a key; this answer is the only place where it is ever shown.
pub async fn create_key(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let app: AppName = sessions::caller_without_query(&request, &state).await?.app;
    let body: CreateKey = input::json(&request, payload, Body::Required).await?;
    let (record, key) = state.manager.create_key(&app, &body.name).await?;
    let body = CreatedKeyBody {
        key: key.reveal(),
        record: KeyBody::from(&record),
    };
    Ok(json(HttpResponse::Created(), &body))
}

/// All keys of all apps.
pub async fn list_keys(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    sessions::caller_without_query(&request, &state).await?;
    let records = state.manager.list_keys().await?;
    Ok(json(
        HttpResponse::Ok(),
        &KeysBody {
            keys: records.iter().map(KeyBody::from).collect(),
        },
    ))
}

/// Revokes a key: the very next call with it is refused.
pub async fn revoke_key(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    sessions::caller_without_query(&request, &state).await?;
    let id = request.match_info().get("id").and_then(KeyId::parse);
    state
        .manager
        .revoke_key(id.ok_or_else(|| Problem::not_found("API key"))?)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
