//! `ensure`: make the instance be like this. What does not exist is created by the saga; what
//! exists is brought nearer, difference by difference.

use ez_protocol::order::{ImageRef, Service};
use serde_json::{Value, json};

use super::{
    clone::{Clone, room_for, template_for},
    configure::Configure,
    context::Cx,
    destroy::Destroy,
    disk::Resize,
    fault::{Class, Trouble},
    firewall::Firewall,
    firstboot::CloudInit,
    power::{AwaitUsable, NotePower, Start, Stop},
    repair, rescue,
    saga::{self, Step},
};
use crate::{journal::Phase, pve::ImageTemplate};

/// How long a guest may take to shut down when its service is suspended.
const SUSPEND_GRACE_SECS: u32 = 60;
/// How long before its disk is thrown away.
const REBUILD_GRACE_SECS: u32 = 10;

/// Whether this ensure has to create the VM.
pub(super) fn creates(cx: &Cx) -> bool {
    cx.resource().is_none_or(|row| matches!(row.phase, Phase::Reserved | Phase::Creating))
}

/// What an ensure has to do, by what is wished and what was carried out last.
pub(super) enum Shape {
    /// Make the server.
    Create(ImageTemplate),
    /// Make its disk anew; everything on it is lost.
    Rebuild(ImageTemplate),
    /// Boot a rescue system, in place of another one if one is there.
    RescueOn(ImageTemplate, bool),
    /// Back to its own system.
    RescueOff,
    /// Bring what exists nearer; the server is off for a suspension, or retired.
    Converge {
        /// Whether it has to be started again.
        was_off: bool,
    },
}

/// Carries the ensure out; answers the result's facts.
pub(super) async fn run(cx: &Cx) -> Result<Value, Trouble> {
    let shape = shape(cx).await?;
    // Nobody's clone waits for one that does not come, or not before its old disk is gone.
    if !matches!(shape, Shape::Create(_)) {
        cx.limits().clones.settled(cx.order().seq);
    }
    saga::run(cx, &steps(shape, cx.spec()?.service), 1).await?;
    repair::withdraw(cx);
    Ok(json!({ "confirmed": confirmed(cx).await? }))
}

/// Nothing is touched before every image it needs is known to be here. A restart comes to the same shape:
/// the books change only with the order's end.
async fn shape(cx: &Cx) -> Result<Shape, Trouble> {
    let spec = cx.spec()?;
    let wrong = |text: &str| Err(Trouble::fail(Class::User, text));
    if creates(cx) {
        if spec.rescue.is_some() {
            return wrong("a server that is not there yet cannot boot a rescue system");
        }
        return Ok(Shape::Create(template_for(cx, &spec.image).await?));
    }
    let Some(applied) = cx.applied() else { return Ok(Shape::Converge { was_off: was_off(cx) }) };
    if spec.build > applied.build {
        if spec.rescue.is_some() {
            return wrong("a server that is rebuilt cannot boot a rescue system meanwhile");
        }
        let template = template_for(cx, &spec.image).await?;
        // What has begun goes on: its old disk may be gone already.
        if cx.journal().steps(cx.id()).await?.is_empty() {
            room_for(cx, &template).await?;
        }
        return Ok(Shape::Rebuild(template));
    }
    if spec.build < applied.build || spec.image.digest != applied.image.digest {
        return wrong("the image of a server changes only with a rebuild");
    }
    let digest = |image: &Option<ImageRef>| image.as_ref().map(|image| image.digest.clone());
    let rescue_stays = digest(&spec.rescue) == digest(&applied.rescue);
    if !rescue_stays && spec.service == Service::Suspended {
        return wrong("a suspended server stays off: its rescue system comes or goes with its service");
    }
    match (&spec.rescue, rescue_stays) {
        (_, true) => Ok(Shape::Converge { was_off: was_off(cx) }),
        (None, false) => Ok(Shape::RescueOff),
        (Some(image), false) => {
            Ok(Shape::RescueOn(rescue::template(cx, image).await?, applied.rescue.is_some()))
        }
    }
}

/// What makes an existing VM be as ordered, without touching its power.
pub(super) fn settle() -> Vec<Box<dyn Step>> {
    settle_by(Configure::Serve)
}

fn settle_by(configure: Configure) -> Vec<Box<dyn Step>> {
    vec![Box::new(configure), Box::new(Resize), Box::new(CloudInit::Serve), Box::new(Firewall)]
}

/// The steps a customer watches. Power changes only where a server is made, where suspension or rescue
/// begins or ends, or a retired server comes back.
pub(super) fn steps(shape: Shape, service: Service) -> Vec<Box<dyn Step>> {
    let active = service == Service::Active;
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    let stop = |grace_secs| Box::new(Stop { grace_secs });
    match shape {
        Shape::Create(template) => {
            steps.push(Box::new(Clone { template }));
            steps.extend(settle_by(Configure::ServeUnstarted));
            if active {
                steps.extend(first_start(Start::First));
            }
        }
        Shape::Rebuild(template) => {
            steps.extend([
                Box::new(NotePower) as Box<dyn Step>,
                stop(REBUILD_GRACE_SECS),
                Box::new(Destroy { for_good: false }),
            ]);
            steps.push(Box::new(Clone { template }));
            steps.extend(settle_by(Configure::ServeUnstarted));
            if active {
                steps.extend(first_start(Start::Again));
            }
        }
        Shape::RescueOn(template, another) => {
            steps.extend([Box::new(NotePower) as Box<dyn Step>, stop(rescue::GRACE_SECS)]);
            if another {
                steps.push(Box::new(rescue::Detach));
            }
            steps.push(Box::new(rescue::Attach { template }));
            steps.extend(settle());
            steps.push(Box::new(Start::Again));
        }
        Shape::RescueOff => {
            steps.extend([Box::new(NotePower) as Box<dyn Step>, stop(rescue::GRACE_SECS)]);
            steps.push(Box::new(rescue::Detach));
            steps.extend(settle());
            // Whoever leaves the rescue system wants the server's own.
            steps.push(Box::new(Start::Again));
        }
        Shape::Converge { was_off } => {
            steps.extend(settle());
            if !active {
                steps.push(stop(SUSPEND_GRACE_SECS));
            } else if was_off {
                steps.push(Box::new(Start::Again));
            }
        }
    }
    steps
}

/// Starts a disk that was never booted. From then on its host does so, too; whether it still runs once its host knows is
/// asked again, for a power cut between the two.
fn first_start(start: Start) -> [Box<dyn Step>; 4] {
    [Box::new(start), Box::new(Configure::StartOnBoot), Box::new(Start::Again), Box::new(AwaitUsable)]
}

/// Whether the server is off because it was suspended or retired.
fn was_off(cx: &Cx) -> bool {
    cx.resource().is_some_and(|row| row.phase == Phase::Retired)
        || cx.applied().is_some_and(|spec| spec.service == Service::Suspended)
}

/// What the step `await_usable` found, also when it was done before a restart.
async fn confirmed(cx: &Cx) -> Result<bool, Trouble> {
    Ok(cx.step_result_of("await_usable").await?["confirmed"].as_bool().unwrap_or(false))
}
