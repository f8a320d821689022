//! A VM's firewall: options and rules. A VM that does not exist has an empty file.

use serde_json::{Map, Value, json};

use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Firewall, Options, sha1_hex};

const OPTIONS: &str = "\
delete? s fmt=pve-configid-list
dhcp? b
digest? s max=64
enable? b
ipfilter? b
log_level_in? s enum=emerg|alert|crit|err|warning|notice|info|debug|nolog
log_level_out? s enum=emerg|alert|crit|err|warning|notice|info|debug|nolog
macfilter? b
ndp? b
policy_in? s enum=ACCEPT|REJECT|DROP
policy_out? s enum=ACCEPT|REJECT|DROP
radv? b
";
const RULE: &str = "\
comment? s
dest? s max=512 fmt=pve-fw-addr-spec
digest? s max=64
dport? s fmt=pve-fw-dport-spec
enable? i 0..
icmp-type? s fmt=pve-fw-icmp-type-spec
iface? s min=2 max=20 fmt=pve-iface
log? s enum=emerg|alert|crit|err|warning|notice|info|debug|nolog
macro? s max=128
proto? s fmt=pve-fw-protocol-spec
source? s max=512 fmt=pve-fw-addr-spec
sport? s fmt=pve-fw-sport-spec
pos? i 0..
";
const NEW: &str = "action s min=2 max=20 re=fw-name\ntype s enum=in|out|forward|group";
const CHANGED: &str = "action? s min=2 max=20 re=fw-name\ntype? s enum=in|out|forward|group\nmoveto? i 0..\ndelete? s fmt=pve-configid-list";
const BASE: &str = "/nodes/{node}/qemu/{vmid}/firewall";
pub(super) const MACROS: &[&str] = &[
    "Amanda",
    "Auth",
    "BGP",
    "BitTorrent",
    "DHCPfwd",
    "DHCPv6",
    "DNS",
    "FTP",
    "Git",
    "HTTP",
    "HTTPS",
    "IMAP",
    "IMAPS",
    "LDAP",
    "LDAPS",
    "Mail",
    "MySQL",
    "NTP",
    "NeighborDiscovery",
    "OpenVPN",
    "POP3",
    "POP3S",
    "Ping",
    "PostgreSQL",
    "RDP",
    "Rsync",
    "SMB",
    "SMTP",
    "SMTPS",
    "SNMP",
    "SSH",
    "Submission",
    "Syslog",
    "Telnet",
    "Trcrt",
    "VNC",
    "Web",
    "Webmin",
    "Whois",
];

pub(super) fn calls() -> Vec<Call> {
    const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
    const WRITE: Check = Check::All("/vms/{vmid}", &["VM.Config.Network"]);
    const POS: &str = "/nodes/{node}/qemu/{vmid}/firewall/rules/{pos}";
    debug_assert!(POS.starts_with(BASE));
    vec![
        call("GET", "/nodes/{node}/qemu/{vmid}/firewall/options", &[], AUDIT, options),
        call("PUT", "/nodes/{node}/qemu/{vmid}/firewall/options", &[OPTIONS], WRITE, set_options),
        call("GET", "/nodes/{node}/qemu/{vmid}/firewall/rules", &[], AUDIT, rules),
        call("POST", "/nodes/{node}/qemu/{vmid}/firewall/rules", &[RULE, NEW], WRITE, add_rule),
        call("GET", POS, &["pos? i 0.."], AUDIT, rule),
        call("PUT", POS, &[RULE, CHANGED], WRITE, change_rule),
        call("DELETE", POS, &["pos? i 0..\ndigest? s max=64"], WRITE, remove_rule),
        call("GET", "/nodes/{node}/qemu/{vmid}/firewall/refs", &["type? s enum=alias|ipset"], AUDIT, refs),
    ]
}

/// What a rule may refer to: the VM's ipsets.
async fn refs(ctx: Ctx) -> ApiResult {
    let kind = ctx.params.get("type").map(str::to_owned);
    with_file(&ctx, |f| {
        let sets = f.ipsets.iter().filter(|_| kind.as_deref().is_none_or(|k| k == "ipset"));
        let rows = sets.map(|(name, set)| {
            let mut row = json!({"name": name, "ref": format!("+{name}"), "scope": "guest", "type": "ipset"});
            if let Some(comment) = &set.comment {
                row["comment"] = comment.as_str().into();
            }
            row
        });
        Ok(Value::Array(rows.collect()).into())
    })
    .await
}

/// Numbers as numbers, the rest as text.
fn shown(map: &Options) -> Map<String, Value> {
    map.iter().map(|(k, v)| (k.clone(), number_or_text(k, v))).collect()
}

fn number_or_text(key: &str, value: &str) -> Value {
    let numeric = matches!(key, "enable" | "ipfilter" | "macfilter" | "dhcp" | "ndp" | "radv" | "ipversion");
    match value.parse::<i64>() {
        Ok(n) if numeric => n.into(),
        _ => value.into(),
    }
}

fn text_of(items: &[Options]) -> String {
    items.iter().map(|r| format!("{r:?}\n")).collect()
}

fn digest_of_options(file: &Firewall) -> String {
    if file.options.is_empty() {
        sha1_hex(b"")
    } else {
        sha1_hex(text_of(std::slice::from_ref(&file.options)).as_bytes())
    }
}

fn digest_of_rules(file: &Firewall) -> String {
    sha1_hex(text_of(&file.rules).as_bytes())
}

fn check_digest(given: Option<&str>, actual: &str) -> Result<(), ApiError> {
    match given {
        Some(d) if d != actual => {
            Err(ApiError::died("detected modified configuration - file changed by other user? Try again."))
        }
        _ => Ok(()),
    }
}

async fn with_file<T>(ctx: &Ctx, look: impl FnOnce(&Firewall) -> T) -> T {
    let empty = Firewall::default();
    ctx.cluster.read(|s| look(s.firewalls.get(ctx.vmid()).unwrap_or(&empty))).await
}

async fn edit<T>(
    ctx: &Ctx,
    effect: &'static str,
    change: impl FnOnce(&mut Firewall) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    ctx.cluster
        .change(effect, |s| {
            let mut file = s.firewalls.get(ctx.vmid()).cloned().unwrap_or_default();
            let out = change(&mut file)?;
            s.firewalls.insert(ctx.vmid(), file);
            Ok(out)
        })
        .await
}

async fn options(ctx: Ctx) -> ApiResult {
    with_file(&ctx, |f| {
        let mut out = shown(&f.options);
        out.insert("digest".into(), digest_of_options(f).into());
        Ok(Value::Object(out).into())
    })
    .await
}

async fn set_options(ctx: Ctx) -> ApiResult {
    let given = crate::pve::vmconfig::given_options(&ctx.params, &["node", "vmid", "digest", "delete"]);
    let delete = ctx.params.list("delete");
    edit(&ctx, "firewall.options", |f| {
        check_digest(ctx.params.get("digest"), &digest_of_options(f))?;
        for option in &delete {
            f.options.remove(option);
        }
        f.options.extend(given);
        Ok(())
    })
    .await?;
    null()
}

fn rule_row(rule: &Options, digest: &str) -> Map<String, Value> {
    let mut out = shown(rule);
    out.insert("digest".into(), digest.into());
    out
}

async fn rules(ctx: Ctx) -> ApiResult {
    with_file(&ctx, |f| {
        let digest = digest_of_rules(f);
        let rows = f.rules.iter().enumerate().map(|(i, r)| {
            let mut row = rule_row(r, &digest);
            row.insert("pos".into(), i.into());
            Value::Object(row)
        });
        Ok(Value::Array(rows.collect()).into())
    })
    .await
}

fn position(ctx: &Ctx) -> usize {
    ctx.params.get("pos").and_then(|p| p.parse().ok()).unwrap_or(0)
}

fn no_rule(pos: usize) -> ApiError {
    ApiError::died(format!("no rule at position {pos}"))
}

async fn rule(ctx: Ctx) -> ApiResult {
    let pos = position(&ctx);
    with_file(&ctx, |f| {
        let rule = f.rules.get(pos).ok_or_else(|| no_rule(pos))?;
        let mut row = rule_row(rule, &digest_of_rules(f));
        row.insert("pos".into(), pos.to_string().into());
        Ok(Value::Object(row).into())
    })
    .await
}

/// A rule's fields, with the IP version that its addresses tell.
fn fields(p: &Params) -> Result<Options, ApiError> {
    let mut rule =
        crate::pve::vmconfig::given_options(p, &["node", "vmid", "digest", "pos", "moveto", "delete"]);
    if let Some(action) = rule.get("action")
        && rule.get("type").is_none_or(|t| t != "group")
        && !["ACCEPT", "DROP", "REJECT"].contains(&action.as_str())
    {
        return Err(ApiError::parameter("action", format!("unknown action '{action}'")));
    }
    if let Some(name) = rule.get("macro")
        && !MACROS.contains(&name.as_str())
    {
        return Err(ApiError::parameter("macro", format!("unknown macro '{name}'")));
    }
    let address = rule.get("source").or_else(|| rule.get("dest")).cloned();
    if let Some(address) = address.filter(|a| !a.starts_with('+')) {
        let version = if address.contains(':') { "6" } else { "4" };
        rule.insert("ipversion".into(), version.into());
    }
    Ok(rule)
}

/// Ports need a protocol.
fn check_ports(rule: &Options) -> Result<(), ApiError> {
    match ["dport", "sport"].iter().find(|p| rule.contains_key(**p)) {
        Some(port) if !rule.contains_key("proto") && !rule.contains_key("macro") => {
            Err(ApiError::parameter(port, "missing property 'proto'"))
        }
        _ => Ok(()),
    }
}

async fn add_rule(ctx: Ctx) -> ApiResult {
    let rule = fields(&ctx.params)?;
    check_ports(&rule)?;
    let pos = position(&ctx);
    edit(&ctx, "firewall.rule", |f| {
        check_digest(ctx.params.get("digest"), &digest_of_rules(f))?;
        let at = pos.min(f.rules.len());
        f.rules.insert(at, rule);
        Ok(())
    })
    .await?;
    null()
}

async fn change_rule(ctx: Ctx) -> ApiResult {
    let given = fields(&ctx.params)?;
    let pos = position(&ctx);
    let moveto = ctx.params.number("moveto").and_then(|m| usize::try_from(m).ok());
    let delete = ctx.params.list("delete");
    edit(&ctx, "firewall.rule", |f| {
        check_digest(ctx.params.get("digest"), &digest_of_rules(f))?;
        let rule = f.rules.get_mut(pos).ok_or_else(|| no_rule(pos))?;
        if let Some(to) = moveto {
            let rule = f.rules.remove(pos);
            let to = if to > pos { to - 1 } else { to };
            let at = to.min(f.rules.len());
            f.rules.insert(at, rule);
            return Ok(());
        }
        for key in &delete {
            rule.remove(key);
        }
        rule.extend(given);
        check_ports(rule)
    })
    .await?;
    null()
}

async fn remove_rule(ctx: Ctx) -> ApiResult {
    let pos = position(&ctx);
    edit(&ctx, "firewall.rule", |f| {
        check_digest(ctx.params.get("digest"), &digest_of_rules(f))?;
        if pos >= f.rules.len() {
            return Err(no_rule(pos));
        }
        f.rules.remove(pos);
        Ok(())
    })
    .await?;
    null()
}
