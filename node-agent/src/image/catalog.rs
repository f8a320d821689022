//! Images in a file: the same `[[images]]` as in the control plane's catalogue, of which only what
//! building needs is read.

use std::path::{Path, PathBuf};

use ez_protocol::{
    image::{ImageSource, ImageUrl},
    order::ImageDigest,
};
use serde::Deserialize;

/// One `[[images]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CatalogImage {
    /// Catalogue name.
    pub code: String,
    /// Version.
    pub version: String,
    /// Digest of the file.
    pub digest: ImageDigest,
    /// Where the file is.
    pub url: Option<ImageUrl>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    images: Vec<CatalogImage>,
}

/// Why a file names no image that could be built.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It is no such file.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Line, column and what is wrong.
        reason: toml::de::Error,
    },
    /// It does not have the image.
    #[error("{} has no image {name}; it has: {known}", path.display())]
    Unknown {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        name: String,
        /// What is there.
        known: String,
    },
    /// The image has no address.
    #[error("image {0} has no url, so it cannot be built from here")]
    NoUrl(String),
}

/// The image called `name` in a file.
///
/// # Errors
/// See [`CatalogError`].
pub fn from_file(path: &Path, name: &str) -> Result<ImageSource, CatalogError> {
    let text = std::fs::read_to_string(path)
        .map_err(|reason| CatalogError::Read { path: path.to_owned(), reason })?;
    let file: File =
        toml::from_str(&text).map_err(|reason| CatalogError::Parse { path: path.to_owned(), reason })?;
    let known = file.images.iter().map(|image| image.code.clone()).collect::<Vec<_>>().join(", ");
    let Some(image) = file.images.into_iter().find(|image| image.code == name) else {
        return Err(CatalogError::Unknown { path: path.to_owned(), name: name.to_owned(), known });
    };
    let Some(url) = image.url else { return Err(CatalogError::NoUrl(image.code)) };
    Ok(ImageSource { name: image.code, version: image.version, url, digest: image.digest })
}
