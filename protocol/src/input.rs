//! Text that people type and that ends up on a host: one validation for portal, API and agent.
//!
//! What passes here is safe to hand on as *data*. It is still never pasted into a template.

mod hostname;
mod ssh_key;

pub use hostname::{Hostname, HostnameError};
pub use ssh_key::{MAX_SSH_KEYS, SshKeyError, SshPublicKey};

/// Whether a character breaks a line or hides itself: control characters and every Unicode line
/// separator, the set YAML 1.1 treats as line breaks included.
pub fn is_control_or_line_break(c: char) -> bool {
    c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}
