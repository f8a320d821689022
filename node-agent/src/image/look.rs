//! What is there of an image on this node.

use ez_protocol::image::ImageSource;
use serde_json::Value;

use super::{BuildError, Site, build_marker};
use crate::{
    pve::{GuestConfig, Vmid, parse_image_marker},
    setup::{AdminApi, Verb},
};

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Marked as this image.
    Ready(Vmid),
    /// A template on its way: to be looked through and marked.
    Template(Vmid),
    /// A VM on its way: to be converted.
    Built(Vmid),
    /// A VM on its way that Proxmox is at work on, with its lock.
    Busy(Vmid, String),
    /// Nothing.
    Nothing,
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        _ => None,
    }
}

/// A VM's configuration; `None` if it is not there (any more) or not to be seen.
pub(super) async fn config(
    api: &dyn AdminApi,
    site: &Site,
    vmid: Vmid,
) -> Result<Option<GuestConfig>, BuildError> {
    match api.call(Verb::Get, &format!("/nodes/{}/qemu/{vmid}/config", site.node), &[]).await {
        Ok(Value::Object(row)) => {
            let mut values: std::collections::BTreeMap<String, String> =
                row.iter().filter_map(|(key, value)| Some((key.clone(), scalar(value)?))).collect();
            let digest = values.remove("digest").unwrap_or_default();
            Ok(Some(GuestConfig { values, digest }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_absent() || error.is_forbidden() => Ok(None),
        Err(reason) => Err(BuildError::Pve { doing: "reading a VM's configuration", reason }),
    }
}

/// VMs that may be about an image: every template, and whatever is in the range for templates.
async fn candidates(api: &dyn AdminApi, site: &Site) -> Result<Vec<(Vmid, GuestConfig)>, BuildError> {
    let path = format!("/nodes/{}/qemu", site.node);
    let list = api.call(Verb::Get, &path, &[]).await.map_err(BuildError::pve("listing the VMs"))?;
    let number = |row: &Value, key: &str| row.get(key).and_then(scalar).and_then(|n| n.parse::<u32>().ok());
    let mut found = Vec::new();
    for row in list.as_array().into_iter().flatten() {
        let Some(vmid) = number(row, "vmid") else { continue };
        if number(row, "template") != Some(1) && !site.vmids.contains(&vmid) {
            continue;
        }
        if let Some(config) = config(api, site, vmid).await? {
            found.push((vmid, config));
        }
    }
    found.sort_by_key(|(vmid, _)| *vmid);
    Ok(found)
}

/// Looks for the image. Of several VMs on their way, the one that is furthest counts.
pub(super) async fn find(api: &dyn AdminApi, site: &Site, image: &ImageSource) -> Result<Found, BuildError> {
    let mut found = Found::Nothing;
    for (vmid, config) in candidates(api, site).await? {
        let marked = parse_image_marker(config.description());
        if marked.is_some_and(|(name, digest)| name == image.name && digest == image.digest.as_str()) {
            return Ok(Found::Ready(vmid));
        }
        if !is_on_its_way(site, image, vmid, &config) {
            continue;
        }
        found = match (config.lock(), config.is_template()) {
            (Some(lock), _) if found == Found::Nothing => Found::Busy(vmid, lock.to_owned()),
            (None, true) => Found::Template(vmid),
            (None, false) if !matches!(found, Found::Template(_)) => Found::Built(vmid),
            _ => found,
        };
    }
    Ok(found)
}

/// A VM that carries the build marker of this image and is not locked.
pub(super) async fn find_unmarked(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
) -> Result<Option<Vmid>, BuildError> {
    let all = candidates(api, site).await?;
    let mut ours = all.iter().filter(|(vmid, c)| is_on_its_way(site, image, *vmid, c) && c.lock().is_none());
    Ok(ours.next().map(|(vmid, _)| *vmid))
}

fn is_on_its_way(site: &Site, image: &ImageSource, vmid: Vmid, config: &GuestConfig) -> bool {
    site.vmids.contains(&vmid) && config.marker_line() == build_marker(image)
}
