//! Early fraud warnings: told once, open until the charge is refunded or disputed.

use serde_json::{Value, json};

use super::{
    super::API_VERSION,
    bench::Bench,
    checker::{check, check_beyond},
};

/// What the shared description of Stripe's interface leaves out: these warnings, as Stripe's published reference has them.
fn beyond() -> Value {
    let text = json!({ "type": "string" });
    let warning = json!({
        "type": "object",
        "properties": {
            "actionable": { "type": "boolean" }, "charge": text, "created": { "type": "integer" }, "fraud_type": text,
            "id": text, "livemode": { "type": "boolean" }, "object": { "type": "string", "enum": [super::super::warnings::KIND] },
            "payment_intent": { "anyOf": [text, { "type": "null" }] },
        },
        "required": ["actionable", "charge", "created", "fraud_type", "id", "livemode", "object"],
    });
    let reference = json!({ "$ref": "#/components/schemas/radar.EarlyFraudWarning" });
    let filters = json!({
        "type": "object",
        "properties": {
            "charge": text, "ending_before": text, "limit": { "type": "integer" }, "payment_intent": text,
            "starting_after": text,
        },
    });
    let list = json!({
        "type": "object", "required": ["object", "data", "has_more", "url"],
        "properties": {
            "object": { "enum": ["list"] }, "data": { "type": "array", "items": reference },
            "has_more": { "type": "boolean" }, "url": text,
        },
    });
    json!({
        "schemas": { "radar.EarlyFraudWarning": warning },
        "paths": {
            "/v1/radar/early_fraud_warnings": { "get": { "params": filters, "response": list } },
            "/v1/radar/early_fraud_warnings/{id}": { "get": { "params": { "type": "object" }, "response": reference } },
        },
    })
}

#[tokio::test]
async fn a_warning_is_open_until_its_charge_is_refunded_in_full_or_disputed() {
    let bench = Bench::start().await;
    for disputed in [false, true] {
        let bought = bench.bought("4242").await;
        let invoice = bought["invoice"].as_str().unwrap();
        let paid = bench.read(&format!("/v1/invoice_payments?invoice={invoice}")).await;
        let intent = paid["data"][0]["payment"]["payment_intent"].as_str().unwrap().to_owned();
        let charge = bench.read(&format!("/v1/payment_intents/{intent}")).await["latest_charge"].clone();
        let warned = bench.sim("early_fraud_warnings", Some(json!({ "charge": charge }))).await;
        assert_eq!(
            (&warned["actionable"], &warned["payment_intent"], &warned["fraud_type"]),
            (&true.into(), &intent.as_str().into(), &"misc".into())
        );
        let path = format!("/v1/radar/early_fraud_warnings/{}", warned["id"].as_str().unwrap());
        assert_eq!(bench.read(&path).await, warned);
        let listed = bench.read(&format!("/v1/radar/early_fraud_warnings?payment_intent={intent}")).await;
        assert_eq!(listed["data"], json!([warned]));
        if disputed {
            bench.sim("disputes", Some(json!({ "charge": charge }))).await;
        } else {
            bench.ok("/v1/refunds", &format!("payment_intent={intent}&amount=400")).await;
            assert_eq!(bench.read(&path).await["actionable"], true, "half of it is no answer");
            bench.ok("/v1/refunds", &format!("payment_intent={intent}")).await;
        }
        assert_eq!(bench.read(&path).await["actionable"], false);
    }
    assert_eq!(bench.inbox.wait("radar.early_fraud_warning.created", 2).await.len(), 2);
    assert_eq!(bench.inbox.wait("radar.early_fraud_warning.updated", 2).await.len(), 2);
    check_beyond("stripe.jsonl", &bench, &beyond(), &["--need-key", "--version", API_VERSION]);
    check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn nobody_warns_of_a_charge_that_is_not_there() {
    let bench = Bench::start().await;
    let url = format!("http://{}/_sim/early_fraud_warnings", bench.running.as_ref().unwrap().control);
    for (wrong, status) in [(json!({}), 400), (json!({ "charge": "ch_none" }), 400)] {
        assert_eq!(bench.client.post(&url).json(&wrong).send().await.unwrap().status(), status);
    }
}
