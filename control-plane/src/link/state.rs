//! State reports: what an agent sees on its host, one stream for each snapshot or delta.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ez_protocol::{
    UnixMillis,
    frame::{Frame, FrameType},
    message::{HostState, InstanceState, Resync, StateAck, StateDelta, StateSnapshot},
};

use super::{
    again::insist,
    connection::Peer,
    stream::{BODY_DEADLINE, Reader, StreamError, parse},
};
use crate::{
    db::DbError,
    dispatch::images,
    fleet::reports::{self, Position, Verdict},
};

/// Most bytes of one report.
const LARGEST: usize = 4 * 1024 * 1024;
/// Most servers that one report names: each costs a look into the database, and no host has a tenth of so many.
const MOST: usize = 20_000;
/// How long before everything is asked for again, when a report could not be stored: the cause may last.
const ASK_AFTER: Duration = Duration::from_secs(2);

/// A report put together from its frames.
struct Report {
    report_epoch: String,
    seq: u64,
    base: Option<u64>,
    observed_at_ms: i64,
    blind_since_ms: Option<i64>,
    instances: BTreeMap<String, InstanceState>,
    removed: Vec<String>,
    host: Option<HostState>,
}

/// Reads one report and stores it.
pub(super) async fn run(peer: &Arc<Peer>, reader: &mut Reader) -> Result<(), StreamError> {
    let Some(report) = read(reader).await? else { return Ok(()) };
    let seq = report.seq;
    let resync = |reason: &str| Frame::new(FrameType::Resync, &Resync { reason: reason.to_owned() });
    let answer = match store(peer, report).await {
        Ok(Verdict::Take | Verdict::Known) => Frame::new(FrameType::StateAck, &StateAck { seq }),
        Ok(Verdict::Gap) => resync("the report before is not known"),
        Err(error) => {
            // An agent tells changes once: without asking, this one would be missing until the next whole report.
            tracing::warn!(node.id = %peer.identity.node, %error, "a report was not stored; everything is asked for again");
            tokio::time::sleep(ASK_AFTER).await;
            resync("a report could not be stored")
        }
    };
    let _gone_with_the_connection = peer.control.send(answer).await;
    Ok(())
}

async fn read(reader: &mut Reader) -> Result<Option<Report>, StreamError> {
    let mut report: Option<Report> = None;
    let mut bytes = 0;
    while let Some((kind, body)) = reader.next(Some(BODY_DEADLINE)).await? {
        bytes += body.len();
        if bytes > LARGEST {
            return Err(StreamError::TooMuch);
        }
        let part = match kind {
            FrameType::StateSnapshot => of_snapshot(parse(&body)?),
            FrameType::StateDelta => of_delta(parse(&body)?),
            other => return Err(StreamError::Unexpected(other)),
        };
        match &mut report {
            None => report = Some(part),
            // A long report comes in several frames of the same number.
            Some(whole) if whole.seq == part.seq && whole.report_epoch == part.report_epoch => {
                whole.instances.extend(part.instances);
                whole.removed.extend(part.removed);
                whole.host = part.host.or(whole.host.take());
            }
            Some(_) => return Err(StreamError::Malformed),
        }
        if report.as_ref().is_some_and(|whole| whole.instances.len() + whole.removed.len() > MOST) {
            return Err(StreamError::TooMuch);
        }
    }
    Ok(report)
}

fn by_id(list: Vec<InstanceState>) -> BTreeMap<String, InstanceState> {
    list.into_iter().map(|state| (state.instance_id.clone(), state)).collect()
}

fn of_snapshot(part: StateSnapshot) -> Report {
    Report {
        report_epoch: part.report_epoch,
        seq: part.seq,
        base: None,
        observed_at_ms: part.observed_at_ms,
        blind_since_ms: part.blind_since_ms,
        instances: by_id(part.instances),
        removed: Vec::new(),
        host: part.host,
    }
}

fn of_delta(part: StateDelta) -> Report {
    Report {
        report_epoch: part.report_epoch,
        seq: part.seq,
        base: Some(part.base_seq),
        observed_at_ms: part.observed_at_ms,
        blind_since_ms: part.blind_since_ms,
        instances: by_id(part.changed),
        removed: part.removed,
        host: part.host,
    }
}

/// A report that is stored already is known, so an unknown outcome is tried again.
async fn store(peer: &Peer, report: Report) -> Result<Verdict, DbError> {
    let (db, node, at) = (&peer.shared.app.db, peer.identity.node, peer.shared.app.clock.now());
    let report = Arc::new(report);
    insist(node, "a report", || {
        let report = Arc::clone(&report);
        db.write(move |tx| {
            Box::pin(async move {
                let position =
                    Position { report_epoch: &report.report_epoch, seq: report.seq, base: report.base };
                reports::hold(tx, node).await?;
                let verdict = reports::take(tx, at, node, position).await?;
                if verdict == Verdict::Take {
                    if let Some(host) = &report.host {
                        reports::record_host(tx, at, node, host).await?;
                        images::seen(tx, at, node, &host.image_builds).await?;
                    }
                    reports::record_sight(tx, node, report.blind_since_ms).await?;
                    let seen: Vec<InstanceState> = report.instances.values().cloned().collect();
                    // An agent that cannot look repeats what it saw; that proves nothing.
                    if report.base.is_none() && report.blind_since_ms.is_none() {
                        reports::settle_strays(tx, at, node, &seen).await?;
                    }
                    let observed_at = UnixMillis(report.observed_at_ms);
                    reports::record_instances(tx, at, node, &seen, observed_at).await?;
                    reports::record_removed(tx, at, node, &report.removed, observed_at).await?;
                }
                Ok::<_, DbError>(verdict)
            })
        })
    })
    .await
}
