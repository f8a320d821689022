//! A console, as the agent relays it.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::World;
use crate::pve::api::des;

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
