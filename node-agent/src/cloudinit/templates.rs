//! What the installation adds to a server: the base and the recipes, from `templates/cloud-init`.
//!
//! minijinja sees the image's family and nothing else, least of all what a customer typed; what it
//! renders is read as data, held against the keys a template may have, and emitted anew by the
//! serialiser with everything else.

use ez_protocol::order::{OsFamily, Recipe};
use minijinja::{Environment, UndefinedBehavior, context, syntax::SyntaxConfig};
use serde_json::{Map, Value};

use super::CloudInitError;

/// The keys a template may bring: lists and tables of things to install, write and start.
const KEYS: [&str; 5] = ["packages", "write_files", "runcmd", "apt", "yum_repos"];

/// What every server gets.
const BASE: &str = include_str!("../../../templates/cloud-init/base.yaml");

const fn text_of(recipe: Recipe) -> &'static str {
    match recipe {
        Recipe::Docker => include_str!("../../../templates/cloud-init/recipes/docker.yaml"),
        Recipe::Lemp => include_str!("../../../templates/cloud-init/recipes/lemp.yaml"),
        Recipe::Wordpress => include_str!("../../../templates/cloud-init/recipes/wordpress.yaml"),
        Recipe::GitlabRunner => include_str!("../../../templates/cloud-init/recipes/gitlab-runner.yaml"),
        Recipe::Wireguard => include_str!("../../../templates/cloud-init/recipes/wireguard.yaml"),
        Recipe::UnattendedUpgrades => {
            include_str!("../../../templates/cloud-init/recipes/unattended-upgrades.yaml")
        }
    }
}

/// Base and recipes as one table, in the order they were asked for. WordPress brings what LEMP would,
/// and a site of its own, so LEMP beside it adds nothing.
pub(super) fn parts(
    family: Option<OsFamily>,
    recipes: &[Recipe],
) -> Result<Map<String, Value>, CloudInitError> {
    let mut all = render("base", BASE, family)?;
    let wordpress = recipes.contains(&Recipe::Wordpress);
    for recipe in recipes.iter().filter(|recipe| !(wordpress && **recipe == Recipe::Lemp)) {
        merge(&mut all, render(recipe.as_str(), text_of(*recipe), family)?);
    }
    Ok(all)
}

fn render(
    name: &'static str,
    text: &str,
    family: Option<OsFamily>,
) -> Result<Map<String, Value>, CloudInitError> {
    let failed = |reason: String| CloudInitError::Template { name, reason };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // A line with a block alone leaves nothing behind.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| failed(error.to_string()))?);
    let known = match family {
        // A template that asks for a family nobody named fails instead of guessing.
        None => context! {},
        Some(family) => {
            let apt = matches!(family, OsFamily::Debian | OsFamily::Ubuntu);
            context! { family => family.as_str(), apt => apt }
        }
    };
    let rendered = environment.render_str(text, known).map_err(|error| failed(format!("{error:#}")))?;
    let read: Value = serde_saphyr::from_str(&rendered).map_err(|error| failed(error.to_string()))?;
    match read {
        Value::Object(map) if map.keys().all(|key| KEYS.contains(&key.as_str())) => Ok(map),
        Value::Object(_) => Err(failed(format!("only {} are allowed", KEYS.join(", ")))),
        _ => Err(failed("not a table".to_owned())),
    }
}

/// Lists grow (packages without repeating themselves), tables are merged, and what is there stays.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (None, value) => drop(into.insert(key, value)),
            (Some(Value::Array(there)), Value::Array(more)) => {
                for item in more {
                    if key != "packages" || !there.contains(&item) {
                        there.push(item);
                    }
                }
            }
            (Some(Value::Object(there)), Value::Object(more)) => merge(there, more),
            (Some(_), _) => {}
        }
    }
}
