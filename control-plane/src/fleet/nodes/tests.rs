use crate::{
    clock::Clock as _,
    db,
    fleet::{
        self, NodeChange, NodeState,
        nodes::{self, NodeError},
        sessions,
        testing::{enrol_with, enrolled, locations, new_key, read, request, services},
    },
};

#[tokio::test]
async fn what_does_not_fit_is_said() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let add =
            async |name: &str, location: &str| fleet::add_node(&app, "operator:test", name, location).await;
        assert!(matches!(add("Fsn 1", "fsn").await, Err(NodeError::BadName)));
        assert!(matches!(add("fsn-1", "mars").await, Err(NodeError::UnknownLocation(_))));
        let joining = add("fsn-1", "fsn").await.unwrap();
        assert!(matches!(add("fsn-1", "hel").await, Err(NodeError::NameTaken(_))));
        let again = add("fsn-1", "fsn").await.unwrap();
        assert_eq!(again.node, joining.node, "not joined yet: another token for the same node");
        assert_ne!(again.token, joining.token);
        assert!(joining.token.starts_with("ezj1.") && joining.url.starts_with("https://localhost:"));
        let change = async |name: &str, change| fleet::change_node(&app, "operator:test", name, change).await;
        assert!(matches!(change("fsn-1", NodeChange::Cordon).await, Err(NodeError::Refused(_))));
        assert!(matches!(change("fsn-9", NodeChange::Cordon).await, Err(NodeError::Unknown(_))));
        let by_id = read(&app, async |c| nodes::by_id(c, joining.node).await).await.unwrap();
        assert_eq!((by_id.name.as_str(), by_id.state), ("fsn-1", NodeState::Pending));
    })
    .await;
}

#[tokio::test]
async fn operators_who_change_a_node_at_once_are_each_told_what_came_of_it() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        for n in 1..=3 {
            let name = format!("fsn-{n}");
            enrolled(&app, &name, "fsn").await;
            let change = |change| fleet::change_node(&app, "operator:test", &name, change);
            let answers = futures::join!(
                change(NodeChange::Cordon),
                change(NodeChange::Revoke),
                change(NodeChange::Uncordon),
                change(NodeChange::Revoke),
                change(NodeChange::Cordon),
            );
            for answer in [answers.0, answers.1, answers.2, answers.3, answers.4] {
                assert!(matches!(answer, Ok(_) | Err(NodeError::Refused(_))), "{answer:?}");
            }
            let row = read(&app, async |c| Ok(nodes::find(c, &name).await.unwrap())).await;
            assert_eq!(row.state, NodeState::Revoked);
        }
    })
    .await;
}

#[tokio::test]
async fn a_cordon_outlives_a_quarantine_until_an_operator_takes_it_back() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = enrolled(&app, "fsn-1", "fsn").await;
        let change = async |change| {
            let (_, after) = fleet::change_node(&app, "operator:test", "fsn-1", change).await.unwrap();
            after
        };
        let falls_out_and_comes_back = async || {
            let (at, id) = (clock.now(), node.id);
            app.db
                .write(move |tx| Box::pin(async move { sessions::copied(tx, at, id, "two of it").await }))
                .await
                .unwrap();
            let joining = fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap();
            enrol_with(&app, request(&joining.token.parse().unwrap(), &new_key())).await.unwrap();
            read(&app, async |c| nodes::by_id(c, id).await).await.unwrap().state
        };
        assert_eq!(falls_out_and_comes_back().await, NodeState::Active);
        assert_eq!(change(NodeChange::Cordon).await, NodeState::Cordoned);
        assert_eq!(falls_out_and_comes_back().await, NodeState::Cordoned);
        assert_eq!(change(NodeChange::Uncordon).await, NodeState::Active);
        assert_eq!(falls_out_and_comes_back().await, NodeState::Active);
    })
    .await;
}

#[test]
fn a_revoked_node_takes_no_orders_from_any_change_but_enrolment() {
    for change in [NodeChange::Cordon, NodeChange::Uncordon, NodeChange::Quarantine] {
        assert!(NodeState::Revoked.after(change).is_err());
        assert!(NodeState::Pending.after(change).is_err());
    }
    assert_eq!(NodeState::Revoked.after(NodeChange::Enrol), Ok(NodeState::Active));
    assert_eq!(NodeState::Cordoned.after(NodeChange::Enrol), Ok(NodeState::Cordoned));
    for state in NodeState::ALL {
        assert_eq!(state.after(NodeChange::Revoke), Ok(NodeState::Revoked));
        assert!(!state.takes_orders() || state.may_connect());
    }
}
