//! One change: said first, then done.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use serde_json::Value;

use super::{AdminApi, PVE_USER, SetupError, Verb, files, roles};
use crate::pve::Vmid;

/// A change of the Proxmox side or of this host's files. Its text completes "will …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A pool.
    AddPool {
        /// Its name.
        pool: String,
        /// For people.
        comment: &'static str,
    },
    /// A role.
    AddRole {
        /// Its name.
        role: &'static str,
        /// Its privileges.
        privileges: BTreeSet<String>,
    },
    /// A role of ours that lacks privileges.
    WidenRole {
        /// Its name.
        role: &'static str,
        /// What is added.
        missing: BTreeSet<String>,
    },
    /// The service user.
    AddUser,
    /// This node's token; its secret goes into a file and nowhere else.
    AddToken {
        /// Its name.
        name: String,
        /// Where the secret goes.
        file: PathBuf,
        /// It exists and its secret is lost.
        replace: bool,
    },
    /// A right.
    Grant {
        /// On what.
        path: String,
        /// Which role.
        role: &'static str,
    },
    /// The directory for snippets.
    MakeDir {
        /// Which.
        dir: PathBuf,
    },
    /// The snippet storage.
    AddStorage {
        /// Its name.
        id: String,
        /// Its directory; the snippets lie in `snippets` below.
        base: PathBuf,
        /// The one node that has it.
        node: String,
    },
    /// Templates into the pool the agent may clone from.
    AddToPool {
        /// The pool.
        pool: String,
        /// The templates.
        vmids: BTreeSet<Vmid>,
    },
    /// A copy of a file the agent may not read in place.
    CopyFile {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
    },
    /// A configuration file.
    WriteFile {
        /// Which.
        path: PathBuf,
        /// Its text.
        text: String,
        /// Its mode.
        mode: u32,
    },
    /// Leaving: a right.
    Revoke {
        /// On what.
        path: String,
        /// Which role.
        role: String,
    },
    /// Leaving: something at a path of the API, with a word for people.
    Remove {
        /// What.
        what: String,
        /// Path of the call.
        path: String,
        /// Parameters of the call.
        parameters: Vec<(&'static str, String)>,
    },
    /// Leaving: a file.
    RemoveFile {
        /// Which.
        path: PathBuf,
    },
}

fn list<T: ToString>(items: &BTreeSet<T>, separator: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPool { pool, comment } => write!(f, "create pool {pool} ({comment})"),
            Self::AddRole { role, privileges } => write!(f, "create role {role}: {}", list(privileges, " ")),
            Self::WidenRole { role, missing } => write!(f, "add to role {role}: {}", list(missing, " ")),
            Self::AddUser => write!(f, "create user {PVE_USER}, without a password"),
            Self::AddToken { name, file, replace: false } => {
                write!(f, "create API token {PVE_USER}!{name} and store it in {} (0600)", file.display())
            }
            Self::AddToken { name, file, replace: true } => write!(
                f,
                "replace API token {PVE_USER}!{name}, whose secret is not in {}, and store the new one there (0600)",
                file.display()
            ),
            Self::Grant { path, role } if roles::spreads(path) => {
                write!(f, "grant {role} on {path} to {PVE_USER}")
            }
            Self::Grant { path, role } => {
                write!(f, "grant {role} on {path} alone, nothing below it, to {PVE_USER}")
            }
            Self::MakeDir { dir } => write!(f, "create directory {}", dir.display()),
            Self::AddStorage { id, base, node } => {
                write!(f, "create storage {id} for snippets at {} on node {node}", base.display())
            }
            Self::AddToPool { pool, vmids } => {
                write!(f, "put templates {} into pool {pool}", list(vmids, ", "))
            }
            Self::CopyFile { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::WriteFile { path, .. } => write!(f, "write {}", path.display()),
            Self::Revoke { path, role } => write!(f, "revoke {role} on {path} from {PVE_USER}"),
            Self::Remove { what, .. } => write!(f, "remove {what}"),
            Self::RemoveFile { path } => write!(f, "remove {}", path.display()),
        }
    }
}

impl Change {
    /// Does it.
    ///
    /// # Errors
    /// Proxmox or the file system refused.
    pub(super) async fn apply(&self, admin: &dyn AdminApi) -> Result<(), SetupError> {
        let run =
            async |verb: Verb, path: &str, parameters: &[(&str, String)]| -> Result<Value, SetupError> {
                admin.call(verb, path, parameters).await.map_err(SetupError::pve(self.to_string()))
            };
        // Another node of the cluster may be set up at the same moment: then it is there already.
        let make = async |path: &str, parameters: &[(&str, String)]| match run(Verb::Create, path, parameters)
            .await
        {
            Err(SetupError::Pve { reason, .. }) if reason.text().contains("already exists") => Ok(()),
            other => other.map(|_| ()),
        };
        match self {
            Self::AddPool { pool, comment } => {
                make("/pools", &[("poolid", pool.clone()), ("comment", (*comment).to_owned())]).await?;
            }
            Self::AddRole { role, privileges } => {
                let parameters = [("roleid", (*role).to_owned()), ("privs", list(privileges, ","))];
                make("/access/roles", &parameters).await?;
            }
            Self::WidenRole { role, missing } => {
                let parameters = [("append", "1".to_owned()), ("privs", list(missing, ","))];
                run(Verb::Set, &format!("/access/roles/{role}"), &parameters).await?;
            }
            Self::AddUser => {
                let parameters = [("userid", PVE_USER.to_owned()), ("comment", "EZ node agent".to_owned())];
                make("/access/users", &parameters).await?;
            }
            Self::AddToken { name, file, replace } => {
                let path = format!("/access/users/{PVE_USER}/token/{name}");
                if *replace {
                    run(Verb::Delete, &path, &[]).await?;
                }
                let answer = run(Verb::Create, &path, &[("privsep", "0".to_owned())]).await?;
                let Some(secret) = answer.get("value").and_then(Value::as_str) else {
                    return Err(SetupError::Refused(format!(
                        "Proxmox did not tell the secret of token {name}"
                    )));
                };
                files::write(file, &format!("{PVE_USER}!{name}={secret}\n"), 0o600, true)?;
            }
            Self::Grant { path, role } => {
                let parameters = [
                    ("path", path.clone()),
                    ("users", PVE_USER.to_owned()),
                    ("roles", (*role).to_owned()),
                    ("propagate", u8::from(roles::spreads(path)).to_string()),
                ];
                run(Verb::Set, "/access/acl", &parameters).await?;
            }
            Self::MakeDir { dir } => files::make_dir(dir)?,
            Self::AddStorage { id, base, node } => {
                let parameters = [
                    ("storage", id.clone()),
                    ("type", "dir".to_owned()),
                    ("path", base.display().to_string()),
                    ("content", "snippets".to_owned()),
                    ("nodes", node.clone()),
                    ("create-base-path", "0".to_owned()),
                    ("create-subdirs", "0".to_owned()),
                ];
                run(Verb::Create, "/storage", &parameters).await?;
            }
            Self::AddToPool { pool, vmids } => {
                // A template may sit in another pool; it is moved, not refused.
                let parameters =
                    [("poolid", pool.clone()), ("vms", list(vmids, ",")), ("allow-move", "1".to_owned())];
                run(Verb::Set, "/pools", &parameters).await?;
            }
            Self::CopyFile { from, to } => {
                let text = std::fs::read_to_string(from).map_err(SetupError::file("read", from))?;
                files::write(to, &text, 0o644, false)?;
            }
            Self::WriteFile { path, text, mode } => files::write(path, text, *mode, false)?,
            Self::Revoke { path, role } => {
                let parameters = [
                    ("path", path.clone()),
                    ("users", PVE_USER.to_owned()),
                    ("roles", role.clone()),
                    ("delete", "1".to_owned()),
                ];
                run(Verb::Set, "/access/acl", &parameters).await?;
            }
            Self::Remove { path, parameters, .. } => {
                run(Verb::Delete, path, parameters).await?;
            }
            Self::RemoveFile { path } => match std::fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(SetupError::file("remove", path))?,
            },
        }
        Ok(())
    }
}
