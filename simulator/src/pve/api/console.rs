//! `vncproxy` and `termproxy`: a worker that listens on the loopback for ten seconds and serves the one client
//! that comes.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::qemu::load_of;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::console::{is_running, line, rfb};
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::sha256_hex;
use crate::pve::task::Worker;

pub(super) fn calls() -> Vec<Call> {
    let may = Check::All("/vms/{vmid}", &["VM.Console"]);
    vec![
        call(
            "POST",
            "/nodes/{node}/qemu/{vmid}/vncproxy",
            &["generate-password? b\nwebsocket? b"],
            may,
            screen,
        ),
        call(
            "POST",
            "/nodes/{node}/qemu/{vmid}/termproxy",
            &["serial? s enum=serial0|serial1|serial2|serial3"],
            may,
            terminal,
        ),
    ]
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

/// What a client is told of a waiting worker.
struct Waiting {
    listener: TcpListener,
    port: u16,
    upid: String,
    /// Eight characters.
    password: String,
    ticket: String,
}

/// Opens the task of a console. Both kinds are of type `vncproxy`.
async fn wait_for_client(ctx: &Ctx) -> Result<Waiting, ApiError> {
    ctx.cluster.read(|s| load_of(s, ctx).map(|_| ())).await?;
    let (listener, port) = bind().await?;
    let cluster = ctx.cluster.clone();
    let now = cluster.clock.seconds();
    let opened = cluster.clone();
    let (upid, password, signature) = cluster
        .change("task.open", |s| {
            let secret = sha256_hex(&s.draw());
            let upid = s.open_task(&opened, &ctx.node, "vncproxy", &ctx.vmid().to_string(), &ctx.caller);
            (upid, secret[..8].to_owned(), secret[8..].to_owned())
        })
        .await;
    let ticket = format!("{password}:PVEVNC:{now:08X}::{signature}");
    Ok(Waiting { listener, port, upid, password, ticket })
}

async fn screen(ctx: Ctx) -> ApiResult {
    let Waiting { listener, port, upid, password, ticket } = wait_for_client(&ctx).await?;
    let (vmid, expected) = (ctx.vmid(), password.clone());
    ctx.cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, move |w| async move {
        let stream = accept(&w, listener, vmid).await?;
        // The client hanging up is how a console ends.
        let _ended = w.unless_interrupted(rfb::serve(&w, stream, vmid, &expected)).await?;
        Ok(())
    });
    let certificate =
        std::fs::read_to_string(crate::pve::tls::ca_file(&ctx.cluster.directory)).unwrap_or_default();
    let mut out = json!({
        "user": ctx.caller.id(), "port": port.to_string(), "upid": upid, "cert": certificate, "ticket": ticket,
    });
    // Before access-control 8.2.3 the password came only when asked for; asking is harmless since.
    out["password"] = password.into();
    Ok(out.into())
}

async fn terminal(ctx: Ctx) -> ApiResult {
    let serial = ctx.params.get("serial").unwrap_or("serial0").to_owned();
    let Waiting { listener, port, upid, ticket, .. } = wait_for_client(&ctx).await?;
    let (vmid, expected) = (ctx.vmid(), format!("{}:{ticket}", ctx.caller.id()));
    ctx.cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, move |w| async move {
        let stream = accept(&w, listener, vmid).await?;
        let _ended = w.unless_interrupted(line::serve(&w, stream, vmid, &expected, &serial)).await?;
        Ok(())
    });
    Ok(json!({ "user": ctx.caller.id(), "port": port, "upid": upid, "ticket": ticket }).into())
}

/// The one client, if it comes in time.
async fn accept(w: &Worker, listener: TcpListener, vmid: u32) -> Result<TcpStream, String> {
    let wait = Duration::from_millis(w.cluster.timing.console_ms);
    let Ok(Ok((stream, _))) = tokio::time::timeout(wait, listener.accept()).await else {
        return Err("connection timed out".into());
    };
    if w.cluster.read(|s| is_running(s, vmid)).await {
        Ok(stream)
    } else {
        Err(format!("VM {vmid} not running"))
    }
}
