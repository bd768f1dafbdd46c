//! Renewals of tokens, inside the writer's transaction, and what remembers them.
//!
//! The row has the hash of the current token and of the one before it. No token is stored, nor what makes one alone: the
//! successor follows from the token that is presented, the nonce in the row and the key file.

use rusqlite::params;

use super::changes::{end_session, owned, write_event};
use super::reads;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::{Event, EventKind};
use crate::session::{
    EndedBy, Grace, OnTokenReuse, Reason, Replaced, SecretHash, Session, SessionId, SuccessorSeen, WhichToken,
};
use crate::store::{EndRequest, Owner, REPORT_INTERVAL_MILLIS, Renewal, Renewed};

pub(super) fn renew(batch: &mut Batch<'_>, renewal: &Renewal) -> rusqlite::Result<Renewed> {
    let now = renewal.now;
    let find = |batch: &Batch<'_>| {
        let session = owned(batch.connection, &renewal.app, renewal.id, &Owner::Anyone)?;
        Ok::<_, rusqlite::Error>(session.and_then(|session| {
            let which = session.which_token(&renewal.presented)?;
            Some((session, which))
        }))
    };
    // A wrong secret writes nothing, not even what is pending.
    if find(batch)?.is_none() {
        return Ok(Renewed::Unknown);
    }
    batch.write_pending_touch(renewal.id, now)?;
    let Some((session, which)) = find(batch)? else {
        return Ok(Renewed::Unknown);
    };
    let is_over = !session.is_active(now);
    match which {
        WhichToken::Current if is_over => Ok(Renewed::AlreadyEnded(Box::new(session))),
        WhichToken::Current => match session.replaced.map(|replaced| replaced.grace) {
            Some(Grace::Open { .. }) => begin_grace(batch, session, renewal),
            Some(grace) if grace.is_good(now) => Ok(Renewed::Unchanged(Box::new(session))),
            _ => replace_token(batch, session, renewal),
        },
        WhichToken::Replaced(Replaced { grace, .. }) if grace.is_good(now) => match grace {
            _ if is_over => Ok(Renewed::AlreadyEnded(Box::new(session))),
            Grace::Open { nonce } if renewal.lost == Some(nonce) => replace_token(batch, session, renewal),
            Grace::Open { nonce }
            | Grace::Until {
                nonce: Some(nonce), ..
            } => Ok(Renewed::Successor {
                session: Box::new(session),
                nonce,
            }),
            Grace::None | Grace::Until { nonce: None, .. } => Ok(Renewed::Replaced),
        },
        WhichToken::Replaced(replaced) if is_over || replaced.grace == Grace::None => Ok(Renewed::Replaced),
        WhichToken::Replaced(replaced) => reuse(batch, session, replaced, renewal),
    }
}

/// The presented token is good and becomes the one before the current one.
fn replace_token(
    batch: &mut Batch<'_>,
    mut session: Session,
    renewal: &Renewal,
) -> rusqlite::Result<Renewed> {
    let nonce = renewal.nonce;
    session.token_hash = renewal.successor;
    session.replaced = Some(Replaced {
        hash: renewal.presented,
        grace: Grace::Open { nonce },
        reported_at: None,
    });
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET token_hash = ?2, previous_token_hash = ?3, renew_nonce = ?4, grace_ends_at = NULL,
                 replaced_reported_at = NULL
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![session.id, session.token_hash, renewal.presented, nonce])?;
    let event = Event::about(&session, EventKind::SessionRenewed, renewal.now);
    write_event(batch, event, renewal.now)?;
    batch.committed.changed.push(session.id);
    Ok(Renewed::Successor {
        session: Box::new(session),
        nonce,
    })
}

/// Whoever renews a successor has presented it.
fn begin_grace(batch: &mut Batch<'_>, mut session: Session, renewal: &Renewal) -> rusqlite::Result<Renewed> {
    let seen = SuccessorSeen {
        token_hash: session.token_hash,
        grace_ends_at: renewal.now.plus_millis(renewal.grace_millis),
    };
    write_grace(batch, session.id, &seen)?;
    session.begin_grace(seen.grace_ends_at);
    batch.committed.changed.push(session.id);
    Ok(Renewed::Unchanged(Box::new(session)))
}

/// Keeps when the grace of a replaced token ends, unless that is known, or the row is about other tokens by now.
pub(super) fn write_grace(batch: &Batch<'_>, id: SessionId, seen: &SuccessorSeen) -> rusqlite::Result<()> {
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET grace_ends_at = ?3
             WHERE id = ?1 AND token_hash = ?2 AND renew_nonce IS NOT NULL AND grace_ends_at IS NULL
               AND ended_at IS NULL",
        )?
        .execute(params![id, seen.token_hash, seen.grace_ends_at])
        .map(drop)
}

/// A token is renewed that was replaced too long ago: two hold what one should, and which of them may is unknown.
fn reuse(
    batch: &mut Batch<'_>,
    session: Session,
    replaced: Replaced,
    renewal: &Renewal,
) -> rusqlite::Result<Renewed> {
    match renewal.on_reuse {
        OnTokenReuse::Notify => {
            let session = report(batch, session, replaced, renewal.now)?;
            Ok(Renewed::Reused(Box::new(session)))
        }
        OnTokenReuse::Revoke => {
            write_event(
                batch,
                Event::of_replaced_token(&session, renewal.now),
                renewal.now,
            )?;
            let request = EndRequest {
                now: renewal.now,
                reason: Reason::known(Reason::TOKEN_REUSE),
                by: EndedBy::Security,
            };
            Ok(Renewed::Reused(Box::new(end_session(batch, session, &request)?)))
        }
    }
}

pub(super) fn report_replaced(
    batch: &mut Batch<'_>,
    id: SessionId,
    presented: SecretHash,
    now: Timestamp,
) -> rusqlite::Result<()> {
    batch.write_pending_touch(id, now)?;
    let Some(session) = reads::find(batch.connection, id)?.filter(|session| session.is_active(now)) else {
        return Ok(());
    };
    match session.which_token(&presented) {
        Some(WhichToken::Replaced(replaced)) => report(batch, session, replaced, now).map(drop),
        _ => Ok(()),
    }
}

/// Tells that a token was used after its grace, unless that was told a moment ago. Answers the session as it is then.
fn report(
    batch: &mut Batch<'_>,
    mut session: Session,
    replaced: Replaced,
    now: Timestamp,
) -> rusqlite::Result<Session> {
    if !replaced.is_to_be_reported(now, REPORT_INTERVAL_MILLIS) {
        return Ok(session);
    }
    session.replaced = Some(Replaced {
        reported_at: Some(now),
        ..replaced
    });
    batch
        .connection
        .prepare_cached("UPDATE sessions SET replaced_reported_at = ?2 WHERE id = ?1 AND ended_at IS NULL")?
        .execute(params![session.id, now])?;
    write_event(batch, Event::of_replaced_token(&session, now), now)?;
    batch.committed.changed.push(session.id);
    Ok(session)
}

/// Erases what the successors of tokens whose grace is over were made with.
pub(super) fn erase_nonces(batch: &Batch<'_>, now: Timestamp, limit: usize) -> rusqlite::Result<usize> {
    batch
        .connection
        .prepare_cached(
            "UPDATE sessions SET renew_nonce = NULL WHERE id IN
                 (SELECT id FROM sessions
                  WHERE renew_nonce IS NOT NULL AND grace_ends_at IS NOT NULL AND grace_ends_at <= ?1
                  ORDER BY grace_ends_at LIMIT ?2)",
        )?
        .execute(params![now, limit])
}
