//! What every answer carries, pages and their parts, probes, metrics.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::redirect::Policy;
use serde_json::json;

use crate::harness::{Reply, TestServer};

/// Makes every read and write of the store fail, as a broken file would.
fn break_store(server: &TestServer) {
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    let tables = ["meta", "sessions", "users", "api_keys", "events"];
    for table in tables {
        let rename = format!("ALTER TABLE {table} RENAME TO lost_{table}");
        database.execute_batch(&rename).expect("renamed");
    }
}

async fn with_request_id(server: &TestServer, id: &str) -> Reply {
    server.get("/v1/session").header("x-request-id", id).send().await
}

#[tokio::test]
async fn sane_request_id_is_taken_over_and_in_the_body() {
    let server = TestServer::start().await;
    let longest = "a".repeat(128);
    for id in ["a", "0192f0c4-0000-7000-8000-000000000000", "A.b_c-9", &longest] {
        let reply = with_request_id(&server, id).await;
        reply.assert_problem(401, "no_session");
        assert_eq!(reply.header("x-request-id"), Some(id));
        assert_eq!(reply.json["request_id"], id);
    }
}

#[tokio::test]
async fn other_request_ids_are_replaced_by_fresh_ones() {
    let server = TestServer::start().await;
    let too_long = "a".repeat(129);
    let mut fresh = BTreeSet::new();
    let others = [
        "", " ", "a b", "a\tb", "a\"b", "a<b>", "ü", "a,b", "a;b", "{x}", &too_long,
    ];
    for id in others {
        let reply = with_request_id(&server, id).await;
        reply.assert_problem(401, "no_session");
        let answered = reply.header("x-request-id").expect("an id").to_owned();
        assert_ne!(answered, id);
        assert_eq!(answered.len(), 36, "{answered}");
        fresh.insert(answered);
    }
    assert_eq!(fresh.len(), others.len(), "an id was given twice");
}

#[tokio::test]
async fn answer_to_any_number_of_mistakes_names_a_few() {
    let server = TestServer::start().await;
    for (count, named, ending) in [
        (16, 16, ", p15."),
        (17, 16, ", p15, and 1 more."),
        (9_000, 16, " and 8984 more."),
    ] {
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        let reply = server
            .get(&format!("/v1/session?{}", names.join("&")))
            .send()
            .await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields().len(), named, "{count}");
        let detail = reply.json["detail"].as_str().expect("a detail");
        assert!(
            detail.starts_with("Not valid: p0, p1, ") && detail.ends_with(ending),
            "{detail}"
        );
        assert!(reply.text.len() < 2_000, "{}", reply.text);
    }
}

#[tokio::test]
async fn every_answer_carries_request_id_and_security_headers() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let replies = [
        server.get("/healthz").send().await,
        server.get("/").send().await,
        server.get("/static/app.js").send().await,
        server.get("/nowhere").send().await,
        server.request(Method::PUT, "/v1/session").send().await,
        server.get("/v1/session").send().await,
        server.check(&ada.token).await,
        server
            .request(Method::HEAD, "/v1/session")
            .bearer(&ada.token)
            .send()
            .await,
        server.get("/openapi.json").send().await,
        server.get("/metrics").send().await,
        server.delete("/v1/session").send().await,
    ];
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ];
    for reply in replies {
        for (name, value) in expected {
            assert_eq!(reply.header(name), Some(value), "{reply:?}");
        }
        assert!(reply.header("x-request-id").is_some(), "{reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{reply:?}");
        assert_eq!(reply.header("server"), None, "{reply:?}");
    }
}

#[tokio::test]
async fn answers_about_sessions_are_not_stored() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let own = format!("/v1/sessions/{}", ada.id);
    let replies = [
        server
            .post("/v1/sessions", json!({}))
            .key(&server.key)
            .send()
            .await,
        server
            .post("/v1/sessions/check", json!({ "token": ada.token }))
            .key(&server.key)
            .send()
            .await,
        server.get("/v1/sessions").key(&server.key).send().await,
        server.get(&own).key(&server.key).send().await,
        server.get("/v1/users/ada").key(&server.key).send().await,
        server.get("/v1/users/ada/sessions").key(&server.key).send().await,
        server.check(&ada.token).await,
        server
            .request(Method::HEAD, "/v1/session")
            .bearer(&ada.token)
            .send()
            .await,
        server.get("/v1/me/sessions").bearer(&ada.token).send().await,
        server.get("/v1/session").send().await,
        server.get("/v1/whoami").send().await,
        server.delete("/v1/session").bearer(&ada.token).send().await,
    ];
    for reply in replies {
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
    }
}

#[tokio::test]
async fn pages_run_only_what_this_server_serves() {
    let server = TestServer::start().await;
    for path in ["/", "/docs"] {
        let reply = server.get(path).send().await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(
            reply.header("content-type"),
            Some("text/html; charset=utf-8"),
            "{path}"
        );
        let policy = reply.header("content-security-policy").expect("a policy");
        let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
        for directive in [
            "default-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(
                directives.contains(directive),
                "{path} lacks {directive}: {policy}"
            );
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let markup = reply.text.to_ascii_lowercase();
        for inline in [
            "<style",
            " style=",
            " onclick=",
            " onload=",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!markup.contains(inline), "{path} contains {inline}");
        }
        let scripts = markup.matches("<script").count();
        assert_eq!(
            scripts,
            markup.matches("<script type=\"module\" src=\"").count(),
            "{path} has an inline script"
        );
    }
}

#[tokio::test]
async fn every_static_file_is_served_with_its_type_and_head_too() {
    let server = TestServer::start().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/static");
    let mut served = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let media_type = match path.extension().and_then(|extension| extension.to_str()) {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            // Pages have addresses of their own.
            Some("html") => continue,
            other => panic!("{name}: {other:?} needs a type here"),
        };
        let text = std::fs::read_to_string(&path).expect("text");
        let reply = server.get(&format!("/static/{name}")).send().await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some(media_type)),
            "{name}"
        );
        // But for comments and indentation.
        let lines = (reply.text.split('\n').count(), text.split('\n').count());
        assert_eq!(lines.0, lines.1, "{name}");
        for (sent, line) in reply.text.split('\n').zip(text.split('\n')) {
            let line = line.trim_start_matches('\t');
            let is_comment = line.starts_with("//") || line.starts_with("/*");
            assert!(
                sent == line || (sent.is_empty() && is_comment),
                "{name}: {line:?} was sent as {sent:?}"
            );
        }
        let head = server
            .request(Method::HEAD, &format!("/static/{name}"))
            .send()
            .await;
        assert_eq!(
            (head.status, head.header("content-type")),
            (200, Some(media_type)),
            "{name}"
        );
        assert_eq!(
            head.header("content-length"),
            Some(reply.text.len().to_string().as_str()),
            "{name}"
        );
        assert_eq!(head.text, "", "{name}");
        served += 1;
    }
    assert!(served > 5, "{served}");
}

#[tokio::test]
async fn whatever_a_page_links_to_is_there() {
    for base_path in ["", "/auth"] {
        let server = TestServer::start_with(|config| config.server.base_path = base_path.into()).await;
        for page in ["/", "/docs"] {
            let markup = server.get(page).send().await.text;
            let links = ["src=\"", "href=\""].into_iter().flat_map(|name| {
                markup
                    .split(name)
                    .skip(1)
                    .map(|rest| rest.split('"').next().expect("an end"))
            });
            let links: Vec<&str> = links.filter(|link| !link.starts_with(['#', '?'])).collect();
            assert!(!links.is_empty(), "{page}");
            for link in links {
                assert!(
                    !link.starts_with('/') && !link.contains(':'),
                    "{page}: {link} is not relative"
                );
                let path = format!("/{}", link.trim_start_matches("./").trim_start_matches('.'));
                let reply = server.get(&path).send().await;
                assert_eq!(reply.status, 200, "{base_path}{page}: {link}");
            }
        }
    }
}

#[tokio::test]
async fn pages_and_probes_answer_head_without_a_body() {
    let server = TestServer::start().await;
    for path in ["/", "/docs", "/openapi.json", "/healthz", "/readyz"] {
        let (get, head) = (
            server.get(path).send().await,
            server.request(Method::HEAD, path).send().await,
        );
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(
            head.header("content-length"),
            Some(get.text.len().to_string().as_str()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_route_carries_the_base_path_and_probes_the_root_too() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth".into()).await;
    let root = server
        .base
        .strip_suffix("/auth")
        .expect("the base path")
        .to_owned();
    let ada = server.sign_in("ada").await;
    for path in [
        "/",
        "/docs",
        "/static/app.js",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/metrics",
        "/v1/whoami",
    ] {
        assert_eq!(server.get(path).send().await.status, 200, "{path}");
        let at_root = server
            .client
            .get(format!("{root}{path}"))
            .send()
            .await
            .expect("an answer");
        let expected = if path == "/healthz" || path == "/readyz" {
            200
        } else {
            404
        };
        assert_eq!(at_root.status().as_u16(), expected, "{path} at the root");
    }
    assert_eq!(server.check(&ada.token).await.status, 200);
    let reply = server.get("/v1/users/a%2Fb").key(&server.key).send().await;
    assert_eq!(reply.json["user_id"], "a/b", "{}", reply.text);
    let reply = server.request(Method::PUT, "/v1/session").send().await;
    assert_eq!(reply.header("allow"), Some("GET, HEAD, DELETE"));
    let mut beside = server
        .client
        .get(format!("{root}/authority"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(beside.status().as_u16(), 404);
    assert!(beside.headers_mut().remove("x-request-id").is_some());
}

#[tokio::test]
async fn base_path_without_slash_leads_to_the_one_with_it() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth".into()).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .build()
        .expect("a client");
    for (query, location) in [("", "/auth/"), ("?tab=ended&x=%2F", "/auth/?tab=ended&x=%2F")] {
        for method in [Method::GET, Method::HEAD] {
            let reply = client
                .request(method.clone(), format!("{}{query}", server.base))
                .send()
                .await;
            let reply = reply.expect("an answer");
            assert_eq!(reply.status().as_u16(), 308, "{method} {query}");
            assert_eq!(reply.headers()["location"], location, "{method} {query}");
        }
    }
    let reply = client.post(&server.base).send().await.expect("an answer");
    assert_eq!(reply.status().as_u16(), 405);
}

#[tokio::test]
async fn health_touches_nothing_and_readiness_reads() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/healthz").send().await.text, "ok\n");
    assert_eq!(server.get("/readyz").send().await.text, "ready\n");
    break_store(&server);
    assert_eq!(server.get("/healthz").send().await.status, 200);
    let reply = server.get("/readyz").send().await;
    reply.assert_problem(503, "store_unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn broken_store_is_503_and_its_body_says_nothing_of_the_inside() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let grace = server.sign_in("grace").await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    // What the cache does not have must be read.
    let restarted = server.stop().await.restart().await;
    break_store(&restarted);
    let replies = [
        restarted.check(&ada.token).await,
        restarted.get("/v1/me/sessions").bearer(&grace.token).send().await,
        restarted
            .delete("/v1/session")
            .cookie(&ada.token)
            .same_origin()
            .send()
            .await,
        restarted.get("/v1/sessions").key(&restarted.key).send().await,
        restarted
            .post("/v1/sessions", json!({}))
            .key(&restarted.key)
            .send()
            .await,
        restarted.get("/readyz").send().await,
    ];
    for reply in replies {
        reply.assert_problem(503, "store_unavailable");
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.header("set-cookie"), None);
        let text = reply.text.to_ascii_lowercase();
        for word in ["sqlite", "table", "select", "insert", "lost_", ".db", "panicked"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

#[tokio::test]
async fn cached_sessions_are_accepted_while_the_store_is_broken() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    break_store(&server);
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn metrics_are_for_this_machine_only() {
    let server = TestServer::start().await;
    let reply = server.get("/metrics").send().await;
    assert_eq!(reply.status, 200);
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(media_type));
    for header in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "via",
    ] {
        let reply = server.get("/metrics").header(header, "127.0.0.1").send().await;
        reply.assert_problem(404, "not_found");
    }
}

#[tokio::test]
async fn metrics_are_for_allowed_addresses_behind_trusted_proxies() {
    let server = TestServer::start_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        config.ops.allow = vec!["203.0.113.0/24".parse().expect("a network")];
    })
    .await;
    let cases = [
        (None, 200),
        (Some("203.0.113.9"), 200),
        (Some("198.51.100.1"), 404),
        (Some("203.0.113.9, 198.51.100.1"), 404),
        (Some("198.51.100.1, 203.0.113.9"), 200),
        (Some("127.0.0.1"), 404),
        (Some("unknown"), 404),
    ];
    for (chain, status) in cases {
        let request = server.get("/metrics");
        let request = match chain {
            Some(chain) => request.header("x-forwarded-for", chain),
            None => request,
        };
        assert_eq!(request.send().await.status, status, "{chain:?}");
    }
}

#[tokio::test]
async fn allowed_address_that_only_claims_to_be_one_sees_no_metrics() {
    let server = TestServer::start_with(|config| {
        config.ops.allow = vec!["203.0.113.0/24".parse().expect("a network")];
    })
    .await;
    let reply = server
        .get("/metrics")
        .header("x-forwarded-for", "203.0.113.9")
        .send()
        .await;
    reply.assert_problem(404, "not_found");
}

/// The value of a metric with exactly these labels.
#[track_caller]
fn metric(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.parse().expect("a number")
}

#[tokio::test]
async fn metrics_count_under_their_stable_names() {
    let server = TestServer::start_with(|config| {
        config.cache.capacity = 1_000;
        config.sessions.touch_interval_secs = 0;
    })
    .await;
    let ada = server.sign_in("ada").await;
    server.check(&ada.token).await;
    server.check(&ada.token).await;
    server.check("sst_x").await;
    let unknown = format!("{}A", &ada.token[..ada.token.len() - 1]);
    let unknown = if unknown == ada.token {
        format!("{}B", &unknown[..unknown.len() - 1])
    } else {
        unknown
    };
    server.check(&unknown).await;
    server.delete("/v1/session").bearer(&ada.token).send().await;
    server.check(&ada.token).await;
    let grace = server.sign_in("grace").await;
    let path = format!("/v1/sessions/{}?reason=my%20own", grace.id);
    server.delete(&path).key(&server.key).send().await;
    let text = server.get("/metrics").send().await.text;
    assert_eq!(
        metric(&text, "sessiond_checks_total{result=\"invalid_token\"}"),
        1.0,
        "a wrong secret"
    );
    assert_eq!(
        metric(&text, "sessiond_checks_total{result=\"session_ended\"}"),
        1.0
    );
    assert_eq!(
        metric(&text, "sessiond_sessions_ended_total{reason=\"logout\"}"),
        1.0
    );
    assert_eq!(
        metric(&text, "sessiond_sessions_ended_total{reason=\"other\"}"),
        1.0
    );
    let counted = |operation: &str, status: u16| {
        let name = "sessiond_http_requests_total";
        metric(
            &text,
            &format!("{name}{{operation=\"{operation}\",status=\"{status}\"}}"),
        )
    };
    assert_eq!(counted("POST /v1/sessions", 201), 2.0);
    assert_eq!(counted("GET /v1/session", 200), 2.0);
    assert_eq!(counted("GET /v1/session", 401), 3.0);
    assert_eq!(counted("DELETE /v1/sessions/{id}", 204), 1.0);
    let answered = metric(&text, "sessiond_http_request_seconds_count");
    assert_eq!(answered, 9.0);
    let hits = metric(&text, "sessiond_cache_hits_total");
    let misses = metric(&text, "sessiond_cache_misses_total");
    assert!(hits >= 2.0 && misses >= 1.0, "{hits} {misses}");
    assert_eq!(
        metric(&text, "sessiond_cache_entries"),
        0.0,
        "both sessions have ended"
    );
    for name in [
        "sessiond_cache_evictions_total",
        "sessiond_cache_fence_drops_total",
        "sessiond_writer_queue_length",
        "sessiond_touch_flush_failures_total",
        "sessiond_touches_dropped_total",
    ] {
        assert_eq!(metric(&text, name), 0.0, "{name}");
    }
    let commits = metric(&text, "sessiond_writer_commit_seconds_count");
    assert!(commits >= 4.0, "{commits}");
    assert_eq!(metric(&text, "sessiond_writer_batch_size_count"), commits);
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn metric_labels_stay_few_whatever_callers_send() {
    let server = TestServer::start().await;
    for number in 0..20 {
        server.get(&format!("/nowhere/{number}")).send().await;
        server.get(&format!("/v1/users/u{number}")).send().await;
        let method = Method::from_bytes(format!("M{number}").as_bytes()).expect("a method");
        server.request(method, "/v1/session").send().await;
    }
    let text = server.get("/metrics").send().await.text;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("sessiond_http_requests_total{"))
        .count();
    assert_eq!(lines, 3, "{text}");
}
