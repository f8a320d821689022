//! CONSOLE streams: the grant in a frame, its answer in another, then raw bytes until one side ends it. How it
//! ended is the code that both directions are closed with.

use std::sync::Arc;

use ez_protocol::{
    frame::{FrameType, StreamKind},
    message::ConsoleAnswer,
    refusal::{Refusal, RefusalCode},
};
use quinn::{Connection, RecvStream, SendStream, VarInt};

use super::{
    endpoint::{STREAM_WINDOW, WINDOW},
    orders::this_node,
    stream::{HEADER_DEADLINE, Receiver, Sender, StreamError},
};
use crate::{
    agent::{Agent, Works},
    console::{self, Desk, Limits, Opened, Timer},
    journal::RefusalNote,
};

/// Serves one CONSOLE stream. Its faults end the stream, never the connection.
pub(super) async fn serve(agent: Arc<Agent>, connection: &Connection, send: SendStream, recv: RecvStream) {
    let mut sender = Sender::answer(StreamKind::Console, send);
    let mut receiver = Receiver::new(StreamKind::Console, recv);
    let opened = match begin(&agent, &mut sender, &mut receiver).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "a console stream failed");
            return receiver.refuse(error.close_code());
        }
    };
    let _room = Room::of(&agent, connection);
    let (id, instance) = (opened.grant().console_id, opened.grant().instance.uuid);
    let (kind, actor) = (opened.grant().kind, opened.grant().cause.actor.clone());
    tracing::info!(console = %id, %instance, %kind, actor, "console opened");
    let ends = (receiver.raw(), sender.raw());
    let ending = console::run(agent.pve.as_ref(), opened, ends, &Limits::default(), &Timer::start()).await;
    tracing::info!(console = %id, %instance, ?ending, "console closed");
    sender.end(ending.close_code());
    receiver.refuse(ending.close_code());
}

/// Room for what waits unread of each console: one whose host does not read must not keep orders from coming.
struct Room<'a> {
    agent: &'a Agent,
    connection: &'a Connection,
}

impl<'a> Room<'a> {
    fn of(agent: &'a Agent, connection: &'a Connection) -> Self {
        let room = Self { agent, connection };
        room.make(agent.consoles.taken());
        room
    }

    fn make(&self, consoles: u32) {
        let window = WINDOW.saturating_add(consoles.saturating_mul(STREAM_WINDOW));
        self.connection.set_receive_window(VarInt::from_u32(window));
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.make(self.agent.consoles.taken());
    }
}

/// The grant and its answer; `None`: refused, and said so.
async fn begin(
    agent: &Arc<Agent>,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Option<Opened>, StreamError> {
    let envelope = receiver.expect(FrameType::Envelope, HEADER_DEADLINE).await?;
    match open(agent, &envelope).await {
        Ok(opened) => {
            sender.send(FrameType::ConsoleAnswer, &ConsoleAnswer::default()).await?;
            Ok(Some(opened))
        }
        Err(refusal) => {
            let answer = ConsoleAnswer {
                code: refusal.code.as_str().to_owned(),
                rule: refusal.rule.unwrap_or_default(),
                detail: refusal.detail,
            };
            sender.send(FrameType::ConsoleAnswer, &answer).await?;
            sender.finish();
            sender.delivered().await;
            Ok(None)
        }
    }
}

async fn open(agent: &Arc<Agent>, envelope: &[u8]) -> Result<Opened, Refusal> {
    let Some(works) = &agent.works else {
        let detail = "this node's journal is damaged; it only reports";
        return Err(Refusal::new(RefusalCode::JournalCorrupt, detail));
    };
    let trusted = agent.identity().trust.trusted_keys().unwrap_or_default();
    let desk = Desk {
        journal: &works.journal,
        pve: agent.pve.as_ref(),
        policy: &agent.policy,
        seats: &agent.consoles,
        trusted: &trusted,
        node: this_node(agent),
    };
    let opened = console::open(&desk, envelope).await;
    if let Err(refusal) = &opened {
        note(agent, works, refusal).await;
    }
    opened
}

/// A refusal for people to find; it is as good as said, whether or not this can be written.
async fn note(agent: &Agent, works: &Works, refusal: &Refusal) {
    tracing::warn!(code = %refusal.code, detail = refusal.detail, "a console was refused");
    let now = agent.clock.now();
    let note = RefusalNote {
        order_id: None,
        seq: None,
        payload_hash: None,
        keep_until: now,
        refusal: refusal.clone(),
    };
    if let Err(error) = works.journal.note_refusal(note, now).await {
        tracing::warn!(%error, "a refusal could not be noted");
    }
}
