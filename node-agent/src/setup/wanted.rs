//! What setup is to bring about: from the command line, the environment, the files there are.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{AdminApi, PveshAdmin, SetupError, TokenAdmin, pin};
use crate::{
    config,
    policy::{self, ImageBuilds, Policy},
    pve::{Fingerprint, PveAddress, is_config_id, is_node_name},
};

/// Options of `setup`. What is not given comes from `agent.toml`, `EZ_AGENT_…` or is found out.
#[derive(Clone, Debug, Default, Args)]
pub struct SetupArgs {
    /// Only say what would be changed.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before changing anything.
    #[arg(long)]
    pub yes: bool,
    /// Ask Proxmox over HTTPS with this administrator's token (user@realm!name=secret) instead of
    /// through pvesh as root.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Proxmox's API [default: https://127.0.0.1:8006].
    #[arg(long, value_name = "URL")]
    pub pve_url: Option<String>,
    /// SHA-256 fingerprint of its certificate [default: of the host's certificate file].
    #[arg(long, value_name = "AA:BB:…")]
    pub pve_fingerprint: Option<String>,
    /// Name of this node in its cluster [default: found out].
    #[arg(long, value_name = "NAME")]
    pub pve_node: Option<String>,
    /// File for the agent's own token [default: /etc/ez-node-agent/pve-token].
    #[arg(long, value_name = "FILE")]
    pub pve_token_file: Option<PathBuf>,
    /// The agent's state [default: /var/lib/ez-node-agent].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The policy file; written only if there is none [default: /etc/ez-node-agent/policy.toml].
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<PathBuf>,
    /// Directory for cloud-init snippets; its name must be `snippets` [default: <state>/ci/snippets].
    #[arg(long, value_name = "DIR")]
    pub snippet_dir: Option<PathBuf>,
    /// Name of the snippet storage in Proxmox [default: ez-ci-<node>].
    #[arg(long, value_name = "NAME")]
    pub snippet_storage: Option<String>,
    /// The cluster's root certificate, copied to where the agent may read it
    /// [default: /etc/pve/pve-root-ca.pem].
    #[arg(long, value_name = "FILE")]
    pub cluster_ca: Option<PathBuf>,
    /// VMIDs for a new policy file, as first-last [default: a block of 10,000 per node].
    #[arg(long, value_name = "FIRST-LAST")]
    pub vmids: Option<String>,
    /// Storages for a new policy file; may be repeated [default: the first local one for disks].
    #[arg(long = "storage", value_name = "NAME")]
    pub storages: Vec<String>,
    /// Bridges for a new policy file; may be repeated [default: the first].
    #[arg(long = "bridge", value_name = "NAME")]
    pub bridges: Vec<String>,
    /// Address prefixes for a new policy file; may be repeated [default: any].
    #[arg(long = "prefix", value_name = "CIDR")]
    pub prefixes: Vec<ipnet::IpNet>,
    /// VLAN tags or ranges for a new policy file; may be repeated [default: untagged only].
    #[arg(long = "vlan", value_name = "TAGS")]
    pub vlans: Vec<String>,
    /// Make linked clones instead of full ones, for a new policy file.
    #[arg(long)]
    pub linked: bool,
    /// Storage for backups of servers, for a new policy file [default: no backups].
    #[arg(long, value_name = "NAME")]
    pub backup_storage: Option<String>,
    /// Storage of the media customers may insert, for a new policy file [default: none].
    #[arg(long, value_name = "NAME")]
    pub iso_storage: Option<String>,
    /// Let passwords be set inside running guests, for a new policy file.
    #[arg(long)]
    pub guest_passwords: bool,
    /// Go on with a policy file that cannot be understood, as though there were none.
    #[arg(skip)]
    pub without_policy: bool,
    /// What was set up is to be taken away.
    #[arg(skip)]
    pub leaves: bool,
}

/// Everything setup aims at, before it has looked at Proxmox.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where setup writes what it finds, beside `agent.toml`.
    pub setup_file: PathBuf,
    /// Its text, if it is there.
    pub setup_text: Option<String>,
    /// Keys that the host's owner set in `agent.toml`: setup does not say them again.
    pub owners: BTreeSet<String>,
    /// Proxmox's API.
    pub pve_url: String,
    /// Fingerprint as given, if so.
    pub fingerprint: Option<Fingerprint>,
    /// Whether nobody gave it, and it is that of this host's own certificate file.
    pub fingerprint_of_host: bool,
    /// Node as given, if so.
    pub node: Option<String>,
    /// The agent's token.
    pub token_file: PathBuf,
    /// The agent's state.
    pub state_dir: PathBuf,
    /// The policy file.
    pub policy_file: PathBuf,
    /// Whether what was set up is to be taken away.
    pub leaves: bool,
    /// The policy, if the file is there.
    pub policy: Option<Policy>,
    /// Snippets; ends in `snippets`.
    pub snippet_dir: PathBuf,
    /// Snippet storage as given, if so.
    pub snippet_storage: Option<String>,
    /// Where the cluster's root certificate comes from.
    pub cluster_ca: PathBuf,
    /// Where the agent reads it.
    pub cluster_ca_copy: PathBuf,
    /// Pool of servers.
    pub pool: String,
    /// Pool of templates.
    pub template_pool: String,
    /// How images may be built by order, if the policy file says so.
    pub build: Option<ImageBuilds>,
    /// Storages for disks; empty until they are found out.
    pub storages: Vec<String>,
    /// Bridges; empty until they are found out.
    pub bridges: BTreeSet<String>,
    /// For a new policy file.
    pub vmids: Option<RangeInclusive<u32>>,
    /// For a new policy file.
    pub prefixes: Vec<ipnet::IpNet>,
    /// For a new policy file.
    pub vlans: Vec<String>,
    /// For a new policy file.
    pub linked: bool,
    /// Storage for backups, if there is one.
    pub backup_storage: Option<String>,
    /// Storage of media, if there is one.
    pub iso_storage: Option<String>,
    /// Whether passwords may be set inside guests.
    pub guest_passwords: bool,
    /// The administrator's token, if one is used.
    pub admin_token: Option<String>,
    /// Whether the agent that is set up is the one the package's unit starts.
    pub by_unit: bool,
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, SetupError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SetupError::file("read", path)(error)),
    }
}

fn table(file: &Path, text: Option<String>) -> Result<toml::Table, SetupError> {
    toml::from_str(&text.unwrap_or_default())
        .map_err(|e| SetupError::Refused(format!("{} is no TOML: {}", file.display(), e.message())))
}

/// Certificate files of a Proxmox host; the first that is there is the one it shows.
const CERTIFICATES: [&str; 2] = ["/etc/pve/local/pveproxy-ssl.pem", "/etc/pve/local/pve-ssl.pem"];

/// Proxmox's API on its own host.
const PVE_URL: &str = "https://127.0.0.1:8006";

/// The package's unit. Its sandbox knows one directory.
const UNIT: &str = "/usr/lib/systemd/system/ez-node-agent.service";

/// Where a Proxmox host finds its own part of the cluster's files: a link to `nodes/<its name>`.
const OWN_PART: &str = "/etc/pve/local";

/// The name of this very host in its cluster, if this is a Proxmox host.
fn host_node() -> Option<String> {
    let name = std::fs::read_link(OWN_PART).ok()?.file_name()?.to_str()?.to_owned();
    is_node_name(&name).then_some(name)
}

/// Fingerprint of the certificate this very host shows, if this is a Proxmox host.
pub(super) fn host_fingerprint() -> Option<Fingerprint> {
    let pem = CERTIFICATES.iter().find_map(|path| std::fs::read(path).ok())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Some(Fingerprint::of_der(&pem.contents))
}

/// Reads `first-last`, within what Proxmox allows.
pub fn vmid_range(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (100 <= first && first <= last && last <= 999_999_999).then_some(first..=last)
}

impl Wanted {
    /// Gathers what is given; looks at local files only.
    ///
    /// # Errors
    /// A file that is there cannot be read, or something given makes no sense.
    pub fn gather(
        args: &SetupArgs,
        config_file: &Path,
        env: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Self, SetupError> {
        let refuse = |text: String| SetupError::Refused(text);
        let setup_file = config::setup_file(config_file);
        let setup_text = read_if_there(&setup_file)?;
        let (owner, found) =
            (table(config_file, read_if_there(config_file)?)?, table(&setup_file, setup_text.clone())?);
        let text =
            |table: &toml::Table, key: &str| table.get(key).and_then(|v| v.as_str()).map(str::to_owned);
        let owners_word =
            |key: &str| env(&format!("EZ_AGENT_{}", key.to_uppercase())).or_else(|| text(&owner, key));
        let given = |key: &str| owners_word(key).or_else(|| text(&found, key));
        let path = |arg: &Option<PathBuf>, key: &str, default: PathBuf| -> Result<PathBuf, SetupError> {
            let path = arg.clone().or_else(|| given(key).map(PathBuf::from)).unwrap_or(default);
            std::path::absolute(&path).map_err(SetupError::file("find", &path))
        };
        let setup_file = std::path::absolute(&setup_file).map_err(SetupError::file("find", &setup_file))?;
        let config_dir = setup_file.parent().unwrap_or(Path::new("/etc/ez-node-agent")).to_owned();
        let state_dir = path(&args.state_dir, "state_dir", "/var/lib/ez-node-agent".into())?;
        let policy_file = path(&args.policy_file, "policy_file", config_dir.join("policy.toml"))?;
        let snippet_dir = path(&args.snippet_dir, "snippet_dir", state_dir.join("ci/snippets"))?;
        if snippet_dir.file_name().is_none_or(|name| name != "snippets") {
            let text = format!(
                "{}: Proxmox reads snippets only from a directory named snippets",
                snippet_dir.display()
            );
            return Err(refuse(text));
        }
        // What setup found earlier comes last: a certificate is renewed, and then this host shows another.
        let pinned = |text: String| text.parse().map_err(|e| refuse(format!("pve_fingerprint: {e}")));
        let said = args.pve_fingerprint.clone().or_else(|| owners_word("pve_fingerprint"));
        // Unless it was given for something that stands before Proxmox, and not read from this host's file.
        let url = args.pve_url.clone().or_else(|| given("pve_url"));
        let marked = setup_text.as_deref().is_some_and(|text| text.lines().any(pin::is_marked));
        let before_it =
            !marked && url.is_some_and(|url| url != PVE_URL) && given("pve_fingerprint").is_some();
        let (fingerprint, fingerprint_of_host) = match said {
            Some(text) => (Some(pinned(text)?), false),
            None => match host_fingerprint().filter(|_| !before_it) {
                Some(shown) => (Some(shown), true),
                None => (given("pve_fingerprint").map(pinned).transpose()?, false),
            },
        };
        let node = args.pve_node.clone().or_else(|| given("pve_node")).or_else(host_node);
        if let Some(node) = node.as_ref().filter(|node| !is_node_name(node)) {
            return Err(refuse(format!("{node:?} is not a node name")));
        }
        let vmids = match &args.vmids {
            None => None,
            Some(text) => {
                let range = vmid_range(text);
                Some(range.ok_or_else(|| refuse(format!("--vmids {text}: 100000-109999 is the form")))?)
            }
        };
        let policy = match read_if_there(&policy_file)? {
            Some(text) => match policy::parse(&policy_file, &text) {
                Err(_) if args.without_policy => None,
                read => Some(read?),
            },
            None => None,
        };
        let admin_token = match &args.admin_token_file {
            None => None,
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(SetupError::file("read", file))?;
                Some(text.trim().to_owned())
            }
        };
        let names = [&args.storages, &args.bridges]
            .into_iter()
            .flatten()
            .chain(&args.snippet_storage)
            .chain(&args.backup_storage)
            .chain(&args.iso_storage);
        for name in names {
            if !is_config_id(name) {
                return Err(refuse(format!("{name:?} is not a storage or bridge name")));
            }
        }
        let pools = policy.as_ref().map(|p| (p.pool.clone(), p.template_pool.clone()));
        let (pool, template_pool) = pools.unwrap_or_else(|| ("ez".to_owned(), "ez-templates".to_owned()));
        Ok(Self {
            pve_url: args.pve_url.clone().or_else(|| given("pve_url")).unwrap_or(PVE_URL.into()),
            token_file: path(&args.pve_token_file, "pve_token_file", config_dir.join("pve-token"))?,
            snippet_storage: args.snippet_storage.clone().or_else(|| given("snippet_storage")),
            cluster_ca: args.cluster_ca.clone().unwrap_or("/etc/pve/pve-root-ca.pem".into()),
            cluster_ca_copy: path(&None, "cluster_ca_file", config_dir.join("pve-root-ca.pem"))?,
            storages: policy.as_ref().map_or_else(|| args.storages.clone(), |p| p.storages.clone()),
            bridges: policy
                .as_ref()
                .map_or_else(|| args.bridges.iter().cloned().collect(), |p| p.bridges.clone()),
            build: policy.as_ref().and_then(|policy| policy.build.clone()),
            prefixes: args.prefixes.clone(),
            vlans: args.vlans.clone(),
            linked: args.linked,
            backup_storage: policy
                .as_ref()
                .map_or_else(|| args.backup_storage.clone(), |p| p.backup_storage.clone()),
            iso_storage: policy.as_ref().map_or_else(|| args.iso_storage.clone(), |p| p.iso_storage.clone()),
            guest_passwords: policy.as_ref().map_or(args.guest_passwords, |p| p.guest_passwords),
            leaves: args.leaves,
            owners: owner.keys().cloned().collect(),
            setup_file,
            setup_text,
            fingerprint,
            fingerprint_of_host,
            node,
            state_dir,
            policy_file,
            policy,
            snippet_dir,
            pool,
            template_pool,
            vmids,
            admin_token,
            by_unit: config_file == Path::new(config::DEFAULT_PATH) && Path::new(UNIT).exists(),
        })
    }

    /// The way to Proxmox that was asked for.
    ///
    /// # Errors
    /// The administrator's token cannot be used, or no certificate is known to trust.
    pub fn admin(&self) -> Result<Box<dyn AdminApi>, SetupError> {
        let Some(token) = self.admin_token.clone() else { return Ok(Box::new(PveshAdmin)) };
        let fingerprint = self.need_fingerprint()?;
        let address = PveAddress { url: self.pve_url.clone(), fingerprint, token };
        Ok(Box::new(TokenAdmin::new(&address).map_err(SetupError::pve("using the administrator's token"))?))
    }

    /// The certificate to trust.
    ///
    /// # Errors
    /// None is known; it is never taken from the network.
    pub fn need_fingerprint(&self) -> Result<Fingerprint, SetupError> {
        self.fingerprint.ok_or_else(|| {
            SetupError::Refused(format!(
                "no certificate is known to trust: neither {} nor {} is here; give --pve-fingerprint \
                 (shown by `pvenode cert info`)",
                CERTIFICATES[0], CERTIFICATES[1]
            ))
        })
    }
}
