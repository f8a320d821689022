//! A VM's ipsets, among them `ipfilter-netN`.

use serde_json::{Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Firewall, IpSet, IpSetEntry, sha1_hex};

const NAME: &str = "name s min=2 max=64 re=fw-name";
const CIDR: &str = "cidr s fmt=IPorCIDRorAlias";

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
    const WRITE: Check = Check::All("/vms/{vmid}", &["VM.Config.Network"]);
    const ALL: &str = "/nodes/{node}/qemu/{vmid}/firewall/ipset";
    const ONE: &str = "/nodes/{node}/qemu/{vmid}/firewall/ipset/{name}";
    const ENTRY: &str = "/nodes/{node}/qemu/{vmid}/firewall/ipset/{name}/{cidr}";
    vec![
        call("GET", ALL, &[], AUDIT, list),
        call(
            "POST",
            ALL,
            &[NAME, "comment? s\ndigest? s max=64\nrename? s min=2 max=64 re=fw-name"],
            WRITE,
            create,
        ),
        call("GET", ONE, &[NAME], AUDIT, entries),
        call("POST", ONE, &[NAME, CIDR, "comment? s\nnomatch? b"], WRITE, add),
        call("DELETE", ONE, &[NAME, "force? b"], WRITE, remove),
        call("GET", ENTRY, &[NAME, CIDR], AUDIT, entry),
        call("PUT", ENTRY, &[NAME, CIDR, "comment? s\ndigest? s max=64\nnomatch? b"], WRITE, change),
        call("DELETE", ENTRY, &[NAME, CIDR, "digest? s max=64"], WRITE, remove_entry),
    ]
}

fn digest(set: &IpSet) -> String {
    sha1_hex(format!("{:?}", set.entries).as_bytes())
}

fn row(entry: &IpSetEntry, digest: &str) -> Value {
    let mut out = json!({"cidr": entry.cidr, "digest": digest});
    if let Some(comment) = &entry.comment {
        out["comment"] = comment.as_str().into();
    }
    if entry.nomatch {
        out["nomatch"] = 1.into();
    }
    out
}

/// A single address without its full-length prefix, as Proxmox stores it.
fn canonical(cidr: &str) -> String {
    let trimmed =
        cidr.strip_suffix("/32").filter(|_| !cidr.contains(':')).or_else(|| cidr.strip_suffix("/128"));
    trimmed.unwrap_or(cidr).to_owned()
}

fn missing(name: &str) -> ApiError {
    ApiError::died(format!("no such IPSet '{name}'"))
}

async fn read<T>(ctx: &Ctx, look: impl FnOnce(&Firewall) -> Result<T, ApiError>) -> Result<T, ApiError> {
    let empty = Firewall::default();
    ctx.cluster.read(|s| look(s.firewalls.get(ctx.vmid()).unwrap_or(&empty))).await
}

async fn edit(ctx: &Ctx, change: impl FnOnce(&mut Firewall) -> Result<(), ApiError>) -> ApiResult {
    ctx.cluster
        .change("firewall.ipset", |s| {
            let mut file = s.firewalls.get(ctx.vmid()).cloned().unwrap_or_default();
            change(&mut file)?;
            s.firewalls.insert(ctx.vmid(), file);
            Ok::<_, ApiError>(())
        })
        .await?;
    null()
}

async fn list(ctx: Ctx) -> ApiResult {
    read(&ctx, |f| {
        let rows = f.ipsets.iter().map(|(name, set)| {
            let mut out = json!({"name": name, "digest": digest(set)});
            if let Some(comment) = &set.comment {
                out["comment"] = comment.as_str().into();
            }
            out
        });
        Ok(Value::Array(rows.collect()).into())
    })
    .await
}

async fn create(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("name").to_owned();
    let comment = ctx.params.get("comment").map(str::to_owned);
    let rename = ctx.params.get("rename").map(str::to_owned);
    edit(&ctx, |f| {
        if let Some(old) = rename {
            let mut set = f.ipsets.remove(&old).ok_or_else(|| missing(&old))?;
            set.comment = comment;
            f.ipsets.insert(name, set);
            return Ok(());
        }
        if f.ipsets.contains_key(&name) {
            return Err(ApiError::parameter("name", format!("IPSet '{name}' already exists")));
        }
        f.ipsets.insert(name, IpSet { comment, entries: Vec::new() });
        Ok(())
    })
    .await
}

async fn remove(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("name").to_owned();
    let force = ctx.params.flag("force");
    edit(&ctx, |f| {
        let set = f.ipsets.get(&name).ok_or_else(|| missing(&name))?;
        if !set.entries.is_empty() && !force {
            return Err(ApiError::died(format!("IPSet '{name}' is not empty")));
        }
        f.ipsets.remove(&name);
        Ok(())
    })
    .await
}

async fn entries(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("name");
    read(&ctx, |f| {
        let set = f.ipsets.get(name).ok_or_else(|| missing(name))?;
        let digest = digest(set);
        Ok(Value::Array(set.entries.iter().map(|e| row(e, &digest)).collect()).into())
    })
    .await
}

async fn add(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("name").to_owned();
    let cidr = canonical(ctx.params.text("cidr"));
    let comment = ctx.params.get("comment").map(str::to_owned);
    let nomatch = ctx.params.flag("nomatch");
    edit(&ctx, |f| {
        let set = f.ipsets.get_mut(&name).ok_or_else(|| missing(&name))?;
        if set.entries.iter().any(|e| e.cidr == cidr) {
            return Err(ApiError::parameter("cidr", format!("address '{cidr}' already exists")));
        }
        set.entries.insert(0, IpSetEntry { cidr, comment, nomatch });
        Ok(())
    })
    .await
}

fn no_entry(cidr: &str) -> ApiError {
    ApiError::parameter("cidr", format!("no such IP/Network: {cidr}"))
}

async fn entry(ctx: Ctx) -> ApiResult {
    let (name, cidr) = (ctx.params.text("name"), canonical(ctx.params.text("cidr")));
    read(&ctx, |f| {
        let set = f.ipsets.get(name).ok_or_else(|| missing(name))?;
        let found = set.entries.iter().find(|e| e.cidr == cidr).ok_or_else(|| no_entry(&cidr))?;
        Ok(row(found, &digest(set)).into())
    })
    .await
}

async fn change(ctx: Ctx) -> ApiResult {
    let (name, cidr) = (ctx.params.text("name").to_owned(), canonical(ctx.params.text("cidr")));
    let comment = ctx.params.get("comment").map(str::to_owned);
    let nomatch = ctx.params.flag("nomatch");
    edit(&ctx, |f| {
        let set = f.ipsets.get_mut(&name).ok_or_else(|| missing(&name))?;
        let found = set.entries.iter_mut().find(|e| e.cidr == cidr).ok_or_else(|| no_entry(&cidr))?;
        found.comment = comment;
        found.nomatch = nomatch;
        Ok(())
    })
    .await
}

async fn remove_entry(ctx: Ctx) -> ApiResult {
    let (name, cidr) = (ctx.params.text("name").to_owned(), canonical(ctx.params.text("cidr")));
    edit(&ctx, |f| {
        // Removing what is not there is no error.
        if let Some(set) = f.ipsets.get_mut(&name) {
            set.entries.retain(|e| e.cidr != cidr);
        }
        Ok(())
    })
    .await
}
