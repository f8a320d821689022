//! Orders, servers and payments as a whole: whatever happens in whatever order, and wherever the process dies.
//!
//! A story is a list of happenings in a small world: customers, Stripe with its webhooks, two nodes, operators, time,
//! and a control plane that dies after any commit or call and starts anew on the same database. After every step
//! the invariants hold ([`checks::always`]); once the faults have ended and time has passed, every paid order is a
//! server, a refund or on a desk ([`checks::at_rest`]), and a day later on no desk any more
//! ([`checks::in_the_end`]). A story that breaks one of them is shrunk and printed line by line.
//!
//! `PROPTEST_CASES` says how many stories are told.

mod checks;
mod host;
mod story;
mod world;

use std::{cell::RefCell, time::Duration};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use self::{
    checks::Memory,
    story::{Story, story},
    world::{Beginning, Broken, World, copy},
};
use crate::{
    db::{Db, testing::Fresh},
    orders::OrderState,
};

/// Stories told on SQLite unless `PROPTEST_CASES` says otherwise.
const STORIES: u32 = 60;
/// On PostgreSQL each needs an installation of its own.
const STORIES_ON_POSTGRES: u32 = 3;
/// The scenes of the longest one.
const LONGEST: usize = 16;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Tells a story; the memory of it is what it reached.
async fn tell(beginning: &Beginning, url: String, story: &Story, memory: &mut Memory) -> Result<(), Broken> {
    let mut world = World::begin(beginning, url).await;
    let told = tell_in(&mut world, story, memory).await;
    world.end().await;
    told
}

async fn tell_in(world: &mut World, story: &Story, memory: &mut Memory) -> Result<(), Broken> {
    for (at, what) in story.0.iter().enumerate() {
        let at = at + 1;
        world.happen(what).await.map_err(|broken| format!("step {at}, {what:?}: {broken}"))?;
        checks::always(world, memory)
            .await
            .map_err(|broken| format!("after step {at}, {what:?}: {broken}"))?;
    }
    world.quiet(48 * MINUTE, 4 * MINUTE).await?;
    checks::always(world, memory).await?;
    checks::at_rest(world).await.map_err(|broken| format!("when it was quiet: {broken}"))?;
    world.quiet(50 * HOUR, 5 * HOUR).await?;
    checks::always(world, memory).await?;
    world.quiet(76 * HOUR, 19 * HOUR).await?;
    checks::in_the_end(world).await.map_err(|broken| format!("days later: {broken}"))
}

fn runner(stories: u32) -> TestRunner {
    let told = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: told.unwrap_or(stories),
        failure_persistence: None,
        max_shrink_iters: 200,
        rng_seed: std::env::var("PROPTEST_RNG_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .map_or(RngSeed::Random, RngSeed::Fixed),
        ..Config::default()
    };
    TestRunner::new(config)
}

/// Tells the shortest story that goes wrong, if one did.
fn judge(told: Result<(), TestError<Story>>, retell: impl Fn(&Story) -> Result<(), Broken>) {
    match told {
        Ok(()) => {}
        Err(TestError::Fail(_, story)) => {
            let story = story.shortest(|story| retell(story).is_err());
            let why = retell(&story).err().unwrap_or_default();
            panic!("{why}\nThe shortest such story:{story:?}\n");
        }
        Err(other) => panic!("{other}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn whatever_happens_every_paid_order_ends_in_a_server_a_refund_or_on_a_desk() {
    let runtime = runtime();
    let (template, beginning) = runtime.block_on(async {
        let template = Fresh::sqlite().await;
        let beginning = Beginning::set_up(Db::open(&template.url).await.unwrap()).await;
        beginning.app.db.backup_to(&template.directory().join("template.sqlite")).await.unwrap();
        (template, beginning)
    });
    let (from, to) =
        (template.directory().join("template.sqlite"), template.directory().join("story.sqlite"));
    let reached = RefCell::new(Vec::new());
    let retell = |story: &Story| {
        for left in ["", "-wal", "-shm"] {
            let _absent_at_first = std::fs::remove_file(format!("{}{left}", to.display()));
        }
        let (url, mut memory) = (copy(&from, &to), Memory::default());
        let told = runtime.block_on(tell(&beginning, url, story, &mut memory));
        reached.borrow_mut().extend(memory.reached);
        told
    };
    let told = runner(STORIES).run(&story(LONGEST), |story| retell(&story).map_err(TestCaseError::fail));
    judge(told, retell);
    // Stories that get nowhere prove nothing.
    let reached = reached.into_inner();
    for state in [
        OrderState::AwaitingPayment,
        OrderState::Provisioning,
        OrderState::Fulfilled,
        OrderState::NeedsOperator,
        OrderState::Refunded,
        OrderState::Expired,
    ] {
        assert!(reached.contains(&state), "no story got to {state}");
    }
}

#[test]
fn the_same_holds_on_postgresql() {
    let runtime = runtime();
    let retell = |story: &Story| {
        runtime.block_on(async {
            let Some(fresh) = Fresh::postgres().await else { return Ok(()) };
            let beginning = Beginning::set_up(Db::open(&fresh.url).await.unwrap()).await;
            let told = tell(&beginning, fresh.url.clone(), story, &mut Memory::default()).await;
            beginning.app.db.close().await;
            fresh.remove().await;
            told
        })
    };
    let told =
        runner(STORIES_ON_POSTGRES).run(&story(LONGEST), |story| retell(&story).map_err(TestCaseError::fail));
    judge(told, retell);
}
