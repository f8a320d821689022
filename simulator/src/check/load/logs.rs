//! Looks for secrets in everything that is written for people and machines to read later.

use std::path::{Path, PathBuf};

use super::{LoadError, State};

/// Every place where a secret of this system stands in a log: the programs' logs and the request
/// logs of the simulators.
///
/// # Errors
/// A log that cannot be read, or none at all: what was not read was not searched.
pub(super) fn leaks(state_dir: &Path, state: &State) -> Result<Vec<(String, String)>, LoadError> {
    let mut secrets = vec![
        ("the Stripe key".to_owned(), state.stripe.secret_key.clone()),
        ("the webhook secret".to_owned(), state.stripe.webhook_secret.clone()),
        ("the operator's password".to_owned(), state.operator.password.clone()),
        ("the operator's API token".to_owned(), state.operator.api_token.clone()),
        ("the customer's password".to_owned(), state.customer.password.clone()),
        ("the customer's API token".to_owned(), state.customer.api_token.clone()),
    ];
    for node in &state.nodes {
        secrets.push((format!("the administrator's token of {}", node.name), node.pve_token_secret.clone()));
        let token = state_dir.join("nodes").join(&node.name).join("pve-token");
        if let Ok(text) = std::fs::read_to_string(token)
            && let Some((_, secret)) = text.trim().split_once('=')
        {
            secrets.push((format!("the agent's Proxmox token of {}", node.name), secret.to_owned()));
        }
    }
    secrets.push(("a private key".to_owned(), "PRIVATE KEY-----".to_owned()));
    secrets.retain(|(_, secret)| secret.len() >= 8);
    let mut found = Vec::new();
    // The simulator's record of deliveries holds the webhook secret on purpose: a checker needs it.
    let directories = [state_dir.join("logs"), state_dir.join("sim/logs")];
    let files = directories.iter().flat_map(|d| log_files(d));
    let mut read = 0;
    for path in files.filter(|p| !p.to_string_lossy().contains("deliveries")) {
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Old logs go away by themselves.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(LoadError::State { path, reason: error.to_string() }),
        };
        read += 1;
        for (name, secret) in &secrets {
            if text.contains(secret.as_str()) {
                found.push((path.display().to_string(), name.clone()));
            }
        }
    }
    if read == 0 {
        let reason = "there is no log to search for secrets".to_owned();
        return Err(LoadError::State { path: state_dir.join("logs"), reason });
    }
    Ok(found)
}

fn log_files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file())
}
