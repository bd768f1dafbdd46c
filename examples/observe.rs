//! A program with sessions inside that is told what happens to them.
//!
//! `cargo run --example observe`, which needs nothing and leaves nothing:
//!
//! ```text
//! 2026-01-01T12:00:00.000Z  session.created  ada
//! 2026-01-01T12:00:00.004Z  session.created  ada
//! 2026-01-01T12:00:00.009Z  session.revoked  ada  logout
//! ```
//!
//! The observer runs on a thread of its own: whoever signs in never waits for it. It is told of nothing that is not on disk,
//! and of each event again until it returns `Ok`.

use std::sync::Arc;
use std::sync::mpsc::channel;

use sessiond::clock::Clock;
use sessiond::config::{Config, Flags};
use sessiond::event::EventKind;
use sessiond::key_file;
use sessiond::manager::{Revocation, SessionManager, SignIn};
use sessiond::metrics::Metrics;
use sessiond::observer::{EventFilter, Notice};
use sessiond::session::{AppName, EndedBy, Reason};
use sessiond::store::Owner;
use sessiond::store::sqlite::{SqliteOptions, SqliteStore};
use sessiond::user::UserId;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Config::load(None, std::iter::empty(), Flags::default())?;
    let store = Arc::new(SqliteStore::open(&SqliteOptions {
        path: dir.path().join("sessions.db"),
        read_pool: 4,
        queue_len_max: 1_024,
    })?);
    let key = key_file::load_or_make(&dir.path().join("sessions.db.key"))?;
    let (clock, metrics) = (Arc::new(Clock::system()), Arc::new(Metrics::new()));
    let sessions = SessionManager::new(store, &config, clock, key, None, metrics).await?;

    // Whatever happens from now on. Who keeps `recorded.number` with what they do about it can go on after it the next time,
    // and misses nothing and does nothing twice.
    let feed = sessions.feed();
    let from_now_on = feed.place(None).await?;
    let (tell, ended) = channel();
    let subscription = feed.subscribe(EventFilter::ALL, from_now_on, move |notice| {
        match notice {
            Notice::Event(recorded) => {
                let event = &recorded.event;
                let user_id = event.user_id.as_ref().map_or("nobody", UserId::as_str);
                let reason = event.reason.as_ref().map_or("", Reason::as_str);
                let line = format!(
                    "{}  {}  {user_id}  {reason}",
                    event.occurred_at,
                    event.kind.as_str()
                );
                println!("{}", line.trim_end());
                if event.kind == EventKind::SessionRevoked {
                    tell.send(())?;
                }
            }
            Notice::Missed => println!("Some events were deleted before this observer came to read them."),
        }
        Ok(())
    });

    let app = AppName::default_app();
    let sign_in = SignIn {
        user_id: UserId::parse("ada"),
        ..SignIn::default()
    };
    let lost = sessions.create(&app, sign_in.clone()).await?;
    sessions.create(&app, sign_in).await?;
    let revocation = Revocation::new(Reason::LOGOUT, EndedBy::User);
    sessions
        .revoke(&app, lost.session.id, Owner::Anyone, revocation)
        .await?;

    // Only so that this program does not end before its observer has printed everything.
    tokio::task::spawn_blocking(move || ended.recv()).await??;
    subscription.unsubscribe();
    sessions.close().await;
    Ok(())
}
