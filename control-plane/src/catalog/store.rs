//! SQL of the catalogue.

use ez_protocol::UnixMillis;
use sqlx::{AnyConnection, any::AnyRow};

use super::coupons::{Coupon, PromotionCode};
use super::model::{Image, ImageEntry, Iso, IsoEntry, Plan, PlanEntry, Price, PriceEntry};
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
        setup_minor: row.int("setup_minor")?,
        trial_days: row.num("trial_days")?,
        on_sale: row.flag("on_sale")?,
        stripe_price_id: row.get("stripe_price_id")?,
        stripe_setup_price_id: row.get("stripe_setup_price_id")?,
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
        "SELECT id, plan_code, billing_interval, currency, amount_minor, setup_minor, trial_days, on_sale,
                stripe_price_id, stripe_setup_price_id
         FROM prices
         ORDER BY plan_code, position, id",
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

/// Writes a price under its id. One that exists with another amount or set-up fee is not touched: `false`.
pub(super) async fn put_price(
    tx: &mut AnyConnection,
    at: UnixMillis,
    (id, position): (&str, i64),
    plan: &str,
    price: &PriceEntry,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO prices
             (id, plan_code, billing_interval, currency, amount_minor, on_sale, updated_at, setup_minor, trial_days,
              position)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE SET
             on_sale = 1, updated_at = excluded.updated_at, trial_days = excluded.trial_days,
             position = excluded.position
         WHERE prices.amount_minor = excluded.amount_minor AND prices.setup_minor = excluded.setup_minor",
    )
    .bind(id)
    .bind(plan)
    .bind(price.interval)
    .bind(&price.currency)
    .bind(price.amount_minor)
    .bind(at.0)
    .bind(price.setup_minor)
    .bind(i64::from(price.trial_days))
    .bind(position)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The newest version of what a plan costs per interval and in a currency, on sale or not.
pub(super) async fn newest_price(
    connection: &mut AnyConnection,
    plan: &str,
    price: &PriceEntry,
) -> Result<Option<Price>, DbError> {
    let same = |known: &Price| {
        known.plan_code == plan && known.interval == price.interval && known.currency == price.currency
    };
    Ok(prices(connection).await?.into_iter().filter(same).max_by_key(Price::version))
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

pub(super) async fn set_stripe_setup(tx: &mut AnyConnection, id: &str, price: &str) -> Result<(), DbError> {
    let query = sqlx::query("UPDATE prices SET stripe_setup_price_id = $2 WHERE id = $1");
    one_row(query.bind(id).bind(price).execute(tx).await?)
}

fn read_coupon(row: &AnyRow) -> Result<Coupon, DbError> {
    let row = Cols::of("coupons", row);
    Ok(Coupon {
        id: row.text("id")?,
        code: row.text("code")?,
        name: row.text("name")?,
        percent_off: row.get::<Option<i64>>("percent_off")?.and_then(|percent| u32::try_from(percent).ok()),
        amount_off_minor: row.get("amount_off_minor")?,
        currency: row.get("currency")?,
        duration: row.get("duration")?,
        months: row.get::<Option<i64>>("months")?.and_then(|months| u32::try_from(months).ok()),
        plans: row.json("plans")?,
        on_sale: row.flag("on_sale")?,
    })
}

pub(super) async fn coupons(connection: &mut AnyConnection) -> Result<Vec<Coupon>, DbError> {
    let rows = sqlx::query(
        "SELECT id, code, name, percent_off, amount_off_minor, currency, duration, months, plans, on_sale
         FROM coupons ORDER BY position, id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read_coupon).collect()
}

pub(super) async fn promotion_codes(connection: &mut AnyConnection) -> Result<Vec<PromotionCode>, DbError> {
    let rows = sqlx::query(
        "SELECT code, coupon_id, first_purchase, max_uses, expires_at, on_sale FROM promotion_codes ORDER BY code",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("promotion_codes", row);
            Ok(PromotionCode {
                code: row.text("code")?,
                coupon_id: row.text("coupon_id")?,
                first_purchase: row.flag("first_purchase")?,
                max_uses: row.get("max_uses")?,
                expires_at: row.opt_millis("expires_at")?,
                on_sale: row.flag("on_sale")?,
            })
        })
        .collect()
}

/// Takes all versions of a coupon and their codes out of offer; those of the file are put back.
pub(super) async fn withdraw_coupon(
    tx: &mut AnyConnection,
    at: UnixMillis,
    code: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE promotion_codes SET on_sale = 0, updated_at = $2
         WHERE on_sale = 1 AND coupon_id IN (SELECT id FROM coupons WHERE code = $1)",
    )
    .bind(code)
    .bind(at.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE coupons SET on_sale = 0, updated_at = $2 WHERE code = $1 AND on_sale = 1")
        .bind(code)
        .bind(at.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// Writes a version of a coupon. Only its name, its place and whether it is offered ever change.
pub(super) async fn put_coupon(
    tx: &mut AnyConnection,
    at: UnixMillis,
    position: i64,
    coupon: &Coupon,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO coupons
             (id, code, name, percent_off, amount_off_minor, currency, duration, months, plans, position, on_sale,
              updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, position = excluded.position, on_sale = excluded.on_sale,
             updated_at = excluded.updated_at",
    )
    .bind(&coupon.id)
    .bind(&coupon.code)
    .bind(&coupon.name)
    .bind(coupon.percent_off.map(i64::from))
    .bind(coupon.amount_off_minor)
    .bind(&coupon.currency)
    .bind(coupon.duration)
    .bind(coupon.months.map(i64::from))
    .bind(serde_json::to_string(&coupon.plans).unwrap_or_default())
    .bind(position)
    .bind(i64::from(coupon.on_sale))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn put_promotion_code(
    tx: &mut AnyConnection,
    at: UnixMillis,
    code: &PromotionCode,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO promotion_codes (code, coupon_id, first_purchase, max_uses, expires_at, on_sale, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (code) DO UPDATE SET
             coupon_id = excluded.coupon_id, first_purchase = excluded.first_purchase,
             max_uses = excluded.max_uses, expires_at = excluded.expires_at, on_sale = excluded.on_sale,
             updated_at = excluded.updated_at",
    )
    .bind(&code.code)
    .bind(&code.coupon_id)
    .bind(i64::from(code.first_purchase))
    .bind(code.max_uses)
    .bind(code.expires_at.map(|at| at.0))
    .bind(i64::from(code.on_sale))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}
