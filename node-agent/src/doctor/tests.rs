//! A healthy host gets no complaint, and each thing that is broken is named with a way out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Mutex,
};

use futures::FutureExt as _;
use quinn::Endpoint;
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::{
    clock::ManualClock,
    journal::{Journal, Space},
    policy,
    pve::fake::{FakeHypervisor, Fault},
    setup::roles,
    testing::{self, Books, NOW, pki::Pki},
};

/// A host of files and answers in memory.
#[derive(Default)]
struct FakeSystem {
    files: Mutex<BTreeMap<String, String>>,
    answers: Mutex<BTreeMap<String, Said>>,
}

impl FakeSystem {
    fn healthy() -> Self {
        let system = Self::default();
        for (path, text) in [
            (
                "/etc/passwd",
                "root:x:0:0::/root:/bin/bash\nez-agent:x:990:990::/var/lib/ez-node-agent:/usr/sbin/nologin\n",
            ),
            ("/etc/group", "www-data:x:33:backup\nez-agent:x:990:\n"),
            ("/proc/sys/net/core/rmem_max", "8388608\n"),
            ("/proc/sys/net/core/wmem_max", "8388608\n"),
        ] {
            system.file(path, text);
        }
        for (command, text) in [
            ("systemctl is-enabled ez-node-agent.service", "enabled"),
            ("systemctl is-active ez-node-agent.service", "active"),
            ("systemctl is-active ez-node-agent-repair.path", "active"),
            ("timedatectl show --property=NTPSynchronized --value", "yes"),
        ] {
            system.says(command, Said::Text(text.to_owned(), true));
        }
        system
    }

    fn file(&self, path: &str, text: &str) {
        self.files.lock().unwrap().insert(path.to_owned(), text.to_owned());
    }

    fn says(&self, command: &str, said: Said) {
        self.answers.lock().unwrap().insert(command.to_owned(), said);
    }
}

impl System for FakeSystem {
    fn read(&self, path: &Path) -> io::Result<String> {
        let found = self.files.lock().unwrap().get(path.to_str().unwrap()).cloned();
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn run<'a>(&'a self, program: &'a str, arguments: &'a [&'a str]) -> BoxFuture<'a, Said> {
        let command = format!("{program} {}", arguments.join(" "));
        let said = self.answers.lock().unwrap().get(&command).cloned();
        std::future::ready(said.unwrap_or_else(|| Said::Nothing(format!("{program}: not found")))).boxed()
    }
}

const POLICY: &str = r#"
vmid_first = 1000
vmid_last = 1999
pool = "ez"
template_pool = "ez-templates"
storages = ["local-lvm"]
[network]
bridges = ["vmbr0"]
[limits]
instances = 10
vcpus_each = 4
memory_mib_each = 8192
disk_gib_each = 100
vcpus = 8
memory_mib = 16384
disk_gib = 200
"#;

/// A host that has joined and runs, and a control plane that answers.
struct Scene {
    dir: tempfile::TempDir,
    pve: Arc<FakeHypervisor>,
    system: Arc<FakeSystem>,
    patient: Patient,
    _control_plane: (Endpoint, TcpListener),
}

impl Scene {
    async fn healthy() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let pki = Pki::new();
        let control_plane = control_plane(&pki).await;
        let link = control_plane.0.local_addr().unwrap().to_string();
        std::fs::create_dir_all(at("ci/snippets")).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        std::fs::write(at("ca.pem"), "certificate").unwrap();
        crate::identity::files::write_whole(&at("token"), b"ez-agent@pve!node-n1=secret", 0o600).unwrap();
        std::fs::write(at("policy.toml"), POLICY).unwrap();
        let text = format!(
            "pve_node = \"fake\"\nstate_dir = {dir:?}\npve_token_file = {token:?}\npolicy_file = {policy:?}\n\
             snippet_dir = {snippets:?}\ncluster_ca_file = {ca:?}\n",
            dir = dir.path(),
            token = at("token"),
            policy = at("policy.toml"),
            snippets = at("ci/snippets"),
            ca = at("ca.pem"),
        );
        let config = crate::config::parse(Path::new("agent.toml"), &text, &|_| None).unwrap();
        let clock = ManualClock::at(NOW);
        let journal =
            Journal::open(&config.journal_file(), &clock, &crate::entropy::SeededEntropy::new(1)).await;
        drop(journal.unwrap());
        Space::of(dir.path()).keep_reserve().unwrap();
        let identity = pki.join(&config, &link);
        let pve = Arc::new(FakeHypervisor::with_template(9_000));
        let system = Arc::new(FakeSystem::healthy());
        system.file(
            "/etc/pve/storage.cfg",
            &format!("dir: ez-ci-fake\n\tpath {}\n\tcontent snippets\n", at("ci").display()),
        );
        let policy = policy::parse(Path::new("policy.toml"), POLICY).unwrap();
        pve.grant(needed(&policy));
        let status = StatusFile {
            pid: 4_711,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: NOW.0 - 5_000,
            since: NOW.0 - 3_600_000,
            link: "connected".to_owned(),
            peer: "127.0.0.1:7443".to_owned(),
            boot_id: "3b9c1c0e-1b4e-4c9a-9d0c-0e8a8d1e7a11".to_owned(),
            ..StatusFile::default()
        };
        let patient = Patient {
            config_file: "agent.toml".into(),
            config: Ok(config),
            policy: Some(Ok(policy)),
            identity: Some(Ok(identity)),
            status: Some(status),
            runs: true,
            agents_user: None,
            pve: Ok(Arc::<FakeHypervisor>::clone(&pve)),
            system: Arc::<FakeSystem>::clone(&system),
            clock: Arc::new(clock),
        };
        Self { dir, pve, system, patient, _control_plane: control_plane }
    }

    async fn examine(&self) -> Vec<Check> {
        examine(&self.patient).await
    }

    async fn check(&self, name: &str) -> Check {
        self.examine().await.into_iter().find(|check| check.name == name).unwrap()
    }
}

/// A link server, and TCP on the same number.
async fn control_plane(pki: &Pki) -> (Endpoint, TcpListener) {
    for _ in 0..20 {
        let link = pki.endpoint();
        if let Ok(tcp) = TcpListener::bind(link.local_addr().unwrap()).await {
            return (link, tcp);
        }
    }
    panic!("no port is free for both");
}

/// What setup grants for this policy.
fn needed(policy: &Policy) -> crate::pve::Permissions {
    let version = crate::pve::Version::parse("9.2.11").unwrap();
    let mut has = crate::pve::Permissions::new();
    for missing in roles::missing(policy.into(), "fake", &version, &has.clone()) {
        let (path, privilege) = missing.rsplit_once(": ").unwrap();
        has.entry(path.to_owned()).or_default().insert(privilege.to_owned());
    }
    has
}

#[tokio::test]
async fn a_healthy_host_has_no_complaint_and_every_check_its_name_once() {
    let scene = Scene::healthy().await;
    let checks = scene.examine().await;
    let bad: Vec<&Check> = checks.iter().filter(|c| c.level != Level::Ok && c.name != "firewall").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let firewall = checks.iter().find(|c| c.name == "firewall").unwrap();
    assert_eq!((firewall.level, worst(&checks)), (Level::Warn, Level::Warn), "the fake does not tell");
    let shown: Vec<&str> = checks.iter().map(|check| check.name).collect();
    assert_eq!(shown, names());
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), shown.len());
    assert!(shown.len() >= 25, "{}", shown.len());
}

#[tokio::test]
async fn everything_that_is_not_well_has_one_line_that_says_what_to_do() {
    let mut scene = Scene::healthy().await;
    // Nothing works at all.
    scene.patient.config = Err(crate::config::ConfigError(vec![]));
    scene.patient.policy = None;
    scene.patient.identity = None;
    scene.patient.status = None;
    scene.patient.pve = Err("there is no configuration".to_owned());
    scene.patient.system = Arc::new(FakeSystem::default());
    let checks = scene.examine().await;
    assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), names());
    for check in &checks {
        assert_ne!(check.level, Level::Ok, "{check:?}");
        assert!(
            !check.fix.is_empty() && !check.fix.contains('\n') && !check.found.contains('\n'),
            "{check:?}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_at_proxmox_is_told_apart() {
    let scene = Scene::healthy().await;
    scene.pve.fail_next("version", Fault::Unreachable);
    assert_eq!(scene.check("pve-api").await.level, Level::Fail);
    let mut less = needed(scene.patient.policy.as_ref().unwrap().as_ref().unwrap());
    less.remove("/storage/local-lvm");
    less.insert("/".to_owned(), ["Sys.Audit".to_owned(), "Sys.Modify".to_owned()].into());
    scene.pve.grant(less);
    let rights = scene.check("rights").await;
    assert!(
        rights.level == Level::Fail && rights.found.contains("/storage/local-lvm: Datastore.AllocateSpace"),
        "{rights:?}"
    );
    let wide = scene.check("rights-bounded").await;
    assert!(wide.level == Level::Warn && wide.found.contains("/: Sys.Modify"), "{wide:?}");
    scene.pve.put_guest(1_500, |_| {});
    let foreign = scene.check("vmids").await;
    assert!(foreign.level == Level::Warn && foreign.found.contains("1500"), "{foreign:?}");
    scene.pve.forget(9_000);
    assert_eq!(scene.check("templates").await.level, Level::Fail);
    let mut scene = scene;
    let Some(Ok(policy)) = &mut scene.patient.policy else { panic!() };
    policy.backup_storage = Some("bakcup".to_owned());
    let storages = scene.check("storages").await;
    assert!(storages.level == Level::Fail && storages.found.contains("bakcup is not there"), "{storages:?}");
}

#[tokio::test]
async fn what_is_wrong_on_the_host_is_told_apart() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scene = Scene::healthy().await;
    scene.system.file("/etc/group", "www-data:x:33:backup,ez-agent\n");
    assert_eq!(scene.check("agent-user").await.level, Level::Fail);
    scene.system.file("/proc/sys/net/core/rmem_max", "212992\n");
    assert_eq!(scene.check("udp-buffers").await.level, Level::Warn);
    scene.system.says("systemctl is-active ez-node-agent.service", Said::Text("failed".into(), false));
    assert_eq!(scene.check("unit-running").await.level, Level::Fail);
    scene.system.says("timedatectl show --property=NTPSynchronized --value", Said::Text("no".into(), true));
    assert_eq!(scene.check("time-sync").await.level, Level::Warn);
    let token = scene.dir.path().join("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let found = scene.check("token-file").await;
    assert!(found.level == Level::Fail && found.fix.starts_with("chmod go-rwx"), "{found:?}");
    // Root put a token back from a backup: the agent cannot read it, though root can.
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    scene.patient.agents_user = Some(rustix::process::geteuid().as_raw() + 1);
    for (name, path) in [("token-file", token), ("snippet-storage", scene.dir.path().join("ci/snippets"))] {
        let found = scene.check(name).await;
        let fix = format!("chown ez-agent: {}", path.display());
        assert!(found.level == Level::Fail && found.fix == fix, "{found:?}");
    }
    scene.patient.agents_user = Some(rustix::process::geteuid().as_raw());
    assert_eq!(scene.check("token-file").await.level, Level::Ok);
    let status = scene.patient.status.as_mut().unwrap();
    status.clock_offset_ms = -400_000;
    status.version = "0.0.1".to_owned();
    status.boot_id.clear();
    assert_eq!(scene.check("clock").await.level, Level::Fail);
    assert_eq!(scene.check("agent-version").await.level, Level::Warn);
    // With ProcSubset=pid in its unit the agent does not see what the doctor sees.
    let boot = scene.check("boot-id").await;
    assert!(boot.level == Level::Fail && boot.fix.contains("ProcSubset="), "{boot:?}");
    scene.patient.runs = false;
    let dead = scene.check("connection").await;
    assert!(dead.level == Level::Fail && dead.found.contains("does not run"), "{dead:?}");
    std::fs::remove_file(scene.dir.path().join("reserve")).unwrap();
    assert_eq!(scene.check("reserve-file").await.level, Level::Warn);
}

#[tokio::test]
async fn an_identity_that_ends_and_a_control_plane_that_is_silent_are_seen() {
    let mut scene = Scene::healthy().await;
    let mut config = scene.patient.config.clone().unwrap();
    // Bound and silent: nobody else can answer there.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    config.link_address = Some(silent.local_addr().unwrap().to_string());
    scene.patient.config = Ok(config);
    let udp = scene.check("control-plane-udp").await;
    assert!(udp.level == Level::Fail && udp.fix.starts_with("let UDP out to"), "{udp:?}");
    let Some(Ok(identity)) = &mut scene.patient.identity else { panic!() };
    identity.pair.not_after = NOW;
    assert_eq!(scene.check("certificate").await.level, Level::Fail);
}

#[tokio::test]
async fn stuck_orders_and_an_open_circuit_wait_for_a_person() {
    let scene = Scene::healthy().await;
    let books = Books::quick(None).await;
    let order = testing::ensure(1, 1);
    books.accept(&order).await;
    let sql = "UPDATE orders SET state = 'stuck', finished_at = 1";
    books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(sql).execute(conn).await.map(|_| ())?) }))
        .await
        .unwrap();
    let sql = "UPDATE circuit SET opened_at = 1";
    books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(sql).execute(conn).await.map(|_| ())?) }))
        .await
        .unwrap();
    let mut config = scene.patient.config.clone().unwrap();
    config.state_dir = books.dir.path().to_owned();
    let scene = Scene { patient: Patient { config: Ok(config), ..scene.patient }, ..scene };
    let orders = scene.check("orders").await;
    let days = NOW.since(ez_protocol::UnixMillis(1)).as_secs() / 86_400;
    assert_eq!(orders.level, Level::Warn, "{orders:?}");
    assert_eq!(orders.found, format!("1 stuck, the oldest for {days} days"));
    for command in ["show", "resume", "abandon"] {
        let whole = format!("ez-node-agent order {command} {}", order.order_id);
        assert!(orders.fix.contains(&whole), "{orders:?}");
    }
    let circuit = scene.check("destroy-circuit").await;
    assert!(circuit.level == Level::Warn && circuit.fix.ends_with("ez-node-agent unlock"), "{circuit:?}");
}
