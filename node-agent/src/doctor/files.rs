//! The agent's own files: configuration, policy, token, identity.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use ez_protocol::envelope::KeyRole;

use super::{Check, Patient, span};
use crate::{
    identity::{Identity, IdentityError},
    setup::SYSTEM_USER,
};

pub(super) const NAMES: &[&str] = &[
    "configuration",
    "policy",
    "state-directory",
    "token-file",
    "cluster-certificate",
    "identity",
    "identity-files",
    "certificate",
    "trust",
];

/// Below this the renewal, due at half of 14 days, has failed for days.
const CERTIFICATE_LOW: Duration = Duration::from_secs(5 * 24 * 3_600);
const CHECK_CONFIG: &str =
    "ez-node-agent check-config says where; its example is in /usr/share/doc/ez-node-agent";

pub(super) fn look(patient: &Patient) -> Vec<Check> {
    let config = match &patient.config {
        Ok(config) => config,
        Err(error) => {
            let first = error.0.first().map_or_else(String::new, ToString::to_string);
            let mut checks = vec![Check::fail(
                "configuration",
                first,
                "ez-node-agent setup writes it; check-config says more",
            )];
            let unseen =
                |name: &&'static str| Check::unseen(name, "there is no configuration", "configuration");
            checks.extend(NAMES[1..].iter().map(unseen));
            return checks;
        }
    };
    let mut checks = vec![Check::ok("configuration", format!("{} is good", patient.config_file.display()))];
    checks.push(match &patient.policy {
        Some(Ok(policy)) => Check::ok(
            "policy",
            format!(
                "{} is good: VMIDs {}-{}",
                config.policy_file.display(),
                policy.vmids.start(),
                policy.vmids.end()
            ),
        ),
        Some(Err(error)) => {
            let first = error.0.first().map_or_else(String::new, ToString::to_string);
            Check::fail("policy", first, CHECK_CONFIG)
        }
        None => Check::unseen("policy", "there is no configuration", "configuration"),
    });
    checks.push(private(
        patient,
        "state-directory",
        &config.state_dir,
        0o027,
        "systemd-tmpfiles --create ez-node-agent.conf",
    ));
    let fix = "ez-node-agent setup makes a new one";
    checks.push(private(patient, "token-file", &config.pve_token_file, 0o077, fix));
    checks.push(match fs::metadata(&config.cluster_ca_file) {
        Ok(about) if about.len() > 0 => {
            Check::ok("cluster-certificate", format!("{} is there", config.cluster_ca_file.display()))
        }
        other => {
            let why = other.map_or_else(|error| error.to_string(), |_| "it is empty".to_owned());
            let found = format!("{}: {why}", config.cluster_ca_file.display());
            Check::fail("cluster-certificate", found, "ez-node-agent setup copies it from /etc/pve")
        }
    });
    match &patient.identity {
        Some(Ok(identity)) => {
            let node = &identity.node;
            checks
                .push(Check::ok("identity", format!("{} ({}), epoch {}", node.name, node.node, node.epoch)));
            checks.push(private(
                patient,
                "identity-files",
                &config.identity_dir().join("key.pem"),
                0o077,
                "join again with a new token",
            ));
            checks.push(certificate(patient, identity));
            checks.push(trust(patient, identity));
        }
        other => {
            let why = match other {
                Some(Err(error)) => error.to_string(),
                _ => "there is no configuration".to_owned(),
            };
            let fix = match other {
                Some(Err(IdentityError::NotJoined)) => "ez-node-agent join https://<control plane>:7443",
                Some(Err(IdentityError::File { source, .. }))
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    "run doctor as root"
                }
                _ => "join again with a new token: ez-node-agent join https://<control plane>:7443",
            };
            checks.push(Check::fail("identity", why, fix));
            let unseen = |name| Check::unseen(name, "this node has no usable identity", "identity");
            checks.extend(["identity-files", "certificate", "trust"].map(unseen));
        }
    }
    checks
}

/// A file or directory that is the agent's and that nobody else may look into.
fn private(patient: &Patient, name: &'static str, path: &Path, forbidden: u32, fix: &str) -> Check {
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) => return Check::fail(name, format!("{}: {error}", path.display()), fix),
    };
    if let Some(check) = anothers(patient, name, path, &about) {
        return check;
    }
    let mode = about.mode() & 0o777;
    if mode & forbidden != 0 {
        let found = format!("{} has mode {mode:04o}: others can read or change it", path.display());
        let letters = if about.is_dir() { "g-w,o-rwx" } else { "go-rwx" };
        return Check::fail(name, found, format!("chmod {letters} {}", path.display()));
    }
    Check::ok(name, format!("{}, mode {mode:04o}, user {}", path.display(), about.uid()))
}

/// What root put there, from a backup perhaps, the agent cannot use, however well root can.
pub(super) fn anothers(
    patient: &Patient,
    name: &'static str,
    path: &Path,
    about: &fs::Metadata,
) -> Option<Check> {
    patient.agents_user.filter(|agent| *agent != about.uid())?;
    let found = format!("{} belongs to user {}, so the agent cannot use it", path.display(), about.uid());
    Some(Check::fail(name, found, format!("chown {SYSTEM_USER}: {}", path.display())))
}

fn certificate(patient: &Patient, identity: &Identity) -> Check {
    let now = patient.clock.now();
    let fix = "look why it was not renewed (`journalctl -u ez-node-agent`), or join again with a new token";
    if identity.pair.not_after <= now {
        let ago = span(now.since(identity.pair.not_after));
        return Check::fail("certificate", format!("ended {ago} ago"), fix);
    }
    if now < identity.pair.not_before {
        let text = "is not valid yet: this host's clock is behind";
        return Check::fail("certificate", text, "set the clock right: timedatectl, chronyc makestep");
    }
    let left = identity.pair.not_after.since(now);
    let found = format!("good for another {}", span(left));
    if left < CERTIFICATE_LOW {
        Check::warn("certificate", found, fix)
    } else {
        Check::ok("certificate", found)
    }
}

fn trust(patient: &Patient, identity: &Identity) -> Check {
    let now = patient.clock.now();
    let fix = "join again with a new token, which brings the present document";
    let keys = match identity.trust.trusted_keys() {
        Ok(keys) => keys,
        Err(error) => return Check::fail("trust", error.to_string(), fix),
    };
    let good =
        keys.iter().filter(|k| k.role == KeyRole::Order && k.not_before <= now && now < k.not_after).count();
    let found = format!("version {}, {good} keys that sign orders", identity.trust.version);
    if good == 0 { Check::fail("trust", found, fix) } else { Check::ok("trust", found) }
}
