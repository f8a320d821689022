//! `run`: the agent itself. Everything is built here once and handed down.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock, RwLock},
    time::Duration,
};

use anyhow::{Context as _, bail};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{StatusFile, alone::alone, host, notify::Notifier};
use crate::{
    agent::{Agent, ClockOffset, StatusBoard, Works},
    clock::{Clock, SystemClock},
    config::{Config, LogFormat},
    contact::Contact,
    entropy::{self, SystemEntropy},
    executor::{Actors, Engine, Limits, Pace, Rules},
    identity,
    image::worker::Worker,
    journal::{
        Journal, JournalError, Space,
        requests::{RequestState, Taker},
    },
    link,
    metrics::{self, Metrics},
    policy::{self, Policy},
    pve::Hypervisor,
    setup::TokenAdmin,
};

/// How often old rows are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(3_600);
/// As a rule Proxmox says its version at once, and the first greeting can name it; nothing else waits for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How often the journal is asked whether root of this host wants something.
const REQUESTS: Duration = Duration::from_secs(1);

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    log_to_stderr(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let policy = policy::load(&config.policy_file)?;
    identity::files::private_dir(&config.state_dir)
        .with_context(|| format!("the state directory {}", config.state_dir.display()))?;
    // Held until the process ends.
    let _alone = alone(&config.lock_file())?;
    let pve = host::connect(&config)?;
    let identity = identity::load(&config)?;
    let told = Arc::new(Notify::new());
    let changed = Arc::new(Notify::new());
    let contact = Arc::new(Contact::default());
    let boot_id = boot_id();
    let space = Space::of(&config.state_dir);
    if let Err(error) = space.keep_reserve() {
        tracing::warn!(%error, "the reserve file could not be made");
    }
    let journal = open_journal(&config, clock.as_ref(), &identity, &space).await?;
    let works = match journal {
        None => None,
        Some(journal) => {
            let engine = Engine {
                journal: journal.clone(),
                pve: Arc::clone(&pve),
                clock: Arc::clone(&clock),
                first_boot: Arc::new(host::Snippets::new(&config)?),
                rules: rules(&config, &policy)?,
                limits: Limits::default(),
                pace: Pace::default(),
                contact: Arc::clone(&contact),
                boot_id: boot_id.clone(),
                space: space.clone(),
                told: Arc::clone(&told),
                changed: Arc::clone(&changed),
            };
            let actors = Actors::new(Arc::new(engine));
            actors.hold();
            Some(Works { journal, actors })
        }
    };
    let status = StatusFile {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_name: identity.node.name.clone(),
        node: identity.node.node.to_string(),
        epoch: identity.node.epoch,
        pve_version: "does not answer yet".to_owned(),
        boot_id: boot_id.clone(),
        certificate_until: identity.pair.not_after.0,
        ..Default::default()
    };
    let metrics = match Metrics::open(&config.state_dir, &SystemEntropy) {
        Ok(metrics) => Some(Arc::new(metrics)),
        Err(error) => {
            tracing::error!(%error, "samples and traffic are not kept: their files cannot be had");
            None
        }
    };
    let agent = Arc::new(Agent {
        metrics,
        status: StatusBoard::new(config.status_file(), status),
        cluster: cluster_identity(&config)?,
        fingerprint: identity::fingerprint(&config.host_root),
        identity: RwLock::new(Arc::new(identity)),
        report_epoch: HEXLOWER.encode(&entropy::bytes::<8>(&SystemEntropy)),
        entropy: Arc::new(SystemEntropy),
        offset: ClockOffset::default(),
        renewed: Default::default(),
        contact,
        config,
        clock,
        policy,
        pve,
        works,
        space,
        boot_id,
        pve_version: OnceLock::new(),
        told,
        changed,
        host_changed: Arc::default(),
        other_certificate: Arc::default(),
        build: Arc::default(),
        consoles: crate::console::Seats::default(),
    });
    serve(agent).await
}

/// Runs until a signal; what is at work is left where it stands and goes on at the next start.
async fn serve(agent: Arc<Agent>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    // While Proxmox is silent the node says so over the link; it only does nothing.
    let mut taking_up = tokio::spawn(take_up(Arc::clone(&agent), stop.clone()));
    let mut taken_up = false;
    if let Ok(ended) = tokio::time::timeout(ANSWERS_WITHIN, &mut taking_up).await {
        ended??;
        taken_up = true;
    }
    let notifier = Notifier::from_env();
    let link = tokio::spawn(link::run(Arc::clone(&agent), stop.clone()));
    if let Some(kept) = &agent.metrics {
        tokio::spawn(metrics::run(Arc::clone(&agent), Arc::clone(kept), stop.clone()));
    }
    notifier.say("READY=1");
    let mut watchdog = tokio::time::interval(notifier.watchdog().unwrap_or(HOUSEKEEPING));
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    let mut requests = tokio::time::interval(REQUESTS);
    requests.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut went: anyhow::Result<ExitCode> = Ok(ExitCode::SUCCESS);
    loop {
        tokio::select! {
            ended = &mut taking_up, if !taken_up => {
                taken_up = true;
                if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
                    went = Err(error);
                    break;
                }
            }
            _ = watchdog.tick() => notifier.say(&format!("WATCHDOG=1\nSTATUS={}", agent.status.get().link)),
            _ = housekeeping.tick() => {
                // Beside everything else: after a flood it may take longer than the watchdog waits.
                tokio::spawn(tidy(Arc::clone(&agent)));
            }
            _ = requests.tick() => {
                take_requests(&agent).await;
                if let Some(works) = agent.works.as_ref().filter(|_| !taken_up) {
                    works.actors.end_overdue().await;
                }
            }
            // Before Proxmox ever answered, another start would find nothing else.
            () = agent.other_certificate.notified(), if taken_up => {
                tracing::warn!("Proxmox shows another certificate: starting anew, before which the unit looks whether it was renewed");
                // Nobody asked for this end: whoever starts the agent with a unit of their own sees by it to start it again.
                went = Ok(ExitCode::FAILURE);
                break;
            }
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    tracing::info!("stopping");
    notifier.say("STOPPING=1");
    stop.cancel();
    taking_up.abort();
    let _ = tokio::time::timeout(Duration::from_secs(3), link).await;
    if let Some(works) = &agent.works {
        works.actors.abandon();
    }
    went
}

/// Begins to carry orders out and to build images, once this host's Proxmox VE is known to be one that it can work with.
async fn take_up(agent: Arc<Agent>, stop: CancellationToken) -> anyhow::Result<()> {
    let version = supported_version(agent.pve.as_ref()).await?;
    agent.status.update(agent.clock.now(), |status| status.pve_version.clone_from(&version));
    let _first_answer = agent.pve_version.set(version);
    if let Some(works) = &agent.works {
        let open = works.actors.resume().await?;
        tracing::info!(open, "orders taken up again");
    }
    if let Some(worker) = image_worker(&agent)? {
        tokio::spawn(worker.run(stop));
    }
    agent.host_changed.notify_one();
    Ok(())
}

/// Takes up what root of this host asked; see [`crate::journal::requests`].
async fn take_requests(agent: &Agent) {
    let Some(works) = &agent.works else { return };
    let taken = match works.journal.take_requests(Taker::Agent, agent.clock.now()).await {
        Ok(taken) => taken,
        Err(error) => return tracing::warn!(%error, "requests of this host's root could not be taken up"),
    };
    for one in taken {
        let (verb, outcome) = (one.request.verb, one.request.outcome.unwrap_or_default());
        tracing::warn!(request = one.request.n, %verb, state = %one.request.state, who = one.request.who, outcome, "asked on this host");
        if let Some(order) = one.resumed {
            works.actors.enqueue(order.instance, order.order_id, None);
        }
        if one.request.state == RequestState::Done {
            agent.told.notify_one();
            agent.changed.notify_one();
        }
    }
}

/// Builds images by order, if the policy lets it; without a sound journal nothing is accepted anyway.
fn image_worker(agent: &Agent) -> anyhow::Result<Option<Worker>> {
    let (Some(works), Some(_)) = (&agent.works, &agent.policy.build) else { return Ok(None) };
    let address = host::address(&agent.config, &agent.config.pve_token_file)?;
    Ok(Some(Worker {
        journal: works.journal.clone(),
        api: Box::new(TokenAdmin::new(&address)?.rereading(&agent.config.pve_token_file)),
        clock: Arc::clone(&agent.clock),
        policy: agent.policy.clone(),
        node: agent.config.pve_node.clone(),
        wake: Arc::clone(&agent.build),
        changed: Arc::clone(&agent.host_changed),
    }))
}

async fn tidy(agent: Arc<Agent>) {
    let Some(works) = &agent.works else { return };
    match works.journal.retain(agent.clock.now()).await {
        Ok(0) => {}
        Ok(buried) => tracing::info!(buried, "old orders became tombstones"),
        Err(error) => tracing::warn!(%error, "old orders could not be put away"),
    }
    match works.journal.shed(agent.clock.now()).await {
        Ok(0) => {}
        Ok(shed) => tracing::info!(shed, "bytes of orders that were overtaken were let go"),
        Err(error) => tracing::warn!(%error, "bytes of orders that were overtaken could not be let go"),
    }
    if !works.actors.is_busy()
        && let Err(error) = agent.space.keep_reserve()
    {
        tracing::warn!(%error, "the reserve file could not be made");
    }
}

/// `None`: the file is damaged, is kept, and this node only reports.
async fn open_journal(
    config: &Config,
    clock: &dyn Clock,
    identity: &identity::Identity,
    space: &Space,
) -> anyhow::Result<Option<Journal>> {
    let path = config.journal_file();
    let open = || async {
        let journal = Journal::open(&path, clock, &SystemEntropy).await?;
        journal
            .adopt_identity(identity.node.node, identity.node.epoch, entropy::bytes(&SystemEntropy))
            .await?;
        journal.trust_version(identity.trust.version).await?;
        Ok::<_, JournalError>(journal)
    };
    match space.or_with_reserve(open).await {
        Ok(journal) => Ok(Some(journal)),
        Err(JournalError::Corrupt(why)) => {
            tracing::error!(why, file = %config.journal_file().display(), "JOURNAL_CORRUPT: this node only reports");
            Ok(None)
        }
        Err(error) => Err(error).context("opening the journal"),
    }
}

fn rules(config: &Config, policy: &Policy) -> anyhow::Result<Rules> {
    let Some(storage) = policy.storages.first().cloned() else {
        bail!("{}: storages names no storage", config.policy_file.display());
    };
    Ok(Rules {
        pool: policy.pool.clone(),
        storage,
        clone_mode: policy.clone,
        snippet_storage: config.snippet_storage.clone(),
        repair_dir: Some(config.state_dir.join("repair")),
        policy: policy.clone(),
    })
}

/// Waits for a host that is still starting, and refuses one that is too old.
async fn supported_version(pve: &dyn Hypervisor) -> anyhow::Result<String> {
    let mut pause = Duration::from_secs(1);
    loop {
        match pve.version().await {
            Ok(version) if version.is_supported() => return Ok(version.text),
            Ok(version) => bail!(
                "Proxmox VE {} is not supported: this agent needs 8.4 or newer (older ones get no security fixes, and \
                 their API lacks what it uses)",
                version.text
            ),
            Err(error) => {
                tracing::warn!(%error, "Proxmox VE does not answer yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(15));
            }
        }
    }
}

fn cluster_identity(config: &Config) -> anyhow::Result<String> {
    let path = &config.cluster_ca_file;
    let ca = std::fs::read(path).with_context(|| format!("the cluster's CA {}", path.display()))?;
    Ok(HEXLOWER.encode(&Sha256::digest(&ca)))
}

/// The kernel's boot id; empty, and said so, where it cannot be read. Nothing takes that for another boot.
pub(super) fn boot_id() -> String {
    let file = "/proc/sys/kernel/random/boot_id";
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => {
            tracing::error!(
                %error, file,
                "the boot of this host is not known: traffic is counted without it and may be too little; \
                 `ez-node-agent doctor` tells what to do"
            );
            String::new()
        }
    }
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("the setting log")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match config.log_format {
        LogFormat::Json => subscriber.json().try_init(),
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("setting up the log: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::fake::{FakeHypervisor, Fault};

    #[tokio::test]
    async fn a_proxmox_that_refuses_us_is_asked_again() {
        let pve = FakeHypervisor::with_template(9_000);
        pve.fail_next("version", Fault::Refused(401, "authentication failure".to_owned()));
        assert_eq!(supported_version(&pve).await.unwrap(), "9.2.11");
    }
}
