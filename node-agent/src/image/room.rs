//! Whether a download has a place, looked at before it begins: a storage that takes none refuses it with words that say not
//! how to mend it, and one that fills its storage takes the host's other work along.

use ez_protocol::image::ImageSource;
use serde_json::Value;

use super::{BuildError, Site, file_name};
use crate::setup::{AdminApi, Verb};

/// How much has to be free. Nobody tells the size before; cloud images have some hundred megabytes up to this.
const LEAST_FREE: u64 = 2 << 30;

/// Fails if the storage for downloads takes none, or has too little room, unless the file is there already. A storage that
/// says nothing about itself is no reason to fail: what happens there is seen when it happens.
pub(super) async fn look(api: &dyn AdminApi, site: &Site, image: &ImageSource) -> Result<(), BuildError> {
    let storage = format!("/nodes/{}/storage/{}", site.node, site.import_storage);
    let status = match api.call(Verb::Get, &format!("{storage}/status"), &[]).await {
        Ok(status) => status,
        Err(error) if error.is_forbidden() => return Ok(()),
        Err(reason) => {
            return Err(BuildError::Pve { doing: "looking at the storage for downloads", reason });
        }
    };
    if let Some(content) = status.get("content").and_then(Value::as_str) {
        takes_images(site, content)?;
    }
    let number = |key: &str| status.get(key).and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok()));
    let (Some(_), Some(free)) = (number("total").filter(|total| *total > 0), number("avail")) else {
        return Ok(());
    };
    if free >= LEAST_FREE || is_there(api, site, image, &storage).await {
        return Ok(());
    }
    Err(BuildError::NoRoom {
        storage: site.import_storage.clone(),
        free: free >> 20,
        needed: LEAST_FREE >> 20,
    })
}

/// Fails if the content that the storage holds does not include disk images to import.
fn takes_images(site: &Site, content: &str) -> Result<(), BuildError> {
    let has: Vec<&str> =
        content.split(',').map(str::trim).filter(|one| !matches!(*one, "" | "none")).collect();
    if has.contains(&"import") {
        return Ok(());
    }
    let content: Vec<&str> = has.into_iter().chain(["import"]).collect();
    Err(BuildError::NoImports { storage: site.import_storage.clone(), content: content.join(",") })
}

/// Whether the file was downloaded before: then it is only checked.
async fn is_there(api: &dyn AdminApi, site: &Site, image: &ImageSource, storage: &str) -> bool {
    let query = [("content", "import".to_owned())];
    let Ok(rows) = api.call(Verb::Get, &format!("{storage}/content"), &query).await else { return false };
    let volume = format!("{}:import/{}", site.import_storage, file_name(image));
    let named = |row: &Value| row.get("volid").and_then(Value::as_str) == Some(volume.as_str());
    rows.as_array().is_some_and(|rows| rows.iter().any(named))
}
