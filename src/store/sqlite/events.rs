//! Reading events, on the read-only connections. They are written by `changes::write_event`.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::rows::{self, EVENT_COLUMNS};
use crate::event::{Epoch, EventKind, RecordedEvent};
use crate::store::{About, EventBounds, EventList, EventPage, EventsFrom};

pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<EventBounds> {
    connection
        .prepare_cached(
            "SELECT (SELECT value FROM meta WHERE key = 'epoch'),
                    (SELECT id FROM events ORDER BY id LIMIT 1),
                    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",
        )?
        .query_row([], |row| {
            let last: u64 = row.get(2)?;
            let first: Option<u64> = row.get(1)?;
            Ok(EventBounds {
                epoch: Epoch::from_bytes(row.get(0)?),
                first: first.unwrap_or(last + 1),
                last,
            })
        })
}

/// A page, after looking at so many events at most: few of them may be of the kinds, or of the app, that are asked for.
pub(super) fn list(
    connection: &Connection,
    list: &EventList,
    scan_rows_max: usize,
) -> rusqlite::Result<EventPage> {
    let snapshot = connection.unchecked_transaction()?;
    let bounds = bounds(&snapshot)?;
    let (beyond, order, begin) = match list.from {
        EventsFrom::After(number) => ("id > ?1", "ASC", number),
        EventsFrom::Before(number) => ("id < ?1", "DESC", number),
    };
    // Further than any number that SQLite gives is as far as the last of them.
    let from = i64::try_from(begin).unwrap_or(i64::MAX);
    // By the index on whom events are about, if they are somebody's: then a page looks at theirs only.
    let subject = match &list.about {
        About::Anyone => None,
        About::User(user_id) => Some(Value::Text(user_id.as_str().to_owned())),
        About::AnonymousSession(id) => Some(Value::Blob(id.as_bytes().to_vec())),
    };
    let app = list.app.as_ref().map(|app| Value::Text(app.as_str().to_owned()));
    let whose = if subject.is_some() {
        "AND app = ?3 AND coalesce(user_id, session_id) = ?4"
    } else {
        ""
    };
    let scan = scan_rows_max.max(1);
    let mut looked_at = snapshot.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events WHERE {beyond} {whose} ORDER BY id {order} LIMIT ?2"
    ))?;
    let mut values = vec![Value::Integer(from), Value::Integer(scan as i64)];
    values.extend(
        subject
            .into_iter()
            .flat_map(|subject| [app.clone().unwrap_or(Value::Null), subject]),
    );
    let mut rows = looked_at.query(params_from_iter(values))?;
    let is_asked_for = |recorded: &RecordedEvent| {
        let kinds: &[EventKind] = &list.kinds;
        (kinds.is_empty() || kinds.contains(&recorded.event.kind))
            && list.app.as_ref().is_none_or(|app| *app == recorded.event.app)
    };
    let mut page = EventPage {
        events: Vec::new(),
        looked_to: begin,
        more: false,
        bounds,
    };
    let mut count = 0;
    while let Some(row) = rows.next()? {
        if page.events.len() == list.limit {
            page.more = true;
            break;
        }
        page.looked_to = row.get(0)?;
        count += 1;
        if rows::is_erased(row)? {
            continue;
        }
        let recorded = rows::event(row)?;
        if is_asked_for(&recorded) {
            page.events.push(recorded);
        }
    }
    page.more |= count == scan;
    Ok(page)
}
