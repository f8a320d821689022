//! A console, as the agent relays it.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::World;
use crate::pve::console::des;

async fn open(w: &World) -> (Value, TcpStream) {
    let params = [("websocket", "1"), ("generate-password", "1")];
    let given = w.post("/nodes/pve1/qemu/101/vncproxy", &params).await.data().clone();
    let port: u16 = given["port"].as_str().unwrap().parse().unwrap();
    (given, TcpStream::connect(("127.0.0.1", port)).await.unwrap())
}

/// Answers the challenge; gives the four bytes of the result.
async fn log_in(stream: &mut TcpStream, password: &str) -> [u8; 4] {
    let mut banner = [0u8; 12];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"RFB 003.008\n");
    stream.write_all(&banner).await.unwrap();
    let mut types = [0u8; 2];
    stream.read_exact(&mut types).await.unwrap();
    assert_eq!(types, [1, 2], "VNC authentication and nothing else");
    stream.write_all(&[2]).await.unwrap();
    let mut challenge = [0u8; 16];
    stream.read_exact(&mut challenge).await.unwrap();
    stream.write_all(&des::answer(&challenge, password)).await.unwrap();
    let mut result = [0u8; 4];
    stream.read_exact(&mut result).await.unwrap();
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_asks_for_its_password_and_shows_a_screen() {
    let w = World::new("9.2").await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "101")]).await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/101/status/start", &[]).await;
    let (_, mut wrong) = open(&w).await;
    assert_eq!(log_in(&mut wrong, "wrong").await, [0, 0, 0, 1]);
    drop(wrong);
    let (given, mut stream) = open(&w).await;
    let ticket = given["ticket"].as_str().unwrap();
    assert!(ticket.starts_with(&format!("{}:PVEVNC:", given["password"].as_str().unwrap())), "{ticket}");
    assert_eq!(log_in(&mut stream, given["password"].as_str().unwrap()).await, [0, 0, 0, 0]);
    stream.write_all(&[1]).await.unwrap();
    let mut screen = [0u8; 24];
    stream.read_exact(&mut screen).await.unwrap();
    let width = u16::from_be_bytes([screen[0], screen[1]]);
    let height = u16::from_be_bytes([screen[2], screen[3]]);
    assert!(width > 0 && height > 0);
    let mut name = vec![0u8; screen[23].into()];
    stream.read_exact(&mut name).await.unwrap();
    stream.write_all(&[3, 0, 0, 0, 0, 0, screen[0], screen[1], screen[2], screen[3]]).await.unwrap();
    let mut frame = vec![0u8; 16 + usize::from(width) * usize::from(height) * 4];
    stream.read_exact(&mut frame).await.unwrap();
    drop(stream);
    assert_eq!(
        w.ended(given["upid"].as_str().unwrap()).await,
        "OK",
        "the task ends when the client hangs up"
    );
    let silent = w.post("/nodes/pve1/qemu/101/vncproxy", &[("websocket", "1")]).await;
    assert_eq!(w.ended(silent.data()["upid"].as_str().unwrap()).await, "connection timed out");
}

/// The next picture: its place, its size and its pixels.
async fn picture(stream: &mut TcpStream) -> ([u16; 4], Vec<u8>) {
    let mut head = [0u8; 16];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head[..4], &[0, 0, 0, 1], "one rectangle");
    assert_eq!(&head[12..], &[0; 4], "as it is");
    let place = [4, 6, 8, 10].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
    let mut pixels = vec![0u8; usize::from(place[2]) * usize::from(place[3]) * 4];
    stream.read_exact(&mut pixels).await.unwrap();
    (place, pixels)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_seen_on_the_screen_until_the_machine_stops() {
    let w = World::new("9.2").await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "101")]).await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/101/status/start", &[]).await;
    let (given, mut stream) = open(&w).await;
    log_in(&mut stream, given["password"].as_str().unwrap()).await;
    stream.write_all(&[1]).await.unwrap();
    let mut screen = [0u8; 24];
    stream.read_exact(&mut screen).await.unwrap();
    stream.read_exact(&mut vec![0u8; screen[23].into()]).await.unwrap();
    let ask = |whole: u8| [3, 1 - whole, 0, 0, 0, 0, 2, 128, 1, 144];
    stream.write_all(&ask(1)).await.unwrap();
    let (place, first) = picture(&mut stream).await;
    assert_eq!(place, [0, 0, 640, 400]);
    stream.write_all(&ask(0)).await.unwrap();
    stream.write_all(&[4, 1, 0, 0, 0, 0, 0, b'a']).await.unwrap();
    let (place, line) = picture(&mut stream).await;
    assert_eq!((place[0], place[2], place[3]), (0, 640, 16), "one line of text changed");
    let from = usize::from(place[1]) * 640 * 4;
    assert_ne!(first[from..from + line.len()], line[..]);
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/101/status/stop", &[]).await;
    assert_eq!(stream.read(&mut [0u8; 1]).await.unwrap(), 0);
    assert_eq!(w.ended(given["upid"].as_str().unwrap()).await, "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_line_asks_for_its_ticket_and_answers_what_is_typed() {
    let w = World::new("9.2").await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "101"), ("name", "web-1")])
        .await;
    w.task(reqwest::Method::POST, "/nodes/pve1/qemu/101/status/start", &[]).await;
    let line = async |forged: bool| {
        let given = w.post("/nodes/pve1/qemu/101/termproxy", &[("serial", "serial0")]).await.data().clone();
        let port = u16::try_from(given["port"].as_u64().unwrap()).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ticket = if forged { "forged" } else { given["ticket"].as_str().unwrap() };
        let first = format!("{}:{ticket}\n", given["user"].as_str().unwrap());
        stream.write_all(first.as_bytes()).await.unwrap();
        stream
    };
    assert_eq!(line(true).await.read(&mut [0u8; 2]).await.unwrap(), 0, "a forged ticket");
    let mut stream = line(false).await;
    let mut ok = [0u8; 2];
    stream.read_exact(&mut ok).await.unwrap();
    assert_eq!(&ok, b"OK");
    stream.write_all(b"21:100:30:0:4:ada\r0:7:secret\r").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("ada@web-1:~$ ") {
        let mut piece = [0u8; 256];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "it ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    assert!(seen.contains("web-1 login: ada") && !seen.contains("secret"), "{seen:?}");
}
