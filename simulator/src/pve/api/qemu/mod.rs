//! `/nodes/{node}/qemu`: virtual machines.

mod clone;
mod config;
mod create;
mod destroy;
mod disk;
mod import;
pub(crate) mod list;
mod power;
mod restore;
mod shutdown;
mod snapshot;
pub(crate) mod start;
mod template;
mod update;

pub(crate) use destroy::remove_vm;
pub(crate) use shutdown::qmeventd;
pub(crate) use template::convert;

use crate::pve::call::Call;
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::reply::ApiError;
use crate::pve::state::{State, Vm};

pub(super) fn calls() -> Vec<Call> {
    let mut all = Vec::new();
    all.extend(list::calls());
    all.extend(create::calls());
    all.extend(clone::calls());
    all.extend(config::calls());
    all.extend(update::calls());
    all.extend(disk::calls());
    all.extend(power::calls());
    all.extend(shutdown::calls());
    all.extend(snapshot::calls());
    all.extend(template::calls());
    all.extend(destroy::calls());
    all
}

/// The VM of the path, or the 500 that says its configuration file does not exist.
pub(super) fn load<'s>(s: &'s State, ctx: &Ctx) -> Result<&'s Vm, ApiError> {
    s.vm_on(&ctx.node, ctx.vmid()).ok_or_else(|| ApiError::died(no_config(&ctx.node, ctx.vmid())))
}

/// The same for other resources.
pub(super) fn load_of<'s>(s: &'s State, ctx: &Ctx) -> Result<&'s Vm, ApiError> {
    load(s, ctx)
}

/// 500 `VM is locked (…)`.
pub(super) fn check_lock(vm: &Vm) -> Result<(), String> {
    match vm.lock() {
        Some(lock) => Err(format!("VM is locked ({lock})")),
        None => Ok(()),
    }
}

/// The same for other resources.
pub(super) fn check_lock_of(vm: &Vm) -> Result<(), String> {
    check_lock(vm)
}

/// `skiplock` and the like are for root's own session.
pub(super) fn only_root(ctx: &Ctx, options: &[&str]) -> Result<(), ApiError> {
    for option in options {
        if ctx.params.contains(option) && !ctx.is_root_session() {
            return Err(ApiError::parameter(option, "Only root may use this option."));
        }
    }
    Ok(())
}
