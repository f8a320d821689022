//! SQL of instances.

use std::collections::BTreeMap;

use ez_protocol::{
    AccountId, ActionId, InstanceId, NodeId, OrderId, ProvisioningOrderId, UnixMillis, input::Hostname,
};
use sqlx::{AnyConnection, any::AnyRow};

use super::{
    model::{ActionRow, ActionState, FirstBoot, Instance, InstanceState},
    resize::Size,
    settings::ImageChoice,
};
use crate::db::{self, Cols, DbError, one_row, opt_id};

macro_rules! select_instances {
    ($rest:literal) => {
        concat!(
            "SELECT id, account_id, order_id, hostname, location, plan_code, image_code, image_digest, login_user,
                    vcpu, memory_mib, disk_gib, snapshots, backups, ssh_keys, first_boot, state, reason, node_id, provisioning_order_id, attempts,
                    tried_nodes, observed_state, observed_at, host_keys, created_at, updated_at, assigned_at,
                    built_at, usable_at, retired_at, purge_at, purged_at
             FROM instances ",
            $rest
        )
    };
}

fn read(row: &AnyRow) -> Result<Instance, DbError> {
    let row = Cols::of("instances", row);
    let host_keys: Option<String> = row.get("host_keys")?;
    Ok(Instance {
        id: row.id("id")?,
        account: row.id("account_id")?,
        order: row.id("order_id")?,
        hostname: row.text("hostname")?,
        location: row.text("location")?,
        plan_code: row.text("plan_code")?,
        image_code: row.text("image_code")?,
        image_digest: row.text("image_digest")?,
        login_user: row.text("login_user")?,
        vcpu: row.num("vcpu")?,
        memory_mib: row.num("memory_mib")?,
        disk_gib: row.num("disk_gib")?,
        max_snapshots: row.num("snapshots")?,
        max_backups: row.num("backups")?,
        ssh_keys: row.json("ssh_keys")?,
        first_boot: match row.get::<Option<String>>("first_boot")? {
            Some(_) => row.json("first_boot")?,
            None => FirstBoot::default(),
        },
        state: row.get("state")?,
        reason: row.get("reason")?,
        node: row.opt_id("node_id")?,
        provisioning_order: row.opt_id("provisioning_order_id")?,
        attempts: row.num("attempts")?,
        tried_nodes: row.json("tried_nodes")?,
        observed_state: row.get("observed_state")?,
        observed_at: row.opt_millis("observed_at")?,
        host_keys: match host_keys {
            Some(text) => serde_json::from_str(&text).map_err(|_| row.inconsistent("host_keys"))?,
            None => Vec::new(),
        },
        created_at: row.millis("created_at")?,
        updated_at: row.millis("updated_at")?,
        assigned_at: row.opt_millis("assigned_at")?,
        built_at: row.opt_millis("built_at")?,
        usable_at: row.opt_millis("usable_at")?,
        retired_at: row.opt_millis("retired_at")?,
        purge_at: row.opt_millis("purge_at")?,
        purged_at: row.opt_millis("purged_at")?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "[]".to_owned())
}

pub(super) async fn insert(tx: &mut AnyConnection, instance: &Instance) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO instances
             (id, account_id, order_id, hostname, location, plan_code, image_code, image_digest, login_user, vcpu,
              memory_mib, disk_gib, ssh_keys, state, attempts, tried_nodes, created_at, updated_at, snapshots, backups, first_boot)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, '[]', $15, $15, $16, $17, $18)",
    )
    .bind(instance.id.to_string())
    .bind(instance.account.to_string())
    .bind(instance.order.to_string())
    .bind(&instance.hostname)
    .bind(&instance.location)
    .bind(&instance.plan_code)
    .bind(&instance.image_code)
    .bind(&instance.image_digest)
    .bind(&instance.login_user)
    .bind(i64::from(instance.vcpu))
    .bind(i64::from(instance.memory_mib))
    .bind(i64::from(instance.disk_gib))
    .bind(json(&instance.ssh_keys))
    .bind(instance.state)
    .bind(instance.created_at.0)
    .bind(i64::from(instance.max_snapshots))
    .bind(i64::from(instance.max_backups))
    .bind((instance.first_boot != FirstBoot::default()).then(|| json(&instance.first_boot)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what can change of an instance, if it still is in the state it was read in.
pub(super) async fn save(
    tx: &mut AnyConnection,
    at: UnixMillis,
    was: InstanceState,
    instance: &Instance,
) -> Result<(), DbError> {
    let millis = |time: Option<UnixMillis>| time.map(|at| at.0);
    let done = sqlx::query(
        "UPDATE instances SET
             state = $3, reason = $4, node_id = $5, provisioning_order_id = $6, attempts = $7, tried_nodes = $8,
             host_keys = $9, assigned_at = $10, built_at = $11, usable_at = $12, retired_at = $13, purge_at = $14,
             purged_at = $15, updated_at = $16
         WHERE id = $1 AND state = $2",
    )
    .bind(instance.id.to_string())
    .bind(was)
    .bind(instance.state)
    .bind(&instance.reason)
    .bind(opt_id(instance.node.as_ref()))
    .bind(opt_id(instance.provisioning_order.as_ref()))
    .bind(i64::from(instance.attempts))
    .bind(json(&instance.tried_nodes))
    .bind(json(&instance.host_keys))
    .bind(millis(instance.assigned_at))
    .bind(millis(instance.built_at))
    .bind(millis(instance.usable_at))
    .bind(millis(instance.retired_at))
    .bind(millis(instance.purge_at))
    .bind(millis(instance.purged_at))
    .bind(at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Writes from which image its disk was made anew, and the host keys that its new system showed.
pub(super) async fn put_image(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    image: &ImageChoice,
    host_keys: &Vec<String>,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE instances SET image_code = $2, image_digest = $3, login_user = $4, host_keys = $5, updated_at = $6
         WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(&image.code)
    .bind(&image.digest)
    .bind(&image.login_user)
    .bind(json(host_keys))
    .bind(at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Writes the size that its node has given it, and what goes with its plan.
pub(super) async fn put_size(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    size: &Size,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE instances SET plan_code = $2, vcpu = $3, memory_mib = $4, disk_gib = $5, snapshots = $6, backups = $7,
             updated_at = $8
         WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(&size.plan)
    .bind(i64::from(size.vcpu))
    .bind(i64::from(size.memory_mib))
    .bind(i64::from(size.disk_gib))
    .bind(i64::from(size.snapshots))
    .bind(i64::from(size.backups))
    .bind(at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Writes the name that its node has given it.
pub(super) async fn put_hostname(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    name: &Hostname,
) -> Result<(), DbError> {
    let query = sqlx::query("UPDATE instances SET hostname = $2, updated_at = $3 WHERE id = $1");
    one_row(query.bind(id.to_string()).bind(name.as_str()).bind(at.0).execute(tx).await?)
}

/// Writes what was seen, unless something newer was seen already; gives the state it is in, and its row is this
/// transaction's from then on. `seen_at` is by the node's clock, `now` by ours: nothing is seen later than now, and what
/// stands there from a time to come was written while our clock was wrong.
pub(super) async fn put_observed(
    tx: &mut AnyConnection,
    id: InstanceId,
    node: NodeId,
    power: &str,
    seen_at: UnixMillis,
    now: UnixMillis,
) -> Result<Option<InstanceState>, DbError> {
    let row = sqlx::query(
        "UPDATE instances SET observed_state = $3, observed_at = $4
         WHERE id = $1 AND node_id = $2 AND (observed_at IS NULL OR observed_at <= $4 OR observed_at > $5)
         RETURNING id, state",
    )
    .bind(id.to_string())
    .bind(node.to_string())
    .bind(power)
    .bind(seen_at.min(now).0)
    .bind(now.0)
    .fetch_optional(tx)
    .await?;
    row.map(|row| Cols::of("instances", &row).get("state")).transpose()
}

/// The instance, and nobody else changes it until this transaction ends.
pub(super) async fn get_to_change(
    tx: &mut AnyConnection,
    id: InstanceId,
) -> Result<Option<Instance>, DbError> {
    db::lock(tx, "instance", id).await?;
    get(tx, id).await
}

pub(super) async fn get(connection: &mut AnyConnection, id: InstanceId) -> Result<Option<Instance>, DbError> {
    let row = sqlx::query(select_instances!("WHERE id = $1"))
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn by_order(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Instance>, DbError> {
    let row = sqlx::query(select_instances!("WHERE order_id = $1"))
        .bind(order.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Instance>, DbError> {
    let rows = sqlx::query(select_instances!(
        "WHERE account_id = $1 AND state NOT IN ('released', 'purged')
         ORDER BY created_at DESC, id LIMIT 500"
    ))
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Those of an account's servers that are paid and not gone, newest first: how many there are.
pub(super) async fn count_paid(connection: &mut AnyConnection, account: AccountId) -> Result<u32, DbError> {
    let row = sqlx::query(
        "SELECT count(*) AS total FROM instances
         WHERE account_id = $1 AND state NOT IN ('released', 'purged', 'requested')",
    )
    .bind(account.to_string())
    .fetch_one(connection)
    .await?;
    Cols::of("instances", &row).num("total")
}

/// So many of those that [`count_paid`] counts, without so many of the newest.
pub(super) async fn paid_of_account(
    connection: &mut AnyConnection,
    account: AccountId,
    (limit, skipped): (i64, i64),
) -> Result<Vec<Instance>, DbError> {
    let rows = sqlx::query(select_instances!(
        "WHERE account_id = $1 AND state NOT IN ('released', 'purged', 'requested')
         ORDER BY created_at DESC, id LIMIT $2 OFFSET $3"
    ))
    .bind(account.to_string())
    .bind(limit)
    .bind(skipped)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Servers of an account that wait for their payment, newest first: the order and the name.
pub(super) async fn unpaid_of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<(OrderId, String)>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id, hostname FROM instances WHERE account_id = $1 AND state = 'requested'
         ORDER BY created_at DESC, id",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("instances", row);
            Ok((row.id("order_id")?, row.text("hostname")?))
        })
        .collect()
}

/// What may change in the list of an account's servers, and nothing else of them: it is asked for every second or so by
/// each browser that shows the list.
pub(super) async fn states_of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<(InstanceState, Option<String>, Option<UnixMillis>)>, DbError> {
    let rows = sqlx::query(
        "SELECT id, state, observed_state, observed_at FROM instances
         WHERE account_id = $1 AND state NOT IN ('released', 'purged') ORDER BY created_at DESC, id",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("instances", row);
            Ok((row.get("state")?, row.get("observed_state")?, row.opt_millis("observed_at")?))
        })
        .collect()
}

/// The servers of a node that something is being done with, in the order in which they are locked.
pub(super) async fn unsettled_on(
    connection: &mut AnyConnection,
    node: NodeId,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT id FROM instances WHERE node_id = $1 AND state NOT IN ('running', 'stopped', 'purged') ORDER BY id",
    )
    .bind(node.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instances", row).id("id")).collect()
}

/// The servers of a node of which a VM is, or may be, there: built and not gone.
pub(super) async fn built_on(
    connection: &mut AnyConnection,
    node: NodeId,
) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT id FROM instances WHERE node_id = $1
             AND state IN ('running', 'stopped', 'retiring', 'retired', 'purging') ORDER BY id",
    )
    .bind(node.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instances", row).id("id")).collect()
}

/// How many names an account has used, for suggesting the next.
pub(super) async fn names_of(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query_scalar(
        "SELECT hostname FROM instances WHERE account_id = $1 ORDER BY created_at DESC LIMIT 500",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Servers whose disk may go now, and their nodes; the longest due first.
pub(super) async fn due_for_purge(
    connection: &mut AnyConnection,
    now: UnixMillis,
) -> Result<Vec<(InstanceId, Option<NodeId>)>, DbError> {
    // A node takes few at a time; those of others must not wait behind them.
    let rows = sqlx::query(
        "SELECT id, node_id FROM (SELECT id, node_id, purge_at,
                 ROW_NUMBER() OVER (PARTITION BY node_id ORDER BY purge_at, id) AS place
             FROM instances WHERE state = 'retired' AND purge_at <= $1) AS due
         WHERE place <= 20 ORDER BY purge_at, id",
    )
    .bind(now.0)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("instances", row);
            Ok((row.id("id")?, row.opt_id("node_id")?))
        })
        .collect()
}

/// When the disks of retired servers go.
pub(super) async fn purges(
    connection: &mut AnyConnection,
) -> Result<BTreeMap<InstanceId, UnixMillis>, DbError> {
    let rows = sqlx::query(
        "SELECT id, purge_at FROM instances WHERE state = 'retired' AND purge_at IS NOT NULL
         ORDER BY purge_at, id LIMIT 5000",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("instances", row);
            Ok((row.id("id")?, row.millis("purge_at")?))
        })
        .collect()
}

/// Servers whose ending has to be pushed on: the order for it ended without success.
pub(super) async fn ending(connection: &mut AnyConnection) -> Result<Vec<Instance>, DbError> {
    let rows = sqlx::query(select_instances!(
        "WHERE state IN ('retiring', 'purging') ORDER BY updated_at LIMIT 5000"
    ))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Notes that a server is to end; false when that was noted before.
pub(super) async fn insert_ending(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    by: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO instance_endings (instance_id, requested_by, requested_at) VALUES ($1, $2, $3)
         ON CONFLICT (instance_id) DO NOTHING",
    )
    .bind(id.to_string())
    .bind(by)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Who wanted a server to end, if anybody did.
pub(super) async fn ending_of(
    connection: &mut AnyConnection,
    id: InstanceId,
) -> Result<Option<String>, DbError> {
    let query = sqlx::query_scalar("SELECT requested_by FROM instance_endings WHERE instance_id = $1");
    Ok(query.bind(id.to_string()).fetch_optional(connection).await?)
}

// ---- actions --------------------------------------------------------------------------------------

macro_rules! select_actions {
    ($rest:literal) => {
        concat!(
            "SELECT id, instance_id, kind, about, state, provisioning_order_id, requested_by, error, started_at, finished_at
             FROM instance_actions ",
            $rest
        )
    };
}

fn read_action(row: &AnyRow) -> Result<ActionRow, DbError> {
    let row = Cols::of("instance_actions", row);
    Ok(ActionRow {
        id: row.id("id")?,
        instance: row.id("instance_id")?,
        kind: row.text("kind")?,
        about: row.get("about")?,
        state: row.get("state")?,
        provisioning_order: row.opt_id("provisioning_order_id")?,
        requested_by: row.text("requested_by")?,
        error: row.get("error")?,
        started_at: row.millis("started_at")?,
        finished_at: row.opt_millis("finished_at")?,
    })
}

/// Writes an action down; one provisioning order is one action.
pub(super) async fn insert_action(tx: &mut AnyConnection, action: &ActionRow) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO instance_actions
             (id, instance_id, kind, state, provisioning_order_id, requested_by, error, started_at, finished_at, about)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (provisioning_order_id) DO NOTHING",
    )
    .bind(action.id.to_string())
    .bind(action.instance.to_string())
    .bind(&action.kind)
    .bind(action.state)
    .bind(opt_id(action.provisioning_order.as_ref()))
    .bind(&action.requested_by)
    .bind(&action.error)
    .bind(action.started_at.0)
    .bind(action.finished_at.map(|at| at.0))
    .bind(&action.about)
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends the action behind a provisioning order. What the node says last is what it came to, also when the order had
/// been given up before.
pub(super) async fn finish_action(
    tx: &mut AnyConnection,
    at: UnixMillis,
    provisioning_order: ProvisioningOrderId,
    state: ActionState,
    error: Option<&str>,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE instance_actions SET state = $2, error = $3, finished_at = $4
         WHERE provisioning_order_id = $1 AND state <> $2",
    )
    .bind(provisioning_order.to_string())
    .bind(state)
    .bind(error)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn action(
    connection: &mut AnyConnection,
    id: ActionId,
) -> Result<Option<ActionRow>, DbError> {
    let row =
        sqlx::query(select_actions!("WHERE id = $1")).bind(id.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read_action).transpose()
}

/// The action about an instance that has not ended.
pub(super) async fn open_action(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<ActionRow>, DbError> {
    let query = sqlx::query(select_actions!(
        "WHERE instance_id = $1 AND state = 'running' ORDER BY started_at DESC, id DESC LIMIT 1"
    ));
    let row = query.bind(instance.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read_action).transpose()
}

/// When the last of an instance's actions of two kinds ended, if it did.
pub(super) async fn last_of(
    connection: &mut AnyConnection,
    instance: InstanceId,
    kinds: (&'static str, &'static str),
) -> Result<Option<ActionRow>, DbError> {
    let query = sqlx::query(select_actions!(
        "WHERE instance_id = $1 AND kind IN ($2, $3) ORDER BY started_at DESC, id DESC LIMIT 1"
    ));
    let row = query.bind(instance.to_string()).bind(kinds.0).bind(kinds.1).fetch_optional(connection).await?;
    row.as_ref().map(read_action).transpose()
}

/// How many of an instance's actions of a kind were begun since then and worked out.
pub(super) async fn successes_since(
    connection: &mut AnyConnection,
    instance: InstanceId,
    kind: &'static str,
    since: UnixMillis,
) -> Result<usize, DbError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM instance_actions
         WHERE instance_id = $1 AND kind = $2 AND state = 'succeeded' AND started_at >= $3",
    )
    .bind(instance.to_string())
    .bind(kind)
    .bind(since.0)
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// An instance's newest actions.
pub(super) async fn actions(
    connection: &mut AnyConnection,
    instance: InstanceId,
    limit: i64,
) -> Result<Vec<ActionRow>, DbError> {
    let rows =
        sqlx::query(select_actions!("WHERE instance_id = $1 ORDER BY started_at DESC, id DESC LIMIT $2"))
            .bind(instance.to_string())
            .bind(limit)
            .fetch_all(connection)
            .await?;
    rows.iter().map(read_action).collect()
}

// After the macros that it uses.
mod lists;

pub(super) use lists::{by_ids, disk_built_on, open_actions};
