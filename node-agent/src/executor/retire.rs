//! `retire`: the service has ended. The server is stopped and marked; its disk is kept.

use super::{
    configure::Configure,
    context::Cx,
    fault::Trouble,
    power::Stop,
    saga::{self, Step},
};

/// How long the guest may take to shut down cleanly: its disk may still be wanted.
const GRACE_SECS: u32 = 60;

/// Its steps.
pub(super) fn steps() -> Vec<Box<dyn Step>> {
    vec![Box::new(Stop { grace_secs: GRACE_SECS }), Box::new(Configure::Retire)]
}

/// Carries the retire out.
pub(super) async fn run(cx: &Cx) -> Result<(), Trouble> {
    saga::run(cx, &steps(), 1).await
}
