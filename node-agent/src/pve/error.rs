//! What a call to Proxmox VE can come to, sorted by what the caller may conclude.
//!
//! The classes matter more than the texts: after [`PveError::Refused`] nothing has happened, after
//! [`PveError::OutcomeUnknown`] anything may have happened and the only way on is to look. Proxmox
//! answers nearly every refusal with status 500, so the few texts the executor must tell apart are
//! recognised here, once, from recorded answers of a real host.

use std::collections::BTreeMap;

/// A call that did not end in a usable success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PveError {
    /// Proxmox looked at the request and said no. Nothing was changed.
    #[error("{call}: Proxmox refused with {status}: {message}{}", list(errors))]
    Refused {
        /// Method and path of the call.
        call: String,
        /// HTTP status.
        status: u16,
        /// First line of the message, or the reason phrase where there was no body.
        message: String,
        /// Parameter name → text; only with status 400.
        errors: BTreeMap<String, String>,
    },
    /// The request may have been carried out: it was sent, but no usable answer came back
    /// (time-out, reset, 502–504, 595–599). Look before repeating.
    #[error("{call}: outcome unknown: {reason}")]
    OutcomeUnknown {
        /// Method and path of the call.
        call: String,
        /// What was seen instead of an answer.
        reason: String,
    },
    /// 401: the token is unknown, wrong, expired or revoked.
    #[error("{call}: not authenticated: {message}")]
    Unauthorized {
        /// Method and path of the call.
        call: String,
        /// Reason phrase.
        message: String,
    },
    /// No connection could be made; the request was not sent.
    #[error("{call}: cannot reach Proxmox: {reason}")]
    Unreachable {
        /// Method and path of the call.
        call: String,
        /// What the operating system or TLS said.
        reason: String,
    },
    /// Proxmox said yes, but the answer is not what we can read.
    #[error("{call}: cannot read the answer: {reason}")]
    Decode {
        /// Method and path of the call.
        call: String,
        /// What the decoder said.
        reason: String,
    },
    /// We refuse to send this: a value that does not belong into a path or parameter.
    #[error("not sent: {0}")]
    Invalid(String),
}

fn list(errors: &BTreeMap<String, String>) -> String {
    errors.iter().map(|(parameter, text)| format!(" [{parameter}: {}]", text.trim())).collect()
}

impl PveError {
    /// The refusal's text: the message and, for parameter errors, their texts.
    pub fn text(&self) -> String {
        match self {
            Self::Refused { message, errors, .. } => format!("{message}{}", list(errors)),
            other => other.to_string(),
        }
    }

    /// HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unauthorized { .. } => Some(401),
            _ => None,
        }
    }

    fn refused_with(&self, test: impl Fn(&str) -> bool) -> bool {
        matches!(self, Self::Refused { message, .. } if test(message))
    }

    /// Nothing was changed at Proxmox, for certain.
    pub fn had_no_effect(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown { .. } | Self::Decode { .. })
    }

    /// It is not known whether the call had an effect: observe, then decide.
    pub fn is_outcome_unknown(&self) -> bool {
        !self.had_no_effect()
    }

    /// The VM does not exist (readable only with rights on `/vms`; otherwise it is a 403).
    pub fn is_absent(&self) -> bool {
        self.refused_with(text::is_absent)
    }

    /// 403. With pool-scoped rights this also stands for "no such VM".
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }

    /// The datacenter's rules let us set or take no such tag (`user-tag-access`, `registered-tags`).
    pub fn is_about_tags(&self) -> bool {
        self.is_forbidden() && self.refused_with(|m| m.contains("for modifying tag '"))
    }

    /// The VM's configuration carries a lock: another operation runs, or was left half done.
    pub fn is_locked(&self) -> bool {
        self.refused_with(text::is_locked)
    }

    /// A process held the lock file for longer than Proxmox waits. Retry later.
    pub fn is_lock_timeout(&self) -> bool {
        self.refused_with(text::is_lock_timeout)
    }

    /// The VMID is taken (anywhere in the cluster).
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused { message, errors, .. }
            if text::is_already_exists(message) || errors.values().any(|e| text::is_already_exists(e)))
    }

    /// Somebody changed the configuration since it was read: read again.
    pub fn is_digest_mismatch(&self) -> bool {
        self.refused_with(text::is_digest_mismatch)
    }

    /// The VM is stopped, and the call wants a running one.
    pub fn is_not_running(&self) -> bool {
        self.refused_with(text::is_not_running)
    }

    /// The VM runs, and the call wants a stopped one.
    pub fn is_running(&self) -> bool {
        self.refused_with(|m| m.contains(" is running - destroy failed"))
    }

    /// The guest agent does not answer (yet).
    pub fn is_agent_silent(&self) -> bool {
        self.refused_with(text::is_agent_silent)
    }

    /// Destroying is blocked by the VM's protection flag.
    pub fn is_protected(&self) -> bool {
        self.refused_with(|m| m.contains("protection mode enabled"))
    }

    /// Somebody answers, but not with the pinned certificate: it was renewed, or this is not the host.
    pub fn is_other_certificate(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.contains(super::tls::OTHER))
    }

    /// The VM is replicated or highly available, and is destroyed only together with that (`purge`).
    pub fn wants_purge(&self) -> bool {
        self.refused_with(|m| {
            m.contains("used in HA resources and purge parameter not set")
                || m.contains("There is a replication job '")
        })
    }

    /// The cluster cannot be written to just now: nothing is wrong with the request.
    pub fn is_no_quorum(&self) -> bool {
        self.refused_with(text::is_no_quorum)
    }

    /// Worth another try by itself: a busy lock, a cluster that lost some of its nodes, or a host that is just not there.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.is_lock_timeout() || self.is_no_quorum()
    }
}

/// Recognises Proxmox's own texts, in answers and in the exit status of tasks alike.
pub mod text {
    /// `Configuration file 'nodes/…/101.conf' does not exist` and its sisters.
    pub fn is_absent(text: &str) -> bool {
        (text.contains("Configuration file '") && text.contains("does not exist"))
            || text.contains("unable to find configuration file for VM ")
    }

    /// `VM is locked (clone)`.
    pub fn is_locked(text: &str) -> bool {
        text.contains("VM is locked (")
    }

    /// `can't lock file '/var/lock/…' - got timeout`.
    pub fn is_lock_timeout(text: &str) -> bool {
        text.contains("can't lock file ") || text.contains("got lock request timeout")
    }

    /// The cluster's own file system takes no writes: too few of its nodes are in touch with each other, or its daemon is
    /// just away. Its functions say so by name (pve-cluster, `check_cfs_quorum` and `cfs_lock`); whoever only writes a
    /// configuration hears the system's words for a file that may not be written.
    pub fn is_no_quorum(text: &str) -> bool {
        text.contains("no quorum")
            || text.contains("cluster filesystem not online")
            || (text.contains("Permission denied")
                && (text.contains("/etc/pve/") || text.contains("failed to remove config file")))
    }

    /// The volume that a destruction left behind, by a line of its log: it could not be removed, or its storage did not
    /// even say where it is (qemu-server, `destroy_vm`). Proxmox 9 writes `WARN: ` before it and ends with warnings, 8
    /// ends with `OK`.
    pub fn kept_volume(line: &str) -> Option<&str> {
        let before = ["Could not remove disk '", "failed to get path and owner of volume '"];
        let rest = before.iter().find_map(|words| line.split_once(words))?.1;
        rest.split_once('\'').map(|(volume, _)| volume)
    }

    /// The texts of create, clone and `nextid` for a taken VMID.
    pub fn is_already_exists(text: &str) -> bool {
        text.contains("config file already exists")
            || (text.contains("VM ") && text.contains(" already exists"))
            || (text.contains("CT ") && text.contains(" already exists"))
    }

    /// `checksum mismatch (file change by other user?)`.
    pub fn is_digest_mismatch(text: &str) -> bool {
        text.contains("checksum mismatch") || text.contains("detected modified configuration")
    }

    /// `VM 100 not running`, `VM 100 is not running`.
    pub fn is_not_running(text: &str) -> bool {
        text.starts_with("VM ") && text.trim_end().ends_with("not running")
    }

    /// `VM 100 already running`: for a start this is success.
    pub fn is_already_running(text: &str) -> bool {
        text.starts_with("VM ") && text.trim_end().ends_with("already running")
    }

    /// The guest agent is configured, but does not answer.
    pub fn is_agent_silent(text: &str) -> bool {
        text.contains("QEMU guest agent is not running") || text.contains("guest agent is not running")
    }

    /// A shutdown or reboot that the guest did not obey in time.
    pub fn is_shutdown_timeout(text: &str) -> bool {
        text.contains("powerdown failed - got timeout")
    }

    /// The storage has no room.
    pub fn is_no_space(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.contains("no space left")
            || text.contains("not enough free space")
            || text.contains("out of space")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> PveError {
        PveError::Refused { call: "GET /x".into(), status, message: message.into(), errors: BTreeMap::new() }
    }

    #[test]
    fn recorded_texts_fall_into_their_classes() {
        assert!(
            refused(500, "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist").is_absent()
        );
        assert!(refused(500, "unable to find configuration file for VM 9999 on node 'pve1'").is_absent());
        assert!(refused(500, "VM is locked (clone)").is_locked());
        let busy = refused(500, "can't lock file '/var/lock/qemu-server/lock-120.conf' - got timeout");
        assert!(busy.is_lock_timeout() && busy.is_transient() && !busy.is_locked());
        assert!(refused(500, "unable to create VM 101: config file already exists").is_already_exists());
        assert!(
            refused(500, "unable to create VM 101 - VM 101 already exists on node 'pve1'")
                .is_already_exists()
        );
        assert!(!refused(500, "storage 'x' does not exist").is_absent());
        assert!(!refused(400, "IPSet 'ipfilter-net0' already exists").is_already_exists());
        assert!(refused(403, "Permission check failed (/vms/101, VM.Audit)").is_forbidden());
        assert!(
            refused(403, "Permission check failed (/, Sys.Modify for modifying tag 'ez')").is_about_tags()
        );
        assert!(!refused(403, "Permission check failed (/vms/101, VM.Config.Options)").is_about_tags());
        assert!(refused(500, "checksum mismatch (file change by other user?)").is_digest_mismatch());
        assert!(refused(500, "VM 103 not running").is_not_running());
        assert!(refused(500, "VM 103 is running - destroy failed").is_running());
        assert!(refused(500, "QEMU guest agent is not running").is_agent_silent());
        assert!(refused(500, "can't remove VM 100 - protection mode enabled").is_protected());
    }

    #[test]
    fn a_disk_that_a_destruction_left_is_known_by_its_log() {
        for line in [
            "WARN: Could not remove disk 'local-lvm:vm-101-disk-0', check manually: lvremove 'pve/vm-101-disk-0' error:   \
             Logical volume pve/vm-101-disk-0 in use.",
            "Could not remove disk 'local-lvm:vm-101-disk-0', check manually: got lock request timeout",
            "WARN: failed to get path and owner of volume 'local-lvm:vm-101-disk-0': storage 'local-lvm' does not exist",
        ] {
            assert_eq!(text::kept_volume(line), Some("local-lvm:vm-101-disk-0"), "{line}");
        }
        for line in ["purging VM 101 from related configurations..", "TASK WARNINGS: 1", "TASK OK"] {
            assert_eq!(text::kept_volume(line), None, "{line}");
        }
    }

    #[test]
    fn a_cluster_without_quorum_is_known_by_all_its_words() {
        for words in [
            "cluster not ready - no quorum?",
            "cfs-lock 'file-user_cfg' error: no quorum!",
            "pve cluster filesystem not online.",
            "unable to open file '/etc/pve/nodes/pve1/qemu-server/101.conf.tmp.4711' - Permission denied",
            "clone failed: unable to open file '/etc/pve/nodes/pve1/qemu-server/101.conf.tmp.4711' - Permission denied",
            "failed to remove config file: Permission denied",
        ] {
            let error = refused(500, words);
            assert!(error.is_no_quorum() && error.is_transient() && error.had_no_effect(), "{words}");
        }
        for other in
            ["Permission check failed (/vms/101, VM.Audit)", "can't open '/dev/kvm': Permission denied"]
        {
            assert!(!refused(500, other).is_no_quorum(), "{other}");
        }
    }

    #[test]
    fn a_taken_number_is_seen_in_parameter_errors() {
        let error = PveError::Refused {
            call: "GET /cluster/nextid".into(),
            status: 400,
            message: "Parameter verification failed.".into(),
            errors: BTreeMap::from([("vmid".to_owned(), "VM 101 already exists\n".to_owned())]),
        };
        assert!(error.is_already_exists() && error.had_no_effect());
        assert_eq!(error.text(), "Parameter verification failed. [vmid: VM 101 already exists]");
    }

    #[test]
    fn only_a_missing_answer_leaves_the_outcome_open() {
        let call = || "POST /x".to_owned();
        assert!(PveError::OutcomeUnknown { call: call(), reason: "timed out".into() }.is_outcome_unknown());
        assert!(PveError::Unreachable { call: call(), reason: "refused".into() }.had_no_effect());
        assert!(PveError::Unauthorized { call: call(), message: "No ticket".into() }.had_no_effect());
        assert!(refused(500, "anything").had_no_effect());
    }
}
