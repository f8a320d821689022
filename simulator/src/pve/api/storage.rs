//! `/storage`: storage.cfg, as far as `setup` needs it (directories).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Storage, sha1_hex};

/// Parameters that `POST` and `PUT` share.
const COMMON: &str = "\
blocksize? s fmt9=pve-storage-zfs-blocksize
bwlimit? s fmt=@bwlimit
comstar_hg? s
comstar_tg? s
content? s fmt=pve-storage-content-list
content-dirs? s fmt=pve-dir-override-list
create-base-path? b
create-subdirs? b
data-pool? s
disable? b
domain? s max=256
encryption-key? s
fingerprint? s re=fingerprint
format? s enum=raw|qcow2|subvol|vmdk
fs-name? s fmt=pve-configid
fuse? b
is_mountpoint? s
keyring? s
krbd? b
lio_tpg? s
master-pubkey? s
max-protected-backups? i -1..
mkdir? b
monhost? s fmt=pve-storage-portal-dns-list
mountpoint? s fmt=pve-storage-path
namespace? s
nocow? b
nodes? s fmt=pve-node-list
nowritecache? b
options? s fmt=pve-storage-options
password? s max=256
pool? s
port? i 1..65535
preallocation? s enum=off|metadata|falloc|full
prune-backups? s fmt=prune-backups
saferemove? b
saferemove-stepsize? i enum=1|2|4|8|16|32 since9
saferemove_throughput? s
server? s fmt=pve-storage-server
shared? b
skip-cert-verification? b
smbversion? s enum=default|2.0|2.1|3|3.0|3.11
snapshot-as-volume-chain? b since9
sparse? b
subdir? s fmt=pve-storage-path
tagged_only? b
username? s
zfs-base-path? s fmt=pve-storage-path since9
maxfiles? i 0.. until8
server2? s fmt=pve-storage-server req=server until8
transport? s enum=tcp|rdma|unix until8
";
const CREATE: &str = "\
authsupported? s
base? s fmt=pve-volume-id
datastore? s
export? s fmt=pve-storage-path
iscsiprovider? s
path? s fmt=pve-storage-path
portal? s fmt=pve-storage-portal-dns
share? s
storage s fmt=pve-storage-id
target? s
thinpool? s fmt=pve-storage-vgname
type s enum=btrfs|cephfs|cifs|dir|esxi enum8=glusterfs enum=iscsi|iscsidirect|lvm|lvmthin|nfs|pbs|rbd|zfs|zfspool
vgname? s fmt=pve-storage-vgname
volume? s until8
";

pub(super) fn calls() -> Vec<Call> {
    const KINDS: &str = "type? s enum=btrfs|cephfs|cifs|dir|esxi enum8=glusterfs enum=iscsi|iscsidirect|lvm|lvmthin|nfs|pbs|rbd|zfs|zfspool";
    const ALLOCATE: Check = Check::All("/storage", &["Datastore.Allocate"]);
    vec![
        call("GET", "/storage", &[KINDS], Check::Everyone, list),
        call(
            "GET",
            "/storage/{storage}",
            &[],
            Check::All("/storage/{storage}", &["Datastore.Allocate"]),
            get,
        ),
        call("POST", "/storage", &[COMMON, CREATE], ALLOCATE, create),
        call(
            "PUT",
            "/storage/{storage}",
            &[COMMON, "delete? s max=4096 fmt=pve-configid-list\ndigest? s max=64"],
            ALLOCATE,
            update,
        ),
        call("DELETE", "/storage/{storage}", &[], ALLOCATE, remove),
    ]
}

fn show(st: &Storage) -> Value {
    let mut out = json!({"storage": st.id, "type": st.kind, "content": st.content.join(",")});
    if let Some(path) = &st.path {
        out["path"] = path.as_str().into();
    }
    if !st.nodes.is_empty() {
        out["nodes"] = st.nodes.join(",").into();
    }
    if st.shared {
        out["shared"] = 1.into();
    }
    if st.disable {
        out["disable"] = 1.into();
    }
    for (k, v) in &st.options {
        out[k.as_str()] = v.parse::<i64>().map_or_else(|_| v.as_str().into(), Value::from);
    }
    out["digest"] = sha1_hex(out.to_string().as_bytes()).into();
    out
}

async fn list(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .judge(|s, a| {
            let seen = |st: &&Storage| {
                ctx.params.get("type").is_none_or(|t| t == st.kind)
                    && a.may_any(
                        &ctx.caller,
                        &format!("/storage/{}", st.id),
                        &["Datastore.Audit", "Datastore.AllocateSpace"],
                    )
            };
            Ok(Value::Array(s.storages.values().filter(seen).map(show).collect()).into())
        })
        .await
}

fn missing(id: &str) -> ApiError {
    ApiError::died(format!("storage '{id}' does not exist"))
}

async fn get(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("storage");
    ctx.cluster.read(|s| s.storages.get(id).map(|st| show(st).into()).ok_or_else(|| missing(id))).await
}

async fn create(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let (id, kind) = (p.text("storage").to_owned(), p.text("type").to_owned());
    let fail = |text: String| ApiError::died(format!("create storage failed: {text}"));
    if ctx.cluster.read(|s| s.storages.contains(&id)).await {
        return Err(fail(format!("storage ID '{id}' already defined")));
    }
    let nodes = p.list("nodes");
    if kind == "dir" {
        let Some(path) = p.get("path") else {
            return Err(ApiError::parameter("path", "property is missing and it is not optional"));
        };
        let make = |flag: &str| p.get(flag).or(p.get("mkdir")).is_none_or(|v| v == "1");
        let here = nodes.is_empty() || nodes.contains(&ctx.node);
        if here {
            if make("create-base-path") {
                let _reported_below = std::fs::create_dir_all(path);
            }
            if !std::path::Path::new(path).is_dir() {
                return Err(fail(format!(
                    "unable to activate storage '{id}' - directory '{path}' does not exist or is unreachable"
                )));
            }
            if make("create-subdirs") && p.list("content").iter().any(|c| c == "snippets") {
                let _listed_as_empty_without =
                    std::fs::create_dir_all(std::path::Path::new(path).join("snippets"));
            }
        }
    }
    let mut options = BTreeMap::new();
    for (k, _) in p.iter() {
        if !["storage", "type", "content", "nodes", "path", "shared", "disable", "password"]
            .contains(&k.as_str())
        {
            options.insert(k.clone(), p.text(k).to_owned());
        }
    }
    let content =
        if p.contains("content") { p.list("content") } else { vec!["images".into(), "rootdir".into()] };
    let storage = Storage {
        id: id.clone(),
        kind: kind.clone(),
        content,
        nodes,
        shared: p.flag("shared"),
        disable: p.flag("disable"),
        path: p.get("path").map(str::to_owned),
        directories: BTreeMap::new(),
        total: 100 << 30,
        options,
    };
    ctx.cluster.change("storage.create", |s| s.storages.insert(&id, storage)).await;
    Ok(json!({"storage": id, "type": kind}).into())
}

async fn update(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let id = p.text("storage").to_owned();
    ctx.cluster
        .change("storage.update", |s| {
            let st = s.storages.get_mut(&id).ok_or_else(|| missing(&id))?;
            for (k, _) in p.iter() {
                let v = p.text(k).to_owned();
                match k.as_str() {
                    "storage" | "digest" | "password" => {}
                    "delete" => {
                        for gone in p.list("delete") {
                            match gone.as_str() {
                                "disable" => st.disable = false,
                                "shared" => st.shared = false,
                                "nodes" => st.nodes.clear(),
                                other => {
                                    st.options.remove(other);
                                }
                            }
                        }
                    }
                    "content" => st.content = p.list("content"),
                    "nodes" => st.nodes = p.list("nodes"),
                    "shared" => st.shared = v == "1",
                    "disable" => st.disable = v == "1",
                    _ => {
                        st.options.insert(k.clone(), v);
                    }
                }
            }
            Ok::<_, ApiError>(json!({"storage": st.id, "type": st.kind}).into())
        })
        .await
}

async fn remove(ctx: Ctx) -> ApiResult {
    let id = ctx.params.text("storage").to_owned();
    let gone = ctx.cluster.change("storage.remove", |s| s.storages.remove(&id)).await;
    if gone.is_none() {
        return Err(ApiError::died(format!("delete storage failed: storage '{id}' does not exist")));
    }
    null()
}
