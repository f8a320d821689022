//! `download-url`: the host itself loads a file into a storage and checks it. Recorded is a download that
//! is refused by the other side; no recording covers one that succeeds or whose checksum is wrong: texts
//! and order of these are those of the published source.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{State, Volume};
use crate::pve::task::Worker;

const DOWNLOAD: &str = "\
checksum? s req=checksum-algorithm
checksum-algorithm? s enum=md5|sha1|sha224|sha256|sha384|sha512 req=checksum
compression? s
content s enum=iso|vztmpl|import fmt=pve-storage-content
filename s max=255
url s re=url
verify-certificates? b
";

pub(super) fn calls() -> Vec<Call> {
    vec![call(
        "POST",
        "/nodes/{node}/storage/{storage}/download-url",
        &[DOWNLOAD],
        Check::Own(allowed),
        download,
    )]
}

/// `Datastore.AllocateTemplate` on the storage, and the host's way into the network.
fn allowed(a: &Access<'_>, caller: &Caller, params: &Params) -> Result<(), ApiError> {
    a.check(caller, &format!("/storage/{}", params.text("storage")), "Datastore.AllocateTemplate")?;
    let node = format!("/nodes/{}", params.text("node"));
    if a.may(caller, "/", "Sys.Audit") && a.may(caller, "/", "Sys.Modify") {
        return Ok(());
    }
    a.check(caller, &node, "Sys.AccessNetwork")
}

/// What one download is about.
struct Wanted {
    url: String,
    /// On this machine.
    file: PathBuf,
    /// The same as the host would call it.
    path: String,
    volid: String,
    storage: String,
    content: &'static str,
    sha256: Option<String>,
}

fn ending_fits(content: &str, name: &str) -> bool {
    let endings: &[&str] = match content {
        "iso" => &[".iso", ".img"],
        "vztmpl" => &[".tar.gz", ".tar.xz", ".tar.zst"],
        _ => &[".qcow2", ".raw", ".vmdk", ".ova"],
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
    endings.iter().any(|end| name.ends_with(end)) && name.bytes().all(plain)
}

async fn download(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let (storage, name) = (p.text("storage").to_owned(), p.text("filename").to_owned());
    let content = match p.text("content") {
        "iso" => "iso",
        "vztmpl" => "vztmpl",
        _ => "import",
    };
    let volid = format!("{storage}:{content}/{name}");
    let (directory, path) = ctx
        .cluster
        .read(|s| {
            let st = s.storages.get(&storage);
            let st = st.ok_or_else(|| ApiError::died(format!("storage '{storage}' does not exist")))?;
            let Some(directory) = st.directories.get(&ctx.node).cloned() else {
                let text = format!("can't upload to storage type '{}', not a file based storage!", st.kind);
                return Err(ApiError::parameter("storage", text));
            };
            if !st.content.iter().any(|c| c == content) {
                let text = format!("storage '{storage}' is not configured for content-type '{content}'");
                return Err(ApiError::died(text));
            }
            Ok((directory, st.path_of(&volid)))
        })
        .await?;
    if !ending_fits(content, &name) {
        return Err(ApiError::parameter("filename", "invalid filename or wrong extension"));
    }
    let sha256 = match p.get("checksum-algorithm") {
        None => None,
        Some("sha256") => p.get("checksum").map(str::to_ascii_lowercase),
        Some(other) => return Err(ApiError::died(format!("checksums by {other} are not simulated"))),
    };
    let folder = if content == "iso" { "template/iso" } else { content };
    let wanted = Wanted {
        url: p.text("url").to_owned(),
        file: Path::new(&directory).join(folder).join(&name),
        path,
        volid,
        storage,
        content,
        sha256,
    };
    let cluster = ctx.cluster.clone();
    cluster.fork(&ctx, "download", &name, |w| async move { load(&w, &wanted).await }).await
}

async fn load(w: &Worker, wanted: &Wanted) -> Result<(), String> {
    w.log(format!("downloading {} to {}", wanted.url, wanted.path)).await;
    w.work_shortly().await?;
    let there = w.cluster.read(|s| s.volume(&w.node, &wanted.volid).is_some()).await;
    if there && let Some(expected) = &wanted.sha256 {
        w.log("calculating checksum of existing file...").await;
        let got = hash(&wanted.file).await?;
        if got == *expected {
            w.log("OK, got correct file already, no need to download").await;
            return Ok(());
        }
        return Err(format!("mismatch (got '{got}' != expect '{expected}'), aborting"));
    }
    let temporary = wanted.file.with_extension("tmp_dwnl");
    let done = fetch(&wanted.url, &temporary).await;
    let checked = match (done, &wanted.sha256) {
        (Err(text), _) => Err(format!("download failed: {text}")),
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(expected)) => match hash(&temporary).await? {
            got if got == *expected => {
                w.log("OK, checksum verified").await;
                Ok(())
            }
            got => Err(format!("checksum mismatch: got '{got}' != expect '{expected}'")),
        },
    };
    if let Err(text) = checked {
        let _ = tokio::fs::remove_file(&temporary).await;
        return Err(text);
    }
    let said = |error: std::io::Error| format!("unable to rename temporary file: {error}");
    tokio::fs::rename(&temporary, &wanted.file).await.map_err(said)?;
    let size = size_of(&wanted.file).await?;
    let mut volume = Volume {
        node: w.node.clone(),
        volid: wanted.volid.clone(),
        storage: wanted.storage.clone(),
        vmid: None,
        content: wanted.content.to_owned(),
        format: wanted.file.extension().and_then(|e| e.to_str()).unwrap_or("raw").to_owned(),
        size,
        ctime: w.cluster.clock.seconds(),
        parent: None,
        archive: None,
        holds: Default::default(),
    };
    w.change("storage.downloaded", |s| {
        volume.holds = s.new_image();
        s.volumes.insert(State::volume_key(&w.node, &volume.volid), volume);
        Ok(())
    })
    .await?;
    w.log(format!("download of '{}' to '{}' finished", wanted.url, wanted.path)).await;
    Ok(())
}

async fn fetch(url: &str, to: &Path) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    if let Some(folder) = to.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(|e| said(&e))?;
    }
    let mut answer = reqwest::get(url).await.map_err(|error| refused(url, &error))?;
    if !answer.status().is_success() {
        let status = answer.status();
        let reason = status.canonical_reason().unwrap_or("Unknown");
        return Err(format!("ERROR {}: {reason}.", status.as_u16()));
    }
    let mut file = tokio::fs::File::create(to).await.map_err(|e| said(&e))?;
    while let Some(piece) = answer.chunk().await.map_err(|e| said(&e))? {
        file.write_all(&piece).await.map_err(|e| said(&e))?;
    }
    file.sync_all().await.map_err(|e| said(&e))
}

/// As wget says it.
fn refused(url: &str, error: &reqwest::Error) -> String {
    let place = url::Url::parse(url).ok();
    let place =
        place.as_ref().and_then(|u| Some(format!("{}:{}", u.host_str()?, u.port_or_known_default()?)));
    match place {
        Some(place) if error.is_connect() => format!("Connecting to {place}... failed: Connection refused."),
        _ => error.to_string(),
    }
}

async fn hash(file: &Path) -> Result<String, String> {
    let bytes = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
    Ok(data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)))
}

/// The size of the disk inside: of a qcow2 image that of its header, else that of the file.
async fn size_of(file: &Path) -> Result<u64, String> {
    let said = |error: std::io::Error| error.to_string();
    let length = tokio::fs::metadata(file).await.map_err(said)?.len();
    let mut head = [0_u8; 32];
    let mut open = tokio::fs::File::open(file).await.map_err(said)?;
    let whole = open.read_exact(&mut head).await.is_ok();
    if whole && head.starts_with(b"QFI\xfb") {
        let mut size = [0_u8; 8];
        size.copy_from_slice(&head[24..32]);
        return Ok(u64::from_be_bytes(size));
    }
    Ok(length)
}
