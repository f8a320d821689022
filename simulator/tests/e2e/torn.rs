//! A power cut at any moment of the agent's journal and of the control plane's database. Killing a process keeps
//! what the system has buffered; a power cut does not. So the writes and syncs of a purchase are recorded, and
//! disks are made as they could be after a cut: everything that was synced, and of the rest any subset, some of
//! it torn. SQLite must open each, and find exactly what the last synced commit had left, or the one commit that
//! was on its way. That the story can fail is shown by the same disks made as if nothing had been synced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    crash_points::{LARGE_AND_FAST, Later},
    dice::Dice,
    purchase,
    strace::{self, Tracer},
    support::{Database, Demo},
};

/// Disks that are tried.
const IMAGES: u64 = 400;
async fn a_purchase(demo: &Demo) {
    purchase::buy(demo, "web-1", "fsn").await;
}

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// What the journal's process did to its files, in its order.
#[derive(Debug)]
enum Op {
    Write { file: String, at: usize, bytes: Vec<u8> },
    Truncate { file: String, to: usize },
    Sync { file: String },
}

/// The files by name.
type Disk = BTreeMap<String, Vec<u8>>;

fn apply(disk: &mut Disk, op: &Op, bytes_kept: Option<&[bool]>) {
    match op {
        Op::Write { file, at, bytes } => {
            let content = disk.entry(file.clone()).or_default();
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if bytes_kept.is_some_and(|kept| !kept[index]) {
                    continue;
                }
                let from = at + index * SECTOR;
                if content.len() < from + sector.len() {
                    content.resize(from + sector.len(), 0);
                }
                content[from..from + sector.len()].copy_from_slice(sector);
            }
        }
        Op::Truncate { file, to } => disk.entry(file.clone()).or_default().resize(*to, 0),
        Op::Sync { .. } => {}
    }
}

fn file_of(op: &Op) -> &str {
    match op {
        Op::Write { file, .. } | Op::Truncate { file, .. } | Op::Sync { file } => file,
    }
}

/// The bytes of a string as strace writes it with `-xx`.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// One line of the record: `pid call(args) = result`, with the file behind each descriptor. Only calls on a file
/// called `name`, or its write-ahead log.
fn parse(line: &str, name: &str) -> Option<Op> {
    let call = line.split_once(' ')?.1.trim_start();
    let (call, rest) = call.split_once('(')?;
    let path = rest.split_once('<')?.1.split_once('>')?.0;
    let path = String::from_utf8(bytes_of(path)?).ok()?;
    let file = Path::new(&path).file_name()?.to_str()?.to_owned();
    file.strip_prefix(name).filter(|rest| ["", "-wal"].contains(rest))?;
    match call {
        "fsync" | "fdatasync" => Some(Op::Sync { file }),
        "ftruncate" => {
            let to = rest.split_once(">, ")?.1.split_once(')')?.0.parse().ok()?;
            Some(Op::Truncate { file, to })
        }
        "pwrite64" => {
            let (hex, numbers) = rest.split_once(">, \"")?.1.split_once("\", ")?;
            let bytes = bytes_of(hex)?;
            let at = numbers.split_once(", ")?.1.split_once([')', ' '])?.0.parse().ok()?;
            Some(Op::Write { file, at, bytes })
        }
        _ => None,
    }
}

/// Whose power is cut.
struct Subject {
    story: &'static str,
    /// The process, by its place in the demo's summary.
    process: &'static str,
    /// What of the content is compared: one text per row.
    rows: &'static [&'static str],
}

const AGENT: Subject = Subject {
    story: "power cut of the agent",
    process: "/pids/agents/0",
    rows: &[
        "SELECT order_id || ' ' || state || ' ' || coalesce(result, '') FROM orders ORDER BY order_id",
        "SELECT order_id || ' ' || k || ' ' || attempt || ' ' || state FROM steps ORDER BY order_id, k",
        "SELECT CAST(event_seq AS TEXT) || ' ' || hex(body) FROM outbox ORDER BY event_seq",
    ],
};

const CONTROL_PLANE: Subject = Subject {
    story: "power cut of the control plane",
    process: "/pids/control_plane",
    rows: &[
        "SELECT id || ' ' || state FROM orders ORDER BY id",
        "SELECT id || ' ' || state FROM instances ORDER BY id",
        "SELECT id || ' ' || state || ' ' || hex(envelope) FROM provisioning_orders ORDER BY id",
        "SELECT id || ' ' || state FROM stripe_events ORDER BY id",
        "SELECT address || ' ' || state FROM addresses ORDER BY address",
        "SELECT node_id || ' ' || memory_mib_sold FROM node_capacity ORDER BY node_id",
        "SELECT id || ' ' || coalesce(hash, '') FROM audit ORDER BY id",
        "SELECT id || ' ' || coalesce(sent_at, 0) FROM mail_outbox ORDER BY id",
        "SELECT kind || ' ' || key FROM jobs ORDER BY kind, key",
    ],
};

/// The writes and syncs of a purchase, and the disk before them.
struct Record {
    subject: Subject,
    name: String,
    before: Disk,
    ops: Vec<Op>,
    /// What each sync had made safe: the content with everything before it, by the number of operations.
    commits: Vec<(usize, String)>,
    last: String,
    directory: tempfile::TempDir,
}

impl Record {
    /// Does something with the demo while the subject's file operations are written down.
    async fn of(demo: &Demo, subject: Subject, what: impl AsyncFnOnce(&Demo)) -> Self {
        let state = demo.state();
        let path = match state["database_url"].as_str().unwrap().strip_prefix("sqlite:") {
            Some(path) if subject.process == CONTROL_PLANE.process => path,
            _ => state["nodes"][0]["journal"].as_str().unwrap(),
        };
        let path = PathBuf::from(path);
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let file = demo.path("record.strace");
        let tracer =
            Tracer::record(demo.pid(subject.process), "pwrite64,fsync,fdatasync,ftruncate", &file).await;
        let mut before = Disk::new();
        for name in [name.clone(), format!("{name}-wal")] {
            before.insert(name.clone(), std::fs::read(path.with_file_name(&name)).unwrap_or_default());
        }
        what(demo).await;
        tracer.detach().await;
        let lines = std::fs::read_to_string(&file).unwrap();
        // A call that was interrupted by another thread's is told in two lines; what it did stands in the first.
        let whole = lines.lines().filter(|line| !line.contains(" resumed>"));
        let ops: Vec<Op> = whole.filter_map(|line| parse(line, &name)).collect();
        let directory = tempfile::tempdir().unwrap();
        let (commits, last) = (Vec::new(), String::new());
        let mut this = Self { subject, name, before, ops, commits, last, directory };
        let mut whole = this.before.clone();
        this.commits.push((0, this.content(&whole).await));
        for (index, op) in this.ops.iter().enumerate() {
            apply(&mut whole, op, None);
            if matches!(op, Op::Sync { .. }) {
                this.commits.push((index + 1, this.content(&whole).await));
            }
        }
        assert!(this.commits.len() > 20, "{} syncs are too few for this", this.commits.len());
        this.last = this.content(&whole).await;
        this
    }

    /// What a database on this disk says, as text.
    async fn content(&self, disk: &Disk) -> String {
        for name in [self.name.clone(), format!("{}-wal", self.name), format!("{}-shm", self.name)] {
            let path = self.directory.path().join(&name);
            let _ = std::fs::remove_file(&path);
            if let Some(bytes) = disk.get(&name) {
                std::fs::write(path, bytes).unwrap();
            }
        }
        let options = SqliteConnectOptions::new().filename(self.directory.path().join(&self.name));
        let mut db = SqliteConnection::connect_with(&options).await.unwrap();
        let text = match self.read(&mut db).await {
            Ok(text) => text,
            Err(error) => format!("damaged: {error}"),
        };
        // A damaged file may not close well either.
        let _ = db.close().await;
        text
    }

    async fn read(&self, db: &mut SqliteConnection) -> Result<String, sqlx::Error> {
        let whole: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut *db).await?;
        let mut text = format!("{whole}\n");
        for sql in self.subject.rows {
            for row in sqlx::query(*sql).fetch_all(&mut *db).await? {
                text.push_str(&row.try_get::<String, _>(0)?);
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// Cuts the power many times; how many disks lost something that was safe, or have half of a commit.
    /// `syncing = false` makes the disks as if no sync had ever been asked for.
    async fn cut(&self, syncing: bool) -> u64 {
        let mut dice = Dice::of(0);
        let mut lost = 0;
        for _ in 0..IMAGES {
            let cut = usize::try_from(dice.below(self.ops.len() as u64 + 1)).unwrap();
            let mut disk = self.before.clone();
            for (index, op) in self.ops[..cut].iter().enumerate() {
                let mut later = self.ops[index..cut].iter();
                let synced =
                    syncing && later.any(|op2| matches!(op2, Op::Sync { file } if file == file_of(op)));
                let sectors = match op {
                    Op::Write { bytes, .. } => bytes.len().div_ceil(SECTOR),
                    _ => 1,
                };
                // Two of five unsynced writes reach the disk, one of five of those in part.
                let kept: Vec<bool> = match (synced, dice.below(5), dice.below(5)) {
                    (true, ..) => vec![true; sectors],
                    (false, 0 | 1, 0) => (0..sectors).map(|_| dice.below(2) == 0).collect(),
                    (false, 0 | 1, _) => vec![true; sectors],
                    (false, ..) => vec![false; sectors],
                };
                if matches!(op, Op::Write { .. }) || kept[0] {
                    apply(&mut disk, op, Some(&kept));
                }
            }
            let found = self.content(&disk).await;
            let safe = self.commits.iter().rposition(|(index, _)| *index <= cut).unwrap();
            let on_its_way = self.commits.get(safe + 1).map_or(&self.last, |(_, text)| text);
            if found != self.commits[safe].1 && found != *on_its_way {
                lost += 1;
            }
        }
        lost
    }
}

async fn survives_power_cuts(subject: Subject, what: impl AsyncFnOnce(&Demo)) {
    if !strace::available(subject.story) {
        return;
    }
    let demo = Demo::start_with(subject.story, Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
    demo.allow_many_creates(0).await;
    let record = Record::of(&demo, subject, what).await;
    let story = record.subject.story;
    assert_eq!(record.cut(true).await, 0, "{story}: what was synced is lost, or half of a commit is there");
    let unsynced = record.cut(false).await;
    assert!(unsynced > 0, "{story}: disks without any sync look as good as synced ones: this proves nothing");
    println!(
        "{story}: {IMAGES} disks after a cut at any of {} writes and syncs, {} syncs: nothing that was synced is \
         lost. Without the syncs {unsynced} of {IMAGES} lose something",
        record.ops.len(),
        record.commits.len() - 1,
    );
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_synced_survives_a_power_cut_at_any_moment() {
    survives_power_cuts(AGENT, a_purchase).await;
}

/// Everything that is done to a server after it was built.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_synced_of_a_servers_later_life_survives_a_power_cut_at_any_moment() {
    let story = "power cut of the agent, a later life";
    survives_power_cuts(Subject { story, ..AGENT }, async |demo: &Demo| {
        let (_, server) = purchase::buy(demo, "web-1", "fsn").await;
        let server = server["id"].as_str().unwrap();
        for later in Later::ON_ONE_SERVER {
            let wish = later.prepare(demo, server).await;
            later.carry_out(demo, server, wish).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_synced_survives_a_power_cut_at_any_moment() {
    survives_power_cuts(CONTROL_PLANE, a_purchase).await;
}
