//! SQL of the catalogue.

use ez_protocol::UnixMillis;
use sqlx::{AnyConnection, any::AnyRow};

use super::model::{Image, ImageEntry, Iso, IsoEntry, Plan, PlanEntry, Price, PriceEntry, price_id};
use crate::db::{Cols, DbError, one_row};

fn read_plan(row: &AnyRow) -> Result<Plan, DbError> {
    let row = Cols::of("plans", row);
    Ok(Plan {
        code: row.text("code")?,
        name: row.text("name")?,
        vcpu: row.num("vcpu")?,
        memory_mib: row.num("memory_mib")?,
        disk_gib: row.num("disk_gib")?,
        traffic_gib: row.num("traffic_gib")?,
        snapshots: row.num("snapshots")?,
        backups: row.num("backups")?,
        on_sale: row.flag("on_sale")?,
        stripe_product_id: row.get("stripe_product_id")?,
    })
}

fn read_price(row: &AnyRow) -> Result<Price, DbError> {
    let row = Cols::of("prices", row);
    Ok(Price {
        id: row.text("id")?,
        plan_code: row.text("plan_code")?,
        interval: row.get("billing_interval")?,
        currency: row.text("currency")?,
        amount_minor: row.int("amount_minor")?,
        on_sale: row.flag("on_sale")?,
        stripe_price_id: row.get("stripe_price_id")?,
    })
}

fn read_image(row: &AnyRow) -> Result<Image, DbError> {
    let row = Cols::of("images", row);
    Ok(Image {
        code: row.text("code")?,
        name: row.text("name")?,
        version: row.text("version")?,
        digest: row.text("digest")?,
        login_user: row.text("login_user")?,
        rescue: row.flag("rescue")?,
        on_sale: row.flag("on_sale")?,
        url: row.get("url")?,
        family: row.opt_id("family")?,
        recipes: match row.get::<Option<String>>("recipes")? {
            Some(_) => row.json("recipes")?,
            None => Vec::new(),
        },
    })
}

fn read_iso(row: &AnyRow) -> Result<Iso, DbError> {
    let row = Cols::of("isos", row);
    Ok(Iso { file: row.text("file")?, name: row.text("name")?, on_sale: row.flag("on_sale")? })
}

pub(super) async fn plans(connection: &mut AnyConnection) -> Result<Vec<Plan>, DbError> {
    let rows = sqlx::query(
        "SELECT code, name, vcpu, memory_mib, disk_gib, traffic_gib, snapshots, backups, on_sale, stripe_product_id
         FROM plans
         ORDER BY position, code",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_plan).collect()
}

pub(super) async fn prices(connection: &mut AnyConnection) -> Result<Vec<Price>, DbError> {
    let rows = sqlx::query(
        "SELECT id, plan_code, billing_interval, currency, amount_minor, on_sale, stripe_price_id
         FROM prices
         ORDER BY plan_code, billing_interval, currency, id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_price).collect()
}

pub(super) async fn images(connection: &mut AnyConnection) -> Result<Vec<Image>, DbError> {
    let rows = sqlx::query(
        "SELECT code, name, version, digest, login_user, rescue, on_sale, url, family, recipes
         FROM images
         ORDER BY position, code",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_image).collect()
}

pub(super) async fn isos(connection: &mut AnyConnection) -> Result<Vec<Iso>, DbError> {
    let query = sqlx::query("SELECT file, name, on_sale FROM isos ORDER BY position, file");
    query.fetch_all(connection).await?.iter().map(read_iso).collect()
}

pub(super) async fn put_iso(
    tx: &mut AnyConnection,
    at: UnixMillis,
    position: i64,
    iso: &IsoEntry,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO isos (file, name, position, on_sale, updated_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (file) DO UPDATE SET
             name = excluded.name, position = excluded.position, on_sale = excluded.on_sale,
             updated_at = excluded.updated_at",
    )
    .bind(&iso.file)
    .bind(&iso.name)
    .bind(position)
    .bind(i64::from(iso.on_sale))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn put_plan(
    tx: &mut AnyConnection,
    at: UnixMillis,
    position: i64,
    plan: &PlanEntry,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO plans
             (code, name, vcpu, memory_mib, disk_gib, traffic_gib, position, on_sale, updated_at, snapshots, backups)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (code) DO UPDATE SET
             name = excluded.name, vcpu = excluded.vcpu, memory_mib = excluded.memory_mib,
             disk_gib = excluded.disk_gib, traffic_gib = excluded.traffic_gib, position = excluded.position,
             on_sale = excluded.on_sale, updated_at = excluded.updated_at, snapshots = excluded.snapshots,
             backups = excluded.backups",
    )
    .bind(&plan.code)
    .bind(&plan.name)
    .bind(i64::from(plan.vcpu))
    .bind(i64::from(plan.memory_mib))
    .bind(i64::from(plan.disk_gib))
    .bind(i64::try_from(plan.traffic_gib).unwrap_or(i64::MAX))
    .bind(position)
    .bind(i64::from(plan.on_sale))
    .bind(at.0)
    .bind(i64::from(plan.snapshots))
    .bind(i64::from(plan.backups))
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes all prices of a plan off sale; those of the file are put back by [`put_price`].
pub(super) async fn withdraw_prices(
    tx: &mut AnyConnection,
    at: UnixMillis,
    plan: &str,
) -> Result<(), DbError> {
    sqlx::query("UPDATE prices SET on_sale = 0, updated_at = $2 WHERE plan_code = $1 AND on_sale = 1")
        .bind(plan)
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// Writes a price. A price that exists with another amount is not touched: `false`.
pub(super) async fn put_price(
    tx: &mut AnyConnection,
    at: UnixMillis,
    plan: &str,
    price: &PriceEntry,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO prices (id, plan_code, billing_interval, currency, amount_minor, on_sale, updated_at)
         VALUES ($1, $2, $3, $4, $5, 1, $6)
         ON CONFLICT (id) DO UPDATE SET on_sale = 1, updated_at = excluded.updated_at
         WHERE prices.amount_minor = excluded.amount_minor",
    )
    .bind(price_id(plan, price.interval, &price.currency, price.version))
    .bind(plan)
    .bind(price.interval)
    .bind(&price.currency)
    .bind(price.amount_minor)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn put_image(
    tx: &mut AnyConnection,
    at: UnixMillis,
    position: i64,
    image: &ImageEntry,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO images (code, name, version, digest, login_user, position, on_sale, updated_at, url, family, recipes, rescue)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (code) DO UPDATE SET
             name = excluded.name, version = excluded.version, digest = excluded.digest,
             login_user = excluded.login_user, position = excluded.position, on_sale = excluded.on_sale,
             updated_at = excluded.updated_at, url = excluded.url, family = excluded.family,
             recipes = excluded.recipes, rescue = excluded.rescue",
    )
    .bind(&image.code)
    .bind(&image.name)
    .bind(&image.version)
    .bind(&image.digest)
    .bind(&image.login_user)
    .bind(position)
    .bind(i64::from(image.on_sale))
    .bind(at.0)
    .bind(image.url.as_ref().map(ToString::to_string))
    .bind(image.family.map(|family| family.as_str().to_owned()))
    .bind((!image.recipes.is_empty()).then(|| serde_json::to_string(&image.recipes).unwrap_or_default()))
    .bind(i64::from(image.rescue))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn set_stripe_product(
    tx: &mut AnyConnection,
    plan: &str,
    product: &str,
) -> Result<(), DbError> {
    let query = sqlx::query("UPDATE plans SET stripe_product_id = $2 WHERE code = $1");
    one_row(query.bind(plan).bind(product).execute(tx).await?)
}

pub(super) async fn set_stripe_price(tx: &mut AnyConnection, id: &str, price: &str) -> Result<(), DbError> {
    let query = sqlx::query("UPDATE prices SET stripe_price_id = $2 WHERE id = $1");
    one_row(query.bind(id).bind(price).execute(tx).await?)
}
