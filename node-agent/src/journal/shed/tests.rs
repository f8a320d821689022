//! The bytes of an order go when nobody can ask for them any more, and never before.

use ez_protocol::{
    message::EventKind,
    order::{Action, Empty, InstanceRef, Op},
};

use super::*;
use crate::{
    entropy::{Entropy as _, SeededEntropy},
    journal::{Admission, BookEntry, OrderRow, OrderState},
    report::EventDraft,
    testing::{Books, NOW, instance, order, sign, spec},
};

/// An order of a story, and how it ended; none if it waits.
struct Told {
    order: ProvisioningOrder,
    end: Option<OrderState>,
    /// The event that says so.
    event: u64,
}

impl Told {
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end.is_terminal() && end != OrderState::Stuck)
    }

    fn was_done(&self, kind: &str) -> bool {
        self.end == Some(OrderState::Succeeded) && self.order.op.kind() == kind
    }
}

const HOSTS_SERVERS: u64 = 3;
const ENDS: [OrderState; 7] = [
    OrderState::Succeeded,
    OrderState::Succeeded,
    OrderState::Failed,
    OrderState::Undone,
    OrderState::Superseded,
    OrderState::Cancelled,
    OrderState::Stuck,
];

fn event_kind(end: OrderState) -> EventKind {
    match end {
        OrderState::Succeeded => EventKind::Succeeded,
        OrderState::Undone => EventKind::Undone,
        OrderState::Stuck => EventKind::Stuck,
        OrderState::Superseded => EventKind::Superseded,
        _ => EventKind::Failed,
    }
}

/// Ends an accepted order; answers the number of the event that says so.
async fn end(books: &Books, order: &ProvisioningOrder, end: OrderState) -> u64 {
    let (id, server, generation) = (order.order_id, order.instance.uuid, order.generation);
    if !matches!(end, OrderState::Superseded | OrderState::Cancelled) {
        books.journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
    }
    let entry = match (&order.op, end) {
        (Op::Ensure(_), OrderState::Succeeded) => {
            BookEntry::Carried { instance: server, generation, applied: None }
        }
        (Op::Purge(_), OrderState::Succeeded) => BookEntry::Gone { instance: server, generation },
        _ => BookEntry::Nothing,
    };
    let event = EventDraft::new(event_kind(end), id, server, generation, NOW);
    books.journal.finish_order(id, end, NOW, "{}".to_owned(), event, entry).await.unwrap();
    books.journal.meta().await.unwrap().last_event_seq
}

async fn row(books: &Books, of: &ProvisioningOrder) -> OrderRow {
    books.journal.order(of.order_id).await.unwrap().unwrap()
}

/// Forty orders for three servers, each of which ends in some way or waits.
async fn some_story(books: &Books, chance: &SeededEntropy) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for seq in 1..=40 {
        let server = chance.up_to(HOSTS_SERVERS - 1);
        let uuid = instance(u8::try_from(10 + server).unwrap());
        let here = books.journal.resource(uuid).await.unwrap();
        let newest = all.iter().filter(|told| told.order.instance.uuid == uuid).map(|t| t.order.generation);
        let newest = newest.max().unwrap_or(0);
        let ensure = Op::Ensure(Box::new(spec()));
        let (op, generation) = match chance.up_to(6) {
            _ if here.is_none() => (ensure, newest + 1),
            0 => (Op::Retire(Empty {}), newest + 1),
            1 => (Op::Purge(Empty {}), newest + 1),
            2 | 3 => (ensure, newest + 1),
            4 => (Op::Action(Action::BackupCreate { keep: 2 }), newest),
            _ => (Op::Action(Action::Stop {}), newest),
        };
        let mut next = order(seq, generation, op);
        next.instance = InstanceRef { uuid, vmid: 1_000 + u32::try_from(server).unwrap() };
        books.accept_unheard(&next).await;
        let mut told = Told { order: next, end: None, event: 0 };
        if chance.up_to(9) > 0 {
            let how = ENDS[usize::try_from(chance.up_to(6)).unwrap()];
            told.event = end(books, &told.order, how).await;
            told.end = Some(how);
        }
        all.push(told);
    }
    all
}

#[tokio::test]
async fn what_is_let_go_nobody_can_ask_for_again_and_the_rest_is_whole() {
    let (mut kept, mut gone) = (0, 0);
    for seed in 0..8 {
        let (books, chance) = (Books::quick(None).await, SeededEntropy::new(seed));
        let all = some_story(&books, &chance).await;
        let last = books.journal.meta().await.unwrap().last_event_seq;
        // The other side has heard of most of it.
        let heard = last - chance.up_to(last / 3);
        books.journal.acknowledge(heard, NOW).await.unwrap();
        let mut before = Vec::new();
        for told in &all {
            let here = books.journal.resource(told.order.instance.uuid).await.unwrap().is_some();
            before.push((here, row(&books, &told.order).await.envelope_sha256()));
        }
        let counted = books.journal.shed(NOW).await.unwrap();
        assert_eq!(books.journal.shed(NOW).await.unwrap(), 0, "once is enough");

        let books = books.again().await;
        let mut let_go = 0;
        for (told, (here, digest)) in all.iter().zip(before) {
            let (row, seq) = (row(&books, &told.order).await, told.order.seq);
            let later = |fits: &dyn Fn(&Told) -> bool| {
                let of_it = |other: &&Told| other.order.instance.uuid == told.order.instance.uuid;
                all.iter().filter(of_it).any(|other| other.order.seq > seq && fits(other))
            };
            let kind = told.order.op.kind();
            let shows_what_is = kind != "action"
                && told.was_done(kind)
                && !later(&|other: &Told| other.was_done(kind) || other.was_done("purge"));
            let needed =
                !told.is_over() || told.event > heard || shows_what_is || (here && !later(&Told::is_over));
            match needed {
                true => {
                    assert_eq!(
                        (row.envelope.clone(), row.shed_at),
                        (sign(&told.order), None),
                        "seed {seed}, order {seq}"
                    );
                }
                false => {
                    assert!(row.envelope.is_empty() && row.payload.is_empty(), "seed {seed}, order {seq}");
                    assert_eq!(row.shed_at, Some(NOW));
                    let_go += 1;
                }
            }
            // What everybody asks of it is answered as before.
            assert_eq!(row.asks(), told.order.op.verb());
            assert_eq!(row.envelope_sha256(), digest, "it can be compared with what was issued");
            match books.admit(&told.order).await {
                Admission::Duplicate(known) => {
                    assert_eq!(known.state, told.end.unwrap_or(OrderState::Accepted));
                }
                other => panic!("seed {seed}, order {seq}: {other:?}"),
            }
            let mut other = told.order.clone();
            other.cause.actor = "operator:another".to_owned();
            assert!(
                matches!(books.admit(&other).await, Admission::Refuse(_)),
                "an id stands for one content"
            );
        }
        assert_eq!(counted, let_go, "seed {seed}");
        gone += let_go;
        kept += all.len() as u64 - let_go;
    }
    assert!(gone > 50 && kept > 50, "the stories show both: {gone} let go, {kept} kept");
}

/// What the journal holds, without what it has freed and will use again.
async fn bytes(books: &Books) -> i64 {
    let sql = "SELECT (n.page_count - f.freelist_count) * s.page_size \
               FROM pragma_page_count n, pragma_freelist_count f, pragma_page_size s";
    sqlx::query_scalar(sql).fetch_one(books.journal.readers()).await.unwrap()
}

#[tokio::test]
async fn a_flood_of_orders_that_are_over_does_not_fill_the_journal() {
    let books = Books::quick(None).await;
    let create = order(1, 1, Op::Ensure(Box::new(spec())));
    books.accept(&create).await;
    end(&books, &create, OrderState::Succeeded).await;
    for seq in 2..=50 {
        let press = order(seq, 1, Op::Action(Action::Stop {}));
        books.accept(&press).await;
        end(&books, &press, OrderState::Succeeded).await;
    }
    // As large as an order may be.
    let fill = "UPDATE orders SET envelope = zeroblob(65536)";
    let filled = books
        .journal
        .write(move |conn| Box::pin(async move { Ok(sqlx::query(fill).execute(conn).await.map(|_| ())?) }));
    filled.await.unwrap();
    assert!(bytes(&books).await > 50 * 65_536);
    assert_eq!(books.journal.shed(NOW).await.unwrap(), 0, "nobody has acknowledged anything");
    let last = books.journal.meta().await.unwrap().last_event_seq;
    books.journal.acknowledge(last, NOW).await.unwrap();
    assert_eq!(books.journal.shed(NOW).await.unwrap(), 48, "all but the first and the last");
    assert!(bytes(&books).await < 10 * 65_536);
    assert!(row(&books, &create).await.shed_at.is_none(), "why the server is as it is stays here, signed");
}

#[tokio::test]
async fn looking_for_what_can_go_does_not_read_what_went_long_ago() {
    let books = Books::quick(None).await;
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {NEXT}"));
    let plan = sqlx::query(explain).fetch_all(books.journal.readers()).await.unwrap();
    let steps: Vec<String> = plan.iter().map(|step| step.try_get("detail").unwrap()).collect();
    assert!(steps.iter().any(|step| step.contains("orders_whole (seq>?)")), "{steps:?}");
    assert!(!steps.iter().any(|step| step.starts_with("SCAN")), "{steps:?}");
}
