//! A person at a screen: headless Chromium with real clicks and keys, and eyes for the console.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use chromiumoxide::{
    Page,
    browser::{Browser as Chromium, BrowserConfig},
    cdp::browser_protocol::{
        emulation::{MediaFeature, SetDeviceMetricsOverrideParams, SetEmulatedMediaParams},
        input::{DispatchKeyEventParams, DispatchKeyEventType},
        log::EventEntryAdded,
        page::CaptureScreenshotFormat,
    },
    cdp::js_protocol::runtime::{EventConsoleApiCalled, EventExceptionThrown},
    page::ScreenshotParams,
};
use futures::StreamExt as _;

use crate::support::{not_run, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running Chromium.
pub struct Browser {
    chromium: Chromium,
    handler: tokio::task::JoinHandle<()>,
    _profile: tempfile::TempDir,
}

/// One page that a person looks at.
pub struct Tab {
    page: Page,
    errors: Arc<Mutex<Vec<String>>>,
    clicks: Mutex<u32>,
    metrics: SetDeviceMetricsOverrideParams,
    media: SetEmulatedMediaParams,
}

/// Where Chromium is: `$CHROME`, else on the path.
fn executable() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROME") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let mut places = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    places.find(|place| place.is_file())
}

impl Browser {
    /// Starts Chromium; `None` if there is none here.
    pub async fn start(story: &str) -> Option<Self> {
        let Some(chrome) = executable() else {
            not_run(story, "Chromium is not installed (make setup) and $CHROME is not set");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let config = BrowserConfig::builder()
            .chrome_executable(chrome)
            .user_data_dir(profile.path())
            .no_sandbox()
            .viewport(None)
            .args([
                "disable-gpu",
                "disable-quic",
                "no-first-run",
                "disable-background-networking",
                "disable-component-update",
                "disable-sync",
            ])
            .build()
            .unwrap();
        let (chromium, mut events) = Chromium::launch(config).await.unwrap();
        let handler = tokio::spawn(async move { while events.next().await.is_some() {} });
        Some(Self { chromium, handler, _profile: profile })
    }

    /// Opens a page of a width and height in CSS pixels, light or dark.
    pub async fn open(&self, url: &str, width: u32, height: u32, dark: bool) -> Tab {
        let page = self.chromium.new_page("about:blank").await.unwrap();
        let metrics =
            SetDeviceMetricsOverrideParams::new(i64::from(width), i64::from(height), 1.0, width < 600);
        page.execute(metrics.clone()).await.unwrap();
        let scheme = if dark { "dark" } else { "light" };
        let media = SetEmulatedMediaParams::builder()
            .feature(MediaFeature::new("prefers-color-scheme", scheme))
            .feature(MediaFeature::new("prefers-reduced-motion", "reduce"))
            .build();
        page.execute(media.clone()).await.unwrap();
        let errors = Arc::new(Mutex::new(Vec::new()));
        listen(&page, &errors).await;
        page.goto(url).await.unwrap();
        let tab = Tab { page, errors, clicks: Mutex::new(0), metrics, media };
        tab.settled().await;
        tab
    }

    /// Closes everything.
    pub async fn stop(mut self) {
        let _ = self.chromium.close().await;
        let _ = self.chromium.wait().await;
        self.handler.abort();
    }
}

/// Collects everything the console shows as an error.
async fn listen(page: &Page, errors: &Arc<Mutex<Vec<String>>>) {
    page.enable_log().await.unwrap();
    page.enable_runtime().await.unwrap();
    let mut entries = page.event_listener::<EventEntryAdded>().await.unwrap();
    let mut thrown = page.event_listener::<EventExceptionThrown>().await.unwrap();
    let mut called = page.event_listener::<EventConsoleApiCalled>().await.unwrap();
    let errors = Arc::clone(errors);
    tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                Some(e) = entries.next() => {
                    let entry = &e.entry;
                    let bad = matches!(format!("{:?}", entry.level).as_str(), "Error" | "Warning");
                    bad.then(|| format!("{} {}", entry.text, entry.url.clone().unwrap_or_default()))
                }
                Some(e) = thrown.next() => Some(format!("{:?}", e.exception_details.text)),
                Some(e) = called.next() => {
                    matches!(format!("{:?}", e.r#type).as_str(), "Error" | "Warning" | "Assert")
                        .then(|| format!("{:?}", e.args))
                }
                else => return,
            };
            if let Some(line) = line {
                errors.lock().unwrap().push(line);
            }
        }
    });
}

impl Tab {
    /// Waits until the page is loaded completely.
    async fn settled(&self) {
        // Another site is another process of Chromium, which does not know the size of the window yet.
        let _ = self.page.execute(self.metrics.clone()).await;
        let _ = self.page.execute(self.media.clone()).await;
        until("the page to be loaded", PATIENCE, || async {
            let ready = self.page.evaluate("document.readyState === 'complete'").await.ok()?;
            ready.into_value::<bool>().ok()?.then_some(())
        })
        .await;
    }

    /// Goes to an address, as through a link in a mail.
    pub async fn go(&self, url: &str) {
        // A navigation that a click has just begun may abort this one.
        until(&format!("{url} to open"), PATIENCE, || async { self.page.goto(url).await.ok().map(drop) })
            .await;
        self.settled().await;
    }

    /// Waits until another page is shown than one whose address holds this.
    pub async fn leaves(&self, part: &str) {
        until(&format!("the page {part} to be left"), PATIENCE, || async {
            (!self.page.url().await.ok()??.contains(part)).then_some(())
        })
        .await;
        self.settled().await;
    }

    /// The address shown.
    pub async fn url(&self) -> String {
        self.page.url().await.unwrap().unwrap_or_default()
    }

    /// All text a person sees.
    pub async fn text(&self) -> String {
        match self.page.evaluate("document.body ? document.body.innerText : ''").await {
            Ok(value) => value.into_value().unwrap_or_default(),
            // The page is just being replaced.
            Err(_) => String::new(),
        }
    }

    /// Waits until the text is there.
    pub async fn sees(&self, wanted: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.text().await;
            if text.contains(wanted) {
                return self.settled().await;
            }
            let url = self.url().await;
            assert!(tokio::time::Instant::now() < deadline, "{url} does not show {wanted:?}:\n{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a script and gives its value.
    pub async fn script<T: serde::de::DeserializeOwned>(&self, script: &str) -> T {
        let value = self.page.evaluate(script).await.unwrap_or_else(|e| panic!("{script}: {e}"));
        value.into_value().unwrap_or_else(|e| panic!("{script}: {e}"))
    }

    /// Clicks a button, link or label by the text a person reads on it.
    pub async fn click(&self, label: &str) {
        *self.clicks.lock().unwrap() += 1;
        let quoted = label.replace('\'', "\u{2019}");
        // What says exactly this comes first, and a button before a link: a page's menu may use the same word.
        let visible = "[not(ancestor-or-self::*[@hidden])]";
        let kinds = ["//button", "//a", "//*[self::summary or self::label]"];
        let exact = kinds.map(|kind| format!("{kind}{visible}[normalize-space(.)='{quoted}']"));
        let within = kinds.map(|kind| format!("{kind}{visible}[contains(normalize-space(.), '{quoted}')]"));
        let found = until(&format!("something to click that says {label:?}"), PATIENCE, || async {
            for path in exact.iter().chain(&within) {
                for element in self.page.find_xpaths(path.clone()).await.unwrap_or_default() {
                    if element.scroll_into_view().await.is_ok() && element.clickable_point().await.is_ok() {
                        return Some(element);
                    }
                }
            }
            None
        })
        .await;
        found.click().await.unwrap();
        self.settled().await;
    }

    /// Clicks a button that asks back, and says yes.
    pub async fn confirm(&self, label: &str) {
        self.click(label).await;
        let path = format!("//dialog[@open]//button[normalize-space(.)='{label}']");
        let yes = until(&format!("the question behind {label:?}"), PATIENCE, || async {
            self.page.find_xpath(path.clone()).await.ok()
        })
        .await;
        yes.click().await.unwrap();
        self.settled().await;
    }

    /// Types into the field with this label, replacing what is there.
    pub async fn fill(&self, label: &str, text: &str) {
        let quoted = serde_json::to_string(label).unwrap();
        let script = format!(
            "(() => {{
                const label = [...document.querySelectorAll('label')].find(l => l.textContent.includes({quoted}));
                if (!label) return false;
                const field = label.control || document.getElementById(label.htmlFor);
                field.focus(); field.select?.();
                return document.activeElement === field;
            }})()"
        );
        until(&format!("a field labelled {label:?}"), PATIENCE, || async {
            let done = self.page.evaluate(script.clone()).await.ok()?;
            done.into_value::<bool>().ok()?.then_some(())
        })
        .await;
        for character in text.chars() {
            self.insert(character).await;
        }
    }

    async fn insert(&self, character: char) {
        use chromiumoxide::cdp::browser_protocol::input::InsertTextParams;
        self.page.execute(InsertTextParams::new(character.to_string())).await.unwrap();
    }

    /// Presses a key such as `Tab` or `Enter`.
    pub async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Space" => (32, Some(" ")),
            "Escape" => (27, None),
            other => panic!("no key {other}"),
        };
        let name = if key == "Space" { " " } else { key };
        for kind in [DispatchKeyEventType::KeyDown, DispatchKeyEventType::KeyUp] {
            let mut event = DispatchKeyEventParams::builder()
                .r#type(kind.clone())
                .key(name)
                .code(key)
                .windows_virtual_key_code(code);
            if let (DispatchKeyEventType::KeyDown, Some(text)) = (kind, text) {
                event = event.text(text);
            }
            self.page.execute(event.build().unwrap()).await.unwrap();
        }
    }

    /// Presses Tab until what has the focus says this, then Enter: what a person without a mouse does.
    pub async fn tab_to(&self, label: &str) {
        let quoted = serde_json::to_string(label).unwrap();
        let script = format!(
            "(() => {{ const e = document.activeElement;
              const words = [e.textContent, e.value, e.getAttribute('aria-label'),
                             ...[...(e.labels || [])].map(l => l.textContent)].join(' ');
              return words.includes({quoted}); }})()"
        );
        for _ in 0..120 {
            self.press("Tab").await;
            if self.script::<bool>(&script).await {
                return;
            }
        }
        panic!("nothing that says {label:?} can be reached with Tab on {}", self.url().await);
    }

    /// Types into what has the focus.
    pub async fn type_text(&self, text: &str) {
        for character in text.chars() {
            self.insert(character).await;
        }
    }

    /// How often something was clicked since the last call.
    pub fn clicks(&self) -> u32 {
        std::mem::take(&mut *self.clicks.lock().unwrap())
    }

    /// Fails if the page is not [sound](Self::is_sound) or a raw id stands in its text, but within a `command` to be given.
    pub async fn is_clean(&self) {
        self.is_sound().await;
        let url = self.url().await;
        let text = self.text().await;
        let text = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        let raw = text.split(|c: char| !(c.is_ascii_hexdigit() || c == '-')).find(|word| {
            let groups: Vec<usize> = word.split('-').map(str::len).collect();
            groups == [8, 4, 4, 4, 12]
        });
        assert!(raw.is_none(), "{url} shows the raw id {}", raw.unwrap_or_default());
    }

    /// Fails if the console showed an error or if the page is wider than its window.
    pub async fn is_sound(&self) {
        let url = self.url().await;
        let errors = self.errors.lock().unwrap().clone();
        assert!(errors.is_empty(), "{url}: the console shows {errors:#?}");
        let (wide, window): (f64, f64) =
            self.script("[document.documentElement.scrollWidth, window.innerWidth]").await;
        assert!(wide <= window + 1.0, "{url}: {wide} px of content in a window of {window} px");
    }

    /// Keeps a picture for people, where `EZ_SCREENSHOTS` says.
    pub async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("EZ_SCREENSHOTS") else { return };
        let whole_page =
            || ScreenshotParams::builder().format(CaptureScreenshotFormat::Png).full_page(true).build();
        let bytes =
            until("a picture", PATIENCE, || async { self.page.screenshot(whole_page()).await.ok() }).await;
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), bytes).unwrap();
    }
}
