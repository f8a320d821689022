//! What the demo consists of: ports, secrets, hosts. Decided at the first start, kept after that.

use std::{
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rand::TryRng as _;
use serde::{Deserialize, Serialize};

/// The plan of one demo, stored as `<state_dir>/demo.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// Where everything is kept.
    pub(crate) state_dir: PathBuf,
    /// The control plane's database.
    pub(crate) database_url: String,
    /// Ports on 127.0.0.1.
    pub(crate) ports: Ports,
    /// Keys and passwords, made for this demo alone.
    pub(crate) secrets: Secrets,
    /// The simulated hosts.
    pub(crate) nodes: Vec<NodePlan>,
}

/// Ports on 127.0.0.1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// Portal and API.
    pub(crate) portal: u16,
    /// Link: QUIC over UDP and enrolment over TCP.
    pub(crate) link: u16,
    /// Stripe's API and hosted pages.
    pub(crate) stripe: u16,
    /// Control of the simulated Stripe.
    pub(crate) stripe_control: u16,
    /// Mail in.
    pub(crate) smtp: u16,
    /// Mail to read.
    pub(crate) mail: u16,
    /// Control of the network in front of the link; 0 in a plan of an older demo.
    #[serde(default)]
    pub(crate) link_proxy: u16,
}

/// Keys and passwords of this demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Stripe's test key.
    pub(crate) stripe_key: String,
    /// Stripe's webhook secret.
    pub(crate) webhook_secret: String,
    /// Secret of the token `root@pam!demo` of every simulated host.
    pub(crate) pve_root: String,
    /// The operator's password.
    pub(crate) operator_password: String,
    /// The customer's password.
    pub(crate) customer_password: String,
}

/// One simulated host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodePlan {
    /// Its name in Proxmox and in the portal.
    pub(crate) name: String,
    /// Where it stands; also the name of its cluster.
    pub(crate) location: String,
    /// Port of its Proxmox API.
    pub(crate) pve_port: u16,
    /// Port of its simulator's control API.
    pub(crate) control_port: u16,
    /// Where its agent dials with `--link-proxy`; 0 in a plan of an older demo.
    #[serde(default)]
    pub(crate) link_port: u16,
    /// First VMID it may use; 1,000 from there.
    pub(crate) vmid_first: u32,
}

/// The locations of the demo with the Proxmox VE version their cluster runs.
pub(crate) const LOCATIONS: [(&str, &str); 2] = [("fsn", "9"), ("hel", "8.4")];

impl Layout {
    /// Reads the plan of an earlier start or makes one.
    pub(crate) fn load_or_plan(
        state_dir: &Path,
        nodes: u16,
        database: Option<&str>,
        any_port: bool,
    ) -> anyhow::Result<Self> {
        let path = state_dir.join("demo.json");
        if path.exists() {
            let text = std::fs::read_to_string(&path)?;
            let known: Self = serde_json::from_str(&text).with_context(|| {
                format!("{} is not readable; delete the directory to start over", path.display())
            })?;
            if let Some(url) = database.filter(|url| *url != known.database_url) {
                bail!("this demo was begun with {}, not {url}; use another --state-dir", known.database_url);
            }
            return Ok(known);
        }
        let plan = Self::plan(state_dir, nodes, database, any_port)?;
        let text = serde_json::to_string_pretty(&plan)?;
        let temporary = path.with_extension("json.tmp");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)?;
        Ok(plan)
    }

    fn plan(state_dir: &Path, nodes: u16, database: Option<&str>, any_port: bool) -> anyhow::Result<Self> {
        let mut taken = Taken::default();
        let wish = |port| if any_port { 0 } else { port };
        let ports = Ports {
            portal: taken.port(wish(8080))?,
            link: taken.port(wish(7443))?,
            stripe: taken.port(wish(8081))?,
            stripe_control: taken.port(0)?,
            smtp: taken.port(0)?,
            mail: taken.port(wish(8082))?,
            link_proxy: taken.port(0)?,
        };
        let mut counters = [0_u32; LOCATIONS.len()];
        let mut plans = Vec::new();
        for index in 0..usize::from(nodes) {
            // Two of three hosts stand in the first location.
            let at = usize::from(index % 3 == 2);
            counters[at] += 1;
            plans.push(NodePlan {
                name: format!("{}-{}", LOCATIONS[at].0, counters[at]),
                location: LOCATIONS[at].0.to_owned(),
                pve_port: taken.port(0)?,
                control_port: taken.port(0)?,
                link_port: taken.port(0)?,
                vmid_first: 20_000 + 1_000 * counters[at],
            });
        }
        let sqlite = format!("sqlite:{}", state_dir.join("control-plane.sqlite").display());
        Ok(Self {
            state_dir: state_dir.to_owned(),
            database_url: database.map_or(sqlite, str::to_owned),
            ports,
            secrets: Secrets {
                stripe_key: format!("sk_test_{}", random_word(24)?),
                webhook_secret: format!("whsec_{}", random_word(32)?),
                pve_root: random_uuid()?,
                operator_password: format!("operator-{}", random_word(10)?),
                customer_password: format!("customer-{}", random_word(10)?),
            },
            nodes: plans,
        })
    }

    /// `http://localhost:<port>`: what a person types.
    pub(crate) fn portal_url(&self) -> String {
        format!("http://localhost:{}", self.ports.portal)
    }

    /// The directory of one node's agent.
    pub(crate) fn node_dir(&self, name: &str) -> PathBuf {
        self.state_dir.join("nodes").join(name)
    }
}

/// Ports already given out; held until all are chosen, so that none is given twice.
#[derive(Default)]
struct Taken(Vec<(TcpListener, UdpSocket)>);

impl Taken {
    /// The wished port, if it is free for TCP and UDP, else any other.
    fn port(&mut self, wished: u16) -> anyhow::Result<u16> {
        let mut candidates = if wished == 0 { vec![] } else { vec![wished] };
        // Below the range the system takes for outgoing connections: a port stays free until it is bound,
        // and again while a child is started anew.
        for _ in 0..50 {
            candidates.push(20_000 + u16::from_be_bytes(random_bytes()?) % 12_000);
        }
        for port in candidates {
            let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)) else { continue };
            if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
                self.0.push((tcp, udp));
                return Ok(port);
            }
        }
        bail!("no free port on 127.0.0.1")
    }
}

fn random_bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).context("the system has no randomness")?;
    Ok(bytes)
}

/// Letters and digits that are not mistaken for one another.
fn random_word(length: usize) -> anyhow::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes = random_bytes::<64>()?;
    Ok(bytes.iter().take(length).map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect())
}

fn random_uuid() -> anyhow::Result<String> {
    Ok(uuid::Builder::from_random_bytes(random_bytes()?).into_uuid().to_string())
}
