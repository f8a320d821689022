//! `ensure`: make the instance be like this. What does not exist is created by the saga; what
//! exists is brought nearer, difference by difference.

use ez_protocol::order::Service;
use serde_json::{Value, json};

use super::{
    clone::{Clone, template_of},
    configure::Configure,
    context::Cx,
    disk::Resize,
    fault::Trouble,
    firewall::Firewall,
    firstboot::CloudInit,
    power::{AwaitUsable, Start, Stop},
    repair,
    saga::{self, Step},
};
use crate::{journal::Phase, pve::ImageTemplate};

/// How long a guest may take to shut down when its service is suspended.
const SUSPEND_GRACE_SECS: u32 = 60;

/// Whether this ensure has to create the VM.
pub(super) fn creates(cx: &Cx) -> bool {
    cx.resource().is_none_or(|row| matches!(row.phase, Phase::Reserved | Phase::Creating))
}

/// Carries the ensure out; answers the result's facts.
pub(super) async fn run(cx: &Cx) -> Result<Value, Trouble> {
    let service = cx.spec()?.service;
    let steps = if creates(cx) {
        create_steps(template_of(cx).await?, service)
    } else {
        converge_steps(service, was_off(cx))
    };
    saga::run(cx, &steps, 1).await?;
    repair::withdraw(cx);
    Ok(json!({ "confirmed": confirmed(cx).await? }))
}

/// The steps a customer watches.
pub(super) fn create_steps(template: ImageTemplate, service: Service) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> = vec![
        Box::new(Clone { template }),
        Box::new(Configure::Serve),
        Box::new(Resize),
        Box::new(CloudInit),
        Box::new(Firewall),
    ];
    if service == Service::Active {
        steps.push(Box::new(Start::First));
        steps.push(Box::new(AwaitUsable));
    }
    steps
}

/// The steps that bring what exists nearer. Power changes only where suspension begins or ends, or a
/// retired server comes back.
pub(super) fn converge_steps(service: Service, was_off: bool) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> =
        vec![Box::new(Configure::Serve), Box::new(Resize), Box::new(CloudInit), Box::new(Firewall)];
    match service {
        Service::Suspended => steps.push(Box::new(Stop { grace_secs: SUSPEND_GRACE_SECS })),
        Service::Active if was_off => steps.push(Box::new(Start::Again)),
        Service::Active => {}
    }
    steps
}

/// Whether the server is off because it was suspended or retired.
fn was_off(cx: &Cx) -> bool {
    cx.resource().is_some_and(|row| row.phase == Phase::Retired)
        || cx.applied().is_some_and(|spec| spec.service == Service::Suspended)
}

/// What the step `await_usable` found, also when it was done before a restart.
async fn confirmed(cx: &Cx) -> Result<bool, Trouble> {
    let steps = cx.journal().steps(cx.id()).await?;
    let result = steps.iter().find(|row| row.name == "await_usable").and_then(|row| row.result_json.clone());
    let value: Value = result.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(value["confirmed"].as_bool().unwrap_or(false))
}
