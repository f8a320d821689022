//! `order resume`, `order abandon` and `unlock`: root's word to the agent. See [`crate::journal::requests`].

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use ez_protocol::ProvisioningOrderId;
use tokio::time::Instant;

use super::{
    DecideArgs, alone,
    alone::alone,
    message, print, print_json,
    requests::{request_json, who},
    service_user,
};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    entropy::SystemEntropy,
    journal::{
        Journal,
        requests::{self, NewRequest, RequestRow, RequestState, RequestVerb, Taker},
    },
};

/// The agent takes requests up every second.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn decide(config: &Config, verb: RequestVerb, args: DecideArgs) -> anyhow::Result<ExitCode> {
    let id: ProvisioningOrderId = match args.id.parse() {
        Ok(id) => id,
        Err(_) => {
            message(&format!(
                "{:?} is not the id of a provisioning order; `ez-node-agent journal` lists them",
                args.id
            ));
            return Ok(ExitCode::from(2));
        }
    };
    ask(config, verb, Some(id), args.reason, args.json).await
}

pub(super) async fn unlock(config: &Config, reason: String, as_json: bool) -> anyhow::Result<ExitCode> {
    ask(config, RequestVerb::Unlock, None, reason, as_json).await
}

async fn ask(
    config: &Config,
    verb: RequestVerb,
    order: Option<ProvisioningOrderId>,
    reason: String,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let who = who();
    owner_only(&config.policy_file)?;
    let path = config.journal_file();
    if !super::is_there(&path)? {
        message(&format!("there is no journal at {} yet: the agent has not run here", path.display()));
        return Ok(ExitCode::from(3));
    }
    service_user::become_it(config, Some(&who))?;
    let request = NewRequest { verb, order, who, reason };
    let row = match alone(&config.lock_file()) {
        Ok(_held) => by_itself(&path, request).await?,
        Err(error) if alone::is_held(&error) => by_the_agent(&path, request).await?,
        Err(error) => return Err(error),
    };
    if as_json {
        print_json(&request_json(&row));
    } else {
        let said =
            row.outcome.as_deref().unwrap_or("asked; the agent has not taken it up yet (journal --requests)");
        if row.state == RequestState::Done { print(said) } else { message(said) }
    }
    Ok(ExitCode::from(match row.state {
        RequestState::Done => 0,
        RequestState::Refused
            if row.outcome.as_deref().is_some_and(|said| said.contains("does not know")) =>
        {
            3
        }
        RequestState::Refused | RequestState::Expired => 5,
        RequestState::Asked => 6,
    }))
}

/// Whoever may change the policy may decide these; that is root, and in a developer's directory its owner.
fn owner_only(policy_file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid();
    let behind_root = std::env::var_os(service_user::ASKED_BY).is_some();
    let owner = std::fs::metadata(policy_file).with_context(|| policy_file.display().to_string())?.uid();
    if own.is_root() || owner == own.as_raw() || behind_root {
        return Ok(());
    }
    bail!("only the owner of {} may decide this: run it as root", policy_file.display())
}

/// The agent does not run, and cannot start while this holds its lock.
async fn by_itself(path: &Path, request: NewRequest) -> anyhow::Result<RequestRow> {
    let journal = Journal::open(path, &SystemClock, &SystemEntropy).await.context("opening the journal")?;
    let n = journal.ask(request, SystemClock.now()).await.context("writing the request")?;
    journal.take_requests(Taker::Alone, SystemClock.now()).await.context("carrying the request out")?;
    let row = requests::show(journal.readers(), n).await?;
    row.context("the request is gone from the journal")
}

/// The agent runs: it takes the request up.
async fn by_the_agent(path: &Path, request: NewRequest) -> anyhow::Result<RequestRow> {
    // Nothing is written into a journal that is damaged: it is kept to be looked at.
    Journal::check(path).await.context(
        "the journal is damaged, so nothing can be asked: keep the file and set the host up again (docs: how-to/set-a-host-up-again)",
    )?;
    let n = requests::ask(path, request, SystemClock.now()).await.context("writing the request")?;
    let pool = Journal::open_read_only(path).await.context("opening the journal for reading")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let row = requests::show(&pool, n).await?.context("the request is gone from the journal")?;
        if row.state != RequestState::Asked || Instant::now() >= until {
            return Ok(row);
        }
        tokio::time::sleep(LOOK).await;
    }
}
