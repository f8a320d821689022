//! `/access/users/{userid}/token`.

use serde_json::{Value, json};

use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Token, sha256_hex};

const TOKEN: &str = "/access/users/{userid}/token/{tokenid}";
const FIELDS: &str = "comment? s\nexpire? i 0..\nprivsep? b";

pub(super) fn calls() -> Vec<Call> {
    const OWN: Check = Check::Own(may_manage);
    vec![
        call("GET", "/access/users/{userid}/token", &[], OWN, list),
        call("GET", TOKEN, &[], OWN, get),
        call("POST", TOKEN, &[FIELDS], OWN, create),
        call(
            "PUT",
            TOKEN,
            &[FIELDS, "delete? s fmt=pve-configid-list since9\nregenerate? b since9"],
            OWN,
            update,
        ),
        call("DELETE", TOKEN, &[], OWN, remove),
    ]
}

/// A user manages his own tokens, but not by way of a token (unless that is root's).
fn may_manage(a: &Access<'_>, caller: &Caller, params: &Params) -> Result<(), ApiError> {
    let own = caller.user == params.text("userid") && caller.token.is_none();
    if own || a.may(caller, "/access/groups", "User.Modify") {
        Ok(())
    } else {
        Err(ApiError::Forbidden(None))
    }
}

fn info(token: &Token) -> Value {
    let mut out = json!({"privsep": u8::from(token.privsep), "expire": token.expire});
    if let Some(comment) = &token.comment {
        out["comment"] = comment.as_str().into();
    }
    out
}

fn id(ctx: &Ctx) -> String {
    format!("{}!{}", ctx.params.text("userid"), ctx.params.text("tokenid"))
}

fn missing(ctx: &Ctx) -> ApiError {
    ApiError::died(format!(
        "no such token '{}' for user '{}'",
        ctx.params.text("tokenid"),
        ctx.params.text("userid")
    ))
}

async fn list(ctx: Ctx) -> ApiResult {
    let prefix = format!("{}!", ctx.params.text("userid"));
    ctx.cluster
        .read(|s| {
            let mine = s.tokens.iter().filter_map(|(k, t)| k.strip_prefix(&prefix).map(|name| (name, t)));
            let rows = mine.map(|(name, t)| {
                let mut row = info(t);
                row["tokenid"] = name.into();
                row
            });
            Ok(Value::Array(rows.collect()).into())
        })
        .await
}

async fn get(ctx: Ctx) -> ApiResult {
    ctx.cluster.read(|s| s.tokens.get(id(&ctx)).map(|t| info(t).into()).ok_or_else(|| missing(&ctx))).await
}

async fn create(ctx: Ctx) -> ApiResult {
    let id = id(&ctx);
    let p = &ctx.params;
    ctx.cluster
        .change("token.create", |s| {
            if !s.users.contains(p.text("userid")) {
                return Err(ApiError::died(format!("no such user ('{}')", p.text("userid"))));
            }
            if s.tokens.contains(&id) {
                return Err(ApiError::parameter("tokenid", "Token already exists."));
            }
            let value = s.draw_uuid();
            let token = Token {
                secret_sha256: sha256_hex(value.as_bytes()),
                privsep: p.get("privsep").is_none_or(|v| v == "1"),
                expire: p.number("expire").unwrap_or(0),
                comment: p.get("comment").map(str::to_owned),
            };
            // What was given comes back as text, the default as a number.
            let mut shown = json!({"privsep": p.get("privsep").map_or_else(|| Value::from(1), Value::from)});
            if let Some(comment) = &token.comment {
                shown["comment"] = comment.as_str().into();
            }
            if p.contains("expire") {
                shown["expire"] = p.text("expire").into();
            }
            s.tokens.insert(&id, token);
            Ok(json!({"full-tokenid": id, "info": shown, "value": value}).into())
        })
        .await
}

async fn update(ctx: Ctx) -> ApiResult {
    let id = id(&ctx);
    let p = &ctx.params;
    ctx.cluster
        .change("token.update", |s| {
            let fresh = p.flag("regenerate").then(|| s.draw_uuid());
            let Some(token) = s.tokens.get_mut(&id) else { return Err(missing(&ctx)) };
            if let Some(v) = p.get("privsep") {
                token.privsep = v == "1";
            }
            if let Some(v) = p.number("expire") {
                token.expire = v;
            }
            if let Some(v) = p.get("comment") {
                token.comment = Some(v.to_owned());
            }
            if p.list("delete").iter().any(|d| d == "comment") {
                token.comment = None;
            }
            let mut out = info(token);
            if let Some(value) = fresh {
                token.secret_sha256 = sha256_hex(value.as_bytes());
                out = json!({"full-tokenid": id, "info": out, "value": value});
            }
            Ok(out.into())
        })
        .await
}

async fn remove(ctx: Ctx) -> ApiResult {
    let id = id(&ctx);
    ctx.cluster
        .change("token.remove", |s| {
            if s.tokens.remove(&id).is_none() {
                return Err(missing(&ctx));
            }
            s.acls.retain(|_, a| a.who != id);
            Ok(())
        })
        .await?;
    null()
}
