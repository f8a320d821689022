//! `…/agent`: the QEMU guest agent.

use std::time::Duration;

use serde_json::{Value, json};

use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::contents::Password;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{Options, State};
use crate::pve::vmconfig;

const EXEC: &str = "command a\ninput-data? s max=65536";

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::Own(may_audit);
    const ALL: Check = Check::Own(may_all);
    const BASE: [&str; 10] = [
        "/nodes/{node}/qemu/{vmid}/agent/ping",
        "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces",
        "/nodes/{node}/qemu/{vmid}/agent/get-osinfo",
        "/nodes/{node}/qemu/{vmid}/agent/get-host-name",
        "/nodes/{node}/qemu/{vmid}/agent/info",
        "/nodes/{node}/qemu/{vmid}/agent/exec",
        "/nodes/{node}/qemu/{vmid}/agent/exec-status",
        "/nodes/{node}/qemu/{vmid}/agent/set-user-password",
        "/nodes/{node}/qemu/{vmid}/agent/file-read",
        "/nodes/{node}/qemu/{vmid}/agent/shutdown",
    ];
    vec![
        call("POST", BASE[0], &[], AUDIT, |ctx| answer(ctx, |_| Ok(json!({})))),
        call("GET", BASE[1], &[], AUDIT, |ctx| answer(ctx, |config| Ok(interfaces(config)))),
        call("GET", BASE[2], &[], AUDIT, |ctx| {
            answer(ctx, |_| {
                Ok(
                    json!({"id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 13 (trixie)",
                          "version": "13 (trixie)", "version-id": "13", "machine": "x86_64", "kernel-release": "6.12.48-amd64",
                          "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1"}),
                )
            })
        }),
        call("GET", BASE[3], &[], AUDIT, |ctx| {
            answer(ctx, |config| Ok(json!({"host-name": config.get("name").cloned().unwrap_or_default()})))
        }),
        call("GET", BASE[4], &[], AUDIT, |ctx| {
            answer(ctx, |_| {
                Ok(
                    json!({"version": "10.0.0", "supported_commands": [{"name": "guest-ping", "enabled": true, "success-response": true}]}),
                )
            })
        }),
        call("POST", BASE[5], &[EXEC], ALL, exec),
        call("GET", BASE[6], &["pid i"], ALL, exec_status),
        call("POST", BASE[7], &["crypted? b\npassword s min=5 max=1024\nusername s"], ALL, set_user_password),
        call(
            "GET",
            BASE[8],
            &["file s\ncount? i 1..16777216 since9\ndecode? b since9\noffset? i 0.. since9"],
            Check::Own(may_read),
            |ctx| {
                let file = ctx.params.text("file").to_owned();
                answer(ctx, move |_| {
                    Err(format!(
                        "Agent error: failed to open file '{file}' (mode: 'r'): No such file or directory"
                    ))
                })
            },
        ),
        call("POST", BASE[9], &[], ALL, |ctx| answer(ctx, |_| Ok(json!({})))),
    ]
}

fn rule(a: &Access<'_>, caller: &Caller, p: &Params, nine: &[&str]) -> Result<(), ApiError> {
    let path = format!("/vms/{}", p.text("vmid"));
    if a.major >= 9 { a.check_any(caller, &path, nine) } else { a.check(caller, &path, "VM.Monitor") }
}

fn may_audit(a: &Access<'_>, caller: &Caller, p: &Params) -> Result<(), ApiError> {
    rule(a, caller, p, &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"])
}

fn may_all(a: &Access<'_>, caller: &Caller, p: &Params) -> Result<(), ApiError> {
    rule(a, caller, p, &["VM.GuestAgent.Unrestricted"])
}

fn may_read(a: &Access<'_>, caller: &Caller, p: &Params) -> Result<(), ApiError> {
    rule(a, caller, p, &["VM.GuestAgent.FileRead", "VM.GuestAgent.Unrestricted"])
}

/// Reaches the agent or says why not; a silent one is waited for.
async fn reach(ctx: &Ctx) -> Result<Options, ApiError> {
    let vmid = ctx.vmid();
    let now = ctx.cluster.clock.now();
    let (config, answers) = ctx
        .cluster
        .read(|s| {
            let vm = s.vm_on(&ctx.node, vmid).ok_or_else(|| ApiError::died(no_config(&ctx.node, vmid)))?;
            if !super::qemu::list::agent_configured(vm) {
                return Err(ApiError::died("No QEMU guest agent configured"));
            }
            let Some(run) = &vm.run else { return Err(ApiError::died(format!("VM {vmid} is not running"))) };
            let answers = run.agent_device && !run.paused && run.agent_at.is_some_and(|at| at <= now);
            Ok((vm.config.clone(), answers))
        })
        .await?;
    if !answers {
        tokio::time::sleep(Duration::from_millis(ctx.cluster.timing.agent_ms)).await;
        return Err(ApiError::died("QEMU guest agent is not running"));
    }
    Ok(config)
}

async fn answer(ctx: Ctx, result: impl FnOnce(&Options) -> Result<Value, String>) -> ApiResult {
    let config = reach(&ctx).await?;
    let result = result(&config).map_err(ApiError::died)?;
    Ok(json!({ "result": result }).into())
}

/// Sets a password in the guest. It is on the disk that the guest booted from, so that it comes and goes
/// with it: whoever rolls back has the old one again.
async fn set_user_password(ctx: Ctx) -> ApiResult {
    let config = reach(&ctx).await?;
    let vmid = ctx.vmid();
    let user = ctx.params.text("username").to_owned();
    let password = Password::of(ctx.params.text("password"), ctx.params.flag("crypted"));
    ctx.cluster
        .change("agent.password", |s| {
            let vm = s.vms.get(vmid).ok_or_else(|| no_config(&ctx.node, vmid))?;
            if vm.bare_guest {
                return Err("Agent error: cannot find 'passwd' program in PATH".to_owned());
            }
            let made = vm.drive.as_ref().is_some_and(|d| d.user.contains(&format!("name: {user}\n")));
            let configured = config.get("ciuser").is_some_and(|ciuser| *ciuser == user);
            if user != "root" && !made && !configured {
                return Err("Agent error: child process has failed to set user password".to_owned());
            }
            let disk = vm.run.as_ref().and_then(|run| run.booted_from.clone()).map(|(_, volid)| volid);
            let key = disk.map(|volid| State::volume_key(&ctx.node, &volid));
            if let Some(volume) = key.and_then(|key| s.volumes.get_mut(key)) {
                volume.holds.passwords.insert(user, password);
            }
            Ok(())
        })
        .await
        .map_err(ApiError::died)?;
    Ok(json!({ "result": {} }).into())
}

fn interfaces(config: &Options) -> Value {
    let statistics = json!({"rx-bytes": 6400, "rx-packets": 80, "rx-errs": 0, "rx-dropped": 0,
                            "tx-bytes": 4200, "tx-packets": 60, "tx-errs": 0, "tx-dropped": 0});
    let loopback = json!({"name": "lo", "statistics": statistics, "hardware-address": "00:00:00:00:00:00", "ip-addresses": [
        {"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8},
        {"ip-address-type": "ipv6", "ip-address": "::1", "prefix": 128}]});
    let mut out = vec![loopback];
    for (net, value) in config.iter().filter(|(k, _)| vmconfig::is_net(k)) {
        let index = net.trim_start_matches("net");
        let (_, _, mac) = vmconfig::net_parts(value, 9);
        let mut addresses = Vec::new();
        for (kind, key) in [("ipv4", "ip="), ("ipv6", "ip6=")] {
            let part = config
                .get(&format!("ipconfig{index}"))
                .and_then(|c| c.split(',').find_map(|p| p.strip_prefix(key)));
            if let Some((ip, prefix)) = part.and_then(|p| p.split_once('/')) {
                addresses.push(json!({"ip-address-type": kind, "ip-address": ip, "prefix": prefix.parse::<u32>().unwrap_or(0)}));
            }
        }
        out.push(
            json!({"name": format!("eth{index}"), "hardware-address": mac.unwrap_or_default().to_lowercase(),
                        "ip-addresses": addresses, "statistics": statistics}),
        );
    }
    Value::Array(out)
}

async fn exec(ctx: Ctx) -> ApiResult {
    reach(&ctx).await?;
    let command = ctx.params.many("command");
    // A missing program: the daemon dies over the typographic quotes in the guest's message.
    if command.first().is_some_and(|c| c.starts_with("/nope")) {
        return Err(ApiError::Transport(596, "Broken pipe".into()));
    }
    let pid = ctx
        .cluster
        .change("agent.exec", |s| {
            let pid = s.count("guest pid", 1) + 1000;
            s.meta.insert(format!("exec {} {pid}", ctx.vmid()), command.join(" "));
            pid
        })
        .await;
    Ok(json!({ "pid": pid }).into())
}

async fn exec_status(ctx: Ctx) -> ApiResult {
    reach(&ctx).await?;
    let pid = ctx.params.text("pid");
    let command = ctx.cluster.read(|s| s.meta.get(format!("exec {} {pid}", ctx.vmid())).cloned()).await;
    match command {
        Some(command) => {
            let mut out = json!({"exited": 1, "exitcode": 0});
            let said = match command.as_str() {
                "/bin/uname" => Some("Linux\n".to_owned()),
                other => other.strip_prefix("echo ").map(|t| format!("{t}\n")),
            };
            // Without output there are no such fields.
            if let Some(said) = said {
                out["out-data"] = said.into();
                out["out-truncated"] = 0.into();
            }
            Ok(out.into())
        }
        None => Err(ApiError::died(format!("Agent error: PID {pid} does not exist"))),
    }
}
