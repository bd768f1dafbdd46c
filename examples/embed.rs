//! An actix-web application with its sessions inside: no second process, no HTTP between them.
//!
//! `cargo run --example embed`, then
//!
//! ```text
//! curl -i localhost:8080/sign-in -d ada              # answers a cookie
//! curl localhost:8080/ -H 'Cookie: sessiond_dev=sst_…'    # who am I, and where else am I signed in?
//! curl -i -X POST localhost:8080/sign-out -H 'Cookie: sessiond_dev=sst_…'
//! ```
//!
//! The cookie has the `loopback` profile, without `Secure`, for plain HTTP on one's own machine.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{SET_COOKIE, USER_AGENT};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error, web};
use sessiond::clock::Clock;
use sessiond::config::{Config, CookieConfig, CookieProfile, Flags};
use sessiond::enrich::location::Locator;
use sessiond::http::cookie;
use sessiond::key_file;
use sessiond::manager::{CheckAnswer, Demands, Revocation, SessionManager, SignIn, Use};
use sessiond::metrics::Metrics;
use sessiond::session::{AppName, EndedBy, Reason, Token};
use sessiond::store::sqlite::{SqliteOptions, SqliteStore};
use sessiond::store::{Owner, StatusFilter};
use sessiond::sweeper;
use sessiond::user::UserId;

const COOKIE: CookieConfig = CookieConfig {
    profile: CookieProfile::Loopback,
    name_suffix: String::new(),
    domain: None,
};

/// A store that cannot do its work is the only error; everything else is an answer.
fn broken(error: sessiond::error::Error) -> actix_web::Error {
    error::ErrorServiceUnavailable(error)
}

fn token_of(request: &HttpRequest) -> Option<Token> {
    cookie::values(request.headers(), &cookie::name(&COOKIE)).find_map(Token::parse)
}

async fn sign_in(
    request: HttpRequest,
    name: String,
    sessions: web::Data<SessionManager>,
) -> actix_web::Result<HttpResponse> {
    // A real application checks a password or a passkey here.
    let user_id = UserId::parse(name.trim()).ok_or_else(|| error::ErrorUnprocessableEntity(UserId::RULE))?;
    let user_agent = request
        .headers()
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let sign_in = SignIn {
        user_id: Some(user_id),
        ip_address: request.peer_addr().map(|peer| peer.ip()),
        user_agent: user_agent.map(str::to_owned),
        ..SignIn::default()
    };
    let signed_in = sessions
        .create(&AppName::default_app(), sign_in)
        .await
        .map_err(broken)?;
    let now = sessions.clock().now();
    let cookie = cookie::set(&COOKIE, &signed_in.token.reveal(), &signed_in.session, now);
    Ok(HttpResponse::Ok()
        .insert_header((SET_COOKIE, cookie))
        .body("Signed in.\n"))
}

async fn home(request: HttpRequest, sessions: web::Data<SessionManager>) -> actix_web::Result<HttpResponse> {
    let app = AppName::default_app();
    let Some(token) = token_of(&request) else {
        return Ok(HttpResponse::Unauthorized().body("Not signed in.\n"));
    };
    let usage = Use::Touch(request.peer_addr().map(|peer| peer.ip()));
    match sessions
        .check(&app, &token, usage, &Demands::default())
        .await
        .map_err(broken)?
    {
        CheckAnswer::Refused(refusal) => {
            Ok(HttpResponse::Unauthorized().body(format!("{}\n", refusal.code())))
        }
        CheckAnswer::Active(entry) => {
            let Some(user_id) = entry.row().user_id.clone() else {
                return Ok(HttpResponse::Ok().body("Nobody yet.\n"));
            };
            let mut text = format!("You are {user_id}, signed in on:\n");
            let page = sessions
                .list_user(&app, user_id, StatusFilter::Active, None, 50)
                .await
                .map_err(broken)?;
            for session in page.sessions {
                let info = session.device.as_ref().and_then(|device| device.info());
                let device = info.map_or_else(|| "an unknown device".to_owned(), |info| info.to_string());
                text.push_str(&format!("- {device}\n"));
            }
            Ok(HttpResponse::Ok().body(text))
        }
    }
}

async fn sign_out(
    request: HttpRequest,
    sessions: web::Data<SessionManager>,
) -> actix_web::Result<HttpResponse> {
    let app = AppName::default_app();
    if let Some(token) = token_of(&request)
        && let CheckAnswer::Active(entry) = sessions
            .check(&app, &token, Use::Look, &Demands::default())
            .await
            .map_err(broken)?
    {
        let revocation = Revocation::new(Reason::LOGOUT, EndedBy::User);
        sessions
            .revoke(&app, entry.row().id, Owner::Anyone, revocation)
            .await
            .map_err(broken)?;
    }
    Ok(HttpResponse::Ok()
        .insert_header((SET_COOKIE, cookie::clear(&COOKIE)))
        .body("Signed out.\n"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    actix_web::rt::System::new().block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(None, std::iter::empty(), Flags::default())?;
    let store = Arc::new(SqliteStore::open(&SqliteOptions {
        path: std::env::temp_dir().join("sessiond-embed.db"),
        read_pool: 4,
        queue_len_max: 1_024,
    })?);
    let locator = Some(Arc::new(Locator::embedded()));
    let metrics = Arc::new(Metrics::new());
    // With it tokens are renewed; it lies beside the database and belongs in no backup.
    let key = key_file::load_or_make(&std::env::temp_dir().join("sessiond-embed.db.key"))?;
    let clock = Arc::new(Clock::system());
    let sessions = Arc::new(SessionManager::new(store, &config, clock, key, locator, metrics).await?);

    // Uses are written, and passed deadlines written down, once a second.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let regular_work = tokio::spawn(sweeper::run(
        Arc::clone(&sessions),
        Duration::from_secs(1),
        stopped,
    ));

    let data = web::Data::from(Arc::clone(&sessions));
    HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .route("/", web::get().to(home))
            .route("/sign-in", web::post().to(sign_in))
            .route("/sign-out", web::post().to(sign_out))
    })
    .workers(1)
    .bind(("127.0.0.1", 8080))?
    .run()
    .await?;

    drop(stop);
    regular_work.await?;
    sessions.close().await;
    Ok(())
}
