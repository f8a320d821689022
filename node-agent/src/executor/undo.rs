//! Takes back what a create made, before the customer saw it. Repeatable; what cannot be taken back
//! ends `stuck` with the facts, never silently.

use super::{
    clone::SettleClone,
    context::Cx,
    fault::Trouble,
    firstboot,
    power::Stop,
    purge::Destroy,
    repair,
    saga::{self, Step},
};

/// Its steps.
pub(super) fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(SettleClone), Box::new(Stop { grace_secs: 0 }), Box::new(Destroy)]
}

/// Removes the VM of a failed create. Steps count downwards in the journal.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    saga::run(cx, &steps(), -1).await?;
    firstboot::forget(cx);
    repair::withdraw(cx);
    Ok(())
}
