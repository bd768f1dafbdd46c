//! tower-sessions with its SQLite store on axum, as the store's README shows it:
//! <https://docs.rs/crate/tower-sessions-sqlx-store/0.15.0>, with the task that deletes what is over. SQLite in WAL mode with
//! `synchronous = FULL`, so that a session whose creation was answered survives a power loss, as sessiond's do.

use std::str::FromStr;

use axum::extract::Json;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Router, serve};
use peers::{SignIn, listen, session_of, setting};
use serde_json::Value;
use time::Duration;
use tower_sessions::{ExpiredDeletion, Expiry, Session, SessionManagerLayer};
use tower_sessions_sqlx_store::SqliteStore;
use tower_sessions_sqlx_store::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

type Failure = Box<dyn std::error::Error>;

// There is one core, so that one thread serves; SQLite has its own, one for each of the pool's connections.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    // Off only while sessions are seeded, which nobody measures.
    let synchronous = SqliteSynchronous::from_str(&setting("SYNCHRONOUS")?)?;
    let options = SqliteConnectOptions::new()
        .filename(setting("DATABASE")?)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous);
    let pool = SqlitePoolOptions::new().connect_with(options).await?;
    let store = SqliteStore::new(pool);
    store.migrate().await?;
    let deletion = tokio::spawn(
        store
            .clone()
            .continuously_delete_expired(std::time::Duration::from_secs(60)),
    );
    let layer = SessionManagerLayer::new(store).with_expiry(Expiry::OnInactivity(Duration::days(7)));
    let app = Router::new()
        .route("/session", get(check).post(create).delete(revoke))
        .layer(layer);
    let listener = listen()?;
    listener.set_nonblocking(true)?;
    let served = serve(tokio::net::TcpListener::from_std(listener)?, app).await;
    deletion.abort();
    Ok(served?)
}

async fn check(session: Session) -> Result<Json<Value>, StatusCode> {
    let kept: Option<Value> = session.get("session").await.map_err(internal)?;
    kept.map(Json).ok_or(StatusCode::UNAUTHORIZED)
}

async fn create(session: Session, Json(sign_in): Json<SignIn>) -> Result<StatusCode, StatusCode> {
    session
        .insert("session", session_of(&sign_in))
        .await
        .map_err(internal)?;
    Ok(StatusCode::CREATED)
}

async fn revoke(session: Session) -> Result<StatusCode, StatusCode> {
    if session.is_empty().await {
        return Err(StatusCode::UNAUTHORIZED);
    }
    session.flush().await.map_err(internal)?;
    Ok(StatusCode::NO_CONTENT)
}

fn internal(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}
