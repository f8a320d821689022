//! The saga kit of the tests: a host in memory, a journal that can crash, and runs to the end.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use ez_protocol::{
    InstanceId,
    message::{Event, EventKind},
    order::{InstanceSpec, ProvisioningOrder},
};
use prost::Message as _;
use tokio::sync::Notify;

use crate::{
    clock::ManualClock,
    cloudinit::PasswordReset,
    contact::Contact,
    executor::{Engine, FirstBoot, FirstBootError, Limits, Pace, Rules},
    journal::{
        OrderRow, Space,
        requests::{NewRequest, RequestState, RequestVerb, Taken, Taker},
    },
    policy,
    pve::{CloneMode, Hypervisor, IMAGE_MARKER, Vmid, fake::FakeHypervisor},
    testing::{Books, NOW},
};

const POLICY: &str = r#"
vmid_first = 1000
vmid_last = 1999
pool = "ez"
template_pool = "ez-templates"
storages = ["local-lvm"]

[network]
bridges = ["vmbr0"]

[backups]
storage = "backup"

[media]
storage = "local"

[guest]
set_passwords = true

[limits]
instances = 100
vcpus_each = 8
memory_mib_each = 16384
disk_gib_each = 200
vcpus = 100
memory_mib = 200000
disk_gib = 2000
creates_per_minute = 100
creates_per_day = 1000
"#;

/// First-boot files: what the newest ones of a VMID are called and say. What happens to them is a call like
/// any other.
pub(crate) struct Files(pub(crate) Mutex<BTreeMap<Vmid, Written>>, pub(crate) Arc<FakeHypervisor>);

/// `cicustom` and content.
pub(crate) type Written = (String, String);

/// What files say, as far as the tests care.
fn content(spec: &InstanceSpec, reset: Option<&PasswordReset>) -> String {
    let keys: Vec<String> = spec.ssh_keys.iter().map(ToString::to_string).collect();
    format!("{} {keys:?} rescue: {} {reset:?}", spec.hostname.as_str(), spec.rescue.is_some())
}

impl FirstBoot for Files {
    fn write(
        &self,
        vmid: Vmid,
        generation: u64,
        _instance: InstanceId,
        spec: &InstanceSpec,
        reset: Option<&PasswordReset>,
    ) -> Result<String, FirstBootError> {
        if self.1.local("write_files").is_some() {
            return Err(FirstBootError::Write("no space left on device".to_owned()));
        }
        let name = format!("user=ez-ci:snippets/ez-{vmid}-{generation}-user.yaml");
        self.0.lock().unwrap().insert(vmid, (name.clone(), content(spec, reset)));
        Ok(name)
    }

    fn holds(
        &self,
        vmid: Vmid,
        cicustom: &str,
        _instance: InstanceId,
        spec: &InstanceSpec,
        reset: Option<&PasswordReset>,
    ) -> bool {
        let files = self.0.lock().unwrap();
        files.get(&vmid).is_some_and(|(name, says)| name == cicustom && *says == content(spec, reset))
    }

    fn remove(&self, vmid: Vmid, keep: Option<u64>) -> Result<(), FirstBootError> {
        self.1.local("remove_files");
        if keep.is_none() {
            self.0.lock().unwrap().remove(&vmid);
        }
        Ok(())
    }
}

/// A host and its agent.
pub(crate) struct Host {
    pub(crate) pve: Arc<FakeHypervisor>,
    pub(crate) files: Arc<Files>,
    pub(crate) books: Books,
    pub(crate) clock: ManualClock,
    pub(crate) engine: Arc<Engine>,
    pub(crate) repair_dir: Option<std::path::PathBuf>,
    pub(crate) contact: Arc<Contact>,
    patience: Duration,
}

impl Host {
    /// A host with one template; its tasks end at the first look.
    pub(crate) async fn new() -> Self {
        let pve = FakeHypervisor::with_template(9_000);
        let rescue = pve.guest(9_000).unwrap();
        pve.put_guest(9_001, |guest| {
            *guest = rescue;
            let marker = format!("{IMAGE_MARKER} rescue sha256:{}", "2".repeat(64));
            guest.config.insert("description".to_owned(), marker);
        });
        pve.set_polls(1);
        Self::over(pve, BTreeMap::new(), Books::quick(None).await, Pace::default().task)
    }

    /// A host as given, with so much patience in every step.
    pub(crate) fn over(
        pve: FakeHypervisor,
        files: BTreeMap<Vmid, Written>,
        books: Books,
        patience: Duration,
    ) -> Self {
        let pve = Arc::new(pve);
        let files = Arc::new(Files(Mutex::new(files), Arc::clone(&pve)));
        let clock = ManualClock::at(NOW);
        let contact = Arc::new(Contact::always());
        let engine = engine(&pve, &files, &books, &clock, &contact, None, patience);
        Self { pve, files, books, clock, engine, repair_dir: None, contact, patience }
    }

    /// The same host after a crash of the agent.
    pub(crate) async fn restart(&mut self) {
        self.books = self.books.again().await;
        self.new_engine();
    }

    /// The repair unit gets installed.
    pub(crate) fn install_repair(&mut self) {
        let dir = self.books.dir.path().join("repair");
        std::fs::create_dir(&dir).unwrap();
        self.repair_dir = Some(dir);
        self.new_engine();
    }

    /// The agent was started anew and has heard nothing yet.
    pub(crate) fn hears_nothing(&mut self) {
        self.contact = Arc::default();
        self.new_engine();
    }

    /// From now on every step has so much patience.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.new_engine();
    }

    fn new_engine(&mut self) {
        let repair = self.repair_dir.clone();
        self.engine =
            engine(&self.pve, &self.files, &self.books, &self.clock, &self.contact, repair, self.patience);
    }

    /// Accepts an order and runs it to its end.
    pub(crate) async fn carry_out(&self, order: &ProvisioningOrder) -> OrderRow {
        self.books.accept(order).await;
        self.run(order).await
    }

    /// Runs an accepted order to its end.
    pub(crate) async fn run(&self, order: &ProvisioningOrder) -> OrderRow {
        self.engine.run_order(order.order_id).await.unwrap();
        self.row(order).await
    }

    /// Root has helped, as the message said, and resumes a stuck order.
    pub(crate) async fn resume(&self, order: &ProvisioningOrder) {
        let taken = self.asked(RequestVerb::Resume, order).await;
        assert!(taken.iter().all(|taken| taken.resumed.is_some()), "{taken:?}");
    }

    /// Root gives a stuck order up.
    pub(crate) async fn abandon(&self, order: &ProvisioningOrder) {
        let taken = self.asked(RequestVerb::Abandon, order).await;
        assert!(taken.iter().all(|taken| taken.request.state == RequestState::Done), "{taken:?}");
    }

    async fn asked(&self, verb: RequestVerb, order: &ProvisioningOrder) -> Vec<Taken> {
        let who = r#"{"name":"root"}"#.to_owned();
        let request = NewRequest { verb, order: Some(order.order_id), who, reason: String::new() };
        self.books.journal.ask(request, NOW).await.unwrap();
        self.books.journal.take_requests(Taker::Agent, NOW).await.unwrap()
    }

    pub(crate) async fn row(&self, order: &ProvisioningOrder) -> OrderRow {
        self.books.journal.order(order.order_id).await.unwrap().unwrap()
    }

    /// All events so far; their numbers have no gap.
    pub(crate) async fn events(&self) -> Vec<Event> {
        let items = self.books.journal.outbox_after(0, 10_000).await.unwrap();
        for (expected, item) in (1..).zip(&items) {
            assert_eq!(item.event_seq, expected, "a gap in the events");
        }
        items.iter().map(|item| Event::decode(item.body.as_slice()).unwrap()).collect()
    }

    /// How often a verb that changes something was called.
    pub(crate) fn count(&self, verb: &str) -> usize {
        self.pve.changes().iter().filter(|call| call.split(' ').next() == Some(verb)).count()
    }

    /// Names of the steps that ended well, in their order.
    pub(crate) async fn steps_done(&self) -> Vec<String> {
        let done = |e: &Event| e.kind == i32::from(EventKind::StepDone);
        self.events().await.into_iter().filter(done).map(|e| e.step).collect()
    }
}

fn engine(
    pve: &Arc<FakeHypervisor>,
    files: &Arc<Files>,
    books: &Books,
    clock: &ManualClock,
    contact: &Arc<Contact>,
    repair_dir: Option<std::path::PathBuf>,
    patience: Duration,
) -> Arc<Engine> {
    let tiny = Duration::from_millis(1);
    let pve: Arc<dyn Hypervisor> = Arc::<FakeHypervisor>::clone(pve);
    let first_boot: Arc<dyn FirstBoot> = Arc::<Files>::clone(files);
    Arc::new(Engine {
        journal: books.journal.clone(),
        pve,
        clock: Arc::new(clock.clone()),
        first_boot,
        rules: Rules {
            policy: policy::parse(Path::new("policy.toml"), POLICY).unwrap(),
            pool: "ez".to_owned(),
            storage: "local-lvm".to_owned(),
            clone_mode: CloneMode::Full,
            snippet_storage: "ez-ci".to_owned(),
            repair_dir,
        },
        limits: Limits::default(),
        pace: Pace {
            again_first: tiny,
            again_longest: tiny,
            usable: Duration::ZERO,
            comes_back: tiny,
            crashed_after: Duration::ZERO,
            between_starts: Duration::ZERO,
            usable_poll: tiny,
            task: patience,
            disk_copy: patience,
            overall: 10 * patience,
            ..Pace::default()
        },
        contact: Arc::clone(contact),
        boot_id: "boot-1".to_owned(),
        space: Space::of(books.dir.path()),
        told: Arc::new(Notify::new()),
        changed: Arc::new(Notify::new()),
    })
}
