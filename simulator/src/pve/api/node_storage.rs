//! `/nodes/{node}/storage`: what a node's storages are and hold.

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::parse_size;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{State, Storage, Volume};

const READ: Check = Check::Any("/storage/{storage}", &["Datastore.Audit", "Datastore.AllocateSpace"]);

pub(super) fn calls() -> Vec<Call> {
    const LIST: &str = "content? s fmt=pve-storage-content-list\nenabled? b\nformat? b\nstorage? s fmt=pve-storage-id\ntarget? s fmt=pve-node";
    vec![
        call("GET", "/nodes/{node}/storage", &[LIST], Check::Everyone, list),
        call("GET", "/nodes/{node}/storage/{storage}/status", &[], READ, status),
        call(
            "GET",
            "/nodes/{node}/storage/{storage}/content",
            &["content? s fmt=pve-storage-content\nvmid? i 100..999999999 fmt=pve-vmid"],
            READ,
            content,
        ),
        call(
            "POST",
            "/nodes/{node}/storage/{storage}/content",
            &[
                "filename s\nformat? s enum=raw|qcow2|subvol|vmdk req=size\nsize s re=volume-size\nvmid i 100..999999999 fmt=pve-vmid",
            ],
            Check::All("/storage/{storage}", &["Datastore.AllocateSpace"]),
            allocate,
        ),
        call(
            "DELETE",
            "/nodes/{node}/storage/{storage}/content/{volume}",
            &["delay? i 1..30\nstorage? s fmt=pve-storage-id"],
            Check::Everyone,
            delete,
        ),
        call(
            "GET",
            "/nodes/{node}/storage/{storage}/content/{volume}",
            &["storage? s fmt=pve-storage-id"],
            Check::Everyone,
            volume,
        ),
    ]
}

fn usage(s: &State, node: &str, st: &Storage) -> Value {
    let enabled = !st.disable;
    let total = if enabled { st.total } else { 0 };
    let used = if enabled { s.used_on(node, &st.id).min(total) } else { 0 };
    json!({
        "type": st.kind, "content": st.content.join(","), "shared": u8::from(st.shared),
        "enabled": u8::from(enabled), "active": u8::from(enabled),
        "total": total, "used": used, "avail": total - used,
    })
}

fn on_node(st: &Storage, node: &str) -> bool {
    st.nodes.is_empty() || st.nodes.iter().any(|n| n == node)
}

async fn list(ctx: Ctx) -> ApiResult {
    let contents = ctx.params.list("content");
    ctx.cluster
        .judge(|s, a| {
            let mut out = Vec::new();
            for st in s.storages.values().filter(|st| on_node(st, &ctx.node)) {
                let fits = a.may_any(
                    &ctx.caller,
                    &format!("/storage/{}", st.id),
                    &["Datastore.Audit", "Datastore.AllocateSpace"],
                ) && (contents.is_empty() || contents.iter().any(|c| st.content.contains(c)))
                    && (!ctx.params.flag("enabled") || !st.disable)
                    && ctx.params.get("storage").is_none_or(|id| id == st.id);
                if fits {
                    let mut row = usage(s, &ctx.node, st);
                    row["storage"] = st.id.as_str().into();
                    let (used, total) =
                        (row["used"].as_f64().unwrap_or(0.0), row["total"].as_f64().unwrap_or(0.0));
                    row["used_fraction"] = json!(if total > 0.0 { used / total } else { 0.0 });
                    out.push(row);
                }
            }
            Ok(Value::Array(out).into())
        })
        .await
}

async fn status(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .read(|s| match s.storages.get(ctx.params.text("storage")).filter(|st| on_node(st, &ctx.node)) {
            Some(st) => Ok(usage(s, &ctx.node, st).into()),
            None => Err(ApiError::parameter("storage", "No such storage.")),
        })
        .await
}

fn volume_row(v: &Volume) -> Value {
    let mut out = json!({
        "volid": v.volid, "content": v.content, "format": v.format, "size": v.size, "ctime": v.ctime,
    });
    if v.content == "images" {
        out["used"] = (v.size / 10).into();
        out["parent"] = v.parent.as_deref().map(|p| p.split_once(':').map_or(p, |(_, n)| n)).into();
    }
    if let Some(vmid) = v.vmid {
        out["vmid"] = vmid.into();
    }
    out
}

async fn content(ctx: Ctx) -> ApiResult {
    let storage = ctx.params.text("storage").to_owned();
    let vmid: Option<u32> = ctx.params.get("vmid").and_then(|v| v.parse().ok());
    let wanted = ctx.params.get("content").map(str::to_owned);
    let (mut rows, directory) = ctx
        .cluster
        .judge(|s, a| {
            let audit = a.may(&ctx.caller, &format!("/storage/{storage}"), "Datastore.Audit");
            // Images of others are shown to whoever may change their disks and audit the storage.
            let seen = |v: &&Volume| match v.vmid.filter(|_| v.content == "images") {
                Some(owner) if vmid == Some(owner) => true,
                Some(owner) => audit && a.may(&ctx.caller, &format!("/vms/{owner}"), "VM.Config.Disk"),
                None => true,
            };
            let st = s.storages.get(&storage).filter(|st| on_node(st, &ctx.node));
            let st = st.ok_or_else(|| ApiError::died(format!("storage '{storage}' does not exist")))?;
            let rows: Vec<Value> = s
                .volumes
                .values()
                .filter(|v| v.node == ctx.node && v.storage == storage)
                .filter(|v| vmid.is_none_or(|id| v.vmid.is_none() || v.vmid == Some(id)))
                .filter(|v| wanted.as_deref().is_none_or(|w| v.content == w))
                .filter(seen)
                .map(volume_row)
                .collect();
            let directory = st.directories.get(&ctx.node).or(st.path.as_ref()).cloned();
            Ok::<_, ApiError>((rows, directory.filter(|_| st.content.iter().any(|c| c == "snippets"))))
        })
        .await?;
    // Snippets are real files of this machine; they are listed whatever the VMID.
    if let Some(directory) = directory.filter(|_| wanted.as_deref().is_none_or(|w| w == "snippets")) {
        let files = std::fs::read_dir(std::path::Path::new(&directory).join("snippets"));
        for file in files.into_iter().flatten().flatten() {
            if let (Ok(meta), Ok(name)) = (file.metadata(), file.file_name().into_string()) {
                let at = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
                rows.push(json!({"volid": format!("{storage}:snippets/{name}"), "content": "snippets", "format": "snippet",
                    "size": meta.len(), "ctime": at.map_or(0, |d| d.as_secs())}));
            }
        }
    }
    Ok(Value::Array(rows).into())
}

/// Allocates a volume by hand; the number is in KiB unless it has a unit.
async fn allocate(ctx: Ctx) -> ApiResult {
    let p = &ctx.params;
    let (storage, name, vmid) = (p.text("storage"), p.text("filename"), ctx.vmid());
    let size = p.text("size");
    let bytes = parse_size(size).unwrap_or(0) * if size.ends_with(['M', 'G']) { 1 } else { 1024 };
    let at = ctx.cluster.clock.seconds();
    ctx.cluster
        .change("storage.allocate", |s| {
            let st = s
                .storages
                .get(storage)
                .ok_or_else(|| ApiError::died(format!("storage '{storage}' does not exist")))?;
            let volid = if st.path.is_some() {
                format!("{storage}:{vmid}/{name}")
            } else {
                format!("{storage}:{name}")
            };
            if s.volume(&ctx.node, &volid).is_some() {
                return Err(ApiError::died(format!("disk image '{}' already exists", st.path_of(&volid))));
            }
            if s.does_not_fit(&ctx.node, storage) {
                return Err(ApiError::died(st.no_room(&volid, bytes)));
            }
            let volume = Volume {
                node: ctx.node.clone(),
                volid: volid.clone(),
                storage: storage.into(),
                vmid: Some(vmid),
                content: "images".into(),
                format: p.get("format").unwrap_or("raw").into(),
                size: bytes,
                ctime: at,
                parent: None,
            };
            s.volumes.insert(State::volume_key(&ctx.node, &volid), volume);
            Ok(Value::from(volid).into())
        })
        .await
}

fn full_id(ctx: &Ctx) -> String {
    let volume = ctx.params.text("volume");
    if volume.contains(':') { volume.to_owned() } else { format!("{}:{volume}", ctx.params.text("storage")) }
}

async fn volume(ctx: Ctx) -> ApiResult {
    let volid = full_id(&ctx);
    ctx.cluster
        .judge(|s, a| {
            let found = s.volume(&ctx.node, &volid);
            if let Some(vmid) = crate::pve::drive::owner_of(&volid) {
                let path = format!("/vms/{vmid}");
                let storage = format!("/storage/{}", ctx.params.text("storage"));
                if !a.may(&ctx.caller, &storage, "Datastore.Allocate") {
                    a.check(&ctx.caller, &path, "VM.Config.Disk")?;
                }
            }
            match found {
                Some(v) => Ok(
                    json!({"path": s.storages.get(&v.storage).map(|st| st.path_of(&v.volid)), "size": v.size,
                                     "used": v.size / 10, "format": v.format})
                    .into(),
                ),
                None => Err(ApiError::died(format!("volume_size_info on '{volid}' failed - no format"))),
            }
        })
        .await
}

async fn delete(ctx: Ctx) -> ApiResult {
    let volid = full_id(&ctx);
    let storage = ctx.params.text("storage").to_owned();
    let owner = ctx
        .cluster
        .judge(|s, a| {
            a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.Allocate")?;
            Ok::<_, ApiError>(s.volume(&ctx.node, &volid).and_then(|v| v.vmid))
        })
        .await?;
    let id = owner.map_or_else(|| storage.clone(), |vmid| format!("{vmid}@{storage}"));
    let cluster = ctx.cluster.clone();
    cluster
        .fork(&ctx, "imgdel", &id, |w| async move {
            w.work_shortly().await?;
            let in_use = w.cluster.read(|s| !s.children(&w.node, &volid).is_empty()).await;
            if in_use {
                let name = volid.split_once(':').map_or(volid.as_str(), |(_, n)| n);
                return Err(format!("base volume '{name}' is still in use by linked clones"));
            }
            let missing = w.cluster.read(|s| match s.volume(&w.node, &volid) {
                Some(_) => None,
                None => s.storages.get(&storage).map(|st| st.path_of(&volid)),
            });
            if let Some(path) = missing.await {
                w.log(format!("disk image '{path}' does not exist")).await;
            }
            w.cluster.change("storage.free", |s| s.free(&w.node, &volid)).await;
            w.log(format!("Removed volume '{volid}'")).await;
            Ok(())
        })
        .await
}
