//! The file format: strict, and every complaint with its line and column.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Spanned;

use super::{At, Planned, Scenario, ScenarioError, Target};
use crate::{
    link_proxy::LinkFault,
    mail::MailFaults,
    pve::{FaultRule, Full, Restart},
    stripe::{ApiRule, WebhookFaults},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    proves: Spanned<String>,
    faults: Spanned<Vec<Spanned<Entry>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    Pve,
    Stripe,
    Mail,
    Link,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageFull {
    storage: String,
    full: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    target: Who,
    node: Option<Spanned<usize>>,
    #[serde(default)]
    at: At,
    rule: Option<Spanned<FaultRule>>,
    restart: Option<Spanned<Restart>>,
    storage_full: Option<Spanned<StorageFull>>,
    webhooks: Option<Spanned<WebhookFaults>>,
    api: Option<Spanned<ApiRule>>,
    smtp: Option<Spanned<MailFaults>>,
    network: Option<Spanned<LinkFault>>,
}

/// A complaint: byte position and reason.
type Complaint = (usize, String);

/// Reads a scenario's text; `path` is for complaints and gives the name the scenario must have.
pub(super) fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let complain = |(at, reason): Complaint| {
        let before = text.get(..at).unwrap_or(text);
        ScenarioError::File {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
            reason,
        }
    };
    let file: File = toml::from_str(text).map_err(|error| {
        complain((error.span().map_or(0, |span| span.start), error.message().trim().to_owned()))
    })?;
    build(path, file).map_err(complain)
}

fn build(path: &Path, file: File) -> Result<Scenario, Complaint> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if file.name.get_ref() != stem {
        return Err((file.name.span().start, format!("`name` must be the file's: {stem}")));
    }
    if !file.proves.get_ref().ends_with('.') {
        return Err((file.proves.span().start, "`proves` must be a sentence, with a full stop".into()));
    }
    if file.faults.get_ref().is_empty() {
        return Err((file.faults.span().start, "a scenario needs at least one fault".into()));
    }
    let faults = file.faults.into_inner().into_iter().map(planned).collect::<Result<_, _>>()?;
    Ok(Scenario { name: file.name.into_inner(), proves: file.proves.into_inner(), faults })
}

/// The request of one entry, which must ask for exactly one thing, and for one its target can do.
fn planned(entry: Spanned<Entry>) -> Result<Planned, Complaint> {
    let start = entry.span().start;
    let entry = entry.into_inner();
    let mut asked: Vec<(usize, Who, &'static str, String, Value)> = Vec::new();
    if let Some(rule) = entry.rule {
        judge(&rule, FaultRule::check)?;
        asked.push((rule.span().start, Who::Pve, "rule", "/faults".into(), body(rule.get_ref())));
    }
    if let Some(restart) = entry.restart {
        asked.push((restart.span().start, Who::Pve, "restart", "/restart".into(), body(restart.get_ref())));
    }
    if let Some(storage) = entry.storage_full {
        let at = storage.span().start;
        let StorageFull { storage, full } = storage.into_inner();
        let path = format!("/storages/{storage}/full");
        asked.push((at, Who::Pve, "storage_full", path, body(&Full { full })));
    }
    if let Some(webhooks) = entry.webhooks {
        judge(&webhooks, |wanted| wanted.rules().map(drop))?;
        let at = webhooks.span().start;
        asked.push((at, Who::Stripe, "webhooks", "/_sim/faults/webhooks".into(), body(webhooks.get_ref())));
    }
    if let Some(api) = entry.api {
        judge(&api, ApiRule::check)?;
        asked.push((api.span().start, Who::Stripe, "api", "/_sim/faults/api".into(), body(api.get_ref())));
    }
    if let Some(smtp) = entry.smtp {
        judge(&smtp, |wanted| wanted.wish().map(drop))?;
        asked.push((smtp.span().start, Who::Mail, "smtp", "/faults".into(), body(smtp.get_ref())));
    }
    if let Some(network) = entry.network {
        judge(&network, LinkFault::check)?;
        asked.push((network.span().start, Who::Link, "network", "/faults".into(), body(network.get_ref())));
    }
    let what = match entry.target {
        Who::Pve => "rule, restart or storage_full",
        Who::Stripe => "webhooks or api",
        Who::Mail => "smtp",
        Who::Link => "network",
    };
    if let Some((at, _, key, ..)) = asked.iter().find(|(_, who, ..)| *who != entry.target) {
        return Err((*at, format!("`{key}` is not for this target; it knows {what}")));
    }
    if asked.len() > 1 {
        return Err((start, "one fault for each `[[faults]]`".into()));
    }
    let Some((.., path, body)) = asked.pop() else {
        return Err((start, format!("nothing goes wrong here; name {what}")));
    };
    let target = match (entry.target, entry.node) {
        (Who::Pve, node) => Target::Pve(node.map(Spanned::into_inner)),
        (Who::Link, node) => Target::Link(node.map(Spanned::into_inner)),
        (_, Some(node)) => return Err((node.span().start, "`node` is for targets pve and link".into())),
        (Who::Stripe, None) => Target::Stripe,
        (Who::Mail, None) => Target::Mail,
    };
    Ok(Planned { target, at: entry.at, path, body })
}

fn judge<T>(given: &Spanned<T>, check: impl Fn(&T) -> Result<(), String>) -> Result<(), Complaint> {
    check(given.get_ref()).map_err(|reason| (given.span().start, reason))
}

fn body<T: Serialize>(given: &T) -> Value {
    serde_json::to_value(given).unwrap_or_default()
}
