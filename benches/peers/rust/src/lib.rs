//! What the peers share: where they listen, and the session that they keep.
//!
//! Every peer keeps, and answers to a check, about what sessiond does: 850 bytes of JSON. None derives a device or a place,
//! counts a user's sessions, or writes an event; sessiond does.

use std::net::TcpListener;

use serde::Deserialize;
use serde_json::{Value, json};

/// A sign-in, as the load generator sends it to every server.
#[derive(Deserialize)]
pub struct SignIn {
    pub user_id: String,
    pub user_agent: String,
    pub ip_address: String,
}

/// What is kept of a session, and answered when it is checked.
pub fn session_of(sign_in: &SignIn) -> Value {
    const AT: &str = "2026-01-01T00:00:00.000Z";
    json!({
        "id": "01a1ffa1-53a4-730d-859f-5c1548f3b539",
        "user_id": sign_in.user_id,
        "device_info": "Firefox on Linux",
        "ip_address": sign_in.ip_address,
        "location": "DE",
        "created_at": AT,
        "last_activity_at": AT,
        "expires_at": AT,
        "is_revoked": false,
        "is_current": true,
        "app": "default",
        "status": "active",
        "name": null,
        "is_trusted": false,
        "device": {
            "browser": "Firefox", "browser_version": "140.0", "os": "Linux", "os_version": null, "type": "desktop",
            "is_bot": false,
        },
        "user_agent": sign_in.user_agent,
        "last_ip_address": null,
        "place": {"city": null, "country": "DE"},
        "authenticated_at": AT,
        "absolute_expires_at": AT,
        "ended_at": null,
        "revoked_reason": null,
        "ended_by": null,
        "auth": null,
        "identities": {},
        "client_session_id": null,
        "data_version": 0,
    })
}

/// A listener on a free port of loopback. The port is told on standard output, which is what benches/compare.py waits for.
///
/// # Errors
/// If there is no port to be had.
pub fn listen() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("listening on {}", listener.local_addr()?.port());
    Ok(listener)
}

/// A setting that benches/compare.py gives by the environment.
///
/// # Errors
/// If it is not there.
pub fn setting(name: &str) -> std::io::Result<String> {
    std::env::var(name).map_err(|_| std::io::Error::other(format!("{name} is not set")))
}
