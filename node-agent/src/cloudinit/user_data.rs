//! user-data: our cloud-config, and the customer's own part beside it.

use data_encoding::BASE64;
use ez_protocol::{
    InstanceId, ProvisioningOrderId,
    order::{InstanceSpec, PasswordHash},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{CloudInitError, plain, templates};

/// The part of our cloud-config that is about this one server. The field names are cloud-init's.
#[derive(Debug, Serialize)]
struct Own<'a> {
    hostname: &'a str,
    fqdn: &'a str,
    manage_etc_hosts: bool,
    disable_root: bool,
    ssh_pwauth: bool,
    users: Vec<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bootcmd: Vec<Vec<String>>,
}

/// A password that root gets at the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordReset {
    /// The order that asked for it. The guest does each order once.
    pub order: ProvisioningOrderId,
    /// Its crypt hash.
    pub hash: PasswordHash,
}

/// `bootcmd` runs at every boot, early; `cloud-init-per once` lets a command run once in the life of a disk.
/// First-boot modules, those about sshd among them, would not run again, because the instance-id is pinned.
fn at_boot(reset: &PasswordReset) -> Result<Vec<String>, CloudInitError> {
    let (name, hash) = (format!("ez-password-{}", reset.order), plain("password_hash", reset.hash.as_str())?);
    Ok(["cloud-init-per", "once", &name, "usermod", "--password", hash, "root"].map(str::to_owned).to_vec())
}

#[derive(Debug, Serialize)]
struct User<'a> {
    name: &'a str,
    lock_passwd: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashed_passwd: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh_authorized_keys: Vec<String>,
}

/// Distributions allow root only keys; who orders a password means to use it.
fn allow_root_password() -> Value {
    json!({
        "path": "/etc/ssh/sshd_config.d/10-ez-root.conf",
        "permissions": "0644",
        "content": "PermitRootLogin yes\n",
    })
}

/// Root with its keys (password login only where a hash was ordered), and what the installation and
/// the recipes add. Which keys there are depends on closed words only, never on a text.
pub(super) fn config(
    spec: &InstanceSpec,
    reset: Option<&PasswordReset>,
) -> Result<Map<String, Value>, CloudInitError> {
    let hash = spec.password_hash.as_ref().map(|hash| plain("password_hash", hash.as_str())).transpose()?;
    let mut keys = Vec::new();
    for key in &spec.ssh_keys {
        keys.push(plain("ssh_keys", &key.to_string())?.to_owned());
    }
    let locale = spec.locale.as_ref().map(|locale| plain("locale", locale.as_str())).transpose()?;
    let timezone = spec.timezone.as_ref().map(|zone| plain("timezone", zone.as_str())).transpose()?;
    let own = Own {
        hostname: plain("hostname", spec.hostname.short())?,
        fqdn: plain("hostname", spec.hostname.as_str())?,
        manage_etc_hosts: true,
        disable_root: false,
        // Whoever orders a password, now or later, means to use it.
        ssh_pwauth: hash.is_some() || reset.is_some(),
        users: vec![User {
            name: "root",
            lock_passwd: hash.is_none(),
            hashed_passwd: hash,
            ssh_authorized_keys: keys,
        }],
        bootcmd: reset.map(at_boot).transpose()?.into_iter().collect(),
        locale,
        timezone,
    };
    let mut all = templates::parts(spec.image.family, &spec.recipes)?;
    if hash.is_some() || reset.is_some() {
        let files = all.entry("write_files").or_insert_with(|| json!([]));
        if let Some(files) = files.as_array_mut() {
            files.insert(0, allow_root_password());
        }
    }
    match serde_json::to_value(&own) {
        Ok(Value::Object(own)) => all.extend(own),
        Ok(_) => return Err(CloudInitError::RoundTrip("user")),
        Err(error) => return Err(CloudInitError::Emit { file: "user", reason: error.to_string() }),
    }
    Ok(all)
}

/// How cloud-init merges the second part: lists grow, keys that are there stay.
const MERGE: &str = "list(append)+dict(no_replace,recurse_list)+str()";

/// Type of a part by its first line, as cloud-init has it; it looks itself where we cannot tell.
fn media_type(text: &str) -> &'static str {
    let first = text.trim_start_matches('\u{feff}').lines().next().unwrap_or("").trim_end();
    match first {
        "#cloud-config" => "text/cloud-config",
        "#cloud-boothook" => "text/cloud-boothook",
        "#include" => "text/x-include-url",
        "## template: jinja" => "text/jinja2",
        _ if first.starts_with("#!") => "text/x-shellscript",
        _ => "text/plain",
    }
}

/// Both parts in one message. Base64 keeps the customer's text from ending its part.
pub(super) fn multipart(instance: InstanceId, ours: &str, own: &str) -> String {
    let boundary = format!("=_ez_{}", instance.as_uuid().simple());
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for (kind, merge, body) in [("text/cloud-config", None, ours), (media_type(own), Some(MERGE), own)] {
        text.push_str(&format!("--{boundary}\nContent-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\n"));
        text.push_str("Content-Transfer-Encoding: base64\n");
        if let Some(merge) = merge {
            text.push_str(&format!("X-Merge-Type: {merge}\n"));
        }
        text.push('\n');
        for line in BASE64.encode(body.as_bytes()).as_bytes().chunks(76) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
    }
    text.push_str(&format!("--{boundary}--\n"));
    text
}
