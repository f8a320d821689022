//! Nothing a customer types becomes structure.

use std::collections::BTreeSet;

use ez_protocol::{InstanceId, UnixMillis, order::InstanceSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

pub(super) fn id() -> InstanceId {
    InstanceId::generate(UnixMillis(1_795_000_000_000), [7; 10])
}

pub(super) fn spec(change: impl FnOnce(&mut Value)) -> Result<InstanceSpec, serde_json::Error> {
    let mut value = json!({
        "hostname": "no", "service": "active", "vcpus": 2, "memory_mib": 4096, "disk_gib": 40,
        "image": {"name": "debian-13", "digest": format!("sha256:{}", "1".repeat(64))},
        "network": {"bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "dns": [], "firewall": true, "addresses": []},
        "ssh_keys": [format!("{KEY} me@laptop")],
    });
    change(&mut value);
    serde_json::from_value(value)
}

pub(super) fn read(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const BASE_KEYS: [&str; 8] =
    ["hostname", "fqdn", "manage_etc_hosts", "disable_root", "ssh_pwauth", "users", "packages", "runcmd"];

#[test]
fn keys_only_means_root_without_a_password() {
    let files = build(id(), &spec(|_| {}).unwrap(), None).unwrap();
    assert!(files.user.starts_with("#cloud-config\n"));
    let user = read(&files.user);
    assert_eq!(keys(&user), BASE_KEYS.into());
    assert_eq!(user["hostname"], "no");
    assert_eq!(user["ssh_pwauth"], false);
    assert_eq!(user["users"][0]["lock_passwd"], true);
    assert_eq!(user["users"][0]["ssh_authorized_keys"][0], format!("{KEY} me@laptop"));
    assert_eq!(user["users"][0].get("hashed_passwd"), None);
    assert_eq!(read(&files.meta)["instance-id"], id().to_string());
    assert_eq!(user["packages"][0], "qemu-guest-agent");
    assert_eq!(read(&files.vendor).get("packages"), None, "there a customer's packages would replace it");
}

#[test]
fn texts_that_yaml_would_take_for_something_else_stay_texts() {
    let files = build(id(), &spec(|s| s["hostname"] = json!("1e3.on")).unwrap(), None).unwrap();
    assert!(
        files.user.contains("hostname: \"1e3\"") || files.user.contains("hostname: '1e3'"),
        "{}",
        files.user
    );
    assert_eq!(read(&files.meta)["local-hostname"], "1e3");
}

#[test]
fn an_ordered_password_opens_password_login() {
    let hash = "$6$saltsaltsalt$hashhashhashhash";
    let files = build(id(), &spec(|s| s["password_hash"] = json!(hash)).unwrap(), None).unwrap();
    let user = read(&files.user);
    assert_eq!(user["users"][0]["hashed_passwd"], hash);
    assert_eq!((&user["ssh_pwauth"], &user["users"][0]["lock_passwd"]), (&json!(true), &json!(false)));
    assert_eq!(user["write_files"][0]["content"], "PermitRootLogin yes\n");
    assert!(!format!("{files:?}").contains("hash"));
}

#[test]
fn a_chosen_locale_and_zone_win_over_the_installations() {
    let plain = build(id(), &spec(|_| {}).unwrap(), None).unwrap();
    assert_eq!(read(&plain.vendor)["timezone"], "Etc/UTC");
    let chosen = spec(|s| {
        s["locale"] = json!("de_DE.UTF-8");
        s["timezone"] = json!("Europe/Berlin");
    });
    let user = read(&build(id(), &chosen.unwrap(), None).unwrap().user);
    assert_eq!((&user["locale"], &user["timezone"]), (&json!("de_DE.UTF-8"), &json!("Europe/Berlin")));
}

#[test]
fn own_user_data_is_a_part_of_its_own() {
    let own = "#cloud-config\nruncmd: [reboot]\n--=_ez_x--\n\u{2028}é\n";
    let files = build(id(), &spec(|s| s["user_data"] = json!(own)).unwrap(), None).unwrap();
    let boundary = files.user.split('"').nth(1).unwrap();
    let parts: Vec<&str> = files.user.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 4, "{}", files.user);
    assert_eq!(parts[3], "--\n");
    let body = |part: &str| {
        let (_, body) = part.split_once("\n\n").unwrap();
        let bytes = data_encoding::BASE64.decode(body.replace('\n', "").as_bytes()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(keys(&read(&body(parts[1]))), BASE_KEYS.into());
    assert_eq!(body(parts[2]), own);
    assert!(parts[2].contains("text/cloud-config") && parts[2].contains("no_replace"));
    let script = build(id(), &spec(|s| s["user_data"] = json!("#!/bin/sh\ntrue\n")).unwrap(), None).unwrap();
    assert!(script.user.contains("Content-Type: text/x-shellscript;"));
}

/// Texts that have broken cloud-init files elsewhere, and anything else.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        ".{0,40}",
        Just("me: laptop".to_owned()),
        Just("x\nruncmd:\n- reboot".to_owned()),
        Just("x\rruncmd: [reboot]".to_owned()),
        Just("x\u{85}runcmd: [reboot]".to_owned()),
        Just("x\u{2028}runcmd: [reboot]".to_owned()),
        Just("x\" }\nruncmd: []".to_owned()),
        Just("*alias &anchor !!tag".to_owned()),
        Just("a #b".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_input_adds_a_top_level_key(name in hostile(), comment in hostile(), own in hostile()) {
        let made = spec(|s| {
            s["hostname"] = json!(name);
            s["ssh_keys"] = json!([format!("{KEY} {comment}")]);
        });
        let comment_only = spec(|s| s["ssh_keys"] = json!([format!("{KEY} {comment}")]));
        let name_only = spec(|s| s["hostname"] = json!(name));
        for spec in [made, comment_only, name_only].into_iter().flatten() {
            let files = build(id(), &spec, None).unwrap();
            let user = read(&files.user);
            prop_assert_eq!(keys(&user), BASE_KEYS.into());
            prop_assert_eq!(user["users"][0].as_object().unwrap().len(), 3);
            prop_assert_eq!(&user["users"][0]["ssh_authorized_keys"][0], &json!(spec.ssh_keys[0].to_string()));
            prop_assert_eq!(read(&files.meta).as_object().unwrap().len(), 2);
        }
        if let Ok(spec) = spec(|s| s["user_data"] = json!(own)) {
            let files = build(id(), &spec, None).unwrap();
            let boundary = files.user.split('"').nth(1).unwrap();
            prop_assert_eq!(files.user.matches(&format!("--{boundary}")).count(), 3);
            prop_assert!(files.user.is_ascii());
        }
    }

    #[test]
    fn the_serialiser_itself_lets_nothing_through(texts in prop::collection::vec(hostile(), 1..4)) {
        // Whatever the checks before it let pass: it is refused or reads back the same.
        let value = json!({"a": texts, "b": {"c": "d"}});
        if let Ok(text) = emit("user", &value) {
            prop_assert_eq!(read(&text), value);
        }
    }
}

#[test]
fn a_password_that_waits_is_set_once_at_the_next_boot_without_a_shell() {
    let order = ez_protocol::ProvisioningOrderId::from_uuid(uuid::Uuid::from_u128(5));
    let hash = ez_protocol::order::PasswordHash::parse("$6$saltsaltsalt$hash;rm.-rf/hash").is_err();
    assert!(hash, "a hash holds nothing that a shell could mistake");
    let hash = ez_protocol::order::PasswordHash::parse("$6$saltsaltsalt$hashhashhashhash").unwrap();
    let reset = PasswordReset { order, hash };
    let files = build(id(), &spec(|_| {}).unwrap(), Some(&reset)).unwrap();
    let read: Value = serde_saphyr::from_str(files.user.strip_prefix("#cloud-config\n").unwrap()).unwrap();
    let name = format!("ez-password-{order}");
    let command = ["cloud-init-per", "once", &name, "usermod", "--password", reset.hash.as_str(), "root"];
    assert_eq!(read["bootcmd"], json!([command]));
    assert_eq!(
        files.meta,
        build(id(), &spec(|_| {}).unwrap(), None).unwrap().meta,
        "the instance is the same"
    );
}
