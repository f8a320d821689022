//! RFB 3.8 with VNC authentication, as Proxmox's `vncproxy` hands it through from the machine's own server.

use std::io::Result;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::des;
use super::screen::{Format, HEIGHT, Screen, WIDTH};
use super::tty::Tty;
use crate::pve::state::sha256_hex;
use crate::pve::task::Worker;

/// How often the machine is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Longest text that is taken from a client's clipboard.
const CLIPBOARD: u32 = 1 << 20;

/// What a client says.
enum Said {
    Format(Format),
    /// It wants a picture, of everything or of what changed.
    Picture {
        whole: bool,
    },
    Key {
        down: bool,
        keysym: u32,
    },
}

/// Serves one client until it leaves, or the machine stops.
pub(crate) async fn serve(w: &Worker, mut stream: TcpStream, vmid: u32, password: &str) -> Result<()> {
    if !log_in(&mut stream, password).await? {
        return Ok(());
    }
    let name = w.cluster.read(|s| super::guest_name(s, vmid)).await;
    // Whether the client shares the screen makes no difference here.
    stream.read_u8().await?;
    let mut init = Vec::new();
    init.extend_from_slice(&WIDTH.to_be_bytes());
    init.extend_from_slice(&HEIGHT.to_be_bytes());
    init.extend_from_slice(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    init.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
    init.extend_from_slice(name.as_bytes());
    stream.write_all(&init).await?;
    let (from, to) = stream.into_split();
    let (said, heard) = mpsc::channel(64);
    // In one task, so that a killed worker lets go of everything.
    tokio::select! {
        ended = listen(from, said) => ended,
        ended = draw(w, to, heard, vmid, &name) => ended,
    }
}

/// Security type 2; whether the answer was right.
async fn log_in(stream: &mut TcpStream, password: &str) -> Result<bool> {
    stream.write_all(b"RFB 003.008\n").await?;
    let mut version = [0_u8; 12];
    stream.read_exact(&mut version).await?;
    stream.write_all(&[1, 2]).await?;
    stream.read_exact(&mut [0_u8; 1]).await?;
    let mut challenge = [0_u8; 16];
    challenge.copy_from_slice(&sha256_hex(password.as_bytes()).as_bytes()[..16]);
    stream.write_all(&challenge).await?;
    let mut response = [0_u8; 16];
    stream.read_exact(&mut response).await?;
    if response == des::answer(&challenge, password) {
        stream.write_all(&[0, 0, 0, 0]).await?;
        return Ok(true);
    }
    stream.write_all(&[0, 0, 0, 1]).await?;
    let reason = b"Authentication failed";
    stream.write_all(&u32::try_from(reason.len()).unwrap_or(0).to_be_bytes()).await?;
    stream.write_all(reason).await?;
    Ok(false)
}

async fn listen(mut from: OwnedReadHalf, said: mpsc::Sender<Said>) -> Result<()> {
    loop {
        let what = match from.read_u8().await? {
            0 => {
                let mut body = [0_u8; 19];
                from.read_exact(&mut body).await?;
                // Padding of three, then bits per pixel, depth, big-endian, true colour, maxima, shifts.
                if body[3] != 32 {
                    return Ok(());
                }
                Said::Format(Format { shifts: [body[13], body[14], body[15]], big_endian: body[5] != 0 })
            }
            2 => {
                from.read_u8().await?;
                let count = from.read_u16().await?;
                skip(&mut from, u32::from(count) * 4).await?;
                continue;
            }
            3 => {
                let whole = from.read_u8().await? == 0;
                skip(&mut from, 8).await?;
                Said::Picture { whole }
            }
            4 => {
                let down = from.read_u8().await? != 0;
                from.read_u16().await?;
                Said::Key { down, keysym: from.read_u32().await? }
            }
            5 => {
                skip(&mut from, 5).await?;
                continue;
            }
            6 => {
                skip(&mut from, 3).await?;
                let length = from.read_u32().await?;
                skip(&mut from, length.min(CLIPBOARD)).await?;
                continue;
            }
            _ => return Ok(()),
        };
        if said.send(what).await.is_err() {
            return Ok(());
        }
    }
}

async fn skip(from: &mut OwnedReadHalf, bytes: u32) -> Result<()> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut buffer = [0_u8; 1024];
    while left > 0 {
        let step = left.min(buffer.len());
        from.read_exact(&mut buffer[..step]).await?;
        left -= step;
    }
    Ok(())
}

/// Keeps the screen, and sends it as it is asked for.
async fn draw(
    w: &Worker,
    mut to: OwnedWriteHalf,
    mut heard: mpsc::Receiver<Said>,
    vmid: u32,
    name: &str,
) -> Result<()> {
    let (mut tty, first) = Tty::new(name, "tty1");
    let mut screen = Screen::new();
    screen.write(&first);
    let (mut format, mut asked, mut control) = (Format::default(), false, false);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            said = heard.recv() => match said {
                None => return Ok(()),
                Some(Said::Format(wanted)) => {
                    format = wanted;
                    screen.forget();
                }
                Some(Said::Picture { whole }) => {
                    asked = true;
                    if whole {
                        screen.forget();
                    }
                }
                Some(Said::Key { down, keysym: 0xffe3 | 0xffe4 }) => control = down,
                Some(Said::Key { down: true, keysym }) => {
                    if let Some(byte) = byte_of(keysym, control) {
                        screen.write(&tty.key(byte));
                    }
                }
                Some(Said::Key { .. }) => {}
            },
            _ = look.tick() => {
                if !w.cluster.read(|s| super::is_running(s, vmid)).await {
                    return Ok(());
                }
            }
        }
        if asked && let Some((y, height, pixels)) = screen.take(format) {
            asked = false;
            let mut head = vec![0, 0, 0, 1, 0, 0];
            head.extend_from_slice(&y.to_be_bytes());
            head.extend_from_slice(&WIDTH.to_be_bytes());
            head.extend_from_slice(&height.to_be_bytes());
            head.extend_from_slice(&[0, 0, 0, 0]);
            to.write_all(&head).await?;
            to.write_all(&pixels).await?;
        }
    }
}

/// The byte a terminal gets for a key.
fn byte_of(keysym: u32, control: bool) -> Option<u8> {
    match keysym {
        0xff0d | 0xff8d => Some(b'\r'),
        0xff08 => Some(0x7f),
        0xff09 => Some(b'\t'),
        0x20..=0x7e => {
            let byte = u8::try_from(keysym).ok()?;
            Some(if control { byte & 0x1f } else { byte })
        }
        _ => None,
    }
}
