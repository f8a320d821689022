//! Brings the outside world and the control plane up, through their public commands only.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    child::{Program, Supervisor},
    layout::{LOCATIONS, Layout},
    portal,
};

/// The images of the demo: catalogue name, digest, size of the template's disk in GiB.
const IMAGES: [(&str, u64); 5] =
    [("debian-13", 3), ("debian-12", 3), ("ubuntu-24.04", 4), ("rocky-9", 10), ("rescue-debian-13", 3)];
/// The catalogue that the demo sells: the same file an installation begins with.
const CATALOG: &str = include_str!("../../../../packaging/control-plane/catalog.example.toml");

/// What the simulator said when it was ready.
#[derive(Debug)]
pub(crate) struct Ready(Value);

/// One simulated host, as the simulator describes it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Base URL of its API.
    pub(crate) api_url: String,
    /// SHA-256 of its certificate.
    pub(crate) fingerprint: String,
    /// File with the root certificate of its cluster.
    pub(crate) ca_pem_file: PathBuf,
    /// Base URL of its control API.
    pub(crate) control_url: String,
}

impl Ready {
    /// Finds a host by its name.
    pub(crate) fn host(&self, name: &str) -> anyhow::Result<Host> {
        let clusters = self.0["pve"]["clusters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut nodes = clusters.iter().filter_map(|c| c["nodes"].as_array()).flatten();
        let node =
            nodes.find(|n| n["name"] == name).with_context(|| format!("the simulator has no host {name}"))?;
        let text = |key: &str| -> anyhow::Result<String> {
            Ok(node[key].as_str().with_context(|| format!("ready.json: {name} has no {key}"))?.to_owned())
        };
        Ok(Host {
            api_url: text("api_url")?,
            fingerprint: text("fingerprint")?,
            ca_pem_file: text("ca_pem_file")?.into(),
            control_url: text("control_url")?,
        })
    }
}

/// The digest of an image of this name in the catalogue.
fn image_digest(name: &str) -> anyhow::Result<String> {
    let catalog: toml::Table = CATALOG.parse().context("catalog.example.toml")?;
    let images = catalog.get("images").and_then(toml::Value::as_array).context("no [[images]]")?;
    let image = images.iter().find(|i| i.get("code").and_then(toml::Value::as_str) == Some(name));
    let digest = image.and_then(|i| i.get("digest")).and_then(toml::Value::as_str);
    Ok(digest.with_context(|| format!("the catalogue has no image {name}"))?.to_owned())
}

fn simulator_config(layout: &Layout, speed: u32, host_memory: u32) -> anyhow::Result<Value> {
    let mut clusters = Vec::new();
    for (location, version) in LOCATIONS {
        let mut nodes = Vec::new();
        for plan in layout.nodes.iter().filter(|n| n.location == location) {
            let mut templates = Vec::new();
            for (index, (name, disk)) in IMAGES.into_iter().enumerate() {
                templates.push(json!({
                    // A VMID is unique in a cluster, so every host has a range of its own.
                    "vmid": plan.vmid_first / 10 * 4 + u32::try_from(index)?,
                    "name": name, "storage": "local-lvm", "disk_gib": disk,
                    "description": format!("ez-image:v1 {name} {}", image_digest(name)?),
                }));
            }
            nodes.push(json!({
                "name": plan.name,
                "listen": format!("127.0.0.1:{}", plan.pve_port),
                "control_listen": format!("127.0.0.1:{}", plan.control_port),
                "memory_mib": 1_024 * host_memory, "cores": 16.max(host_memory / 4),
                "storages": [
                    {"id": "local", "type": "dir", "content": ["iso", "vztmpl", "import", "backup"], "total_gib": 100},
                    {"id": "local-lvm", "type": "lvmthin", "content": ["images"], "total_gib": 1_000.max(16 * host_memory)},
                ],
                "bridges": ["vmbr0"],
                "templates": templates,
            }));
        }
        if !nodes.is_empty() {
            // Seeds of their own: two clusters that draw the same MACs would look like one address on two VMs.
            let seed = clusters.len() + 1;
            clusters.push(json!({"name": location, "version": version, "seed": seed, "nodes": nodes}));
        }
    }
    let portal = layout.portal_url();
    let ports = &layout.ports;
    Ok(json!({
        "state_dir": layout.state_dir.join("sim"),
        "request_log_dir": layout.state_dir.join("sim/logs"),
        "pve": {
            "clusters": clusters,
            "root_token": {"id": "root@pam!demo", "secret": layout.secrets.pve_root},
            "firewall_enabled": true,
            "task_speed": {"clone_ms": 1500 / speed, "start_ms": 900 / speed, "other_ms": 80 / speed},
            "guest_agent_after_ms": 3000 / speed,
        },
        "stripe": {
            "listen": format!("127.0.0.1:{}", ports.stripe),
            "control_listen": format!("127.0.0.1:{}", ports.stripe_control),
            "secret_key": layout.secrets.stripe_key,
            "webhook_url": format!("{portal}/webhooks/stripe"),
            "webhook_secret": layout.secrets.webhook_secret,
        },
        "mail": {
            "smtp_listen": format!("127.0.0.1:{}", ports.smtp),
            "http_listen": format!("127.0.0.1:{}", ports.mail),
        },
    }))
}

/// Starts the simulators and waits until they say that they are ready.
pub(crate) async fn simulator(
    layout: &Layout,
    supervisor: &Arc<Supervisor>,
    speed: u32,
    host_memory: u32,
) -> anyhow::Result<Ready> {
    let config = layout.state_dir.join("simulator.json");
    std::fs::write(&config, serde_json::to_string_pretty(&simulator_config(layout, speed, host_memory)?)?)?;
    let ready = layout.state_dir.join("sim/ready.json");
    let _ = std::fs::remove_file(&ready);
    supervisor.keep_alive(Program {
        name: "simulator".into(),
        binary: "ez-simulator",
        arguments: vec!["serve".into(), "--config".into(), config.display().to_string()],
        environment: vec![("LOG".into(), "info".into())],
    })?;
    let text = portal::until(Duration::from_secs(60), || async { std::fs::read_to_string(&ready).ok() })
        .await
        .with_context(|| format!("the simulator does not start:\n{}", supervisor.tail("simulator")))?;
    Ok(Ready(serde_json::from_str(&text).context("sim/ready.json")?))
}

/// Two people who can log in, with the tokens they have for the API.
#[derive(Clone, Debug)]
pub(crate) struct People {
    /// Token of the operator.
    pub(crate) operator_token: String,
    /// Token of the customer.
    pub(crate) customer_token: String,
}

/// Mail address of the operator.
pub(crate) const OPERATOR: &str = "operator@example.com";
/// Mail address of the customer.
pub(crate) const CUSTOMER: &str = "customer@example.com";

/// The environment of every command of the control plane.
pub(crate) fn environment(layout: &Layout) -> Vec<(String, String)> {
    let ports = &layout.ports;
    let pairs = [
        ("DATABASE_URL", layout.database_url.clone()),
        ("PUBLIC_URL", layout.portal_url()),
        ("LISTEN", format!("127.0.0.1:{}", ports.portal)),
        ("LINK_LISTEN", format!("127.0.0.1:{}", ports.link)),
        ("LINK_NAMES", "localhost,127.0.0.1".into()),
        ("LINK_ADDRESS", format!("127.0.0.1:{}", ports.link)),
        ("KEYS_DIR", layout.state_dir.join("keys").display().to_string()),
        ("STRIPE_API_BASE", format!("http://127.0.0.1:{}/", ports.stripe)),
        ("STRIPE_SECRET_KEY", layout.secrets.stripe_key.clone()),
        ("STRIPE_WEBHOOK_SECRETS", layout.secrets.webhook_secret.clone()),
        // The simulated Stripe allows more than the real one; whoever wants the real pace says so.
        (
            "STRIPE_CALLS_PER_SECOND",
            std::env::var("STRIPE_CALLS_PER_SECOND").unwrap_or_else(|_| "500".into()),
        ),
        ("SMTP_URL", format!("smtp://127.0.0.1:{}", ports.smtp)),
        ("MAIL_FROM", "EZ Solutions <servers@example.com>".into()),
        ("LOG_FORMAT", "json".into()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A command of the control plane.
pub(crate) fn command(layout: &Layout, arguments: &[&str]) -> Program {
    Program {
        name: "control-plane".into(),
        binary: "ez-control-plane",
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        environment: environment(layout),
    }
}

/// Seeds the control plane and starts it.
pub(crate) async fn control_plane(layout: &Layout, supervisor: &Arc<Supervisor>) -> anyhow::Result<People> {
    let run = async |arguments: &[&str], input: Option<&str>| {
        supervisor.run_once(&command(layout, arguments), input).await
    };
    if !layout.state_dir.join("keys").exists() {
        run(&["keys", "init"], None).await?;
    }
    run(&["migrate"], None).await?;
    let catalog = layout.state_dir.join("catalog.toml");
    if !catalog.exists() {
        std::fs::write(&catalog, CATALOG)?;
    }
    run(&["apply", &catalog.display().to_string()], None).await?;
    let people_file = layout.state_dir.join("people.json");
    let people = match std::fs::read_to_string(&people_file) {
        Ok(text) => {
            let known: Value = serde_json::from_str(&text)?;
            let token = |key: &str| known[key].as_str().unwrap_or_default().to_owned();
            People { operator_token: token("operator"), customer_token: token("customer") }
        }
        Err(_) => {
            let mut tokens = Vec::new();
            for (email, role, password) in [
                (OPERATOR, "operator", &layout.secrets.operator_password),
                (CUSTOMER, "customer", &layout.secrets.customer_password),
            ] {
                let user =
                    ["user", "create", "--email", email, "--role", role, "--verified", "--password-stdin"];
                run(&user, Some(password)).await?;
                let name = ["token", "create", "--email", email, "--name", "demo"];
                tokens.push(run(&name, None).await?.trim().to_owned());
            }
            let [operator_token, customer_token] =
                <[String; 2]>::try_from(tokens).map_err(|_| anyhow::anyhow!("two tokens are expected"))?;
            let text = json!({"operator": operator_token, "customer": customer_token});
            let temporary = people_file.with_extension("json.tmp");
            std::fs::write(&temporary, text.to_string())?;
            std::fs::rename(&temporary, &people_file)?;
            People { operator_token, customer_token }
        }
    };
    supervisor.keep_alive(command(layout, &["serve"]))?;
    if portal::ready(layout).await.is_none() {
        bail!("the control plane does not start:\n{}", supervisor.tail("control-plane"));
    }
    Ok(people)
}
