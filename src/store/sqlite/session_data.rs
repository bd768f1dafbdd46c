//! Changes of sessions' data, inside the writer's transaction: patches that come at once all survive.

use rusqlite::params;

use super::changes::owned;
use super::reads;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::data::Data;
use crate::session::{AppName, SessionId};
use crate::store::{DataOutcome, DataPatch, Owner};

pub(super) fn change_data(
    batch: &mut Batch<'_>,
    app: &AppName,
    id: SessionId,
    patch: &DataPatch,
    now: Timestamp,
) -> rusqlite::Result<DataOutcome> {
    let Some(session) = owned(batch.connection, app, id, &Owner::Anyone)? else {
        return Ok(DataOutcome::NotFound);
    };
    if !session.is_active(now) {
        return Ok(DataOutcome::AlreadyEnded(Box::new(session)));
    }
    let version = session.data_version;
    if patch
        .if_versions
        .as_ref()
        .is_some_and(|good| !good.contains(&version))
    {
        return Ok(DataOutcome::VersionMismatch { version });
    }
    let mut data = reads::data(batch.connection, id)?;
    let changed = match data.apply(patch.at.as_ref(), &patch.change) {
        Ok(changed) => changed,
        Err(error) => return Ok(DataOutcome::Refused(error)),
    };
    if !changed.is_changed {
        return Ok(DataOutcome::Done {
            value: changed.value,
            version,
        });
    }
    write_data(batch, id, &data)?;
    let version = version + 1;
    batch
        .connection
        .prepare_cached("UPDATE sessions SET data_version = ?2 WHERE id = ?1 AND ended_at IS NULL")?
        .execute(params![id, version])?;
    batch.committed.changed.push(id);
    Ok(DataOutcome::Done {
        value: changed.value,
        version,
    })
}

/// Keeps the data of a session that is there.
pub(super) fn write_data(batch: &Batch<'_>, id: SessionId, data: &Data) -> rusqlite::Result<()> {
    batch
        .connection
        .prepare_cached(
            "INSERT INTO session_data (session_id, data) VALUES (?1, ?2)
             ON CONFLICT (session_id) DO UPDATE SET data = excluded.data",
        )?
        .execute(params![id, data.to_text()])
        .map(drop)
}
