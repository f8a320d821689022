//! The dialect, enforced: what a migration and a statement may not say, because one of the two databases
//! (or the driver over both) does not understand it.

use std::path::Path;

use super::testing::each_database;

/// Words that no migration may hold, and what to write instead.
const WORDS: [(&str, &str); 15] = [
    ("BOOLEAN", "INTEGER 0/1"),
    ("BOOL", "INTEGER 0/1"),
    ("TIMESTAMP", "BIGINT milliseconds"),
    ("TIMESTAMPTZ", "BIGINT milliseconds"),
    ("DATETIME", "BIGINT milliseconds"),
    ("DATE", "BIGINT milliseconds"),
    ("JSON", "TEXT"),
    ("JSONB", "TEXT"),
    ("SERIAL", "an id of ours"),
    ("BIGSERIAL", "an id of ours"),
    ("AUTOINCREMENT", "an id of ours"),
    ("BLOB", "BYTEA"),
    ("UUID", "TEXT"),
    ("NUMERIC", "BIGINT"),
    ("REAL", "BIGINT"),
];

/// What is wrong with a migration's text, comments left out.
fn lint(sql: &str) -> Vec<String> {
    let code: String =
        sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let upper = code.to_uppercase();
    // The first word of an item is a name, and a column may be called `serial`; types and options follow it.
    let words: Vec<&str> = upper
        .split(['(', ',', ';'])
        .flat_map(|item| {
            item.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).skip(1)
        })
        .collect();
    let mut found: Vec<String> = WORDS
        .iter()
        .filter(|(word, _)| words.contains(word))
        .map(|(word, instead)| format!("{word}: write {instead}"))
        .collect();
    if code.contains('?') {
        found.push("a question mark: placeholders are $1".into());
    }
    found
}

/// Every `.rs` and `.sql` file below a directory.
fn files(directory: &Path, ending: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn migrations_keep_to_the_dialect() {
    let mut migrations = Vec::new();
    files(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/control-plane")),
        "sql",
        &mut migrations,
    );
    assert!(migrations.len() >= 10);
    for (name, sql) in migrations {
        assert_eq!(lint(&sql), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_linter_finds_every_word() {
    for (word, _) in WORDS {
        assert!(!lint(&format!("CREATE TABLE t (x {} NOT NULL);", word.to_lowercase())).is_empty(), "{word}");
    }
    assert!(!lint("DELETE FROM t WHERE id = ?").is_empty());
    assert_eq!(lint("CREATE TABLE t (updated_at BIGINT); -- no DATETIME?"), Vec::<String>::new());
}

/// String literals of a source file that begin like a statement.
fn statements(code: &str) -> Vec<&str> {
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    let parts: Vec<&str> = code.split('"').skip(1).step_by(2).collect();
    parts
        .into_iter()
        .filter(|text| verbs.iter().any(|verb| text.trim_start().starts_with(&format!("{verb} "))))
        .collect()
}

/// Prepares every statement of every store on both databases: a typo, a missing column or a word that only
/// one of them knows fails here and not in front of a customer.
#[tokio::test]
async fn every_statement_is_understood_by_both() {
    use sqlx::Executor;
    let mut sources = Vec::new();
    files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "rs", &mut sources);
    let stores: Vec<_> = sources.into_iter().filter(|(name, _)| name.contains("store")).collect();
    each_database(async |db| {
        let mut connection = db.read().await.unwrap();
        let (mut prepared, mut refused) = (0, Vec::new());
        for (name, code) in &stores {
            for sql in statements(code) {
                prepared += 1;
                assert!(!sql.contains('?'), "{name}: {sql}");
                let statement = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(sql.to_owned()));
                if let Err(error) = connection.prepare(statement).await {
                    refused.push(format!("{name}: {error}\n{sql}"));
                }
            }
        }
        assert!(prepared > 60, "only {prepared} statements found");
        assert!(refused.is_empty(), "{}", refused.join("\n\n"));
    })
    .await;
}
