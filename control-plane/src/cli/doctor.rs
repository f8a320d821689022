//! `doctor`: looks at the world around the configuration, one line per check, with what to do about it.

use std::{net::ToSocketAddrs, os::unix::fs::PermissionsExt, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use ez_protocol::UnixMillis;
use serde::Serialize;
use tokio::net::TcpStream;
use url::Url;

use super::say;
use crate::{
    accounts, audit, catalog,
    clock::{Clock, SystemClock},
    config::{Config, Vars},
    db::{Backend, Db, DbError, database_now},
    entropy::SystemEntropy,
    fleet, jobs, keys,
};

#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    /// Print a JSON array: name, result, detail, fix.
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    result: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    fix: &'static str,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Books a check: `wrong` is what it is if it does not hold.
    fn check(
        &mut self,
        name: &'static str,
        holds: bool,
        wrong: Outcome,
        detail: impl Into<String>,
        fix: &'static str,
    ) {
        let (result, fix) = if holds { (Outcome::Ok, "") } else { (wrong, fix) };
        self.0.push(Finding { name, result, detail: detail.into(), fix });
    }

    fn must(&mut self, name: &'static str, holds: bool, detail: impl Into<String>, fix: &'static str) {
        self.check(name, holds, Outcome::Fail, detail, fix);
    }

    fn should(&mut self, name: &'static str, holds: bool, detail: impl Into<String>, fix: &'static str) {
        self.check(name, holds, Outcome::Warn, detail, fix);
    }
}

/// Looks at everything; fails if something has to be mended.
pub(super) async fn doctor(vars: &Vars, command: DoctorCommand) -> anyhow::Result<ExitCode> {
    let mut found = Findings::default();
    match Config::read(vars) {
        Err(problems) => {
            let keys: Vec<&str> = problems.0.iter().map(|problem| problem.key).collect();
            found.must(
                "configuration",
                false,
                keys.join(", "),
                "ez-control-plane check-config says what is wrong",
            );
        }
        Ok(config) => {
            found.must("configuration", true, "readable", "");
            addresses(&config, &mut found);
            key_files(&config, &mut found);
            outside(&config, &mut found).await;
            match Db::open(config.storage.database_url.expose()).await {
                Ok(db) => database(&db, &config, &mut found).await,
                Err(error) => {
                    found.must("database", false, error.to_string(), "check DATABASE_URL and that it runs")
                }
            }
        }
    }
    if command.json {
        say(serde_json::to_string(&found.0)?)?;
    } else {
        for finding in &found.0 {
            say(format_args!(
                "{:<5} {:<22} {}",
                format!("{:?}", finding.result).to_lowercase(),
                finding.name,
                finding.detail
            ))?;
            if !finding.fix.is_empty() {
                say(format_args!("      fix: {}", finding.fix))?;
            }
        }
    }
    let failed = found.0.iter().any(|finding| finding.result == Outcome::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn resolves(host: &str, port: u16) -> bool {
    (host.trim_matches(['[', ']']), port).to_socket_addrs().is_ok_and(|mut found| found.next().is_some())
}

fn addresses(config: &Config, found: &mut Findings) {
    let http = &config.http;
    let host = http.public_url.host_str().unwrap_or_default();
    let port = http.public_url.port_or_known_default().unwrap_or(443);
    found.should(
        "public-https",
        http.is_secure(),
        http.public_url.as_str(),
        "set PUBLIC_URL to https://… and end TLS in a proxy",
    );
    found.should("public-name", resolves(host, port), host, "make the name of PUBLIC_URL resolve");
    found.should(
        "portal-behind-proxy",
        http.listen.ip().is_loopback(),
        http.listen.to_string(),
        "listen on loopback and let a proxy end TLS",
    );
    let proxies = !http.is_secure() || !http.trusted_proxies.is_empty();
    found.should(
        "trusted-proxies",
        proxies,
        format!("{} set", http.trusted_proxies.len()),
        "set TRUSTED_PROXIES, or everybody shares one rate limit",
    );
    let link = &config.link;
    let reachable = !link.listen.ip().is_loopback() || !http.is_secure();
    found.should(
        "link-reachable",
        reachable,
        link.listen.to_string(),
        "let LINK_LISTEN be reachable by the hosts (UDP and TCP)",
    );
    let only_local = link.names.iter().all(|name| ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()));
    found.should(
        "link-names",
        !only_local || !http.is_secure(),
        link.names.join(", "),
        "set LINK_NAMES to what hosts dial, before keys init",
    );
    let dialled = format!("https://{}", link.address).parse::<Url>().ok();
    let dialled = dialled.as_ref().and_then(Url::host_str).unwrap_or_default().trim_matches(['[', ']']);
    found.must(
        "link-address-named",
        link.names.iter().any(|name| name == dialled),
        link.address.as_str(),
        "add the host of LINK_ADDRESS to LINK_NAMES",
    );
    found.should(
        "link-address-name",
        resolves(dialled, link.listen.port()),
        dialled,
        "make the host of LINK_ADDRESS resolve",
    );
    let live = config.stripe.is_live();
    found.must(
        "live-needs-https",
        !live || http.is_secure(),
        if live { "live" } else { "test mode" },
        "never take money on plain http",
    );
    let secrets = config.stripe.webhook_secrets.len();
    found.should(
        "webhook-secrets",
        secrets <= 2,
        format!("{secrets} accepted"),
        "remove webhook secrets that were replaced",
    );
    let from = config.mail.from.email.to_string();
    found.should(
        "mail-sender",
        !from.ends_with("localdomain"),
        from,
        "set MAIL_FROM to an address of your domain",
    );
}

fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|meta| meta.permissions().mode() & 0o777)
}

/// Nodes trust an installation's keys until they end; that is worth knowing this long before.
const KEYS_LAST_DAYS: u64 = 180;

fn key_files(config: &Config, found: &mut Findings) {
    let dir = &config.storage.keys_dir;
    let bits = mode(dir);
    found.must("keys-directory", bits.is_some(), dir.display().to_string(), "ez-control-plane keys init");
    let private = bits.is_none_or(|bits| bits & 0o077 == 0);
    found.must(
        "keys-private",
        private,
        bits.map_or("-".into(), |bits| format!("{bits:o}")),
        "chmod 700 the directory",
    );
    let loaded = keys::load(dir, &config.link.names, &SystemEntropy);
    let detail = match &loaded {
        Ok(keys) => format!("trust document {} version {}", keys.pin(), keys.trust_version()),
        Err(error) => error.to_string(),
    };
    found.must(
        "keys-load",
        loaded.is_ok(),
        detail,
        "restore the directory from its copy, or keys init on a new installation",
    );
    let trust = loaded.ok().and_then(|keys| keys.trust().ok());
    let Some(trust) = trust else { return };
    // Those that sign: one that was exchanged ends soon, as it should.
    let held = keys::held(dir).map(|(_, held)| held).unwrap_or_default();
    let ends = held.iter().filter(|key| key.place == keys::Place::Signs).map(|key| key.until).min();
    let ends = ends.unwrap_or(UnixMillis(0));
    let days = ends.since(SystemClock.now()).as_secs() / 86_400;
    found.should(
        "keys-last",
        days > KEYS_LAST_DAYS,
        format!("{days} days"),
        "new signing keys: ez-control-plane keys prepare order (and trust), then keys switch",
    );
    let authorities = trust.agent_ca_der().into_iter().chain(trust.link_ca_der()).flatten();
    let Some(ends) = authorities.filter_map(|der| keys::certificate_ends(&der)).min() else { return };
    let days = ends.since(SystemClock.now()).as_secs() / 86_400;
    found.should(
        "authorities-last",
        days > KEYS_LAST_DAYS,
        format!("{days} days"),
        "plan new keys: ez-control-plane keys init in a new directory, then node token and join for each node",
    );
}

async fn connects(host: &str, port: u16) -> bool {
    let connect = TcpStream::connect((host.trim_matches(['[', ']']).to_owned(), port));
    matches!(tokio::time::timeout(Duration::from_secs(5), connect).await, Ok(Ok(_)))
}

async fn outside(config: &Config, found: &mut Findings) {
    let api = &config.stripe.api_base;
    let (host, port) = (api.host_str().unwrap_or_default(), api.port_or_known_default().unwrap_or(443));
    found.must(
        "stripe-reachable",
        connects(host, port).await,
        format!("{host}:{port}"),
        "let this machine reach STRIPE_API_BASE",
    );
    let smtp = config.mail.smtp_url.as_ref().and_then(|url| url.expose().parse::<Url>().ok());
    found.must(
        "mail-server",
        smtp.is_some(),
        if smtp.is_some() { "set" } else { "not set" },
        "set SMTP_URL: without mail nobody can sign up",
    );
    if let Some(url) = smtp {
        let port = url.port().unwrap_or(if url.scheme() == "smtps" { 465 } else { 25 });
        let host = url.host_str().unwrap_or_default().to_owned();
        found.must(
            "mail-reachable",
            connects(&host, port).await,
            format!("{host}:{port}"),
            "check SMTP_URL and the firewall",
        );
    }
    let listen = config.http.listen;
    found.should(
        "portal-answers",
        connects(&listen.ip().to_string(), listen.port()).await,
        listen.to_string(),
        "start ez-control-plane serve",
    );
}

async fn database(db: &Db, config: &Config, found: &mut Findings) {
    found.must("database", true, format!("{:?}", db.backend()), "");
    if db.backend() == Backend::Sqlite {
        let path = config
            .storage
            .database_url
            .expose()
            .trim_start_matches("sqlite:")
            .split('?')
            .next()
            .unwrap_or_default();
        let bits = mode(Path::new(path.trim_start_matches("//")));
        let private = bits.is_none_or(|bits| bits & 0o007 == 0);
        found.should(
            "database-private",
            private,
            bits.map_or("-".into(), |bits| format!("{bits:o}")),
            "chmod o-rwx the database file",
        );
    }
    let writes = db.write::<_, DbError, _>(|tx| Box::pin(async move { database_now(tx).await })).await;
    found.must(
        "database-writes",
        writes.is_ok(),
        if writes.is_ok() { "yes" } else { "no" },
        "look at the disk and its space",
    );
    let apart = writes
        .map_or(i64::MAX, |theirs| theirs.0.abs_diff(SystemClock.now().0).try_into().unwrap_or(i64::MAX));
    found.must(
        "clocks-agree",
        apart < 2_000,
        format!("{apart} ms apart"),
        "let both machines keep time by NTP",
    );
    let pending = db.pending().await.map_or(usize::MAX, |pending| pending.0.len());
    found.must("migrations", pending == 0, format!("{pending} pending"), "ez-control-plane migrate");
    if pending == 0
        && let Err(error) = contents(db, found).await
    {
        found.must("contents", false, error.to_string(), "look at the log");
    }
}

async fn contents(db: &Db, found: &mut Findings) -> Result<(), DbError> {
    let now = SystemClock.now();
    let mut connection = db.read().await?;
    let operators = accounts::operators(&mut connection).await?.len();
    found.should(
        "operators",
        operators > 0,
        format!("{operators}"),
        "ez-control-plane user create --role operator",
    );
    let plans = catalog::plans(&mut connection).await?.len();
    found.should("plans", plans > 0, format!("{plans} on sale"), "ez-control-plane apply catalog.toml");
    let images = catalog::images(&mut connection).await?.len();
    found.should("images", images > 0, format!("{images} on sale"), "ez-control-plane apply catalog.toml");
    let locations = fleet::locations(&mut connection).await?.len();
    found.should("locations", locations > 0, format!("{locations}"), "ez-control-plane apply catalog.toml");
    let nodes = fleet::nodes::list(&mut connection, None).await?;
    found.should("nodes", !nodes.is_empty(), format!("{}", nodes.len()), "ez-control-plane node add");
    let away = nodes.iter().filter(|node| node.presence(now) != fleet::Presence::Online).count();
    found.should(
        "nodes-online",
        away == 0,
        format!("{away} away"),
        "look at ez-node-agent doctor on those hosts",
    );
    let warned = nodes.iter().filter(|node| !node.warnings.is_empty()).count();
    found.should("nodes-warnings", warned == 0, format!("{warned} warn"), "the node's page says of what");
    let (due, dead) = jobs::depth(&mut connection, now).await?;
    found.should("jobs-waiting", due < 100, format!("{due} due"), "is ez-control-plane serve running?");
    found.should(
        "jobs-dead",
        dead == 0,
        format!("{dead} given up"),
        "the log says why; they stay until asked for again",
    );
    drop(connection);
    let verdict = audit::verify(db).await?;
    found.must(
        "audit-chain",
        verdict.breaches.is_empty(),
        format!("{} rows", verdict.sealed),
        "somebody changed the audit log: compare with a backup",
    );
    found.should(
        "audit-sealed",
        verdict.unsealed < 100,
        format!("{} wait", verdict.unsealed),
        "is ez-control-plane serve running?",
    );
    Ok(())
}
