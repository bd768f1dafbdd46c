//! What makes sessions and gives them to users, inside the writer's transaction: counted, enforced and inserted in one.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::changes::{end_session, expire, owned, unended_of_user, write_event, write_user};
use super::counts::Kind;
use super::devices::note_device;
use super::notices::first_look;
use super::reads;
use super::rows::text;
use super::session_data::write_data;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::{Event, EventKind};
use crate::session::{AppName, EndedBy, OnLimit, Reason, SecretHash, Session, SessionId};
use crate::store::{
    Authenticated, Authentication, Creation, EndRequest, IDEMPOTENCY_MILLIS, Idempotency, NewSession,
    OVERDUE_PER_CREATION, Owner, REFUSED_LIST_LEN_MAX, Refused, VISITORS_MILLIS, Visitor,
};
use crate::user::{Tiers, UserId};

pub(super) fn create(batch: &mut Batch<'_>, new: &NewSession) -> rusqlite::Result<Creation> {
    if let Some(call) = &new.idempotency
        && let Some(answer) = repeated(batch.connection, call, new.now)?
    {
        return Ok(answer);
    }
    let mut in_the_way = None;
    if let Some(client) = new.client {
        in_the_way = reads::find_client(batch.connection, &new.app, client.id)?;
        if let Some(there) = in_the_way.take_if(|there| there.is_active(new.now)) {
            return Ok(Creation::Existed(Box::new(there)));
        }
        if in_the_way.is_none() && !makes_room(batch, &new.app, Kind::Client, client.total_max, new.now)? {
            return Ok(Creation::AppFull);
        }
    }
    if let Some(visitor) = &new.visitor {
        if let Some(retry_at) = too_many_visitors(batch, &new.app, visitor, new.now)? {
            return Ok(Creation::TooManyVisitors { retry_at });
        }
        if !makes_room(batch, &new.app, Kind::Anonymous, visitor.total_max, new.now)? {
            return Ok(Creation::AppFull);
        }
    }
    let mut evicted = Vec::new();
    if let Some(user_id) = &new.user_id {
        let sign_in = SignIn {
            app: &new.app,
            user_id,
            own: None,
            authenticated_at: new.authenticated_at,
            tier: new.tier.as_ref(),
            tiers: &new.tiers,
            on_limit: new.on_limit,
            end_ids: &new.end_ids,
            now: new.now,
        };
        match admit(batch, &sign_in)? {
            Ok(made_room) => evicted = made_room,
            Err(refused) => return Ok(Creation::Refused(refused)),
        }
    }
    if let Some(overdue) = in_the_way {
        // Limits of its user may have ended it by now.
        let overdue = reads::find(batch.connection, overdue.id)?.filter(|there| there.ending.is_none());
        let request = expiry(new.now);
        overdue
            .map(|there| end_session(batch, there, &request))
            .transpose()?;
    }
    let session = insert(batch, new)?;
    Ok(Creation::Created {
        session: Box::new(session),
        evicted,
    })
}

/// Whether the app may have one more of a kind, once what is overdue is written down as ended.
fn makes_room(
    batch: &mut Batch<'_>,
    app: &AppName,
    kind: Kind,
    max: u32,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    if batch.has_room(app, kind, max)? {
        return Ok(true);
    }
    expire(batch, now, OVERDUE_PER_CREATION)?;
    batch.has_room(app, kind, max)
}

fn insert(batch: &mut Batch<'_>, new: &NewSession) -> rusqlite::Result<Session> {
    let session = Session {
        id: batch.next_id(new.now),
        app: new.app.clone(),
        user_id: new.user_id.clone(),
        client_session_id: new.client.map(|client| client.id),
        token_hash: new.token_hash,
        replaced: None,
        name: new.name.clone(),
        is_trusted: false,
        user_agent: new.user_agent.clone(),
        device: new.device.clone(),
        place: new.place.clone(),
        ip_address: new.ip_address,
        last_ip_address: None,
        created_at: new.now,
        signed_in_at: new.now,
        authenticated_at: new.authenticated_at,
        last_activity_at: new.now,
        idle_timeout_millis: new.timeouts.idle_millis,
        absolute_expires_at: new.now.plus_millis(new.timeouts.absolute_millis),
        ending: None,
        auth: new.auth.clone(),
        identities: None,
        data_version: u64::from(new.data.is_some()),
    };
    insert_session(batch.connection, &session, new)?;
    batch.counts.created(&session);
    if new.visitor.is_some() {
        batch.counts.visited(&session);
    }
    if let Some(data) = &new.data {
        write_data(batch, session.id, data)?;
    }
    if let Some(call) = &new.idempotency {
        remember_call(batch.connection, call, &session)?;
    }
    let event = Event::about(&session, EventKind::SessionCreated, new.now);
    write_event(batch, event, new.now)?;
    note_device(batch, &session, new.now)?;
    Ok(session)
}

pub(super) fn authenticate(
    batch: &mut Batch<'_>,
    authentication: &Authentication,
) -> rusqlite::Result<Authenticated> {
    let Authentication {
        now, app, user_id, ..
    } = authentication;
    batch.write_pending_touch(authentication.id, *now)?;
    let Some(mut session) = owned(batch.connection, app, authentication.id, &Owner::Anyone)? else {
        return Ok(Authenticated::NotFound);
    };
    if !session.is_active(*now) {
        return Ok(Authenticated::AlreadyEnded(Box::new(session)));
    }
    if session.user_id.as_ref().is_some_and(|theirs| theirs != user_id) {
        return Ok(Authenticated::OtherUser);
    }
    let sign_in = SignIn {
        app,
        user_id,
        own: Some(session.id),
        authenticated_at: Some(authentication.authenticated_at),
        tier: authentication.tier.as_ref(),
        tiers: &authentication.tiers,
        on_limit: authentication.on_limit,
        end_ids: &authentication.end_ids,
        now: *now,
    };
    let evicted = match admit(batch, &sign_in)? {
        Ok(evicted) => evicted,
        Err(refused) => return Ok(Authenticated::Refused(refused)),
    };
    batch.counts.ended(&session);
    authentication.apply(&mut session);
    batch.counts.created(&session);
    update_signed_in(batch.connection, &session, authentication.expiring_notice_millis)?;
    let event = Event::about(&session, EventKind::SessionAuthenticated, *now);
    write_event(batch, event, *now)?;
    note_device(batch, &session, *now)?;
    batch.committed.changed.push(session.id);
    Ok(Authenticated::Done {
        session: Box::new(session),
        evicted,
    })
}

/// A user who signs in, with a new session or with one that is there.
struct SignIn<'s> {
    app: &'s AppName,
    user_id: &'s UserId,
    /// The session that is there: it never makes room for itself.
    own: Option<SessionId>,
    authenticated_at: Option<Timestamp>,
    tier: Option<&'s String>,
    tiers: &'s Arc<Tiers>,
    on_limit: OnLimit,
    end_ids: &'s [SessionId],
    now: Timestamp,
}

/// Lets a user sign in, after ending what they chose and, if they are at their limit, the oldest sign-ins; or says why
/// not, with nothing changed. Answers what the limit ended.
fn admit(batch: &mut Batch<'_>, sign_in: &SignIn<'_>) -> rusqlite::Result<Result<Vec<Session>, Refused>> {
    let SignIn {
        app, user_id, now, ..
    } = *sign_in;
    let mut settings = reads::user_settings(batch.connection, app, user_id)?;
    if settings.is_blocked {
        return Ok(Err(Refused::UserBlocked));
    }
    if settings.credentials_changed_at > sign_in.authenticated_at {
        return Ok(Err(Refused::CredentialsChanged));
    }
    if sign_in.tier.is_some() {
        settings.tier = sign_in.tier.cloned();
    }
    let max = sign_in.tiers.effective_max_sessions(&settings);
    let is_one_of_many = max > 0
        && sign_in.end_ids.is_empty()
        && count_unended(batch.connection, app, user_id, sign_in.own)? < max as usize;
    // Most sign-ins end here, by one index.
    let others = match is_one_of_many {
        true => Vec::new(),
        false => unended_ids(batch.connection, sign_in)?,
    };
    let (active, overdue): (Vec<Unended>, Vec<Unended>) =
        others.into_iter().partition(|other| now < other.expires_at);
    let (chosen, rest): (Vec<Unended>, Vec<Unended>) = active
        .into_iter()
        .partition(|other| sign_in.end_ids.contains(&other.id));
    let surplus = (rest.len() + 1).saturating_sub(max as usize);
    if max == 0 || (surplus > 0 && sign_in.on_limit == OnLimit::Deny) {
        let active = active_of_user(batch.connection, sign_in)?;
        return Ok(Err(Refused::LimitReached { max, active }));
    }
    if sign_in.tier.is_some() {
        write_user(batch.connection, app, user_id, &settings)?;
    }
    end_ids(batch, &overdue, &expiry(now))?;
    end_ids(batch, &chosen, &choice(now))?;
    let request = EndRequest {
        now,
        reason: Reason::known(Reason::SESSION_LIMIT_EXCEEDED),
        by: EndedBy::Limit,
    };
    end_ids(batch, &rest[..surplus], &request).map(Ok)
}

/// A session that may be in the way of a sign-in. The whole row is read only of those that make room.
struct Unended {
    id: SessionId,
    expires_at: Timestamp,
}

/// A user's sessions without a written ending but the one that is signed in with, oldest sign-in first.
fn unended_ids(connection: &Connection, sign_in: &SignIn<'_>) -> rusqlite::Result<Vec<Unended>> {
    connection
        .prepare_cached(
            "SELECT id, expires_at FROM sessions
             WHERE app = ?1 AND user_id = ?2 AND ended_at IS NULL AND id IS NOT ?3 ORDER BY signed_in_at, id",
        )?
        .query_map(
            params![sign_in.app.as_str(), sign_in.user_id.as_str(), sign_in.own],
            |row| {
                Ok(Unended {
                    id: row.get(0)?,
                    expires_at: row.get(1)?,
                })
            },
        )?
        .collect()
}

/// Ends these; answers them as they are now.
fn end_ids(
    batch: &mut Batch<'_>,
    sessions: &[Unended],
    request: &EndRequest,
) -> rusqlite::Result<Vec<Session>> {
    let mut ended = Vec::with_capacity(sessions.len());
    for session in sessions {
        if let Some(session) = reads::find(batch.connection, session.id)? {
            ended.push(end_session(batch, session, request)?);
        }
    }
    Ok(ended)
}

/// The active sessions that keep a user from signing in, latest sign-in first.
fn active_of_user(connection: &Connection, sign_in: &SignIn<'_>) -> rusqlite::Result<Vec<Session>> {
    let mut active = unended_of_user(connection, sign_in.app, sign_in.user_id)?;
    active.retain(|session| Some(session.id) != sign_in.own && session.is_active(sign_in.now));
    active.reverse();
    active.truncate(REFUSED_LIST_LEN_MAX);
    Ok(active)
}

/// The person chose what is to make room.
fn choice(now: Timestamp) -> EndRequest {
    EndRequest {
        now,
        reason: Reason::known(Reason::MANUAL),
        by: EndedBy::User,
    }
}

/// For what is overdue, which ends as expired whatever is asked for.
fn expiry(now: Timestamp) -> EndRequest {
    EndRequest {
        now,
        reason: Reason::known(Reason::IDLE_TIMEOUT),
        by: EndedBy::Timeout,
    }
}

fn count_unended(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    but: Option<SessionId>,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM sessions
             WHERE app = ?1 AND user_id = ?2 AND ended_at IS NULL AND id IS NOT ?3",
        )?
        .query_row(params![app.as_str(), user_id.as_str(), but], |row| row.get(0))
}

/// When the next visitor of this network may start a session in this app, if not now.
fn too_many_visitors(
    batch: &mut Batch<'_>,
    app: &AppName,
    visitor: &Visitor,
    now: Timestamp,
) -> rusqlite::Result<Option<Timestamp>> {
    // The one that must be an hour old first.
    let of_network: Option<Timestamp> = batch
        .connection
        .prepare_cached(
            "SELECT created_at FROM sessions WHERE app = ?1 AND started_from = ?2 AND created_at > ?3
             ORDER BY created_at DESC LIMIT 1 OFFSET ?4",
        )?
        .query_row(
            params![
                app.as_str(),
                visitor.network,
                now.plus_millis(-VISITORS_MILLIS),
                visitor.per_hour.saturating_sub(1)
            ],
            |row| row.get(0),
        )
        .optional()?;
    let (counts, total) = (&mut batch.counts, visitor.per_hour_total);
    let of_app = counts.visit_that_must_age(batch.connection, app, total, now)?;
    Ok(of_network.max(of_app).map(|at| at.plus_millis(VISITORS_MILLIS)))
}

/// What to answer if the same call was made before.
fn repeated(
    connection: &Connection,
    call: &Idempotency,
    now: Timestamp,
) -> rusqlite::Result<Option<Creation>> {
    let known = connection
        .prepare_cached(
            "SELECT body_print = ?3, session_id, token_hash, nonce FROM idempotency_keys
             WHERE api_key_id = ?1 AND key_print = ?2 AND created_at > ?4",
        )?
        .query_row(
            params![
                call.api_key,
                call.key,
                call.body,
                now.plus_millis(-IDEMPOTENCY_MILLIS)
            ],
            |row| {
                let token_hash: SecretHash = row.get(2)?;
                Ok((row.get(0)?, row.get::<_, SessionId>(1)?, token_hash, row.get(3)?))
            },
        )
        .optional()?;
    let Some((is_same_body, id, token_hash, nonce)): Option<(bool, _, _, _)> = known else {
        return Ok(None);
    };
    if !is_same_body {
        return Ok(Some(Creation::IdempotencyKeyReused));
    }
    let session = reads::find(connection, id)?
        .filter(|session| session.is_active(now) && session.token_hash == token_hash);
    Ok(Some(match session {
        Some(session) => Creation::Repeated {
            session: Box::new(session),
            nonce,
        },
        None => Creation::IdempotencySessionChanged,
    }))
}

fn remember_call(connection: &Connection, call: &Idempotency, session: &Session) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            // A row of this key that is there is too old to count.
            "INSERT OR REPLACE INTO idempotency_keys
                 (api_key_id, key_print, body_print, session_id, token_hash, nonce, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            call.api_key,
            call.key,
            call.body,
            session.id,
            session.token_hash,
            call.nonce,
            session.created_at
        ])
        .map(drop)
}

fn insert_session(connection: &Connection, session: &Session, new: &NewSession) -> rusqlite::Result<()> {
    let device = session.device.as_ref();
    let place = session.place.as_ref();
    connection
        .prepare_cached(
            // Values in the order of the columns: looking names up takes a tenth of an insertion.
            "INSERT INTO sessions (id, app, user_id, client_session_id, token_hash, name, is_trusted, user_agent,
                 browser, browser_version, os, os_version, device_type, is_bot, city, country, ip_address,
                 created_at, signed_in_at, authenticated_at, last_activity_at, idle_timeout, absolute_expires_at,
                 expires_at, auth, data_version, started_from, expiring_notice, notice_at, sweep_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            session.id,
            session.app.as_str(),
            session.user_id.as_ref().map(UserId::as_str),
            session.client_session_id,
            session.token_hash,
            session.name,
            session.is_trusted,
            session.user_agent,
            device.and_then(|device| device.browser.as_ref()),
            device.and_then(|device| device.browser_version.as_ref()),
            device.and_then(|device| device.os.as_ref()),
            device.and_then(|device| device.os_version.as_ref()),
            device
                .and_then(|device| device.device_type)
                .map(|kind| kind.as_str()),
            device.map(|device| device.is_bot),
            place.and_then(|place| place.city.as_ref()),
            place.map(|place| &place.country),
            text(session.ip_address.as_ref()),
            session.created_at,
            session.signed_in_at,
            session.authenticated_at,
            session.last_activity_at,
            session.idle_timeout_millis,
            session.absolute_expires_at,
            session.expires_at(),
            session.auth.as_ref().map(|auth| auth.as_str()),
            session.data_version,
            new.visitor.as_ref().map(|visitor| &visitor.network),
            new.expiring_notice_millis,
            first_look(session, new.expiring_notice_millis),
            session.expires_at(),
        ])
        .map(drop)
}

/// Everything that a sign-in changes of a session that is there.
fn update_signed_in(
    connection: &Connection,
    session: &Session,
    notice_millis: Option<i64>,
) -> rusqlite::Result<()> {
    let device = session.device.as_ref();
    let place = session.place.as_ref();
    connection
        .prepare_cached(
            "UPDATE sessions SET user_id = :user_id, token_hash = :token_hash,
                 previous_token_hash = :previous_token_hash, renew_nonce = NULL, grace_ends_at = NULL,
                 replaced_reported_at = NULL, user_agent = :user_agent, browser = :browser,
                 browser_version = :browser_version, os = :os, os_version = :os_version, device_type = :device_type,
                 is_bot = :is_bot, city = :city, country = :country, ip_address = :ip_address,
                 last_ip_address = :last_ip_address, signed_in_at = :signed_in_at,
                 authenticated_at = :authenticated_at, last_activity_at = :last_activity_at,
                 idle_timeout = :idle_timeout, absolute_expires_at = :absolute_expires_at,
                 expires_at = :expires_at, auth = :auth, expiring_notice = :expiring_notice, notice_at = :notice_at,
                 sweep_at = :expires_at
             WHERE id = :id AND ended_at IS NULL",
        )?
        .execute(named_params! {
            ":id": session.id,
            ":user_id": session.user_id.as_ref().map(UserId::as_str),
            ":token_hash": session.token_hash,
            ":previous_token_hash": session.replaced.map(|replaced| replaced.hash),
            ":user_agent": session.user_agent,
            ":browser": device.and_then(|device| device.browser.as_ref()),
            ":browser_version": device.and_then(|device| device.browser_version.as_ref()),
            ":os": device.and_then(|device| device.os.as_ref()),
            ":os_version": device.and_then(|device| device.os_version.as_ref()),
            ":device_type": device.and_then(|device| device.device_type).map(|kind| kind.as_str()),
            ":is_bot": device.map(|device| device.is_bot),
            ":city": place.and_then(|place| place.city.as_ref()),
            ":country": place.map(|place| &place.country),
            ":ip_address": text(session.ip_address.as_ref()),
            ":last_ip_address": text(session.last_ip_address.as_ref()),
            ":signed_in_at": session.signed_in_at,
            ":authenticated_at": session.authenticated_at,
            ":last_activity_at": session.last_activity_at,
            ":idle_timeout": session.idle_timeout_millis,
            ":absolute_expires_at": session.absolute_expires_at,
            ":expires_at": session.expires_at(),
            ":auth": session.auth.as_ref().map(|auth| auth.as_str()),
            ":expiring_notice": notice_millis,
            ":notice_at": first_look(session, notice_millis),
        })
        .map(drop)
}
