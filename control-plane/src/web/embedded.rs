//! What the build script embedded, and the directories it came from.
//!
//! A debug build run from the checkout reads the files again when they change, so that a page or a
//! style can be edited without a rebuild; a release build never looks at the disk.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

use std::borrow::Cow;

/// One of the embedded trees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tree {
    /// `templates/web`
    Templates,
    /// `templates/email`
    Mails,
    /// `locales`
    Locales,
    /// `control-plane/assets`
    Assets,
}

impl Tree {
    /// The embedded files as (name, text), sorted by name.
    fn embedded(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Templates => TEMPLATES,
            Self::Mails => MAILS,
            Self::Locales => LOCALES,
            Self::Assets => ASSETS,
        }
    }

    /// All files of the tree: from the checkout in a debug build, else the embedded ones.
    pub(super) fn files(self) -> Vec<(String, Cow<'static, str>)> {
        #[cfg(debug_assertions)]
        if let Some(found) = checkout::read(self) {
            return found;
        }
        self.embedded().iter().map(|(name, text)| ((*name).to_owned(), Cow::Borrowed(*text))).collect()
    }
}

/// A number that changes when a file of the checkout changes; constant in a release build.
pub(super) fn revision() -> u128 {
    #[cfg(debug_assertions)]
    return checkout::revision();
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
mod checkout {
    use std::{
        borrow::Cow,
        fs,
        path::{Path, PathBuf},
        time::UNIX_EPOCH,
    };

    use super::Tree;

    fn directory(tree: Tree) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        match tree {
            Tree::Templates => root.join("templates/web"),
            Tree::Mails => root.join("templates/email"),
            Tree::Locales => root.join("locales"),
            Tree::Assets => root.join("control-plane/assets"),
        }
    }

    /// Reads the tree again, looking only for the names that were embedded and for new siblings.
    pub(super) fn read(tree: Tree) -> Option<Vec<(String, Cow<'static, str>)>> {
        let base = directory(tree);
        let mut files = Vec::new();
        visit(&base, &mut |path| {
            let name = path.strip_prefix(&base).ok()?.to_str()?.to_owned();
            files.push((name, Cow::Owned(fs::read_to_string(path).ok()?)));
            Some(())
        })?;
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Some(files)
    }

    /// Sum over the modification times: cheap, and any edit changes it.
    pub(super) fn revision() -> u128 {
        let mut sum = 0u128;
        for tree in [Tree::Templates, Tree::Mails, Tree::Locales, Tree::Assets] {
            let _ = visit(&directory(tree), &mut |path| {
                let changed = fs::metadata(path).ok()?.modified().ok()?;
                sum = sum.wrapping_add(changed.duration_since(UNIX_EPOCH).ok()?.as_nanos());
                Some(())
            });
        }
        sum
    }

    /// Calls `file` for each file under `directory`; `None` when the directory is not there.
    fn visit(directory: &Path, file: &mut dyn FnMut(&Path) -> Option<()>) -> Option<()> {
        for entry in fs::read_dir(directory).ok()?.flatten() {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.to_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "node_modules" | "dist") {
                    visit(&path, file)?;
                }
            } else if [".html", ".txt", ".ftl", ".css", ".js", ".svg"].iter().any(|e| name.ends_with(e)) {
                file(&path);
            }
        }
        Some(())
    }
}
