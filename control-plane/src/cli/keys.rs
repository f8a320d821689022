//! `keys init`, `keys show`, `keys prepare` and `keys switch`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use ez_protocol::{UnixMillis, envelope::KeyRole};
use serde_json::json;

use super::{ACTOR, open_database, say};
use crate::{
    audit,
    clock::{Clock as _, SystemClock},
    config::{Link, Storage},
    db::Db,
    entropy::SystemEntropy,
    fleet::{NodeRow, nodes},
    keys::{self, InitOptions, Place},
    web,
};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Makes the certificate authorities, the signing keys and the trust document in KEYS_DIR, once. Nodes will
    /// dial the names in LINK_NAMES at the port of LINK_LISTEN.
    Init,
    /// Shows the signing keys and which nodes believe the trust document.
    Show {
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Makes a new signing key and has nodes trust it beside the present one. Nothing is signed with it yet.
    Prepare {
        /// What the key signs.
        role: Role,
    },
    /// Signs with the key that was prepared; the one before ends after seven days.
    Switch {
        /// What the key signs.
        role: Role,
        /// The key before is not trusted any more at once: for one that somebody else may have. Orders that it signed and no
        /// node has taken are refused.
        #[arg(long)]
        distrust: bool,
        /// Do not wait for nodes that do not believe the new key yet; each gets no orders until it does.
        #[arg(long)]
        now: bool,
    },
}

/// What a key signs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Role {
    /// Orders to nodes.
    Order,
    /// Later versions of the trust document.
    Trust,
}

impl Role {
    fn role(self) -> KeyRole {
        match self {
            Self::Order => KeyRole::Order,
            Self::Trust => KeyRole::Trust,
        }
    }
}

pub(super) async fn keys(storage: &Storage, link: &Link, command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Init => init(storage, link)?,
        KeysCommand::Show { json } => show(storage, json).await?,
        KeysCommand::Prepare { role } => prepare(storage, role).await?,
        KeysCommand::Switch { role, distrust, now } => switch(storage, role, distrust, now).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(storage: &Storage, link: &Link) -> anyhow::Result<()> {
    let options = InitOptions { names: link.names.clone(), port: link.listen.port() };
    let dir = &storage.keys_dir;
    let pin = keys::init(dir, &options, SystemClock.now(), &SystemEntropy)?;
    say(format_args!("keys          {}", dir.display()))?;
    say(format_args!("trust         {pin}"))?;
    say(
        "Keep a copy of this directory apart from the database. Whoever has it can give orders to every node.",
    )
}

/// Nodes that may connect, and do not believe a version of the trust document.
///
/// A node that believes a later version than there is here means that the keys are an old copy: nothing is done with them.
async fn behind(db: &Db, version: u64) -> anyhow::Result<(usize, Vec<NodeRow>)> {
    let mut connection = db.read().await.context("cannot read the nodes")?;
    let all = nodes::list(&mut connection, None).await.context("cannot read the nodes")?;
    let all: Vec<NodeRow> = all.into_iter().filter(|node| node.state.may_connect()).collect();
    let many = all.len();
    if let Some(ahead) = all.iter().find(|node| node.trust_version > version) {
        bail!(
            "node {} believes version {} of the trust document, and KEYS_DIR has version {version}: it is an old copy, or \
             that node does not tell the truth. Nothing was changed; restore the newest copy, or revoke the node",
            ahead.name,
            ahead.trust_version
        );
    }
    Ok((many, all.into_iter().filter(|node| node.trust_version < version).collect()))
}

fn names(nodes: &[NodeRow]) -> String {
    let mut names: Vec<&str> = nodes.iter().take(10).map(|node| node.name.as_str()).collect();
    if nodes.len() > names.len() {
        names.push("…");
    }
    names.join(", ")
}

async fn show(storage: &Storage, json: bool) -> anyhow::Result<()> {
    let (version, held) = keys::held(&storage.keys_dir)?;
    let db = open_database(storage).await?;
    let (many, behind) = behind(&db, version).await?;
    let place = |place| match place {
        Place::Signs => "signs",
        Place::Prepared => "prepared",
        Place::Leaving => "leaving",
    };
    let role = |role| match role {
        KeyRole::Order => "order",
        KeyRole::Trust => "trust",
    };
    if json {
        let keys: Vec<_> = held
            .iter()
            .map(|key| {
                json!({ "role": role(key.role), "id": key.id, "state": place(key.place), "until": key.until })
            })
            .collect();
        let behind: Vec<_> = behind
            .iter()
            .map(|node| {
                json!({ "name": node.name, "version": node.trust_version, "last_seen_at": node.last_seen_at })
            })
            .collect();
        return say(json!({ "trust_version": version, "keys": keys, "nodes": many, "nodes_behind": behind }));
    }
    say(format_args!("trust document version {version}"))?;
    say(format_args!("{:<8} {:<18} {:<10} UNTIL", "SIGNS", "KEY", "STATE"))?;
    for key in &held {
        let id: String = key.id.chars().take(16).collect();
        let until = web::written_date(key.until);
        say(format_args!("{:<8} {id:<18} {:<10} {until}", role(key.role), place(key.place)))?;
    }
    say(format_args!("{} of {many} nodes believe version {version}", many - behind.len()))?;
    if !behind.is_empty() {
        say(format_args!("not yet: {}", names(&behind)))?;
    }
    for key in held.iter().filter(|key| key.place == Place::Prepared) {
        say(format_args!(
            "next: when every node believes it, ez-control-plane keys switch {}",
            role(key.role)
        ))?;
    }
    Ok(())
}

/// Writes a step into the audit log, once: a process may have died between the step and its row.
async fn note(db: &Db, at: UnixMillis, action: &str, step: &keys::Step) -> anyhow::Result<()> {
    let known = {
        let mut connection = db.read().await.context("cannot read the audit log")?;
        audit::history(&mut connection, "key", &step.key).await.context("cannot read the audit log")?
    };
    if known.iter().any(|row| row.entry.action == action) {
        return Ok(());
    }
    let entry = audit::Entry {
        actor: ACTOR.to_owned(),
        action: action.to_owned(),
        subject_kind: "key".to_owned(),
        subject_id: step.key.clone(),
        detail: json!({ "trust_version": step.version }),
    };
    db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await }))
        .await
        .context("the key was dealt with, but the audit log could not be written")
}

const RESTART: &str = "Restart every process of the control plane: it reads its keys when it starts. Where KEYS_DIR is a \
                       copy, copy it again first, and keep the new copy apart from the database.";

async fn prepare(storage: &Storage, role: Role) -> anyhow::Result<()> {
    let at = SystemClock.now();
    let db = open_database(storage).await?;
    let (version, _) = keys::held(&storage.keys_dir)?;
    behind(&db, version).await?;
    let step = keys::prepare(&storage.keys_dir, role.role(), at, &SystemEntropy)?;
    note(&db, at, "key.prepared", &step).await?;
    let word = if step.fresh { "prepared" } else { "was prepared before" };
    say(format_args!("key           {} {word}", step.key))?;
    say(format_args!("trust         version {}", step.version))?;
    say(RESTART)?;
    say(
        "Nodes take the new version when they connect; ez-control-plane keys show says which have. Then: keys switch.",
    )
}

async fn switch(storage: &Storage, role: Role, distrust: bool, now: bool) -> anyhow::Result<()> {
    let at = SystemClock.now();
    let db = open_database(storage).await?;
    let (version, held) = keys::held(&storage.keys_dir)?;
    let waits = held.iter().any(|key| key.role == role.role() && key.place == Place::Prepared);
    let (many, behind) = behind(&db, version).await?;
    if waits && !now && !behind.is_empty() {
        bail!(
            "{} of {many} nodes do not believe version {version} of the trust document yet: {}. Nothing was changed. They take \
             it when they connect to a control plane that was restarted since; revoke those that are gone, or say --now: a \
             node that does not believe the key gets no orders until it does",
            behind.len(),
            names(&behind)
        );
    }
    let overlap = if distrust { Duration::ZERO } else { keys::OVERLAP };
    let step = keys::switch(&storage.keys_dir, role.role(), at, overlap)?;
    note(&db, at, "key.switched", &step).await?;
    say(format_args!("key           {} signs", step.key))?;
    let until = web::written_date(at.plus(overlap));
    let before = if distrust { "is not trusted any more".to_owned() } else { format!("ends on {until}") };
    match step.fresh {
        true => say(format_args!("trust         version {}: the key before {before}", step.version))?,
        false => say(format_args!("trust         version {}: that had been done before", step.version))?,
    }
    say(RESTART)
}
