//! The pages as a person has them, in a real browser.

use serde_json::{Value, json};
use sessiond::config::{Config, CookieProfile};
use sessiond::server::Mode;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::browser_driver::{Browser, Driver, ENTER, ESCAPE, TAB, quoted};
use crate::harness::{SignedIn, TestServer};

pub const CHROME_ON_MACOS: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/154.0.0.0 Safari/537.36";
pub const SAFARI_ON_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, \
     like Gecko) Version/26.1 Mobile/15E148 Safari/604.1";
/// A public address in Switzerland.
pub const ZURICH: &str = "130.59.31.80";

/// A server with what `sessiond dev` has, and a browser.
pub struct Stage {
    pub browser: Browser,
    // After the browsers, before the server: dropped in this order, nobody talks to what is gone.
    pub driver: Driver,
    pub server: TestServer,
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_with(|_| {}).await
    }

    pub async fn set_with(change: impl FnOnce(&mut Config)) -> Self {
        let driver = Driver::start().await;
        let server = TestServer::start_in(Mode::Dev, |config| {
            change(config);
            for app in config.apps.values_mut() {
                app.cookie.profile = CookieProfile::Loopback;
                app.sign_in_url = Some(format!("{}/dev/sign-in", config.server.base_path));
            }
        })
        .await;
        let browser = driver.browser(&server.base).await;
        Self {
            browser,
            driver,
            server,
        }
    }

    /// Moves the server's clock.
    pub async fn advance(&self, secs: u64) {
        let reply = self
            .server
            .post("/dev/clock", json!({ "advance_secs": secs }))
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }

    /// Starts a session of ada's elsewhere.
    pub async fn elsewhere(&self, user_agent: &str, ip_address: &str) -> SignedIn {
        let body = json!({ "user_id": "ada", "user_agent": user_agent, "ip_address": ip_address });
        self.server.create(body).await
    }
}

/// Signs in by the page of `dev`; the dashboard stands.
pub async fn sign_in(browser: &Browser, name: &str) {
    browser.open("/dev/sign-in").await;
    browser.press(name).await;
    browser.press(ENTER).await;
    browser.until_state("ready").await;
}

/// The card of a session.
pub fn card(session: &SignedIn) -> String {
    format!("[data-session-id='{}']", session.id)
}

#[track_caller]
pub fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Stands between browsers and a server; while it is closed, the server is away for them.
pub struct Gate {
    pub base: String,
    is_open: watch::Sender<bool>,
}

impl Gate {
    pub async fn before(server: &TestServer) -> Self {
        let address = server.base.strip_prefix("http://").expect("a URL").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (is_open, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut watched, address) = (watched.clone(), address.clone());
                tokio::spawn(async move {
                    if *watched.borrow_and_update()
                        && let Ok(mut far) = TcpStream::connect(address).await
                    {
                        // Either side may leave when it likes.
                        tokio::select! {
                            _ = copy_bidirectional(&mut near, &mut far) => {}
                            _ = watched.changed() => {}
                        }
                    }
                });
            }
        });
        Self { base, is_open }
    }

    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Cuts every connection, and each that comes.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }
}

// Signing in, the list

#[tokio::test]
async fn person_signs_in_by_the_page_and_sees_this_device() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/").await;
    browser.until_state("signed-out").await;
    assert_eq!(browser.text("#panel h1").await, "You are not signed in");
    browser.assert_accessible("not signed in").await;

    browser.click("#panel a").await;
    browser.until("location.pathname === '/dev/sign-in'").await;
    browser.assert_accessible("the sign-in page").await;
    browser.press("ada").await;
    browser.press(ENTER).await;
    browser.until_state("ready").await;

    assert_eq!(browser.eval("location.pathname").await, "/");
    assert_eq!(browser.text("#who").await, "ada");
    assert_eq!(browser.count("[data-session-id]").await, 1);
    assert_has(
        &browser.text("[data-current]").await,
        &[
            "Chrome on Linux",
            "Local network",
            "127.0.0.1",
            "Signed in just now",
        ],
    );
    assert_has(&browser.text("main").await, &["You are signed in only here."]);
    browser.assert_accessible("only this device").await;
}

#[tokio::test]
async fn card_tells_device_place_and_last_use() {
    let stage = Stage::set().await;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    stage.advance(60).await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, "10.0.0.7").await;
    stage.advance(2 * 60).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;

    let order = "[...document.querySelectorAll('[data-session-id]')].map((one) => one.dataset.sessionId)";
    let order = browser.eval(order).await;
    let this = browser.attribute("[data-current]", "data-session-id").await;
    assert_eq!(
        order,
        json!([this, phone.id, mac.id]),
        "this device, then the latest used"
    );
    assert_has(
        &browser.text(&card(&phone)).await,
        &[
            "Safari on iOS",
            "Local network",
            "10.0.0.7",
            "Active 2 minutes ago",
            "New",
        ],
    );
    assert_has(
        &browser.text(&card(&mac)).await,
        &["Chrome on macOS", "Switzerland", ZURICH, "Active 3 minutes ago"],
    );
    let exact = browser
        .attribute(&format!("{} time", card(&phone)), "title")
        .await;
    assert_has(&exact.expect("a title"), &["1 January 2026", "00:01:00"]);
    let moment = browser
        .attribute(&format!("{} time", card(&phone)), "datetime")
        .await;
    assert_eq!(moment.as_deref(), Some("2026-01-01T00:01:00.000Z"));

    browser.click(&format!("{} summary", card(&mac))).await;
    assert_has(
        &browser.text(&format!("{} dl", card(&mac))).await,
        &["154.0", CHROME_ON_MACOS, &mac.id],
    );
    browser.assert_accessible("several devices, details open").await;
}

#[tokio::test]
async fn person_with_many_sessions_is_shown_more_when_asked() {
    let stage = Stage::set().await;
    let limit = json!({ "max_sessions": 100 });
    stage
        .server
        .patch("/v1/users/ada", limit)
        .key(&stage.server.key)
        .send()
        .await;
    for _ in 0..60 {
        stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
        stage.server.advance(1);
    }
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    assert_eq!(browser.count("[data-session-id]").await, 50);
    assert_has(&browser.text("#others").await, &["60"]);

    browser.click("[data-action=show-more]").await;
    browser
        .until("document.querySelectorAll('[data-session-id]').length === 61")
        .await;
    assert_eq!(browser.count("[data-action=show-more]").await, 0);
    browser
        .until("document.activeElement.matches('[data-list=active] li:nth-child(50) > *')")
        .await;
}

#[tokio::test]
async fn anonymous_visitor_sees_that_visit_alone() {
    let stage = Stage::set().await;
    let body = json!({ "user_agent": CHROME_ON_MACOS });
    let visit = stage.server.create(body).await;
    let browser = &stage.browser;
    browser.open("/docs").await;
    let cookie = format!("sessiond_dev={}; path=/", visit.token);
    browser
        .eval(&format!("document.cookie = {}", quoted(&cookie)))
        .await;
    browser.open("/").await;
    browser.until_state("ready").await;
    assert_eq!(browser.text("#who").await, "Anonymous visitor");
    assert_eq!(browser.count("[data-session-id]").await, 1);
    assert_has(&browser.text(".lead").await, &["You are not signed in."]);
    browser.assert_accessible("an anonymous visitor").await;
}

#[tokio::test]
async fn page_starts_one_session_for_its_visitor_and_never_sees_the_token() {
    let stage = Stage::set_with(|config| {
        for app in config.apps.values_mut() {
            app.anonymous = true;
        }
    })
    .await;
    let browser = &stage.browser;
    browser.open("/").await;
    browser.until_state("signed-out").await;

    let first = start_visit(browser).await;
    let again = start_visit(browser).await;

    assert_eq!((&first["status"], &again["status"]), (&json!(201), &json!(200)));
    assert_eq!(first["body"]["id"], again["body"]["id"]);
    assert!(!first.to_string().contains("sst_"), "{first}");
    let cookies = browser.get_all_cookies().await.expect("cookies");
    let [cookie] = cookies.as_slice() else {
        panic!("one cookie, not {}", cookies.len())
    };
    assert_eq!((cookie.name(), cookie.http_only()), ("sessiond_dev", Some(true)));
    assert_eq!(browser.eval("document.cookie").await, "");
    let everybodys = stage.server.get("/v1/sessions?anonymous=true&status=all");
    let everybodys = everybodys.key(&stage.server.key).send().await;
    assert_eq!(everybodys.json["sessions"].as_array().map(Vec::len), Some(1));
    browser.open("/").await;
    browser.until_state("ready").await;
    assert_eq!(browser.text("#who").await, "Anonymous visitor");
    let shown = browser.attribute("[data-current]", "data-session-id").await;
    assert_eq!(shown.as_deref(), first["body"]["id"].as_str());
}

/// What a page's script has from asking for a session for its visitor.
async fn start_visit(browser: &Browser) -> Value {
    let script = "const done = arguments[0];
        fetch('/v1/me/session', { method: 'POST' })
            .then(async (response) => done({ status: response.status, body: await response.json() }),
                  (error) => done(String(error)));";
    browser
        .execute_async(script, Vec::new())
        .await
        .expect("the script runs")
}

// Ending

#[tokio::test]
async fn session_that_is_ended_here_is_signed_out_there_and_told_why() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    let other = stage.driver.browser_as(&stage.server.base, CHROME_ON_MACOS).await;
    sign_in(&other, "ada").await;
    sign_in(browser, "ada").await;

    browser.click("[data-list=active] [data-action=end]").await;
    browser.until_seen("dialog").await;
    assert_eq!(
        browser.text("dialog h2").await,
        "End the session on Chrome on macOS?"
    );
    browser.assert_accessible("the question").await;
    browser.click("[data-action=confirm]").await;
    browser
        .until("!document.querySelector('[data-list=active] [data-session-id]')")
        .await;
    assert_eq!(
        browser
            .eval("document.querySelector('#announcer').textContent")
            .await,
        "The session on Chrome on macOS has ended."
    );

    other.look_again().await;
    other.until_state("signed-out").await;
    assert_has(
        &other.text("main").await,
        &[
            "You have been signed out",
            "You ended this session from another device.",
        ],
    );
    let link = other.attribute("#panel a", "href").await.expect("a link");
    assert_has(&link, &["/dev/sign-in?return_to="]);
    other.assert_accessible("signed out meanwhile").await;
}

#[tokio::test]
async fn all_other_sessions_end_after_one_question() {
    let stage = Stage::set().await;
    let others = [
        stage.elsewhere(CHROME_ON_MACOS, ZURICH).await,
        stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await,
    ];
    let browser = &stage.browser;
    sign_in(browser, "ada").await;

    browser.click("[data-action=end-all]").await;
    browser.until_seen("dialog").await;
    assert_eq!(browser.text("dialog h2").await, "End all 2 other sessions?");
    browser.click("[data-action=cancel]").await;
    browser.until("!document.querySelector('dialog').open").await;
    assert_eq!(browser.count("[data-list=active] [data-session-id]").await, 2);

    browser.click("[data-action=end-all]").await;
    browser.until_seen("dialog").await;
    browser.click("[data-action=confirm]").await;
    browser.until_text("main", "You are signed in only here.").await;
    assert_eq!(browser.count("[data-list=active] [data-session-id]").await, 0);
    assert_eq!(browser.count("[data-action=end-all]").await, 0);
    for other in &others {
        let reply = stage.server.check(&other.token).await;
        reply.assert_problem(401, "session_ended");
        assert_eq!(reply.json["revoked_reason"], "logout_all");
    }
}

#[tokio::test]
async fn person_signs_out() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.click("[data-action=sign-out]").await;
    browser.until_state("signed-out").await;
    assert_eq!(browser.text("#panel h1").await, "You have signed out");
    assert_eq!(
        browser.count("[data-session-id]").await,
        0,
        "nothing of it stays on the page"
    );
    browser.assert_accessible("signed out").await;

    browser.refresh().await.expect("a page");
    browser.until_state("signed-out").await;
    assert_eq!(browser.text("#panel h1").await, "You are not signed in");
    assert!(
        browser.get_named_cookie("sessiond_dev").await.is_err(),
        "the cookie is gone"
    );
}

#[tokio::test]
async fn session_is_ended_by_keyboard_alone() {
    let stage = Stage::set().await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    stage.advance(60).await;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let end = format!("{} [data-action=end]", card(&mac));

    browser.tab_to(&end).await;
    browser.press(ENTER).await;
    browser.until_seen("dialog").await;
    assert_eq!(
        browser.text("dialog h2").await,
        "End the session on Chrome on macOS in Switzerland?"
    );
    assert_eq!(
        focus(browser).await,
        "cancel",
        "nothing ends by pressing Enter twice"
    );
    browser.press(ESCAPE).await;
    browser.until("!document.querySelector('dialog').open").await;
    browser
        .until(&format!("document.activeElement.matches({})", quoted(&end)))
        .await;
    assert_eq!(
        stage.server.check(&mac.token).await.status,
        200,
        "Escape ends nothing"
    );

    browser.press(ENTER).await;
    browser.until_seen("dialog").await;
    browser.press(TAB).await;
    assert_eq!(focus(browser).await, "confirm");
    browser.press(ENTER).await;
    browser
        .until(&format!("!document.querySelector({})", quoted(&card(&mac))))
        .await;
    let next = format!("document.activeElement.matches({})", quoted(&card(&phone)));
    browser.until(&next).await;
    stage
        .server
        .check(&mac.token)
        .await
        .assert_problem(401, "session_ended");
}

#[tokio::test]
async fn question_asked_again_at_once_gets_its_own_answer() {
    let stage = Stage::set().await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    // In one go, so that the event of the first dialog's closing comes when the second question stands.
    let end = |session: &SignedIn| {
        format!(
            "document.querySelector({}).click();",
            quoted(&format!("{} [data-action=end]", card(session)))
        )
    };
    let script = format!(
        "{} document.querySelector('dialog').close(''); {}",
        end(&phone),
        end(&mac)
    );
    browser.execute(&script, Vec::new()).await.expect("two questions");
    browser.until_seen("dialog").await;
    browser.click("[data-action=confirm]").await;
    browser
        .until(&format!("!document.querySelector({})", quoted(&card(&mac))))
        .await;
    assert_eq!(
        stage.server.check(&phone.token).await.status,
        200,
        "the first question was not confirmed"
    );
    stage
        .server
        .check(&mac.token)
        .await
        .assert_problem(401, "session_ended");
}

/// The action of the button that has the focus.
async fn focus(browser: &Browser) -> Value {
    browser.eval("document.activeElement.dataset.action").await
}

#[tokio::test]
async fn unused_session_says_after_how_long_it_ended() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    stage.advance(7 * 24 * 60 * 60).await;
    browser.look_again().await;
    browser.until_state("signed-out").await;
    assert_has(
        &browser.text("main").await,
        &[
            "You have been signed out",
            "Ended after it was not used for 7 days.",
        ],
    );
}

#[tokio::test]
async fn ending_that_demands_a_recent_sign_in_says_so_beside_the_card() {
    let stage = Stage::set_with(|config| {
        for app in config.apps.values_mut() {
            app.reauthenticate_within_secs = Some(300);
        }
    })
    .await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    stage.advance(301).await;

    browser
        .click(&format!("{} [data-action=end]", card(&phone)))
        .await;
    browser.until_seen("dialog").await;
    browser.click("[data-action=confirm]").await;
    let message = format!("{} .message", card(&phone));
    browser
        .until_text(&message, "you must have signed in a short while ago")
        .await;
    let link = browser.attribute(&format!("{message} a"), "href").await;
    assert_has(&link.expect("a link"), &["/dev/sign-in?return_to="]);
    assert_eq!(stage.server.check(&phone.token).await.status, 200, "it goes on");
    browser.assert_accessible("a refused action").await;
}

// Names

#[tokio::test]
async fn name_is_saved_by_enter_left_by_escape_and_kept() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let title = "[data-current] h3";

    browser.click("[data-current] [data-action=rename]").await;
    browser.assert_accessible("a name being typed").await;
    browser.press("Kitchen").await;
    browser.press(ENTER).await;
    browser.until_text(title, "Kitchen").await;
    assert_has(&browser.text("[data-current]").await, &["Chrome on Linux"]);

    browser.click("[data-current] [data-action=rename]").await;
    browser.press("Cellar").await;
    browser.press(ESCAPE).await;
    browser.until_seen(title).await;
    assert_eq!(browser.text(title).await, "Kitchen");
    assert_eq!(focus(browser).await, "rename");

    browser.refresh().await.expect("a page");
    browser.until_state("ready").await;
    assert_eq!(browser.text(title).await, "Kitchen");
}

#[tokio::test]
async fn name_that_is_too_long_is_refused_beside_it() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.click("[data-current] [data-action=rename]").await;
    let fill = format!("document.activeElement.value = {}", quoted(&"x".repeat(101)));
    browser.eval(&fill).await;
    browser.press(ENTER).await;
    browser
        .until_text("[data-current] form", "must be 1 to 100 characters")
        .await;
    browser.assert_accessible("a refused name").await;
}

#[tokio::test]
async fn markup_of_strangers_is_shown_as_text() {
    const MARKUP: &str = "<img src=x onerror='window.ran=1'><script>window.ran=1</script>";
    let stage = Stage::set().await;
    let body = json!({ "user_id": MARKUP, "user_agent": MARKUP, "name": MARKUP, "ip_address": ZURICH });
    let session = stage.server.create(body).await;
    let path = format!(
        "/v1/sessions/{}?ended_by=app&reason={}",
        session.id, "%3Cb%20onclick%3Dx%3E"
    );
    let browser = &stage.browser;
    sign_in(browser, MARKUP).await;

    assert_eq!(browser.text("#who").await, MARKUP);
    assert_eq!(browser.text(&format!("{} h3", card(&session))).await, MARKUP);
    browser.click(&format!("{} summary", card(&session))).await;
    assert_has(&browser.text(&format!("{} dl", card(&session))).await, &[MARKUP]);
    browser
        .click(&format!("{} [data-action=end]", card(&session)))
        .await;
    browser.until_seen("dialog").await;
    assert_has(&browser.text("dialog h2").await, &[MARKUP]);
    browser.click("[data-action=cancel]").await;
    stage.server.delete(&path).key(&stage.server.key).send().await;
    browser.open("/?tab=ended").await;
    browser.until_seen(&card(&session)).await;
    assert_has(
        &browser.text(&card(&session)).await,
        &["Ended by the application: \"<b onclick=x>\"."],
    );
    assert_eq!(
        browser
            .eval("document.querySelectorAll('main :is(img, script, b)').length")
            .await,
        0
    );
    assert_eq!(browser.eval("typeof window.ran").await, "undefined");
}

#[tokio::test]
async fn page_refuses_scripts_that_are_put_into_it() {
    let stage = Stage::set().await;
    stage.browser.open("/").await;
    let attempts = "
        const done = arguments[arguments.length - 1], refusals = [];
        const script = document.createElement('script'), link = document.createElement('a');
        const attempt = (action) => { try { action(); } catch (error) { refusals.push(error.name); } };
        script.append('window.ran = 1');
        document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => {
            refusals.push(effectiveDirective);
            if (effectiveDirective === 'connect-src') done([window.ran ?? null, refusals]);
        });
        attempt(() => { document.body.innerHTML += '<img onerror=\"window.ran = 1\" src=x>'; });
        attempt(() => document.body.append(script));
        attempt(() => link.setAttribute('onclick', 'window.ran = 1'));
        attempt(() => link.setAttribute('style', 'color: red'));
        fetch('http://127.0.0.1:1/').catch(() => {});";
    let result = stage.browser.execute_async(attempts, Vec::new()).await;
    let result = result.expect("an answer");
    assert_eq!(result[0], Value::Null, "{result}");
    let refusals = result[1].as_array().expect("a list");
    let is = |name: &str| refusals.iter().filter(|refusal| *refusal == name).count();
    assert_eq!(is("TypeError"), 2, "markup and a handler: {result}");
    assert_eq!(is("require-trusted-types-for"), 3, "those and a script: {result}");
    assert_eq!((is("style-src-attr"), is("connect-src")), (1, 1), "{result}");
}

// The ended tab

#[tokio::test]
async fn ended_tab_says_why_each_session_ended() {
    let stage = Stage::set().await;
    let key = &stage.server.key;
    let mut expected = Vec::new();
    for (reason, ended_by, sentence) in [
        ("manual", "user", "You ended this session from another device."),
        ("logout", "user", "You signed out on this device."),
        ("logout_all", "user", "You ended all other sessions."),
        ("user_blocked", "app", "Ended because the account was locked."),
        (
            "credentials_changed",
            "app",
            "Ended because your sign-in details were changed.",
        ),
        (
            "spring cleaning",
            "app",
            "Ended by the application: \"spring cleaning\".",
        ),
        (
            "spring cleaning",
            "operator",
            "Ended by an operator: \"spring cleaning\".",
        ),
    ] {
        let session = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
        let query = format!("reason={}&ended_by={ended_by}", reason.replace(' ', "%20"));
        let reply = stage
            .server
            .delete(&format!("/v1/sessions/{}?{query}", session.id));
        assert_eq!(reply.key(key).send().await.status, 204);
        expected.push((session, sentence));
    }
    let evicted = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    let limited = stage.server.patch("/v1/users/ada", json!({ "max_sessions": 1 }));
    assert_eq!(limited.key(key).send().await.status, 200);
    let short = json!({ "user_id": "ada", "absolute_timeout_secs": 3_600 });
    let short = stage.server.create(short).await;
    stage.advance(3_600).await;
    let idle = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    stage.advance(7 * 24 * 60 * 60).await;
    expected.extend([
        (
            evicted,
            "Ended because you signed in on more devices than your account allows.",
        ),
        (short, "Ended because 1 hour had passed since sign-in."),
        (idle, "Ended after it was not used for 7 days."),
    ]);

    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.click("[data-tab=ended]").await;
    browser.until_seen("[data-list=ended] [data-session-id]").await;
    for (session, sentence) in &expected {
        assert_has(&browser.text(&card(session)).await, &[*sentence]);
    }
    assert_eq!(browser.count("[data-session-id]").await, expected.len() as u64);
    assert_eq!(
        browser.count("[data-list=ended] [data-action=end]").await,
        0,
        "there is nothing to end"
    );
    browser.assert_accessible("the ended tab").await;
}

#[tokio::test]
async fn tab_is_in_the_address_and_back_and_reload_work() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    let ended = "[data-view=ended] .empty";

    browser.click("[data-tab=ended]").await;
    browser.until_text(ended, "No session has ended lately.").await;
    assert_eq!(browser.eval("location.search").await, "?tab=ended");
    assert_eq!(
        browser
            .attribute("[data-tab=ended]", "aria-current")
            .await
            .as_deref(),
        Some("page")
    );
    browser.assert_accessible("an empty ended tab").await;
    browser.refresh().await.expect("a page");
    browser.until_seen(ended).await;
    browser.back().await.expect("back");
    browser.until_seen("[data-current]").await;
    assert_eq!(browser.eval("location.search").await, "");
    browser.forward().await.expect("forward");
    browser.until_seen(ended).await;
    assert_eq!(browser.count("[data-current]").await, 0);
}

// When something is not as it should be

#[tokio::test]
async fn page_keeps_what_it_shows_while_the_server_is_away_and_tries_again() {
    let mut stage = Stage::set().await;
    let gate = Gate::before(&stage.server).await;
    stage.browser = stage.driver.browser(&gate.base).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;

    gate.close();
    browser.look_again().await;
    browser.until_text("aside", "The server cannot be reached.").await;
    assert_eq!(
        browser.count("[data-current]").await,
        1,
        "what was shown still stands"
    );
    browser.assert_accessible("the server is away").await;

    gate.open();
    browser
        .until("!document.querySelector('aside').checkVisibility()")
        .await;
}

#[tokio::test]
async fn page_says_that_it_is_offline_and_recovers_by_itself() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.set_offline(true).await;
    browser.until_text("aside", "You are offline.").await;
    assert_eq!(
        browser.count("[data-current]").await,
        1,
        "what was shown still stands"
    );
    browser.set_offline(false).await;
    browser
        .until("!document.querySelector('aside').checkVisibility()")
        .await;
}

#[tokio::test]
async fn action_without_an_answer_is_said_to_be_uncertain() {
    let mut stage = Stage::set().await;
    let gate = Gate::before(&stage.server).await;
    stage.browser = stage.driver.browser(&gate.base).await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser
        .click(&format!("{} [data-action=end]", card(&phone)))
        .await;
    browser.until_seen("dialog").await;
    gate.close();
    browser.click("[data-action=confirm]").await;
    let message = format!("{} .message", card(&phone));
    browser
        .until_text(&message, "this may or may not have been done")
        .await;
    assert_eq!(browser.count(&card(&phone)).await, 1);
}

#[tokio::test]
async fn page_that_cannot_be_filled_says_so_and_tries_again() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser.devtools("Network.enable", json!({})).await;
    browser
        .devtools("Network.setBlockedURLs", json!({ "urls": ["*/v1/*"] }))
        .await;
    browser.refresh().await.expect("a page");
    browser.until_state("error").await;
    assert_eq!(browser.text("#panel h1").await, "The server cannot be reached");
    browser.assert_accessible("the error").await;

    browser
        .devtools("Network.setBlockedURLs", json!({ "urls": [] }))
        .await;
    browser.click("#panel [data-action=retry]").await;
    browser.until_state("ready").await;
    assert_eq!(browser.count("[data-current]").await, 1);
}

#[tokio::test]
async fn refusal_of_the_list_is_told_with_its_request() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/?app=nobody").await;
    browser.until_state("error").await;
    assert_has(
        &browser.text("#panel").await,
        &["This page could not be loaded", "Request "],
    );
}

#[tokio::test]
async fn page_that_waits_for_its_list_says_so_without_a_jump() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    sign_in(browser, "ada").await;
    browser
        .prepare(
            "const real = fetch; let go; const held = new Promise((resolve) => { go = resolve; }); \
            window.letGo = () => go(); window.fetch = (...call) => held.then(() => real(...call));",
        )
        .await;
    browser.refresh().await.expect("a page");
    browser.until_state("loading").await;
    assert_eq!(
        browser.attribute("main", "aria-busy").await.as_deref(),
        Some("true")
    );
    let height = "document.querySelector('[data-list=current]').offsetHeight";
    let before = browser.eval(height).await;
    browser.assert_accessible("loading").await;

    browser.eval("letGo()").await;
    browser.until_state("ready").await;
    assert_eq!(
        browser.eval(height).await,
        before,
        "the card is as high as what stood for it"
    );
    let shifts = browser.execute_async(LAYOUT_SHIFTS, Vec::new()).await;
    assert_eq!(shifts.expect("a list"), json!([]), "nothing has moved");
}

/// How far elements have moved by themselves since the page was opened.
const LAYOUT_SHIFTS: &str = "
    const done = arguments[arguments.length - 1], shifts = [];
    const observer = new PerformanceObserver((list) => shifts.push(...list.getEntries()));
    observer.observe({ type: 'layout-shift', buffered: true });
    // Entries are told between two frames.
    requestAnimationFrame(() => requestAnimationFrame(() => done(shifts.concat(observer.takeRecords())
        .map(({ value, sources }) => [value, sources.map(({ node }) => node?.outerHTML?.slice(0, 100))]))));";

// Widths, places

#[tokio::test]
async fn pages_fit_a_narrow_window() {
    const NARROW: u32 = 320;
    let stage = Stage::set().await;
    let names = [
        "Donaudampfschifffahrtsgesellschaftskapitän".repeat(2),
        "الحاسوب المحمول في المكتب".to_owned(),
    ];
    let mut sessions = Vec::new();
    for name in names {
        let body = json!({ "user_id": "ada", "name": name, "user_agent": SAFARI_ON_IPHONE,
            "ip_address": "2001:db8:1234:5678:9abc:def0:1234:5678" });
        sessions.push(stage.server.create(body).await);
    }
    let browser = &stage.browser;
    browser.open("/").await;
    browser.until_state("signed-out").await;
    browser.assert_fits("signed out", NARROW).await;
    browser.open("/dev/sign-in").await;
    browser.assert_fits("the sign-in page", NARROW).await;
    browser.open("/docs").await;
    browser.until_state("ready").await;
    browser.assert_fits("the API's page", NARROW).await;
    sign_in(browser, "ada").await;
    browser.assert_fits("the list", NARROW).await;
    browser.click(&format!("{} summary", card(&sessions[0]))).await;
    browser.assert_fits("details", NARROW).await;
    browser
        .click(&format!("{} [data-action=rename]", card(&sessions[0])))
        .await;
    browser.assert_fits("a name being typed", NARROW).await;
    browser.assert_accessible("narrow").await;
    browser.press(ESCAPE).await;
    browser
        .click(&format!("{} [data-action=end]", card(&sessions[0])))
        .await;
    browser.until_seen("dialog").await;
    browser.assert_fits("the question", NARROW).await;
    browser.click("[data-action=cancel]").await;
    browser.open("/?tab=ended").await;
    browser.until_state("ready").await;
    browser.assert_fits("the ended tab", NARROW).await;
}

#[tokio::test]
async fn pages_work_below_a_base_path() {
    let stage = Stage::set_with(|config| config.server.base_path = "/auth/v2".to_owned()).await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let browser = &stage.browser;
    browser.open("").await;
    browser.until_state("signed-out").await;
    assert_eq!(browser.eval("location.pathname").await, "/auth/v2/");
    browser.click("#panel a").await;
    browser
        .until("location.pathname === '/auth/v2/dev/sign-in'")
        .await;
    browser.click("[data-name=ada]").await;
    browser.until_state("ready").await;
    assert_eq!(browser.eval("location.pathname").await, "/auth/v2/");

    browser
        .click(&format!("{} [data-action=end]", card(&phone)))
        .await;
    browser.until_seen("dialog").await;
    browser.click("[data-action=confirm]").await;
    browser.until_text("main", "You are signed in only here.").await;
    browser.click("[data-tab=ended]").await;
    browser.until_seen(&card(&phone)).await;
    assert_eq!(
        browser.eval("location.href").await,
        format!("{}/?tab=ended", stage.server.base)
    );
    browser.open("/docs").await;
    browser.until_state("ready").await;
}

// The API's page

#[tokio::test]
async fn api_page_shows_every_operation_and_finds_them() {
    let stage = Stage::set().await;
    let document = stage.server.get("/openapi.json").send().await.json;
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths
        .values()
        .flat_map(|path| path.as_object().expect("methods").values());
    let ids: Vec<&Value> = operations.map(|operation| &operation["operationId"]).collect();
    let browser = &stage.browser;
    browser.open("/docs").await;
    browser.until_state("ready").await;
    for id in &ids {
        let id = id.as_str().expect("an operation id");
        let examples = browser.count(&format!("section.operation[id='{id}'] pre")).await;
        assert!(examples > 0, "{id} has an example");
    }
    browser.assert_accessible("the API's page").await;

    browser.click("#search").await;
    browser.press("check_own_session").await;
    browser.until_seen("#check_own_session").await;
    browser
        .until("!document.querySelector('#list_sessions').checkVisibility()")
        .await;
    browser.press("zzz").await;
    browser.until_text("#found", "Nothing found").await;
}
