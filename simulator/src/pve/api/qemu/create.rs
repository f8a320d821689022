//! Creating a VM from options (templates are built this way).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::pve::boot;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::Drive;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{Options, Vm};
use crate::pve::vmconfig;

const CREATE: &str = "\
archive? s max=255
bwlimit? i 0..
force? b req=archive
ha-managed? b since9
import-working-storage? s fmt=pve-storage-id
live-restore? b
pool? s fmt=pve-poolid
start? b
storage? s fmt=pve-storage-id
unique? b req=archive
vmid i 100..999999999 fmt=pve-vmid
";
const NOT_OPTIONS: &[&str] = &[
    "node",
    "vmid",
    "archive",
    "bwlimit",
    "force",
    "ha-managed",
    "import-working-storage",
    "live-restore",
    "pool",
    "start",
    "storage",
    "unique",
];

pub(super) fn calls() -> Vec<Call> {
    vec![call("POST", "/nodes/{node}/qemu", &[CREATE, vmconfig::OPTIONS], Check::Everyone, create)]
}

/// The boot order of a VM that was given none.
fn default_boot(config: &Options) -> String {
    let order = boot::default_order(config);
    if order.is_empty() { " ".to_owned() } else { boot::print(&order) }
}

async fn create(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let p = &ctx.params;
    let vmid = ctx.vmid();
    let pool = p.get("pool").map(str::to_owned);
    let options = vmconfig::given_options(p, NOT_OPTIONS);
    let vm_path = ctx.vm_path();
    if p.contains("archive") {
        return super::restore::restore(ctx.clone(), options).await;
    }
    cluster
        .judge(|s, a| {
            if let Some(pool) = &pool
                && !s.pools.contains(pool)
            {
                return Err(ApiError::Forbidden(Some(format!("pool '{pool}' does not exist"))));
            }
            let by_pool =
                pool.as_ref().is_some_and(|p| a.may(&ctx.caller, &format!("/pool/{p}"), "VM.Allocate"));
            if !by_pool && !a.may(&ctx.caller, &vm_path, "VM.Allocate") {
                return Err(ApiError::Forbidden(None));
            }
            let rights_path =
                if by_pool { format!("/pool/{}", pool.as_deref().unwrap_or("")) } else { vm_path.clone() };
            for (option, value) in &options {
                vmconfig::check_option(a, &ctx.caller, &rights_path, option, value)?;
                if vmconfig::is_drive(option) {
                    super::disk::check_drive(s, a, &ctx, &rights_path, option, value)?;
                }
                if vmconfig::is_net(option) {
                    vmconfig::check_bridge(a, &ctx.caller, value, ctx.cluster.major)?;
                }
            }
            Ok(())
        })
        .await?;
    let inner = ctx.clone();
    let guard = cluster.lock(vmid, cluster.timing.config_lock_ms / 2).await.map_err(ApiError::died)?;
    let opened = cluster.clone();
    let start = p.flag("start");
    let upid = cluster
        .change("create.temporary", |s| {
            if let Some(other) = s.vms.get(vmid) {
                return Err(ApiError::died(format!(
                    "unable to create VM {vmid} - VM {vmid} already exists on node '{}'",
                    other.node
                )));
            }
            let config = BTreeMap::from([("lock".to_owned(), "create".to_owned())]);
            let vm =
                Vm { vmid, node: ctx.node.clone(), config, created_at: opened.clock.now(), ..Vm::default() };
            s.vms.insert(vmid, vm);
            Ok(s.open_task(&opened, &ctx.node, "qmcreate", &vmid.to_string(), &ctx.caller))
        })
        .await?;
    let drives = options.iter().filter(|(k, _)| vmconfig::is_drive(k));
    let storages: BTreeSet<String> =
        drives.filter_map(|(_, v)| Some(Drive::parse(v).storage()?.to_owned())).collect();
    cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, |w| async move {
        let guard = guard;
        let node = w.node.clone();
        let ready = async {
            w.work_shortly().await?;
            let mut locks = Vec::new();
            for storage in &storages {
                let lock = w.lock_storage(&node, storage).await;
                locks.push(lock.map_err(|text| format!("unable to create VM {vmid} - {text}"))?);
            }
            Ok::<_, String>(locks)
        };
        let locks = match ready.await {
            Ok(locks) => locks,
            Err(text) => {
                w.cluster.change("create.undo", |s| super::remove_vm(s, &node, vmid)).await;
                return Err(text);
            }
        };
        let at = w.cluster.clock.now();
        let built = w
            .cluster
            .change("create.config", |s| {
                let mut lines = Vec::new();
                let mut config = BTreeMap::new();
                for (option, value) in &options {
                    let value = if vmconfig::is_drive(option) {
                        super::disk::attach(s, &inner, vmid, option, value, &mut lines)?
                    } else if vmconfig::is_net(option) {
                        vmconfig::net_with_mac(value, inner.cluster.major, &mut || s.draw_mac())
                    } else if option == "cipassword" {
                        super::update::hash_password(value)
                    } else {
                        value.clone()
                    };
                    config.insert(option.clone(), value);
                }
                config.entry("smbios1".into()).or_insert_with(|| format!("uuid={}", s.draw_uuid()));
                config.entry("vmgenid".into()).or_insert_with(|| s.draw_uuid());
                if !config.contains_key("boot") {
                    config.insert("boot".into(), default_boot(&config));
                }
                config.insert("meta".into(), format!("creation-qemu=9.2.0,ctime={}", at / 1000));
                if let Some(vm) = s.vms.get_mut(vmid) {
                    vm.config = config;
                }
                Ok::<_, String>(lines)
            })
            .await;
        drop(locks);
        match built {
            Ok(lines) => {
                for line in lines {
                    w.log(line).await;
                }
            }
            Err(text) => {
                w.cluster.change("create.undo", |s| super::remove_vm(s, &node, vmid)).await;
                return Err(text);
            }
        }
        if let Some(pool) = pool {
            w.cluster
                .change("create.pool", |s| {
                    if let Some(pool) = s.pools.get_mut(pool) {
                        pool.vms.push(vmid);
                    }
                })
                .await;
        }
        if start {
            super::start::boot(&super::start::Boot::of(&w), vmid).await?;
        }
        drop(guard);
        Ok(())
    });
    Ok(Value::from(upid).into())
}
