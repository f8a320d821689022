//! Looking after a server through the API.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use ez_protocol::order::Verdict;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    accounts::{self, NewUser, Scope},
    app,
};

/// A customer with a token and a server.
struct Desk {
    farm: Farm,
    router: Router,
    token: String,
    server: Instance,
}

impl Desk {
    async fn open(db: Db) -> Self {
        let farm = Farm::open(db).await;
        let new = NewUser {
            email: "ada@example.org".into(),
            password: "correct horse battery".into(),
            staff: None,
            verified: true,
        };
        let ada = accounts::create_user(&farm.app, new).await.unwrap();
        let scopes = vec![Scope::Read, Scope::Write];
        let (_, token) = accounts::create_token(&farm.app, &ada, "test", scopes).await.unwrap();
        let server = farm.server_of(ada.account_id).await;
        Self { router: app::router(&farm.app), farm, token, server }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        self.send(method, &format!("/api/v1/servers/{}{path}", self.server.id), key, body).await
    }

    async fn send(
        &self,
        method: &str,
        uri: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn act(&self, body: Value) -> (StatusCode, Value) {
        self.call("POST", "/actions", None, Some(body)).await
    }

    /// The node carries the newest order out.
    async fn carried_out(&self, facts: Facts) {
        self.carried_out_for(self.server.id, facts).await;
    }

    /// The same for another server.
    async fn carried_out_for(&self, id: InstanceId, facts: Facts) {
        let told = self.farm.told(id).await.order_id;
        self.farm.node_says(told, EventKind::Succeeded, facts).await;
    }
}

#[tokio::test]
async fn an_action_takes_its_own_fields_and_says_what_is_wrong_with_them() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        for (body, field, code) in [
            (json!({"action": "explode"}), "action", "action_unknown"),
            (json!({"action": "snapshot_create"}), "name", "missing"),
            (json!({"action": "snapshot_create", "name": "Upper"}), "name", "snapshot_name_invalid"),
            (json!({"action": "snapshot_rollback", "name": "nothing"}), "name", "snapshot_unknown"),
            (json!({"action": "reboot", "name": "x"}), "name", "unknown"),
            (json!({"action": "backup_restore", "backup": "x"}), "backup", "backup_unknown"),
            (json!({"action": "rebuild", "image": "rescue"}), "image", "image_unknown"),
            (json!({"action": "rescue_on", "image": "debian-13"}), "image", "image_unknown"),
            (json!({"action": "iso_attach", "iso": "../etc/passwd"}), "iso", "iso_unknown"),
            (json!({"action": "tags"}), "action", "action_unknown"),
        ] {
            let (status, answer) = desk.act(body.clone()).await;
            let named = (&answer["errors"][0]["field"], &answer["errors"][0]["code"]);
            assert_eq!((status.as_u16(), named), (422, (&json!(field), &json!(code))), "{body}: {answer}");
        }
        let (status, answer) = desk.act(json!({"action": "start"})).await;
        assert_eq!((status.as_u16(), &answer["code"]), (409, &json!("wrong_state")));
        let (status, answer) = desk.act(json!({"action": "rebuild", "image": "nowhere"})).await;
        assert_eq!((status.as_u16(), &answer["code"]), (409, &json!("image_not_ready")));
    })
    .await;
}

#[tokio::test]
async fn an_action_is_begun_once_per_key_and_told_with_the_nodes_own_steps() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let wish = json!({"action": "snapshot_create", "name": "clean"});
        let (status, begun) = desk.call("POST", "/actions", Some("k"), Some(wish.clone())).await;
        assert_eq!((status.as_u16(), &begun["about"]), (202, &json!("clean")), "{begun}");
        let (status, again) = desk.call("POST", "/actions", Some("k"), Some(wish)).await;
        assert_eq!((status.as_u16(), &again["id"]), (202, &begun["id"]));
        let (status, busy) = desk.act(json!({"action": "backup_create"})).await;
        assert_eq!((status.as_u16(), &busy["code"]), (409, &json!("busy")));
        desk.carried_out(super::kept::with_snapshots(&["clean"])).await;
        let path = format!("/actions/{}", begun["id"].as_str().unwrap());
        let (_, ended) = desk.call("GET", &path, None, None).await;
        assert_eq!(ended["status"], "success", "{ended}");
        let (_, list) = desk.call("GET", "/snapshots", None, None).await;
        assert_eq!(list["data"][0]["name"], "clean");
        let (_, server) = desk.call("GET", "", None, None).await;
        assert_eq!((&server["max_snapshots"], &server["max_backups"]), (&json!(2), &json!(3)));
    })
    .await;
}

#[tokio::test]
async fn a_password_is_told_once_whatever_is_repeated() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db.clone()).await;
        let wish = || Some(json!({"action": "set_password"}));
        let (status, first) = desk.call("POST", "/actions", Some("k"), wish()).await;
        assert_eq!(status.as_u16(), 202, "{first}");
        let password = first["password"].as_str().unwrap().to_owned();
        assert_eq!(password.len(), 20);
        let (status, again) = desk.call("POST", "/actions", Some("k"), wish()).await;
        assert_eq!((status.as_u16(), &again["id"]), (202, &first["id"]));
        assert!(again.get("password").is_none(), "{again}");
        let mut connection = db.read().await.unwrap();
        assert!(!db::testing::mentions(&mut connection, "idempotency_keys", &password).await);
    })
    .await;
}

#[tokio::test]
async fn firewall_rules_are_put_as_a_whole_and_shown_as_they_hold() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let open = json!({"inbound": "accept", "rules": []});
        let (status, shown) = desk.call("GET", "/firewall", None, None).await;
        assert_eq!(
            (status.as_u16(), &shown["inbound"], &shown["rules"]),
            (200, &json!("accept"), &json!([]))
        );
        let (status, _) = desk.call("PUT", "/firewall", None, Some(open)).await;
        assert_eq!(status.as_u16(), 200, "nothing to do");
        let rules = json!({"inbound": "drop", "rules": [
            {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "22",
             "peers": ["203.0.113.7", "2001:db8::/32"]},
        ]});
        let (status, put) = desk.call("PUT", "/firewall", None, Some(rules.clone())).await;
        assert_eq!((status.as_u16(), &put["action"]["kind"]), (202, &json!("firewall")), "{put}");
        assert_eq!(put["inbound"], "accept", "what holds until the node has done it");
        let told = desk.farm.spec(desk.server.id).await.network.rules.unwrap();
        assert_eq!((told.inbound, told.rules.len()), (Verdict::Drop, 1));
        desk.carried_out(seen("running")).await;
        let (_, shown) = desk.call("GET", "/firewall", None, None).await;
        assert_eq!((&shown["inbound"], &shown["rules"]), (&rules["inbound"], &rules["rules"]));
        let wrong = json!({"inbound": "drop", "rules": [
            {"direction": "in", "verdict": "accept", "ports": "22"},
        ]});
        let (status, refused) = desk.call("PUT", "/firewall", None, Some(wrong)).await;
        assert_eq!(
            (status.as_u16(), &refused["errors"][0]["field"], &refused["errors"][0]["code"]),
            (422, &json!("rules[0].ports"), &json!("ports_without_protocol")),
        );
    })
    .await;
}

#[tokio::test]
async fn a_suspended_server_says_why() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let (at, id) = (desk.farm.app.clock.now(), desk.server.id);
        desk.farm
            .app
            .db
            .write(move |tx| Box::pin(async move { suspend(tx, at, id, "Unpaid.", "billing").await }))
            .await
            .unwrap();
        desk.farm.work().await;
        desk.carried_out(seen("stopped")).await;
        let (_, server) = desk.call("GET", "", None, None).await;
        assert_eq!(
            (&server["suspended"]["reason"], &server["state"]),
            (&json!("Unpaid."), &json!("stopped"))
        );
        let (status, refused) = desk.act(json!({"action": "start"})).await;
        assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("suspended")));
    })
    .await;
}

#[tokio::test]
async fn the_list_tells_of_each_server_what_is_told_of_it_alone() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let account = desk.server.account;
        let (off, renamed) = (desk.farm.server_of(account).await, desk.farm.server_of(account).await);
        // Somebody else's, with more to tell than any of these.
        let other = desk.farm.server().await;
        let (at, off, other) = (desk.farm.app.clock.now(), off.id, other.id);
        for id in [off, other] {
            desk.farm
                .app
                .db
                .write(move |tx| Box::pin(async move { suspend(tx, at, id, "Unpaid.", "billing").await }))
                .await
                .unwrap();
        }
        desk.farm.work().await;
        let (status, _) = desk
            .send(
                "PATCH",
                &format!("/api/v1/servers/{}", renamed.id),
                None,
                Some(json!({"hostname": "db-1"})),
            )
            .await;
        assert_eq!(status.as_u16(), 202);
        desk.carried_out_for(off, seen("stopped")).await;

        let (status, list) = desk.send("GET", "/api/v1/servers", None, None).await;
        let data = list["data"].as_array().unwrap();
        assert_eq!((status.as_u16(), data.len()), (200, 3), "{list}");
        for told in data {
            let path = format!("/api/v1/servers/{}", told["id"].as_str().unwrap());
            let (_, alone) = desk.send("GET", &path, None, None).await;
            assert_eq!(*told, alone);
            assert!(told["ipv4"].is_string(), "{told}");
        }
        let of = |id: InstanceId| data.iter().find(|told| told["id"] == json!(id.to_string())).unwrap();
        assert_eq!(of(off)["suspended"]["reason"], "Unpaid.");
        assert_eq!(of(renamed.id)["action"]["kind"], "rename");
        assert!(of(desk.server.id)["action"].is_null());
    })
    .await;
}

#[tokio::test]
async fn what_a_server_used_is_told_in_steps_and_its_traffic_by_month() {
    use ez_protocol::message::{InstanceSamples, MetricsBatch, Sample, TrafficTotal};
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let (status, empty) = desk.call("GET", "/metrics", None, None).await;
        assert_eq!((status.as_u16(), &empty["samples"]), (200, &json!([])), "{empty}");
        let at = desk.farm.app.clock.now();
        let minute = u32::try_from(at.0 / 60_000).unwrap();
        let sample = Sample { minute, cpu_permille: 125, memory_kib: 2, net_in: 7, ..Sample::default() };
        let instance_id = desk.server.id.to_string();
        let month = ez_protocol::Month::of(at);
        let batch = MetricsBatch {
            series: "0".repeat(32),
            instances: vec![InstanceSamples { instance_id: instance_id.clone(), samples: vec![sample] }],
            traffic: vec![TrafficTotal { instance_id, month: month.number(), bytes_in: 40, bytes_out: 2 }],
            ..MetricsBatch::default()
        };
        crate::metrics::take(&desk.farm.app.db, at, desk.farm.node.id, batch).await.unwrap();
        for (query, step) in [("", 60), ("?span=day", 300), ("?span=week", 1_800)] {
            let (status, told) = desk.call("GET", &format!("/metrics{query}"), None, None).await;
            assert_eq!((status.as_u16(), &told["step_seconds"]), (200, &json!(step)), "{told}");
            let sample = &told["samples"][0];
            assert_eq!((&sample["cpu_permille"], &sample["memory_bytes"]), (&json!(125), &json!(2_048)));
        }
        let (_, told) = desk.call("GET", "/traffic", None, None).await;
        assert_eq!(
            (&told["month"], &told["bytes_counted"]),
            (&json!(month.to_string()), &json!(42)),
            "{told}"
        );
        assert!(told["updated_at"].is_i64(), "{told}");
        let (_, before) = desk.call("GET", &format!("/traffic?month={}", month.before()), None, None).await;
        assert_eq!((&before["bytes_counted"], &before["updated_at"]), (&json!(0), &Value::Null));
        for (wrong, field) in [
            ("/metrics?span=year", "span"),
            ("/traffic?month=11", "month"),
            ("/metrics?span=day&span=hour", "query"),
        ] {
            let (status, refused) = desk.call("GET", wrong, None, None).await;
            assert_eq!((status.as_u16(), &refused["errors"][0]["field"]), (422, &json!(field)), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_is_renamed_and_called_so_once_its_node_has_done_it() {
    db::testing::each_database(async |db| {
        let desk = Desk::open(db).await;
        let wish = |name: &str| Some(json!({ "hostname": name }));
        for (body, field, code) in [
            (wish("-web"), "hostname", "hostname_invalid"),
            (wish("two words"), "hostname", "hostname_invalid"),
            (wish(""), "hostname", "hostname_invalid"),
        ] {
            let (status, answer) = desk.call("PATCH", "", None, body).await;
            let named = (&answer["errors"][0]["field"], &answer["errors"][0]["code"]);
            assert_eq!((status.as_u16(), named), (422, (&json!(field), &json!(code))), "{answer}");
        }
        let (status, answer) = desk.call("PATCH", "", None, Some(json!({ "plan": "s" }))).await;
        assert_eq!(status, 422, "{answer}");
        let (status, begun) = desk.call("PATCH", "", None, wish("Shop-1")).await;
        let told = (&begun["name"], &begun["action"]["kind"], &begun["action"]["about"]);
        assert_eq!((status.as_u16(), told), (202, (&json!("web-1"), &json!("rename"), &json!("shop-1"))));
        let (status, busy) = desk.call("PATCH", "", None, wish("shop-2")).await;
        assert_eq!((status.as_u16(), &busy["code"]), (409, &json!("busy")));
        desk.carried_out(seen("running")).await;
        let (status, same) = desk.call("PATCH", "", None, wish("shop-1")).await;
        assert_eq!((status.as_u16(), &same["name"], &same["action"]), (200, &json!("shop-1"), &Value::Null));
        assert_eq!((&same["rate_limit_mbit"], &same["filtered"]), (&Value::Null, &json!(true)));
    })
    .await;
}
