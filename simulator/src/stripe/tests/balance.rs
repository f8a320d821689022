//! A customer's balance: credit, and what is too small to be charged.

use super::{
    super::API_VERSION,
    bench::Bench,
    checker::check,
    renewal::{MONTH, item},
};

#[tokio::test]
async fn credit_is_used_up_by_the_next_invoices_to_the_cent() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let customer = bought["customer"].as_str().unwrap();
    bench.ok(&format!("/v1/customers/{customer}/balance_transactions"), "amount=-1000&currency=eur").await;
    bench.advance(MONTH + 3_700).await;
    let first = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!(
        (&first["status"], &first["total"], &first["amount_due"], &first["amount_paid"]),
        (&"paid".into(), &900.into(), &0.into(), &0.into())
    );
    bench.advance(31 * 86_400).await;
    let second = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!((&second["amount_due"], &second["starting_balance"]), (&800.into(), &(-100).into()));
    let known = bench.read(&format!("/v1/customers/{customer}")).await;
    assert_eq!(known["balance"], 0);
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["paid"], 1_700);
}

#[tokio::test]
async fn credit_that_a_voided_invoice_had_used_comes_back() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let customer = bought["customer"].as_str().unwrap();
    bench.ok(&format!("/v1/customers/{customer}/balance_transactions"), "amount=-300&currency=eur").await;
    bench.advance(MONTH + 3_700).await;
    let open = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!((&open["status"], &open["amount_due"]), (&"open".into(), &600.into()));
    let path = format!("/v1/invoices/{}/void", open["id"].as_str().unwrap());
    assert_eq!(bench.ok(&path, "").await["status"], "void");
    assert_eq!(bench.read(&format!("/v1/customers/{customer}")).await["balance"], -300);
    let booked = bench.read(&format!("/v1/customers/{customer}/balance_transactions")).await;
    assert_eq!(booked["data"][0]["type"], "unapplied_from_invoice");
}

#[tokio::test]
async fn what_is_too_small_to_be_charged_is_paid_without_money_and_comes_with_the_next_invoice() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    item(&bench, &bought, 30).await;
    let form = format!(
        "customer={customer}&subscription={subscription}&auto_advance=true&pending_invoice_items_behavior=include"
    );
    let made = bench.ok("/v1/invoices", &form).await;
    bench.advance(3_700).await;
    let small = bench.read(&format!("/v1/invoices/{}", made["id"].as_str().unwrap())).await;
    assert_eq!(
        (&small["status"], &small["total"], &small["amount_due"], &small["amount_paid"]),
        (&"paid".into(), &30.into(), &0.into(), &0.into())
    );
    assert_eq!((&small["starting_balance"], &small["ending_balance"]), (&0.into(), &30.into()));
    let balance = async || bench.read(&format!("/v1/customers/{customer}")).await["balance"].clone();
    assert_eq!(balance().await, 30, "owed");
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["paid"], 900, "nothing was charged");
    let foreseen = bench.ok("/v1/invoices/create_preview", &format!("subscription={subscription}")).await;
    assert_eq!((&foreseen["total"], &foreseen["amount_due"]), (&900.into(), &930.into()));

    bench.advance(MONTH).await;
    let next = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!(
        (&next["status"], &next["total"], &next["amount_paid"]),
        (&"paid".into(), &900.into(), &930.into())
    );
    assert_eq!((&next["starting_balance"], &next["ending_balance"]), (&30.into(), &0.into()));
    assert_eq!(balance().await, 0);
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["paid"], 1_830);
    let booked = bench.read(&format!("/v1/customers/{customer}/balance_transactions")).await;
    let told: Vec<(&str, i64)> = booked["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["type"].as_str().unwrap(), one["amount"].as_i64().unwrap()))
        .collect();
    assert_eq!(told, [("applied_to_invoice", -30), ("invoice_too_small", 30)]);
    check("stripe.jsonl", &bench, &["--need-key", "--version", API_VERSION]);
    check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn a_voided_invoice_takes_what_it_charged_from_before_back_to_the_balance() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let customer = bought["customer"].as_str().unwrap();
    bench.ok(&format!("/v1/customers/{customer}/balance_transactions"), "amount=40&currency=eur").await;
    bench.advance(MONTH + 3_700).await;
    let open = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!((&open["status"], &open["amount_due"]), (&"open".into(), &940.into()));
    assert_eq!(bench.read(&format!("/v1/customers/{customer}")).await["balance"], 0);
    bench.ok(&format!("/v1/invoices/{}/void", open["id"].as_str().unwrap()), "").await;
    assert_eq!(bench.read(&format!("/v1/customers/{customer}")).await["balance"], 40);
}
