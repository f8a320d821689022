//! Stories of what is destroyed and of what stands between: a disk that stays, a destruction that died half way, a
//! cluster that cannot be written to.

use super::{kit::Host, life::changed};
use crate::{
    journal::OrderState,
    pve::fake::Fault,
    testing::{VMID, ensure},
};

const NO_QUORUM: &str = "cluster not ready - no quorum?";

/// A host with one server in service.
async fn served() -> Host {
    let host = Host::new().await;
    let row = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    host
}

#[tokio::test]
async fn a_rebuild_whose_old_disk_is_gone_waits_for_the_cluster_however_often_that_says_no() {
    let host = served().await;
    // More often than a step is tried.
    for _ in 0..12 {
        host.pve.fail_next("clone_template", Fault::Refused(500, NO_QUORUM.to_owned()));
    }
    // A try that fails for another reason still has all of its tries.
    host.pve.fail_next("clone_template", Fault::LostBefore);
    let rebuild = changed(2, 2, |spec| spec.build = 1);
    let row = host.carry_out(&rebuild).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
    assert_eq!(host.count("clone_template"), 1 + 12 + 1 + 1);
    let steps = host.books.journal.steps(rebuild.order_id).await.unwrap();
    let clone = steps.iter().find(|step| step.name == "clone").unwrap();
    assert!(clone.intent_json.contains("\"without_quorum\":12"), "a restart knows it: {}", clone.intent_json);
}
