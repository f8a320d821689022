//! Console: a server's screen and serial line in the browser, relayed over the connection of its node.
//!
//! ```text
//! browser ──WebSocket── portal ──QUIC stream── agent ──127.0.0.1── Proxmox's vncproxy or termproxy
//! ```
//!
//! 1. The page (or the API) asks for a *ticket*: one WebSocket, within a minute, in the browser session that
//!    asked. Only its hash is kept.
//! 2. The WebSocket redeems it in one guarded update: a ticket opens one console, whatever happens.
//! 3. A *grant* for the node is built, signed and brought there ([`grant`]); `link` moves its bytes and the
//!    console's. The node burns the grant and opens its own end: no password of the host leaves the host.
//! 4. While it is open, every two seconds it is looked up whether it still may be: logging out, suspending or
//!    deleting the server and revoking the node end it. How many look is told to all who do.
//! 5. Start and end are audited with who, what, how long, how much and why.
//!
//! The ends of a console ([`End`]) are words that both page and API know.

mod api;
mod grant;
mod jobs;
mod model;
mod pages;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{ApiTokenId, ConsoleId, InstanceId, SessionId, UnixMillis, console::ConsoleKind};
use serde_json::json;
use sqlx::AnyConnection;

use crate::{
    accounts::Principal,
    app::Services,
    audit,
    db::DbError,
    entropy::EntropyExt as _,
    fleet,
    instances::{self, Instance, InstanceState},
};

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use jobs::register_jobs;
pub use model::{Console, End, Refusal};
pub(crate) use pages::routes as page_routes;

/// How long a ticket is good.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// A console that was not seen for so long has ended with its process.
const SILENT: Duration = Duration::from_secs(30);

/// Who holds a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A logged-in browser; nobody else can redeem it, and it ends with the session.
    Session(SessionId),
    /// A program with an API token; whoever has the ticket redeems it, and it ends with the token.
    Token(ApiTokenId),
}

/// A ticket, shown once.
#[derive(Clone)]
pub struct Ticket {
    /// What it opens.
    pub id: ConsoleId,
    /// The secret; the path of the WebSocket is `/console/<secret>`.
    pub secret: String,
    /// Until when it is good.
    pub expires_at: UnixMillis,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is kept of a secret: its SHA-256 as hex. Enough, because the secret has 256 bits.
fn ticket_hash(secret: &str) -> String {
    use sha2::{Digest as _, Sha256};
    data_encoding::HEXLOWER.encode(&Sha256::digest(secret.as_bytes()))
}

/// Whether a server has a console to look at now.
///
/// # Errors
/// Why not.
pub async fn may_open(connection: &mut AnyConnection, instance: &Instance) -> Result<(), Refusal> {
    if !instance.state.is_live() {
        return Err(Refusal::Ended);
    }
    if instances::wishes(connection, instance).await?.suspension().is_some() {
        return Err(Refusal::Suspended);
    }
    if instance.state == InstanceState::Stopped {
        return Err(Refusal::NotRunning);
    }
    let Some(place) = fleet::placement_of(connection, instance.id).await? else { return Err(Refusal::Ended) };
    let node = fleet::node(connection, place.node).await?;
    if node.is_some_and(|node| node.state.takes_orders()) { Ok(()) } else { Err(Refusal::NodeAway) }
}

/// Gives a ticket for one console of a server that the caller was seen to own.
///
/// # Errors
/// Why there is none.
pub async fn ticket(
    app: &Services,
    instance: InstanceId,
    who: &Principal,
    holder: Holder,
    kind: ConsoleKind,
) -> Result<Ticket, Refusal> {
    let at = app.clock.now();
    let id = ConsoleId::generate(at, app.entropy.bytes());
    let secret = app.entropy.token("");
    let new = store::NewTicket {
        id,
        instance,
        account: who.account_id,
        kind,
        actor: who.actor(),
        hash: ticket_hash(&secret),
        holder,
        expires_at: at.plus(TICKET_LIFE),
    };
    let expires_at = new.expires_at;
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let found = instances::owned(tx, new.account, instance).await?.ok_or(DbError::NotFound)?;
                may_open(tx, &found).await?;
                store::insert(tx, at, &new).await?;
                Ok::<_, Refusal>(())
            })
        })
        .await?;
    Ok(Ticket { id, secret, expires_at })
}

/// Uses a ticket up; nothing for one that is unknown, used, too old or another browser's. Whoever holds it now
/// looks at the console.
///
/// # Errors
/// Those of the database.
pub async fn redeem(
    app: &Services,
    secret: &str,
    session: Option<SessionId>,
) -> Result<Option<Console>, DbError> {
    let (hash, at) = (ticket_hash(secret), app.clock.now());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(console) = store::by_ticket(tx, &hash).await? else { return Ok(None) };
                let theirs = match console.holder {
                    Holder::Session(holder) => session == Some(holder),
                    Holder::Token(_) => true,
                };
                if !theirs || !store::redeem(tx, at, console.id).await? {
                    return Ok(None);
                }
                let detail = json!({ "console": console.id, "kind": console.kind.as_str() });
                audit::record(tx, at, entry(&console, "console.opened", detail)).await?;
                Ok(Some(console))
            })
        })
        .await
}

fn entry(console: &Console, action: &str, detail: serde_json::Value) -> audit::Entry {
    audit::Entry {
        actor: console.actor.clone(),
        action: action.to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: console.instance.to_string(),
        detail,
    }
}

/// Writes down that a console ended, once.
///
/// # Errors
/// Those of the database.
pub async fn close(
    tx: &mut AnyConnection,
    at: UnixMillis,
    console: &Console,
    end: End,
    (up, down): (u64, u64),
) -> Result<(), DbError> {
    if !store::end(tx, at, console.id, end, up, down).await? {
        return Ok(());
    }
    let detail = json!({
        "console": console.id,
        "kind": console.kind.as_str(),
        "reason": end,
        "seconds": console.opened_at.map(|opened| at.since(opened).as_secs()),
        "bytes_up": up,
        "bytes_down": down,
    });
    audit::record(tx, at, entry(console, "console.closed", detail)).await
}

/// How many look at a server now.
///
/// # Errors
/// Those of the query.
pub async fn viewers(
    connection: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
) -> Result<u64, DbError> {
    store::viewers(connection, instance, at.minus(SILENT)).await
}

/// Why a console that is open has to end now, if it has to: what was true when it was opened is asked again.
///
/// # Errors
/// Those of the queries.
pub async fn must_end(connection: &mut AnyConnection, console: &Console) -> Result<Option<End>, DbError> {
    let Some(instance) = instances::owned(connection, console.account, console.instance).await? else {
        return Ok(Some(End::Deleted));
    };
    if !instance.state.is_live() {
        return Ok(Some(End::Deleted));
    }
    if instances::wishes(connection, &instance).await?.suspension().is_some() {
        return Ok(Some(End::Suspended));
    }
    let Some(place) = fleet::placement_of(connection, instance.id).await? else {
        return Ok(Some(End::Deleted));
    };
    let node = fleet::node(connection, place.node).await?;
    Ok((!node.is_some_and(|node| node.state.takes_orders())).then_some(End::NodeAway))
}
