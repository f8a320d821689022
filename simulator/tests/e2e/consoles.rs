//! Consoles from end to end: WebSocket, control plane, QUIC, agent, Proxmox's own port and back.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::{
    browser::{Browser, Tab},
    purchase::{PATIENCE, buy, server_is},
    support::{Api, Database, Demo, until},
};

/// The width and height of the simulated screen.
const SIZE: (u16, u16) = (640, 400);

/// A demo of one node with a running server on it.
struct Story {
    demo: Demo,
    api: Api,
    server: String,
}

impl Story {
    async fn begin(story: &str) -> Option<Self> {
        let demo = Demo::start(story, Database::Sqlite, 1).await?;
        let (_, server) = buy(&demo, "web-1", "fsn").await;
        let server = server["id"].as_str().unwrap().to_owned();
        let api = demo.api("customer");
        Some(Self { demo, api, server })
    }

    fn path(&self) -> String {
        format!("/servers/{}/console", self.server)
    }

    /// The address of a console, by an API token.
    async fn url(&self, kind: &str) -> String {
        let (status, given) = self.api.post(&self.path(), json!({ "kind": kind })).await;
        assert_eq!(status, 201, "{given}");
        given["url"].as_str().unwrap().to_owned()
    }

    async fn press(&self, action: &str, state: &str) {
        let path = format!("/servers/{}", self.server);
        let (status, begun) = self.api.post(&format!("{path}/actions"), json!({ "action": action })).await;
        assert_eq!(status, 202, "{begun}");
        server_is(&self.api, &self.server, state).await;
        until("the action to end", PATIENCE, || async {
            let (status, server) = self.api.try_get(&path).await;
            (status == 200 && server["action"].is_null()).then_some(())
        })
        .await;
    }

    /// What the audit log says about consoles: action and exact entry.
    async fn audited(&self) -> Vec<(String, Value)> {
        let rows = self
            .demo
            .rows("SELECT action, entry FROM audit WHERE action LIKE 'console.%' ORDER BY at, id")
            .await;
        rows.into_iter().map(|(action, entry)| (action, serde_json::from_str(&entry).unwrap())).collect()
    }

    async fn end(self) {
        self.demo.check().await;
        self.demo.stop().await;
    }
}

/// One end of a console.
struct Console {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    bytes: Vec<u8>,
    told: Vec<Value>,
}

impl Console {
    async fn open(url: &str) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        Self { socket, bytes: Vec::new(), told: Vec::new() }
    }

    /// The next message, sorted into bytes and what is told; false at the end.
    async fn more(&mut self) -> bool {
        match timeout(PATIENCE, self.socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => self.bytes.extend_from_slice(&bytes),
            Some(Ok(Message::Text(text))) => self.told.push(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
            Some(Ok(_)) => {}
        }
        true
    }

    async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.bytes.len() < count {
            assert!(self.more().await, "it ended: {:?}", self.told);
        }
        self.bytes.drain(..count).collect()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    /// Waits until it is told how many look.
    async fn viewers(&mut self, wanted: u64) {
        while self.told.last().is_none_or(|told| told["viewers"] != wanted) {
            assert!(self.more().await, "it ended: {:?}", self.told);
        }
    }

    /// Reads to the end; the word for how it ended.
    async fn ended(mut self) -> String {
        while self.more().await {}
        let told = self.told.iter().rev().find_map(|told| told["ended"].as_str());
        told.unwrap().to_owned()
    }

    /// Greets as a client of a screen; there is no password to be asked for.
    async fn greet(&mut self) {
        assert_eq!(self.take(12).await, b"RFB 003.008\n");
        self.send(b"RFB 003.008\n").await;
        assert_eq!(self.take(2).await, [1, 1], "security type None and nothing else");
        self.send(&[1]).await;
        assert_eq!(self.take(4).await, [0; 4]);
        self.send(&[1]).await;
        let init = self.take(24).await;
        let number = |at: usize| u16::from_be_bytes([init[at], init[at + 1]]);
        assert_eq!((number(0), number(2)), SIZE);
        let name = self.take(init[23].into()).await;
        assert_eq!(name, b"web-1");
    }

    /// Asks for a picture of everything, or of what changed; gives its place and its pixels.
    async fn picture(&mut self, whole: bool) -> (u16, Vec<u8>) {
        let mut ask = vec![3, u8::from(!whole), 0, 0, 0, 0];
        ask.extend_from_slice(&SIZE.0.to_be_bytes());
        ask.extend_from_slice(&SIZE.1.to_be_bytes());
        self.send(&ask).await;
        let head = self.take(16).await;
        let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        assert_eq!((head[0], number(2)), (0, 1), "one rectangle");
        let (y, width, height) = (number(6), number(8), number(10));
        (y, self.take(usize::from(width) * usize::from(height) * 4).await)
    }

    async fn key(&mut self, keysym: u32) {
        for down in [1, 0] {
            let mut message = vec![4, down, 0, 0];
            message.extend_from_slice(&keysym.to_be_bytes());
            self.send(&message).await;
        }
    }

    /// Reads a serial line until it says something.
    async fn until(&mut self, wanted: &str) {
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if let Some(at) = text.find(wanted) {
                self.bytes.drain(..at + wanted.len());
                return;
            }
            assert!(self.more().await, "it ended after {text:?}: {:?}", self.told);
        }
    }

    async fn types(&mut self, text: &str) {
        self.send(format!("0:{}:{text}", text.len()).as_bytes()).await;
    }
}

/// How a WebSocket was not opened.
async fn refused(
    request: impl tokio_tungstenite::tungstenite::client::IntoClientRequest + Unpin,
) -> StatusCode {
    match connect_async(request).await {
        Err(Error::Http(answer)) => answer.status(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_is_seen_typed_to_and_shared_and_ends_with_its_server() {
    let Some(story) = Story::begin("a console").await else { return };
    let url = story.url("vnc").await;
    let mut console = Console::open(&url).await;
    console.greet().await;
    let (_, before) = console.picture(true).await;
    assert!(before.chunks(4).any(|pixel| pixel != &before[..4]), "the screen is blank");
    for key in "ada".chars() {
        console.key(u32::from(key)).await;
    }
    let (y, line) = console.picture(false).await;
    let from = usize::from(y) * usize::from(SIZE.0) * 4;
    assert_ne!(before[from..from + line.len()], line[..], "what is typed is seen");
    assert_eq!(refused(&url).await, StatusCode::NOT_FOUND, "a ticket opens one console");

    let mut second = Console::open(&story.url("vnc").await).await;
    second.greet().await;
    console.viewers(2).await;
    second.viewers(2).await;
    second.socket.close(None).await.unwrap();
    console.viewers(1).await;

    story.press("stop", "stopped").await;
    assert_eq!(console.ended().await, "stopped");
    let (status, answer) = story.api.post(&story.path(), json!({ "kind": "vnc" })).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("server_not_running")), "{answer}");

    let closed = until("both ends to be audited", PATIENCE, || async {
        let all = story.audited().await;
        (all.iter().filter(|(action, _)| action == "console.closed").count() == 2).then_some(all)
    })
    .await;
    let details: Vec<&Value> = closed
        .iter()
        .filter(|(action, _)| action == "console.closed")
        .map(|(_, entry)| &entry["detail"])
        .collect();
    let reasons: Vec<&str> = details.iter().map(|detail| detail["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["left", "stopped"]);
    for detail in details {
        assert_eq!(detail["kind"], "vnc");
        assert!(
            detail["bytes_down"].as_u64().unwrap() > 0 && detail["bytes_up"].as_u64().unwrap() > 0,
            "{detail}"
        );
    }
    assert!(closed[0].1["actor"].as_str().unwrap().starts_with("user:"), "{closed:?}");
    let nonces = story.demo.journal_rows(0, "SELECT nonce, kind FROM console_grants").await;
    assert_eq!(nonces.len(), 2, "each grant is burnt in the journal: {nonces:?}");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_line_is_typed_to_and_a_suspended_server_has_none() {
    let Some(story) = Story::begin("a serial console").await else { return };
    let mut console = Console::open(&story.url("serial").await).await;
    console.until("web-1 login: ").await;
    console.send(b"1:120:40:").await;
    console.types("ada\r").await;
    console.until("Password: ").await;
    console.types("secret\r").await;
    console.until("ada@web-1:~$ ").await;
    console.types("echo through the whole chain\r").await;
    console.until("\r\nthrough the whole chain\r\n").await;

    let answer = story.demo.control_plane(&["server", "suspend", &story.server, "--reason", "unpaid"]).await;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert_eq!(console.ended().await, "suspended");
    let (status, answer) = story.api.post(&story.path(), json!({ "kind": "serial" })).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("server_suspended")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("suspended"), "{answer}");
    let (status, answer) = story.api.post(&story.path(), json!({ "kind": "spice" })).await;
    assert_eq!(status, 422, "{answer}");
    story.end().await;
}

/// A browser's session, as far as a console needs it.
struct Person {
    client: reqwest::Client,
    portal: String,
    cookie: String,
}

impl Person {
    async fn log_in(demo: &Demo) -> Self {
        let (portal, state) = (demo.portal(), demo.state());
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let customer = &state["customer"];
        let form = [("email", &customer["email"]), ("password", &customer["password"])]
            .map(|(name, value)| (name, value.as_str().unwrap()));
        let login =
            client.post(format!("{portal}/login")).header(header::ORIGIN, &portal).form(&form).send().await;
        let cookies =
            login.unwrap().headers().get_all(header::SET_COOKIE).iter().cloned().collect::<Vec<_>>();
        let session = cookies
            .iter()
            .find_map(|c| c.to_str().unwrap().split(';').next().filter(|c| c.contains("session")));
        Self { client, portal, cookie: session.unwrap().to_owned() }
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let request = self.client.post(format!("{}{path}", self.portal)).form(form);
        request
            .header(header::ORIGIN, &self.portal)
            .header(header::COOKIE, &self.cookie)
            .send()
            .await
            .unwrap()
    }

    async fn ticket(&self, story: &Story) -> String {
        let given: Value = self.post(&story.path(), &[("kind", "vnc")]).await.json().await.unwrap();
        given["socket"].as_str().unwrap_or_else(|| panic!("{given}")).to_owned()
    }

    /// The request of a browser for a WebSocket.
    fn socket(&self, path: &str, origin: &str, cookie: Option<&str>) -> http::Request<()> {
        let mut request =
            format!("{}{path}", self.portal.replacen("http", "ws", 1)).into_client_request().unwrap();
        request.headers_mut().insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        if let Some(cookie) = cookie {
            request.headers_mut().insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        request
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_ticket_is_good_in_its_session_on_our_pages_and_logging_out_ends_it() {
    let Some(story) = Story::begin("a console and its session").await else { return };
    let (person, other) = (Person::log_in(&story.demo).await, Person::log_in(&story.demo).await);
    let path = person.ticket(&story).await;
    let (portal, cookie) = (person.portal.as_str(), Some(person.cookie.as_str()));
    let evil = person.socket(&path, "https://evil.example", cookie);
    assert_eq!(refused(evil).await, StatusCode::FORBIDDEN, "another site's page");
    let stranger = person.socket(&path, portal, Some(&other.cookie));
    assert_eq!(refused(stranger).await, StatusCode::NOT_FOUND, "another session of the same person");
    assert_eq!(refused(person.socket(&path, portal, None)).await, StatusCode::NOT_FOUND, "nobody");
    // None of these used it up.
    let (socket, _) = connect_async(person.socket(&path, portal, cookie)).await.unwrap();
    let mut console = Console { socket, bytes: Vec::new(), told: Vec::new() };
    console.greet().await;
    assert_eq!(refused(person.socket(&path, portal, cookie)).await, StatusCode::NOT_FOUND, "twice");
    person.post("/logout", &[]).await;
    assert_eq!(console.ended().await, "logged_out");

    // Deleting the server ends it, too, and so does the loss of its host.
    let path = other.ticket(&story).await;
    let (socket, _) = connect_async(other.socket(&path, portal, Some(&other.cookie))).await.unwrap();
    let mut console = Console { socket, bytes: Vec::new(), told: Vec::new() };
    console.greet().await;
    story.demo.kill("/pids/agents/0").await;
    assert_eq!(console.ended().await, "lost");
    story.demo.nodes_online().await;
    let path = other.ticket(&story).await;
    let (socket, _) = connect_async(other.socket(&path, portal, Some(&other.cookie))).await.unwrap();
    let mut console = Console { socket, bytes: Vec::new(), told: Vec::new() };
    console.greet().await;
    assert_eq!(story.api.delete(&format!("/servers/{}", story.server)).await, 202);
    assert_eq!(console.ended().await, "deleted");
    story.end().await;
}

/// The dots of the canvas, read from a copy, because the page's own is not made for reading.
const DOTS: &str = "const c = document.querySelector('server-console canvas'); if (!c || c.width < 2) return 0; \
    const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true }); \
    copy.drawImage(c, 0, 0); const d = copy.getImageData(0, 0, c.width, c.height).data;";

/// How many different colours the screen shows.
async fn colours(tab: &Tab) -> u32 {
    let count = "const seen = new Set(); for (let i = 0; i < d.length; i += 4) seen.add(d[i] * 256 + d[i + 1]); \
                 return seen.size;";
    tab.script(&format!("(() => {{ {DOTS} {count} }})()")).await
}

/// The screen as one number.
async fn sum(tab: &Tab) -> u32 {
    let sum =
        "let sum = 0; for (let i = 0; i < d.length; i += 4) sum = (sum * 31 + d[i]) % 1000003; return sum;";
    tab.script(&format!("(() => {{ {DOTS} {sum} }})()")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_looks_at_the_screen_and_the_serial_line_in_a_browser() {
    let name = "a console in a browser";
    let Some(browser) = Browser::start(name).await else { return };
    let Some(story) = Story::begin(name).await else { return };
    let (portal, state) = (story.demo.portal(), story.demo.state());
    let tab = browser.open(&format!("{portal}/login"), 1280, 900, false).await;
    tab.fill("Mail address", state["customer"]["email"].as_str().unwrap()).await;
    tab.fill("Password", state["customer"]["password"].as_str().unwrap()).await;
    tab.click("Log in").await;
    tab.leaves("/login").await;
    let server = format!("{portal}/servers/{}", story.server);
    tab.go(&server).await;
    tab.click("Console").await;
    tab.sees("Only you are looking").await;
    until("the screen to be drawn", PATIENCE, || async { (colours(&tab).await >= 2).then_some(()) }).await;
    let before = sum(&tab).await;
    tab.click("Paste text").await;
    tab.fill("Text to type", "ada").await;
    tab.click("Type it").await;
    // The screen has the focus again.
    tab.press("Enter").await;
    until("what was typed to be seen", PATIENCE, || async { (sum(&tab).await != before).then_some(()) })
        .await;
    tab.picture("console").await;
    tab.is_clean().await;
    let narrow = browser.open(&format!("{server}/console"), 320, 640, true).await;
    narrow.sees("2 people are looking").await;
    tab.sees("2 people are looking").await;
    narrow.click("Serial line").await;
    narrow.sees("web-1 login:").await;
    narrow.click("Paste text").await;
    narrow.fill("Text to type", "ada").await;
    narrow.click("Type it").await;
    narrow.sees("web-1 login: ada").await;
    narrow.press("Enter").await;
    narrow.sees("Password:").await;
    narrow.picture("narrow-console").await;
    narrow.is_clean().await;
    narrow.click("Disconnect").await;
    narrow.sees("Connect again").await;
    story.press("stop", "stopped").await;
    tab.sees("The server was stopped").await;
    tab.sees("Connect again").await;
    tab.is_clean().await;
    tokio::time::timeout(Duration::from_secs(60), browser.stop()).await.unwrap();
    story.end().await;
}
