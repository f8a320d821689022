//! The file behind an SQLite database: who may read it, and who serves from it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::DbError;

/// The path in a `sqlite:` address; `None` for other databases.
///
/// ```
/// # use ez_control_plane::db::sqlite_path;
/// assert_eq!(sqlite_path("sqlite://data/ez.sqlite?mode=rw").as_deref(), Some("data/ez.sqlite".as_ref()));
/// assert_eq!(sqlite_path("postgres://db/ez"), None);
/// ```
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let path = rest.split('?').next().unwrap_or_default();
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

/// Makes an empty file that only its owner reads, unless there is one: it will hold password hashes and
/// purchases. SQLite gives its log and index the same rights.
pub(super) fn make_private(path: &Path) -> Result<(), DbError> {
    match create_private(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unavailable(path, &error)),
        _ => Ok(()),
    }
}

/// The same for a file that must not be there yet.
pub(super) fn make_new(path: &Path) -> Result<(), DbError> {
    create_private(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DbError::Unavailable(format!(
            "{} is there already; nothing was written. Name a file that is not",
            path.display()
        )),
        _ => unavailable(path, &error),
    })
}

fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn unavailable(path: &Path, error: &io::Error) -> DbError {
    DbError::Unavailable(format!("{}: {error}", path.display()))
}

/// That this process alone serves from an SQLite file; let go with the value, or when the process dies.
#[derive(Debug)]
pub struct ServesAlone(#[expect(dead_code, reason = "held for its lock")] File);

/// Takes the lock beside an SQLite file. Two processes that serve from one would each deliver, bill and seal.
///
/// # Errors
/// [`DbError::Unavailable`] when another process holds it, with the file and that process's number.
pub(super) fn serve_alone(database: &Path) -> Result<ServesAlone, DbError> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| unavailable(&path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _unknown_then = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "unknown" } else { holder };
            return Err(DbError::Unavailable(format!(
                "another process (number {holder}) serves from {}: it holds {}. Nothing was started; stop the other \
                 one first, or give each its own DATABASE_URL",
                database.display(),
                path.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(unavailable(&path, &error)),
    }
    // Only for the message above, so not worth failing for on a full disk.
    let note = || -> io::Result<()> {
        let mut file = &file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    let _unnamed_then = note();
    Ok(ServesAlone(file))
}

/// Takes away what an attempt left behind.
pub(super) fn remove(path: &Path) {
    let _nothing_to_do = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::db::{Db, DbError, testing};

    fn mode(path: &std::path::Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn only_the_owner_reads_a_database_and_its_copies() {
        let (db, directory) = testing::sqlite().await;
        let copy = directory.path().join("copy.sqlite");
        db.backup_to(&copy).await.unwrap();
        let mut seen = Vec::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        seen.sort();
        assert_eq!(seen, ["copy.sqlite", "test.sqlite", "test.sqlite-shm", "test.sqlite-wal"]);
        let copied = Db::open(&format!("sqlite:{}", copy.display())).await.unwrap();
        assert!(copied.pending().await.unwrap().0.is_empty(), "the copy is whole");
    }

    #[tokio::test]
    async fn a_copy_never_overwrites() {
        let (db, directory) = testing::sqlite().await;
        let file = directory.path().join("letters.txt");
        for text in ["dear diary", ""] {
            std::fs::write(&file, text).unwrap();
            let refused = db.backup_to(&file).await.unwrap_err().to_string();
            assert!(refused.contains("letters.txt is there already; nothing was written"), "{refused}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn one_process_serves_from_a_file() {
        let (db, directory) = testing::sqlite().await;
        let held = db.serve_alone().unwrap();
        let Err(DbError::Unavailable(why)) = db.serve_alone() else { panic!("two serve") };
        assert!(why.contains("test.sqlite.lock") && why.contains(&std::process::id().to_string()), "{why}");
        assert_eq!(mode(&directory.path().join("test.sqlite.lock")), 0o600);
        drop(held);
        assert!(db.serve_alone().unwrap().is_some(), "free again");
    }
}
