//! A power cut at any moment of the agent's journal. Killing a process keeps what the system has buffered; a
//! power cut does not. So the writes and syncs of a purchase are recorded, and disks are made as they could be
//! after a cut: everything that was synced, and of the rest any subset, some of it torn. SQLite must open each,
//! and find exactly what one of the commits had written, none older than the last one that was synced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    purchase,
    strace::{self, Tracer},
    support::{Database, Demo},
};

/// Disks that are tried.
const IMAGES: u64 = 400;
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

/// Small, repeatable dice.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The bytes of a string as strace writes it with `-xx`.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// One line of the record: `pid call(args) = result`, with the file behind each descriptor.
fn parse(line: &str) -> Option<Op> {
    let call = line.split_once(' ')?.1.trim_start();
    let (name, rest) = call.split_once('(')?;
    let path = rest.split_once('<')?.1.split_once('>')?.0;
    let path = String::from_utf8(bytes_of(path)?).ok()?;
    let file = Path::new(&path).file_name()?.to_str()?;
    let file = ["journal.sqlite", "journal.sqlite-wal"].into_iter().find(|known| *known == file)?.to_owned();
    match name {
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

/// Everything the journal says, as text.
async fn content(disk: &Disk, directory: &Path) -> String {
    for name in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
        let _ = std::fs::remove_file(directory.join(name));
        if let Some(bytes) = disk.get(name) {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let options = SqliteConnectOptions::new().filename(directory.join("journal.sqlite"));
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let whole: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut db).await.unwrap();
    assert_eq!(whole, "ok");
    let mut text = String::new();
    for sql in [
        "SELECT order_id || ' ' || state || ' ' || coalesce(result, '') FROM orders ORDER BY order_id",
        "SELECT order_id || ' ' || k || ' ' || attempt || ' ' || state FROM steps ORDER BY order_id, k",
        "SELECT CAST(event_seq AS TEXT) || ' ' || hex(body) FROM outbox ORDER BY event_seq",
    ] {
        for row in sqlx::query(sql).fetch_all(&mut db).await.unwrap() {
            text.push_str(&row.get::<String, _>(0));
            text.push('\n');
        }
    }
    db.close().await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_synced_survives_a_power_cut_at_any_moment() {
    let story = "power cut of the agent";
    if !strace::available(story) {
        return;
    }
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let journal = PathBuf::from(demo.state()["nodes"][0]["journal"].as_str().unwrap());
    let record = demo.path("journal.strace");
    let tracer =
        Tracer::record(demo.pid("/pids/agents/0"), "pwrite64,fsync,fdatasync,ftruncate", &record).await;
    let mut disk = Disk::new();
    for name in ["journal.sqlite", "journal.sqlite-wal"] {
        disk.insert(name.to_owned(), std::fs::read(journal.with_file_name(name)).unwrap_or_default());
    }
    purchase::buy(&demo, "web-1", "fsn").await;
    tracer.detach().await;
    let lines = std::fs::read_to_string(&record).unwrap();
    // A call that was interrupted by another thread's is told in two lines; what it did stands in the first.
    let ops: Vec<Op> = lines.lines().filter(|line| !line.contains(" resumed>")).filter_map(parse).collect();
    let syncs = ops.iter().filter(|op| matches!(op, Op::Sync { .. })).count();
    assert!(syncs > 20, "a purchase syncs more than {syncs} times");

    let directory = tempfile::tempdir().unwrap();
    // What each commit had written: the content at each sync, with everything before it.
    let mut at_sync = Vec::new();
    let mut whole = disk.clone();
    at_sync.push((0, content(&whole, directory.path()).await));
    for (index, op) in ops.iter().enumerate() {
        apply(&mut whole, op, None);
        if matches!(op, Op::Sync { .. }) {
            at_sync.push((index + 1, content(&whole, directory.path()).await));
        }
    }
    let last = content(&whole, directory.path()).await;

    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for image in 0..IMAGES {
        let cut = usize::try_from(dice.below(ops.len() as u64 + 1)).unwrap();
        let mut cut_disk = disk.clone();
        for (index, op) in ops[..cut].iter().enumerate() {
            let synced =
                ops[index..cut].iter().any(|later| matches!(later, Op::Sync { file } if file == file_of(op)));
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
                apply(&mut cut_disk, op, Some(&kept));
            }
        }
        let found = content(&cut_disk, directory.path()).await;
        let safe = at_sync.iter().rposition(|(index, _)| *index <= cut).unwrap();
        let possible = at_sync[safe..].iter().map(|(_, text)| text).chain([&last]);
        assert!(
            possible.into_iter().any(|text| *text == found),
            "image {image}, cut at {cut} of {}: something that was synced is lost, or half of a commit is there",
            ops.len()
        );
    }
    println!(
        "{IMAGES} disks after a power cut at any of {} writes and syncs: nothing that was synced is lost",
        ops.len()
    );
    demo.check().await;
    demo.stop().await;
}
