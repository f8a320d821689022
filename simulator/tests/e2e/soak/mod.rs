//! Many purchases over many nodes while everything goes wrong at random, with the invariant checker running all
//! the while. What may never be broken is asked throughout; that everything has converged, at the end.
//!
//! `make soak SECONDS=600 SEED=1`; the ordinary test run has a short form. A failure prints the seed and the
//! story, and keeps the state of the system below `target/soak`.

mod care;
mod customers;
mod diary;
mod faults;
mod root;

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use self::{
    customers::{Customer, End},
    diary::Diary,
};
use crate::{
    dice::Dice,
    support::{Database, Demo, STILL, until},
};

/// Invariants that hold at every moment, whatever is going wrong (I2, I3, I6 and I12 allow for a minute after
/// the faults have ended).
const ALWAYS: [&str; 8] = ["I1", "I4", "I5", "I7", "I8", "I9", "I10", "I11"];
/// VMID of somebody else's VM on the first host; the next hosts' follow, as a VMID is unique in a cluster.
const OTHERS: usize = 9_900;
/// What stands still at the end may take so long to come to its end: a dead clone waits for the repair, an
/// ending that did not work out is tried again after a minute and a half.
const SETTLING: Duration = Duration::from_secs(300);
/// While faults last, a program may stand still for seconds, again and again, and what it has begun stands with it.
const AT_WORK: Duration = Duration::from_millis(ez_simulator::check::World::GRACE_MS.unsigned_abs());

/// How large a soak is.
#[derive(Clone, Copy)]
struct Size {
    seconds: u64,
    seed: u64,
    nodes: u16,
    purchases: u32,
}

impl Size {
    /// As the environment says; without it a short one.
    fn of_environment() -> Self {
        let number = |name: &str, or: u64| {
            std::env::var(name).ok().map_or(or, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number"))
            })
        };
        Self {
            seconds: number("EZ_SOAK_SECONDS", 30),
            seed: number("EZ_SOAK_SEED", 1),
            nodes: u16::try_from(number("EZ_SOAK_NODES", 3)).unwrap(),
            purchases: u32::try_from(number("EZ_SOAK_PURCHASES", 15)).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_wrong_at_random_and_nothing_is_lost_or_doubled() {
    let size = Size::of_environment();
    let nodes = size.nodes;
    let more = ["--speed", "20", "--host-memory", "256", "--link-proxy"];
    let Some(demo) = Demo::start_with(&format!("soak {}", size.seed), Database::Sqlite, nodes, &more).await
    else {
        return;
    };
    let demo = Arc::new(demo);
    let diary = Diary::begin();
    let told = tokio::spawn(soak(Arc::clone(&demo), size, diary.clone())).await;
    match told {
        Ok(summary) => println!("{summary}"),
        Err(failure) => {
            let kept = keep(&demo, size.seed, &diary);
            println!("{}", diary.last(80));
            println!("SEED={} failed; the whole story and the state are in {}", size.seed, kept.display());
            std::panic::resume_unwind(failure.into_panic());
        }
    }
    Arc::into_inner(demo).unwrap().stop().await;
}

/// Copies the state of a system that failed to where it outlives the test.
fn keep(demo: &Demo, seed: u64, diary: &Diary) -> PathBuf {
    let target = crate::support::program("ez-demo").ancestors().nth(2).unwrap().join(format!("soak/{seed}"));
    let _ = std::fs::remove_dir_all(&target);
    std::fs::create_dir_all(&target).unwrap();
    copy(&demo.path(""), &target.join("state"));
    std::fs::write(target.join("story.txt"), diary.last(usize::MAX)).unwrap();
    target
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // Sockets and files that vanish meanwhile are no loss.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

/// Addresses for everybody: the demo's pools hold 250.
async fn make_room(demo: &Demo) {
    let path = demo.path("catalog.toml");
    let mut catalog = std::fs::read_to_string(&path).unwrap();
    for (location, third) in [("fsn", 0), ("hel", 4)] {
        catalog.push_str(&format!(
            "\n[[address_pools]]\nlocation = \"{location}\"\nbridge = \"vmbr0\"\nprefix = \"198.18.{third}.0/22\"\n\
             gateway = \"198.18.{third}.1\"\ndns = [\"9.9.9.9\"]\n"
        ));
    }
    std::fs::write(&path, catalog).unwrap();
    let applied = demo.control_plane(&["apply", path.to_str().unwrap()]).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// Everything about VMs of others, on every host.
async fn foreign(demo: &Demo, nodes: u16) -> Vec<Value> {
    let mut all = Vec::new();
    for index in 0..usize::from(nodes) {
        let theirs = until("the host to say what others have", SETTLING, || async {
            let digest =
                demo.host(index).get("/digest").await["foreign"][(OTHERS + index).to_string()].clone();
            digest.is_string().then_some(digest)
        });
        all.push(theirs.await);
    }
    all
}

async fn soak(demo: Arc<Demo>, size: Size, diary: Diary) -> String {
    for index in 0..usize::from(size.nodes) {
        let vm = json!({ "vmid": OTHERS + index, "name": "theirs", "running": true });
        demo.host(index).control("/foreign-vm", vm).await;
    }
    let theirs = foreign(&demo, size.nodes).await;
    make_room(&demo).await;
    // Of a long run there are more wishes than a host's owner lets happen in a day; a short one keeps to the usual limits.
    if size.purchases > 10 * u32::from(size.nodes) {
        for index in 0..usize::from(size.nodes) {
            demo.allow_many_creates(index).await;
        }
    }
    let people = customers::sign_up(&demo, 12.min(size.purchases)).await;
    let began = Instant::now();
    // What is broken ends the run at once.
    let (struck, ends) = tokio::select! {
        done = live_through(&demo, size, &people, began, &diary) => done,
        never = watch(&demo, &diary) => match never {},
        never = root::watch_over(&demo, size.nodes, &diary) => match never {},
    };
    let looks = diary.count("looked");
    assert!(struck > 0 && looks > 0, "{struck} faults and {looks} looks prove nothing");
    assert_eq!(foreign(&demo, size.nodes).await, theirs, "VMs of others were touched");
    let seconds = began.elapsed().as_secs();
    let [worked, failed, helped] =
        ["buttons that worked", "buttons that did not", "root"].map(|what| diary.count(what));
    format!(
        "soak SEED={}: {} purchases over {} nodes in {seconds} s: {ends:?}; {worked} buttons pressed worked, {failed} \
         ended with an error; root was needed {helped} times; {struck} faults; looked at {looks} times meanwhile; at the \
         end every invariant holds and VMs of others are as they were",
        size.seed, size.purchases, size.nodes
    )
}

/// Lets the purchases and the faults happen, waits for their ends and until everything has converged; how many faults
/// there were, and how the purchases ended.
async fn live_through(
    demo: &Arc<Demo>,
    size: Size,
    people: &[Arc<Customer>],
    began: Instant,
    diary: &Diary,
) -> (u32, BTreeMap<End, u32>) {
    let over = began + Duration::from_secs(size.seconds);
    let monkey =
        tokio::spawn(faults::rage(Arc::clone(demo), Dice::of(size.seed), size.nodes, over, diary.clone()));
    let mut buying = tokio::task::JoinSet::new();
    for number in 0..size.purchases {
        // Spread over nine tenths of the time.
        let share = f64::from(number) / f64::from(size.purchases) * 0.9;
        let at = began + Duration::from_secs(size.seconds).mul_f64(share);
        let customer = Arc::clone(&people[usize::try_from(number).unwrap() % people.len()]);
        let dice = Dice::of(size.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
        buying.spawn(customers::one(Arc::clone(demo), customer, number, at, dice, diary.clone()));
    }
    let struck = monkey.await.unwrap();
    diary.note("the faults have ended");
    let mut ends: BTreeMap<End, u32> = BTreeMap::new();
    let waited = tokio::time::timeout(SETTLING + Duration::from_secs(u64::from(size.purchases)), async {
        while let Some(end) = buying.join_next().await {
            match end {
                Ok(end) => *ends.entry(end).or_default() += 1,
                Err(failure) => std::panic::resume_unwind(failure.into_panic()),
            }
        }
    });
    assert!(waited.await.is_ok(), "{} purchases have come to no end; others: {ends:?}", buying.len());
    diary.note(&format!("every purchase has ended: {ends:?}"));
    let mut last = Vec::new();
    let settled = Instant::now() + SETTLING;
    loop {
        if let Some(found) = violations(demo, STILL).await {
            last = found;
            if last.is_empty() {
                break;
            }
        }
        assert!(Instant::now() < settled, "it does not converge: {last:#?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (struck, ends)
}

/// What the checker finds; `None` while a part of the world is away and cannot be asked.
async fn violations(demo: &Demo, grace: Duration) -> Option<Vec<Value>> {
    let output = demo.run_check_with(grace).await;
    let report: Value = serde_json::from_slice(&output.stdout).ok()?;
    report["violations"].as_array().cloned()
}

/// Asks all the while whether what may never be broken holds. What is found twice in a row is real; once may be
/// the seam between two readings of a moving system.
async fn watch(demo: &Demo, diary: &Diary) -> Infallible {
    let mut before: Vec<Value> = Vec::new();
    loop {
        let began = Instant::now();
        if let Some(found) = violations(demo, AT_WORK).await {
            let broken: Vec<Value> = found
                .into_iter()
                .filter(|v| ALWAYS.contains(&v["invariant"].as_str().unwrap_or("")))
                .collect();
            diary.count_up("looked");
            let still: Vec<&Value> = broken
                .iter()
                .filter(|v| {
                    before
                        .iter()
                        .any(|b| (&b["invariant"], &b["subject"]) == (&v["invariant"], &v["subject"]))
                })
                .collect();
            if !still.is_empty() {
                diary.note(&format!("BROKEN: {still:?}"));
                panic!("broken while faults last: {still:#?}");
            }
            for violation in &broken {
                diary.note(&format!("seen once: {violation}"));
            }
            before = broken;
        }
        // Looking is work, too: it must not become the main load of the machine.
        tokio::time::sleep(began.elapsed().mul_f64(2.0).max(Duration::from_millis(500))).await;
    }
}
