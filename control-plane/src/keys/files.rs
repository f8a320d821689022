//! The key directory: made once, read at each start.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::SigningKey;
use ez_protocol::{
    InstallId, UnixMillis,
    envelope::KeyRole,
    frame::PROTO_MIN,
    trust::{Pin, TrustDocument, TrustDocumentKey},
};

use super::{
    Keys, KeysError,
    authority::{AUTHORITY_LIFE, Authority, KeyPem},
    link::{LINK, LINK_META, LinkIssuer},
    rotate,
};
use crate::entropy::Entropy;

/// How long the keys of the first trust document are trusted: as long as its authorities.
pub(super) const KEY_LIFE: Duration = AUTHORITY_LIFE;

pub(super) const TRUST: &str = "trust.json";
const AGENT_CA: &str = "agent-ca";
const LINK_CA: &str = "link-ca";
const LINK_RESET: &str = "link-reset.key";
pub(super) const ORDER_KEY: &str = "order.key";
pub(super) const TRUST_KEY: &str = "trust.key";

/// What `keys init` needs to know.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// DNS names and IP addresses under which agents reach the link; at least one.
    pub names: Vec<String>,
    /// Port of the link.
    pub port: u16,
}

/// Makes all keys in `dir` and returns the pin of the new trust document.
///
/// # Errors
/// [`KeysError::Exists`] when any file of a key is there already, even if others are missing; nothing is ever
/// overwritten.
pub fn init(
    dir: &Path,
    options: &InitOptions,
    at: UnixMillis,
    entropy: &dyn Entropy,
) -> Result<Pin, KeysError> {
    if let Some(there) = first_key_file(dir)? {
        return Err(KeysError::Exists(dir.join(there).display().to_string()));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| file_error(dir, e))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| file_error(dir, e))?;

    let install = InstallId::generate(at, random(entropy));
    let (agent_ca, agent_pem) = Authority::create("EZ agents", at, random(entropy))?;
    let (link_ca, link_ca_pem) = Authority::create("EZ link servers", at, random(entropy))?;
    let order = SigningKey::from_bytes(&random(entropy));
    let trust = SigningKey::from_bytes(&random(entropy));
    let from = at.minus(Duration::from_secs(300));
    let document = TrustDocument {
        version: 1,
        install,
        agent_ca: vec![BASE64.encode(agent_ca.certificate())],
        link_ca: vec![BASE64.encode(link_ca.certificate())],
        keys: vec![
            TrustDocumentKey::new(&order.verifying_key(), KeyRole::Order, from, at.plus(KEY_LIFE)),
            TrustDocumentKey::new(&trust.verifying_key(), KeyRole::Trust, from, at.plus(KEY_LIFE)),
        ],
        link: options.names.iter().map(|name| dial_address(name, options.port)).collect(),
        min_proto: PROTO_MIN,
    }
    .to_bytes()?;

    write_pair(dir, AGENT_CA, &agent_pem)?;
    write_pair(dir, LINK_CA, &link_ca_pem)?;
    write(dir, ORDER_KEY, seed_text(&order).as_bytes())?;
    write(dir, TRUST_KEY, seed_text(&trust).as_bytes())?;
    let names = options.names.clone();
    let issuer = LinkIssuer { dir: dir.to_owned(), install, authority: link_ca, names, fallback: Vec::new() };
    issuer.init(at, entropy)?;
    // Last: a directory with this file is complete.
    write(dir, TRUST, &document)?;
    Ok(Pin::of(&document))
}

/// The first of the files that `init` writes which is there already. A link that points nowhere counts, too.
fn first_key_file(dir: &Path) -> Result<Option<String>, KeysError> {
    let pairs = [AGENT_CA, LINK_CA, LINK]
        .iter()
        .flat_map(|stem| [format!("{stem}.key.pem"), format!("{stem}.crt.pem")]);
    let singles = [TRUST, ORDER_KEY, TRUST_KEY, LINK_RESET, LINK_META].iter().map(|name| (*name).to_owned());
    for name in singles.chain(pairs) {
        let path = dir.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Ok(Some(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(&path, error)),
        }
    }
    Ok(None)
}

/// Reads all keys. `names` are those of the link's certificate; with none, those of the trust document.
///
/// # Errors
/// [`KeysError::Missing`] when there are none, [`KeysError::Exposed`] when others may read them.
pub fn load(dir: &Path, names: &[String], entropy: &dyn Entropy) -> Result<Keys, KeysError> {
    if !dir.join(TRUST).exists() {
        return Err(KeysError::Missing(dir.display().to_string()));
    }
    let document = read(dir, TRUST)?;
    let trusted = TrustDocument::from_bytes(&document)?;
    let issuer = LinkIssuer {
        dir: dir.to_owned(),
        install: trusted.install,
        authority: Authority::from_pem(&read_pair(dir, LINK_CA)?)?,
        names: names.to_vec(),
        fallback: trusted.link.iter().map(|address| host_of(address)).collect(),
    };
    let order = read_seed(dir, ORDER_KEY)?;
    let (earlier, published) = rotate::history(dir, &trusted, &order)?;
    Ok(Keys {
        install: trusted.install,
        order,
        trust: read_seed(dir, TRUST_KEY)?,
        agent_ca: Authority::from_pem(&read_pair(dir, AGENT_CA)?)?,
        pin: Pin::of(&document),
        earlier,
        published,
        document,
        link: Arc::new(issuer),
        link_reset: link_reset(dir, entropy)?,
    })
}

/// The key of the link's resets; installations made before it existed get one at their next start.
fn link_reset(dir: &Path, entropy: &dyn Entropy) -> Result<[u8; 32], KeysError> {
    if !dir.join(LINK_RESET).exists() {
        let key: [u8; 32] = random(entropy);
        write(dir, LINK_RESET, format!("{}\n", HEXLOWER.encode(&key)).as_bytes())?;
    }
    read_secret(dir, LINK_RESET)
}

/// `host:port` as agents dial it; IPv6 addresses stand in brackets.
fn dial_address(name: &str, port: u16) -> String {
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{name}]:{port}")
    } else {
        format!("{name}:{port}")
    }
}

fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

pub(super) fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

pub(super) fn seed_text(key: &SigningKey) -> String {
    format!("{}\n", HEXLOWER.encode(key.as_bytes()))
}

pub(super) fn read_seed(dir: &Path, name: &'static str) -> Result<SigningKey, KeysError> {
    Ok(SigningKey::from_bytes(&read_secret(dir, name)?))
}

fn read_secret(dir: &Path, name: &'static str) -> Result<[u8; 32], KeysError> {
    let bytes = read(dir, name)?;
    HEXLOWER
        .decode(bytes.trim_ascii())
        .ok()
        .and_then(|secret| <[u8; 32]>::try_from(secret).ok())
        .ok_or(KeysError::Unreadable { what: name, reason: "not 64 hexadecimal digits".into() })
}

pub(super) fn write_pair(dir: &Path, stem: &str, pem: &KeyPem) -> Result<(), KeysError> {
    write(dir, &format!("{stem}.key.pem"), pem.key.as_bytes())?;
    write(dir, &format!("{stem}.crt.pem"), pem.certificate.as_bytes())
}

pub(super) fn read_pair(dir: &Path, stem: &str) -> Result<KeyPem, KeysError> {
    let text = |name: String| {
        let bytes = read(dir, &name)?;
        String::from_utf8(bytes)
            .map_err(|e| KeysError::Unreadable { what: "a PEM file", reason: e.to_string() })
    };
    Ok(KeyPem { key: text(format!("{stem}.key.pem"))?, certificate: text(format!("{stem}.crt.pem"))? })
}

/// Temporary name, fsync, rename, fsync of the directory: a file is there whole or not at all.
pub(super) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), KeysError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    let attempt = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    attempt().map_err(|e| file_error(&path, e))
}

pub(super) fn read(dir: &Path, name: &str) -> Result<Vec<u8>, KeysError> {
    let path = dir.join(name);
    let about = fs::metadata(&path).map_err(|e| file_error(&path, e))?;
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.display().to_string(), mode });
    }
    fs::read(&path).map_err(|e| file_error(&path, e))
}

pub(super) fn file_error(path: &Path, source: io::Error) -> KeysError {
    KeysError::File { path: path.display().to_string(), source }
}
