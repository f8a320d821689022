//! The list envelope with its cursors, filters by time, and `expand[]`.

use serde_json::{Value, json};

use super::{
    api::Call,
    fault::Fault,
    form::Params,
    world::{World, int, public, text},
};

/// One page of the objects of `kind` that pass the filter, newest first.
///
/// # Errors
/// A limit outside 1…100, or a cursor that names nothing.
pub(crate) fn page(
    world: &World,
    call: &Call,
    kind: &str,
    url: &str,
    filter: impl Fn(&Value) -> bool,
) -> Result<Value, Fault> {
    let found: Vec<&Value> = world
        .all(kind)
        .into_iter()
        .filter(|value| created_matches(&call.params, "created", int(value, "created")) && filter(value))
        .collect();
    slice(&call.params, kind, url, &found, |id| world.get(kind, id).is_some())
}

/// Cuts one page out of the found objects.
pub(crate) fn slice(
    params: &Params,
    kind: &str,
    url: &str,
    found: &[&Value],
    exists: impl Fn(&str) -> bool,
) -> Result<Value, Fault> {
    let limit = params.int("limit").unwrap_or(10);
    if !(1..=100).contains(&limit) {
        return Err(Fault::invalid("Invalid integer: limit must be between 1 and 100", Some("limit")));
    }
    let limit = usize::try_from(limit).unwrap_or(10);
    let place = |param: &str| -> Result<Option<usize>, Fault> {
        let Some(id) = params.text(param) else { return Ok(None) };
        match found.iter().position(|value| text(value, "id") == id) {
            Some(index) => Ok(Some(index)),
            // A cursor that the filter hides is a mistake Stripe forgives only if the object exists.
            None if exists(id) => Ok(Some(found.len())),
            None => Err(Fault::no_such(kind, id, param)),
        }
    };
    let (data, has_more) = match (place("starting_after")?, place("ending_before")?) {
        (_, Some(end)) => {
            let end = end.min(found.len());
            let start = end.saturating_sub(limit);
            (&found[start..end], start > 0)
        }
        (after, None) => {
            let start = after.map_or(0, |index| (index + 1).min(found.len()));
            let end = (start + limit).min(found.len());
            (&found[start..end], end < found.len())
        }
    };
    let data: Vec<Value> = data.iter().map(|value| public(value)).collect();
    Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
}

/// Whether a time passes `created`, `created[gte]` and its kin.
pub(crate) fn created_matches(params: &Params, name: &str, at: i64) -> bool {
    let bound = |suffix: &str| params.int(&format!("{name}{suffix}"));
    bound("").is_none_or(|exact| exact == at)
        && bound(".gt").is_none_or(|low| at > low)
        && bound(".gte").is_none_or(|low| at >= low)
        && bound(".lt").is_none_or(|high| at < high)
        && bound(".lte").is_none_or(|high| at <= high)
}

/// Replaces ids by the objects they name along each `expand[]` path.
///
/// # Errors
/// A path deeper than four levels, as Stripe has it.
pub(crate) fn expand(world: &World, value: &mut Value, paths: &[&str]) -> Result<(), Fault> {
    for path in paths {
        let parts: Vec<&str> = path.split('.').collect();
        if parts.len() > 4 {
            return Err(Fault::invalid(
                "You cannot expand more than 4 levels of a property.",
                Some("expand"),
            ));
        }
        walk(world, value, &parts);
    }
    Ok(())
}

fn walk(world: &World, value: &mut Value, path: &[&str]) {
    if let Value::Array(items) = value {
        items.iter_mut().for_each(|item| walk(world, item, path));
        return;
    }
    let Some((first, rest)) = path.split_first() else { return };
    if let Some(included) = includable(world, value, first) {
        value[*first] = included;
    }
    let Some(member) = value.get_mut(*first) else { return };
    match member.as_array_mut() {
        Some(items) => items.iter_mut().for_each(|item| replace(world, item)),
        None => replace(world, member),
    }
    walk(world, member, rest);
}

/// Puts an object in the place of its id.
fn replace(world: &World, value: &mut Value) {
    if let Some(object) = value.as_str().and_then(|id| world.any(id)) {
        *value = public(object);
    }
}

/// Lists that Stripe shows only when asked for.
fn includable(world: &World, value: &Value, member: &str) -> Option<Value> {
    let id = text(value, "id");
    let (kind, key, url) = match (text(value, "object"), member) {
        ("checkout.session", "line_items") => {
            return world
                .get("checkout.session", id)
                .and_then(|session| session.pointer("/_sim/line_items"))
                .cloned();
        }
        ("invoice", "payments") => ("invoice_payment", "invoice", "/v1/invoice_payments"),
        ("charge", "refunds") => ("refund", "charge", "/v1/refunds"),
        ("customer", "subscriptions") => ("subscription", "customer", "/v1/subscriptions"),
        _ => return None,
    };
    let data: Vec<Value> =
        world.all(kind).into_iter().filter(|item| text(item, key) == id).map(public).collect();
    Some(json!({ "object": "list", "data": data, "has_more": false, "url": url }))
}
