//! The files of the workspace, and looking at Rust without its comments and tests.

use std::path::{Path, PathBuf};

/// A file: its path from the workspace's root, with `/`, and its text.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// The path below a crate's `src/`, if it is there.
    pub(crate) fn below(&self, root: &str) -> Option<&str> {
        self.path.strip_prefix(root)
    }

    /// The slice of the control plane that the file belongs to: the first part of its path.
    pub(crate) fn slice(&self) -> Option<&str> {
        let inside = self.below("control-plane/src/")?;
        Some(inside.split('/').next().unwrap_or_default().trim_end_matches(".rs"))
    }

    /// Whether the whole file is for tests.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| {
            matches!(part, "tests" | "tests.rs" | "testing" | "testing.rs" | "markup" | "benches" | "fuzz")
        })
    }

    /// The code that ships: without comments and from no `#[cfg(test)] mod … {` on.
    pub(crate) fn code(&self) -> String {
        let mut code = String::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            let opens = |next: &&str| next.contains("mod ") && next.trim_end().ends_with('{');
            if line.trim() == "#[cfg(test)]" && lines.peek().is_some_and(opens) {
                break;
            }
            if !line.trim_start().starts_with("//") {
                code.push_str(line.split(" // ").next().unwrap_or_default());
                code.push('\n');
            }
        }
        code
    }
}

/// All files of the rule's interest, without those for tests.
pub(crate) fn shipped(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs") && !file.is_test())
}

/// Whether the word stands in the text, not as a part of a longer one.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    })
}

/// Whether a crate or module is named as the start of a path: `word::…`, also inside `use {…}`.
pub(crate) fn has_path(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let fresh = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        let rest = &text[at + word.len()..];
        fresh && (rest.starts_with("::") || (text[..at].ends_with("use ") && rest.starts_with(';')))
    })
}

/// Reads the workspace.
pub(crate) fn workspace() -> Vec<File> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a workspace").to_owned();
    let mut files = Vec::new();
    for part in ["protocol", "control-plane", "node-agent", "simulator", "migrations", "templates", "locales"]
    {
        walk(&root, &root.join(part), &mut files);
    }
    {
        let single = "Cargo.toml";
        read(&root, root.join(single), &mut files);
    }
    files
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !["target", "node_modules", "golden", "dist"].iter().any(|skipped| name == *skipped) {
                walk(root, &path, files);
            }
        } else {
            read(root, path, files);
        }
    }
}

fn read(root: &Path, path: PathBuf, files: &mut Vec<File>) {
    const TEXT: [&str; 8] = ["rs", "toml", "sql", "html", "txt", "ftl", "css", "js"];
    let is_text = path.extension().and_then(|e| e.to_str()).is_some_and(|ending| TEXT.contains(&ending));
    if let (true, Ok(text)) = (is_text, std::fs::read_to_string(&path)) {
        let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        files.push(File { path, text });
    }
}
