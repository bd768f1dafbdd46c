//! The regular work: writes pending touches, writes passed deadlines down as endings, tells of those that are near and of
//! refusals that were counted, deletes what is old enough.
//!
//! Nobody depends on it for the truth: whether a session is over is decided when it is read. Each batch is bounded and
//! goes through the same writer as everything else, so that no check and no sign-in waits for a sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Error;
use crate::manager::SessionManager;

/// Rows that one batch ends, tells of or deletes: some 7 ms of the writer's time at a million sessions.
const BATCH_LEN: usize = 50;
/// Batches in one tick; the rest waits for the next, so that others come in between.
const BATCHES_PER_TICK_MAX: usize = 120;
/// Ticks between two looks for a newer location file.
const TICKS_PER_RELOAD: u32 = 10;

/// Runs until `stop` changes or its sender is gone. `every` is the time between two ticks.
pub async fn run(manager: Arc<SessionManager>, every: Duration, mut stop: watch::Receiver<bool>) {
    let mut failures = RepeatedFailure::default();
    let mut ticks = 0_u32;
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(every) => {}
        }
        failures.note(tick(&manager).await);
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(TICKS_PER_RELOAD) {
            let manager = Arc::clone(&manager);
            if tokio::task::spawn_blocking(move || manager.reload_location())
                .await
                .is_err()
            {
                log::error!("looking for a newer location file failed");
            }
        }
    }
}

/// One tick: touches, then deadlines that have passed, then those that are near, then refusals, then old rows. What fails keeps nothing else from being done.
pub async fn tick(manager: &SessionManager) -> Result<(), Error> {
    let flushed = manager.flush_touches().await;
    let expired = in_batches(|| manager.expire_overdue(BATCH_LEN)).await;
    let told = in_batches(|| manager.tell_expiring(BATCH_LEN)).await;
    // One batch: they wait in memory, and the next tick is soon.
    let refused = manager.tell_refused_revocations(BATCH_LEN).await;
    let purged = in_batches(|| manager.purge_old(BATCH_LEN)).await;
    flushed.and(expired).and(told).and(refused).and(purged)
}

async fn in_batches<F>(mut batch: impl FnMut() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<usize, Error>>,
{
    for _ in 0..BATCHES_PER_TICK_MAX {
        if batch().await? < BATCH_LEN {
            break;
        }
    }
    Ok(())
}

/// Says once that the regular work fails, and once that it works again, not every second.
#[derive(Default)]
struct RepeatedFailure {
    is_failing: bool,
}

impl RepeatedFailure {
    fn note(&mut self, result: Result<(), Error>) {
        match result {
            Err(error) if !self.is_failing => {
                log::error!(
                    "regular work (touches, deadlines, retention) failed and is tried again: {error}"
                );
                self.is_failing = true;
            }
            Ok(()) if self.is_failing => {
                log::info!("regular work goes on");
                self.is_failing = false;
            }
            Ok(()) | Err(_) => {}
        }
    }
}
