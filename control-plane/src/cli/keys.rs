//! `keys init`.

use std::process::ExitCode;

use clap::Subcommand;

use super::say;
use crate::{
    clock::{Clock as _, SystemClock},
    config::{Link, Storage},
    entropy::SystemEntropy,
    keys::{self, InitOptions},
};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Makes the certificate authorities, the order key and the trust document in KEYS_DIR, once. Nodes will
    /// dial the names in LINK_NAMES at the port of LINK_LISTEN.
    Init,
}

pub(super) fn keys(storage: &Storage, link: &Link, command: &KeysCommand) -> anyhow::Result<ExitCode> {
    let KeysCommand::Init = command;
    let options = InitOptions { names: link.names.clone(), port: link.listen.port() };
    let dir = &storage.keys_dir;
    let pin = keys::init(dir, &options, SystemClock.now(), &SystemEntropy)?;
    say(format_args!("keys          {}", dir.display()))?;
    say(format_args!("trust         {pin}"))?;
    say(
        "Keep a copy of this directory apart from the database. Whoever has it can give orders to every node.",
    )?;
    Ok(ExitCode::SUCCESS)
}
