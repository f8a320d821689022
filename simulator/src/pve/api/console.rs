//! `vncproxy`: a worker that listens on the loopback for ten seconds and speaks RFB 3.8 with VNC
//! authentication to the one client that comes.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::qemu::load_of;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::sha256_hex;
use crate::pve::task::Worker;

pub(super) fn calls() -> Vec<Call> {
    vec![call(
        "POST",
        "/nodes/{node}/qemu/{vmid}/vncproxy",
        &["generate-password? b\nwebsocket? b"],
        Check::All("/vms/{vmid}", &["VM.Console"]),
        proxy,
    )]
}

/// Where the next search for a free port begins; all clusters of this process share the machine's ports.
static NEXT: AtomicU16 = AtomicU16::new(0);

async fn bind() -> Result<(TcpListener, u16), ApiError> {
    for _ in 0..100 {
        let port = 5900 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return Ok((listener, port));
        }
    }
    Err(ApiError::died("unable to find free port (5900-5999)"))
}

async fn proxy(ctx: Ctx) -> ApiResult {
    ctx.cluster.read(|s| load_of(s, &ctx).map(|_| ())).await?;
    let (listener, port) = bind().await?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let now = cluster.clock.seconds();
    let opened = cluster.clone();
    let (upid, password, signature) = cluster
        .change("task.open", |s| {
            let secret = sha256_hex(&s.draw());
            let upid = s.open_task(&opened, &ctx.node, "vncproxy", &vmid.to_string(), &ctx.caller);
            (upid, secret[..8].to_owned(), secret[8..].to_owned())
        })
        .await;
    let expected = password.clone();
    cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, move |w| serve(w, listener, vmid, expected));
    let certificate =
        std::fs::read_to_string(crate::pve::tls::ca_file(&cluster.directory)).unwrap_or_default();
    let mut out = json!({
        "user": ctx.caller.id(), "port": port.to_string(), "upid": upid, "cert": certificate,
        "ticket": format!("{password}:PVEVNC:{now:08X}::{signature}"),
    });
    // Before access-control 8.2.3 the password came only when asked for; asking is harmless since.
    out["password"] = password.into();
    Ok(out.into())
}

async fn serve(w: Worker, listener: TcpListener, vmid: u32, password: String) -> Result<(), String> {
    let wait = Duration::from_millis(w.cluster.timing.console_ms);
    let Ok(Ok((stream, _))) = tokio::time::timeout(wait, listener.accept()).await else {
        return Err("connection timed out".into());
    };
    drop(listener);
    let running = w.cluster.read(|s| s.vms.get(vmid).is_some_and(|v| v.run.is_some())).await;
    if !running {
        return Err(format!("VM {vmid} not running"));
    }
    // The client hanging up is how a console ends.
    let _ended = rfb(stream, &password).await;
    Ok(())
}

/// RFB 3.8: security type 2, a small grey screen, and silence.
async fn rfb(mut stream: TcpStream, password: &str) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n").await?;
    let mut version = [0u8; 12];
    stream.read_exact(&mut version).await?;
    stream.write_all(&[1, 2]).await?;
    stream.read_exact(&mut [0u8; 1]).await?;
    let mut challenge = [0u8; 16];
    challenge.copy_from_slice(&sha256_hex(password.as_bytes()).as_bytes()[..16]);
    stream.write_all(&challenge).await?;
    let mut response = [0u8; 16];
    stream.read_exact(&mut response).await?;
    if response != super::des::answer(&challenge, password) {
        stream.write_all(&[0, 0, 0, 1]).await?;
        let reason = b"Authentication failed";
        stream.write_all(&u32::try_from(reason.len()).unwrap_or(0).to_be_bytes()).await?;
        return stream.write_all(reason).await;
    }
    stream.write_all(&[0, 0, 0, 0]).await?;
    stream.read_exact(&mut [0u8; 1]).await?;
    let (width, height) = (64u16, 48u16);
    let mut init = Vec::new();
    init.extend_from_slice(&width.to_be_bytes());
    init.extend_from_slice(&height.to_be_bytes());
    init.extend_from_slice(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    let name = b"simulated";
    init.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
    init.extend_from_slice(name);
    stream.write_all(&init).await?;
    loop {
        let mut kind = [0u8; 1];
        if stream.read(&mut kind).await? == 0 {
            return Ok(());
        }
        match kind[0] {
            0 => skip(&mut stream, 19).await?,
            2 => {
                let mut head = [0u8; 3];
                stream.read_exact(&mut head).await?;
                skip(&mut stream, usize::from(u16::from_be_bytes([head[1], head[2]])) * 4).await?;
            }
            3 => {
                skip(&mut stream, 9).await?;
                frame(&mut stream, width, height).await?;
            }
            4 => skip(&mut stream, 7).await?,
            5 => skip(&mut stream, 5).await?,
            6 => {
                let mut head = [0u8; 7];
                stream.read_exact(&mut head).await?;
                skip(
                    &mut stream,
                    usize::try_from(u32::from_be_bytes([head[3], head[4], head[5], head[6]])).unwrap_or(0),
                )
                .await?;
            }
            _ => return Ok(()),
        }
    }
}

async fn skip(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let mut buffer = vec![0u8; bytes.min(1 << 16)];
    stream.read_exact(&mut buffer).await.map(|_| ())
}

/// One raw rectangle, all grey.
async fn frame(stream: &mut TcpStream, width: u16, height: u16) -> std::io::Result<()> {
    let mut out = vec![0, 0, 0, 1, 0, 0, 0, 0];
    out.extend_from_slice(&width.to_be_bytes());
    out.extend_from_slice(&height.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend(std::iter::repeat_n(0x60, usize::from(width) * usize::from(height) * 4));
    stream.write_all(&out).await
}
