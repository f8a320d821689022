//! `/api/v1/servers/{id}/firewall`: the customer's rules as a whole.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use super::{
    actions::{ActionBody, action_body, problem},
    mine,
};
use crate::{
    api::{Caller, FieldProblem, Input, Named, Problem},
    app::App,
    instances::{
        ActError, Instance, Verb, act,
        firewall::{self, Written, WrittenRule, Wrong},
        store, wishes,
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/servers/{id}/firewall", get(show).put(put))
}

pub(super) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(show, put), components(schemas(RuleBody, FirewallBody, NewFirewall)))]
    struct Docs;
    Docs::openapi()
}

/// One rule. The first that fits a packet decides.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    /// `in` or `out`, seen from the server.
    direction: String,
    /// `accept`, `drop` (lost without a word) or `reject` (its sender is told).
    verdict: String,
    /// `tcp`, `udp`, `icmp` or `icmpv6`; every one if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    /// One port such as `22` or a range such as `8000-8100`, of the receiver; all if left out. TCP and UDP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<String>,
    /// Addresses and networks of the other end, at most 32; anybody if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<String>,
}

/// The rules, as they are wished.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewFirewall {
    /// What comes in and fits no rule: `accept`, `drop` or `reject`. What goes out and fits no rule passes.
    inbound: String,
    /// At most 50, in the order in which they are tried.
    rules: Vec<RuleBody>,
}

/// The rules that hold.
#[derive(Debug, Serialize, ToSchema)]
struct FirewallBody {
    /// What comes in and fits no rule.
    inbound: String,
    rules: Vec<RuleBody>,
    /// The change that is under way; until it has succeeded the rules above hold.
    action: Option<ActionBody>,
}

fn rule_body(rule: WrittenRule) -> RuleBody {
    let given = |text: String| (!text.is_empty()).then_some(text);
    RuleBody {
        direction: rule.direction,
        verdict: rule.verdict,
        protocol: given(rule.protocol),
        ports: given(rule.ports),
        peers: rule.peers,
    }
}

fn written(new: NewFirewall) -> Written {
    let rule = |rule: RuleBody| WrittenRule {
        direction: rule.direction,
        verdict: rule.verdict,
        protocol: rule.protocol.unwrap_or_default(),
        ports: rule.ports.unwrap_or_default(),
        peers: rule.peers,
    };
    Written { inbound: new.inbound, rules: new.rules.into_iter().map(rule).collect() }
}

fn wrong(wrong: Wrong) -> FieldProblem {
    let field = match wrong.rule {
        Some(rule) => format!("rules[{rule}].{}", wrong.field),
        None => wrong.field.to_owned(),
    };
    FieldProblem { field, code: wrong.code.to_owned(), message: wrong.message.to_owned() }
}

async fn body(connection: &mut AnyConnection, instance: &Instance) -> Result<FirewallBody, Problem> {
    let held = wishes(connection, instance).await?.applied.firewall;
    let Written { inbound, rules } = firewall::write(held.as_ref());
    let action =
        store::open_action(connection, instance.id).await?.filter(|action| action.kind == "firewall");
    let action = match action {
        Some(action) => Some(action_body(connection, action).await?),
        None => None,
    };
    Ok(FirewallBody { inbound, rules: rules.into_iter().map(rule_body).collect(), action })
}

/// Shows the firewall rules that hold.
#[utoipa::path(get, path = "/api/v1/servers/{id}/firewall", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = FirewallBody), (status = 404, body = Problem)))]
async fn show(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<FirewallBody>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    Ok(Json(body(&mut connection, &instance).await?))
}

/// Puts firewall rules in the place of those that hold, as a whole. 200 when they hold already, 202 when the node is
/// being told; look at `action` for the progress.
#[utoipa::path(put, path = "/api/v1/servers/{id}/firewall", tag = "servers", params(("id" = String, Path)),
    request_body = NewFirewall,
    responses((status = 200, body = FirewallBody), (status = 202, body = FirewallBody), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn put(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
    Input(new): Input<NewFirewall>,
) -> Result<(StatusCode, Json<FirewallBody>), Problem> {
    let instance = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?
    };
    let rules =
        firewall::read(&written(new)).map_err(|all| Problem::fields(all.into_iter().map(wrong).collect()))?;
    let status = match act(&app, instance.id, Verb::Firewall(rules), &caller.principal.actor(), None).await {
        Ok(_) => StatusCode::ACCEPTED,
        Err(ActError::SoAlready) => StatusCode::OK,
        Err(error) => return Err(problem(error)),
    };
    let mut connection = app.db.read().await?;
    Ok((status, Json(body(&mut connection, &instance).await?)))
}
