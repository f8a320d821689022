//! Embeds pages, mails, texts, style sheets and scripts, so that the built program needs no
//! directory beside it. What is found is written as tables of `include_str!` for `web::embedded`.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Name of the table, directory under the workspace root, and the file endings taken.
const TABLES: [(&str, &str, &[&str]); 4] = [
    ("TEMPLATES", "templates/web", &["html"]),
    ("MAILS", "templates/email", &["html", "txt"]),
    ("LOCALES", "locales", &["ftl"]),
    ("ASSETS", "control-plane/assets", &["css", "js", "svg"]),
];

/// Directories of `control-plane/assets` that are built elsewhere and never embedded from here.
const LEFT_OUT: [&str; 2] = ["node_modules", "dist"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().ok_or("the crate lies in a workspace")?;
    // `sqlx::migrate!` in `db::migrate` embeds these; without this line a new file would be missed.
    println!("cargo::rerun-if-changed={}", root.join("migrations/control-plane").display());
    let mut code = String::new();
    for (table, directory, endings) in TABLES {
        let base = root.join(directory);
        println!("cargo::rerun-if-changed={}", base.display());
        let mut files = Vec::new();
        if base.is_dir() {
            walk(&base, endings, &mut files)?;
        }
        files.sort();
        writeln!(code, "pub(super) static {table}: &[(&str, &str)] = &[")?;
        for file in files {
            let name = file.strip_prefix(&base)?.to_str().ok_or("file names are UTF-8")?.replace('\\', "/");
            writeln!(code, "    ({name:?}, include_str!({:?})),", file.to_str().ok_or("paths are UTF-8")?)?;
        }
        code.push_str("];\n");
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"), code)?;
    Ok(())
}

/// Collects files with one of `endings` under `directory`; directories are watched for new files.
fn walk(directory: &Path, endings: &[&str], files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name) {
                walk(&path, endings, files)?;
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e)) {
            files.push(path);
        }
    }
    Ok(())
}
