//! `POST /nodes/{node}/vzdump`: backups.
//!
//! Recorded are the refusals, the task without VM.Backup and how a job begins and ends; the lines of a
//! backup that succeeds, retention and protection follow `PVE::VZDump` (8.4.21 to 9.2).

mod backup;
mod prune;

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

pub(super) use self::backup::{check_protection, describe};

use self::prune::Keep;
use crate::pve::access::Access;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Given;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::State;
use crate::pve::task::{INTERRUPTED, KILLED, Worker};

const VZDUMP: &str = "\
all? b
bwlimit? i 0..
compress? s enum=0|1|gzip|lzo|zstd
dumpdir? s
exclude? s fmt=pve-vmid-list
exclude-path? a
fleecing? s fmt=backup-fleecing
ionice? i 0..8
job-id? s max=50
lockwait? i 0..
mailnotification? s enum=always|failure
mailto? s fmt=email-or-username-list
maxfiles? i 1.. until8
mode? s enum=snapshot|suspend|stop
node? s fmt=pve-node
notes-template? s max=1024 req=storage
notification-mode? s enum=auto|legacy-sendmail|notification-system
notification-policy? s enum=always|failure|never until8
notification-target? s fmt=pve-configid until8
pbs-change-detection-mode? s enum=legacy|data|metadata
performance? s fmt=backup-performance
pigz? i
pool? s
protected? b req=storage
prune-backups? s fmt=prune-backups
quiet? b
remove? b
script? s
stdexcludes? b
stdout? b
stop? b
stopwait? i 0..
storage? s fmt=pve-storage-id
tmpdir? s
vmid? s fmt=pve-vmid-list
zstd? i
";
const LOCK: &str = "/var/run/vzdump.lock";

pub(super) fn calls() -> Vec<Call> {
    vec![call("POST", "/nodes/{node}/vzdump", &[VZDUMP], Check::Everyone, vzdump)]
}

/// One job.
#[derive(Clone, Debug)]
struct Job {
    vmids: Vec<u32>,
    /// VMs of other nodes, of which the log says that they are skipped.
    elsewhere: Vec<u32>,
    all: bool,
    storage: String,
    mode: String,
    /// The end of the archive's name: `vma.zst`.
    format: &'static str,
    bwlimit: Option<String>,
    ionice: String,
    notes: Option<String>,
    protected: bool,
    remove: bool,
    keep: Option<Keep>,
    /// Minutes to wait for another job.
    lockwait: Option<u64>,
    /// As the log shows it.
    command: String,
}

/// What is wrong with a template of notes.
fn check_notes(template: &str) -> Result<(), String> {
    if template.contains('\n') {
        return Err("contains a line feed\n".into());
    }
    let mut wrong = Vec::new();
    let mut escapes = template.char_indices();
    while let Some((at, c)) = escapes.next() {
        if c == '\\'
            && let Some((_, c)) = escapes.next()
            && !matches!(c, 'n' | '\\')
        {
            wrong.push(format!("escape sequence '\\{c}' at char {at}"));
        }
    }
    for (at, _) in template.match_indices("{{") {
        let name = template[at + 2..].split("}}").next().unwrap_or("");
        if template[at..].contains("}}") && !matches!(name, "cluster" | "guestname" | "node" | "vmid") {
            wrong.push(format!("variable '{name}' at char {}", at + 4));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("found unknown: {}\n", wrong.join(", "))) }
}

/// Rights on single parameters, and parameters that do not go together.
fn check_parameters(a: &Access<'_>, ctx: &Ctx, storage: &str) -> Result<(), ApiError> {
    let p = &ctx.params;
    if !ctx.is_root_session() {
        for option in ["tmpdir", "dumpdir", "script", "job-id"] {
            if p.contains(option) {
                return Err(ApiError::parameter(option, "Only root may set this option."));
            }
        }
        if ["bwlimit", "ionice", "performance"].iter().any(|option| p.contains(option)) {
            a.check(&ctx.caller, "/", "Sys.Modify")?;
        }
        if p.contains("prune-backups") {
            a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.Allocate")?;
        }
    }
    for option in ["all", "exclude", "pool"] {
        let given = if option == "all" { p.flag(option) } else { p.contains(option) };
        if given && p.contains("vmid") {
            return Err(ApiError::parameter(option, "option conflicts with option 'vmid'"));
        }
    }
    if let Some(template) = p.get("notes-template") {
        check_notes(template).map_err(|text| ApiError::parameter("notes-template", text))?;
    }
    let some = p.flag("all") || p.flag("stop") || ["exclude", "pool", "vmid"].iter().any(|o| p.contains(o));
    if some { Ok(()) } else { Err(ApiError::parameter("vmid", "property is missing")) }
}

/// The job as a command line, parameters in the order of their names; Proxmox VE's own order is
/// accidental.
fn command_line(ctx: &Ctx) -> String {
    let mut words = vec!["vzdump".to_owned()];
    words.extend(ctx.params.list("vmid"));
    for (name, given) in ctx.params.iter() {
        let value = match given {
            Given::One(value) => value.clone(),
            Given::Many(values) => values.join(","),
        };
        if ["vmid", "stdout", "job-id"].contains(&name.as_str()) || value.is_empty() {
            continue;
        }
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c));
        let value = if plain { value } else { format!("'{}'", value.replace('\'', "'\\''")) };
        words.push(format!("--{name} {value}"));
    }
    words.join(" ")
}

fn plan(s: &State, a: &Access<'_>, ctx: &Ctx) -> Result<Job, ApiError> {
    let p = &ctx.params;
    let storage = p.get("storage").unwrap_or("local").to_owned();
    check_parameters(a, ctx, &storage)?;
    let all = p.flag("all") || (p.contains("exclude") && !p.contains("pool"));
    let excluded = p.list("exclude");
    let wanted: Vec<u32> = match p.get("pool") {
        Some(pool) => s.pools.get(pool).map(|pool| pool.vms.clone()).unwrap_or_default(),
        None if all => {
            s.vms.values().map(|v| v.vmid).filter(|v| !excluded.contains(&v.to_string())).collect()
        }
        None => p.list("vmid").iter().filter_map(|v| v.parse().ok()).collect(),
    };
    let is_elsewhere = |vmid: &u32| s.vms.get(*vmid).is_some_and(|vm| vm.node != ctx.node);
    let (mut elsewhere, mut vmids): (Vec<u32>, Vec<u32>) = wanted.into_iter().partition(is_elsewhere);
    vmids.sort_unstable();
    elsewhere.sort_unstable();
    if p.flag("stop") {
        a.check(&ctx.caller, &format!("/nodes/{}", ctx.node), "Sys.Modify")?;
    }
    if !vmids.is_empty() || all {
        a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.AllocateSpace")?;
    }
    let format = match p.get("compress").unwrap_or("0") {
        "zstd" => "vma.zst",
        "gzip" => "vma.gz",
        "lzo" | "1" => "vma.lzo",
        _ => "vma",
    };
    Ok(Job {
        vmids,
        elsewhere,
        all,
        storage,
        mode: p.get("mode").unwrap_or("snapshot").to_owned(),
        format,
        bwlimit: p.get("bwlimit").filter(|b| *b != "0").map(str::to_owned),
        ionice: p.get("ionice").unwrap_or("7").to_owned(),
        notes: p.get("notes-template").filter(|n| !n.is_empty()).map(str::to_owned),
        protected: p.flag("protected"),
        remove: p.get("remove") != Some("0"),
        keep: p.get("prune-backups").map(Keep::parse),
        lockwait: p.number("lockwait").and_then(|m| u64::try_from(m).ok()),
        command: command_line(ctx),
    })
}

async fn vzdump(ctx: Ctx) -> ApiResult {
    let job = ctx.cluster.judge(|s, a| plan(s, a, &ctx)).await?;
    if ctx.params.flag("stop") {
        let here = |upid: &str| upid.starts_with(&format!("UPID:{}:", ctx.node)) && upid.contains(":vzdump:");
        ctx.cluster.running_workers().iter().filter(|upid| here(upid)).for_each(|upid| {
            ctx.cluster.interrupt(upid);
        });
    }
    // Nothing to do here, which is no task.
    if job.vmids.is_empty() && !job.all {
        return Ok(Value::from("OK").into());
    }
    let id = if let [one] = job.vmids[..] { one.to_string() } else { String::new() };
    let cluster = ctx.cluster.clone();
    cluster.fork(&ctx, "vzdump", &id, |w| async move { work(&w, job).await }).await
}

/// One job at a time on a node; the others wait in line, three hours if they are not told otherwise.
async fn take_turn(w: &Worker, job: &Job) -> Result<OwnedMutexGuard<()>, String> {
    let lock = w.cluster.storage_lock(&w.node, LOCK);
    if let Ok(guard) = lock.clone().try_lock_owned() {
        return Ok(guard);
    }
    let minutes = job.lockwait.unwrap_or(180);
    // The daemon leaves without a last word: the log ends with the line that says why.
    if minutes == 0 {
        w.log(format!("ERROR: can't acquire lock '{LOCK}' (wait = 0)")).await;
        return Err(KILLED.into());
    }
    w.log("INFO: trying to get global lock - waiting...").await;
    let patience = std::time::Duration::from_millis(minutes * w.cluster.timing.vzdump_minute_ms);
    let got = w.unless_interrupted(tokio::time::timeout(patience, lock.lock_owned())).await;
    match got.map_err(|_| "interrupted by signal")? {
        Ok(guard) => {
            w.log("INFO: got global lock").await;
            Ok(guard)
        }
        Err(_) => {
            w.log(format!("ERROR: can't acquire lock '{LOCK}' - got timeout")).await;
            Err(KILLED.into())
        }
    }
}

async fn work(w: &Worker, mut job: Job) -> Result<(), String> {
    let asked = job.storage.clone();
    let keep = w.cluster.read(|s| {
        let st = s.storages.get(&asked).ok_or_else(|| format!("storage '{asked}' does not exist"))?;
        if st.disable {
            return Err(format!("storage '{asked}' is disabled"));
        }
        if !st.content.iter().any(|c| c == "backup") {
            return Err(format!("can't use storage '{asked}' for backups - wrong content type"));
        }
        Ok(st.options.get("prune-backups").map(|keep| Keep::parse(keep)))
    });
    let keep =
        keep.await.map_err(|text| format!("could not get storage information for '{asked}': {text}"))?;
    job.keep = job.keep.or(keep);
    let _turn = take_turn(w, &job).await?;
    w.log(format!("INFO: starting new backup job: {}", job.command)).await;
    if !job.elsewhere.is_empty() {
        let skipped: Vec<String> = job.elsewhere.iter().map(u32::to_string).collect();
        w.log(format!("INFO: skip external VMs: {}", skipped.join(", "))).await;
    }
    let may = |s: &State, a: &Access<'_>| {
        let mut todo = Vec::new();
        for vmid in &job.vmids {
            match a.check(&w.caller, &format!("/vms/{vmid}"), "VM.Backup") {
                Err(_) if job.all && s.vms.contains(vmid) => {}
                Err(error) if s.vms.contains(vmid) => return Err(format!("403 {}", error.text())),
                _ => todo.push(*vmid),
            }
        }
        Ok(todo)
    };
    let todo = w.cluster.judge(may).await?;
    let mut failed = false;
    for vmid in todo {
        match backup::back_up(w, &job, vmid).await {
            Ok(()) => {}
            Err(text) if text == INTERRUPTED => {
                let text = "interrupted by signal";
                w.log(format!("ERROR: Backup job failed - {text}")).await;
                return Err(text.into());
            }
            Err(_) => failed = true,
        }
    }
    let end = if failed { "finished with errors" } else { "finished successfully" };
    w.log(format!("INFO: Backup job {end}")).await;
    if failed { Err("job errors".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::check_notes;

    #[test]
    fn notes_know_four_variables_and_two_escapes() {
        assert_eq!(check_notes("{{guestname}} on {{node}}\\nof {{cluster}}, {{vmid}}"), Ok(()));
        let wrong = check_notes("{{name}} \\t").unwrap_err();
        assert_eq!(wrong, "found unknown: escape sequence '\\t' at char 9, variable 'name' at char 4\n");
    }
}
