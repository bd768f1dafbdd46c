//! The dashboard updates itself: by a stream of events, and without one by asking now and then.

use crate::browser::{CHROME_ON_MACOS, SAFARI_ON_IPHONE, Stage, ZURICH, card, sign_in};
use crate::browser_driver::{Browser, ENTER, quoted};
use crate::harness::SignedIn;

/// Keeps the streams and counts the lists that the page asks for.
const WATCH: &str = "
    window.streams = [];
    window.EventSource = class extends EventSource { constructor(...given) { super(...given); streams.push(this); } };
    window.listed = 0;
    window.answered = 0;
    const real = fetch;
    window.fetch = async (url, ...rest) => {
        listed += String(url).includes('/me/sessions');
        try { return await real(url, ...rest); } finally { answered += 1; }
    };";
/// Lets the page's waits pass a hundred times as fast, and keeps how long they were.
const HASTEN: &str = "
    window.waits = [];
    const wait = setTimeout;
    window.setTimeout = (call, millis) => { waits.push(millis); return wait(call, millis / 100); };";
/// Counts the waits for the rest of a burst of events that are not over.
const COUNT_BURSTS: &str = "
    window.pending = 0;
    const delay = setTimeout;
    window.setTimeout = (call, millis) => {
        if (millis !== 200) return delay(call, millis);
        pending += 1;
        return delay(() => { pending -= 1; call(); }, millis);
    };";
/// Makes `isHidden` decide whether the page is seen.
const HIDE: &str = "
    window.isHidden = false;
    Object.defineProperty(document, 'hidden', { get: () => isHidden });
    window.show = (isShown) => { isHidden = !isShown; document.dispatchEvent(new Event('visibilitychange')); };";

/// Waits until the page's stream stands and what it made the page ask for is there.
async fn until_live(browser: &Browser) {
    browser
        .until("streams.at(-1)?.readyState === 1 && listed > 1")
        .await;
    browser.until_state("ready").await;
}

async fn end(stage: &Stage, session: &SignedIn) {
    let path = format!("/v1/sessions/{}?ended_by=app&reason=tidying", session.id);
    let reply = stage.server.delete(&path).key(&stage.server.key).send().await;
    assert_eq!(reply.status, 204);
}

/// Waits until the session has no card.
async fn until_gone(browser: &Browser, session: &SignedIn) {
    let is_gone = format!("!document.querySelector({})", quoted(&card(session)));
    browser.until(&is_gone).await;
}

/// Waits until screen readers are told this.
async fn until_announced(browser: &Browser, sentence: &str) {
    let is_told = format!(
        "document.querySelector('#announcer').textContent === {}",
        quoted(sentence)
    );
    browser.until(&is_told).await;
}

#[tokio::test]
async fn session_that_ends_elsewhere_disappears_and_is_told() {
    let stage = Stage::set().await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;
    browser.tab_to("[data-action=sign-out]").await;

    end(&stage, &phone).await;
    until_gone(browser, &phone).await;

    until_announced(browser, "The session on Safari on iOS has ended.").await;
    assert_eq!(browser.count(&card(&mac)).await, 1);
    assert_eq!(browser.text("#others-count").await, "1");
    let has_focus = "document.activeElement.dataset.action === 'sign-out'";
    assert_eq!(browser.eval(has_focus).await, true, "the focus stays where it is");
}

#[tokio::test]
async fn session_that_begins_elsewhere_appears_and_is_told() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    browser.until_seen(&card(&phone)).await;
    until_announced(browser, "Signed in on Safari on iOS.").await;
    assert_eq!(browser.text("#others-count").await, "1");
}

#[tokio::test]
async fn activity_grows_by_itself() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    browser.click("[data-tab=activity]").await;
    browser.until_seen("[data-list=activity] li").await;
    browser.until("streams.at(-1)?.readyState === 1").await;
    stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    browser
        .until_text("[data-list=activity]", "Signed in on Safari on iOS")
        .await;
}

#[tokio::test]
async fn browser_that_is_signed_out_elsewhere_says_why_by_itself() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;
    let this = browser.attribute("[data-current]", "data-session-id").await;
    let path = format!(
        "/v1/sessions/{}?reason=credentials_changed&ended_by=app",
        this.expect("an id")
    );
    stage.server.delete(&path).key(&stage.server.key).send().await;

    browser.until_state("signed-out").await;
    browser
        .until_text("#panel", "Ended because your sign-in details were changed.")
        .await;
    browser.until("streams.at(-1).readyState === 2").await;
    let link = browser.attribute("#panel a", "href").await;
    assert!(link.is_some_and(|link| link.contains("/dev/sign-in?return_to=")));
}

#[tokio::test]
async fn page_goes_on_saying_that_the_person_signed_out() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;
    browser.click("[data-action=sign-out]").await;
    browser.until_text("#panel h1", "You have signed out").await;

    let answered = browser.eval("answered").await;
    browser.look_again().await;
    browser.until(&format!("answered > {answered}")).await;
    browser.until("streams[0].readyState === 2").await;
    assert_eq!(browser.text("#panel h1").await, "You have signed out");
}

#[tokio::test]
async fn name_being_typed_and_question_being_asked_outlive_the_session() {
    let stage = Stage::set().await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let mac = stage.elsewhere(CHROME_ON_MACOS, ZURICH).await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;

    browser
        .click(&format!("{} [data-action=rename]", card(&phone)))
        .await;
    browser.press("Kitch").await;
    end(&stage, &phone).await;
    browser
        .until_text(&card(&phone), "This session has ended meanwhile.")
        .await;
    browser.press("en").await;
    assert_eq!(browser.eval("document.activeElement.value").await, "Kitchen");
    browser.press(ENTER).await;
    browser
        .until_text(&format!("{} .refusal", card(&phone)), "That was not done.")
        .await;

    browser.click(&format!("{} [data-action=end]", card(&mac))).await;
    browser.until_seen("dialog").await;
    end(&stage, &mac).await;
    let told = format!(
        "document.querySelector({}).textContent",
        quoted(&format!("{} .message", card(&mac)))
    );
    browser
        .until(&format!("{told} === 'This session has ended meanwhile.'"))
        .await;
    assert_eq!(browser.count("dialog").await, 1, "the question stands");
    browser.click("[data-action=confirm]").await;
    until_gone(browser, &mac).await;
}

#[tokio::test]
async fn burst_of_events_makes_the_page_ask_once() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    browser.prepare(COUNT_BURSTS).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;
    let seen = browser
        .eval("[listed, Array.from({ length: 100 }, () => streams[0].dispatchEvent(new Event('session.created'))), pending]")
        .await;
    // However much is on its way already: all of them wait for one and the same call.
    assert_eq!(seen[2], 1, "waits begun by a hundred events");
    browser.until(&format!("listed > {}", seen[0])).await;
}

#[tokio::test]
async fn page_without_a_stream_asks_more_and_more_seldom() {
    let stage = Stage::set().await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    browser.prepare(HASTEN).await;
    browser.prepare("delete window.EventSource;").await;
    sign_in(browser, "ada").await;
    let expires_at = || async {
        let path = format!("/v1/users/{}/sessions", "ada");
        let reply = stage.server.get(&path).key(&stage.server.key).send().await;
        reply.json["sessions"][0]["expires_at"].clone()
    };
    let before = expires_at().await;
    stage.server.advance(120);

    end(&stage, &phone).await;
    until_gone(browser, &phone).await;
    browser
        .until("waits.filter((millis) => millis === 240e3).length > 1")
        .await;
    let waits = "[30e3, 60e3, 120e3, 240e3].map((millis) => waits.indexOf(millis))";
    let waits: Vec<i64> = serde_json::from_value(browser.eval(waits).await).expect("places");
    assert!(waits.is_sorted() && waits[0] >= 0, "{waits:?}");
    assert_eq!(expires_at().await, before, "asking keeps no session alive");
}

#[tokio::test]
async fn refused_stream_is_left_alone_while_the_page_asks_by_itself() {
    const REFUSE: &str = "
        window.streams = [];
        window.EventSource = class {
            static CLOSED = 2;
            readyState = 2;
            constructor() { streams.push(this); queueMicrotask(() => this.onerror({ target: this })); }
            addEventListener() {}
            close() {}
        };";
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.prepare(HASTEN).await;
    browser.prepare(REFUSE).await;
    sign_in(browser, "ada").await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    browser.until_seen(&card(&phone)).await;
    browser.until("waits.includes(120e3)").await;
    assert_eq!(browser.eval("streams.length").await, 1);

    browser
        .eval("Date.now = ((now) => () => now() + 60e3)(Date.now)")
        .await;
    browser.until("streams.length === 2").await;
}

#[tokio::test]
async fn stream_is_closed_while_the_page_is_hidden_and_opened_when_it_is_shown() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    for script in [WATCH, HASTEN, HIDE] {
        browser.prepare(script).await;
    }
    sign_in(browser, "ada").await;
    until_live(browser).await;

    browser.eval("show(false)").await;
    browser.until("streams[0].readyState === 2").await;
    assert_eq!(browser.eval("waits.at(-1)").await, 30_000, "not at once");
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    assert_eq!(browser.count(&card(&phone)).await, 0);
    let listed = browser.eval("listed").await;
    browser.eval("show(true)").await;
    browser.until_seen(&card(&phone)).await;
    browser
        .until("streams.length === 2 && streams[1].readyState === 1")
        .await;
    assert_ne!(browser.eval("listed").await, listed);

    browser.eval("dispatchEvent(new Event('pagehide'))").await;
    assert_eq!(browser.eval("streams[1].readyState").await, 2);
}

#[tokio::test]
async fn page_catches_up_after_its_server_was_restarted() {
    let mut stage = Stage::set().await;
    let gate = crate::browser::Gate::before(&stage.server).await;
    stage.browser = stage.driver.browser(&gate.base).await;
    let browser = &stage.browser;
    browser.prepare(WATCH).await;
    sign_in(browser, "ada").await;
    until_live(browser).await;

    gate.close();
    browser.until_text("aside", "The server cannot be reached.").await;
    let phone = stage.elsewhere(SAFARI_ON_IPHONE, ZURICH).await;
    gate.open();
    browser.until_seen(&card(&phone)).await;
    browser.until("streams[0].readyState === 1").await;
    end(&stage, &phone).await;
    until_gone(browser, &phone).await;
}
