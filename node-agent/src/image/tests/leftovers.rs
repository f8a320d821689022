//! What a build leaves behind and cannot take away.

use super::*;

#[tokio::test]
async fn a_disk_that_stays_where_a_half_made_template_is_gone_is_told_with_the_command() {
    let host = Host::default();
    host.state().no_clone = true;
    host.state().keeps_disks = true;
    let error = build_on(&host, &mut Memory::default()).await.unwrap_err().to_string();
    for words in ["cannot make linked clones", "as root on the host, `pvesm free local-lvm:vm-9000-disk-0`"] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(host.made(), (Vec::new(), Vec::new()));

    // A template that is ready all the same is ready.
    let host = Host::default();
    let mut memory = Memory::default();
    build_on(&host, &mut memory).await.unwrap();
    host.state().vms.insert(9_002, [("description".to_owned(), build_marker(&source()))].into());
    host.state().keeps_disks = true;
    assert_eq!(build_on(&host, &mut memory).await.unwrap(), 9_000);
    assert_eq!(memory.left, ["`pvesm free local-lvm:vm-9002-disk-0`"]);
    assert_eq!(host.made(), (vec![9_000], Vec::new()));
}
