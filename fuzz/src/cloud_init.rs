//! What customers type against the first-boot files.

use data_encoding::BASE64;
use ez_node_agent::cloudinit;
use ez_protocol::{InstanceId, order::InstanceSpec, order::Recipe};
use serde_json::{Map, Value, json};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
/// Between two inputs of one run; no UTF-8 text has it.
const SEPARATOR: u8 = 0xff;
/// Keys of our part that are always there.
const ALWAYS: [&str; 8] =
    ["disable_root", "fqdn", "hostname", "manage_etc_hosts", "packages", "runcmd", "ssh_pwauth", "users"];

/// What one run tries.
struct Inputs<'a> {
    recipes: Vec<Recipe>,
    texts: Vec<&'a str>,
}

impl<'a> Inputs<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let (flags, rest) = data.split_first()?;
        let wanted = |(bit, _): &(usize, &Recipe)| flags >> bit & 1 == 1;
        let recipes = Recipe::ALL.iter().enumerate().filter(wanted).map(|(_, recipe)| *recipe).collect();
        let texts: Result<Vec<&str>, _> = rest.split(|b| *b == SEPARATOR).map(std::str::from_utf8).collect();
        Some(Self { recipes, texts: texts.ok()? })
    }

    /// The order's own reader decides what of it a customer could have got through; what it refuses is
    /// left out, so that the rest is tried all the same.
    fn spec(&self) -> Option<InstanceSpec> {
        let mut spec = json!({
            "hostname": "web-1", "service": "active", "vcpus": 1, "memory_mib": 1024, "disk_gib": 10,
            "image": {"name": "debian-13", "digest": format!("sha256:{}", "1".repeat(64)), "family": "debian"},
            "network": {"bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "dns": [], "firewall": true,
                        "addresses": []},
            "ssh_keys": [KEY], "recipes": self.recipes,
        });
        let readable = |spec: &Value| serde_json::from_value::<InstanceSpec>(spec.clone()).ok();
        for (index, text) in self.texts.iter().enumerate() {
            let before = spec.clone();
            match index {
                0 => spec["hostname"] = json!(text),
                1 => spec["ssh_keys"] = json!([format!("{KEY} {text}"), text]),
                2 => spec["ssh_keys"] = json!([format!("{KEY} {text}")]),
                3 => spec["locale"] = json!(text),
                4 => spec["timezone"] = json!(text),
                5 => spec["password_hash"] = json!(text),
                6 => spec["user_data"] = json!(text),
                _ => break,
            }
            if readable(&spec).is_none() {
                spec = before;
            }
        }
        readable(&spec).filter(|spec| spec.check().is_ok())
    }
}

/// No input of a customer adds, removes or renames a top-level key of our part, changes a value beside
/// its own, ends its MIME part, or leaves plain ASCII.
pub fn cloud_init(data: &[u8]) {
    let Some(inputs) = Inputs::read(data) else { return };
    let Some(spec) = inputs.spec() else { return };
    let id = InstanceId::from_uuid(uuid::Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0001));
    let files = match cloudinit::build(id, &spec, None) {
        Ok(files) => files,
        Err(error) => panic!("what an order may hold cannot be written: {error}"),
    };
    for text in [&files.user, &files.vendor, &files.meta, &files.network] {
        assert!(text.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)), "not plain ASCII: {text}");
    }
    let ours = match &spec.user_data {
        None => files.user.clone(),
        Some(own) => {
            let [ours, theirs] = parts(&files.user);
            assert_eq!(theirs, own.as_str(), "the customer's part is not what they gave");
            ours
        }
    };
    examine(&spec, &ours);
    let meta = table(&files.meta);
    assert_eq!(meta.len(), 2);
    assert_eq!(meta["instance-id"], json!(id));
    let network = table(&files.network);
    assert_eq!(network.keys().collect::<Vec<_>>(), ["ethernets", "version"]);
}

/// Our cloud-config against what it may hold.
fn examine(spec: &InstanceSpec, ours: &str) {
    let config = table(ours);
    let mut expected: Vec<&str> = ALWAYS.into();
    let recipes = &spec.recipes;
    let writes = [Recipe::Lemp, Recipe::Wordpress, Recipe::Wireguard, Recipe::UnattendedUpgrades];
    if spec.password_hash.is_some() || recipes.iter().any(|recipe| writes.contains(recipe)) {
        expected.push("write_files");
    }
    if recipes.contains(&Recipe::GitlabRunner) {
        expected.push("apt");
    }
    expected.extend(spec.locale.is_some().then_some("locale"));
    expected.extend(spec.timezone.is_some().then_some("timezone"));
    expected.sort_unstable();
    assert_eq!(config.keys().collect::<Vec<_>>(), expected);
    assert_eq!(config["hostname"], json!(spec.hostname.short()));
    assert_eq!(config["fqdn"], json!(spec.hostname.as_str()));
    let keys: Vec<String> = spec.ssh_keys.iter().map(ToString::to_string).collect();
    assert_eq!(config["users"][0]["ssh_authorized_keys"], json!(keys));
    assert_eq!(config["users"].as_array().map(Vec::len), Some(1));
    assert_eq!(config["ssh_pwauth"], json!(spec.password_hash.is_some()));
}

fn table(text: &str) -> Map<String, Value> {
    match serde_saphyr::from_str(text) {
        Ok(Value::Object(map)) => map,
        other => panic!("not a table: {other:?}\n{text}"),
    }
}

/// The bodies of the two parts, read as a MIME reader would: by the boundary of the first line.
fn parts(message: &str) -> [String; 2] {
    let boundary = message.split('"').nth(1).unwrap_or_default();
    assert!(!boundary.is_empty(), "no boundary: {message}");
    let pieces: Vec<&str> = message.split(&format!("--{boundary}")).collect();
    let [_, ours, theirs, end] = pieces[..] else { panic!("not two parts: {message}") };
    assert_eq!(end, "--\n");
    [ours, theirs].map(|piece| {
        let body: String = piece.split("\n\n").skip(1).flat_map(str::lines).collect();
        let bytes = BASE64.decode(body.as_bytes());
        assert!(bytes.is_ok(), "not base64: {piece}");
        let text = String::from_utf8(bytes.unwrap_or_default());
        assert!(text.is_ok(), "not text: {piece}");
        text.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InstanceSpec {
        Inputs { recipes: Vec::new(), texts: Vec::new() }.spec().unwrap()
    }

    fn ours() -> String {
        cloudinit::build(InstanceId::from_uuid(uuid::Uuid::from_u128(1)), &spec(), None).unwrap().user
    }

    #[test]
    fn what_is_rendered_passes() {
        examine(&spec(), &ours());
    }

    #[test]
    #[should_panic(expected = "bootcmd")]
    fn a_key_that_does_not_belong_there_is_found() {
        examine(&spec(), &format!("{}bootcmd: [reboot]\n", ours()));
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn another_host_name_is_found() {
        let planted = ours().replace("web-1", "web-2");
        assert_ne!(planted, ours(), "nothing was planted");
        examine(&spec(), &planted);
    }

    #[test]
    #[should_panic(expected = "not two parts")]
    fn a_part_that_ends_early_is_found() {
        parts("x: \"b\"\n--b\n\nYQ==\n--b\n\nYQ==\n--b\n\n--b--\n");
    }
}
