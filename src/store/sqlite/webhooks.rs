//! Webhooks and deliveries: what is changed, inside the writer's transaction, and what is read.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::rows::{self, ERASED};
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::EventKind;
use crate::session::AppName;
use crate::store::webhooks::{
    Attempted, Delivery, DeliveryList, DeliveryPage, DeliveryState, DueDeliveries, LastAttempt,
    NewDeliveries, NewWebhook, ReplayRange, Replayed, Verdict, WebhookPatch, WebhookRecord, WebhookState,
};
use crate::webhook::{SealedSecret, WebhookId};

/// The columns that [`webhook`] reads, in its order.
const WEBHOOK_COLUMNS: &str =
    "id, app, name, url, types, description, secret, previous_secret, previous_valid_until, \
     state, disabled_reason, cursor, created_at, last_attempt_at, last_status, last_error, \
     (SELECT count(*) FROM webhook_deliveries AS d INDEXED BY webhook_deliveries_pending
      WHERE d.webhook_id = webhooks.id AND d.state = 'pending')";

fn webhook(row: &Row<'_>) -> rusqlite::Result<WebhookRecord> {
    let (secret, previous): (Vec<u8>, Option<Vec<u8>>) = (row.get(6)?, row.get(7)?);
    let valid_until: Option<Timestamp> = row.get(8)?;
    let state: String = row.get(9)?;
    let reason: Option<String> = row.get(10)?;
    let state = match (state.as_str(), reason) {
        ("active", None) => WebhookState::Active,
        ("paused", None) => WebhookState::Paused,
        ("disabled", Some(reason)) => WebhookState::Disabled { reason },
        _ => return Err(rows::broken(9)),
    };
    Ok(WebhookRecord {
        id: row.get(0)?,
        app: rows::required(row, 1, AppName::parse)?,
        name: row.get(2)?,
        url: row.get(3)?,
        types: rows::required(row, 4, parse_types)?,
        description: row.get(5)?,
        secret: SealedSecret::from_bytes(secret),
        previous: previous.map(SealedSecret::from_bytes).zip(valid_until),
        state,
        cursor: row.get(11)?,
        created_at: row.get(12)?,
        last_attempt: last_attempt(row, 13)?,
        pending_count: row.get(16)?,
    })
}

/// Three columns from this one on.
fn last_attempt(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<LastAttempt>> {
    let at: Option<Timestamp> = row.get(column)?;
    at.map(|at| {
        Ok(LastAttempt {
            at,
            status: row.get(column + 1)?,
            error: row.get(column + 2)?,
        })
    })
    .transpose()
}

/// The names of kinds with commas between them; empty is all.
fn types_text(types: &[EventKind]) -> String {
    let names: Vec<&str> = types.iter().map(|kind| kind.as_str()).collect();
    names.join(",")
}

fn parse_types(text: &str) -> Option<Vec<EventKind>> {
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(EventKind::parse).collect()
}

/// The columns that [`delivery`] reads, in its order.
const DELIVERY_COLUMNS: &str = "event_id, type, subject, state, attempts, first_attempt_at, next_attempt_at, \
     last_attempt_at, last_status, last_error, created_at";

fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        event: row.get(0)?,
        kind: rows::required(row, 1, EventKind::parse)?,
        subject: row.get(2)?,
        state: rows::required(row, 3, DeliveryState::parse)?,
        attempts: row.get(4)?,
        first_attempt_at: row.get(5)?,
        next_attempt_at: row.get(6)?,
        last_attempt: last_attempt(row, 7)?,
        created_at: row.get(10)?,
    })
}

pub(super) fn create(batch: &Batch<'_>, new: &NewWebhook) -> rusqlite::Result<Option<WebhookRecord>> {
    let inserted = batch
        .connection
        .prepare_cached(
            "INSERT INTO webhooks (id, app, name, url, types, description, secret, state, cursor, created_at)
             SELECT :id, :app, :name, :url, :types, :description, :secret, 'active',
                    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), :now
             WHERE (SELECT count(*) FROM webhooks WHERE app = :app AND name IS NULL) < :max",
        )?
        .execute(named_params! {
            ":id": new.id, ":app": new.app.as_str(), ":name": new.name, ":url": new.url,
            ":types": types_text(&new.types), ":description": new.description, ":secret": new.secret.as_bytes(),
            ":now": new.now, ":max": new.max,
        })?;
    if inserted == 0 {
        return Ok(None);
    }
    find(batch.connection, new.id)
}

pub(super) fn update(
    batch: &Batch<'_>,
    id: WebhookId,
    patch: &WebhookPatch,
    now: Timestamp,
) -> rusqlite::Result<Option<WebhookRecord>> {
    let Some(before) = find(batch.connection, id)? else {
        return Ok(None);
    };
    let mut after = before.clone();
    if let Some(url) = &patch.url {
        after.url.clone_from(url);
    }
    if let Some(types) = &patch.types {
        after.types.clone_from(types);
    }
    if let Some(description) = &patch.description {
        after.description.clone_from(description);
    }
    match patch.is_paused {
        Some(true) => after.state = WebhookState::Paused,
        Some(false) => after.state = WebhookState::Active,
        None => {}
    }
    if let Some((secret, keep_until)) = &patch.secret {
        after.previous = keep_until.map(|until| (before.secret.clone(), until));
        after.secret.clone_from(secret);
    }
    write(batch.connection, &after)?;
    if after.types != before.types && !after.types.is_empty() {
        skip_others(batch.connection, &after)?;
    }
    if after.state == WebhookState::Active && before.state != WebhookState::Active {
        batch
            .connection
            .prepare_cached(
                "UPDATE webhook_deliveries INDEXED BY webhook_deliveries_pending
                 SET next_attempt_at = ?2, attempts = 0, first_attempt_at = NULL
                 WHERE webhook_id = ?1 AND state = 'pending'",
            )?
            .execute(params![id, now])?;
    }
    find(batch.connection, id)
}

fn write(connection: &Connection, webhook: &WebhookRecord) -> rusqlite::Result<()> {
    let reason = match &webhook.state {
        WebhookState::Disabled { reason } => Some(reason),
        WebhookState::Active | WebhookState::Paused => None,
    };
    let previous = webhook.previous.as_ref();
    connection
        .prepare_cached(
            "UPDATE webhooks SET url = ?2, types = ?3, description = ?4, secret = ?5, previous_secret = ?6,
                 previous_valid_until = ?7, state = ?8, disabled_reason = ?9
             WHERE id = ?1",
        )?
        .execute(params![
            webhook.id,
            webhook.url,
            types_text(&webhook.types),
            webhook.description,
            webhook.secret.as_bytes(),
            previous.map(|(secret, _)| secret.as_bytes()),
            previous.map(|(_, until)| until),
            webhook.state.as_str(),
            reason,
        ])
        .map(drop)
}

/// Pending deliveries of kinds that the webhook no longer asks for.
fn skip_others(connection: &Connection, webhook: &WebhookRecord) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE webhook_deliveries INDEXED BY webhook_deliveries_pending
             SET state = 'skipped', next_attempt_at = NULL
             WHERE webhook_id = ?1 AND state = 'pending' AND instr(',' || ?2 || ',', ',' || type || ',') = 0",
        )?
        .execute(params![webhook.id, types_text(&webhook.types)])
        .map(drop)
}

pub(super) fn delete(batch: &Batch<'_>, id: WebhookId) -> rusqlite::Result<bool> {
    let deleted = batch
        .connection
        .prepare_cached("DELETE FROM webhooks WHERE id = ?1")?
        .execute([id])?;
    Ok(deleted == 1)
}

pub(super) fn delete_deliveries(batch: &Batch<'_>, id: WebhookId, limit: usize) -> rusqlite::Result<usize> {
    batch
        .connection
        .prepare_cached(
            "DELETE FROM webhook_deliveries WHERE webhook_id = ?1 AND event_id IN
                 (SELECT event_id FROM webhook_deliveries WHERE webhook_id = ?1 ORDER BY event_id LIMIT ?2)",
        )?
        .execute(params![id, limit])
}

pub(super) fn find(connection: &Connection, id: WebhookId) -> rusqlite::Result<Option<WebhookRecord>> {
    connection
        .prepare_cached(&format!("SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE id = ?1"))?
        .query_row([id], webhook)
        .optional()
}

pub(super) fn list(connection: &Connection, app: Option<&AppName>) -> rusqlite::Result<Vec<WebhookRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE app = coalesce(?1, app) ORDER BY created_at, id"
        ))?
        .query_map([app.map(AppName::as_str)], webhook)?
        .collect()
}

pub(super) fn enqueue(
    batch: &Batch<'_>,
    id: WebhookId,
    new: &NewDeliveries,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let moved = batch
        .connection
        .prepare_cached("UPDATE webhooks SET cursor = ?2 WHERE id = ?1 AND cursor < ?2 AND types = ?3")?
        .execute(params![id, new.cursor, types_text(&new.types)])?;
    if moved == 0 {
        return Ok(false);
    }
    // An event may have been erased since it was read.
    let mut insert = batch.connection.prepare_cached(
        "INSERT INTO webhook_deliveries (webhook_id, event_id, type, subject, state, next_attempt_at, created_at)
         SELECT ?1, ?2, ?3, ?4, 'pending', ?5, ?5
         WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = ?2 AND type = ?6) ON CONFLICT DO NOTHING",
    )?;
    for delivery in &new.deliveries {
        insert.execute(params![
            id,
            delivery.event,
            delivery.kind.as_str(),
            delivery.subject,
            now,
            ERASED
        ])?;
    }
    Ok(true)
}

pub(super) fn count_fresh(connection: &Connection, id: WebhookId) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM webhook_deliveries INDEXED BY webhook_deliveries_pending
             WHERE webhook_id = ?1 AND state = 'pending' AND attempts = 0",
        )?
        .query_row([id], |row| row.get(0))
}

pub(super) fn due(
    connection: &Connection,
    id: WebhookId,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<DueDeliveries> {
    // The row of each group is the one with the least event (https://www.sqlite.org/lang_select.html#bareagg).
    let heads = format!(
        "SELECT {DELIVERY_COLUMNS}, min(event_id) FROM webhook_deliveries
         WHERE webhook_id = ?1 AND state = 'pending' GROUP BY subject"
    );
    let snapshot = connection.unchecked_transaction()?;
    let due = snapshot
        .prepare_cached(&format!(
            "SELECT * FROM ({heads}) WHERE next_attempt_at <= ?2 ORDER BY event_id LIMIT ?3"
        ))?
        .query_map(params![id, now, limit], delivery)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let next_at = snapshot
        .prepare_cached(&format!(
            "SELECT min(next_attempt_at) FROM ({heads}) WHERE next_attempt_at > ?2"
        ))?
        .query_row(params![id, now], |row| row.get(0))?;
    Ok(DueDeliveries { due, next_at })
}

pub(super) fn record_attempt(
    batch: &Batch<'_>,
    id: WebhookId,
    event: u64,
    attempted: &Attempted,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (state, next_attempt_at) = match &attempted.verdict {
        Verdict::Delivered => (DeliveryState::Delivered, None),
        Verdict::Retry(at) => (DeliveryState::Pending, Some(*at)),
        Verdict::Failed => (DeliveryState::Failed, None),
        Verdict::Disable { .. } => (DeliveryState::Pending, Some(now)),
    };
    // A delivery that was skipped meanwhile stays so, and one that was to be made anew does not fail by its former
    // time.
    const IS_AS_BEFORE: &str = "state = 'pending' AND (?3 <> 'failed' OR first_attempt_at IS ?8)";
    let LastAttempt { at, status, error } = &attempted.attempt;
    batch
        .connection
        .prepare_cached(&format!(
            "UPDATE webhook_deliveries SET state = CASE WHEN {IS_AS_BEFORE} THEN ?3 ELSE state END,
                 next_attempt_at = CASE WHEN {IS_AS_BEFORE} THEN ?4 ELSE next_attempt_at END,
                 attempts = attempts + 1, first_attempt_at = coalesce(first_attempt_at, ?5), last_attempt_at = ?5,
                 last_status = ?6, last_error = ?7
             WHERE webhook_id = ?1 AND event_id = ?2",
        ))?
        .execute(params![
            id,
            event,
            state.as_str(),
            next_attempt_at,
            at,
            status,
            error,
            attempted.first_attempt_at,
        ])?;
    batch
        .connection
        .prepare_cached(
            "UPDATE webhooks SET last_attempt_at = ?2, last_status = ?3, last_error = ?4 WHERE id = ?1",
        )?
        .execute(params![id, at, status, error])?;
    if let Verdict::Disable { reason, url } = &attempted.verdict {
        // One that was paused meanwhile stays so: whoever did that decides when it goes on. One that leads elsewhere by
        // now was given another receiver.
        batch
            .connection
            .prepare_cached(
                "UPDATE webhooks SET state = 'disabled', disabled_reason = ?2
                 WHERE id = ?1 AND state = 'active' AND url = ?3",
            )?
            .execute(params![id, reason, url])?;
    }
    Ok(())
}

pub(super) fn deliveries(
    connection: &Connection,
    list: &DeliveryList,
    scan_rows_max: usize,
) -> rusqlite::Result<DeliveryPage> {
    let before = list
        .before
        .map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
    let mut looked_at = connection.prepare_cached(&format!(
        "SELECT {DELIVERY_COLUMNS} FROM webhook_deliveries WHERE webhook_id = ?1 AND event_id < ?2
         ORDER BY event_id DESC LIMIT ?3"
    ))?;
    let mut rows = looked_at.query(params![list.webhook, before, scan_rows_max])?;
    let (mut found, mut looked_to, mut count, mut more) = (Vec::new(), None, 0, false);
    while let Some(row) = rows.next()? {
        if found.len() == list.limit {
            more = true;
            break;
        }
        let delivery = delivery(row)?;
        looked_to = Some(delivery.event);
        count += 1;
        if list.state.is_none_or(|state| state == delivery.state) {
            found.push(delivery);
        }
    }
    Ok(DeliveryPage {
        deliveries: found,
        next: looked_to.filter(|_| more || count == scan_rows_max),
    })
}

pub(super) fn replay(batch: &Batch<'_>, id: WebhookId, event: u64, now: Timestamp) -> rusqlite::Result<bool> {
    let replayed = batch
        .connection
        .prepare_cached(
            "UPDATE webhook_deliveries SET state = 'pending', next_attempt_at = ?3, attempts = 0,
                 first_attempt_at = NULL
             WHERE webhook_id = ?1 AND event_id = ?2",
        )?
        .execute(params![id, event, now])?;
    Ok(replayed == 1)
}

pub(super) fn replay_range(batch: &Batch<'_>, range: &ReplayRange) -> rusqlite::Result<Replayed> {
    let nothing = Replayed {
        count: 0,
        next_after: None,
    };
    let Some(webhook) = find(batch.connection, range.webhook)? else {
        return Ok(nothing);
    };
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (after, until) = (number(range.after), number(range.until.min(webhook.cursor)));
    let room = range.pending_max.saturating_sub(webhook.pending_count);
    let limit = range.limit.min(usize::try_from(room).unwrap_or(usize::MAX));
    // One more than is looked at tells whether there is more.
    let looked_to: Option<u64> = batch
        .connection
        .prepare_cached("SELECT id FROM events WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT 1 OFFSET ?3")?
        .query_row(params![after, until, limit], |row| row.get(0))
        .optional()?
        .map(|beyond: u64| beyond - 1);
    let replayed = batch
        .connection
        .prepare_cached(
            "INSERT INTO webhook_deliveries (webhook_id, event_id, type, subject, state, next_attempt_at, created_at)
             SELECT ?1, id, type, coalesce(CASE WHEN session_id IS NULL THEN NULL ELSE lower(hex(session_id)) END,
                        user_id, ''), 'pending', ?5, ?5
             FROM events WHERE id > ?2 AND id <= ?3 AND app = ?4
                 AND (?6 = '' OR instr(',' || ?6 || ',', ',' || type || ',') > 0)
             ON CONFLICT (webhook_id, event_id) DO UPDATE SET state = 'pending', next_attempt_at = excluded.next_attempt_at,
                 attempts = 0, first_attempt_at = NULL",
        )?
        .execute(params![
            range.webhook,
            after,
            looked_to.map_or(until, number),
            webhook.app.as_str(),
            range.now,
            types_text(&webhook.types),
        ])?;
    Ok(Replayed {
        count: replayed as u64,
        next_after: looked_to,
    })
}

/// Deletes deliveries that are done and as old as events that go, and erases secrets whose rotation is over.
pub(super) fn purge(
    batch: &Batch<'_>,
    before: Timestamp,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let deleted = batch
        .connection
        .prepare_cached(
            "DELETE FROM webhook_deliveries WHERE (webhook_id, event_id) IN
                 (SELECT webhook_id, event_id FROM webhook_deliveries
                  WHERE state <> 'pending' AND created_at < ?1 ORDER BY created_at LIMIT ?2)",
        )?
        .execute(params![before, limit])?;
    batch
        .connection
        .prepare_cached(
            "UPDATE webhooks SET previous_secret = NULL, previous_valid_until = NULL WHERE previous_valid_until <= ?1",
        )?
        .execute([now])?;
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_can_be_asked_for() {
        let all = EventKind::ALL.to_vec();
        assert_eq!(parse_types(&types_text(&all)), Some(all));
        assert_eq!(parse_types(""), Some(Vec::new()));
        assert_eq!(parse_types("session.forgotten"), None);
    }
}
