//! Every way an order can be wrong, with the refusal it gets; and that only a good one comes in.

use ed25519_dalek::{Signer as _, SigningKey};
use ez_protocol::{
    InstallId, NodeId, UnixMillis,
    envelope::{Envelope, KeyRole, PayloadType, pae},
    order::{Action, Empty, Op, ProvisioningOrder},
    refusal::{Refusal, RefusalCode},
};
use proptest::prelude::*;

use super::*;
use crate::{
    journal::{Admission, DepartedRow, OrderState, Phase, ResourceRow},
    testing::{self, Books, NOW, VMID, ensure, instance, node, order, order_key, sign, trusted},
};

fn action(seq: u64, generation: u64) -> ProvisioningOrder {
    order(seq, generation, Op::Action(Action::Reboot {}))
}

/// The code of a refusal over an order and facts; `None` if it comes in or is known.
fn code(order: &ProvisioningOrder, node: &Node, facts: &Facts) -> Option<RefusalCode> {
    match judge(&testing::read(order), node, &|_, _, _| Ok(()), facts) {
        Admission::Refuse(note) => Some(note.refusal.code),
        Admission::Accept(..) | Admission::Duplicate(_) => None,
    }
}

fn resource(generation: u64) -> ResourceRow {
    ResourceRow {
        instance: instance(10),
        vmid: VMID,
        generation,
        observed_generation: generation,
        spec_hash: None,
        spec_json: None,
        applied_json: None,
        seen_networks: None,
        marker: String::new(),
        phase: Phase::Present,
        retired_at: None,
    }
}

fn with(rows: Vec<ResourceRow>) -> Facts {
    Facts { resources: rows, ..Facts::default() }
}

#[test]
fn bytes_that_no_trusted_key_signed_are_not_even_read() {
    let good = sign(&ensure(1, 1));
    assert!(read(&good, &trusted(KeyRole::Order), NOW).is_ok());

    let payload = ensure(1, 1).to_bytes().unwrap();
    let stranger =
        Envelope::sign(&SigningKey::from_bytes(&[9; 32]), PayloadType::Order, payload.clone()).encode();
    let as_trust = Envelope::sign(&order_key(), PayloadType::Trust, payload.clone()).encode();
    let mut unknown_field = payload.clone();
    unknown_field.truncate(unknown_field.len() - 1);
    unknown_field.extend_from_slice(b",\"also\":1}");
    let unknown_field = Envelope::sign(&order_key(), PayloadType::Order, unknown_field).encode();
    let trailing =
        Envelope::sign(&order_key(), PayloadType::Order, [payload.clone(), b" ".to_vec()].concat()).encode();
    let cases: [(&str, Vec<u8>, KeyRole, RefusalCode); 6] = [
        ("another key", stranger, KeyRole::Order, RefusalCode::BadSignature),
        ("another role", good.clone(), KeyRole::Trust, RefusalCode::WrongRole),
        ("another type", as_trust, KeyRole::Trust, RefusalCode::BadPayload),
        ("an unknown field", unknown_field, KeyRole::Order, RefusalCode::BadPayload),
        ("a byte too many", trailing, KeyRole::Order, RefusalCode::BadPayload),
        ("noise", b"noise".to_vec(), KeyRole::Order, RefusalCode::BadPayload),
    ];
    for (what, bytes, role, wanted) in cases {
        assert_eq!(read(&bytes, &trusted(role), NOW).map_err(|r| r.code).unwrap_err(), wanted, "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_changed_byte_anywhere_is_never_accepted(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let good = sign(&ensure(1, 1));
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // The key id is a hint that nobody trusts, so a change there may go unnoticed; then the
        // order that was signed is what is read.
        if let Ok(read) = read(&bytes, &trusted(KeyRole::Order), NOW) {
            prop_assert_eq!(read.order, ensure(1, 1));
        }
    }

    /// Generations never go back, whatever comes in whatever order.
    #[test]
    fn the_highest_generation_never_falls(generations in prop::collection::vec(1..20_u64, 1..30)) {
        let mut highest = 0;
        for generation in generations {
            let facts = if highest == 0 { Facts::default() } else { with(vec![resource(highest)]) };
            let order = ensure(1, generation);
            match judge(&testing::read(&order), &node(), &|_, _, _| Ok(()), &facts) {
                Admission::Accept(new, _) => {
                    prop_assert!(new.generation > highest);
                    highest = new.generation;
                }
                Admission::Refuse(note) if generation < highest => {
                    prop_assert_eq!(note.refusal.code, RefusalCode::Stale);
                }
                Admission::Refuse(note) => prop_assert_eq!(note.refusal.code, RefusalCode::Conflict),
                Admission::Duplicate(_) => prop_assert_eq!(generation, highest),
            }
        }
    }
}

#[test]
fn each_wrong_order_gets_its_own_refusal() {
    use RefusalCode::*;
    let change = |edit: &dyn Fn(&mut ProvisioningOrder)| {
        let mut order = ensure(5, 2);
        edit(&mut order);
        order
    };
    let plain = || ensure(5, 2);
    let fresh = Facts::default;
    let later = |millis: i64| Node { now: UnixMillis(NOW.0 + millis), ..node() };
    let mut wrong_uuid = resource(1);
    wrong_uuid.instance = instance(11);
    let mut other_vmid = resource(1);
    other_vmid.vmid = VMID + 1;
    let gone = Some(DepartedRow { generation: 7, vmid: VMID });
    let mut being_built = resource(1);
    being_built.phase = Phase::Creating;
    let cases: Vec<(&str, ProvisioningOrder, Node, Facts, RefusalCode)> = vec![
        (
            "another installation",
            change(&|o| o.install = InstallId::generate(NOW, [9; 10])),
            node(),
            fresh(),
            WrongAudience,
        ),
        (
            "another node",
            change(&|o| o.aud.node = NodeId::generate(NOW, [9; 10])),
            node(),
            fresh(),
            WrongAudience,
        ),
        ("an older epoch", change(&|o| o.aud.epoch = 2), node(), fresh(), WrongEpoch),
        ("a later epoch", change(&|o| o.aud.epoch = 4), node(), fresh(), WrongEpoch),
        ("too long a life", change(&|o| o.exp = UnixMillis(NOW.0 + 600_001)), node(), fresh(), BadWindow),
        ("just expired", plain(), later(600_001), fresh(), Expired),
        ("too early", plain(), later(-300_001), fresh(), NotYet),
        ("a suspect clock", plain(), Node { clock_suspect: true, ..node() }, fresh(), ClockSkew),
        ("below the floor", plain(), node(), Facts { floor_seq: 5, ..fresh() }, Stale),
        (
            "a sequence of another order",
            plain(),
            node(),
            Facts { seq_owner: Some(ensure(6, 1).order_id), ..fresh() },
            Conflict,
        ),
        ("an older generation", plain(), node(), with(vec![resource(3)]), Stale),
        ("the same generation, another content", plain(), node(), with(vec![resource(2)]), Conflict),
        ("a generation from before its purge", plain(), node(), Facts { departed: gone, ..fresh() }, Stale),
        ("a VMID of another instance", plain(), node(), with(vec![wrong_uuid]), Conflict),
        ("another VMID for the instance", plain(), node(), with(vec![other_vmid]), Conflict),
        ("an action without an instance", action(5, 2), node(), fresh(), Conflict),
        ("an action against an old generation", action(5, 2), node(), with(vec![resource(3)]), Stale),
        ("an action against an unknown generation", action(5, 2), node(), with(vec![resource(1)]), Conflict),
        ("retire without an instance", order(5, 2, Op::Retire(Empty {})), node(), fresh(), Conflict),
        ("purge without an instance", order(5, 2, Op::Purge(Empty {})), node(), fresh(), Conflict),
        (
            "adopt of what is being built here",
            order(5, 2, Op::Adopt(Empty {})),
            node(),
            with(vec![being_built]),
            Conflict,
        ),
        ("a full disk", plain(), Node { disk_low: true, ..node() }, fresh(), NoSpace),
        ("a full outbox", plain(), node(), Facts { outbox_len: 100_000, ..fresh() }, NoSpace),
        ("a flooded journal", plain(), node(), Facts { journal_bytes: 4 << 30, ..fresh() }, NoSpace),
        (
            "an end in a journal that was flooded on",
            order(5, 2, Op::Retire(Empty {})),
            node(),
            Facts { journal_bytes: 5 << 30, ..with(vec![resource(1)]) },
            NoSpace,
        ),
    ];
    for (what, order, node, facts, wanted) in cases {
        assert_eq!(code(&order, &node, &facts), Some(wanted), "{what}");
    }
    assert_eq!(code(&plain(), &node(), &fresh()), None);
    assert_eq!(code(&plain(), &later(600_000), &fresh()), None, "the last millisecond counts");
    assert_eq!(code(&plain(), &later(-300_000), &fresh()), None, "within the tolerance");
    assert_eq!(code(&plain(), &node(), &with(vec![resource(1)])), None, "a higher generation");
    let flooded = Facts { journal_bytes: (5 << 30) - 1, ..with(vec![resource(1)]) };
    assert_eq!(code(&order(5, 2, Op::Retire(Empty {})), &node(), &flooded), None, "an end makes room");
    let adopt = order(5, 2, Op::Adopt(Empty {}));
    assert_eq!(code(&adopt, &node(), &with(vec![resource(1)])), None, "the journal outlived an enrolment");
}

#[test]
fn the_hosts_own_bounds_have_the_last_word() {
    let bounds = |_: &ProvisioningOrder, _: &Facts, _| Err(Refusal::policy("vmid_range", "outside"));
    let verdict = judge(&testing::read(&ensure(1, 1)), &node(), &bounds, &Facts::default());
    let Admission::Refuse(note) = verdict else { panic!("{verdict:?}") };
    assert_eq!((note.refusal.code, note.refusal.rule.as_deref()), (RefusalCode::Policy, Some("vmid_range")));
}

#[test]
fn a_refusal_is_not_remembered_for_as_long_as_the_order_says_it_lives() {
    let hour = 3_600_000;
    let kept = |exp: i64| {
        let mut order = ensure(1, 1);
        order.exp = UnixMillis(exp);
        let full = Node { disk_low: true, ..node() };
        let verdict = judge(&testing::read(&order), &full, &|_, _, _| Ok(()), &Facts::default());
        let Admission::Refuse(note) = verdict else { panic!("{verdict:?}") };
        note.keep_until.0
    };
    assert_eq!(kept(NOW.0 + 600_000), NOW.0 + 600_000 + 24 * hour);
    assert_eq!(kept((1 << 53) - 1), NOW.0 + 48 * hour + 300_000, "no good order lives longer than a day");
}

/// Of a longer one no answer could be made, so that nothing would be said at all.
#[test]
fn a_refusal_repeats_no_more_of_what_was_sent_than_an_answer_can_carry() {
    let kind = "\u{1}".repeat(40_000);
    let signature = order_key().sign(&pae(&kind, b"")).to_bytes();
    // Version 1, this type, no content, one signature.
    let mut envelope = vec![0x08, 1, 0x12];
    prost::encoding::encode_varint(kind.len() as u64, &mut envelope);
    envelope.extend(kind.as_bytes());
    envelope.extend([0x22, 100, 0x0a, 32]);
    envelope.extend([0; 32]);
    envelope.extend([0x12, 64]);
    envelope.extend(signature);
    let refusal = read(&envelope, &trusted(KeyRole::Order), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadPayload);
    assert!(refusal.detail.starts_with("the envelope holds") && refusal.detail.len() <= 500, "{refusal}");

    let payload = format!("{{\"{}\":1}}", "x".repeat(60_000)).into_bytes();
    let signed = Envelope::sign(&order_key(), PayloadType::Order, payload).encode();
    let refusal = read(&signed, &trusted(KeyRole::Order), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadPayload);
    assert!(refusal.detail.contains("xxx") && refusal.detail.len() <= 500, "{refusal}");
}

#[tokio::test]
async fn what_cannot_be_remembered_as_refused_is_not_said_until_there_is_room() {
    let books = Books::new().await;
    let fill = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000) \
         INSERT INTO refused (at, order_id, code, detail, final, payload_hash, keep_until) \
         SELECT 1, 'o' || n, 'BAD_WINDOW', '', 1, x'00', {} FROM n",
        NOW.0
    );
    books
        .journal
        .write(move |conn| {
            Box::pin(async move {
                sqlx::query(sqlx::AssertSqlSafe(fill)).execute(&mut *conn).await?;
                sqlx::query("UPDATE meta SET final_refusals = 100000").execute(conn).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    let refuse_at = |now: UnixMillis| {
        let full = Node { disk_low: true, now, ..node() };
        let read = testing::read(&ensure(1, 1));
        let judge = move |facts: &Facts| super::judge(&read, &full, &|_, _, _| Ok(()), facts);
        books.journal.admit(testing::read(&ensure(1, 1)).question(), now, judge)
    };
    refuse_at(NOW).await.unwrap_err();
    // Those are over now.
    let said = refuse_at(UnixMillis(NOW.0 + 1)).await.unwrap();
    assert!(matches!(said, Admission::Refuse(_)), "{said:?}");
    assert_eq!(crate::journal::lists::refusals(books.journal.readers(), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_redelivered_order_is_a_duplicate_even_after_its_time_and_in_another_epoch() {
    let books = Books::new().await;
    books.accept(&ensure(1, 1)).await;
    let much_later = Node { now: UnixMillis(NOW.0 + 86_400_000), epoch: 4, ..node() };
    let Admission::Duplicate(known) = books.admit_as(&ensure(1, 1), much_later).await else { panic!() };
    assert_eq!(known.state, OrderState::Accepted);

    let mut forged = ensure(1, 1);
    forged.generation = 2;
    let Admission::Refuse(note) = books.admit(&forged).await else { panic!() };
    assert_eq!(note.refusal.code, RefusalCode::Conflict, "the same id with another content");
}

#[tokio::test]
async fn a_refused_order_stays_refused() {
    let books = Books::new().await;
    let full = Node { disk_low: true, ..node() };
    let Admission::Refuse(first) = books.admit_as(&ensure(1, 1), full).await else { panic!() };
    assert_eq!(first.refusal.code, RefusalCode::NoSpace);
    // Room again; but the control plane may have built elsewhere by now. However often it comes, it is noted once.
    for _ in 0..3 {
        let Admission::Refuse(second) = books.admit(&ensure(1, 1)).await else { panic!() };
        assert_eq!(second.refusal, first.refusal);
    }
    let noted = crate::journal::lists::refusals(books.journal.readers(), 10).await.unwrap();
    assert_eq!(noted.len(), 1);
    assert!(books.journal.open_orders().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_order_a_hundred_times_at_once_comes_in_once() {
    let books = Books::new().await;
    let one = ensure(1, 1);
    let verdicts = futures::future::join_all((0..100).map(|_| books.admit(&one))).await;
    let accepted = verdicts.iter().filter(|v| matches!(v, Admission::Accept(..))).count();
    let known = verdicts.iter().filter(|v| matches!(v, Admission::Duplicate(_))).count();
    assert_eq!((accepted, known), (1, 99));
    assert_eq!(books.journal.resources().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_same_wish_under_another_id_is_a_duplicate_and_another_wish_a_conflict() {
    let books = Books::new().await;
    books.accept(&ensure(1, 1)).await;
    let Admission::Duplicate(known) = books.admit(&ensure(2, 1)).await else { panic!() };
    assert_eq!(known.order_id, ensure(1, 1).order_id);
    let mut bigger = ensure(3, 1);
    if let Op::Ensure(spec) = &mut bigger.op {
        spec.vcpus = 4;
    }
    let Admission::Refuse(note) = books.admit(&bigger).await else { panic!() };
    assert_eq!(note.refusal.code, RefusalCode::Conflict);
}
