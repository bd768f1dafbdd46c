//! What is changed, inside the writer's transaction. Each function is one change of the contract; whatever ends a
//! session does it through [`end_session`]. What makes sessions and gives them to users is in `sign_ins`, what changes
//! their tokens in `renewals`, their data in `session_data`.

use rusqlite::{Connection, params};

use super::reads;
use super::renewals;
use super::rows::{self, SESSION_COLUMNS, text};
use super::webhooks;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::{Event, EventKind, RecordedEvent};
use crate::session::{AppName, EndedBy, Ending, KeyId, Reason, Session, SessionId, TooLong, Touch};
use crate::store::{
    BulkEnding, EVENTS_PER_SESSION, EndRequest, IDEMPOTENCY_MILLIS, KeyRecord, LOOKS_PER_EXPIRY, Outcome,
    Owner, Scope, SessionPatch, UserPatch, UserRecord,
};
use crate::user::{UserId, UserSettings};

/// The one way in which a session ends, whatever the reason. A session whose deadline has passed ends as expired, at
/// its deadline. The caller has read it in this transaction and found it without an ending.
///
/// A use that is pending is written first: who used a session last matters most when somebody ends it. It can move the
/// deadline that has passed, but revives nothing, as the caller has decided by the row.
pub(super) fn end_session(
    batch: &mut Batch<'_>,
    mut session: Session,
    request: &EndRequest,
) -> rusqlite::Result<Session> {
    let mut overdue = session.ending_as_of(request.now);
    if batch.write_last_use(session.id, request.now)?
        && let Some(used) = reads::find(batch.connection, session.id)?
    {
        overdue = overdue.map(|by_row| used.ending_as_of(request.now).unwrap_or(by_row));
        session = used;
    }
    let asked = || Ending {
        at: request.now,
        reason: request.reason.clone(),
        by: request.by,
    };
    let ending = overdue.unwrap_or_else(asked);
    let changed = batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET ended_at = ?2, revoked_reason = ?3, ended_by = ?4
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![
            session.id,
            ending.at,
            ending.reason.as_str(),
            ending.by.as_str()
        ])?;
    if changed == 0 {
        // It has one already, and that stays the only one.
        return Ok(reads::find(batch.connection, session.id)?.unwrap_or(session));
    }
    if session.data_version > 0 {
        // Nobody can read it any more; the row stays to say how the session ended.
        batch
            .connection
            .prepare_cached("DELETE FROM session_data WHERE session_id = ?1")?
            .execute([session.id])?;
    }
    batch.counts.ended(&session);
    session.ending = Some(ending);
    if let Some(event) = Event::of_ending(&session) {
        write_event(batch, event, request.now)?;
    }
    batch.committed.changed.push(session.id);
    batch.committed.ended.push(session.clone());
    Ok(session)
}

pub(super) fn end(
    batch: &mut Batch<'_>,
    app: &AppName,
    id: SessionId,
    owner: &Owner,
    request: &EndRequest,
) -> rusqlite::Result<Outcome> {
    let Some(session) = owned(batch.connection, app, id, owner)? else {
        return Ok(Outcome::NotFound);
    };
    if session.ending.is_some() {
        return Ok(Outcome::AlreadyEnded(session));
    }
    let was_active = session.is_active(request.now);
    let session = end_session(batch, session, request)?;
    Ok(if was_active {
        Outcome::Done(session)
    } else {
        Outcome::AlreadyEnded(session)
    })
}

pub(super) fn end_many(
    batch: &mut Batch<'_>,
    app: &AppName,
    scope: &Scope,
    request: &EndRequest,
) -> rusqlite::Result<BulkEnding> {
    match scope {
        Scope::User { user_id, except } => {
            note_credentials_changed(batch, app, user_id, request)?;
            let revoked_count = end_all_of_user(batch, app, user_id, *except, request)?;
            Ok(BulkEnding {
                revoked_count,
                more: false,
            })
        }
        Scope::App { limit } => {
            let sql = format!(
                "SELECT {SESSION_COLUMNS} FROM sessions WHERE app = ?1 AND ended_at IS NULL
                 ORDER BY user_id, signed_in_at, id LIMIT ?2"
            );
            let mut sessions = batch
                .connection
                .prepare_cached(&sql)?
                .query_map(params![app.as_str(), limit + 1], rows::session)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let more = sessions.len() > *limit;
            sessions.truncate(*limit);
            let mut users: Vec<&UserId> = sessions
                .iter()
                .filter_map(|session| session.user_id.as_ref())
                .collect();
            users.dedup(); // they come by user
            for user_id in users {
                note_credentials_changed(batch, app, user_id, request)?;
            }
            Ok(BulkEnding {
                revoked_count: end_each(batch, sessions, request)?,
                more,
            })
        }
    }
}

/// Keeps the moment, if the reason says so: sign-ins verified before it are refused. The later of two counts, in whatever
/// order they come.
fn note_credentials_changed(
    batch: &Batch<'_>,
    app: &AppName,
    user_id: &UserId,
    request: &EndRequest,
) -> rusqlite::Result<()> {
    if request.reason.as_str() != Reason::CREDENTIALS_CHANGED {
        return Ok(());
    }
    let mut settings = reads::user_settings(batch.connection, app, user_id)?;
    settings.credentials_changed_at = settings.credentials_changed_at.max(Some(request.now));
    write_user(batch.connection, app, user_id, &settings)
}

pub(super) fn end_all_of_user(
    batch: &mut Batch<'_>,
    app: &AppName,
    user_id: &UserId,
    except: Option<SessionId>,
    request: &EndRequest,
) -> rusqlite::Result<u64> {
    let (kept, sessions): (Vec<_>, Vec<_>) = unended_of_user(batch.connection, app, user_id)?
        .into_iter()
        .partition(|session| Some(session.id) == except);
    let revoked_count = end_each(batch, sessions, request)?;
    if revoked_count > 0 {
        // An id that excepted nothing is left out: the event is this user's, and it may be somebody else's session.
        let kept = kept.first().map(|session| session.id.to_string());
        let data = serde_json::json!({ "session_count": revoked_count, "except_session_id": kept });
        let mut event = Event::about_user(app, user_id, EventKind::UserSessionsRevoked, request.now);
        event.reason = Some(request.reason.clone());
        event.ended_by = Some(request.by);
        event.data = Some(data.to_string());
        write_event(batch, event, request.now)?;
    }
    Ok(revoked_count)
}

/// Ends each; counts those that were active.
pub(super) fn end_each(
    batch: &mut Batch<'_>,
    sessions: Vec<Session>,
    request: &EndRequest,
) -> rusqlite::Result<u64> {
    let mut revoked_count = 0;
    for session in sessions {
        revoked_count += u64::from(session.is_active(request.now));
        end_session(batch, session, request)?;
    }
    Ok(revoked_count)
}

pub(super) fn update(
    batch: &mut Batch<'_>,
    app: &AppName,
    id: SessionId,
    owner: &Owner,
    patch: &SessionPatch,
    now: Timestamp,
) -> rusqlite::Result<Outcome> {
    let Some(mut session) = owned(batch.connection, app, id, owner)? else {
        return Ok(Outcome::NotFound);
    };
    if !session.is_active(now) {
        return Ok(Outcome::AlreadyEnded(session));
    }
    if let Some(name) = &patch.name {
        session.name.clone_from(name);
    }
    if let Some(is_trusted) = patch.is_trusted {
        session.is_trusted = is_trusted;
    }
    if let Some(auth) = &patch.auth {
        session.auth.clone_from(auth);
    }
    if let Some(identity) = &patch.identity {
        match identity.apply(session.identities.as_ref()) {
            Ok(identities) => session.identities = identities,
            Err(TooLong) => return Ok(Outcome::TooLong),
        }
    }
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET name = ?2, is_trusted = ?3, auth = ?4, identities = ?5
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![
            id,
            session.name,
            session.is_trusted,
            session.auth.as_ref().map(|auth| auth.as_str()),
            session.identities.as_ref().map(|all| all.as_str()),
        ])?;
    batch.committed.changed.push(id);
    Ok(Outcome::Done(session))
}

/// Writes uses that were answered before, so that they count although the deadline may have passed since; never for
/// an ended session.
pub(super) fn write_touch(batch: &mut Batch<'_>, touch: &Touch, now: Timestamp) -> rusqlite::Result<()> {
    let Some(news) = batch.take_news(touch) else {
        return Ok(());
    };
    batch.committed.touched.push(touch.clone());
    let touch = &news;
    if let Some(seen) = touch.successor_seen {
        renewals::write_grace(batch, touch.id, &seen)?;
    }
    if touch.first_address.is_some() {
        return write_touch_with_addresses(batch, touch, now);
    }
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET last_activity_at = ?2, expires_at = min(?2 + idle_timeout, absolute_expires_at)
             WHERE id = ?1 AND ended_at IS NULL AND last_activity_at < ?2",
        )?
        .execute(params![touch.id, touch.at])
        .map(drop)
}

fn write_touch_with_addresses(batch: &mut Batch<'_>, touch: &Touch, now: Timestamp) -> rusqlite::Result<()> {
    let Some(mut session) = reads::find(batch.connection, touch.id)? else {
        return Ok(());
    };
    if session.ending.is_some() {
        return Ok(());
    }
    let mut news = Vec::new();
    touch.apply_telling(&mut session, |session, place| {
        news.push(Event::of_activity(session, place, touch.at));
    });
    news.into_iter()
        .try_for_each(|event| write_event(batch, event, now))?;
    let place = session.place.as_ref();
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET last_activity_at = ?2, expires_at = ?3, ip_address = ?4, last_ip_address = ?5,
                 city = ?6, country = ?7
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![
            touch.id,
            session.last_activity_at,
            session.expires_at(),
            text(session.ip_address.as_ref()),
            text(session.last_ip_address.as_ref()),
            place.and_then(|place| place.city.as_ref()),
            place.map(|place| &place.country),
        ])
        .map(drop)
}

pub(super) fn update_user(
    batch: &mut Batch<'_>,
    app: &AppName,
    user_id: &UserId,
    patch: &UserPatch,
    by: EndedBy,
    now: Timestamp,
) -> rusqlite::Result<UserRecord> {
    let before = reads::user_settings(batch.connection, app, user_id)?;
    let mut settings = before.clone();
    if let Some(tier) = &patch.tier {
        settings.tier.clone_from(tier);
    }
    if let Some(max_sessions) = patch.max_sessions {
        settings.max_sessions = max_sessions;
    }
    if let Some(is_blocked) = patch.is_blocked {
        settings.is_blocked = is_blocked;
    }
    if settings != before {
        write_user(batch.connection, app, user_id, &settings)?;
    }
    if settings.is_blocked && !before.is_blocked {
        let request = EndRequest {
            now,
            reason: Reason::known(Reason::USER_BLOCKED),
            by,
        };
        end_all_of_user(batch, app, user_id, None, &request)?;
        let mut event = Event::about_user(app, user_id, EventKind::UserBlocked, now);
        event.ended_by = Some(by);
        write_event(batch, event, now)?;
    }
    let active_count = reads::count_active(batch.connection, app, user_id, now)?;
    Ok(UserRecord {
        settings,
        active_count,
    })
}

/// Writes passed deadlines down. A session that was used since its moment to be looked at was set is given its deadline as
/// the next one, and keeps no other from being found.
pub(super) fn expire(batch: &mut Batch<'_>, now: Timestamp, limit: usize) -> rusqlite::Result<usize> {
    let request = EndRequest {
        now,
        reason: Reason::known(Reason::IDLE_TIMEOUT),
        by: EndedBy::Timeout,
    };
    let (mut ended, mut may_be_more) = (0, true);
    for _ in 0..LOOKS_PER_EXPIRY {
        let wanted = limit - ended;
        let looked_at = to_be_swept(batch.connection, now, wanted)?;
        may_be_more = looked_at.len() == wanted;
        let (mut overdue, used): (Vec<_>, Vec<_>) = looked_at
            .into_iter()
            .partition(|session| session.expires_at() <= now);
        for session in used {
            batch
                .connection
                .prepare_cached("UPDATE sessions SET sweep_at = expires_at WHERE id = ?1")?
                .execute([session.id])?;
        }
        overdue.sort_unstable_by_key(|session| (session.expires_at(), session.id));
        ended += overdue.len();
        end_each(batch, overdue, &request)?;
        if ended == limit || !may_be_more {
            break;
        }
    }
    let erased = renewals::erase_nonces(batch, now, limit)?;
    Ok(if may_be_more { limit } else { ended.max(erased) })
}

/// Sessions of which the moment to be looked at has come.
fn to_be_swept(connection: &Connection, now: Timestamp, limit: usize) -> rusqlite::Result<Vec<Session>> {
    let sql = format!(
        "SELECT {SESSION_COLUMNS} FROM sessions WHERE ended_at IS NULL AND sweep_at <= ?1
         ORDER BY sweep_at LIMIT ?2"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![now, limit], rows::session)?
        .collect()
}

pub(super) fn purge(
    batch: &mut Batch<'_>,
    before: Timestamp,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let sessions = batch
        .connection
        .prepare_cached(
            "DELETE FROM sessions WHERE id IN
                 (SELECT id FROM sessions WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2)",
        )?
        .execute(params![before, limit])?;
    // From the oldest on, up to the first young one: whoever follows the numbers must be able to tell that some are gone. Once
    // no old session is left: no ending goes before the session that it is of.
    let events_max = if sessions < limit {
        limit.saturating_mul(EVENTS_PER_SESSION)
    } else {
        0
    };
    let events = batch
        .connection
        .prepare_cached(
            "WITH oldest AS MATERIALIZED (SELECT id, recorded_at FROM events ORDER BY id LIMIT ?2)
             DELETE FROM events WHERE id IN (SELECT id FROM oldest)
                 AND id < coalesce((SELECT min(id) FROM oldest WHERE recorded_at >= ?1), 9223372036854775807)",
        )?
        .execute(params![before, events_max])?;
    let calls = batch
        .connection
        .prepare_cached(
            "DELETE FROM idempotency_keys WHERE (api_key_id, key_print) IN
                 (SELECT api_key_id, key_print FROM idempotency_keys WHERE created_at <= ?1
                  ORDER BY created_at LIMIT ?2)",
        )?
        .execute(params![now.plus_millis(-IDEMPOTENCY_MILLIS), limit])?;
    let deliveries = webhooks::purge(batch, before, events_max, now)?;
    Ok(sessions + events + calls + deliveries)
}

pub(super) fn create_key(batch: &Batch<'_>, key: &KeyRecord) -> rusqlite::Result<()> {
    batch
        .connection
        .prepare_cached(
            "INSERT INTO api_keys (id, app, name, key_hash, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            key.id,
            key.app.as_str(),
            key.name,
            key.hash,
            key.created_at
        ])
        .map(drop)
}

pub(super) fn revoke_key(batch: &Batch<'_>, id: KeyId, now: Timestamp) -> rusqlite::Result<bool> {
    let known = batch
        .connection
        .prepare_cached("UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")?
        .execute(params![id, now])?;
    Ok(known == 1)
}

pub(super) fn write_high_water(batch: &Batch<'_>, now: Timestamp) -> rusqlite::Result<()> {
    batch
        .connection
        .prepare_cached(
            "INSERT INTO meta (key, value) VALUES ('high_water', ?1)
             ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute([now])
        .map(drop)
}

/// The session, if it is in this app and the owner's.
pub(super) fn owned(
    connection: &Connection,
    app: &AppName,
    id: SessionId,
    owner: &Owner,
) -> rusqlite::Result<Option<Session>> {
    let session = reads::find(connection, id)?;
    Ok(session.filter(|session| session.app == *app && owner.owns(session)))
}

/// A user's sessions without a written ending, oldest sign-in first.
pub(super) fn unended_of_user(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
) -> rusqlite::Result<Vec<Session>> {
    let sql = format!(
        "SELECT {SESSION_COLUMNS} FROM sessions WHERE app = ?1 AND user_id = ?2 AND ended_at IS NULL
         ORDER BY signed_in_at, id"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![app.as_str(), user_id.as_str()], rows::session)?
        .collect()
}

pub(super) fn write_user(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    settings: &UserSettings,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO users (app, user_id, tier, max_sessions, is_blocked, credentials_changed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (app, user_id) DO UPDATE SET tier = excluded.tier, max_sessions = excluded.max_sessions,
                 is_blocked = excluded.is_blocked, credentials_changed_at = excluded.credentials_changed_at",
        )?
        .execute(params![
            app.as_str(),
            user_id.as_str(),
            settings.tier,
            settings.max_sessions,
            settings.is_blocked,
            settings.credentials_changed_at,
        ])
        .map(drop)
}

/// Writes an event, in the transaction of the change it tells of.
pub(super) fn write_event(
    batch: &mut Batch<'_>,
    event: Event,
    recorded_at: Timestamp,
) -> rusqlite::Result<()> {
    // Set at a build by benches/event_rows.sh alone, to see what the rows of events cost.
    if option_env!("SESSIOND_BENCH_WITHOUT_EVENTS").is_some() {
        return Ok(());
    }
    batch
        .connection
        .prepare_cached(
            "INSERT INTO events (type, occurred_at, recorded_at, app, user_id, session_id, reason, ended_by,
                 device_info, ip_address, location, data, client_session_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            event.kind.as_str(),
            event.occurred_at,
            recorded_at,
            event.app.as_str(),
            event.user_id.as_ref().map(UserId::as_str),
            event.session_id,
            event.reason.as_ref().map(Reason::as_str),
            event.ended_by.map(EndedBy::as_str),
            event.device_info,
            text(event.ip_address.as_ref()),
            event.location,
            event.data,
            event.client_session_id,
        ])?;
    let number = batch.connection.last_insert_rowid();
    batch.committed.events.push(RecordedEvent {
        number: u64::try_from(number).unwrap_or_default(),
        event,
    });
    Ok(())
}

pub(super) fn record(batch: &mut Batch<'_>, event: &Event) -> rusqlite::Result<()> {
    write_event(batch, event.clone(), event.occurred_at)
}
