//! Applying a scenario: plain HTTP to the control APIs of whatever runs.

use std::{path::Path, time::Duration};

use reqwest::{Client, Method};
use serde_json::Value;

use super::{At, Planned, Scenario, ScenarioError, Target};

/// How often is looked whether somebody has paid.
const LOOK: Duration = Duration::from_millis(100);

/// Where the control APIs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Of each Proxmox VE host, in the order of the demo's nodes.
    pub pve: Vec<String>,
    /// Of Stripe.
    pub stripe: Option<String>,
    /// Of the mail server.
    pub mail: Option<String>,
    /// Of the network of each node, in the order of the demo's nodes; none without a link proxy.
    pub link: Vec<String>,
}

impl Targets {
    /// Finds them in a demo's `state.json` (which gives the nodes their order) and the simulator's
    /// `ready.json`; either may be null.
    pub fn of(state: &Value, ready: &Value) -> Self {
        let url = |value: &Value| value.as_str().map(|text| text.trim_end_matches('/').to_owned());
        let listens = |value: &Value| value.as_str().map(|address| format!("http://{address}"));
        let nodes = |all: &Value| -> Vec<String> {
            all.as_array().into_iter().flatten().filter_map(|node| url(&node["control_url"])).collect()
        };
        let mut pve = nodes(&state["nodes"]);
        if pve.is_empty() {
            let clusters = ready["pve"]["clusters"].as_array().into_iter().flatten();
            pve = clusters.flat_map(|cluster| nodes(&cluster["nodes"])).collect();
        }
        let of_node = |node: &Value| url(&node["link_control_url"]);
        let mut link: Vec<String> =
            state["nodes"].as_array().into_iter().flatten().filter_map(of_node).collect();
        if let (true, Some(base)) = (link.is_empty(), listens(&ready["link_proxy"]["control_listen"])) {
            let lanes = ready["link_proxy"]["nodes"].as_array().into_iter().flatten();
            link =
                lanes.filter_map(|lane| Some(format!("{base}/nodes/{}", lane["name"].as_str()?))).collect();
        }
        Self {
            link,
            pve,
            stripe: url(&state["stripe"]["control_url"])
                .or_else(|| listens(&ready["stripe"]["control_listen"])),
            mail: listens(&ready["mail"]["http_listen"]).or_else(|| url(&state["mail"]["url"])),
        }
    }

    /// Reads both files from a demo's state directory, or `ready.json` alone from a simulator's.
    ///
    /// # Errors
    /// Neither is there, or one is no JSON.
    pub fn read(state_dir: &Path) -> Result<Self, ScenarioError> {
        let state = json_file(&state_dir.join("state.json"))?;
        let mut ready = json_file(&state_dir.join("sim/ready.json"))?;
        if ready.is_null() {
            ready = json_file(&state_dir.join("ready.json"))?;
        }
        let found = Self::of(&state, &ready);
        if found == Self::default() {
            let path = state_dir.join("sim/ready.json");
            return Err(ScenarioError::State { path, reason: "names no simulator".into() });
        }
        Ok(found)
    }

    /// The bases a target stands for.
    fn bases(&self, target: Target) -> Result<Vec<&str>, ScenarioError> {
        let missing = |what: String| ScenarioError::NoTarget(what);
        match target {
            Target::Pve(Some(node)) => {
                let base = self.pve.get(node).ok_or_else(|| missing(format!("node {node}")))?;
                Ok(vec![base])
            }
            Target::Pve(None) if self.pve.is_empty() => Err(missing("Proxmox VE".into())),
            Target::Pve(None) => Ok(self.pve.iter().map(String::as_str).collect()),
            Target::Link(Some(node)) => {
                let base = self.link.get(node).ok_or_else(|| missing(format!("network of node {node}")))?;
                Ok(vec![base])
            }
            Target::Link(None) if self.link.is_empty() => Err(missing("link proxy".into())),
            Target::Link(None) => Ok(self.link.iter().map(String::as_str).collect()),
            Target::Stripe => Ok(vec![self.stripe.as_deref().ok_or_else(|| missing("Stripe".into()))?]),
            Target::Mail => Ok(vec![self.mail.as_deref().ok_or_else(|| missing("mail server".into()))?]),
        }
    }

    /// Where the faults of each simulator are listed and taken back.
    fn lists(&self) -> Vec<String> {
        let pve = self.pve.iter().map(|base| format!("{base}/faults"));
        let stripe = self.stripe.iter().map(|base| format!("{base}/_sim/faults"));
        let mail = self.mail.iter().map(|base| format!("{base}/faults"));
        let link = self.link.iter().map(|base| format!("{base}/faults"));
        pve.chain(stripe).chain(mail).chain(link).collect()
    }
}

/// A JSON file; null if it is not there.
fn json_file(path: &Path) -> Result<Value, ScenarioError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(source) => return Err(ScenarioError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_str(&text)
        .map_err(|error| ScenarioError::State { path: path.to_owned(), reason: error.to_string() })
}

/// Posts the faults that hold from the start; how many requests that were.
///
/// # Errors
/// Somebody is not there, does not answer or refuses; faults before that one hold.
pub async fn apply(scenario: &Scenario, targets: &Targets) -> Result<usize, ScenarioError> {
    apply_at(scenario, targets, At::Start).await
}

/// Posts the faults of one moment; how many requests that were.
///
/// # Errors
/// As [`apply`].
pub async fn apply_at(scenario: &Scenario, targets: &Targets, at: At) -> Result<usize, ScenarioError> {
    let client = client()?;
    let mut posted = 0;
    for Planned { target, path, body, .. } in scenario.faults.iter().filter(|fault| fault.at == at) {
        for base in targets.bases(*target)? {
            call(&client, Method::POST, &format!("{base}{path}"), Some(body)).await?;
            posted += 1;
        }
    }
    Ok(posted)
}

/// Takes every fault back, everywhere.
///
/// # Errors
/// A simulator does not answer.
pub async fn clear(targets: &Targets) -> Result<(), ScenarioError> {
    let client = client()?;
    for url in targets.lists() {
        call(&client, Method::DELETE, &url, None).await?;
    }
    Ok(())
}

/// What every simulator says about its faults: address and answer.
///
/// # Errors
/// A simulator does not answer.
pub async fn faults(targets: &Targets) -> Result<Vec<(String, Value)>, ScenarioError> {
    let client = client()?;
    let mut all = Vec::new();
    for url in targets.lists() {
        let answer = call(&client, Method::GET, &url, None).await?;
        all.push((url, answer));
    }
    Ok(all)
}

/// How often the faults that are armed have struck, all together: rules, connections that were turned away,
/// volumes that did not fit.
///
/// # Errors
/// A simulator does not answer.
pub async fn hits(targets: &Targets) -> Result<u64, ScenarioError> {
    let all = faults(targets).await?;
    let lists = ["rules", "webhooks", "api", "full_storages"];
    let listed = all.iter().flat_map(|(_, answer)| lists.map(|key| &answer[key]));
    let each = listed.filter_map(Value::as_array).flatten();
    let struck = each.flat_map(|one| [&one["hits"], &one["refused"]]).filter_map(Value::as_u64);
    let resets = all.iter().filter_map(|(_, answer)| answer["resets"].as_u64());
    Ok(struck.chain(resets).sum())
}

/// Waits until somebody has paid who had not when this was called.
///
/// # Errors
/// Stripe is not there or does not answer.
pub async fn next_payment(targets: &Targets) -> Result<(), ScenarioError> {
    let client = client()?;
    let base = targets.bases(Target::Stripe)?.concat();
    let url = format!("{base}/_sim/sessions");
    let paid = async || {
        let sessions = call(&client, Method::GET, &url, None).await?;
        let all = sessions["data"].as_array().into_iter().flatten();
        Ok::<_, ScenarioError>(all.filter(|session| session["payment_status"] == "paid").count())
    };
    let before = paid().await?;
    while paid().await? <= before {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn client() -> Result<Client, ScenarioError> {
    Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .map_err(|error| ScenarioError::Unreachable { url: "HTTP".into(), reason: error.to_string() })
}

async fn call(
    client: &Client,
    method: Method,
    url: &str,
    body: Option<&Value>,
) -> Result<Value, ScenarioError> {
    let failed =
        |error: reqwest::Error| ScenarioError::Unreachable { url: url.to_owned(), reason: reason(&error) };
    let mut request = client.request(method, url);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let text = answer.text().await.map_err(failed)?;
    if !status.is_success() {
        let status = status.as_u16();
        return Err(ScenarioError::Refused { url: url.to_owned(), status, reason: text });
    }
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// The innermost cause; the outer texts only repeat the address.
fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
