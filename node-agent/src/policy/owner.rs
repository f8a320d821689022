//! Whose file the policy is. It bounds what a valid signature may do, so nobody but root of this host may change it, the
//! agent's own user least of all.
//!
//! Below `/etc`, where the systemd unit has it, file and directory must be root's and writable by nobody else. Elsewhere
//! (the demo, a developer's directory) the file may also be the user's own who runs the agent, as nothing there is
//! defended against that user.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Group and others may write.
const OTHERS_WRITE: u32 = 0o022;

/// Why somebody else can change the file, and what to do about it; none: nobody can.
pub(super) fn strangers(path: &Path) -> Option<String> {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let strict = whole.starts_with("/etc");
    let own = rustix::process::geteuid().as_raw();
    let dir = whole.parent().filter(|_| strict);
    [Some(whole.as_path()), dir].into_iter().flatten().find_map(|path| {
        let about = fs::symlink_metadata(path).ok()?;
        refusal(path, &about, strict, own)
    })
}

fn refusal(path: &Path, about: &Metadata, strict: bool, own: u32) -> Option<String> {
    let path = path.display();
    let (owner, mode) = (about.uid(), about.mode() & 0o7777);
    if owner != 0 && (strict || owner != own) {
        return Some(format!(
            "belongs to user {owner}, who could widen it: `chown root:root {path}` once you have read it"
        ));
    }
    (mode & OTHERS_WRITE != 0).then(|| {
        format!("may be written by others (mode {mode:04o}): `chmod go-w {path}` once you have read it")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_may_write_is_no_policy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.toml");
        fs::write(&file, "").unwrap();
        let with_mode = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            strangers(&file)
        };
        assert_eq!(with_mode(0o644), None);
        assert_eq!(with_mode(0o600), None);
        for mode in [0o664, 0o646, 0o666] {
            let reason = with_mode(mode).unwrap();
            assert!(reason.contains(&format!("mode 0{mode:o}")) && reason.contains("chmod go-w"), "{reason}");
        }
    }

    #[test]
    fn under_etc_only_root_will_do_and_elsewhere_the_user_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let about = fs::metadata(dir.path()).unwrap();
        let me = about.uid();
        let path = Path::new("/etc/ez-node-agent/policy.toml");
        assert_eq!(refusal(path, &about, false, me), None);
        let strict = refusal(path, &about, true, me);
        assert_eq!(strict.is_none(), me == 0, "{strict:?}");
        let stranger = refusal(path, &about, false, me + 1);
        assert_eq!(stranger.is_none(), me == 0, "{stranger:?}");
    }
}
