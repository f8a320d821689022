//! Leaving: what keeps a host from it, and what goes.

use super::*;

#[tokio::test]
async fn leaving_takes_away_what_setup_made_and_never_a_server() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    host.run(&admin).await;
    admin.state().pools.get_mut("ez").unwrap().insert(100_005);
    let wanted = host.wanted(|_| {}).unwrap();
    let world = look::look(&admin, &wanted).await.unwrap();
    let refusal = leave::plan(&wanted, &world, false).unwrap_err().to_string();
    assert!(refusal.contains("100005") && refusal.contains("--keep-servers"), "{refusal}");
    let kept = leave::plan(&wanted, &world, true).unwrap();
    assert!(
        !kept
            .iter()
            .any(|c| c.to_string().contains("remove pool ez ") || c.to_string().contains("remove storage"))
    );
    admin.state().pools.get_mut("ez").unwrap().clear();
    admin.state().tokens.insert("node-n2".into(), 9);
    let world = look::look(&admin, &wanted).await.unwrap();
    let shared = leave::plan(&wanted, &world, false).unwrap();
    assert!(!shared.iter().any(|c| c.to_string().contains("role EzAgent")), "{shared:?}");
    admin.state().tokens.remove("node-n2");
    let world = look::look(&admin, &wanted).await.unwrap();
    for change in leave::plan(&wanted, &world, false).unwrap() {
        change.apply(&admin).await.unwrap();
    }
    let state = admin.state();
    assert!(
        state.users.is_empty() && state.tokens.is_empty() && state.roles.is_empty() && state.acl.is_empty()
    );
    assert!(state.storages.is_empty());
    // Templates are VMs too: their pool stays while they are in it.
    assert_eq!(state.pools.keys().collect::<Vec<_>>(), ["ez-templates"]);
    assert!(!host.file("pve-token").exists() && host.file("setup.toml").exists());
}

#[tokio::test]
async fn a_host_whose_storage_and_bridge_are_gone_can_be_left() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    host.run(&admin).await;
    let wanted = host.wanted(|_| {}).unwrap();
    let mut world = look::look(&admin, &wanted).await.unwrap();
    (world.disk_stores, world.bridges) = (Vec::new(), Vec::new());
    let changes = leave::plan(&wanted, &world, false).unwrap();
    for what in ["API token", "storage ez-ci-n1", "user ez-agent@pve"] {
        assert!(changes.iter().any(|c| c.to_string().contains(what)), "{what}: {changes:?}");
    }
    // A policy that cannot be understood does not say which servers are this node's: a person does.
    std::fs::write(host.file("policy.toml"), "vmid_first = ").unwrap();
    assert!(host.wanted(|_| {}).is_err());
    let said = |args: &mut SetupArgs| {
        (args.vmids, args.without_policy) = (Some("100000-109999".into()), true);
    };
    let wanted = host.wanted(said).unwrap();
    assert!(!leave::plan(&wanted, &world, false).unwrap().is_empty());
    admin.state().pools.get_mut("ez").unwrap().insert(100_005);
    admin.state().vms.insert(100_005, ("n1", String::new()));
    let world = look::look(&admin, &wanted).await.unwrap();
    assert!(leave::plan(&wanted, &world, false).unwrap_err().to_string().contains("100005"));
}

/// Which pool it was only the policy said.
#[tokio::test]
async fn without_a_policy_servers_are_found_in_whatever_pool_they_are() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1"]));
    host.run(&admin).await;
    std::fs::write(host.file("policy.toml"), "pool = \"customers\"\nvmid_first = ").unwrap();
    admin.state().pools.insert("customers".into(), [300, 9000, 100_005].into());
    admin.state().vms.insert(100_005, ("n1", String::new()));
    let said = |args: &mut SetupArgs| {
        (args.vmids, args.without_policy) = (Some("9000-109999".into()), true);
    };
    let wanted = host.wanted(said).unwrap();
    let world = look::look(&admin, &wanted).await.unwrap();
    let refusal = leave::plan(&wanted, &world, false).unwrap_err().to_string();
    assert!(refusal.contains("still there: 100005 (pool customers); "), "{refusal}");
    let changes = leave::plan(&wanted, &world, true).unwrap();
    assert!(!changes.iter().any(|c| c.to_string().contains("remove storage")), "{changes:?}");
    admin.state().pools.get_mut("customers").unwrap().remove(&100_005);
    let world = look::look(&admin, &wanted).await.unwrap();
    leave::plan(&wanted, &world, false).unwrap();
}

/// Pools are the cluster's: they tell of other nodes' servers, of containers, and of what has nothing to do with us.
#[tokio::test]
async fn without_a_policy_file_only_our_servers_on_this_node_keep_it_from_leaving() {
    let (host, admin) = (Host::new(), FakeAdmin::new("9.2", &["n1", "n2"]));
    let plan = host.plan(&admin, |args| args.pve_node = Some("n1".into())).await.unwrap();
    for change in &plan.changes {
        change.apply(&admin).await.unwrap();
    }
    std::fs::remove_file(host.file("policy.toml")).unwrap();
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let marker = || format!("ez:v1 {id} {id} {id} 1\n");
    {
        let mut state = admin.state();
        state.vms.insert(300, ("n1", "the operator's own".into()));
        state.vms.insert(110_001, ("n2", marker()));
        state.vms.insert(110_002, ("n2", String::new()));
        // 400 is a container.
        state.pools.insert("theirs".into(), [300, 400, 110_001].into());
        state.pools.get_mut("ez").unwrap().insert(110_002);
    }
    let wanted = host.wanted(|args| args.leaves = true).unwrap();
    let refusal = async || {
        let world = look::look(&admin, &wanted).await.unwrap();
        leave::plan(&wanted, &world, false).err().map(|error| error.to_string())
    };
    assert_eq!(refusal().await, None);
    admin.state().vms.insert(100_001, ("n1", marker()));
    admin.state().vms.insert(100_002, ("n1", String::new()));
    admin.state().pools.get_mut("theirs").unwrap().insert(100_001);
    admin.state().pools.get_mut("ez").unwrap().insert(100_002);
    let refusal = refusal().await.unwrap();
    assert!(refusal.contains("still there: 100002 (pool ez), 100001 (pool theirs); "), "{refusal}");
}
