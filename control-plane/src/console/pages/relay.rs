//! One console between a WebSocket and its node.
//!
//! Binary messages are the console's bytes; text messages tell the page what it should know:
//! `{"viewers":2}`, and at the end `{"ended":"<word>"}` (see [`End`]). Each direction waits for its slower
//! side. Every two seconds it is looked up whether the console still may be open.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::extract::ws::{Message, WebSocket};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::sync::mpsc;

use super::super::{Console, End, Holder, close, grant, must_end, store, viewers};
use crate::{
    accounts,
    app::App,
    db::DbError,
    fleet::sessions,
    link::{ConsoleFault, ConsoleInput, ConsoleOutput},
    web,
};

/// How often it is looked up whether a console may stay open, and who else looks.
const LOOK: Duration = Duration::from_secs(2);
/// Every so many looks the console is written down as still open.
const SEEN_EVERY: u32 = 4;
/// How long the end may take to be told.
const GOODBYE: Duration = Duration::from_secs(5);

/// What went through so far.
#[derive(Default)]
struct Carried {
    up: AtomicU64,
    down: AtomicU64,
}

impl Carried {
    fn so_far(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Opens the console at its node and relays it until it ends; then says and writes down how.
pub(super) async fn run(app: App, console: Console, socket: WebSocket) {
    let carried = Carried::default();
    let (mut to, from) = socket.split();
    let end = match open(&app, &console).await {
        Ok((input, output)) => {
            tracing::info!(console.id = %console.id, instance.id = %console.instance, "console opened");
            let end = relay(&app, &console, (from, &mut to), (input, output), &carried).await;
            reason(&app, &console, end).await
        }
        Err(end) => end,
    };
    let text = serde_json::json!({ "ended": end }).to_string();
    let told = async {
        to.send(Message::Text(text.into())).await?;
        to.send(Message::Close(None)).await
    };
    let _gone_already = tokio::time::timeout(GOODBYE, told).await;
    let (up, down) = carried.so_far();
    tracing::info!(console.id = %console.id, reason = %end, up, down, "console closed");
    let at = app.clock.now();
    let written =
        app.db.write(move |tx| Box::pin(async move { close(tx, at, &console, end, (up, down)).await })).await;
    if let Err(error) = written {
        // The sweep finds it.
        tracing::warn!(%error, "the end of a console was not written");
    }
}

/// A server that was stopped because it was suspended or deleted is said to be that.
async fn reason(app: &App, console: &Console, end: End) -> End {
    if !matches!(end, End::Stopped | End::Gone | End::Lost) {
        return end;
    }
    match look(app, console).await {
        Ok((Some(cause), _)) => cause,
        _ => end,
    }
}

/// Signs a grant and brings it to the node.
async fn open(app: &App, console: &Console) -> Result<(ConsoleInput, ConsoleOutput), End> {
    let failed = |error: &dyn std::error::Error| {
        tracing::warn!(console.id = %console.id, %error, "a console could not be opened");
        End::Failed
    };
    let (node, envelope) = {
        let mut connection = app.db.read().await.map_err(|error| failed(&error))?;
        match grant::grant(&mut connection, &app.keys, app.clock.now(), app.entropy.as_ref(), console).await {
            Ok(made) => made,
            Err(grant::GrantError::NoNode) => return Err(End::NodeAway),
            Err(error) => return Err(failed(&error)),
        }
    };
    match app.links.open_console(node, envelope).await {
        Ok(opened) => Ok(opened),
        Err(ConsoleFault::NotHere) => {
            let mut connection = app.db.read().await.map_err(|error| failed(&error))?;
            let held = sessions::is_held(&mut connection, node).await.map_err(|error| failed(&error))?;
            Err(if held { End::Elsewhere } else { End::NodeAway })
        }
        Err(fault) => {
            failed(&fault);
            Err(End::from(&fault))
        }
    }
}

/// Relays until one side or a look ends it.
async fn relay(
    app: &App,
    console: &Console,
    (from, to): (SplitStream<WebSocket>, &mut SplitSink<WebSocket, Message>),
    (input, output): (ConsoleInput, ConsoleOutput),
    carried: &Carried,
) -> End {
    let (notes, told) = mpsc::channel(4);
    tokio::select! {
        end = down(output, told, to, carried) => end,
        end = up(from, input, carried) => end,
        end = watch(app, console, &notes, carried) => end,
        () = web::closing() => End::Restart,
    }
}

/// From the host to the browser.
async fn down(
    mut output: ConsoleOutput,
    mut told: mpsc::Receiver<String>,
    to: &mut SplitSink<WebSocket, Message>,
    carried: &Carried,
) -> End {
    loop {
        let message = tokio::select! {
            Some(note) = told.recv() => Message::Text(note.into()),
            bytes = output.next() => match bytes {
                Ok(bytes) => {
                    carried.down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Message::Binary(bytes)
                }
                Err(end) => return end.into(),
            },
        };
        if to.send(message).await.is_err() {
            return End::Left;
        }
    }
}

/// From the browser to the host.
async fn up(mut from: SplitStream<WebSocket>, mut input: ConsoleInput, carried: &Carried) -> End {
    while let Some(message) = from.next().await {
        match message {
            Ok(Message::Binary(bytes)) => {
                carried.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if input.send(&bytes).await.is_err() {
                    // How it ended comes the other way.
                    std::future::pending::<()>().await;
                }
            }
            Ok(Message::Close(_)) | Err(_) => break,
            Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_)) => {}
        }
    }
    End::Left
}

/// Looks whether the console may stay open, and tells how many look.
async fn watch(app: &App, console: &Console, notes: &mpsc::Sender<String>, carried: &Carried) -> End {
    let mut shown = 0;
    let mut looks: u32 = 0;
    loop {
        match look(app, console).await {
            Ok((Some(end), _)) => return end,
            Ok((None, viewers)) if viewers != shown => {
                shown = viewers;
                let _ended_meanwhile =
                    notes.send(serde_json::json!({ "viewers": viewers }).to_string()).await;
            }
            Ok(_) => {}
            // What cannot be looked up now is looked up again.
            Err(error) => tracing::warn!(%error, "a console could not be looked after"),
        }
        tokio::time::sleep(LOOK).await;
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(SEEN_EVERY) {
            seen(app, console, carried).await;
        }
    }
}

async fn look(app: &App, console: &Console) -> Result<(Option<End>, u64), DbError> {
    let (at, mut connection) = (app.clock.now(), app.db.read().await?);
    let holds = match console.holder {
        Holder::Session(id) => accounts::session_lives(&mut connection, at, id).await?,
        Holder::Token(id) => accounts::token_lives(&mut connection, at, id).await?,
    };
    if !holds {
        return Ok((Some(End::LoggedOut), 0));
    }
    let end = must_end(&mut connection, console).await?;
    Ok((end, viewers(&mut connection, at, console.instance).await?))
}

async fn seen(app: &App, console: &Console, carried: &Carried) {
    let (at, id, (up, down)) = (app.clock.now(), console.id, carried.so_far());
    let written =
        app.db.write(move |tx| Box::pin(async move { store::seen(tx, at, id, up, down).await })).await;
    if let Err(error) = written {
        tracing::warn!(%error, "a console was not written down as open");
    }
}
