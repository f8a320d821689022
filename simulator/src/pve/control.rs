//! The control API: what a test or an operator sees and does behind the API's back. Plain http on the
//! loopback, one listener per node; it shows the VMs of its node.
//!
//! | call | what |
//! |---|---|
//! | `GET /vms` | every VM of the node, and every clone that ever ended well |
//! | `GET /vms/{vmid}` | one VM with its rendered cloud-init files |
//! | `GET /tasks` | all tasks of the node with their logs and their times in milliseconds |
//! | `GET /digest` | a hash of each foreign VM's whole state |
//! | `POST /foreign-vm` | `{"vmid","name"?,"memory"?,"cores"?,"running"?,"description"?}` |
//! | `POST /tasks/kill` | `{"upid"}` or `{}` for all: SIGKILL of the worker |
//! | `POST /vms/{vmid}/unlock-destroy` | what root's repair tool does |
//! | `POST /vms/{vmid}/deaf` | `{"deaf": bool}`: the guest ignores shutdown |
//! | `POST /vms/{vmid}/lock` | `{"lock": "backup"}` or null: root's `qm set --lock`, `qm unlock` |
//! | `POST /power-cycle` | the node loses its power and comes back: VMs with `onboot` start, the others are off |
//! | `POST /vms/{vmid}/write` | `{"text","drive"?}`: something is written to a disk, the one it boots from if none is named |
//! | `POST /volumes` | `{"storage","name","content","size"}`: a file that an operator put there |
//! | `POST /speed` | `{"clone_ms","start_ms","other_ms"}` |
//! | `POST /guest-agent` | `{"after_ms"}`, or `{"vmid","answers"?: bool,"bare"?: bool}` for one VM; a bare guest has no programs |
//! | `POST /faults` | arms a rule: `{"call":{"method"?,"path"},"fault":"refuse_before"\|"no_quorum"\|"refuse_after"\|"drop_answer"\|"drop_request"\|"slow"\|"restart","status"?,"reason"?,"delay_ms"?,"down_ms"?}`, `{"task","fault":"fail"\|"kill"\|"warnings"\|"destroy_keeps_disk","exit"?,"pieces"?}` or `{"fault":"vmid_taken"}`, each with `"times"?,"skip"?` |
//! | `GET /faults`, `DELETE /faults` | the rules with what they struck; everything is well again |
//! | `POST /restart` | `{"down_ms"}`: connections are reset for so long, workers go on |
//! | `POST /storages/{id}/full` | `{"full": bool}`: nothing more fits on the node's storage |

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

mod disks;
pub(crate) mod faults;
mod power;

use super::cluster::Cluster;
use super::config::TaskSpeed;
use super::foreign::Foreign;
use super::inject::NodeFaults;
use super::state::{State, Vm, Volume, sha256_hex};
use super::vmconfig;

#[derive(Clone)]
struct Control {
    cluster: Arc<Cluster>,
    node: String,
    faults: Arc<NodeFaults>,
}

/// Serves until the cluster is stopped.
pub(crate) async fn serve(
    cluster: Arc<Cluster>,
    node: String,
    faults: Arc<NodeFaults>,
    listener: TcpListener,
) {
    let stop = cluster.stop.clone();
    let app = Router::new()
        .route("/vms", get(vms))
        .route("/vms/{vmid}", get(vm))
        .route("/vms/{vmid}/unlock-destroy", post(unlock_destroy))
        .route("/vms/{vmid}/deaf", post(deaf))
        .route("/vms/{vmid}/lock", post(lock))
        .route("/vms/{vmid}/write", post(disks::write))
        .route("/volumes", post(volume))
        .route("/power-cycle", post(power::cycle))
        .route("/tasks", get(tasks))
        .route("/tasks/kill", post(kill))
        .route("/foreign-vm", post(foreign))
        .route("/speed", post(speed))
        .route("/guest-agent", post(guest_agent))
        .route("/digest", get(digest))
        .merge(faults::routes())
        .with_state(Control { cluster, node, faults });
    let served =
        axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(error) = served {
        tracing::warn!(%error, "control API");
    }
}

fn bad(status: StatusCode, text: impl Into<String>) -> Response {
    (status, Json(json!({"error": text.into()}))).into_response()
}

/// The marker lines and addresses of a VM, with everything else.
fn show(s: &State, cluster: &Cluster, vm: &Vm) -> Value {
    let mut macs = Vec::new();
    let mut bridges = Vec::new();
    let mut ips = Vec::new();
    for (k, v) in &vm.config {
        if vmconfig::is_net(k) {
            let (bridge, tag, mac) = vmconfig::net_parts(v, cluster.major);
            macs.extend(mac);
            bridges.push(json!({"net": k, "bridge": bridge, "tag": tag}));
        }
        if vmconfig::base(k) == "ipconfig" {
            ips.extend(
                v.split(',')
                    .filter_map(|p| p.strip_prefix("ip=").or_else(|| p.strip_prefix("ip6=")))
                    .map(str::to_owned),
            );
        }
    }
    let description = vm.config.get("description").cloned().unwrap_or_default();
    let marker = description.lines().next().filter(|l| l.starts_with("ez:v1 ")).map(str::to_owned);
    let cloudinit = vm.drive.as_ref().map(|d| {
        json!({"user": d.user, "network": d.network, "meta": d.meta, "vendor": d.vendor, "instance_id": d.instance_id})
    });
    json!({
        "vmid": vm.vmid, "node": vm.node, "name": vm.name(), "foreign": vm.foreign, "template": vm.is_template(),
        "status": if vm.run.is_some() { "running" } else { "stopped" },
        "paused": vm.run.as_ref().is_some_and(|r| r.paused),
        "started_at": vm.run.as_ref().map(|r| r.since),
        "created_at": vm.created_at, "lock": vm.lock(), "pool": s.pool_of(vm.vmid),
        "config": vm.config, "pending": vm.pending, "description": description, "marker": marker,
        "macs": macs, "ips": ips, "nets": bridges, "firewall": s.firewalls.get(vm.vmid),
        "snapshots": vm.snapshots.keys().collect::<Vec<_>>(),
        "volumes": disks::volumes(s, vm), "backups": disks::backups(s, vm),
        "boots": disks::boots(s, vm), "booted": disks::booted(s, vm), "passwords": disks::passwords(s, vm),
        "cloudinit": cloudinit,
    })
}

async fn vms(Shared(c): Shared<Control>) -> Json<Value> {
    let out = c
        .cluster
        .read(|s| {
            let vms: Vec<Value> =
                s.vms.values().filter(|v| v.node == c.node).map(|v| show(s, &c.cluster, v)).collect();
            let clones: Vec<Value> = s
                .clones
                .values()
                .filter(|r| r.node == c.node)
                .map(|r| json!({"vmid": r.vmid, "source": r.source, "description": r.description, "at": r.at, "upid": r.upid}))
                .collect();
            json!({"cluster": c.cluster.name, "node": c.node, "vms": vms, "clones": clones})
        })
        .await;
    Json(out)
}

async fn vm(Shared(c): Shared<Control>, Path(vmid): Path<u32>) -> Response {
    match c.cluster.read(|s| s.vms.get(vmid).map(|v| show(s, &c.cluster, v))).await {
        Some(vm) => Json(vm).into_response(),
        None => bad(StatusCode::NOT_FOUND, format!("no VM {vmid}")),
    }
}

async fn tasks(Shared(c): Shared<Control>) -> Json<Value> {
    let running = c.cluster.running_workers();
    let rows = c
        .cluster
        .read(|s| {
            let rows = s.tasks.values().filter(|t| t.node == c.node).map(|t| {
                json!({"upid": t.upid, "type": t.kind, "id": t.id, "user": t.user, "starttime": t.starttime,
                       "endtime": t.endtime, "began_ms": t.began_ms, "ended_ms": t.ended_ms, "exit": t.exit, "log": t.log, "running": running.contains(&t.upid)})
            });
            rows.collect::<Vec<_>>()
        })
        .await;
    Json(json!({ "tasks": rows }))
}

#[derive(Deserialize)]
struct Kill {
    upid: Option<String>,
}

async fn kill(Shared(c): Shared<Control>, Json(k): Json<Kill>) -> Json<Value> {
    let which = match k.upid {
        Some(upid) => vec![upid],
        None => c.cluster.running_workers(),
    };
    let mut killed = Vec::new();
    for upid in which {
        if c.cluster.kill(&upid).await {
            killed.push(upid);
        }
    }
    Json(json!({ "killed": killed }))
}

/// `qm unlock` and `qm destroy --purge --destroy-unreferenced-disks`, as root on the host.
async fn unlock_destroy(Shared(c): Shared<Control>, Path(vmid): Path<u32>) -> Response {
    let Ok(_guard) = c.cluster.lock(vmid, c.cluster.timing.config_lock_ms).await else {
        return bad(StatusCode::CONFLICT, "a task holds the VM");
    };
    let node = c.node.clone();
    let done = c
        .cluster
        .change("repair.destroy", |s| match s.vm_on(&node, vmid) {
            None => Err("no such VM on this node"),
            Some(vm) if vm.run.is_some() => Err("the VM is running"),
            Some(_) => {
                super::api::qemu::remove_vm(s, &node, vmid);
                Ok(())
            }
        })
        .await;
    match done {
        Ok(()) => Json(json!({"destroyed": vmid})).into_response(),
        Err(text) => bad(StatusCode::CONFLICT, text),
    }
}

#[derive(Deserialize)]
struct Deaf {
    deaf: bool,
}

async fn deaf(Shared(c): Shared<Control>, Path(vmid): Path<u32>, Json(d): Json<Deaf>) -> Json<Value> {
    c.cluster
        .change("control.deaf", |s| {
            if d.deaf {
                s.meta.insert(format!("deaf {vmid}"), "1".into());
            } else {
                s.meta.remove(format!("deaf {vmid}"));
            }
        })
        .await;
    Json(json!({"vmid": vmid, "deaf": d.deaf}))
}

#[derive(Deserialize)]
struct Lock {
    lock: Option<String>,
}

async fn lock(Shared(c): Shared<Control>, Path(vmid): Path<u32>, Json(l): Json<Lock>) -> Json<Value> {
    c.cluster
        .change("control.lock", |s| {
            if let Some(vm) = s.vms.get_mut(vmid) {
                match &l.lock {
                    Some(lock) => vm.config.insert("lock".into(), lock.clone()),
                    None => vm.config.remove("lock"),
                };
            }
        })
        .await;
    Json(json!({"vmid": vmid, "lock": l.lock}))
}

#[derive(Deserialize)]
struct File {
    storage: String,
    name: String,
    content: String,
    size: u64,
}

async fn volume(Shared(c): Shared<Control>, Json(f): Json<File>) -> Json<Value> {
    let volid = format!("{}:{}", f.storage, f.name);
    let format = f.name.rsplit_once('.').map_or("raw", |(_, e)| e).to_owned();
    let volume = Volume {
        node: c.node.clone(),
        volid: volid.clone(),
        storage: f.storage,
        vmid: None,
        content: f.content,
        format,
        size: f.size,
        ctime: c.cluster.clock.seconds(),
        ..Volume::default()
    };
    c.cluster
        .change("control.volume", |s| {
            let holds = s.new_image();
            s.volumes.insert(State::volume_key(&c.node, &volid), Volume { holds, ..volume });
        })
        .await;
    Json(json!({ "volid": volid }))
}

async fn foreign(Shared(c): Shared<Control>, Json(f): Json<Foreign>) -> Response {
    let (vmid, now) = (f.vmid, c.cluster.clock.now());
    match c.cluster.change("control.foreign", |s| s.add_foreign(&c.node, now, f)).await {
        Ok(()) => Json(json!({ "vmid": vmid })).into_response(),
        Err(text) => bad(StatusCode::CONFLICT, text),
    }
}

async fn speed(Shared(c): Shared<Control>, Json(speed): Json<TaskSpeed>) -> Json<TaskSpeed> {
    c.cluster.set_speed(speed);
    Json(speed)
}

#[derive(Deserialize)]
struct GuestAgent {
    after_ms: Option<u64>,
    vmid: Option<u32>,
    answers: Option<bool>,
    bare: Option<bool>,
}

async fn guest_agent(Shared(c): Shared<Control>, Json(g): Json<GuestAgent>) -> Json<Value> {
    if let Some(ms) = g.after_ms {
        c.cluster.set_agent_after(ms);
    }
    if let (Some(vmid), Some(answers)) = (g.vmid, g.answers) {
        let now = c.cluster.clock.now();
        c.cluster
            .change("control.guest-agent", |s| {
                if let Some(vm) = s.vms.get_mut(vmid) {
                    vm.guest_agent = answers;
                    if let Some(run) = vm.run.as_mut() {
                        run.agent_at = (answers && run.agent_device).then_some(now);
                    }
                }
            })
            .await;
    }
    if let (Some(vmid), Some(bare)) = (g.vmid, g.bare) {
        c.cluster
            .change("control.guest", |s| {
                if let Some(vm) = s.vms.get_mut(vmid) {
                    vm.bare_guest = bare;
                }
            })
            .await;
    }
    Json(json!({"after_ms": c.cluster.agent_after()}))
}

/// A stable hash of each foreign VM: configuration, machine, firewall, volumes, pool, access rules.
async fn digest(Shared(c): Shared<Control>) -> Json<Value> {
    let out = c
        .cluster
        .read(|s| {
            let mut out = BTreeMap::new();
            for vm in s.vms.values().filter(|v| v.foreign && v.node == c.node) {
                let path = format!("/vms/{}", vm.vmid);
                let acls: Vec<_> = s.acls.iter().filter(|(_, a)| a.path == path).map(|(k, _)| k).collect();
                let volumes: Vec<_> = s.volumes.values().filter(|v| v.vmid == Some(vm.vmid)).collect();
                let text =
                    serde_json::to_string(&(vm, s.firewalls.get(vm.vmid), volumes, s.pool_of(vm.vmid), acls));
                out.insert(vm.vmid.to_string(), sha256_hex(text.unwrap_or_default().as_bytes()));
            }
            out
        })
        .await;
    Json(json!({ "foreign": out }))
}
