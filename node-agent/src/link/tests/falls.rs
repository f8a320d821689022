//! A part of a session that panics.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ez_protocol::{UnixMillis, message::Pong};
use tokio::task;

use super::*;

/// Stands still; once it is armed, the next task that has never asked it for the time panics.
#[derive(Default)]
struct Trap {
    known: Mutex<HashSet<task::Id>>,
    armed: AtomicBool,
}

impl Clock for Trap {
    fn now(&self) -> UnixMillis {
        if let Some(id) = task::try_id() {
            let new = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            assert!(!(new && self.armed.swap(false, Ordering::SeqCst)), "the trap of a test");
        }
        NOW
    }
}

#[tokio::test]
async fn a_part_that_panics_ends_the_session_and_the_agent_dials_anew() {
    let trap = Arc::new(Trap::default());
    let clock: Arc<dyn Clock> = trap.clone();
    let story = story_by(clock, |_, _| {}).await;
    let mut first = welcome(&story, 1, 0).await;
    trap.armed.store(true, Ordering::SeqCst);
    // Whichever part asks for the time next; who reads the control stream does with this frame.
    let ping = |nonce| Frame::new(FrameType::Ping, &Ping { nonce, now_ms: NOW.0 });
    first.control.say(ping(1)).await;
    timeout(PATIENCE, first.connection.closed()).await.unwrap();

    let mut second = welcome(&story, 2, 0).await;
    assert!(!trap.armed.load(Ordering::SeqCst), "something fell");
    second.control.say(ping(2)).await;
    let pong = Pong::decode(second.control.until(FrameType::Pong).await.as_slice()).unwrap();
    assert_eq!(pong.nonce, 2);
    story.stop.cancel();
    story.link.await.unwrap();
}
