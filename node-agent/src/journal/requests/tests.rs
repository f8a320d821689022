//! What root asks is durable before it is done, done once, and never more than it says.

use ez_protocol::message::Event;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::{
    executor::testkit::Host,
    intake::{self},
    journal::{Admission, OrderState, Phase, fuse::Cut, lists},
    policy::{self, Usage},
    testing::{self, Books, NOW, VMID, ensure, node, order, read},
};
use ez_protocol::{
    message::EventKind,
    order::{Action, Empty, Op, ProvisioningOrder},
    refusal::RefusalCode,
};

fn request(verb: RequestVerb, order: Option<&ProvisioningOrder>) -> NewRequest {
    let who = json!({ "uid": 0, "name": "root", "sudo": "anna" }).to_string();
    NewRequest { verb, order: order.map(|order| order.order_id), who, reason: "a test".to_owned() }
}

async fn asked(books: &Books, taker: Taker, verb: RequestVerb, order: Option<&ProvisioningOrder>) -> Taken {
    books.journal.ask(request(verb, order), NOW).await.unwrap();
    let mut taken = books.journal.take_requests(taker, NOW).await.unwrap();
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

fn said(taken: &Taken) -> &str {
    taken.request.outcome.as_deref().unwrap()
}

/// Makes an order stuck at its first step, as an executor that gave up would leave it.
async fn stick(books: &Books, order: &ProvisioningOrder) {
    let id = order.order_id.to_string();
    let stuck = books.journal.write(move |conn| {
        Box::pin(async move {
            for sql in [
                "UPDATE orders SET state = 'stuck', finished_at = 1, result = '{\"detail\":\"why it stuck\"}' WHERE order_id = $1",
                "DELETE FROM steps WHERE order_id = $1",
                "INSERT INTO steps (order_id, k, name, attempt, state, intent_json, result_json, boot_id, t) \
                 VALUES ($1, 1, 'clone', 3, 'failed', '{}', '{\"class\":\"stuck\",\"error\":\"why\"}', 'b', 1)",
            ] {
                sqlx::query(sql).bind(id.clone()).execute(&mut *conn).await?;
            }
            Ok(())
        })
    });
    stuck.await.unwrap();
}

async fn last_event(books: &Books) -> Event {
    let items = books.journal.outbox_after(0, 10_000).await.unwrap();
    Event::decode(items.last().unwrap().body.as_slice()).unwrap()
}

#[tokio::test]
async fn a_stuck_create_that_is_resumed_looks_first_and_comes_to_its_end() {
    let host = Host::new().await;
    let create = ensure(1, 1);
    host.books.accept(&create).await;
    stick(&host.books, &create).await;
    let taken = asked(&host.books, Taker::Agent, RequestVerb::Resume, Some(&create)).await;
    assert_eq!(taken.request.state, RequestState::Done, "{}", said(&taken));
    assert_eq!(taken.resumed.as_ref().unwrap().state, OrderState::Running);
    let event = last_event(&host.books).await;
    assert_eq!((event.kind(), event.step.as_str()), (EventKind::StepProgress, "clone"));
    assert_eq!(event.detail, "resumed on the host by anna (root): a test");
    let row = host.run(&create).await;
    assert_eq!(row.state, OrderState::Succeeded);
    assert_eq!(host.count("clone_template"), 1, "nothing had been made, so it is made now");
    assert_eq!(host.events().await.last().unwrap().kind(), EventKind::Succeeded);
}

#[tokio::test]
async fn what_stuck_while_it_was_taken_back_goes_on_being_taken_back() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    books.accept(&create).await;
    stick(&books, &create).await;
    let undo = "INSERT INTO steps (order_id, k, name, attempt, state, intent_json, result_json, boot_id, t) \
                SELECT order_id, -1, 'settle_clone', 2, 'failed', '{}', '{\"class\":\"stuck\"}', 'b', 1 FROM orders";
    books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(undo).execute(conn).await.map(|_| ())?) }))
        .await
        .unwrap();
    let taken = asked(&books, Taker::Agent, RequestVerb::Resume, Some(&create)).await;
    assert_eq!(taken.resumed.unwrap().state, OrderState::Undoing);
    let steps = books.journal.steps(create.order_id).await.unwrap();
    let states: Vec<&str> = steps.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(states, ["failed", "intent"], "why it is taken back stays known");
    assert_eq!(steps[1].attempt, 1, "an undo must know that something may have been made");
}

#[tokio::test]
async fn tries_without_quorum_are_forgotten_together_with_the_attempts_they_were_taken_off() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    books.accept(&create).await;
    stick(&books, &create).await;
    let intent = "UPDATE steps SET attempt = 12, intent_json = '{\"template\":9000,\"without_quorum\":12}'";
    books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(intent).execute(conn).await.map(|_| ())?) }))
        .await
        .unwrap();
    asked(&books, Taker::Agent, RequestVerb::Resume, Some(&create)).await;
    let step = books.journal.steps(create.order_id).await.unwrap().remove(0);
    assert_eq!((step.attempt, step.intent_json.as_str()), (1, "{\"template\":9000}"));
}

#[tokio::test]
async fn only_a_stuck_order_that_nothing_overtook_is_resumed() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    let refused = async |words: &str| {
        let taken = asked(&books, Taker::Agent, RequestVerb::Resume, Some(&create)).await;
        assert_eq!(taken.request.state, RequestState::Refused);
        assert!(taken.resumed.is_none() && said(&taken).contains(words), "{}", said(&taken));
    };
    refused("does not know order").await;
    books.accept(&create).await;
    refused("the order is accepted").await;
    stick(&books, &create).await;
    books.accept(&ensure(2, 2)).await;
    refused("generation 2 was accepted since").await;
    assert_eq!(books.journal.order(create.order_id).await.unwrap().unwrap().state, OrderState::Stuck);
}

#[tokio::test]
async fn an_old_restore_that_the_server_has_outlived_is_not_resumed() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    let act = |seq, action: Action| order(seq, 1, Op::Action(action));
    let backup = act(2, Action::BackupCreate { keep: 2 });
    host.carry_out(&backup).await;
    let (first, second) = (3, 4);
    let restore = |seq| act(seq, Action::BackupRestore { backup: backup.order_id });
    for seq in [first, second] {
        host.books.accept(&restore(seq)).await;
        stick(&host.books, &restore(seq)).await;
    }
    assert_eq!(host.row(&restore(first)).await.asks(), "backup_restore", "people see which action it is");
    let waits = async || {
        let all = lists::waiting_for_a_person(host.books.journal.readers()).await.unwrap();
        all.iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    assert_eq!(waits().await, [first, second]);
    // Root has helped, the customer starts the server and writes to it.
    host.carry_out(&act(5, Action::Stop {})).await;
    host.carry_out(&act(6, Action::Start {})).await;
    host.pve.put_guest(VMID, |guest| "written since".clone_into(&mut guest.disk));
    assert!(waits().await.is_empty(), "nobody is asked to resume them any more");
    for seq in [first, second] {
        let taken = asked(&host.books, Taker::Agent, RequestVerb::Resume, Some(&restore(seq))).await;
        assert_eq!(taken.request.state, RequestState::Refused, "{}", said(&taken));
        let later = act(6, Action::Start {}).order_id.to_string();
        for words in [later.as_str(), "(start) was accepted since", "order abandon"] {
            assert!(said(&taken).contains(words), "{}", said(&taken));
        }
        assert_eq!(host.run(&restore(seq)).await.state, OrderState::Stuck);
    }
    assert_eq!(host.pve.guest(VMID).unwrap().disk, "written since");
    assert_eq!(host.count("restore"), 0);
}

#[tokio::test]
async fn abandoning_a_stuck_order_is_for_good_and_touches_no_vm() {
    let (host, create) = (Host::new().await, ensure(1, 1));
    host.books.accept(&create).await;
    stick(&host.books, &create).await;
    // What a killed clone leaves.
    host.pve
        .put_guest(create.instance.vmid, |guest| drop(guest.config.insert("lock".into(), "clone".into())));
    let (guests, changes) = (host.pve.guests(), host.pve.changes());
    let taken = asked(&host.books, Taker::Agent, RequestVerb::Abandon, Some(&create)).await;
    assert_eq!(taken.request.state, RequestState::Done, "{}", said(&taken));
    let event = last_event(&host.books).await;
    assert_eq!(event.kind(), EventKind::Stuck);
    assert!(
        event.detail.starts_with("abandoned on the host by anna (root): a test; before: "),
        "{}",
        event.detail
    );
    assert_eq!(host.row(&create).await.state, OrderState::Stuck);
    let resumed = asked(&host.books, Taker::Agent, RequestVerb::Resume, Some(&create)).await;
    assert!(said(&resumed).contains("abandoned"), "{}", said(&resumed));
    let again = asked(&host.books, Taker::Agent, RequestVerb::Abandon, Some(&create)).await;
    assert_eq!(again.request.state, RequestState::Refused);
    assert_eq!((host.pve.guests(), host.pve.changes()), (guests, changes));
    let waiting = lists::waiting_for_a_person(host.books.journal.readers()).await.unwrap();
    assert!(waiting.is_empty(), "nobody is asked to look at it any more");
    let kept = host.books.journal.resource(create.instance.uuid).await.unwrap();
    assert!(kept.is_some(), "its VMID stays taken: a VM may be there");
}

#[tokio::test]
async fn an_order_that_has_not_begun_ends_and_leaves_its_vmid_free() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    books.accept(&create).await;
    let taken = asked(&books, Taker::Agent, RequestVerb::Abandon, Some(&create)).await;
    assert_eq!(taken.request.state, RequestState::Done, "{}", said(&taken));
    assert_eq!(last_event(&books).await.kind(), EventKind::Failed);
    assert!(books.journal.resource(create.instance.uuid).await.unwrap().is_none());
    let fence = books.admit(&create).await;
    assert!(matches!(fence, Admission::Duplicate(known) if known.state == OrderState::Failed));
}

#[tokio::test]
async fn an_order_at_work_is_abandoned_only_while_the_agent_is_stopped() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    books.accept(&create).await;
    books.journal.begin_order(create.order_id, OrderState::Running, NOW, None).await.unwrap();
    let refused = asked(&books, Taker::Agent, RequestVerb::Abandon, Some(&create)).await;
    assert!(said(&refused).contains("systemctl stop ez-node-agent"), "{}", said(&refused));
    let taken = asked(&books, Taker::Alone, RequestVerb::Abandon, Some(&create)).await;
    assert_eq!(taken.request.state, RequestState::Done);
    assert_eq!(books.journal.order(create.order_id).await.unwrap().unwrap().state, OrderState::Stuck);
    assert_eq!(last_event(&books).await.kind(), EventKind::Stuck);
}

#[tokio::test]
async fn a_request_that_nobody_took_up_in_time_is_void() {
    let books = Books::new().await;
    let create = ensure(1, 1);
    books.accept(&create).await;
    books.journal.ask(request(RequestVerb::Abandon, Some(&create)), NOW).await.unwrap();
    let late = NOW.plus(LIFE).plus(std::time::Duration::from_millis(1));
    let taken = books.journal.take_requests(Taker::Agent, late).await.unwrap();
    assert_eq!(taken[0].request.state, RequestState::Expired);
    assert_eq!(books.journal.order(create.order_id).await.unwrap().unwrap().state, OrderState::Accepted);
    assert!(books.journal.take_requests(Taker::Agent, NOW).await.unwrap().is_empty());
}

#[tokio::test]
async fn another_process_asks_beside_a_running_agent() {
    let books = Books::new().await;
    let path = books.dir.path().join("journal.sqlite");
    let n = ask(&path, request(RequestVerb::Unlock, None), NOW).await.unwrap();
    let taken = books.journal.take_requests(Taker::Agent, NOW).await.unwrap();
    assert_eq!((taken[0].request.n, taken[0].request.state), (n, RequestState::Done));
    let trail = list(books.journal.readers(), 10).await.unwrap();
    assert_eq!(trail, [taken[0].request.clone()]);
    assert!(trail[0].who.contains("anna") && trail[0].reason == "a test" && trail[0].ended_at == Some(NOW));
}

/// Wherever the agent dies, the request is asked or done, and done once.
#[tokio::test]
async fn a_crash_leaves_a_request_asked_or_done() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let books = Books::new().await;
        let create = ensure(1, 1);
        books.accept(&create).await;
        stick(&books, &create).await;
        let n = books.journal.ask(request(RequestVerb::Resume, Some(&create)), NOW).await.unwrap();
        books.journal.fuse.set(1, cut);
        assert!(books.journal.take_requests(Taker::Agent, NOW).await.is_err());
        let after = books.again().await;
        let row = show(after.journal.readers(), n).await.unwrap().unwrap();
        let order = after.journal.order(create.order_id).await.unwrap().unwrap();
        let expected = match cut {
            Cut::BeforeCommit => (RequestState::Asked, OrderState::Stuck),
            Cut::AfterCommit => (RequestState::Done, OrderState::Running),
        };
        assert_eq!((row.state, order.state), expected, "{cut:?}");
        after.journal.take_requests(Taker::Agent, NOW).await.unwrap();
        let order = after.journal.order(create.order_id).await.unwrap().unwrap();
        assert_eq!(order.state, OrderState::Running);
        let told = after.journal.outbox_after(0, 100).await.unwrap();
        let resumed = |item: &crate::journal::OutboxItem| {
            Event::decode(item.body.as_slice()).unwrap().detail.starts_with("resumed")
        };
        assert_eq!(told.iter().filter(|item| resumed(item)).count(), 1, "{cut:?}");
    }
}

const POLICY: &str = r#"
vmid_first = 1000
vmid_last = 1999
pool = "ez"
template_pool = "ez-templates"
storages = ["local-lvm"]
[network]
bridges = ["vmbr0"]
[limits]
instances = 100
vcpus_each = 8
memory_mib_each = 16384
disk_gib_each = 200
vcpus = 100
memory_mib = 200000
disk_gib = 2000
[destroy]
purges_per_10_minutes = 1
purge_floor_per_day = 5
"#;

/// Purges an instance as the intake lets it; retired long enough ago.
async fn purge(books: &Books, n: u8, at: UnixMillis) -> Result<(), RefusalCode> {
    let mut create = ensure(u64::from(n), 1);
    create.instance.uuid = testing::instance(100 + n);
    create.instance.vmid = 1_000 + u32::from(n);
    books.accept(&create).await;
    let id = create.instance.uuid.to_string();
    let retire = books.journal.write(move |conn| {
        Box::pin(async move {
            let sql = "UPDATE resources SET phase = 'retired', retired_at = 0 WHERE uuid = $1";
            Ok(sqlx::query(sql).bind(id).execute(conn).await.map(|_| ())?)
        })
    });
    retire.await.unwrap();
    let mut purge = order(50 + u64::from(n), 2, Op::Purge(Empty {}));
    purge.instance = create.instance;
    let (read, policy) = (read(&purge), policy::parse(std::path::Path::new("p"), POLICY).unwrap());
    let question = read.question();
    let verdict = books.journal.admit(question, at, move |facts| {
        let bounds = |order: &ProvisioningOrder, facts: &crate::journal::Facts, now| {
            Ok(policy::evaluate(&policy, &Usage::from(facts), order, now)?)
        };
        intake::judge(&read, &node(), &bounds, facts)
    });
    match verdict.await.unwrap() {
        Admission::Accept(..) => Ok(()),
        Admission::Refuse(note) => Err(note.refusal.code),
        Admission::Duplicate(known) => panic!("{known:?}"),
    }
}

#[tokio::test]
async fn the_circuit_opens_with_the_first_purge_too_many_and_only_root_closes_it() {
    let books = Books::new().await;
    assert_eq!(purge(&books, 1, NOW).await, Ok(()));
    assert_eq!(books.journal.circuit().await.unwrap().opened_at, None);
    assert_eq!(purge(&books, 2, NOW).await, Err(RefusalCode::CircuitOpen));
    assert_eq!(books.journal.circuit().await.unwrap().opened_at, Some(NOW));
    // Time does not close it, and neither does a restart.
    let sql = "UPDATE acts SET at = 0";
    books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(sql).execute(conn).await.map(|_| ())?) }))
        .await
        .unwrap();
    let books = books.again().await;
    assert_eq!(purge(&books, 3, NOW).await, Err(RefusalCode::CircuitOpen));
    let taken = asked(&books, Taker::Agent, RequestVerb::Unlock, None).await;
    assert!(said(&taken).contains("the circuit is closed"), "{}", said(&taken));
    let later = NOW.plus(std::time::Duration::from_millis(1));
    assert_eq!(purge(&books, 4, later).await, Ok(()), "counted anew");
    assert_eq!(purge(&books, 5, later).await, Err(RefusalCode::CircuitOpen));
    let phase = books.journal.resource(testing::instance(105)).await.unwrap().unwrap().phase;
    assert_eq!(phase, Phase::Retired);
}
