//! Chromium, driven through chromedriver. Both are started by a test and end with it, also when it panics.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::harness::PATIENCE;

/// What a browser calls itself unless told otherwise; its own name would say that it is headless.
pub const CHROME_ON_LINUX: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/154.0.0.0 Safari/537.36";
/// A wide window, in CSS pixels.
pub const WIDE: u32 = 1_000;

/// Keys as WebDriver writes them (section 17.4.2, "keyboard actions").
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";

/// Told when something is not there: a test that is skipped in silence shows nothing.
const HOW_TO_INSTALL: &str =
    "run ./test.sh once: it installs what the browser tests need, or says what to install";
/// How long chromedriver and its browsers may take to end by themselves.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Browsers at once, where all tests share one process: each keeps about a core busy.
static SEATS: Semaphore = Semaphore::const_new(1);

/// A running chromedriver.
pub struct Driver {
    process: Child,
    address: SocketAddr,
    /// Process ids of the browsers, which would outlive a chromedriver that is killed.
    browsers: Mutex<Vec<u64>>,
    /// Profiles, home and temporary files.
    dir: TempDir,
    _seat: SemaphorePermit<'static>,
}

impl Driver {
    pub async fn start() -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let dir = tempfile::tempdir().expect("a directory");
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .env("TZ", "UTC")
            .envs(["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"].map(|name| (name, dir.path())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver cannot be started ({error}); {HOW_TO_INSTALL}"));
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut driver = Self {
            process,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            browsers: Mutex::default(),
            dir,
            _seat: seat,
        };
        let (tell, told) = oneshot::channel();
        // Reads on to the end, as a full pipe would stop chromedriver.
        std::thread::spawn(move || {
            let mut tell = Some(tell);
            for line in output.lines().map_while(Result::ok) {
                if let Some(port) = port_in(&line)
                    && let Some(tell) = tell.take()
                {
                    // Nobody waits any more if the test has given up.
                    let _ = tell.send(port);
                }
            }
        });
        let port = tokio::time::timeout(PATIENCE, told).await;
        let port = port.expect("chromedriver says in time where it listens");
        driver
            .address
            .set_port(port.expect("chromedriver says where it listens"));
        driver
    }

    /// A browser of its own: nothing is shared with another, neither cookies nor cache.
    pub async fn browser(&self, base: &str) -> Browser {
        self.browser_as(base, CHROME_ON_LINUX).await
    }

    /// A browser that calls itself so.
    pub async fn browser_as(&self, base: &str, user_agent: &str) -> Browser {
        let profile = tempfile::tempdir_in(self.dir.path()).expect("a directory").keep();
        let arguments = [
            // Whoever runs the tests in a container is root there, and root gets no sandbox.
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            // A window is as wide for the page as the test says.
            "--hide-scrollbars".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--accept-lang=en-GB".to_owned(),
            format!("--user-agent={user_agent}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        // axe-core looks at every element of a page, which takes a busy machine longer than the 30 s that drivers wait by themselves.
        let timeouts = json!({ "script": 4 * PATIENCE.as_millis() });
        let capabilities = json!({ "goog:chromeOptions": { "args": arguments }, "timeouts": timeouts });
        let Value::Object(capabilities) = capabilities else {
            unreachable!("it is an object")
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://{}", self.address))
            .await
            .unwrap_or_else(|error| panic!("Chromium cannot be started ({error}); {HOW_TO_INSTALL}"));
        let process = client
            .capabilities()
            .and_then(|told| told["goog:processID"].as_u64());
        let process = process.expect("chromedriver tells the browser's process");
        self.browsers.lock().expect("not poisoned").push(process);
        let browser = Browser {
            client,
            base: base.to_owned(),
        };
        browser.resize(WIDE).await;
        browser
    }

    /// Asks chromedriver to end its browsers and itself.
    fn shut_down(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&self.address, END_TIMEOUT)?;
        stream.set_read_timeout(Some(END_TIMEOUT))?;
        write!(
            stream,
            "GET /shutdown HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        )?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }

    fn has_ended(&mut self) -> bool {
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.shut_down().is_ok() && self.has_ended() {
            return;
        }
        // It hangs or never listened. By their ids; there is nobody left to tell if this fails.
        for browser in self.browsers.lock().expect("not poisoned").iter() {
            drop(
                Command::new("kill")
                    .args(["-KILL", &browser.to_string()])
                    .status(),
            );
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The port in "ChromeDriver was started successfully on port 12345."
fn port_in(line: &str) -> Option<u16> {
    let (_, port) = line.split_once("started successfully on port ")?;
    port.trim_end_matches('.').parse().ok()
}

/// A running browser.
pub struct Browser {
    client: Client,
    /// Where paths begin.
    base: String,
}

impl Deref for Browser {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Browser {
    /// Opens a page; `path` begins with a slash.
    pub async fn open(&self, path: &str) {
        self.goto(&format!("{}{path}", self.base)).await.expect("a page");
    }

    /// What an expression of JavaScript is on this page.
    pub async fn eval(&self, expression: &str) -> Value {
        let result = self.execute(&format!("return ({expression});"), Vec::new()).await;
        result.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression of JavaScript is true.
    pub async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        let script = format!("return ({expression});");
        // While one document gives way to the next there may be no page to ask: that is "not yet".
        loop {
            let last = self.execute(&script, Vec::new()).await;
            if matches!(last, Ok(Value::Bool(true))) {
                return;
            }
            if Instant::now() >= deadline {
                let page = self
                    .execute("return document.body.innerText.slice(0, 2000);", Vec::new())
                    .await;
                panic!("waited in vain for: {expression}\nlast: {last:?}\nthe page: {page:?}");
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the page says that it is in this state.
    pub async fn until_state(&self, state: &str) {
        self.until(&format!("document.body?.dataset.state === '{state}'"))
            .await;
    }

    /// Waits until an element is there and seen.
    pub async fn until_seen(&self, css: &str) {
        self.until(&format!(
            "document.querySelector({})?.checkVisibility() ?? false",
            quoted(css)
        ))
        .await;
    }

    /// Waits until the text that is seen of an element contains this.
    pub async fn until_text(&self, css: &str, text: &str) {
        let (css, text) = (quoted(css), quoted(text));
        self.until(&format!(
            "document.querySelector({css})?.innerText.includes({text}) ?? false"
        ))
        .await;
    }

    /// The text that is seen of an element.
    pub async fn text(&self, css: &str) -> String {
        let text = self
            .eval(&format!("document.querySelector({}).innerText", quoted(css)))
            .await;
        text.as_str().expect("text").to_owned()
    }

    /// An attribute of an element.
    pub async fn attribute(&self, css: &str, name: &str) -> Option<String> {
        let expression = format!(
            "document.querySelector({}).getAttribute({})",
            quoted(css),
            quoted(name)
        );
        self.eval(&expression).await.as_str().map(str::to_owned)
    }

    /// How many elements match and are seen.
    pub async fn count(&self, css: &str) -> u64 {
        let expression = format!(
            "[...document.querySelectorAll({})].filter((one) => one.checkVisibility()).length",
            quoted(css)
        );
        self.eval(&expression).await.as_u64().expect("a number")
    }

    /// Clicks where a person would, once it is there; what is covered or out of reach cannot be clicked.
    pub async fn click(&self, css: &str) {
        self.until_seen(css).await;
        let element = self.find(Locator::Css(css)).await;
        let element = element.unwrap_or_else(|error| panic!("{css}: {error}"));
        let result = element.click().await;
        result.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Presses keys, one after another; what has the focus gets them.
    pub async fn press(&self, keys: &str) {
        let keys = keys
            .chars()
            .fold(KeyActions::new("keyboard".to_owned()), |keys, value| {
                keys.then(KeyAction::Down { value }).then(KeyAction::Up { value })
            });
        self.perform_actions(keys).await.expect("keys are pressed");
    }

    /// Presses Tab until an element has the focus.
    pub async fn tab_to(&self, css: &str) {
        /// More than any page of these tests has to offer.
        const STOPS_MAX: usize = 60;
        let has_focus = format!("document.activeElement.matches({})", quoted(css));
        for _ in 0..STOPS_MAX {
            self.press(TAB).await;
            if self.eval(&has_focus).await == true {
                return;
            }
        }
        panic!("Tab does not lead to {css}");
    }

    /// What a page is told when its window is looked at again.
    pub async fn look_again(&self) {
        self.execute("window.dispatchEvent(new Event('focus'));", Vec::new())
            .await
            .expect("an event");
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &'static str, parameters: Value) {
        let command = DevTools { command, parameters };
        let result = self.issue_cmd(command).await;
        result.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes the window so many CSS pixels wide.
    pub async fn resize(&self, width: u32) {
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Cuts the browser off from any network, or ends that.
    pub async fn set_offline(&self, is_offline: bool) {
        self.devtools("Network.enable", json!({})).await;
        let conditions =
            json!({ "offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.devtools("Network.emulateNetworkConditions", conditions)
            .await;
    }

    /// Lets a script run in each document from now on, before those of the page.
    pub async fn prepare(&self, script: &str) {
        self.devtools(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": script }),
        )
        .await;
    }

    /// Asserts that axe-core finds no fault in what is shown, neither in the light nor in the dark theme.
    pub async fn assert_accessible(&self, what: &str) {
        // Themes differ in colours only.
        for (theme, rules) in [
            ("light", json!({})),
            ("dark", json!({ "runOnly": ["cat.color"] })),
        ] {
            let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
            self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }))
                .await;
            let query = format!("(prefers-color-scheme: {theme})");
            self.until(&format!("matchMedia('{query}').matches")).await;
            if self.eval("typeof axe").await == "undefined" {
                self.execute(&axe_core(), Vec::new())
                    .await
                    .expect("axe-core is loaded");
            }
            let found = self
                .execute_async(FIND_FAULTS, vec![rules])
                .await
                .expect("axe-core runs");
            assert_eq!(found, json!([]), "{what}, {theme}: {found:#}");
        }
    }

    /// Asserts that nothing stands out of a window that is so wide.
    pub async fn assert_fits(&self, what: &str, width: u32) {
        self.resize(width).await;
        self.until(&format!("innerWidth === {width}")).await;
        let beyond = self.eval(ELEMENTS_BEYOND).await;
        assert_eq!(beyond, json!([]), "{what} at {width} pixels: {beyond:#}");
        assert_eq!(
            self.eval("document.scrollingElement.scrollWidth").await,
            width,
            "{what}"
        );
    }
}

/// Rule, and the elements that break it or may do so: what it cannot decide is to be made decidable.
const FIND_FAULTS: &str = "
    const [rules, done] = arguments;
    axe.run(document, { ...rules, resultTypes: ['violations', 'incomplete'] }).then(
        ({ violations, incomplete }) => done(violations.concat(incomplete).map(({ id, help, nodes }) =>
            ({ id, help, nodes: nodes.map(({ html, failureSummary }) => [html, failureSummary]) }))),
        (error) => done(String(error)));";

/// Elements that are seen and reach beyond the window's edge; what is hidden on purpose is one pixel wide.
const ELEMENTS_BEYOND: &str = "[...document.body.querySelectorAll('*')]
    .filter((one) => one.checkVisibility() && !one.closest('.unseen, pre, svg'))
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => one.outerHTML.slice(0, 200))";

fn axe_core() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{} cannot be read ({error}); {HOW_TO_INSTALL}", file.display()))
}

/// A text as JavaScript writes it.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (Method::POST, Some(body.to_string()))
    }
}
