//! Stories over real sockets.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Running, smtp::LARGEST, start};
use crate::{config::MailConfig, wall::ManualWall};

struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn greet(running: &Running) -> Self {
        let (reader, writer) = TcpStream::connect(running.smtp).await.unwrap().into_split();
        let mut client = Self { lines: BufReader::new(reader).lines(), writer };
        assert!(client.answer().await.starts_with("220 "));
        assert!(client.say("EHLO test").await.starts_with("250 "));
        client
    }

    /// The last line of an answer.
    async fn answer(&mut self) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.answer().await
    }
}

async fn running(dir: &std::path::Path) -> Running {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = MailConfig {
        smtp_listen: "127.0.0.1:0".parse().unwrap(),
        http_listen: "127.0.0.1:0".parse().unwrap(),
    };
    start(&config, dir, Arc::new(ManualWall::new(1_795_435_200_000))).await.unwrap()
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{}{path}", running.http)).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn list(running: &Running, path: &str) -> Value {
    serde_json::from_str(&get(running, path).await.1).unwrap()
}

#[tokio::test]
async fn a_letter_is_taken_shown_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = running(dir.path()).await;
    let mut client = Client::greet(&first).await;
    assert!(client.say("MAIL FROM:<ez@example.com> SIZE=200").await.starts_with("250 "));
    assert!(client.say("RCPT TO:<jane@example.com>").await.starts_with("250 "));
    assert!(client.say("DATA").await.starts_with("354 "));
    let said = client.say("Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\r\nOpen http://127.0.0.1:1/verify?t=x\r\n..stuffed <b>\r\n.").await;
    assert!(said.starts_with("250 "), "{said}");
    first.stop().await;

    let second = running(dir.path()).await;
    let letters = list(&second, "/messages.json").await;
    assert_eq!(letters[0]["subject"], "Grüße");
    assert_eq!(letters[0]["text"], "Open http://127.0.0.1:1/verify?t=x\n.stuffed <b>\n");
    assert_eq!(
        (&letters[0]["from"], &letters[0]["to"][0]),
        (&"ez@example.com".into(), &"jane@example.com".into())
    );
    assert_eq!(letters[0]["received_at"], 1_795_435_200_000_i64);
    let id = &letters[0]["id"];
    let (_, page) = get(&second, &format!("/letters/{id}")).await;
    assert!(page.contains("<a href=\"http://127.0.0.1:1/verify?t=x\"") && page.contains("&lt;b&gt;"));
    assert!(get(&second, "/").await.1.contains("Grüße"));
    assert_eq!(list(&second, &format!("/messages/{id}")).await, letters[0]);
    assert_eq!(list(&second, "/messages.json?to=JANE@example.com").await.as_array().unwrap().len(), 1);
    assert_eq!(list(&second, "/messages.json?to=ane@example.com").await.as_array().unwrap().len(), 0);
    let gone =
        reqwest::Client::new().delete(format!("http://{}/messages", second.http)).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    assert_eq!(list(&second, "/messages.json").await, Value::Array(Vec::new()));
    assert_eq!(get(&second, "/messages/1").await.0, 404);
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    let mut client = Client::greet(&running).await;
    let burst = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:nobody\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nNOOP\r\nQUIT\r\n";
    client.writer.write_all(burst.as_bytes()).await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..7 {
        codes.push(client.answer().await[..3].to_owned());
    }
    assert_eq!(codes, ["250", "250", "501", "354", "250", "250", "221"]);
    assert_eq!(list(&running, "/messages.json").await[0]["to"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_out_of_order_or_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    let mut client = Client::greet(&running).await;
    assert!(client.say("DATA").await.starts_with("503 "));
    assert!(client.say("RCPT TO:<b@example.com>").await.starts_with("503 "));
    assert!(client.say(&format!("MAIL FROM:<a@example.com> SIZE={}", LARGEST + 1)).await.starts_with("552 "));
    assert!(client.say("BREW coffee").await.starts_with("500 "));
    assert!(client.say("MAIL FROM:<a@example.com>").await.starts_with("250 "));
    assert!(client.say("RSET").await.starts_with("250 "));
    assert!(client.say("RCPT TO:<b@example.com>").await.starts_with("503 "), "RSET forgets the sender");
    client.say("MAIL FROM:<a@example.com>").await;
    client.say("RCPT TO:<b@example.com>").await;
    client.say("DATA").await;
    let line = "x".repeat(1_000_000);
    for _ in 0..11 {
        client.writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }
    assert!(client.say(".").await.starts_with("552 "));
    assert!(client.say("NOOP").await.starts_with("250 "), "the dialogue goes on");
    assert_eq!(list(&running, "/messages.json").await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn html_is_shown_only_inside_a_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    let mut client = Client::greet(&running).await;
    client.say("MAIL FROM:<a@example.com>").await;
    client.say("RCPT TO:<b@example.com>").await;
    client.say("DATA").await;
    client
        .say("Subject: h\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script><p>hello</p>\r\n.")
        .await;
    let (_, page) = get(&running, "/letters/1").await;
    assert!(page.contains("<iframe") && !page.contains("<script>"));
    let frame = reqwest::get(format!("http://{}/letters/1/html", running.http)).await.unwrap();
    let policy = frame.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'")
            && policy.contains("sandbox")
            && !policy.contains("allow-scripts"),
        "{policy}"
    );
}

impl Client {
    /// Sends a letter; what is said at its end, or nothing if the connection ends.
    async fn send(&mut self, subject: &str) -> Option<String> {
        self.say("MAIL FROM:<a@example.com>").await;
        self.say("RCPT TO:<b@example.com>").await;
        self.say("DATA").await;
        self.writer.write_all(format!("Subject: {subject}\r\n\r\nhi\r\n.\r\n").as_bytes()).await.unwrap();
        self.lines.next_line().await.unwrap()
    }
}

async fn fault(running: &Running, body: Value) -> (u16, Value) {
    let answer = reqwest::Client::new()
        .post(format!("http://{}/faults", running.http))
        .json(&body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn subjects(running: &Running) -> Vec<String> {
    let letters = list(running, "/messages.json").await;
    letters.as_array().unwrap().iter().map(|one| one["subject"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_letter_can_be_deferred_and_rejected_and_the_dialogue_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    for refuse in [json!({"refuse": "451", "times": 2, "skip": 1}), json!({"refuse": "554"})] {
        assert_eq!(fault(&running, refuse).await.0, 200);
    }
    let mut client = Client::greet(&running).await;
    let mut said = Vec::new();
    for subject in ["a", "b", "c", "d"] {
        said.push(client.send(subject).await.unwrap()[..3].to_owned());
    }
    // The first is left to the second rule, because the first rule lets one pass.
    assert_eq!(said, ["554", "451", "451", "250"]);
    assert_eq!(subjects(&running).await, ["d"]);
    let rules = list(&running, "/faults").await;
    assert_eq!(rules["rules"][0]["hits"], 2);
    assert_eq!(rules["rules"][1]["hits"], 1);
}

#[tokio::test]
async fn a_server_out_of_service_says_so_instead_of_greeting() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    fault(&running, json!({"refuse": "421"})).await;
    let mut lines = BufReader::new(TcpStream::connect(running.smtp).await.unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("421 "));
    assert_eq!(lines.next_line().await.unwrap(), None, "and hangs up");
    Client::greet(&running).await;
}

#[tokio::test]
async fn a_letter_whose_answer_is_dropped_is_stored_and_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    fault(&running, json!({"drop_after_data": 1})).await;
    let mut client = Client::greet(&running).await;
    assert_eq!(client.send("a").await, None);
    assert_eq!(subjects(&running).await, ["a"]);
    let mut again = Client::greet(&running).await;
    assert!(again.send("a").await.unwrap().starts_with("250 "));
    assert_eq!(subjects(&running).await, ["a", "a"]);
}

#[tokio::test]
async fn a_server_that_is_down_resets_open_dialogues_and_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    let mut open = Client::greet(&running).await;
    assert_eq!(fault(&running, json!({"down": true})).await.0, 200);
    let ended = open.lines.next_line().await;
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    let mut fresh = BufReader::new(TcpStream::connect(running.smtp).await.unwrap()).lines();
    assert!(fresh.next_line().await.is_err(), "a reset, no orderly end");
    let said = list(&running, "/faults").await;
    assert_eq!((&said["down"], &said["resets"]), (&json!(true), &json!(2)));
    assert_eq!(get(&running, "/").await.0, 200, "the page is another service");
    fault(&running, json!({"down": false})).await;
    assert!(Client::greet(&running).await.send("a").await.unwrap().starts_with("250 "));
    // For a while, and taken back before its end.
    fault(&running, json!({"down": true, "for_ms": 600_000})).await;
    assert_eq!(list(&running, "/faults").await["down"], true);
    let url = format!("http://{}/faults", running.http);
    assert_eq!(reqwest::Client::new().delete(url).send().await.unwrap().status(), 204);
    Client::greet(&running).await;
}

#[tokio::test]
async fn faults_that_make_no_sense_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    for (body, reason) in [
        (json!({}), "name one of"),
        (json!({"refuse": "250"}), "421, 451 or 554"),
        (json!({"refuse": "451", "down": true}), "name one of"),
        (json!({"drop_after_data": 0}), "at least 1"),
        (json!({"refuse": "451", "for_ms": 5}), "goes with"),
    ] {
        let (status, said) = fault(&running, body).await;
        assert_eq!(status, 422);
        assert!(said["error"].as_str().unwrap().contains(reason), "{said}");
    }
}
