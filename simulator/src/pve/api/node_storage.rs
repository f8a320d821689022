//! `/nodes/{node}/storage`: what a node's storages are and hold.

use serde_json::{Value, json};

use super::vzdump::{check_protection, describe};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::parse_size;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{State, Storage, Volume};
use crate::pve::volume_access;

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
            "PUT",
            "/nodes/{node}/storage/{storage}/content/{volume}",
            &["notes? s\nprotected? b\nstorage? s fmt=pve-storage-id"],
            Check::Everyone,
            describe_volume,
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
    if let Some(archive) = &v.archive {
        describe(archive, &mut out);
    }
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
            // What the caller may not use is left out.
            let seen = |v: &&Volume| volume_access::check(a, &ctx.caller, None, &v.volid).is_ok();
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
                holds: s.new_image(),
                ..Volume::default()
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
            volume_access::check(a, &ctx.caller, None, &volid)?;
            match s.volume(&ctx.node, &volid) {
                Some(v) => {
                    let image = v.content == "images";
                    let mut out = json!({
                        "path": s.storages.get(&v.storage).map(|st| st.path_of(&v.volid)), "size": v.size,
                        "used": if image { v.size / 10 } else { v.size },
                        "format": if image { v.format.as_str() } else { "raw" },
                    });
                    if let Some(archive) = &v.archive {
                        describe(archive, &mut out);
                        out["notes"] = archive.notes.as_deref().unwrap_or("").into();
                        out["protected"] = u8::from(archive.protected).into();
                        out.as_object_mut().map(|o| o.remove("subtype"));
                    }
                    Ok(out.into())
                }
                None => Err(ApiError::died(format!("volume_size_info on '{volid}' failed - no format"))),
            }
        })
        .await
}

/// Sets the notes and the protection of a backup. A volume that is not there is no error: the daemon
/// writes files beside it.
async fn describe_volume(ctx: Ctx) -> ApiResult {
    let volid = full_id(&ctx);
    ctx.cluster.judge(|_, a| volume_access::check(a, &ctx.caller, None, &volid)).await?;
    let notes = ctx.params.get("notes").map(str::to_owned);
    let protected = ctx.params.get("protected").map(|_| ctx.params.flag("protected"));
    if volume_access::kind(&volid) != "backup" {
        let text = match (notes, protected) {
            (Some(_), _) => "only backups can have notes",
            (None, Some(_)) => "only backups support attribute 'protected'",
            (None, None) => return null(),
        };
        return Err(ApiError::died(text));
    }
    let storage = ctx.params.text("storage").to_owned();
    let administers = ctx
        .cluster
        .judge(|_, a| a.may(&ctx.caller, &format!("/storage/{storage}"), "Datastore.Allocate"))
        .await;
    ctx.cluster
        .change("storage.describe", |s| {
            if protected == Some(true) && !administers {
                check_protection(s, &ctx.node, &storage, &volid).map_err(ApiError::died)?;
            }
            let key = State::volume_key(&ctx.node, &volid);
            if let Some(archive) = s.volumes.get_mut(key).and_then(|v| v.archive.as_mut()) {
                if let Some(notes) = notes {
                    archive.notes = Some(notes).filter(|n| !n.is_empty());
                }
                archive.protected = protected.unwrap_or(archive.protected);
            }
            Ok::<_, ApiError>(())
        })
        .await?;
    null()
}

async fn delete(ctx: Ctx) -> ApiResult {
    let volid = full_id(&ctx);
    let storage = ctx.params.text("storage").to_owned();
    let owner = ctx
        .cluster
        .judge(|s, a| {
            let path = format!("/storage/{storage}");
            match volume_access::owner(&volid).filter(|_| volume_access::kind(&volid) == "backup") {
                Some(vmid) => {
                    a.check(&ctx.caller, &path, "Datastore.AllocateSpace")?;
                    a.check(&ctx.caller, &format!("/vms/{vmid}"), "VM.Backup")?;
                }
                None => a.check(&ctx.caller, &path, "Datastore.Allocate")?,
            }
            let named = volume_access::owner(&volid);
            Ok::<_, ApiError>(s.volume(&ctx.node, &volid).and_then(|v| v.vmid).or(named))
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
            let protected = w.cluster.read(|s| {
                s.volume(&w.node, &volid).and_then(|v| v.archive.as_ref()).is_some_and(|a| a.protected)
            });
            if protected.await {
                let name = volid.split_once(':').map_or(volid.as_str(), |(_, n)| n);
                return Err(format!("cannot remove protected volume '{name}' on '{storage}'"));
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
