//! actix-session with its Redis store, as its documentation shows it:
//! <https://docs.rs/actix-session/0.11/actix_session/#getting-started>. The settings are its defaults: one multiplexed
//! connection, the state is loaded at each request and saved if it changed.

use actix_session::storage::RedisSessionStore;
use actix_session::{Session, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::error::{ErrorInternalServerError, ErrorUnauthorized};
use actix_web::{App, Error, HttpResponse, HttpServer, web};
use peers::{SignIn, listen, session_of, setting};
use serde_json::Value;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    // The seeded sessions are to be good after a restart.
    let key = Key::derive_from(setting("SECRET")?.as_bytes());
    let store = RedisSessionStore::new(setting("REDIS_URL")?)
        .await
        .map_err(std::io::Error::other)?;
    HttpServer::new(move || {
        App::new()
            .wrap(SessionMiddleware::new(store.clone(), key.clone()))
            .route("/session", web::get().to(check))
            .route("/session", web::post().to(create))
            .route("/session", web::delete().to(revoke))
    })
    .workers(1)
    .listen(listen()?)?
    .run()
    .await
}

async fn check(session: Session) -> Result<HttpResponse, Error> {
    let kept: Option<Value> = session.get("session").map_err(ErrorInternalServerError)?;
    let kept = kept.ok_or_else(|| ErrorUnauthorized("no session"))?;
    Ok(HttpResponse::Ok().json(kept))
}

async fn create(session: Session, sign_in: web::Json<SignIn>) -> Result<HttpResponse, Error> {
    session
        .insert("session", session_of(&sign_in))
        .map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Created().finish())
}

async fn revoke(session: Session) -> Result<HttpResponse, Error> {
    if session.entries().is_empty() {
        return Err(ErrorUnauthorized("no session"));
    }
    session.purge();
    Ok(HttpResponse::NoContent().finish())
}
