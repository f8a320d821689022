//! Who asks for something on this host, and how that is shown.

use serde_json::{Value, json};

use super::{env, journal::time, print, service_user::ASKED_BY};
use crate::journal::requests::RequestRow;

/// Who is in front of this command, as JSON: the user, the one behind `sudo`, the one who logged in, the terminal.
pub(super) fn who() -> String {
    if let Some(asked_by) = env(ASKED_BY) {
        return asked_by;
    }
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name_of = |uid: u32| {
        let line =
            users.lines().find(|line| line.split(':').nth(2).and_then(|n| n.parse().ok()) == Some(uid))?;
        line.split(':').next().map(str::to_owned)
    };
    // The kernel keeps who logged in, whatever they became since; without a login it is the highest number.
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != u32::MAX);
    let terminal = std::fs::read_link("/proc/self/fd/0").ok().filter(|path| path.starts_with("/dev"));
    json!({
        "uid": uid,
        "name": name_of(uid).unwrap_or_else(|| uid.to_string()),
        "sudo": env("SUDO_USER"),
        "login": login.map(|uid| name_of(uid).unwrap_or_else(|| uid.to_string())),
        "terminal": terminal.map(|path| path.display().to_string()),
    })
    .to_string()
}

pub(super) fn request_json(row: &RequestRow) -> Value {
    json!({
        "n": row.n, "verb": row.verb.as_str(), "order_id": row.order, "reason": row.reason,
        "who": serde_json::from_str::<Value>(&row.who).unwrap_or(Value::Null),
        "asked_at": row.asked_at, "state": row.state.as_str(), "outcome": row.outcome, "ended_at": row.ended_at,
    })
}

/// One request in two lines.
pub(super) fn print_request(row: &RequestRow) {
    let who: Value = serde_json::from_str(&row.who).unwrap_or(Value::Null);
    let name = who["sudo"].as_str().or(who["name"].as_str()).unwrap_or("?");
    let order = row.order.map(|id| format!(" {id}")).unwrap_or_default();
    let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", row.reason) };
    print(&format!("{}  {:3}  {name} asked: {}{order}{reason}", time(row.asked_at), row.n, row.verb));
    let outcome = row.outcome.as_deref().unwrap_or("not taken up yet");
    print(&format!("{:24}  {}: {outcome}", "", row.state));
}
