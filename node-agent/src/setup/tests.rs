//! Setup against an administrator's API in memory: what it does, that it does it once, what it
//! refuses, and that leaving takes it away again.

mod leaving;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard},
};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use super::{admin::Parameters, *};
use crate::pve::PveError;

#[derive(Default)]
struct Cluster {
    version: &'static str,
    nodes: Vec<&'static str>,
    pools: BTreeMap<String, BTreeSet<u32>>,
    roles: BTreeMap<String, BTreeSet<String>>,
    users: BTreeSet<String>,
    tokens: BTreeMap<String, u32>,
    acl: BTreeSet<(String, String)>,
    storages: BTreeMap<String, Value>,
    templates: BTreeMap<u32, String>,
    /// VMs that are no templates: their node and description.
    vms: BTreeMap<u32, (&'static str, String)>,
    issued: u32,
    writes: u32,
    /// Grants on everything; there must be none.
    widest: u32,
    /// Nodes that show the certificate of this host.
    alike: Vec<&'static str>,
}

struct FakeAdmin(Mutex<Cluster>);

fn refused(message: String) -> PveError {
    PveError::Refused { call: "fake".into(), status: 500, message, errors: BTreeMap::new() }
}

impl FakeAdmin {
    fn new(version: &'static str, nodes: &[&'static str]) -> Self {
        let marker = format!("ez-image:v1 debian-13 sha256:{}", "a".repeat(64));
        Self(Mutex::new(Cluster {
            version,
            nodes: nodes.to_vec(),
            templates: [(9000, marker), (9001, "something else".into()), (9002, "ez-image:v1 broken".into())]
                .into(),
            ..Cluster::default()
        }))
    }

    fn state(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap()
    }
}

impl Cluster {
    fn read(&self, path: &str, get: &dyn Fn(&str) -> String) -> Result<Value, PveError> {
        let set = |items: &BTreeSet<String>| items.iter().cloned().collect::<Vec<_>>().join(",");
        Ok(match path {
            "/version" => json!({"version": self.version}),
            "/nodes" => self
                .nodes
                .iter()
                .map(|n| {
                    let shows = [if self.alike.contains(n) { "AB" } else { "CD" }; 32].join(":");
                    json!({"node": n, "status": "online", "maxcpu": 16, "maxmem": 64_u64 << 30,
                           "ssl_fingerprint": shows})
                })
                .collect(),
            "/pools" if get("poolid").is_empty() => self.pools.keys().map(|p| json!({"poolid": p})).collect(),
            "/pools" => {
                let members: Vec<Value> =
                    self.pools[&get("poolid")].iter().map(|id| json!({"vmid": id, "type": "qemu"})).collect();
                json!([{"poolid": get("poolid"), "members": members}])
            }
            "/access/roles" => {
                self.roles.iter().map(|(r, p)| json!({"roleid": r, "privs": set(p), "special": 0})).collect()
            }
            "/access/users" => self.users.iter().map(|u| json!({"userid": u, "enable": 1})).collect(),
            "/access/acl" => {
                let row = |(path, role): &(String, String)| json!({"path": path, "roleid": role, "type": "user", "ugid": PVE_USER, "propagate": 1});
                self.acl.iter().map(row).collect()
            }
            "/storage" => self.storages.values().cloned().collect(),
            "/cluster/firewall/options" => json!({"digest": "x"}),
            _ if path.ends_with("/token") => self.tokens.keys().map(|t| json!({"tokenid": t})).collect(),
            _ if path.ends_with("/storage") => json!([
                {"storage": "nfs", "active": 1, "enabled": 1, "shared": 1, "total": 5_u64 << 40},
                {"storage": "local-lvm", "active": 1, "enabled": 1, "shared": 0, "total": 1000_u64 << 30},
            ]),
            _ if path.ends_with("/network") => {
                json!([{"iface": "eth0", "type": "eth"}, {"iface": "vmbr1", "type": "bridge"}, {"iface": "vmbr0", "type": "bridge"}])
            }
            _ if path.ends_with("/qemu") => {
                let templates =
                    self.templates.keys().map(|id| json!({"vmid": id, "template": 1, "status": "stopped"}));
                let here = |node: &str| path == format!("/nodes/{node}/qemu");
                let vms = self.vms.iter().filter(|(_, (node, _))| here(node));
                templates.chain(vms.map(|(id, _)| json!({"vmid": id, "status": "running"}))).collect()
            }
            _ if path.ends_with("/config") => {
                let vmid: u32 = path.split('/').nth(4).unwrap().parse().unwrap();
                let description = self.templates.get(&vmid).unwrap_or_else(|| &self.vms[&vmid].1);
                json!({"description": description, "digest": "x"})
            }
            other => return Err(refused(format!("Method 'GET {other}' not implemented"))),
        })
    }

    fn write(&mut self, verb: Verb, path: &str, get: &dyn Fn(&str) -> String) -> Result<Value, PveError> {
        self.writes += 1;
        let words = |text: String| text.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        let taken = |what: &str| Err(refused(format!("{what} already exists")));
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let top = path.split('/').take(3).collect::<Vec<_>>().join("/");
        match (verb, top.as_str()) {
            (Verb::Create, "/pools") if self.pools.contains_key(&get("poolid")) => return taken("pool"),
            (Verb::Create, "/pools") => drop(self.pools.insert(get("poolid"), BTreeSet::new())),
            (Verb::Set, "/pools") => {
                let ids = words(get("vms")).iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<u32>>();
                self.pools.get_mut(&get("poolid")).unwrap().extend(ids);
            }
            (Verb::Delete, "/pools") => drop(self.pools.remove(&get("poolid"))),
            (Verb::Create, "/access/roles") if self.roles.contains_key(&get("roleid")) => {
                return taken("role");
            }
            (Verb::Create, "/access/roles") => drop(self.roles.insert(get("roleid"), words(get("privs")))),
            (Verb::Set, "/access/roles") => self.roles.get_mut(&last).unwrap().extend(words(get("privs"))),
            (Verb::Delete, "/access/roles") => drop(self.roles.remove(&last)),
            (Verb::Create, "/access/users") if path.contains("/token/") => {
                if self.tokens.contains_key(&last) {
                    return taken("Token");
                }
                self.issued += 1;
                self.tokens.insert(last, self.issued);
                return Ok(json!({"value": format!("secret-{}", self.issued)}));
            }
            (Verb::Delete, "/access/users") if path.contains("/token/") => drop(self.tokens.remove(&last)),
            (Verb::Create, "/access/users") => drop(self.users.insert(get("userid"))),
            (Verb::Delete, "/access/users") => drop(self.users.remove(&last)),
            (Verb::Set, "/access/acl") => {
                let grant = (get("path"), get("roles"));
                self.widest += u32::from(grant.0 == "/" && get("propagate") != "0" && get("delete") != "1");
                if get("delete") == "1" {
                    self.acl.remove(&grant)
                } else {
                    self.acl.insert(grant)
                };
            }
            (Verb::Create, "/storage") => {
                if !Path::new(&get("path")).is_dir() {
                    return Err(refused(format!("unable to activate storage '{}'", get("storage"))));
                }
                let entry = json!({"storage": get("storage"), "type": get("type"), "path": get("path"),
                                   "content": get("content"), "nodes": get("nodes")});
                self.storages.insert(get("storage"), entry);
            }
            (Verb::Delete, _) if path.starts_with("/storage/") => drop(self.storages.remove(&last)),
            _ => return Err(refused(format!("Method '{verb:?} {path}' not implemented"))),
        }
        Ok(Value::Null)
    }
}

impl AdminApi for FakeAdmin {
    fn call<'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        parameters: Parameters<'a>,
    ) -> BoxFuture<'a, Result<Value, PveError>> {
        let get = |key: &str| {
            parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()).unwrap_or_default()
        };
        let mut state = self.state();
        let result = if verb == Verb::Get { state.read(path, &get) } else { state.write(verb, path, &get) };
        std::future::ready(result).boxed()
    }
    fn how(&self) -> String {
        "in memory".to_owned()
    }
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), "certificate").unwrap();
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wanted(&self, change: impl FnOnce(&mut SetupArgs)) -> Result<Wanted, SetupError> {
        let mut args = SetupArgs {
            pve_fingerprint: Some(["AB"; 32].join(":")),
            state_dir: Some(self.file("state")),
            cluster_ca: Some(self.file("ca.pem")),
            ..SetupArgs::default()
        };
        change(&mut args);
        Wanted::gather(&args, &self.file("agent.toml"), &|_| None)
    }

    async fn plan(&self, admin: &FakeAdmin, change: impl FnOnce(&mut SetupArgs)) -> Result<Plan, SetupError> {
        let wanted = self.wanted(change)?;
        let world = look::look(admin, &wanted).await?;
        plan(&wanted, &world)
    }

    async fn run(&self, admin: &FakeAdmin) -> Plan {
        let plan = self.plan(admin, |_| {}).await.unwrap();
        for change in &plan.changes {
            change.apply(admin).await.unwrap();
        }
        plan
    }
}

#[tokio::test]
async fn setup_makes_everything_once() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2.11", &["n1"]));
    let plan = host.run(&admin).await;
    assert!(plan.notes.iter().any(|n| n.contains("firewall is off")), "{:?}", plan.notes);
    assert!(plan.notes.iter().any(|n| n.contains("template 9002")), "{:?}", plan.notes);
    let token = std::fs::read_to_string(host.file("pve-token")).unwrap();
    assert_eq!(token, "ez-agent@pve!node-n1=secret-1\n");
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(host.file("pve-token")).unwrap().permissions().mode() & 0o777, 0o600);
        let state = admin.state();
        assert_eq!(state.pools["ez-templates"], [9000].into());
        assert!(state.acl.contains(&("/sdn/zones/localnetwork/vmbr0".into(), "EzNet".into())));
        assert!(state.acl.contains(&("/storage/local-lvm".into(), "EzStore".into())));
        assert!(state.acl.contains(&("/".into(), "EzNode".into())) && state.widest == 0);
        assert!(state.roles["EzAgent"].contains("VM.GuestAgent.Audit"));
        assert_eq!(state.storages["ez-ci-n1"]["path"], host.file("state/ci").to_str().unwrap());
    }
    let config = crate::config::load(Some(&host.file("agent.toml")), &|_| None).unwrap();
    assert_eq!((config.pve_node.as_str(), config.snippet_storage.as_str()), ("n1", "ez-ci-n1"));
    let policy = crate::policy::load(&config.policy_file).unwrap();
    assert_eq!(
        (policy.vmids.clone(), policy.storages.clone()),
        (100_000..=109_999, vec!["local-lvm".to_owned()])
    );
    let writes = admin.state().writes;
    assert_eq!(host.run(&admin).await.changes, []);
    assert_eq!(admin.state().writes, writes);
}

#[tokio::test]
async fn a_half_done_setup_is_completed_and_a_lost_secret_replaced() {
    let (host, admin) = (Host::new(), FakeAdmin::new("8.4.21", &["n1", "n2"]));
    let plan = host.plan(&admin, |a| a.pve_node = Some("n2".into())).await.unwrap();
    for change in &plan.changes[..plan.changes.len() / 2] {
        change.apply(&admin).await.unwrap();
    }
    // Another node was a moment faster.
    plan.changes[0].apply(&admin).await.unwrap();
    let plan = host.plan(&admin, |a| a.pve_node = Some("n2".into())).await.unwrap();
    for change in &plan.changes {
        change.apply(&admin).await.unwrap();
    }
    assert!(admin.state().roles["EzAgent"].contains("VM.Monitor"));
    let policy = crate::policy::load(&host.file("policy.toml")).unwrap();
    assert_eq!(policy.vmids, 110_000..=119_999);
    std::fs::remove_file(host.file("pve-token")).unwrap();
    admin.state().roles.get_mut("EzAgent").unwrap().remove("VM.Allocate");
    let plan = host.run(&admin).await;
    assert_eq!(plan.changes.len(), 2, "{:?}", plan.changes);
    assert!(plan.changes[0].to_string().contains("add to role EzAgent: VM.Allocate"));
    assert_eq!(std::fs::read_to_string(host.file("pve-token")).unwrap(), "ez-agent@pve!node-n2=secret-2\n");
    assert_eq!(admin.state().tokens.len(), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_a_way_out() {
    let refusal = async |admin: &FakeAdmin, host: &Host, change: fn(&mut SetupArgs)| match host
        .plan(admin, change)
        .await
    {
        Err(error) => error.to_string(),
        Ok(plan) => panic!("no refusal, but {:?}", plan.changes),
    };
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let old = FakeAdmin::new("8.3.5", &["n1"]);
    assert!(refusal(&old, &host, |_| {}).await.contains("8.4 or newer"));
    let two = FakeAdmin::new("9.2", &["n1", "n2"]);
    assert!(refusal(&two, &host, |_| {}).await.contains("--pve-node"));
    assert!(refusal(&two, &host, |a| a.pve_node = Some("n3".into())).await.contains("not in this cluster"));
    assert!(refusal(&admin, &host, |a| a.bridges = vec!["vmbr9".into()]).await.contains("vmbr0, vmbr1"));
    assert!(refusal(&admin, &host, |a| a.storages = vec!["tape".into()]).await.contains("holds no disks"));
    assert!(
        refusal(&admin, &host, |a| a.snippet_dir = Some("/tmp/x".into())).await.contains("named snippets")
    );
    assert!(refusal(&admin, &host, |a| a.vmids = Some("5-9".into())).await.contains("100000-109999"));
    assert!(refusal(&admin, &host, |a| a.cluster_ca = Some("/nope".into())).await.contains("--cluster-ca"));
    let other = json!({"storage": "ez-ci-n1", "type": "nfs", "content": "snippets"});
    admin.state().storages.insert("ez-ci-n1".into(), other);
    assert!(refusal(&admin, &host, |_| {}).await.contains("--snippet-storage"));
    std::fs::write(host.file("pve-token"), "root@pam!x=y").unwrap();
    assert!(refusal(&admin, &host, |_| {}).await.contains("root@pam!x"));
    assert_eq!(admin.state().writes, 0);
}

#[tokio::test]
async fn what_the_packages_unit_could_not_write_to_is_refused() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let mut wanted = host.wanted(|_| {}).unwrap();
    let world = look::look(&admin, &wanted).await.unwrap();
    plan(&wanted, &world).unwrap();
    wanted.by_unit = true;
    let refusal = plan(&wanted, &world).unwrap_err().to_string();
    assert!(refusal.contains("mount that disk there"), "{refusal}");
    // A host that was set up so before lives with it.
    let said = format!("state_dir = {:?}\nsnippet_dir = {:?}\n", wanted.state_dir, wanted.snippet_dir);
    wanted.setup_text = Some(said);
    let notes = plan(&wanted, &world).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("mount that disk there")), "{notes:?}");
    wanted.state_dir = host.file("another");
    let refusal = plan(&wanted, &world).unwrap_err().to_string();
    assert!(refusal.contains("mount that disk there"), "{refusal}");
    wanted.state_dir = "/var/lib/ez-node-agent".into();
    wanted.snippet_dir = "/var/lib/ez-node-agent/ci/snippets".into();
    plan(&wanted, &world).unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_followed_without_setup() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let config = host.file("agent.toml");
    let shows = |byte: &str| Some([byte; 32].join(":").parse().unwrap());
    assert_eq!(pin::follow(&config, shows("CD")).unwrap(), None, "nothing was set up");
    host.run(&admin).await;
    assert_eq!(pin::follow(&config, shows("CD")).unwrap(), None, "setup was told which one to accept");
    let mut wanted = host.wanted(|_| {}).unwrap();
    wanted.fingerprint_of_host = true;
    let world = look::look(&admin, &wanted).await.unwrap();
    for change in plan(&wanted, &world).unwrap().changes {
        change.apply(&admin).await.unwrap();
    }
    let known = crate::config::load(Some(&config), &|_| None).unwrap();
    assert_eq!(known.pve_fingerprint, Some(["AB"; 32].join(":")));
    let before = std::fs::read_to_string(host.file("setup.toml")).unwrap();
    for unchanged in [None, shows("AB")] {
        assert_eq!(pin::follow(&config, unchanged).unwrap(), None);
    }
    assert_eq!(pin::follow(&config, shows("CD")).unwrap(), shows("CD"));
    let after = std::fs::read_to_string(host.file("setup.toml")).unwrap();
    assert_eq!(after, before.replace("AB:", "CD:").replace(":AB\"", ":CD\""));
    // What the owner pinned in agent.toml nobody changes.
    std::fs::write(&config, format!("pve_fingerprint = \"{}\"\n", ["EF"; 32].join(":"))).unwrap();
    host.run(&admin).await;
    assert_eq!(pin::follow(&config, shows("AB")).unwrap(), None);
}

#[tokio::test]
async fn what_an_earlier_version_wrote_of_the_hosts_own_certificate_is_followed_from_its_next_start_on() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let config = host.file("agent.toml");
    let shows = |byte: &str| Some([byte; 32].join(":").parse().unwrap());
    host.run(&admin).await;
    assert_eq!(pin::follow(&config, shows("AB")).unwrap(), None, "it is accepted already");
    assert_eq!(pin::follow(&config, shows("CD")).unwrap(), shows("CD"));
}

#[tokio::test]
async fn a_certificate_tells_a_node_only_if_no_other_shows_it() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1", "n2"]));
    admin.state().alike = vec!["n2"];
    let plan = host.plan(&admin, |_| {}).await.unwrap();
    assert!(plan.changes.iter().any(|c| c.to_string().contains("node-n2")), "{:?}", plan.changes);
    // One certificate for all names below a domain: the first of the list would lose its token to this host.
    admin.state().alike = vec!["n1", "n2"];
    let refusal = host.plan(&admin, |_| {}).await.unwrap_err().to_string();
    assert!(refusal.contains("--pve-node"), "{refusal}");
}

#[tokio::test]
async fn a_storage_for_backups_or_media_that_cannot_hold_them_is_refused_before_anything_is_granted() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let local = json!({"storage": "local", "type": "dir", "path": "/var/lib/vz", "content": "iso,vztmpl"});
    admin.state().storages.insert("local".into(), local);
    let backups = |name: &str| {
        let name = name.to_owned();
        move |args: &mut SetupArgs| args.backup_storage = Some(name)
    };
    let refusal = host.plan(&admin, backups("bakcup")).await.unwrap_err().to_string();
    assert!(refusal.contains("no storage bakcup; there are: local"), "{refusal}");
    let refusal = host.plan(&admin, backups("local")).await.unwrap_err().to_string();
    assert!(refusal.contains("pvesm set local --content iso,vztmpl,backup"), "{refusal}");
    host.plan(&admin, |args| args.iso_storage = Some("local".into())).await.unwrap();
    let far = json!({"storage": "far", "type": "nfs", "content": "backup", "nodes": "n2,n3"});
    admin.state().storages.insert("far".into(), far);
    let refusal = host.plan(&admin, backups("far")).await.unwrap_err().to_string();
    assert!(refusal.contains("pvesm set far --nodes n2,n3,n1"), "{refusal}");
    assert_eq!(admin.state().writes, 0);
}

#[tokio::test]
async fn a_storage_that_a_policy_named_before_and_that_is_gone_now_is_only_said() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    host.run(&admin).await;
    let policy = std::fs::read_to_string(host.file("policy.toml")).unwrap();
    let policy = policy.replace("[backups]\nstorage = \"\"", "[backups]\nstorage = \"nas\"");
    std::fs::write(host.file("policy.toml"), policy).unwrap();
    let plan = host.plan(&admin, |_| {}).await.unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("there is no storage nas")), "{:?}", plan.notes);
}

#[tokio::test]
async fn a_renewed_certificate_changes_one_line_of_the_configuration() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    host.run(&admin).await;
    let before = std::fs::read_to_string(host.file("setup.toml")).unwrap();
    let plan = host.plan(&admin, |a| a.pve_fingerprint = Some(["CD"; 32].join(":"))).await.unwrap();
    assert_eq!(plan.changes.len(), 1, "{:?}", plan.changes);
    plan.changes[0].apply(&admin).await.unwrap();
    let after = std::fs::read_to_string(host.file("setup.toml")).unwrap();
    assert_eq!(after, before.replace("AB:", "CD:").replace(":AB\"", ":CD\""));
}

#[tokio::test]
async fn what_the_owner_says_wins_and_is_never_rewritten() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    let own = "# mine\nsnippet_storage = \"mine\"\n";
    std::fs::write(host.file("agent.toml"), own).unwrap();
    host.run(&admin).await;
    assert!(admin.state().storages.contains_key("mine"));
    assert_eq!(std::fs::read_to_string(host.file("agent.toml")).unwrap(), own);
    let found = std::fs::read_to_string(host.file("setup.toml")).unwrap();
    assert!(found.contains("pve_node = \"n1\"") && !found.contains("snippet_storage"), "{found}");
    let both = crate::config::load(Some(&host.file("agent.toml")), &|_| None).unwrap();
    assert_eq!((both.pve_node.as_str(), both.snippet_storage.as_str()), ("n1", "mine"));
}

#[test]
fn rights_are_compared_with_what_the_token_says() {
    let host = Host::new();
    let mut wanted = host.wanted(|_| {}).unwrap();
    wanted.storages = vec!["local-lvm".into()];
    let world = look::World {
        version: crate::pve::Version::parse("9.2").unwrap(),
        fingerprint: wanted.fingerprint.unwrap(),
        node: "n1".into(),
        nodes: vec!["n1".into()],
        cpus: 1,
        memory_mib: 1,
        pools: BTreeMap::new(),
        roles: BTreeMap::new(),
        user_exists: true,
        tokens: BTreeSet::new(),
        grants: BTreeSet::new(),
        storages: BTreeMap::new(),
        disk_stores: Vec::new(),
        bridges: Vec::new(),
        templates: BTreeMap::new(),
        vms: BTreeSet::new(),
        marked: BTreeSet::new(),
        firewall_on: None,
        ca_copied: true,
    };
    let all: BTreeSet<String> = roles::roles(&world.version)
        .into_iter()
        .flat_map(|(_, p)| p)
        .chain(["VM.Clone".to_owned()])
        .collect();
    assert!(
        roles::missing((&wanted).into(), &world.node, &world.version, &[("/".to_owned(), all)].into())
            .is_empty()
    );
    let missing = roles::missing(
        (&wanted).into(),
        &world.node,
        &world.version,
        &[("/vms".to_owned(), ["VM.Audit".to_owned()].into())].into(),
    );
    assert!(missing.contains(&"/storage/local-lvm: Datastore.AllocateSpace".to_owned()), "{missing:?}");
    assert!(!missing.contains(&"/vms: VM.Audit".to_owned()));
}

#[test]
fn the_shipped_configuration_says_nothing_and_shows_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/node-agent/agent.toml");
    let shipped = std::fs::read_to_string(&path).unwrap();
    assert!(toml::from_str::<toml::Table>(&shipped).unwrap().is_empty(), "every key is commented out");
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let shown: String = shipped.lines().filter(is_key).map(|line| format!("{}\n", &line[1..])).collect();
    let config = crate::config::parse(&path, &shown, &|_| None).unwrap();
    assert_eq!(config.snippet_storage, "ez-ci-pve1");
    // An unknown key is answered with the list of all: none of them may be missing in the example.
    let shown: toml::Table = toml::from_str(&shown).unwrap();
    let error =
        crate::config::parse(Path::new("a.toml"), "qqqqqqqqqqqq = 1", &|_| None).unwrap_err().to_string();
    let list = error.lines().find_map(|line| line.split("known are ").nth(1)).unwrap();
    for key in list.split(", ") {
        assert!(shown.contains_key(key), "{key}");
    }
}
