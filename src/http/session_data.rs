//! Service plane: the nested data that an application keeps with a session, whole or by a dotted path.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, Backend, StateData};
use super::input::{self, Query};
use super::problem::{Problem, ProblemBody};
use super::{State, json};
use crate::data::{DataChange, DataPath};
use crate::error::Error;
use crate::store::DataPatch;

/// Versions that a precondition can name; one is usual.
const IF_MATCH_VERSIONS_MAX: usize = 16;

/// Data of a session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionData)]
pub struct DataBody {
    /// What is at the path, or all of it; null if nothing is there.
    data: serde_json::Value,
    /// Grows with each change; also the `ETag`.
    data_version: u64,
}

/// Where.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct PathParams {
    /// Keys of objects joined by dots, `a.b.c`, at most 512 bytes and 32 keys; without it all of the data is meant.
    path: Option<String>,
}

/// Whether what is read also goes.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct TakeParams {
    /// Answers what is there and removes it, in one step: of two who take at once one gets it.
    take: Option<bool>,
}

/// On what condition.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
pub struct IfMatchParams {
    /// `ETag`s: the call is carried out only if the data has one of these versions.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// Data of an active session. Reading writes nothing, unless it takes.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/data", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The session's id"), PathParams, TakeParams, IfMatchParams),
    responses(
        (status = 200, description = "The data", body = DataBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 412, description = "`version_mismatch`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn get_session_data(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let takes = query.flag("take", false);
    let at = path(&mut query);
    query.finish()?;
    if takes {
        return change(&request, &state, &backend, at, DataChange::Take).await;
    }
    let id = input::session_id(&request)?;
    let if_versions = if_match(&request)?;
    let (data, data_version) = state.manager.find_data(&backend.app, id, at.as_ref()).await?;
    if if_versions.is_some_and(|good| !good.contains(&data_version)) {
        return Err(Error::VersionMismatch {
            version: data_version,
        }
        .into());
    }
    Ok(answer(data, data_version))
}

/// Puts a value at the path, making the objects that are missing on the way, or replaces all of the data by an object.
#[utoipa::path(
    put, path = "/v1/sessions/{id}/data", tag = "service", security(("api_key" = [])),
    request_body(content = serde_json::Value, description = "The value; without a path an object"),
    params(("id" = String, Path, description = "The session's id"), PathParams, IfMatchParams),
    responses(
        (status = 200, description = "What is there now", body = DataBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 412, description = "`version_mismatch`", body = ProblemBody<'static>),
        (status = 413, description = "`payload_too_large`: all of it would have more than 64 KiB",
         body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn put_session_data(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let (backend, at) = caller(&request, &state).await?;
    let value = input::value(&request, payload).await?;
    change(&request, &state, &backend, at, DataChange::Put(value)).await
}

/// Merges a patch (RFC 7396) into what is at the path, or into all of the data: patches that come at once all survive.
#[utoipa::path(
    patch, path = "/v1/sessions/{id}/data", tag = "service", security(("api_key" = [])),
    request_body(
        description = "The merge patch: null removes a key",
        content((serde_json::Value = "application/merge-patch+json"), (serde_json::Value = "application/json"))
    ),
    params(("id" = String, Path, description = "The session's id"), PathParams, IfMatchParams),
    responses(
        (status = 200, description = "What is there now", body = DataBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 412, description = "`version_mismatch`", body = ProblemBody<'static>),
        (status = 413, description = "`payload_too_large`: all of it would have more than 64 KiB",
         body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn patch_session_data(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let (backend, at) = caller(&request, &state).await?;
    let patch = input::value(&request, payload).await?;
    change(&request, &state, &backend, at, DataChange::Merge(patch)).await
}

/// Removes what is at the path, or all of the data; what is not there is fine.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/data", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The session's id"), PathParams, IfMatchParams),
    responses(
        (status = 200, description = "What is there now: null, or an empty object", body = DataBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 412, description = "`version_mismatch`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn delete_session_data(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let (backend, at) = caller(&request, &state).await?;
    change(&request, &state, &backend, at, DataChange::Remove).await
}

async fn caller(request: &HttpRequest, state: &State) -> Result<(Backend, Option<DataPath>), Problem> {
    let mut query = Query::of(request);
    let backend = auth::backend(request, state, &mut query).await?;
    let at = path(&mut query);
    query.finish()?;
    Ok((backend, at))
}

fn path(query: &mut Query) -> Option<DataPath> {
    query.parsed("path", DataPath::RULE, DataPath::parse)
}

async fn change(
    request: &HttpRequest,
    state: &State,
    backend: &Backend,
    at: Option<DataPath>,
    change: DataChange,
) -> Result<HttpResponse, Problem> {
    let id = input::session_id(request)?;
    let if_versions = if_match(request)?;
    let patch = DataPatch {
        at,
        change,
        if_versions,
    };
    let (data, data_version) = state.manager.change_data(&backend.app, id, patch).await?;
    Ok(answer(data, data_version))
}

fn answer(data: serde_json::Value, data_version: u64) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::ETAG, format!("\"{data_version}\"")));
    json(response, &DataBody { data, data_version })
}

/// The versions that `If-Match` (RFC 9110 §13.1.1) names; `None` if any will do. A weak one matches nothing.
fn if_match(request: &HttpRequest) -> Result<Option<Vec<u64>>, Problem> {
    let wrong = || Problem::invalid_field("If-Match", "must be * or ETags of the data, such as \"3\"");
    if !request.headers().contains_key(header::IF_MATCH) {
        return Ok(None);
    }
    let (mut versions, mut names_some) = (Vec::new(), false);
    for value in request.headers().get_all(header::IF_MATCH) {
        let mut rest = value.to_str().map_err(|_| wrong())?;
        loop {
            // Elements without anything in them do not count (section 5.6.1.2).
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let (tag, after) = first_of_list(rest).ok_or_else(wrong)?;
            rest = after;
            names_some = true;
            match tag {
                ListedTag::Any => return Ok(None),
                ListedTag::Weak => {}
                ListedTag::Strong(_) if versions.len() == IF_MATCH_VERSIONS_MAX => return Err(wrong()),
                ListedTag::Strong(text) => {
                    // Compared as text: "03" is no ETag that was ever given.
                    let version = text.parse::<u64>().ok();
                    versions.extend(version.filter(|version| version.to_string() == text));
                }
            }
        }
    }
    match names_some {
        true => Ok(Some(versions)),
        false => Err(wrong()),
    }
}

/// What a list of ETags can have in it.
enum ListedTag<'h> {
    Any,
    Weak,
    Strong(&'h str),
}

/// The first of a list of ETags (RFC 9110 §8.8.3), which can have commas in them, and what comes after it.
fn first_of_list(list: &str) -> Option<(ListedTag<'_>, &str)> {
    let (tag, after) = if let Some(after) = list.strip_prefix('*') {
        (ListedTag::Any, after)
    } else if let Some(quoted) = list.strip_prefix("W/\"") {
        (ListedTag::Weak, quoted.split_once('"')?.1)
    } else {
        let (text, after) = list.strip_prefix('"')?.split_once('"')?;
        (ListedTag::Strong(text), after)
    };
    let after = after.trim_start_matches([' ', '\t']);
    (after.is_empty() || after.starts_with(',')).then_some((tag, after))
}
