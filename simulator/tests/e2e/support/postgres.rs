//! Databases on the PostgreSQL of this machine.

use super::not_run;

/// A database of one story on the PostgreSQL that `TEST_POSTGRES_URL` names.
pub struct Postgres {
    pub(super) admin: String,
    pub(super) name: String,
    pub(super) url: String,
}

impl Postgres {
    pub(super) async fn create(story: &str) -> Option<Self> {
        let Ok(admin) = std::env::var("TEST_POSTGRES_URL") else {
            not_run(&format!("{story} on PostgreSQL"), "TEST_POSTGRES_URL is not set");
            return None;
        };
        let name = format!(
            "ez_e2e_{}_{}",
            std::process::id(),
            story.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_")
        );
        let (base, _) = admin.rsplit_once('/').unwrap();
        let this = Self { url: format!("{base}/{name}"), admin: admin.clone(), name };
        this.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", this.name)).await;
        this.execute(&format!("CREATE DATABASE {}", this.name)).await;
        Some(this)
    }

    async fn execute(&self, sql: &str) {
        use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
        let mut db = sqlx::postgres::PgConnection::connect(&self.admin).await.unwrap();
        db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    pub(super) async fn drop_database(&self) {
        self.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await;
    }
}
