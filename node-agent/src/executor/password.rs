//! A new password for root: at once where the guest agent answers and the host's owner lets us, else at the
//! next boot through cloud-init, which does it once. What was set at once waits for no boot: meanwhile the customer may
//! have chosen another one.

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

/// Takes it out of the files again, in which it would come back at the next boot over whatever was chosen since. If we die
/// before, the step is done once more and comes here.
async fn take_back(cx: &Cx) -> Result<(), Trouble> {
    cx.journal().drop_reset(cx.order().instance.uuid, cx.id()).await?;
    firstboot::write_again(cx, cx.spec()?).await.map_err(|trouble| match trouble {
        Trouble::Fail(class, why) => {
            let text = format!(
                "the password is set, but could not be taken out of the first-boot files again, so that the next boot \
                 sets it once more: {why}; once that is mended, order it anew"
            );
            Trouble::fail(class, text)
        }
        other => other,
    })
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
            // First the next boot: one that still waits there must not undo this one later, and if we die before the
            // guest has it, it is not lost.
            cx.journal().set_reset(instance, cx.id(), self.hash.clone()).await?;
            firstboot::write_again(cx, cx.spec()?).await?;
            let through_agent = cx.engine().rules.policy.guest_passwords;
            let at_once = through_agent
                && cx.pve().set_password(cx.vmid(), USER, self.hash.as_str().to_owned()).await?;
            // In a rescue system, the server's own gets it at its next boot.
            if at_once && cx.spec()?.rescue.is_none() {
                take_back(cx).await?;
            }
            Ok(Act::Done(json!({ "applied": if at_once { "now" } else { "next_boot" } })))
        })
    }
}
