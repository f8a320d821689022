//! Every rule finds what it is there for.

use crate::{RULES, source::File};

fn breaches(rule: &str, planted: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<File> =
        planted.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
    let (_, check) = RULES.iter().find(|(name, _)| *name == rule).unwrap();
    check(&files)
}

/// A rule, files that break it, and files that do not.
type Case = (&'static str, Vec<(&'static str, &'static str)>, Vec<(&'static str, &'static str)>);

#[test]
fn every_rule_can_fail() {
    let migration = ("migrations/control-plane/1.sql", "CREATE TABLE things (\n id TEXT);");
    let long: &'static str = Box::leak("x\n".repeat(801).into_boxed_str());
    let fits: &'static str = Box::leak("x\n".repeat(800).into_boxed_str());
    let lints = "[lints]\nworkspace = true";
    let cases: Vec<Case> = vec![
        (
            "A1 the protocol is pure",
            vec![("protocol/src/lib.rs", "use tokio::net::UdpSocket;")],
            vec![("protocol/src/lib.rs", "//! not tokio::net\nuse prost::Message;")],
        ),
        (
            "A2 SQL stands in stores and db",
            vec![("control-plane/src/orders/mod.rs", "sqlx::query(\"SELECT 1\")")],
            vec![
                ("control-plane/src/orders/store.rs", "sqlx::query(\"SELECT 1\")"),
                ("control-plane/src/orders/tests.rs", "sqlx::query(\"SELECT 1\")"),
            ],
        ),
        (
            "A2 SQL stands in stores and db",
            vec![("control-plane/src/orders/store.rs", "AssertSqlSafe(text)")],
            vec![("control-plane/src/db/mod.rs", "AssertSqlSafe(text)")],
        ),
        (
            "A2 a table has one owner",
            vec![
                migration,
                ("control-plane/src/a/store.rs", "\"INSERT INTO things VALUES ($1)\""),
                ("control-plane/src/b/store.rs", "\"SELECT 1 FROM\n  things\""),
            ],
            vec![
                migration,
                ("control-plane/src/a/store.rs", "\"INSERT INTO things VALUES ($1)\""),
                ("control-plane/src/b/store.rs", "\"SELECT 1 FROM others\""),
            ],
        ),
        (
            "A3 axum stands at the edges",
            vec![("control-plane/src/orders/mod.rs", "use axum::Router;")],
            vec![
                ("control-plane/src/orders/pages.rs", "use axum::Router;"),
                ("control-plane/src/web/gate.rs", "use axum::Router;"),
            ],
        ),
        (
            "A4 slices are used through their faces",
            vec![
                ("control-plane/src/orders/mod.rs", "use crate::fleet::store::x;"),
                ("control-plane/src/fleet/store.rs", ""),
            ],
            vec![
                ("control-plane/src/orders/mod.rs", "use crate::fleet::reserve; use super::store;"),
                ("control-plane/src/fleet/store.rs", ""),
            ],
        ),
        (
            "A4 slices are used through their faces",
            vec![
                ("control-plane/src/orders/mod.rs", "use crate::{fleet::{reserve, pages}};"),
                ("control-plane/src/fleet/pages.rs", ""),
            ],
            vec![
                ("control-plane/src/fleet/mod.rs", "use crate::fleet::{store, pages};"),
                ("control-plane/src/fleet/pages.rs", ""),
            ],
        ),
        (
            "A5 placement is pure",
            vec![("control-plane/src/placement/mod.rs", "use sqlx::AnyConnection;")],
            vec![("control-plane/src/placement/mod.rs", "use ez_protocol::NodeId;")],
        ),
        (
            "A5 link moves bytes only",
            vec![("control-plane/src/link/mod.rs", "use crate::{accounts, fleet};")],
            vec![(
                "control-plane/src/link/mod.rs",
                "// accounts are not known here\nuse crate::fleet; mod orders; use super::orders;",
            )],
        ),
        (
            "A5 billing knows no orders",
            vec![("control-plane/src/billing/sync.rs", "use crate::orders::mark_paid;")],
            vec![("control-plane/src/billing/sync.rs", "jobs::enqueue(tx, \"orders.payment_settled\")")],
        ),
        (
            "A6 programs do not import each other",
            vec![("simulator/src/lib.rs", "use ez_node_agent::journal;")],
            vec![
                ("simulator/src/lib.rs", "use ez_protocol::marker;"),
                ("simulator/tests/e2e/main.rs", "use ez_node_agent::x;"),
            ],
        ),
        (
            "A6 programs do not import each other",
            vec![("node-agent/Cargo.toml", "[dependencies]\nez-control-plane.workspace = true")],
            vec![(
                "simulator/Cargo.toml",
                "[dependencies]\n[dev-dependencies]\nez-control-plane.workspace = true",
            )],
        ),
        (
            "A7 time and randomness are parameters",
            vec![("control-plane/src/orders/mod.rs", "let now = SystemTime::now();")],
            vec![(
                "control-plane/src/clock.rs",
                "#[expect(clippy::disallowed_methods)]\nlet now = SystemTime::now();",
            )],
        ),
        (
            "A8 no shell",
            vec![("node-agent/src/setup.rs", "Command::new(\"sh\").arg(\"-c\")")],
            vec![("node-agent/src/setup.rs", "Command::new(\"pvesh\")")],
        ),
        (
            "A8 lints are the workspace's",
            vec![("protocol/Cargo.toml", "[package]")],
            vec![("protocol/Cargo.toml", lints)],
        ),
        (
            "A8 lints are the workspace's",
            vec![(
                "Cargo.toml",
                "unwrap_used = \"deny\" expect_used = \"deny\" print_stdout = \"deny\" disallowed_methods = \"deny\"",
            )],
            vec![],
        ),
        ("files are short", vec![("locales/en/x.ftl", long)], vec![("locales/en/x.ftl", fits)]),
        (
            "Stripe's client stays in its gate",
            vec![("control-plane/src/billing/sync.rs", "use stripe_core::Customer;")],
            vec![("control-plane/src/billing/stripe/mod.rs", "use stripe_core::Customer;")],
        ),
        (
            "Stripe's own retries are not used",
            vec![("control-plane/src/billing/stripe/mod.rs", "RequestStrategy::Retry(3)")],
            vec![("control-plane/src/billing/stripe/mod.rs", "RequestStrategy::Idempotent(key)")],
        ),
    ];
    for (rule, broken, kept) in &cases {
        assert_eq!(breaches(rule, broken).len(), 1, "{rule} misses {broken:?}");
        assert_eq!(breaches(rule, kept), Vec::<String>::new(), "{rule} finds too much");
    }
    for (rule, _) in RULES {
        assert!(cases.iter().any(|(shown, _, _)| shown == rule), "{rule} is never shown to fail");
    }
}

#[test]
fn tests_and_comments_are_not_shipped() {
    let file = File {
        path: "control-plane/src/orders/mod.rs".into(),
        text: "// axum::Router\nfn f() {} // sqlx::query\n#[cfg(test)]\nmod tests {\n use axum::Router;\n}"
            .into(),
    };
    assert_eq!(file.code(), "fn f() {}\n");
}
