//! Building against a host in memory: interrupted anywhere, answered late or never, it ends in one template.

mod leftovers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ez_protocol::image::ImageSource;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{worker::Worker, *};
use crate::{
    clock::ManualClock,
    journal::fuse::Cut,
    pve::{CloneMode, PveError},
    setup::{AdminApi, Parameters, Verb},
    testing::{Books, NOW, sign_image},
};

/// What goes wrong at the n-th call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It does not arrive.
    Lost,
    /// It does its work and the answer does not arrive.
    Unheard,
    /// Its task fails and leaves nothing.
    TaskFails,
}

#[derive(Default)]
struct State {
    vms: BTreeMap<u32, BTreeMap<String, String>>,
    files: BTreeSet<String>,
    tasks: BTreeMap<String, &'static str>,
    writes: u32,
    fault: Option<(u32, Fault)>,
    /// The storage cannot make linked clones, as thick LVM cannot. Copies it can make.
    no_clone: bool,
    /// What is left of the storage for downloads, if it says so.
    free: Option<u64>,
    /// What that storage may hold, if it says so.
    content: Option<&'static str>,
    created: u32,
    /// Disks are in use by something else: what is destroyed leaves them, and says so in its log alone.
    keeps_disks: bool,
    logs: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Default)]
struct Host(Arc<Mutex<State>>);

impl Host {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn failing(n: u32, fault: Fault) -> Self {
        let host = Self::default();
        host.state().fault = Some((n, fault));
        host
    }

    /// Templates that are taken for the image, and all other VMs.
    fn made(&self) -> (Vec<u32>, Vec<u32>) {
        let state = self.state();
        let marked = |config: &BTreeMap<String, String>| {
            config["description"].starts_with("ez-image:v1 debian-13 sha256:")
        };
        let (ready, rest): (Vec<_>, Vec<_>) = state.vms.iter().partition(|(_, config)| marked(config));
        (ready.into_iter().map(|(id, _)| *id).collect(), rest.into_iter().map(|(id, _)| *id).collect())
    }
}

fn unheard() -> PveError {
    PveError::OutcomeUnknown { call: "fake".into(), reason: "reset".into() }
}

fn refused(status: u16, message: &str) -> PveError {
    PveError::Refused { call: "fake".into(), status, message: message.into(), errors: BTreeMap::new() }
}

impl State {
    fn read(&self, path: &str, get: &dyn Fn(&str) -> String) -> Result<Value, PveError> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match parts.as_slice() {
            ["cluster", "nextid"] => match self.vms.contains_key(&get("vmid").parse().unwrap()) {
                true => Err(refused(400, &format!("VM {} already exists", get("vmid")))),
                false => Ok(json!(get("vmid"))),
            },
            ["nodes", _, "qemu"] => {
                let row = |(id, config): (&u32, &BTreeMap<String, String>)| json!({"vmid": id, "template": config.get("template").map(|_| 1)});
                Ok(self.vms.iter().map(row).collect())
            }
            ["nodes", _, "qemu", id, "config"] => match self.vms.get(&id.parse().unwrap()) {
                Some(config) => Ok(json!(config)),
                None => Err(refused(
                    500,
                    &format!("Configuration file 'nodes/pve1/qemu-server/{id}.conf' does not exist"),
                )),
            },
            ["nodes", _, "qemu", _, "feature"] => {
                let able = get("feature") == "copy" || !self.no_clone;
                Ok(json!({"hasFeature": u8::from(able)}))
            }
            ["nodes", _, "storage", "local", "status"] => {
                let mut status =
                    self.free.map_or(json!({}), |free| json!({"total": 100_u64 << 30, "avail": free}));
                if let Some(content) = self.content {
                    status["content"] = content.into();
                }
                Ok(status)
            }
            ["nodes", _, "storage", "local", "content"] => {
                let row = |file: &String| json!({"volid": format!("local:import/{file}")});
                Ok(self.files.iter().map(row).collect())
            }
            ["nodes", _, "tasks"] => Ok(json!([])),
            ["nodes", _, "tasks", upid, "status"] => {
                Ok(json!({"status": "stopped", "exitstatus": self.tasks.get(*upid).copied().unwrap_or("OK")}))
            }
            ["nodes", _, "tasks", upid, "log"] => {
                let all = self.logs.get(*upid).map(Vec::as_slice).unwrap_or_default();
                let lines = (1..).zip(all).skip(get("start").parse().unwrap());
                Ok(lines.take(get("limit").parse().unwrap()).map(|(n, t)| json!({"n": n, "t": t})).collect())
            }
            other => panic!("not simulated here: GET {other:?}"),
        }
    }

    fn write(&mut self, verb: Verb, path: &str, get: &dyn Fn(&str) -> String) -> Result<Value, PveError> {
        self.writes += 1;
        let upid = format!("UPID:pve1:0000445C:{:08X}:6B03CEF4:any:x:root@pam:", self.writes);
        let fault = self.fault.filter(|(n, _)| *n == self.writes).map(|(_, fault)| fault);
        if fault == Some(Fault::Lost) {
            return Err(unheard());
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let works = fault != Some(Fault::TaskFails);
        if !works {
            self.tasks.insert(upid.clone(), "no space left on device");
        }
        let answer = match (verb, parts.as_slice()) {
            (Verb::Create, ["nodes", "pve1", "storage", "local", "download-url"]) => {
                assert_eq!(get("checksum"), "ab".repeat(32));
                assert_eq!(get("content"), "import");
                if works {
                    self.files.insert(get("filename"));
                }
                json!(upid)
            }
            (Verb::Create, ["nodes", "pve1", "qemu"]) => {
                let vmid: u32 = get("vmid").parse().unwrap();
                if self.vms.contains_key(&vmid) {
                    return Err(refused(
                        500,
                        &format!("unable to create VM {vmid} - VM {vmid} already exists on node 'pve1'"),
                    ));
                }
                assert_eq!(get("pool"), "ez-templates");
                let disk = get("scsi0");
                let file = disk
                    .split("import-from=local:import/")
                    .nth(1)
                    .unwrap()
                    .split(',')
                    .next()
                    .unwrap()
                    .to_owned();
                assert!(self.files.contains(&file), "{file} was not downloaded");
                if works {
                    self.created += 1;
                    let mut config: BTreeMap<String, String> =
                        ["description", "agent", "boot", "net0", "serial0"]
                            .into_iter()
                            .map(|key| (key.to_owned(), get(key)))
                            .collect();
                    config.insert("scsi0".into(), format!("local-lvm:vm-{vmid}-disk-0,size=3G"));
                    config.insert("ide2".into(), format!("local-lvm:vm-{vmid}-cloudinit,media=cdrom"));
                    self.vms.insert(vmid, config);
                }
                json!(upid)
            }
            (Verb::Create, ["nodes", "pve1", "qemu", id, "template"]) => {
                let config = self.vms.get_mut(&id.parse().unwrap()).unwrap();
                if works {
                    config.insert("template".into(), "1".into());
                }
                json!(upid)
            }
            (Verb::Set, ["nodes", "pve1", "qemu", id, "config"]) => {
                self.vms
                    .get_mut(&id.parse().unwrap())
                    .unwrap()
                    .insert("description".into(), get("description"));
                Value::Null
            }
            (Verb::Delete, ["nodes", "pve1", "qemu", id]) => {
                if self.keeps_disks {
                    // Behind so many other lines that it takes a second look.
                    let mut log = vec!["removing".to_owned(); crate::pve::LOG_PAGE];
                    log.push(format!(
                        "WARN: Could not remove disk 'local-lvm:vm-{id}-disk-0', check manually: in use"
                    ));
                    self.tasks.insert(upid.clone(), "WARNINGS: 1");
                    self.logs.insert(upid.clone(), log);
                }
                self.vms.remove(&id.parse().unwrap());
                json!(upid)
            }
            other => panic!("not simulated here: {other:?}"),
        };
        if fault == Some(Fault::Unheard) { Err(unheard()) } else { Ok(answer) }
    }
}

impl AdminApi for Host {
    fn call<'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        parameters: Parameters<'a>,
    ) -> BoxFuture<'a, Result<Value, PveError>> {
        let get = |key: &str| {
            parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()).unwrap_or_default()
        };
        let answer = match verb {
            Verb::Get => self.state().read(path, &get),
            _ => self.state().write(verb, path, &get),
        };
        async move { answer }.boxed()
    }

    fn how(&self) -> String {
        "in memory".to_owned()
    }
}

fn source() -> ImageSource {
    ImageSource {
        name: "debian-13".into(),
        version: "1".into(),
        url: "https://images.example.com/cloud/debian-13.qcow2".parse().unwrap(),
        digest: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
    }
}

fn site() -> Site {
    Site {
        node: "pve1".into(),
        template_pool: "ez-templates".into(),
        storages: vec!["local-lvm".into()],
        bridges: ["vmbr0".to_owned()].into(),
        import_storage: "local".into(),
        vmids: 9_000..=9_002,
        clone: CloneMode::Linked,
    }
}

/// Remembers what was begun, and dies at the n-th word.
#[derive(Default)]
struct Memory {
    begun: Begun,
    step: Option<Step>,
    words: u32,
    dies_at: Option<u32>,
    left: Vec<String>,
}

impl Memory {
    fn word(&mut self) -> Result<(), BuildError> {
        self.words += 1;
        if self.dies_at == Some(self.words) { Err(BuildError::Journal("killed".into())) } else { Ok(()) }
    }
}

impl Report for Memory {
    fn begin(&mut self, step: Step, vmid: Option<Vmid>) -> BoxFuture<'_, Result<(), BuildError>> {
        self.begun = Begun { vmid: vmid.filter(|_| step == Step::Create), task: None };
        self.step = Some(step);
        let word = self.word();
        async move { word }.boxed()
    }

    fn called(&mut self, upid: &str) -> BoxFuture<'_, Result<(), BuildError>> {
        self.begun.task = self.step.zip(upid.parse().ok());
        let word = self.word();
        async move { word }.boxed()
    }

    fn left(&mut self, help: &str) {
        self.left.push(help.to_owned());
    }
}

async fn build_on(host: &Host, memory: &mut Memory) -> Result<Vmid, BuildError> {
    build(host, &site(), &source(), memory.begun.clone(), memory).await
}

#[tokio::test]
async fn an_image_becomes_one_template_and_a_second_build_changes_nothing() {
    let host = Host::default();
    assert_eq!(build_on(&host, &mut Memory::default()).await.unwrap(), 9_000);
    let writes = host.state().writes;
    assert_eq!(writes, 4, "download, create, convert, mark");
    let config = host.state().vms[&9_000].clone();
    assert_eq!(crate::pve::parse_image_marker(&config["description"]).unwrap().0, "debian-13");
    assert_eq!(build_on(&host, &mut Memory::default()).await.unwrap(), 9_000);
    assert_eq!(host.state().writes, writes);
    assert_eq!(host.state().files.iter().next().unwrap(), "ez-debian-13-abababababab.qcow2");
}

#[tokio::test]
async fn whatever_call_is_lost_or_goes_unheard_there_is_one_template_in_the_end() {
    for n in 1..=4 {
        for fault in [Fault::Lost, Fault::Unheard] {
            let host = Host::failing(n, fault);
            let built = build_on(&host, &mut Memory::default()).await;
            assert!(built.is_ok(), "{fault:?} at {n}: {built:?}");
            let (ready, rest) = host.made();
            assert_eq!((ready.len(), rest.len()), (1, 0), "{fault:?} at {n}");
        }
    }
}

#[tokio::test]
async fn a_builder_that_dies_at_any_word_is_taken_up_by_the_next() {
    let mut whole = Memory::default();
    build_on(&Host::default(), &mut whole).await.unwrap();
    assert!(whole.words >= 8, "{}", whole.words);
    for n in 1..=whole.words {
        let host = Host::default();
        let mut memory = Memory { dies_at: Some(n), ..Memory::default() };
        let died = build_on(&host, &mut memory).await;
        assert!(matches!(died, Err(BuildError::Journal(_))), "{n}: {died:?}");
        memory.dies_at = None;
        build_on(&host, &mut memory).await.unwrap();
        let (ready, rest) = host.made();
        assert_eq!((ready.len(), rest.len(), host.state().created), (1, 0, 1), "died at word {n}");
    }
}

#[tokio::test]
async fn a_failed_task_ends_the_build_with_its_words_and_the_next_one_works() {
    for n in 1..=3 {
        let host = Host::failing(n, Fault::TaskFails);
        let error = build_on(&host, &mut Memory::default()).await.unwrap_err().to_string();
        assert!(error.contains("no space left"), "{n}: {error}");
        assert_eq!(host.made(), (Vec::new(), Vec::new()), "failed at {n}: nothing half-made stays");
        build_on(&host, &mut Memory::default()).await.unwrap();
        assert_eq!(host.made().0.len(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_cloned_from_is_removed_and_never_marked() {
    let host = Host::default();
    host.state().no_clone = true;
    let error = build_on(&host, &mut Memory::default()).await.unwrap_err().to_string();
    assert!(error.contains("cannot make linked clones"), "{error}");
    assert_eq!(host.made(), (Vec::new(), Vec::new()));
    // Where servers are copies it is as good as any.
    let site = Site { clone: CloneMode::Full, ..site() };
    build(&host, &site, &source(), Begun::default(), &mut Memory::default()).await.unwrap();
    assert_eq!(host.made().0.len(), 1);
}

#[tokio::test]
async fn vms_of_others_are_stepped_around_and_left_as_they_are() {
    let host = Host::default();
    let foreign: BTreeMap<String, String> = [("description".to_owned(), "somebody's".to_owned())].into();
    host.state().vms.insert(9_000, foreign.clone());
    host.state().vms.insert(9_001, foreign.clone());
    assert_eq!(build_on(&host, &mut Memory::default()).await.unwrap(), 9_002);
    assert_eq!(host.state().vms[&9_000], foreign);
    let full = Host::default();
    full.state().vms.extend((9_000..=9_002).map(|id| (id, foreign.clone())));
    let error = build_on(&full, &mut Memory::default()).await.unwrap_err().to_string();
    assert!(error.contains("images.vmid_first"), "{error}");
    assert_eq!(full.state().writes, 0, "nothing is downloaded for which there is no number");
}

#[tokio::test]
async fn nothing_is_downloaded_to_a_storage_that_is_nearly_full() {
    let host = Host::default();
    host.state().free = Some(1 << 30);
    let error = build_on(&host, &mut Memory::default()).await.unwrap_err().to_string();
    assert!(error.contains("storage local has 1024 MiB free") && error.contains("2048 MiB"), "{error}");
    assert_eq!(host.state().writes, 0);
    // One that was downloaded before takes no more room.
    host.state().files.insert("ez-debian-13-abababababab.qcow2".into());
    build_on(&host, &mut Memory::default()).await.unwrap();
    assert_eq!(host.made().0.len(), 1);
}

#[tokio::test]
async fn nothing_is_downloaded_to_a_storage_that_takes_no_images_and_the_command_is_said() {
    for (content, command) in [
        ("iso,vztmpl,backup", "`pvesm set local --content iso,vztmpl,backup,import`"),
        ("none", "`pvesm set local --content import`"),
    ] {
        let host = Host::default();
        host.state().content = Some(content);
        let error = build_on(&host, &mut Memory::default()).await.unwrap_err().to_string();
        assert!(error.contains(command), "{error}");
        assert_eq!(host.state().writes, 0);
        host.state().content = Some("iso,import");
        build_on(&host, &mut Memory::default()).await.unwrap();
        assert_eq!(host.made().0.len(), 1);
    }
}

/// A policy that lets images be built from one place.
fn policy() -> Policy {
    let text = include_str!("../../../packaging/node-agent/policy.toml").replace(
        "build = false",
        "build = true\nsources = [\"https://images.example.com/cloud/\"]\nvmid_first = 9000\nvmid_last = 9002\n\
         import_storage = \"local\"",
    );
    crate::policy::parse(std::path::Path::new("policy.toml"), &text).unwrap()
}

async fn answer(books: &Books, bytes: &[u8], policy: &Policy) -> ez_protocol::message::OrderAnswer {
    let trusted = crate::testing::trusted(ez_protocol::envelope::KeyRole::Order);
    order::answer(&books.journal, bytes, &trusted, &crate::testing::node(), policy).await.unwrap()
}

fn worker(books: &Books, host: &Host) -> Worker {
    Worker {
        journal: books.journal.clone(),
        api: Box::new(host.clone()),
        clock: Arc::new(ManualClock::at(NOW)),
        policy: policy(),
        node: "pve1".into(),
        wake: Arc::new(Notify::new()),
        changed: Arc::new(Notify::new()),
    }
}

#[tokio::test]
async fn a_journal_that_could_not_be_written_for_a_while_delays_an_order_and_no_more() {
    let (books, host) = (Books::new().await, Host::default());
    answer(&books, &sign_image(&source(), |_| {}), &policy()).await;
    let (fuse, stop) = (books.journal.fuse.clone(), CancellationToken::new());
    fuse.set(1, Cut::BeforeCommit);
    let at_work = tokio::spawn(worker(&books, &host).run_by(stop.clone(), Duration::from_millis(5)));
    let until = async |true_at_last: &dyn Fn(&str) -> bool| {
        for _ in 0..1_000 {
            let state = worker::states(&books.journal).await.unwrap()[0].state.clone();
            if true_at_last(&state) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not come to that");
    };
    until(&|_| fuse.blown()).await;
    assert!(host.made().0.is_empty());
    fuse.mend();
    // Nobody rings: no other order comes.
    until(&|state| state == "ready").await;
    assert_eq!(host.made().0, [9_000]);
    stop.cancel();
    at_work.await.unwrap();
}

#[tokio::test]
async fn an_order_is_judged_journalled_carried_out_and_told() {
    let books = Books::new().await;
    let bytes = sign_image(&source(), |_| {});
    assert!(order::is_image_order(&bytes));
    let accepted = answer(&books, &bytes, &policy()).await;
    assert_eq!(accepted.kind, i32::from(ez_protocol::message::AnswerKind::Accepted), "{accepted:?}");
    let again = answer(&books, &bytes, &policy()).await;
    assert_eq!(again.kind, i32::from(ez_protocol::message::AnswerKind::Duplicate));
    let host = Host::default();
    let worker = worker(&books, &host);
    assert!(worker.next().await.unwrap());
    assert!(!worker.next().await.unwrap(), "nothing is left to do");
    assert_eq!(host.made().0, [9_000]);
    let told = worker::states(&books.journal).await.unwrap();
    assert_eq!((told[0].state.as_str(), told[0].order_id.clone()), ("ready", accepted.order_id));
    let late = answer(&books, &bytes, &policy()).await;
    assert_eq!(late.state, "ready");
}

#[tokio::test]
async fn a_thousand_image_orders_are_remembered_and_a_further_one_is_taken_when_there_is_room() {
    use ez_protocol::message::AnswerKind::{Accepted, Duplicate, Refused};
    let books = Books::new().await;
    let first = sign_image(&source(), |_| {});
    let one_more = sign_image(&source(), |order| {
        order.order_id = ez_protocol::ProvisioningOrderId::generate(NOW, [78; 10]);
    });
    let told = async |bytes: &Vec<u8>| {
        let answer = answer(&books, bytes, &policy()).await;
        (ez_protocol::message::AnswerKind::try_from(answer.kind).unwrap(), answer.code)
    };
    let said = |kind, code: &str| (kind, code.to_owned());
    assert_eq!(told(&first).await, said(Accepted, ""));
    let write = async |sql: String| {
        let written = books.journal.write(move |conn| {
            Box::pin(
                async move { Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).execute(conn).await.map(|_| ())?) },
            )
        });
        written.await.unwrap();
    };
    let others = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 999) \
         INSERT INTO image_builds (order_id, envelope, payload, payload_hash, name, digest, state, expires_at, \
         accepted_at, updated_at) \
         SELECT 'other ' || n, x'00', x'00', x'00', 'debian-13', 'sha256:', 'ready', {0}, {0}, {0} FROM n",
        NOW.0
    );
    write(others).await;
    assert_eq!(told(&one_more).await, said(Refused, "NO_SPACE"));
    assert_eq!(told(&first).await, said(Duplicate, ""), "what is known is answered as before");
    // Those of the others that have ended are past; the first still waits.
    write("UPDATE image_builds SET expires_at = 1, updated_at = 1".to_owned()).await;
    assert_eq!(told(&one_more).await, said(Accepted, ""), "the refusal was not for good");
    assert_eq!(told(&first).await, said(Duplicate, ""), "what has not ended is never forgotten");
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM image_builds")
        .fetch_one(books.journal.readers())
        .await
        .unwrap();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn what_the_host_does_not_allow_or_is_not_for_it_is_refused_by_name() {
    let allowed = policy();
    let mut never = policy();
    never.build = None;
    let mut listed = policy();
    listed.digests = [format!("sha256:{}", "cd".repeat(32))].into();
    let elsewhere = ImageSource { url: "https://images.example.com/x.qcow2".parse().unwrap(), ..source() };
    for (what, bytes, policy, code, rule) in [
        ("off", sign_image(&source(), |_| {}), &never, "POLICY", "images.build"),
        ("elsewhere", sign_image(&elsewhere, |_| {}), &allowed, "POLICY", "images.sources"),
        ("not listed", sign_image(&source(), |_| {}), &listed, "POLICY", "images.digests"),
        ("another epoch", sign_image(&source(), |o| o.aud.epoch = 2), &allowed, "WRONG_EPOCH", ""),
        (
            "another install",
            sign_image(&source(), |o| o.install = ez_protocol::InstallId::generate(NOW, [9; 10])),
            &allowed,
            "WRONG_AUDIENCE",
            "",
        ),
        (
            "over",
            sign_image(&source(), |o| {
                (o.iat, o.nbf, o.exp) = (
                    NOW.minus(std::time::Duration::from_secs(9)),
                    NOW.minus(std::time::Duration::from_secs(9)),
                    NOW.minus(std::time::Duration::from_secs(1)),
                )
            }),
            &allowed,
            "EXPIRED",
            "",
        ),
        (
            "too long",
            sign_image(&source(), |o| o.exp = NOW.plus(std::time::Duration::from_secs(90_000))),
            &allowed,
            "BAD_WINDOW",
            "",
        ),
    ] {
        let books = Books::new().await;
        let answer = answer(&books, &bytes, policy).await;
        assert_eq!((answer.code.as_str(), answer.rule.as_str()), (code, rule), "{what}: {answer:?}");
        assert_eq!(books.journal.next_image().await.unwrap(), None, "{what}");
    }
    // A provisioning order is no image order, and the other way round.
    let books = Books::new().await;
    let other = crate::testing::sign(&crate::testing::ensure(1, 1));
    assert!(!order::is_image_order(&other));
    assert_eq!(answer(&books, &other, &allowed).await.code, "BAD_PAYLOAD");
    let trusted = crate::testing::trusted(ez_protocol::envelope::KeyRole::Order);
    let crossed = crate::intake::read(&sign_image(&source(), |_| {}), &trusted, NOW);
    assert_eq!(crossed.unwrap_err().code, ez_protocol::refusal::RefusalCode::BadPayload);
}
