//! The list of an account's servers, when there are many.

use super::*;

#[tokio::test]
async fn an_account_with_hundreds_of_servers_counts_and_finds_them_all() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let oldest = farm.server().await;
        let (account, later) = (oldest.account, oldest.created_at.plus(Duration::from_secs(60)));
        let newer: Vec<Instance> = (0..520)
            .map(|n| Instance {
                id: InstanceId::generate(later, farm.app.entropy.bytes()),
                order: OrderId::generate(later, farm.app.entropy.bytes()),
                hostname: format!("batch-{n}"),
                created_at: later,
                ..oldest.clone()
            })
            .collect();
        let kept = farm.app.db.write::<_, db::DbError, _>(move |tx| {
            Box::pin(async move {
                for instance in &newer {
                    store::insert(tx, instance).await?;
                }
                Ok(())
            })
        });
        kept.await.unwrap();

        let mut connection = farm.app.db.read().await.unwrap();
        let now = farm.app.clock.now();
        let first = show::list(&mut connection, account, now, ("", 1), Vec::new()).await.unwrap();
        assert_eq!((first.total, first.servers.len()), (521, 25));
        let last = show::list(&mut connection, account, now, ("", 21), Vec::new()).await.unwrap();
        assert_eq!((last.servers.len(), last.older), (21, None));
        assert_eq!(last.servers[20].name, oldest.hostname);
        let found = show::list(&mut connection, account, now, (oldest.hostname.as_str(), 1), Vec::new())
            .await
            .unwrap();
        assert_eq!(found.servers.iter().map(|row| &row.name).collect::<Vec<_>>(), [&oldest.hostname]);
        let marked = show::list_mark(&mut connection, account).await.unwrap();
        assert_eq!(marked.len(), 521);
    })
    .await;
}
