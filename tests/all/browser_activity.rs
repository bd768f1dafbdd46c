//! The dashboard's Activity tab: what happened to a person's sessions.

use serde_json::{Value, json};

use crate::browser::{CHROME_ON_MACOS, SAFARI_ON_IPHONE, Stage, ZURICH, assert_has, sign_in};
use crate::browser_driver::{Browser, quoted};

/// Opens the tab; it is filled.
async fn open_activity(browser: &Browser) {
    browser.open("/?tab=activity").await;
    browser.until_state("ready").await;
}

/// What the page is told happened, from its next opening on, whatever the server knows.
async fn pretend(browser: &Browser, events: &Value) {
    let page = json!({ "events": events, "next_cursor": null }).to_string();
    let script = format!(
        "const real = fetch; window.fetch = (url, ...rest) => String(url).includes('/me/events') \
         ? Promise.resolve(new Response({})) : real(url, ...rest);",
        quoted(&page)
    );
    browser.prepare(&script).await;
}

/// An event as the server tells it.
fn event(kind: &str, change: Value) -> Value {
    let mut event = json!({
        "id": format!("evt_{}", kind.replace('.', "_")), "type": kind, "occurred_at": "2026-01-01T00:00:00.000Z",
        "app": "default", "user_id": "ada", "session_id": "0192f0c4-0000-7000-8000-000000000000",
        "client_session_id": null, "reason": null, "ended_by": null, "device_info": "Firefox on Linux",
        "ip_address": ZURICH, "location": "Zürich, CH", "data": null,
    });
    let (Some(fields), Value::Object(change)) = (event.as_object_mut(), change) else {
        unreachable!("both are objects")
    };
    fields.extend(change);
    event
}

#[tokio::test]
async fn activity_tells_by_day_what_happened_and_why() {
    let stage = Stage::set().await;
    let key = &stage.server.key;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    stage.advance(60).await;
    let check = json!({ "token": mac.token, "ip_address": "10.0.0.7" });
    stage
        .server
        .post("/v1/sessions/check", check)
        .key(key)
        .send()
        .await;
    stage.advance(24 * 60 * 60).await;
    let path = format!("/v1/sessions/{}?reason=credentials_changed&ended_by=app", mac.id);
    stage.server.delete(&path).key(key).send().await;
    stage.advance(24 * 60 * 60).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.click("[data-tab=activity]").await;
    browser.until_seen("[data-list=activity] li").await;

    let lines =
        "[...document.querySelectorAll('[data-list=activity] :is(h3, li)')].map((one) => one.innerText)";
    let lines = browser.eval(lines).await;
    let lines: Vec<&str> = lines
        .as_array()
        .expect("lines")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let at = |part: &str| {
        let at = lines.iter().position(|line| line.contains(part));
        at.unwrap_or_else(|| panic!("{part:?} is not in {lines:#?}"))
    };
    let order = [
        "Today",
        "Signed in on Chrome on Linux",
        "Yesterday",
        "Session on Chrome on macOS ended",
        "Thursday, 1 January 2026",
        "Chrome on macOS used from another address",
        "Signed in on Chrome on macOS",
    ];
    let places: Vec<usize> = order.into_iter().map(at).collect();
    assert!(places.is_sorted(), "{lines:#?}");
    assert_has(
        lines[places[3]],
        &["Ended because your sign-in details were changed. By the application."],
    );
    assert_has(lines[places[5]], &["10.0.0.7"]);
    assert_has(lines[places[6]], &["00:00", "Switzerland", ZURICH]);
    browser.assert_accessible("the activity tab").await;
}

#[tokio::test]
async fn each_kind_of_event_has_its_sentence() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let expiry = json!({ "deadline": "idle", "expires_at": "2026-01-08T00:00:00.000Z", "seconds": 604_800 });
    let told = [
        (
            "session.created",
            json!({}),
            "Signed in on Firefox on Linux",
            "Zürich, Switzerland",
        ),
        (
            "session.authenticated",
            json!({}),
            "Signed in on Firefox on Linux",
            ZURICH,
        ),
        (
            "session.revoked",
            json!({ "reason": "logout", "ended_by": "user" }),
            "Session on Firefox on Linux ended",
            "You signed out on this device.",
        ),
        (
            "session.evicted",
            json!({ "reason": "session_limit_exceeded", "ended_by": "limit" }),
            "Session on Firefox on Linux ended",
            "Ended because you signed in on more devices than your account allows.",
        ),
        (
            "session.expired",
            json!({ "reason": "idle_timeout", "ended_by": "timeout" }),
            "Session on Firefox on Linux ended",
            "Ended after it was not used for a long time.",
        ),
        (
            "session.expiring",
            json!({ "data": expiry }),
            "Session on Firefox on Linux will end soon",
            "Ends if not used by 8 Jan 2026, 00:00",
        ),
        (
            "session.activity",
            json!({}),
            "Firefox on Linux used from another address",
            ZURICH,
        ),
        (
            "session.suspicious",
            json!({}),
            "An old copy of a session's key was used",
            "Firefox on Linux",
        ),
        (
            "session.revocation_failed",
            json!({ "data": { "count": 3, "explanation": "Somebody tried to end one that is not theirs." } }),
            "Ending a session was refused (3 times)",
            "Somebody tried to end one that is not theirs.",
        ),
        (
            "user.sessions_revoked",
            json!({ "device_info": null, "reason": "logout_all", "ended_by": "user",
                "data": { "session_count": 3, "except_session_id": "0192f0c4-0000-7000-8000-000000000000" } }),
            "All other sessions ended (3)",
            "",
        ),
        (
            "user.blocked",
            json!({ "device_info": null }),
            "Account locked",
            "",
        ),
        (
            "device.new",
            json!({ "device_info": null }),
            "New device: Unknown device",
            ZURICH,
        ),
    ];
    let events: Vec<Value> = told
        .iter()
        .map(|(kind, change, ..)| event(kind, change.clone()))
        .collect();
    pretend(browser, &Value::from(events)).await;
    open_activity(browser).await;

    for (kind, _, sentence, more) in &told {
        let line = browser.text(&format!("#evt_{}", kind.replace('.', "_"))).await;
        assert_has(&line, &[*sentence, *more]);
    }
    browser.assert_accessible("every kind of event").await;
}

#[tokio::test]
async fn what_strangers_wrote_is_text_in_the_activity_and_fits_a_narrow_window() {
    const MARKUP: &str = "<img src=x onerror='window.ran=1'><script>window.ran=1</script>";
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let events = json!([
        event(
            "session.created",
            json!({ "id": "evt_markup", "device_info": MARKUP, "location": MARKUP })
        ),
        event(
            "session.revoked",
            json!({ "id": "evt_reason", "reason": MARKUP, "ended_by": "app" })
        ),
        event(
            "device.new",
            json!({ "id": "evt_right", "device_info": "الحاسوب المحمول \u{202e}في المكتب" })
        ),
        event(
            "session.activity",
            json!({ "id": "evt_long", "device_info": "Donaudampfschifffahrt".repeat(8),
            "ip_address": "2001:db8:1234:5678:9abc:def0:1234:5678" })
        ),
    ]);
    pretend(browser, &events).await;
    open_activity(browser).await;

    assert_has(&browser.text("#evt_markup").await, &[MARKUP]);
    assert_has(&browser.text("#evt_reason").await, &[MARKUP]);
    let right = browser.text("#evt_right").await;
    assert_has(&right, &["New device: \u{2068}الحاسوب المحمول في المكتب\u{2069}"]);
    let made = browser
        .eval("document.querySelectorAll('main :is(img, script)').length")
        .await;
    assert_eq!(made, 0);
    assert_eq!(browser.eval("typeof window.ran").await, "undefined");
    browser.assert_fits("the activity tab", 320).await;
    browser.assert_accessible("a narrow activity tab").await;
}

#[tokio::test]
async fn activity_without_events_says_so() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    pretend(browser, &json!([])).await;
    open_activity(browser).await;
    browser
        .until_text("[data-view=activity] .empty", "Nothing has happened lately.")
        .await;
    browser.assert_accessible("an empty activity tab").await;
}

#[tokio::test]
async fn long_activity_is_shown_in_parts() {
    let stage = Stage::set().await;
    for _ in 0..30 {
        let session = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
        let path = format!("/v1/sessions/{}", session.id);
        stage.server.delete(&path).key(&stage.server.key).send().await;
        stage.server.advance(1);
    }
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    open_activity(browser).await;
    assert_eq!(browser.count("[data-list=activity] li").await, 50);

    browser.click("[data-action=show-more]").await;
    browser
        .until("document.querySelectorAll('[data-list=activity] li').length > 60")
        .await;
    browser
        .until("[...document.querySelectorAll('[data-list=activity] li')].indexOf(document.activeElement) === 50")
        .await;
    assert_eq!(browser.count("[data-action=show-more]").await, 0);
}

#[tokio::test]
async fn activity_tab_is_in_the_address_and_back_and_reload_work() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let line = "[data-list=activity] li";

    browser.click("[data-tab=activity]").await;
    browser.until_text(line, "Signed in on Chrome on Linux").await;
    assert_eq!(browser.eval("location.search").await, "?tab=activity");
    let here = browser.attribute("[data-tab=activity]", "aria-current").await;
    assert_eq!(here.as_deref(), Some("page"));
    assert_eq!(
        browser.count("[data-action=end-all]").await,
        0,
        "there is nothing to end"
    );
    browser.refresh().await.expect("a page");
    browser.until_seen(line).await;
    browser.back().await.expect("back");
    browser.until_seen("[data-current]").await;
    assert_eq!(browser.count(line).await, 0);
}

#[tokio::test]
async fn anonymous_visitor_is_told_of_that_visit_alone() {
    let stage = Stage::set().await;
    let visit = stage
        .server
        .create(json!({ "user_agent": CHROME_ON_MACOS }))
        .await;
    stage
        .server
        .create(json!({ "user_agent": SAFARI_ON_IPHONE }))
        .await;
    let browser = &stage.browser;
    browser.open("/docs").await;
    let cookie = format!("sessiond_dev={}; path=/", visit.token);
    browser
        .eval(&format!("document.cookie = {}", quoted(&cookie)))
        .await;
    open_activity(browser).await;
    assert_eq!(browser.count("[data-list=activity] li").await, 1);
    assert_has(
        &browser.text("[data-list=activity]").await,
        &["Visit began on Chrome on macOS"],
    );
}
