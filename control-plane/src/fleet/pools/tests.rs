use super::ApplyError;
use crate::{
    app::App,
    db,
    fleet::{
        self,
        testing::{locations, read, services},
    },
};

async fn apply(app: &App, pool: &str) -> Result<usize, ApplyError> {
    let value: toml::Value = toml::from_str::<toml::Table>(pool).unwrap().into();
    let (at, entropy) = (app.clock.now(), app.entropy.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                fleet::apply(tx, at, entropy.as_ref(), &[], &[value]).await.map(|changes| changes.len())
            })
        })
        .await
}

#[tokio::test]
async fn applying_again_changes_nothing_and_wrong_pools_are_named() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        locations(&app, 10).await;
        let pool = "location = 'hel'\nbridge = 'vmbr1'\nvlan = 7\nprefix = '198.51.100.0/24'\ngateway = '198.51.100.1'";
        assert_eq!(apply(&app, pool).await.unwrap(), 1);
        assert_eq!(apply(&app, pool).await.unwrap(), 0);
        assert_eq!(apply(&app, &pool.replace("vlan = 7", "vlan = 8")).await.unwrap(), 1);
        let overlap = pool.replace("198.51.100.0/24", "198.51.100.128/25");
        assert!(matches!(apply(&app, &overlap).await, Err(ApplyError::Overlap { .. })));
        let nowhere = pool.replace("'hel'", "'mars'").replace("198.51.100", "192.0.2");
        assert!(matches!(apply(&app, &nowhere).await, Err(ApplyError::UnknownLocation { .. })));
        let crooked = pool.replace("198.51.100.0/24", "192.0.2.1/24");
        assert!(matches!(apply(&app, &crooked).await, Err(ApplyError::Shape { .. })));
        let all = read(&app, async |c| fleet::locations(c).await).await;
        assert_eq!(all.iter().map(|l| l.code.as_str()).collect::<Vec<_>>(), ["fsn", "hel"]);
    })
    .await;
}
