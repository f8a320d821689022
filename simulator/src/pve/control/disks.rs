//! What the control API shows of disks, and how a test marks one.
//!
//! The picture of a VM has `volumes` with what each `holds` (the image it was made from, what was written
//! since, passwords that were set), `backups`, `boots` (what it would boot from by its configuration),
//! `booted` (what the running machine did boot from) and `passwords` (those on the disk it boots from, as
//! hashes).

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Control, bad};
use crate::pve::drive::Drive;
use crate::pve::state::{State, Vm, Volume};

fn own<'s>(s: &'s State, vm: &'s Vm, content: &'static str) -> impl Iterator<Item = &'s Volume> {
    let mine = move |v: &&Volume| v.vmid == Some(vm.vmid) && v.node == vm.node && v.content == content;
    s.volumes.values().filter(mine)
}

pub(super) fn volumes(s: &State, vm: &Vm) -> Value {
    let rows = own(s, vm, "images")
        .map(|v| json!({"volid": v.volid, "size": v.size, "parent": v.parent, "holds": v.holds}));
    rows.collect()
}

pub(super) fn backups(s: &State, vm: &Vm) -> Value {
    let rows = own(s, vm, "backup").filter_map(|v| {
        let archive = v.archive.as_ref()?;
        Some(json!({"volid": v.volid, "size": v.size, "ctime": v.ctime, "notes": archive.notes,
                    "protected": archive.protected, "description": archive.config.get("description"),
                    "disks": archive.disks}))
    });
    rows.collect()
}

pub(super) fn boots(s: &State, vm: &Vm) -> Value {
    s.boots_from(vm).map_or(Value::Null, |(drive, volid)| s.picture_of_disk(&vm.node, &drive, &volid))
}

pub(super) fn booted(s: &State, vm: &Vm) -> Value {
    let from = vm.run.as_ref().and_then(|run| run.booted_from.as_ref());
    from.map_or(Value::Null, |(drive, volid)| s.picture_of_disk(&vm.node, drive, volid))
}

pub(super) fn passwords(s: &State, vm: &Vm) -> Value {
    let volume = s.boots_from(vm).and_then(|(_, volid)| s.volume(&vm.node, &volid));
    volume.map_or(json!({}), |volume| json!(volume.holds.passwords))
}

/// Body of `POST /vms/{vmid}/write`.
#[derive(Deserialize)]
pub(super) struct Write {
    text: String,
    drive: Option<String>,
}

/// Writes to a disk, as the guest would.
pub(super) async fn write(
    Shared(c): Shared<Control>,
    Path(vmid): Path<u32>,
    Json(given): Json<Write>,
) -> Response {
    let done = c
        .cluster
        .change("control.write", |s| {
            let vm = s.vms.get(vmid).ok_or_else(|| format!("no VM {vmid}"))?;
            let (drive, volid) = match &given.drive {
                None => s.boots_from(vm).ok_or("it boots from nothing")?,
                Some(drive) => {
                    let value = vm.config.get(drive).ok_or_else(|| format!("no drive {drive}"))?;
                    (drive.clone(), Drive::parse(value).file)
                }
            };
            let key = State::volume_key(&vm.node, &volid);
            let node = vm.node.clone();
            let volume = s.volumes.get_mut(key).ok_or_else(|| format!("no volume {volid}"))?;
            volume.holds.writes.push(given.text);
            Ok::<_, String>(s.picture_of_disk(&node, &drive, &volid))
        })
        .await;
    match done {
        Ok(disk) => Json(disk).into_response(),
        Err(text) => bad(StatusCode::NOT_FOUND, text),
    }
}
