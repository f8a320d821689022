//! A serial line behind Proxmox's terminal proxy: `user:ticket` and a line end, answered by `OK`; then the guest's
//! bytes as they are, and from the client `0:<length>:<bytes>`, `1:<columns>:<rows>:` and `2`.

use std::io::Result;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::tty::Tty;
use crate::pve::task::Worker;

/// How often the machine is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Longest first line, and longest message.
const LONGEST: usize = 64 * 1024;

/// Serves one client until it leaves, or the machine stops.
pub(crate) async fn serve(
    w: &Worker,
    mut stream: TcpStream,
    vmid: u32,
    expected: &str,
    serial: &str,
) -> Result<()> {
    let mut first = Vec::new();
    while first.last() != Some(&b'\n') && first.len() < LONGEST {
        first.push(stream.read_u8().await?);
    }
    if first != format!("{expected}\n").as_bytes() {
        return Ok(());
    }
    stream.write_all(b"OK").await?;
    let (name, has) = w
        .cluster
        .read(|s| {
            let has = s.vms.get(vmid).is_some_and(|vm| vm.config.contains_key(serial));
            (super::guest_name(s, vmid), has)
        })
        .await;
    if !has {
        return stream.write_all(b"unable to find a serial interface\r\n").await;
    }
    let (from, to) = stream.into_split();
    let (typed, heard) = mpsc::channel(64);
    tokio::select! {
        ended = listen(BufReader::new(from), typed) => ended,
        ended = answer(w, to, heard, vmid, &name) => ended,
    }
}

/// Reads messages; what was typed goes on.
async fn listen(mut from: BufReader<OwnedReadHalf>, typed: mpsc::Sender<Vec<u8>>) -> Result<()> {
    loop {
        match from.read_u8().await? {
            b'2' => {}
            b'0' => {
                from.read_u8().await?;
                let Some(length) = number(&mut from).await?.filter(|length| *length <= LONGEST) else {
                    return Ok(());
                };
                let mut text = vec![0; length];
                from.read_exact(&mut text).await?;
                if typed.send(text).await.is_err() {
                    return Ok(());
                }
            }
            b'1' => {
                from.read_u8().await?;
                if number(&mut from).await?.is_none() || number(&mut from).await?.is_none() {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
    }
}

/// Digits up to a colon.
async fn number(from: &mut BufReader<OwnedReadHalf>) -> Result<Option<usize>> {
    let mut digits = String::new();
    loop {
        match from.read_u8().await? {
            b':' => return Ok(digits.parse().ok()),
            byte if byte.is_ascii_digit() && digits.len() < 8 => digits.push(char::from(byte)),
            _ => return Ok(None),
        }
    }
}

async fn answer(
    w: &Worker,
    mut to: OwnedWriteHalf,
    mut heard: mpsc::Receiver<Vec<u8>>,
    vmid: u32,
    name: &str,
) -> Result<()> {
    let (mut tty, first) = Tty::new(name, "ttyS0");
    to.write_all(&first).await?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            typed = heard.recv() => match typed {
                None => return Ok(()),
                Some(typed) => {
                    let said: Vec<u8> = typed.into_iter().flat_map(|byte| tty.key(byte)).collect();
                    to.write_all(&said).await?;
                }
            },
            _ = look.tick() => {
                if !w.cluster.read(|s| super::is_running(s, vmid)).await {
                    return Ok(());
                }
            }
        }
    }
}
