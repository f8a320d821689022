//! A new password for root: at once where the guest agent answers and the host's owner lets us, else at the
//! next boot through cloud-init, which does it once.

use ez_protocol::order::PasswordHash;
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::Trouble,
    firstboot,
    saga::{Act, Look, Step},
};
use crate::journal::StepRow;

/// Name of the step, whose result says when the password is set.
pub(super) const STEP: &str = "set_password";
/// Who gets it.
const USER: &str = "root";

/// Its steps.
pub(super) fn steps(hash: &PasswordHash) -> Vec<Box<dyn Step>> {
    vec![Box::new(SetPassword { hash: hash.clone() })]
}

struct SetPassword {
    hash: PasswordHash,
}

impl Step for SetPassword {
    fn name(&self) -> &'static str {
        STEP
    }

    /// A hash cannot be read back; setting it again changes nothing.
    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            cx.present().await?;
            Ok(Look::Todo)
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let instance = cx.order().instance.uuid;
            // First the next boot: one that still waits there must not undo this one later, and one that
            // was set at once and lost with the guest's disk cache is set again.
            cx.journal().set_reset(instance, cx.id(), self.hash.clone()).await?;
            firstboot::write_again(cx, cx.spec()?).await?;
            let through_agent = cx.engine().rules.policy.guest_passwords;
            let at_once = through_agent
                && cx.pve().set_password(cx.vmid(), USER, self.hash.as_str().to_owned()).await?;
            Ok(Act::Done(json!({ "applied": if at_once { "now" } else { "next_boot" } })))
        })
    }
}
