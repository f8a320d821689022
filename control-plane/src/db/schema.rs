//! The two databases end up with the same schema: tables and views, columns, what may be NULL, what is unique.

use std::collections::BTreeSet;

use super::{Backend, Db, testing::each_database};

/// One line per column (`table.column null`) and per unique index (`table unique a, b`).
async fn schema(db: &Db) -> BTreeSet<String> {
    let (columns, unique) = match db.backend() {
        Backend::Sqlite => (
            "SELECT m.name || '.' || c.name || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN '' ELSE ' null' END
             FROM sqlite_master m JOIN pragma_table_info(m.name) c
             WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite_%' AND m.name NOT LIKE '_sqlx%'",
            "SELECT m.name || ' unique ' || (SELECT group_concat(i.name, ', ') FROM
                 (SELECT name FROM pragma_index_info(l.name) ORDER BY seqno) i)
             FROM sqlite_master m JOIN pragma_index_list(m.name) l
             WHERE m.type = 'table' AND l.\"unique\" = 1 AND m.name NOT LIKE '_sqlx%'",
        ),
        Backend::Postgres => (
            "SELECT CAST(table_name || '.' || column_name
                 || CASE WHEN is_nullable = 'NO' THEN '' ELSE ' null' END AS TEXT)
             FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name NOT LIKE '\\_sqlx%'",
            "SELECT CAST(c.relname || ' unique ' || string_agg(a.attname, ', ' ORDER BY k.place) AS TEXT)
             FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE i.indisunique AND n.nspname = current_schema() AND c.relname NOT LIKE '\\_sqlx%'
             GROUP BY c.relname, i.indexrelid",
        ),
    };
    let mut connection = db.read().await.unwrap();
    let mut lines: Vec<String> = sqlx::query_scalar(columns).fetch_all(&mut *connection).await.unwrap();
    lines.extend(sqlx::query_scalar::<_, String>(unique).fetch_all(&mut *connection).await.unwrap());
    lines.into_iter().collect()
}

#[tokio::test]
async fn both_databases_have_the_same_schema() {
    let (sqlite, _directory) = super::testing::sqlite().await;
    let expected = schema(&sqlite).await;
    for known in [
        "jobs.lease_until null",
        "users.email",
        "users unique email",
        "memberships unique account_id, user_id",
    ] {
        assert!(expected.contains(known), "{known} is missing: the comparison looks at too little");
    }
    each_database(async |db| {
        let found = schema(&db).await;
        let apart: Vec<_> = expected.symmetric_difference(&found).collect();
        assert!(apart.is_empty(), "{:?}: {apart:#?}", db.backend());
    })
    .await;
}
