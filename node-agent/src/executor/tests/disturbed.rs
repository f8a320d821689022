//! Disturbances and what a scene comes to under one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ez_protocol::{UnixMillis, message::EventKind, order::ProvisioningOrder};
use sqlx::Connection as _;

use super::{
    kit::{Host, Written},
    scenes::Scene,
};
use crate::{
    executor::Actors,
    journal::{Admission, OrderRow, Phase, fuse::Cut},
    pve::{
        Vmid,
        fake::{Call, FakeGuest, FakeHypervisor, Fault, Kind, Plan},
    },
    testing::{Books, NOW, VMID, instance},
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disturbance {
    /// The call is refused, and nothing has happened.
    Refused,
    /// The call is refused, and yet it has happened.
    RefusedLate,
    /// There is no connection.
    Unreachable,
    /// The answer is lost, the call never came.
    LostBefore,
    /// The answer is lost, the call has happened.
    LostAfter,
    /// The task fails.
    TaskFails,
    /// The task fails, and yet it has happened.
    TaskFailsLate,
    /// The worker is killed.
    WorkerKilled,
    /// The worker of a restore is killed when the old disks are gone and the new ones empty, that of a destruction when
    /// the disks are gone and the configuration is not.
    WorkerKilledHalf,
    /// The VM is destroyed, its disk is not.
    KeepsDisk,
    /// The worker is killed at the very end.
    WorkerKilledLate,
    /// The agent is killed while the call is under way.
    AgentKilled,
    /// The agent is killed there, and again when it makes the same call.
    AgentKilledTwice,
    /// Refused as often as it is called.
    AlwaysRefused,
    /// Its answer is lost as often as it is called.
    AlwaysLost,
    /// Without connection as often as it is called.
    AlwaysUnreachable,
    /// The cluster cannot be written to, once.
    NoQuorum,
    /// As often as it is called.
    AlwaysNoQuorum,
    /// The task meets it half way.
    TaskWithoutQuorum,
    /// The step's result is forgotten after the order's end: it is done once more.
    Repeated,
    /// The same, and the journal does not know the task either.
    RepeatedUnanswered,
}

use Disturbance::*;

impl Disturbance {
    /// What can happen to a call.
    pub(super) fn of(call: &Call) -> Vec<Disturbance> {
        let killed = [AgentKilled, AgentKilledTwice];
        let unanswered = [Unreachable, LostBefore, AlwaysUnreachable];
        let changes = [RefusedLate, LostAfter, AlwaysRefused, AlwaysLost, NoQuorum, AlwaysNoQuorum];
        let tasks = [TaskFails, TaskFailsLate, TaskWithoutQuorum, WorkerKilled, WorkerKilledLate];
        let also: Vec<Disturbance> = match call.kind {
            // What cannot be removed is said in the log, and stays.
            Kind::Local if call.verb == "remove_files" => Vec::new(),
            Kind::Local => vec![Refused, AlwaysRefused],
            Kind::Look => [&[Refused], &unanswered[..]].concat(),
            Kind::Change => [&[Refused], &unanswered[..], &changes].concat(),
            Kind::Task => {
                let half: &[Disturbance] = match call.verb {
                    "restore" => &[WorkerKilledHalf],
                    "destroy" => &[KeepsDisk, WorkerKilledHalf],
                    _ => &[],
                };
                [&[Refused], &unanswered[..], &changes, &tasks, half].concat()
            }
        };
        killed.into_iter().chain(also).collect()
    }

    /// Whether it matters how far a task has come when nobody waits for it.
    pub(super) fn depends_on_haste(self, call: &Call) -> bool {
        let unwatched = matches!(self, RefusedLate | LostAfter | AlwaysLost | AgentKilled | AgentKilledTwice);
        unwatched && (call.kind == Kind::Task || call.verb == "task_status")
    }

    /// Nothing was said that is final: the order has to come to its own end.
    pub(super) fn is_passing(self) -> bool {
        matches!(
            self,
            Unreachable
                | LostBefore
                | LostAfter
                | WorkerKilled
                | WorkerKilledHalf
                | WorkerKilledLate
                | AgentKilled
                | AgentKilledTwice
                | NoQuorum
                | TaskWithoutQuorum
                | Repeated
                | RepeatedUnanswered
        )
    }

    fn fault(self) -> Option<Fault> {
        let refusal = || (500, "something went wrong".to_owned());
        let text = || "something went wrong".to_owned();
        Some(match self {
            Refused | AlwaysRefused => Fault::Refused(refusal().0, refusal().1),
            RefusedLate => Fault::RefusedLate(refusal().0, refusal().1),
            Unreachable | AlwaysUnreachable => Fault::Unreachable,
            LostBefore => Fault::LostBefore,
            LostAfter | AlwaysLost => Fault::LostAfter,
            NoQuorum | AlwaysNoQuorum => Fault::Refused(500, "cluster not ready - no quorum?".to_owned()),
            TaskWithoutQuorum => Fault::TaskFails(
                "unable to open file '/etc/pve/nodes/fake/qemu-server/1000.conf.tmp.7' - Permission denied"
                    .to_owned(),
            ),
            TaskFails => Fault::TaskFails(text()),
            TaskFailsLate => Fault::TaskFailsLate(text()),
            WorkerKilled => Fault::TaskKilled,
            WorkerKilledHalf => Fault::TaskKilledHalf,
            KeepsDisk => Fault::TaskKeepsDisk,
            WorkerKilledLate => Fault::TaskKilledLate,
            AgentKilled | AgentKilledTwice | Repeated | RepeatedUnanswered => return None,
        })
    }
}

/// How fast the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// A task goes on when it is asked for.
    Patient,
    /// A task is over before the next call.
    Hasty,
}

/// Everything that is there at an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) guests: BTreeMap<Vmid, FakeGuest>,
    pub(super) files: Vec<Vmid>,
    pub(super) books: Option<(Phase, bool)>,
}

/// A scene at its end.
pub(super) struct Played {
    pub(super) host: Host,
    pub(super) row: OrderRow,
    /// Number of the first call of the order that was disturbed.
    pub(super) first: usize,
    /// What had been done before it.
    pub(super) effects_before: usize,
    pub(super) foreign: BTreeMap<Vmid, FakeGuest>,
}

/// VMs of somebody else: one without any marker, one of another installation, one that runs.
fn neighbours(host: &Host) {
    let other = "ez:v1 0192d3c0-0000-7000-8000-000000000001 0192d3c0-0000-7000-8000-000000000002 \
                 0192d3c0-0000-7000-8000-000000000003 1";
    for (vmid, description, running) in
        [(101, "the operator's own", true), (1_001, other, false), (1_002, "", true)]
    {
        host.pve.put_guest(vmid, |guest| {
            guest.config.insert("description".to_owned(), description.to_owned());
            guest.config.insert("memory".to_owned(), "512".to_owned());
            guest.running = running;
        });
    }
}

fn foreign(host: &Host) -> BTreeMap<Vmid, FakeGuest> {
    let all = host.pve.guests().into_keys().filter(|vmid| *vmid != VMID);
    all.filter_map(|vmid| Some((vmid, host.pve.guest(vmid)?))).collect()
}

/// A scene before its order comes, to be played from as often as one likes.
pub(super) struct Stage {
    pve: FakeHypervisor,
    files: BTreeMap<Vmid, Written>,
    dir: tempfile::TempDir,
    foreign: BTreeMap<Vmid, FakeGuest>,
}

impl Stage {
    pub(super) async fn of(scene: &Scene) -> Self {
        let host = Host::new().await;
        neighbours(&host);
        scene.set(&host).await;
        let dir = tempfile::tempdir().unwrap();
        let mut conn = open(&host).await;
        let whole = format!("VACUUM INTO '{}'", dir.path().join("journal.sqlite").display());
        sqlx::query(sqlx::AssertSqlSafe(whole)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let (files, foreign) = (host.files.0.lock().unwrap().clone(), foreign(&host));
        Self { pve: host.pve.fork(), files, dir, foreign }
    }
}

/// A connection of our own to a journal.
async fn open(host: &Host) -> sqlx::SqliteConnection {
    let file = host.books.dir.path().join("journal.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    sqlx::SqliteConnection::connect_with(&options).await.unwrap()
}

/// Plays a scene to its end with one disturbance at call number `at`, counted from the order's first.
pub(super) async fn play(
    scene: &Scene,
    stage: &Stage,
    pace: Haste,
    what: Option<(Disturbance, usize, Call)>,
) -> Played {
    let always = what.is_some_and(|(d, _, call)| {
        d == AlwaysNoQuorum || (d == AlwaysUnreachable && call.kind == Kind::Look)
    });
    let patience = Duration::from_millis(if always { 100 } else { 20_000 });
    let books = Books::quick(Some(&stage.dir.path().join("journal.sqlite"))).await;
    let mut host = Host::over(stage.pve.fork(), stage.files.clone(), books, patience);
    host.install_repair();
    if pace == Haste::Hasty {
        host.pve.be_hasty();
    }
    host.books.accept(&scene.target).await;
    let (first, effects_before) = (host.pve.trace().len(), host.pve.effects().len());
    if let Some((disturbance, at, call)) = what {
        plan(&host, disturbance, first + at, call);
    }
    let mut killed = 0;
    loop {
        let outcome = with_repair(&host, &scene.target).await;
        if outcome.is_ok() {
            break;
        }
        killed += 1;
        assert!(killed <= 2, "{}: {outcome:?}", scene.name);
        host.restart().await;
        if let Some((AgentKilledTwice, _, call)) = what.filter(|_| killed == 1) {
            host.pve.plan(Plan::StrikeStep(call.step, call.verb, strike(&host)));
        }
    }
    let row = host.row(&scene.target).await;
    Played { host, row, first, effects_before, foreign: stage.foreign.clone() }
}

/// Plays a scene with the journal failing for good at its `n`-th write, and once more after the restart.
/// Whether it came to that.
pub(super) async fn play_cut(
    scene: &Scene,
    stage: &Stage,
    pace: Haste,
    (n, cut): (u32, Cut),
) -> (Played, bool) {
    let books = Books::quick(Some(&stage.dir.path().join("journal.sqlite"))).await;
    let mut host = Host::over(stage.pve.fork(), stage.files.clone(), books, Duration::from_secs(20));
    host.install_repair();
    if pace == Haste::Hasty {
        host.pve.be_hasty();
    }
    host.books.accept(&scene.target).await;
    let (first, effects_before) = (host.pve.trace().len(), host.pve.effects().len());
    host.books.journal.fuse.set(n, cut);
    let outcome = with_repair(&host, &scene.target).await;
    let crashed = host.books.journal.fuse.blown();
    assert_eq!(outcome.is_err(), crashed, "{}: write {n}: {outcome:?}", scene.name);
    if crashed {
        host.restart().await;
        with_repair(&host, &scene.target).await.unwrap();
    }
    let row = host.row(&scene.target).await;
    let foreign = stage.foreign.clone();
    (Played { host, row, first, effects_before, foreign }, crashed)
}

/// A host at the beginning of a scene whose order has been accepted.
async fn curtain(scene: &Scene, stage: &Stage) -> Played {
    let books = Books::quick(Some(&stage.dir.path().join("journal.sqlite"))).await;
    let mut host = Host::over(stage.pve.fork(), stage.files.clone(), books, Duration::from_secs(20));
    host.install_repair();
    host.books.accept(&scene.target).await;
    let (first, effects_before) = (host.pve.trace().len(), host.pve.effects().len());
    let row = host.row(&scene.target).await;
    Played { host, row, first, effects_before, foreign: stage.foreign.clone() }
}

/// Plays a scene whose order is delivered, and handed to its actor, again and again while it is at work.
pub(super) async fn play_delivered(scene: &Scene, stage: &Stage, times: usize) -> Played {
    let mut played = curtain(scene, stage).await;
    let (id, about) = (scene.target.order_id, scene.target.instance.uuid);
    let actors = Actors::new(Arc::clone(&played.host.engine));
    actors.enqueue(about, id, None);
    for n in 1..times {
        let verdict = played.host.books.admit(&scene.target).await;
        let Admission::Duplicate(known) = verdict else { panic!("{}: {n}: {verdict:?}", scene.name) };
        assert_eq!(known.order_id, id);
        actors.enqueue(about, id, None);
    }
    while actors.is_busy() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    played.row = played.host.row(&scene.target).await;
    played
}

/// Plays a scene during whose call number `at` the agent's clock jumps by so many milliseconds.
pub(super) async fn play_in_time(scene: &Scene, stage: &Stage, jump: i64, at: usize) -> Played {
    let mut played = curtain(scene, stage).await;
    let clock = played.host.clock.clone();
    let strike = Arc::new(move || clock.set(UnixMillis(NOW.0 + jump)));
    played.host.pve.plan(Plan::Strike(played.first + at, strike));
    with_repair(&played.host, &scene.target).await.unwrap();
    played.row = played.host.row(&scene.target).await;
    played
}

/// Plays a scene with the journal's disk full from its `n`-th write on, until there is room again; the agent lives on.
/// Whether it came to that.
pub(super) async fn play_full(scene: &Scene, stage: &Stage, n: u32) -> (Played, bool) {
    let mut played = curtain(scene, stage).await;
    let fuse = played.host.books.journal.fuse.clone();
    fuse.set(n, Cut::BeforeCommit);
    let outcome = with_repair(&played.host, &scene.target).await;
    let full = fuse.blown();
    fuse.mend();
    if full {
        // As often as the actor tries meanwhile, it comes no further; then there is room.
        with_repair(&played.host, &scene.target).await.unwrap();
    } else {
        outcome.unwrap();
    }
    played.row = played.host.row(&scene.target).await;
    (played, full)
}

/// The agent dies before it can write another word into its journal.
fn strike(host: &Host) -> Arc<dyn Fn() + Send + Sync> {
    let fuse = host.books.journal.fuse.clone();
    Arc::new(move || fuse.set(1, Cut::BeforeCommit))
}

fn plan(host: &Host, disturbance: Disturbance, at: usize, call: Call) {
    let plan = match (disturbance, disturbance.fault()) {
        (AlwaysRefused | AlwaysLost | AlwaysUnreachable | AlwaysNoQuorum, Some(fault)) => {
            Plan::Always(call.step, call.verb, fault)
        }
        (_, Some(fault)) => Plan::At(at, fault),
        (AgentKilled | AgentKilledTwice, None) => Plan::Strike(at, strike(host)),
        (_, None) => return,
    };
    host.pve.plan(plan);
}

/// Runs the order while root's repair unit does its one duty.
pub(super) async fn with_repair(host: &Host, order: &ProvisioningOrder) -> Result<(), String> {
    let request = host.repair_dir.clone().unwrap().join(format!("clean-clone-{VMID}.json"));
    let repair = async {
        loop {
            if request.exists() {
                let locked = |g: FakeGuest| g.config.get("lock").is_some_and(|lock| lock == "clone");
                assert!(host.pve.guest(VMID).is_some_and(locked), "the repair is asked for without need");
                host.pve.forget(VMID);
                std::fs::remove_file(&request).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        outcome = host.engine.run_order(order.order_id) => outcome,
        () = repair => unreachable!("the repair does not end"),
    }
}

impl Played {
    pub(super) async fn picture(&self) -> Picture {
        let books = self.host.books.journal.resource(instance(10)).await.unwrap();
        Picture {
            guests: self.host.pve.guests(),
            files: self.host.files.0.lock().unwrap().keys().copied().collect(),
            books: books.map(|row| (row.phase, row.observed_generation == row.generation)),
        }
    }

    /// What the order did.
    pub(super) fn effects(&self) -> Vec<String> {
        let mut effects = self.host.pve.effects().split_off(self.effects_before);
        effects.sort();
        effects
    }

    pub(super) fn foreign_now(&self) -> BTreeMap<Vmid, FakeGuest> {
        foreign(&self.host)
    }

    /// How many ends of the order were told.
    pub(super) async fn ends_told(&self, order: &ProvisioningOrder) -> usize {
        let id = order.order_id.to_string();
        let events = self.host.events().await;
        events
            .iter()
            .filter(|e| e.order_id == id && EventKind::try_from(e.kind).is_ok_and(EventKind::is_final))
            .count()
    }

    /// Forgets what the journal knows of a step's end, and lets the order go on.
    pub(super) async fn repeat(&mut self, scene: &Scene, k: i64, forget_task: bool) {
        let mut conn = open(&self.host).await;
        let id = scene.target.order_id.to_string();
        let state = if k < 0 { "undoing" } else { "running" };
        let step = if forget_task {
            "UPDATE steps SET state = 'intent', attempt = MAX(attempt, 1), upid = NULL WHERE order_id = $1 AND k = $2"
        } else {
            "UPDATE steps SET state = CASE WHEN upid IS NULL THEN 'intent' ELSE 'called' END, \
             attempt = MAX(attempt, 1) WHERE order_id = $1 AND k = $2"
        };
        sqlx::query(step).bind(&id).bind(k).execute(&mut conn).await.unwrap();
        let order = "UPDATE orders SET state = $2, finished_at = NULL WHERE order_id = $1";
        sqlx::query(order).bind(&id).bind(state).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        with_repair(&self.host, &scene.target).await.unwrap();
        self.row = self.host.row(&scene.target).await;
    }

    /// Undoes what has been undone, as if the journal had never heard that it was.
    pub(super) async fn undo_again(&mut self, scene: &Scene) {
        let mut conn = open(&self.host).await;
        let id = scene.target.order_id.to_string();
        let steps = "DELETE FROM steps WHERE order_id = $1 AND k < 0";
        sqlx::query(steps).bind(&id).execute(&mut conn).await.unwrap();
        let order = "UPDATE orders SET state = 'undoing', finished_at = NULL WHERE order_id = $1";
        sqlx::query(order).bind(&id).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        with_repair(&self.host, &scene.target).await.unwrap();
        self.row = self.host.row(&scene.target).await;
    }

    /// Steps of the order as the journal has them.
    pub(super) async fn steps(&self) -> Vec<(i64, String)> {
        let rows = self.host.books.journal.steps(self.row.order_id).await.unwrap();
        rows.into_iter().map(|row| (row.k, row.name)).collect()
    }
}
