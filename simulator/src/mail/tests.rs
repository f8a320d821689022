//! Stories over real sockets.

use std::sync::Arc;

use serde_json::Value;
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
