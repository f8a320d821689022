//! A part of a session that panics, and a stream in it that does.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
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

/// Stands still; once it is armed, every task that began after that panics when it asks it for the time.
#[derive(Default)]
struct Snare(AtomicU64);

impl Snare {
    /// Tasks are numbered as they begin; none has the number 0.
    fn number(id: task::Id) -> u64 {
        id.to_string().parse().unwrap()
    }

    fn arm(&self) {
        self.0.store(Self::number(tokio::spawn(async {}).id()), Ordering::SeqCst);
    }

    fn disarm(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

impl Clock for Snare {
    fn now(&self) -> UnixMillis {
        let armed_at = self.0.load(Ordering::SeqCst);
        let falls = armed_at > 0 && task::try_id().is_some_and(|id| Self::number(id) > armed_at);
        assert!(!falls, "the trap of a test");
        NOW
    }
}

#[tokio::test]
async fn an_incoming_stream_that_panics_ends_alone_and_its_peer_learns_of_it() {
    let snare = Arc::new(Snare::default());
    let clock: Arc<dyn Clock> = snare.clone();
    let story = story_by(clock, |_, _| {}).await;
    let mut only = welcome(&story, 1, 0).await;
    let ping = |nonce| Frame::new(FrameType::Ping, &Ping { nonce, now_ms: NOW.0 });
    // Once this is answered every part of the session is at work.
    only.control.say(ping(1)).await;
    only.control.until(FrameType::Pong).await;
    snare.arm();
    for kind in [StreamKind::Console, StreamKind::Order] {
        let (mut send, mut recv) = only.connection.open_bi().await.unwrap();
        send.write_all(&[kind.byte()]).await.unwrap();
        let frame = Frame::raw(FrameType::Envelope, sign(&ensure(1, 1))).encode(kind).unwrap();
        send.write_all(&frame).await.unwrap();
        let end = timeout(PATIENCE, recv.read(&mut [0; 1])).await.unwrap();
        let reset = quinn::ReadError::Reset(VarInt::from_u32(CloseCode::Finished.code()));
        assert_eq!(end, Err(reset), "{kind:?}");
    }
    snare.disarm();
    only.control.say(ping(2)).await;
    let pong = Pong::decode(only.control.until(FrameType::Pong).await.as_slice()).unwrap();
    assert_eq!(pong.nonce, 2, "the session goes on");
    assert!(only.connection.close_reason().is_none());
    assert_eq!(deliver(&only.connection, sign(&ensure(1, 1))).await.kind(), AnswerKind::Accepted);
    story.stop.cancel();
    story.link.await.unwrap();
}
