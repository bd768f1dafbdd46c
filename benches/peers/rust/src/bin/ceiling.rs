//! The ceiling: what actix-web does when nothing is asked of it. It looks at the bearer header and answers the same 850
//! bytes each time, with as many headers as sessiond sends. No server on actix-web checks sessions faster.

use actix_web::http::header::AUTHORIZATION;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use peers::{SignIn, listen, session_of};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let sign_in = SignIn {
        user_id: "user-12345".to_owned(),
        user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned(),
        ip_address: "194.25.2.129".to_owned(),
    };
    let body = web::Bytes::from(session_of(&sign_in).to_string());
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(body.clone()))
            .route("/v1/session", web::get().to(check))
    })
    .workers(1)
    .listen(listen()?)?
    .run()
    .await
}

async fn check(request: HttpRequest, body: web::Data<web::Bytes>) -> HttpResponse {
    let is_bearer = request
        .headers()
        .get(AUTHORIZATION)
        .is_some_and(|value| value.as_bytes().starts_with(b"Bearer sst_"));
    if !is_bearer {
        return HttpResponse::Unauthorized().finish();
    }
    HttpResponse::Ok()
        .insert_header(("content-type", "application/json"))
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("x-frame-options", "DENY"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .insert_header(("cross-origin-resource-policy", "same-origin"))
        .insert_header(("x-request-id", "603ad01a-1e84-0550-a3e8-6e22e82412bc"))
        .insert_header(("x-session-user-id", "user-12345"))
        .body(body.get_ref().clone())
}
