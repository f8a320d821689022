//! OpenSSH public keys: exactly one line, no options, nothing that YAML or a shell could read.

use std::{fmt, str::FromStr};

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// How many keys one server takes.
pub const MAX_SSH_KEYS: usize = 20;
/// Longest accepted key line in bytes (an RSA 16384 key is about 2.8 kB).
const MAX_LINE: usize = 8 * 1024;
/// Longest accepted comment in characters.
const MAX_COMMENT: usize = 128;
/// Smallest accepted RSA modulus in bits.
const MIN_RSA_BITS: usize = 2048;

const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Why a key was refused. The texts are for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SshKeyError {
    /// Nothing was given.
    #[error("paste a public key, it begins with ssh-ed25519, ssh-rsa or ecdsa-sha2-…")]
    Empty,
    /// More than one line, or a character that breaks lines.
    #[error("a public key is one line; this has a line break or a control character in it")]
    LineBreak,
    /// Over 8 KiB.
    #[error("a public key has at most 8 KiB")]
    TooLong,
    /// A private key was pasted.
    #[error("this is a private key: keep it secret and paste the .pub file instead")]
    PrivateKey,
    /// The line begins with authorized_keys options.
    #[error("options before the key are not accepted; paste only the key itself")]
    Options,
    /// Not a key type we take.
    #[error("this key type is not supported; use ed25519, ecdsa or rsa")]
    UnknownType,
    /// The base64 part is broken or does not hold what the line says.
    #[error("this is not a complete public key; was it cut off while copying?")]
    BadBody,
    /// An RSA key under 2048 bits.
    #[error("this RSA key is too short; use 2048 bits or more, or better ed25519")]
    ShortRsa,
    /// The comment is over 128 characters or holds something else than plain ASCII.
    #[error("the comment after the key may have at most 128 plain characters, without ': ' and ' #'")]
    Comment,
}

/// One validated OpenSSH public key: `type base64 [comment]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SshPublicKey {
    line: String,
    blob: Vec<u8>,
}

impl SshPublicKey {
    /// Checks one key. Blanks around the line are dropped, nothing else is repaired.
    ///
    /// # Errors
    /// The first rule that the key breaks.
    pub fn parse(text: &str) -> Result<Self, SshKeyError> {
        let line = text.trim_matches([' ', '\t', '\r', '\n']);
        if line.is_empty() {
            return Err(SshKeyError::Empty);
        }
        if line.contains("PRIVATE KEY") {
            return Err(SshKeyError::PrivateKey);
        }
        if line.len() > MAX_LINE {
            return Err(SshKeyError::TooLong);
        }
        if line.chars().any(super::is_control_or_line_break) {
            return Err(SshKeyError::LineBreak);
        }
        let mut parts = line.splitn(3, ' ');
        let kind = parts.next().unwrap_or_default();
        if !TYPES.contains(&kind) {
            let options = TYPES.iter().any(|t| line.contains(&format!(" {t} ")));
            return Err(if options { SshKeyError::Options } else { SshKeyError::UnknownType });
        }
        let body = parts.next().ok_or(SshKeyError::BadBody)?;
        let blob = BASE64.decode(body.as_bytes()).map_err(|_| SshKeyError::BadBody)?;
        check_blob(kind, &blob)?;
        let comment = parts.next().unwrap_or_default().trim();
        let plain = comment.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        let yaml = comment.contains(": ") || comment.contains(" #") || comment.ends_with(':');
        if comment.chars().count() > MAX_COMMENT || !plain || yaml {
            return Err(SshKeyError::Comment);
        }
        let line =
            if comment.is_empty() { format!("{kind} {body}") } else { format!("{kind} {body} {comment}") };
        Ok(Self { line, blob })
    }

    /// The whole line as it goes into `authorized_keys`.
    pub fn as_str(&self) -> &str {
        &self.line
    }

    /// The key's type, such as `ssh-ed25519`.
    pub fn kind(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The comment after the key; empty if there is none.
    pub fn comment(&self) -> &str {
        self.line.splitn(3, ' ').nth(2).unwrap_or_default()
    }

    /// The fingerprint as `ssh-keygen -l` prints it: `SHA256:` and base64 without padding.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&Sha256::digest(&self.blob)))
    }
}

/// Reads a length-prefixed string and returns it with the rest.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// The blob repeats its type and holds the parts this type has, nothing after them.
fn check_blob(kind: &str, blob: &[u8]) -> Result<(), SshKeyError> {
    let (inner, mut rest) = take(blob).ok_or(SshKeyError::BadBody)?;
    if inner != kind.as_bytes() {
        return Err(SshKeyError::BadBody);
    }
    let parts = match kind {
        "ssh-ed25519" => 1,
        "sk-ecdsa-sha2-nistp256@openssh.com" => 3,
        _ => 2,
    };
    let mut fields = Vec::with_capacity(parts);
    for _ in 0..parts {
        let (field, after) = take(rest).ok_or(SshKeyError::BadBody)?;
        fields.push(field);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(SshKeyError::BadBody);
    }
    match kind {
        "ssh-ed25519" | "sk-ssh-ed25519@openssh.com" if fields[0].len() != 32 => Err(SshKeyError::BadBody),
        "ssh-rsa" => {
            let modulus = fields[1].strip_prefix(&[0]).unwrap_or(fields[1]);
            let bits = modulus.first().map_or(0, |b| modulus.len() * 8 - b.leading_zeros() as usize);
            if bits < MIN_RSA_BITS { Err(SshKeyError::ShortRsa) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl FromStr for SshPublicKey {
    type Err = SshKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for SshPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.line)
    }
}

impl<'de> Deserialize<'de> for SshPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a key line of a type from its length-prefixed parts.
    fn line(kind: &str, parts: &[&[u8]], comment: &str) -> String {
        let mut blob = Vec::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            blob.extend((part.len() as u32).to_be_bytes());
            blob.extend(part);
        }
        format!("{kind} {} {comment}", BASE64.encode(&blob))
    }

    #[test]
    fn a_usual_key_passes_and_keeps_its_comment() {
        let text = line("ssh-ed25519", &[&[7; 32]], "jane@laptop");
        let key = SshPublicKey::parse(&format!(" {text}\n")).unwrap();
        assert_eq!(key.as_str(), text);
        assert_eq!(key.comment(), "jane@laptop");
        assert!(key.fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn each_rule_refuses() {
        use SshKeyError::*;
        let good = line("ssh-ed25519", &[&[7; 32]], "");
        let good = good.trim();
        let rsa = line("ssh-rsa", &[&[1, 0, 1], &[0xff; 128]], "");
        let cases: Vec<(String, SshKeyError)> = vec![
            ("".into(), Empty),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".into(), PrivateKey),
            (format!("{good} a\nssh-rsa b"), LineBreak),
            (format!("{good} a\u{2028}runcmd:"), LineBreak),
            (format!("{good} a\u{85}runcmd:"), LineBreak),
            (format!("{good} a\rruncmd:"), LineBreak),
            (format!("command=\"x\" {good} c"), Options),
            ("ssh-dss AAAA".into(), UnknownType),
            ("ssh-ed25519".into(), BadBody),
            ("ssh-ed25519 AAAA".into(), BadBody),
            (good.replacen("ssh-ed25519", "ssh-rsa", 1), BadBody),
            (format!("{good} me: laptop"), Comment),
            (format!("{good} me #1"), Comment),
            (format!("{good} {}", "x".repeat(129)), Comment),
            (format!("{good} jané"), Comment),
            (rsa, ShortRsa),
            (format!("{good} {}", "x".repeat(9000)), TooLong),
        ];
        for (text, why) in cases {
            assert_eq!(SshPublicKey::parse(&text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn rsa_2048_passes() {
        let mut modulus = vec![0];
        modulus.extend([0xff; 256]);
        let text = line("ssh-rsa", &[&[1, 0, 1], &modulus], "x");
        assert!(SshPublicKey::parse(&text).is_ok());
    }
}
