//! What is said after the greeting.

use std::{net::SocketAddr, sync::Arc};

use ez_protocol::{
    envelope::{Envelope, PayloadType},
    frame::{CloseCode, Frame, FrameType, StreamKind},
    message::{
        AnswerKind, CertIssued, CertRenew, Event, EventAck, EventKind, InstanceState, MetricsAck,
        MetricsBatch, OrderAnswer, Ping, Pong, Resync, Sample, StateAck, StateDelta, StateSnapshot,
    },
    order::ProvisioningOrder,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::client::{Agent, Served, write};
use crate::{
    agents,
    app::{App, Services},
    config::Config,
    db,
    dispatch::{self, State, tests as orders},
    fleet::{
        nodes,
        testing::{TestNode, csr, enrolled, host, locations, new_key, read, ready_node, services},
    },
};

async fn served(db: db::Db) -> (App, Served, TestNode) {
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    (app, served, node)
}

pub(super) async fn report(agent: &Agent, frame: Frame) {
    let mut stream = agent.connection.open_uni().await.unwrap();
    stream.write_all(&[StreamKind::State.byte()]).await.unwrap();
    write(&mut stream, StreamKind::State, frame).await;
    stream.finish().unwrap();
}

pub(super) fn snapshot(seq: u64) -> Frame {
    let message = StateSnapshot {
        report_epoch: "r1".into(),
        seq,
        observed_at_ms: 1,
        instances: Vec::new(),
        host: Some(host(5)),
        blind_since_ms: None,
    };
    Frame::new(FrameType::StateSnapshot, &message)
}

fn delta(base_seq: u64, seq: u64) -> Frame {
    let message =
        StateDelta { report_epoch: "r1".into(), base_seq, seq, observed_at_ms: 1, ..StateDelta::default() };
    Frame::new(FrameType::StateDelta, &message)
}

#[tokio::test]
async fn an_order_is_delivered_answered_and_its_events_acknowledged() {
    db::testing::each_database(async |db| {
        let (app, served, node) = served(db).await;
        let mut agent = Agent::connect(&app, served.address, &node).await;
        report(&agent, snapshot(1)).await;
        let (FrameType::StateAck, body) = agent.told().await else { panic!("no StateAck") };
        assert_eq!(StateAck::decode(body.as_slice()).unwrap().seq, 1);

        let place = orders::placed(&app, &node, 1).await;
        let id = orders::issue(&app, &place, orders::ensure(&place), "build").await.unwrap();
        let accepted = OrderAnswer {
            kind: AnswerKind::Accepted.into(),
            order_id: id.to_string(),
            ..OrderAnswer::default()
        };
        let bytes = agent.take_order(accepted).await;
        let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
        let verify = |bytes: &[u8]| {
            Envelope::decode(bytes)
                .and_then(|e| e.verify(PayloadType::Order, &trusted, app.clock.now()))
                .map(|v| ProvisioningOrder::from_bytes(&v.payload).unwrap().order_id)
        };
        assert_eq!(verify(&bytes), Ok(id));
        let tampered = bytes.iter().position(|b| *b == b'w').unwrap();
        let mut bent = bytes.clone();
        bent[tampered] ^= 1;
        assert!(verify(&bent).is_err());

        let (mut events, _recv) = agent.connection.open_bi().await.unwrap();
        events.write_all(&[StreamKind::Events.byte()]).await.unwrap();
        for (event_seq, kind) in
            [(1, EventKind::Accepted), (2, EventKind::StepStarted), (3, EventKind::Succeeded)]
        {
            let event = Event {
                event_seq,
                kind: kind.into(),
                order_id: id.to_string(),
                instance_id: place.instance.to_string(),
                ..Event::default()
            };
            write(&mut events, StreamKind::Events, Frame::new(FrameType::Event, &event)).await;
            let (FrameType::EventAck, body) = agent.told().await else { panic!("no EventAck") };
            assert_eq!(EventAck::decode(body.as_slice()).unwrap().event_seq, event_seq);
        }
        let shown = read(&app, async |c| dispatch::show(c, id).await).await.unwrap();
        assert_eq!((shown.state, shown.attempts), (State::Succeeded, 1));

        // The next Welcome says how far events are stored.
        let again = ez_protocol::message::Hello {
            ratchet: agent.welcome.ratchet.clone(),
            last_event_seq: 3,
            high_water_seq: 1,
            ..crate::fleet::testing::hello(&node, 1_000)
        };
        let agent = Agent::greet(&app, served.address, &node, again.clone()).await.unwrap();
        assert_eq!((agent.welcome.acked_event_seq, agent.welcome.quarantined), (3, false));
        // A disk that was rolled back knows less than it acknowledged.
        let rolled_back = ez_protocol::message::Hello {
            ratchet: agent.welcome.ratchet.clone(),
            last_event_seq: 2,
            ..again
        };
        let agent = Agent::greet(&app, served.address, &node, rolled_back).await.unwrap();
        assert!(agent.welcome.quarantined);
    })
    .await;
}

#[tokio::test]
async fn orders_wait_for_a_node_that_is_away() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = ready_node(&app, "fsn-1", 1_000, 5).await;
    let place = orders::placed(&app, &node, 1).await;
    let id = orders::issue(&app, &place, orders::ensure(&place), "build").await.unwrap();
    let served = Served::start(&app).await;
    let ratchet = read(&app, async |c| {
        Ok::<_, db::DbError>(crate::fleet::sessions::ratchet_for_tests(c, node.id).await)
    })
    .await;
    let said = ez_protocol::message::Hello { ratchet, ..crate::fleet::testing::hello(&node, 1_000) };
    let agent = Agent::greet(&app, served.address, &node, said).await.unwrap();
    let refused = OrderAnswer {
        kind: AnswerKind::Refused.into(),
        code: "POLICY".into(),
        rule: "vmid_range".into(),
        ..OrderAnswer::default()
    };
    agent.take_order(refused).await;
    loop {
        let shown = read(&app, async |c| dispatch::show(c, id).await).await.unwrap();
        if shown.state == State::Refused {
            assert_eq!(shown.refusal.as_deref(), Some("POLICY(vmid_range)"));
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_gap_in_reports_asks_for_everything_again() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    report(&agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
    report(&agent, delta(1, 2)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
    report(&agent, delta(3, 4)).await;
    let (FrameType::Resync, body) = agent.told().await else { panic!("no Resync") };
    assert!(!Resync::decode(body.as_slice()).unwrap().reason.is_empty());
    report(&agent, snapshot(5)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
    let row = read(&app, async |c| nodes::by_id(c, node.id).await).await.unwrap();
    assert_eq!((row.vcpu.capacity, row.images.len()), (256, 3));
}

#[tokio::test]
async fn a_report_that_could_not_be_stored_is_asked_for_again() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    report(&agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
    let run = async |sql: &'static str| {
        app.db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move {
                    sqlx::query(sql).execute(tx).await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
    };
    run("CREATE TRIGGER no_reports BEFORE UPDATE OF report_seq ON nodes BEGIN SELECT RAISE(ABORT, 'not now'); END")
        .await;
    report(&agent, delta(1, 2)).await;
    assert_eq!(agent.told().await.0, FrameType::Resync);
    run("DROP TRIGGER no_reports").await;
    report(&agent, snapshot(3)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
}

#[tokio::test]
async fn a_report_of_more_servers_than_any_host_has_costs_its_stream() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    let mut stream = agent.connection.open_uni().await.unwrap();
    stream.write_all(&[StreamKind::State.byte()]).await.unwrap();
    for part in 0..6 {
        let named = |n: u32| InstanceState { instance_id: format!("{part}-{n}"), ..InstanceState::default() };
        let message = StateSnapshot {
            report_epoch: "r1".into(),
            seq: 1,
            instances: (0..4_000).map(named).collect(),
            ..StateSnapshot::default()
        };
        let frame = Frame::new(FrameType::StateSnapshot, &message).encode(StreamKind::State).unwrap();
        // It may be stopped before the last part.
        let _may_fail = stream.write_all(&frame).await;
    }
    let stopped = stream.stopped().await.unwrap();
    assert_eq!(stopped.map(|c| c.into_inner()), Some(u64::from(CloseCode::FrameTooLarge.code())));
    report(&agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck, "the connection lives, and nothing was taken");
}

async fn samples(agent: &Agent, frame: Frame) {
    let mut stream = agent.connection.open_uni().await.unwrap();
    stream.write_all(&[StreamKind::Metrics.byte()]).await.unwrap();
    write(&mut stream, StreamKind::Metrics, frame).await;
    stream.finish().unwrap();
}

#[tokio::test]
async fn samples_are_acknowledged_when_they_are_stored_and_what_is_none_costs_its_stream() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    samples(&agent, Frame::raw(FrameType::Metrics, vec![0xff; 9])).await;
    samples(&agent, Frame::new(FrameType::Ping, &Ping { nonce: 7, now_ms: 1 })).await;
    let minute = u32::try_from(app.clock.now().0 / 60_000).unwrap();
    let host = vec![Sample { minute, cpu_permille: 7, ..Sample::default() }];
    let batch = MetricsBatch { series: "c".repeat(32), batch: 5, host, ..MetricsBatch::default() };
    samples(&agent, Frame::new(FrameType::Metrics, &batch)).await;
    let (FrameType::MetricsAck, body) = agent.told().await else { panic!("no MetricsAck") };
    assert_eq!(MetricsAck::decode(body.as_slice()).unwrap().batch, 5);
    let (now, subject) = (app.clock.now(), node.id.to_string());
    let seen =
        read(&app, async |c| crate::metrics::points(c, &subject, crate::metrics::Span::Hour, now).await);
    assert_eq!(seen.await.iter().filter_map(|p| p.values).map(|v| v.cpu_permille).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn time_and_certificates_come_over_the_control_stream() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    let ping = Frame::new(FrameType::Ping, &Ping { nonce: 7, now_ms: 1 });
    write(&mut agent.control.0, StreamKind::Control, ping).await;
    let (FrameType::Pong, body) = agent.told().await else { panic!("no Pong") };
    assert_eq!(Pong::decode(body.as_slice()).unwrap(), Pong { nonce: 7, now_ms: app.clock.now().0 });

    let key = new_key();
    let wish = Frame::new(FrameType::CertRenew, &CertRenew { csr_pem: csr(&key) });
    write(&mut agent.control.0, StreamKind::Control, wish).await;
    let (FrameType::CertIssued, body) = agent.told().await else { panic!("no CertIssued") };
    let issued = CertIssued::decode(body.as_slice()).unwrap();
    assert_eq!(issued.refused, "");
    let ratchet = agent.welcome.ratchet.clone();
    let renewed = TestNode { key, certificate_pem: issued.certificate_pem, ..node };
    let said = ez_protocol::message::Hello { ratchet, ..crate::fleet::testing::hello(&renewed, 1_000) };
    let with_new = Agent::greet(&app, served.address, &renewed, said).await;
    assert!(with_new.is_some_and(|a| !a.welcome.quarantined));
}

#[tokio::test]
async fn a_wrong_frame_costs_its_stream_and_an_oversized_one_the_connection() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    let mut odd = agent.connection.open_uni().await.unwrap();
    odd.write_all(&[0x77]).await.unwrap();
    let stopped = odd.stopped().await.unwrap();
    assert_eq!(stopped.map(|c| c.into_inner()), Some(u64::from(CloseCode::UnknownStream.code())));
    report(&agent, Frame::raw(FrameType::StateSnapshot, vec![0xff; 9])).await;
    report(&agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck, "the connection lives");

    let mut large = agent.connection.open_uni().await.unwrap();
    large.write_all(&[StreamKind::State.byte(), 0xff, 0xff, 0xff, 0xff, 0, 0x30]).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = agent.connection.closed().await else { panic!() };
    assert_eq!(close.error_code.into_inner(), u64::from(CloseCode::FrameTooLarge.code()));
}

#[tokio::test]
async fn a_planned_stop_says_when_to_come_back() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = served(db).await;
    let mut agent = Agent::connect(&app, served.address, &node).await;
    super::doors::wait_until(|| app.links.connected() == 1).await;
    served.stop();
    assert_eq!(agent.told().await.0, FrameType::Drain);
}

/// A process that was killed says nothing; the next one says it for it at the agent's next packet.
#[tokio::test]
async fn an_agent_learns_at_once_that_the_process_it_talks_to_was_killed() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    // A process of its own would share the database and the keys, and nothing else.
    let process = |listen: Option<SocketAddr>| {
        let mut config = Config::for_tests().unwrap();
        config.link.listen = listen.unwrap_or(config.link.listen);
        let keys = dispatch::Keys::for_tests();
        let made = Services::assemble(config, app.db.clone(), keys, app.clock.clone(), app.entropy.clone());
        Arc::new(Services { keys: app.keys.clone(), ..Arc::into_inner(made.unwrap()).unwrap() })
    };
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = process(None);
    let serving = doomed.spawn(async move {
        let doors = agents::bind(&first).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], doors.address().port()));
        tokio::spawn(doors.run(CancellationToken::new()));
        address
    });
    let address = serving.await.unwrap();
    let mut agent = Agent::connect(&app, address, &node).await;
    report(&agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
    doomed.shutdown_background();

    let next = process(Some(address));
    let doors = loop {
        // The old socket is let go of a moment after its tasks.
        match agents::bind(&next).await {
            Ok(doors) => break doors,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    tokio::spawn(doors.run(CancellationToken::new()));
    let ping = Frame::new(FrameType::Ping, &Ping { nonce: 7, now_ms: 1 });
    write(&mut agent.control.0, StreamKind::Control, ping).await;
    assert_eq!(agent.connection.closed().await, quinn::ConnectionError::Reset);
}
