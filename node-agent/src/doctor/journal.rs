//! The journal: is it whole, has it room, and does anything in it wait for a person?

use std::time::Duration;

use sqlx::{Row as _, SqlitePool};

use super::{Check, Patient, span};
use crate::journal::{Journal, LOW_WATER_BYTES, Space, lists};

pub(super) const NAMES: &[&str] =
    &["journal", "journal-space", "reserve-file", "outbox", "orders", "destroy-circuit"];

/// Below this an outage of a day or a bigger job may end at the low-water mark.
const SCARCE_BYTES: u64 = 512 * 1024 * 1024;
/// So many events are hours without the control plane.
const MANY_EVENTS: i64 = 1_000;

pub(super) async fn look(patient: &Patient) -> Vec<Check> {
    let Ok(config) = &patient.config else {
        let no = |name: &&'static str| Check::unseen(name, "there is no configuration", "configuration");
        return NAMES.iter().map(no).collect();
    };
    let space = Space::of(&config.state_dir);
    let mut disk = vec![room(&space), reserve(&space)];
    let file = config.journal_file();
    let why = match file.exists() {
        false => "no agent has run here yet".to_owned(),
        true => match Journal::open_read_only(&file).await {
            Ok(pool) => {
                let mut checks = vec![whole(&pool, &file.display().to_string()).await];
                checks.append(&mut disk);
                checks.extend([
                    waiting(&pool).await,
                    stuck(&pool, patient).await,
                    circuit(&pool, patient).await,
                ]);
                pool.close().await;
                return checks;
            }
            Err(error) => error.to_string(),
        },
    };
    let mut checks = vec![match file.exists() {
        false => {
            Check::warn("journal", why.clone(), "systemctl enable --now ez-node-agent (after setup and join)")
        }
        true => Check::fail(
            "journal",
            why.clone(),
            "run doctor as root; if it is damaged: keep the file, move it away and join again; the servers are adopted",
        ),
    }];
    checks.append(&mut disk);
    checks.extend(["outbox", "orders", "destroy-circuit"].map(|name| Check::unseen(name, &why, "journal")));
    checks
}

async fn whole(pool: &SqlitePool, file: &str) -> Check {
    let verdict = match sqlx::query("PRAGMA quick_check").fetch_one(pool).await {
        Ok(row) => row.try_get::<String, _>(0).unwrap_or_else(|error| error.to_string()),
        Err(error) => error.to_string(),
    };
    match verdict.as_str() {
        "ok" => Check::ok("journal", format!("{file} is whole")),
        damage => {
            let fix = "keep the file, join again and let the control plane send adopt orders for the servers";
            Check::fail("journal", format!("{file} is damaged: {damage}"), fix)
        }
    }
}

fn room(space: &Space) -> Check {
    let fix = "free space on the file system of the state directory (df -h)";
    match space.free_bytes() {
        Err(error) => Check::fail("journal-space", error.to_string(), fix),
        Ok(free) => {
            let found = format!("{} MiB free", free / (1024 * 1024));
            match free {
                0..LOW_WATER_BYTES => {
                    Check::fail("journal-space", format!("{found}: new orders are refused"), fix)
                }
                LOW_WATER_BYTES..SCARCE_BYTES => Check::warn("journal-space", found, fix),
                SCARCE_BYTES.. => Check::ok("journal-space", found),
            }
        }
    }
}

fn reserve(space: &Space) -> Check {
    match space.has_reserve() {
        true => Check::ok("reserve-file", "it is there"),
        false => {
            let fix = "the agent makes it when it starts and there is room: systemctl restart ez-node-agent";
            Check::warn("reserve-file", "there is none, so a full disk would stop what is at work", fix)
        }
    }
}

async fn waiting(pool: &SqlitePool) -> Check {
    let count = sqlx::query("SELECT COUNT(*) FROM outbox").fetch_one(pool).await;
    match count.and_then(|row| row.try_get::<i64, _>(0)) {
        Err(error) => Check::fail("outbox", error.to_string(), "see the check `journal`"),
        Ok(count) if count > MANY_EVENTS => {
            let found = format!("{count} events wait for the control plane");
            Check::warn("outbox", found, "see the checks `connection` and `control-plane-udp`")
        }
        Ok(count) => Check::ok("outbox", format!("{count} events wait for the control plane")),
    }
}

/// Orders that neither finished nor were undone and that nobody has given up.
async fn stuck(pool: &SqlitePool, patient: &Patient) -> Check {
    let orders = match lists::waiting_for_a_person(pool).await {
        Ok(orders) => orders,
        Err(error) => return Check::fail("orders", error.to_string(), "see the check `journal`"),
    };
    let now = patient.clock.now();
    let old = |row: &&crate::journal::OrderRow| now.since(row.accepted_at) > Duration::from_secs(3 * 3_600);
    let stuck = || orders.iter().filter_map(|row| Some((row.stuck_since()?, row)));
    if let Some((since, oldest)) = stuck().min_by_key(|(since, _)| *since) {
        let found = format!("{} stuck, the oldest for {}", stuck().count(), span(now.since(since)));
        return Check::warn("orders", found, oldest.way_out());
    }
    match orders.iter().find(old) {
        Some(row) => {
            let found =
                format!("order {} is at work since {}", row.order_id, span(now.since(row.accepted_at)));
            Check::warn("orders", found, format!("ez-node-agent order show {}", row.order_id))
        }
        None => Check::ok("orders", format!("{} at work, none stuck", orders.len())),
    }
}

async fn circuit(pool: &SqlitePool, patient: &Patient) -> Check {
    match lists::circuit(pool).await {
        Err(error) => Check::fail(
            "destroy-circuit",
            error.to_string(),
            "restart the agent, which brings its journal up to date",
        ),
        Ok(circuit) => match circuit.opened_at {
            None => Check::ok("destroy-circuit", "closed: what is destroyed is within the budget"),
            Some(at) => {
                let found = format!(
                    "open for {}: nothing is purged, replaced or deleted",
                    span(patient.clock.now().since(at))
                );
                Check::warn(
                    "destroy-circuit",
                    found,
                    "find out who wanted so much destroyed (journal --refused), then ez-node-agent unlock",
                )
            }
        },
    }
}
