//! What a guest is told, as files people can read: every recipe on every family, and networks.
//! `UPDATE_GOLDEN=1` writes them anew; a review then shows what changes for servers.

use std::{fs, path::PathBuf};

use ez_protocol::order::{OsFamily, Recipe};
use serde_json::{Value, json};

use super::{
    build,
    tests::{id, read, spec},
};

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/cloud-init").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not what is rendered now; if that is meant: UPDATE_GOLDEN=1\n--- now\n{text}",
        path.display()
    );
}

fn user(family: OsFamily, recipes: &[Recipe]) -> String {
    let spec = spec(|spec| {
        spec["hostname"] = json!("web-1.example.com");
        spec["image"]["family"] = json!(family);
        spec["recipes"] = json!(recipes);
        spec["locale"] = json!("de_DE.UTF-8");
        spec["timezone"] = json!("Europe/Berlin");
    });
    build(id(), &spec.unwrap(), None).unwrap().user
}

#[test]
fn every_recipe_on_every_family_is_as_it_was_reviewed() {
    for family in OsFamily::ALL {
        for recipe in Recipe::ALL {
            golden(&format!("{family}/{recipe}.yaml"), &user(*family, &[*recipe]));
        }
    }
}

#[test]
fn all_recipes_together_install_each_package_once_and_one_site() {
    for family in OsFamily::ALL {
        let all = read(&user(*family, Recipe::ALL));
        let packages: Vec<&Value> = all["packages"].as_array().unwrap().iter().collect();
        let mut once = packages.clone();
        once.dedup();
        once.sort_by_key(|p| p.to_string());
        once.dedup();
        assert_eq!(packages.len(), once.len(), "{family}: {packages:?}");
        let files = all["write_files"].as_array().unwrap();
        let sites = files.iter().filter(|f| f["path"].as_str().unwrap().starts_with("/etc/nginx/"));
        assert_eq!(sites.count(), 1, "{family}");
    }
}

#[test]
fn a_server_without_recipes_is_as_it_was_reviewed() {
    let files = build(id(), &spec(|_| {}).unwrap(), None).unwrap();
    golden("plain/user.yaml", &files.user);
    golden("plain/vendor.yaml", &files.vendor);
    golden("plain/meta.yaml", &files.meta);
    let own = spec(|s| s["user_data"] = json!("#cloud-config\npackages: [htop]\n")).unwrap();
    golden("plain/user-with-own.mime", &build(id(), &own, None).unwrap().user);
    let password = spec(|s| s["password_hash"] = json!("$6$saltsaltsalt$hashhashhashhash")).unwrap();
    golden("plain/user-with-password.yaml", &build(id(), &password, None).unwrap().user);
}

#[test]
fn a_rescue_system_is_told_nothing_of_the_servers_first_boot() {
    let spec = |rescue: Value| {
        let spec = spec(|s| {
            s["image"]["family"] = json!(OsFamily::Debian);
            s["recipes"] = json!(Recipe::ALL);
            s["user_data"] = json!("#cloud-config\ndisk_setup: {/dev/sdb: {overwrite: true}}\n");
            s["rescue"] = rescue;
        });
        spec.unwrap()
    };
    let image = json!({"name": "rescue", "digest": format!("sha256:{}", "2".repeat(64))});
    let (own, rescue) =
        (build(id(), &spec(Value::Null), None).unwrap(), build(id(), &spec(image), None).unwrap());
    golden("rescue/user.yaml", &rescue.user);
    assert_ne!(own.user, rescue.user, "back from the rescue system the files are written anew");
    assert_eq!((own.meta, own.network), (rescue.meta, rescue.network));
}

#[test]
fn networks_are_as_they_were_reviewed() {
    for (name, dns, addresses) in [
        ("one-v4", json!(["9.9.9.9"]), json!([{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"}])),
        (
            "routed-v6-beside-v4",
            json!(["9.9.9.9", "2620:fe::fe"]),
            json!([{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"},
                   {"cidr": "2001:db8:1:2::1/64", "gateway": "fe80::1"}]),
        ),
        (
            "gateways-outside-and-several",
            json!(["9.9.9.9"]),
            json!([{"cidr": "203.0.113.10/32", "gateway": "198.51.100.1"}, {"cidr": "203.0.113.11/32"},
                   {"cidr": "2001:db8::10/128", "gateway": "2001:db8:ffff::1"}, {"cidr": "2001:db8::11/128"}]),
        ),
        ("none", json!([]), json!([])),
    ] {
        let spec = spec(|s| {
            s["network"]["dns"] = dns;
            s["network"]["addresses"] = addresses;
        });
        golden(&format!("network/{name}.yaml"), &build(id(), &spec.unwrap(), None).unwrap().network);
    }
}
