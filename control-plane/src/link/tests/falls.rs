//! Parts of a session that panic: the connection ends with them, and the agent dials anew.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ez_protocol::{
    UnixMillis,
    frame::{Frame, FrameType, StreamKind},
    message::{Event, EventAck, Hello, Ping, Pong},
};
use prost::Message as _;
use tokio::task;

use super::{
    client::{Agent, Served, write},
    doors::{closed, wait_until},
};
use crate::{
    app::{App, Services},
    clock::{Clock, ManualClock},
    config::Config,
    db, dispatch,
    entropy::{Entropy, SeededEntropy},
    fleet::testing::{AT, TestNode, enrolled, hello, locations},
    link::part::Panicked,
};

/// Stands still; once it is armed, the next task that has never asked it for the time panics.
struct Trap {
    clock: ManualClock,
    known: Mutex<HashSet<task::Id>>,
    armed: AtomicBool,
}

impl Clock for Trap {
    fn now(&self) -> UnixMillis {
        if let Some(id) = task::try_id() {
            let new = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            assert!(!(new && self.armed.swap(false, Ordering::SeqCst)), "the trap of a test");
        }
        self.clock.now()
    }
}

/// Once it is armed, the next that draws two bytes panics; a session does, for how long it lasts, and nobody else.
struct Snare {
    entropy: SeededEntropy,
    armed: AtomicBool,
}

impl Entropy for Snare {
    fn fill(&self, buf: &mut [u8]) {
        let two = buf.len() == 2;
        assert!(!(two && self.armed.swap(false, Ordering::SeqCst)), "the snare of a test");
        self.entropy.fill(buf);
    }
}

async fn story(db: db::Db) -> (App, Arc<Trap>, Arc<Snare>, Served, TestNode) {
    let trap =
        Arc::new(Trap { clock: ManualClock::at(AT), known: Mutex::default(), armed: AtomicBool::new(false) });
    let snare = Arc::new(Snare { entropy: SeededEntropy::new(1), armed: AtomicBool::new(false) });
    let (config, keys) = (Config::for_tests().unwrap(), dispatch::Keys::for_tests());
    let app = Services::assemble(config, db, keys, trap.clone(), snare.clone()).unwrap();
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    (app, trap, snare, served, node)
}

/// The same agent dials again and is served.
async fn is_served_again(app: &App, served: &Served, node: &TestNode, ratchet: Vec<u8>) {
    wait_until(|| app.links.connected() == 0).await;
    let said = Hello { ratchet, last_event_seq: 2, ..hello(node, 1_000) };
    let mut agent = Agent::greet(app, served.address, node, said).await.unwrap();
    assert!(!agent.welcome.quarantined);
    let ping = Frame::new(FrameType::Ping, &Ping { nonce: 7, now_ms: 1 });
    write(&mut agent.control.0, StreamKind::Control, ping).await;
    let (FrameType::Pong, body) = agent.told().await else { panic!("no Pong") };
    assert_eq!(Pong::decode(body.as_slice()).unwrap().nonce, 7);
}

#[tokio::test]
async fn a_task_of_a_session_that_panics_ends_the_session() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, trap, _snare, served, node) = story(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    // The stream's task has asked for the time once: another stream's has not.
    let (mut first, _recv) = agent.connection.open_bi().await.unwrap();
    let told = |event_seq| Frame::new(FrameType::Event, &Event { event_seq, ..Event::default() });
    first.write_all(&[StreamKind::Events.byte()]).await.unwrap();
    write(&mut first, StreamKind::Events, told(1)).await;
    let (FrameType::EventAck, body) = agent.told().await else { panic!("no EventAck") };
    assert_eq!(EventAck::decode(body.as_slice()).unwrap().event_seq, 1);

    trap.armed.store(true, Ordering::SeqCst);
    let (mut second, _recv) = agent.connection.open_bi().await.unwrap();
    second.write_all(&[StreamKind::Events.byte()]).await.unwrap();
    write(&mut second, StreamKind::Events, told(2)).await;
    assert_eq!(closed(&agent.connection).await, Some(Panicked::CODE));
    is_served_again(&app, &served, &node, agent.welcome.ratchet.clone()).await;
}

#[tokio::test]
async fn a_panic_in_the_middle_of_a_session_gives_its_place_up() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _trap, snare, served, node) = story(db).await;
    snare.armed.store(true, Ordering::SeqCst);
    let agent = Agent::connect(&app, served.address, &node).await;
    assert_eq!(closed(&agent.connection).await, Some(Panicked::CODE));
    is_served_again(&app, &served, &node, agent.welcome.ratchet.clone()).await;
}
