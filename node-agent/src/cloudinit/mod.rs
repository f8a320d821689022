//! First-boot files of one instance: user-data, vendor-data, meta-data and network-config.
//!
//! - **By serialiser only.** Everything is built as data and emitted by a YAML serialiser that quotes
//!   every text; then the result is parsed back and compared with the intent. Whatever a customer
//!   typed cannot become structure.
//! - **user-data is ours, in whole.** `cicustom: user=` replaces what Proxmox would generate, which it
//!   builds by pasting. Name, keys and password of root go here, and what the installation and the
//!   ordered recipes add ([`templates`]).
//! - **vendor-data** carries defaults (disk growth, locale, time zone) from
//!   `templates/cloud-init/vendor.yaml`, each of which a customer's own part can override.
//! - **meta-data pins the instance-id** to the instance's UUID. Proxmox would derive it from the other
//!   files, so that a changed address would run the first boot again: new host keys, locked-out users.
//! - **network-config** has every address and gateway, which Proxmox's `ipconfig0` cannot say
//!   ([`network`]).
//! - **A customer's own user-data** becomes a second MIME part, base64-encoded, never pasted; its lists
//!   are appended to ours and its keys do not replace ours.
//! - **A rescue system gets none of it.** Its disk is new to cloud-init, so everything meant for the server's first
//!   boot would run in it, beside the server's own disk: what partitions a second disk would wipe that one.

mod network;
mod snippets;
mod templates;
mod user_data;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use ez_protocol::{
    InstanceId,
    input::is_control_or_line_break,
    order::{ImageRef, InstanceSpec},
};
use serde::Serialize;
use serde_json::Value;

pub use snippets::{KINDS as SNIPPET_KINDS, SnippetError, SnippetStore};
pub use user_data::PasswordReset;

/// The files of one instance, ready to be written.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudInit {
    /// cloud-config, or a multipart message that contains it.
    pub user: String,
    /// cloud-config of the installation's defaults.
    pub vendor: String,
    /// instance-id and host name.
    pub meta: String,
    /// Addresses, routes and name servers, version 2.
    pub network: String,
}

impl std::fmt::Debug for CloudInit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Holds password hashes and the customer's own secrets.
        let lengths = [&self.user, &self.vendor, &self.meta, &self.network].map(String::len);
        write!(f, "CloudInit({lengths:?} bytes)")
    }
}

/// Why the files could not be made. Never the customer's fault: what they typed was checked before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudInitError {
    /// A text holds a control character or a line break of some kind.
    #[error("{0} holds a control character or a line break")]
    Unsafe(&'static str),
    /// The serialiser failed.
    #[error("cannot write {file}-data: {reason}")]
    Emit {
        /// `user`, `vendor`, `meta` or `network`.
        file: &'static str,
        /// What it said.
        reason: String,
    },
    /// One of the installation's own templates is not usable.
    #[error("the cloud-init template {name}: {reason}")]
    Template {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What was written does not read back as what was meant.
    #[error("{0}-data does not read back as it was meant")]
    RoundTrip(&'static str),
}

/// The installation's own part.
const VENDOR: &str = include_str!("../../../templates/cloud-init/vendor.yaml");
/// First line of every cloud-config.
const HEADER: &str = "#cloud-config\n";

/// Makes the files of an instance.
///
/// # Errors
/// See [`CloudInitError`]; then nothing of it may be used.
pub fn build(
    instance: InstanceId,
    spec: &InstanceSpec,
    reset: Option<&PasswordReset>,
) -> Result<CloudInit, CloudInitError> {
    let rescue = spec.rescue.is_some().then(|| in_rescue(spec));
    let spec = rescue.as_ref().unwrap_or(spec);
    let user = cloud_config("user", &user_data::config(spec, reset)?)?;
    let user = match &spec.user_data {
        None => user,
        Some(own) => user_data::multipart(instance, &user, own.as_str()),
    };
    let vendor: Value = serde_saphyr::from_str(VENDOR)
        .map_err(|error| CloudInitError::Emit { file: "vendor", reason: error.to_string() })?;
    let meta = serde_json::json!({
        "instance-id": instance.to_string(),
        "local-hostname": plain("hostname", spec.hostname.short())?,
    });
    let network = emit("network", &network::config(&spec.network))?;
    Ok(CloudInit { user, vendor: cloud_config("vendor", &vendor)?, meta: emit("meta", &meta)?, network })
}

/// What a rescue system is told: name, keys, password and network. What was ordered for the server's first boot is not
/// for it, nor is it of the server's family.
fn in_rescue(spec: &InstanceSpec) -> InstanceSpec {
    let image = ImageRef { family: None, ..spec.image.clone() };
    InstanceSpec { image, user_data: None, recipes: Vec::new(), ..spec.clone() }
}

/// The text, if it breaks no line and hides nothing.
fn plain<'a>(name: &'static str, text: &'a str) -> Result<&'a str, CloudInitError> {
    if text.chars().any(is_control_or_line_break) { Err(CloudInitError::Unsafe(name)) } else { Ok(text) }
}

fn cloud_config(file: &'static str, value: &impl Serialize) -> Result<String, CloudInitError> {
    Ok(format!("{HEADER}{}", emit(file, value)?))
}

/// Emits YAML with every text quoted, in plain ASCII, and reads it back.
fn emit(file: &'static str, value: &impl Serialize) -> Result<String, CloudInitError> {
    let failed = |reason: String| CloudInitError::Emit { file, reason };
    let meant = serde_json::to_value(value).map_err(|e| failed(e.to_string()))?;
    let options = serde_saphyr::ser_options! { quote_all: true };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, &meant, options)
        .map_err(|e| failed(e.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let ascii = text.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte));
    let read: Value = serde_saphyr::from_str(&text).map_err(|_| CloudInitError::RoundTrip(file))?;
    if ascii && read == meant { Ok(text) } else { Err(CloudInitError::RoundTrip(file)) }
}
