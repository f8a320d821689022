//! The produced logs pass the interface's own checker, and the parameter tables name nothing Stripe does not know.
//! Both need the shared reference directory; without it there is nothing to compare with.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    super::{
        account, balance, collection, coupons, customers, disputes, endpoints, form::Pattern, invoice_items,
        invoices, pauses, payments, plan, prices, products, promotions, refunds, schedules, sessions,
        subscriptions,
    },
    bench::Bench,
};

fn shared() -> Option<PathBuf> {
    crate::reference::shared("Stripe's own checker")
}

/// Runs Stripe's checker over a log, where it is present.
pub(super) fn check(file: &str, bench: &Bench, more: &[&str]) {
    judge(file, bench, None, more);
}

/// The same where the log has objects that the shared description leaves out: `paths` and `schemas` of these.
pub(super) fn check_beyond(file: &str, bench: &Bench, beyond: &Value, more: &[&str]) {
    let Some(mut spec) = spec() else { return };
    let more_of = |known: &mut Value, added: &Value| {
        known.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
    };
    more_of(&mut spec["paths"], &beyond["paths"]);
    more_of(&mut spec["components"]["schemas"], &beyond["schemas"]);
    let whole = bench.dir.path().join("spec.json");
    std::fs::write(&whole, spec.to_string()).unwrap();
    judge(file, bench, Some(&whole), more);
}

/// Stripe's interface as it is described, where that is present.
fn spec() -> Option<Value> {
    let text = std::fs::read_to_string(shared()?.join("stripe/openapi-subset.json")).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

fn judge(file: &str, bench: &Bench, spec: Option<&Path>, more: &[&str]) {
    let Some(shared) = shared() else { return };
    let output = Command::new("python3")
        .arg(shared.join("stripe/check.py"))
        .args(spec.map(|spec| [OsStr::new("--spec"), spec.as_os_str()]).into_iter().flatten())
        .args(more)
        .arg(bench.logs().join(file))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{file}:\n{said}");
    assert!(!said.starts_with("0 entries"), "{file} is empty");
}

#[tokio::test]
async fn a_year_in_the_life_passes_the_checker() {
    let bench = Bench::start().await;
    let (good, bad) = (bench.bought("4242").await, bench.bought("0341").await);
    let credited = good["customer"].as_str().unwrap();
    let credit = format!("/v1/customers/{credited}/balance_transactions");
    bench.ok(&credit, "amount=-500&currency=eur&description=Sorry").await;
    let session = bench.session().await;
    bench
        .sim(
            &format!("sessions/{}/complete", session["id"].as_str().unwrap()),
            Some(json!({ "card": "0002" })),
        )
        .await;
    let item = format!(
        "customer={credited}&subscription={}&amount=36&currency=eur&description=Traffic&metadata[traffic]=a:202611&period[start]=1&period[end]=2",
        good["subscription"].as_str().unwrap()
    );
    let item = bench.ok("/v1/invoiceitems", &item).await;
    let spare = format!("customer={credited}&amount=1&currency=eur");
    let spare = bench.ok("/v1/invoiceitems", &spare).await;
    bench.read(&format!("/v1/invoiceitems/{}", item["id"].as_str().unwrap())).await;
    bench.delete(&format!("/v1/invoiceitems/{}", spare["id"].as_str().unwrap())).await;
    bench.advance(70 * 86_400).await;
    let subscription = good["subscription"].as_str().unwrap();
    bench.ok(&format!("/v1/subscriptions/{subscription}"), "cancel_at_period_end=true").await;
    for path in [
        "customers",
        "products",
        "prices",
        "checkout/sessions",
        "subscriptions?status=all",
        "invoices",
        "invoice_payments",
        "refunds",
        "events?limit=100",
        "webhook_endpoints",
        "charges",
        "payment_intents",
        "disputes",
        "invoiceitems",
    ] {
        bench.read(&format!("/v1/{path}")).await;
    }
    let expanded = format!(
        "/v1/checkout/sessions/{}?expand[]=line_items&expand[]=invoice.payments&expand[]=subscription.default_payment_method",
        good["id"].as_str().unwrap()
    );
    bench.read(&expanded).await;
    bench.read(&format!("/v1/checkout/sessions/{}/line_items", good["id"].as_str().unwrap())).await;
    let intents =
        bench.read(&format!("/v1/invoice_payments?invoice={}", good["invoice"].as_str().unwrap())).await;
    let intent = intents["data"][0]["payment"]["payment_intent"].as_str().unwrap().to_owned();
    bench
        .ok(
            "/v1/refunds",
            &format!("payment_intent={intent}&amount=100&reason=requested_by_customer&metadata[order_id]=o1"),
        )
        .await;
    bench.sim("disputes", Some(json!({ "payment_intent": intent }))).await;
    let customer = good["customer"].as_str().unwrap();
    bench
        .ok("/v1/billing_portal/sessions", &format!("customer={customer}&return_url=http://127.0.0.1:1/"))
        .await;
    bench.ok(&format!("/v1/customers/{customer}"), "name=Jane&address[country]=DE&metadata[a]=b").await;
    let (status, _) =
        bench.delete(&format!("/v1/subscriptions/{}", bad["subscription"].as_str().unwrap())).await;
    assert_eq!(status, 404, "eight declined tries have ended it already");
    let hook =
        bench.ok("/v1/webhook_endpoints", "url=http://127.0.0.1:1/h&enabled_events[]=invoice.paid").await;
    bench.delete(&format!("/v1/webhook_endpoints/{}", hook["id"].as_str().unwrap())).await;
    bench.read("/v1/account").await;
    bench.read(&credit).await;
    let (status, _) = bench.post("/v1/customers", "colour=red").await;
    assert_eq!(status, 400);
    bench.inbox.wait("charge.dispute.created", 1).await;
    check("stripe.jsonl", &bench, &["--need-key", "--version", super::super::API_VERSION]);
    check("stripe-deliveries.jsonl", &bench, &[]);
}

fn known(spec: &Value, schema: &Value, path: &[&str]) -> bool {
    let mut schema = schema;
    while let Some(name) = schema["$ref"].as_str() {
        schema = &spec["components"]["schemas"][name.rsplit('/').next().unwrap()];
    }
    if let Some(branches) = schema["anyOf"].as_array() {
        return branches.iter().any(|branch| known(spec, branch, path));
    }
    let Some((first, rest)) = path.split_first() else {
        return schema["type"] != "object" || schema.get("x-pruned").is_some();
    };
    if *first == "[]" {
        return known(spec, &schema["items"], rest);
    }
    if *first == "*" {
        return schema["type"] == "object";
    }
    known(spec, &schema["properties"][*first], rest) && schema["properties"].get(*first).is_some()
}

#[test]
fn the_parameter_tables_name_nothing_stripe_does_not_know() {
    let Some(spec) = spec() else { return };
    let tables: &[(&str, &[&str])] = &[
        ("checkout.SessionCreateParams", sessions::CREATE),
        ("checkout.SessionListParams", sessions::FILTER),
        ("CustomerCreateParams", customers::CREATE),
        ("CustomerUpdateParams", customers::UPDATE),
        ("CustomerListParams", customers::FILTER),
        ("CustomerBalanceTransactionCreateParams", balance::CREATE),
        ("CouponCreateParams", coupons::CREATE),
        ("CouponUpdateParams", coupons::UPDATE),
        ("PromotionCodeCreateParams", promotions::CREATE),
        ("PromotionCodeUpdateParams", promotions::UPDATE),
        ("PromotionCodeListParams", promotions::FILTER),
        ("ProductCreateParams", products::CREATE),
        ("ProductUpdateParams", products::UPDATE),
        ("ProductListParams", products::FILTER),
        ("PriceCreateParams", prices::CREATE),
        ("PriceUpdateParams", prices::UPDATE),
        ("PriceListParams", prices::FILTER),
        ("SubscriptionUpdateParams", subscriptions::UPDATE),
        ("SubscriptionUpdateParams", collection::PARAMS),
        ("SubscriptionPauseParams", pauses::PAUSE),
        ("SubscriptionResumeParams", pauses::RESUME),
        ("SubscriptionCancelParams", subscriptions::CANCEL),
        ("SubscriptionListParams", subscriptions::FILTER),
        ("SubscriptionScheduleCreateParams", schedules::CREATE),
        ("SubscriptionScheduleUpdateParams", schedules::UPDATE),
        ("InvoiceListParams", invoices::FILTER),
        ("InvoiceCreateParams", invoice_items::CREATE_INVOICE),
        ("InvoiceItemCreateParams", invoice_items::CREATE),
        ("InvoiceItemListParams", invoice_items::FILTER),
        ("InvoiceCreatePreviewParams", plan::PREVIEW),
        ("InvoicePaymentListParams", invoices::PAYMENT_FILTER),
        ("ChargeListParams", payments::FILTER),
        ("RefundCreateParams", refunds::CREATE),
        ("RefundListParams", refunds::FILTER),
        ("DisputeListParams", disputes::FILTER),
        ("WebhookEndpointCreateParams", endpoints::CREATE),
        ("billing_portal.SessionCreateParams", account::PORTAL),
    ];
    for (name, table) in tables {
        let schema = &spec["components"]["schemas"][format!("param:{name}")];
        assert!(schema.is_object(), "no schema {name}");
        for raw in *table {
            let dotted = Pattern::of(raw).name.replace("[]", ".[]");
            let path: Vec<&str> = dotted.split('.').collect();
            assert!(known(&spec, schema, &path), "{name}: {raw}");
        }
    }
}
