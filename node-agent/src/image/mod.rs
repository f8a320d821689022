//! Images: from a cloud image somewhere on the web to a template that servers are cloned from.
//!
//! Proxmox itself downloads and checks the file, so it never passes through the agent. The steps:
//!
//! | step | does | is repeatable because |
//! |---|---|---|
//! | `download` | `download-url` with the checksum | Proxmox checks a file that is there instead of loading it |
//! | `create` | a VM with the file as its disk, [`BUILD_MARKER`] in its description | the VMID is the fence |
//! | `convert` | the VM becomes a template | a template is seen as one |
//! | `lint` | nothing in it that a server must not get ([`lint`]) | it only looks |
//! | `mark` | the description becomes the image marker | setting is not adding |
//!
//! The image marker comes **last**: only with it is a template taken for an image, by this agent's
//! executor, by its reports and so by whoever sells. [`build`] looks before each act and goes on from
//! what it sees, so that it may be interrupted anywhere and begun again. What it made and cannot use, it
//! removes; what does not carry its marker it never touches.
//!
//! Two callers: `ez-node-agent image build` as an administrator, and image orders, whose intake is in
//! [`order`] and whose carrying out, one at a time, is in [`worker`].

mod build;
mod catalog;
mod lint;
mod look;
pub mod order;
mod room;
mod task;
#[cfg(test)]
mod tests;
pub mod worker;

use std::{collections::BTreeSet, ops::RangeInclusive};

use ez_protocol::image::ImageSource;
use futures::future::BoxFuture;

pub use build::{Begun, build};
pub use catalog::{CatalogError, CatalogImage, from_file};
pub use lint::lint;

use crate::{
    policy::{ImageBuilds, Policy},
    pve::{CloneMode, PveError, Vmid, text},
};

/// First word of the description of a VM that is on its way to become a template of ours.
pub const BUILD_MARKER: &str = "ez-image-build:v1";

/// Where and within which bounds images are built.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node.
    pub node: String,
    /// Pool of templates.
    pub template_pool: String,
    /// Storages a disk may be on; the first takes new ones.
    pub storages: Vec<String>,
    /// Bridges a card may be attached to; the first is taken.
    pub bridges: BTreeSet<String>,
    /// Storage that takes downloads; needs content `import`.
    pub import_storage: String,
    /// VMIDs for templates.
    pub vmids: RangeInclusive<u32>,
    /// How servers are made of templates here.
    pub clone: CloneMode,
}

impl Site {
    /// The site that a host's policy describes.
    pub fn new(node: &str, policy: &Policy, build: &ImageBuilds) -> Self {
        Self {
            node: node.to_owned(),
            template_pool: policy.template_pool.clone(),
            storages: policy.storages.clone(),
            bridges: policy.bridges.clone(),
            import_storage: build.import_storage.clone(),
            vmids: build.vmids.clone(),
            clone: policy.clone,
        }
    }
}

/// A part of building.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The file comes to the host and is checked.
    Download,
    /// A VM with it as disk.
    Create,
    /// The VM becomes a template.
    Convert,
    /// Nothing in it that must not be there.
    Lint,
    /// It is taken for the image from now on.
    Mark,
}

impl Step {
    /// The word for journals and people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Create => "create",
            Self::Convert => "convert",
            Self::Lint => "lint",
            Self::Mark => "mark",
        }
    }
}

/// Hears what is about to be done, before it is done; may make it durable first.
pub trait Report: Send {
    /// A step is about to begin; for `create`, with the VMID that was chosen.
    fn begin(&mut self, step: Step, vmid: Option<Vmid>) -> BoxFuture<'_, Result<(), BuildError>>;
    /// Proxmox works on it under this handle.
    fn called(&mut self, upid: &str) -> BoxFuture<'_, Result<(), BuildError>>;
    /// A half-made template is gone, and what root has to do about disks of it that are not.
    fn left(&mut self, help: &str) {
        tracing::error!(help, "{LEFT}");
    }
}

/// What it means that a disk stays where its VM has gone.
pub const LEFT: &str =
    "a half-made template is gone, but not all of its disks could be removed: as root on the host";

/// Why an image is not ready.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Proxmox refused or did not answer.
    #[error("{doing}: {reason}")]
    Pve {
        /// What was being done.
        doing: &'static str,
        /// What Proxmox said.
        #[source]
        reason: PveError,
    },
    /// A task failed.
    #[error("{step} failed on the host: {exit}")]
    Task {
        /// Which step.
        step: &'static str,
        /// The task's last word.
        exit: String,
    },
    /// The template has something that servers must not get, or lacks something.
    #[error("the template is not fit to be cloned from: {0}")]
    Unfit(String),
    /// Every VMID for templates is taken.
    #[error(
        "every VMID from {first} to {last} is taken; widen images.vmid_first and vmid_last in the policy file"
    )]
    NoVmid {
        /// First of the range.
        first: Vmid,
        /// Last of the range.
        last: Vmid,
    },
    /// The storage for downloads takes none of disk images.
    #[error(
        "storage {storage} takes no downloads of disk images; nothing was downloaded. Allow it on the host with \
         `pvesm set {storage} --content {content}`, then have the image built again"
    )]
    NoImports {
        /// The storage.
        storage: String,
        /// What it should hold: what it holds now, and `import`.
        content: String,
    },
    /// The storage for downloads is nearly full.
    #[error(
        "NO_SPACE: storage {storage} has {free} MiB free, and an image may need {needed} MiB there; nothing was \
         downloaded. Make room on it, then have the image built again"
    )]
    NoRoom {
        /// The storage.
        storage: String,
        /// MiB that are free.
        free: u64,
        /// MiB that should be.
        needed: u64,
    },
    /// It went round in circles: somebody else is at work on the same VM.
    #[error("gave up after {0} tries; last seen: {1}")]
    Circles(u32, String),
    /// The journal could not be written.
    #[error("the journal: {0}")]
    Journal(String),
    /// Something of the above, and disks of what it had made could not be removed.
    #[error("{error}. Besides, {}, {help}", LEFT)]
    Left {
        /// Why there is no image.
        error: Box<BuildError>,
        /// What removes the disks.
        help: String,
    },
}

impl BuildError {
    fn pve(doing: &'static str) -> impl FnOnce(PveError) -> Self {
        move |reason| Self::Pve { doing, reason }
    }

    /// Whether looking again may show that all is well, or that it can be tried once more.
    fn is_passing(&self) -> bool {
        match self {
            Self::Pve { reason, .. } => {
                reason.is_outcome_unknown()
                    || reason.is_transient()
                    || reason.is_locked()
                    || reason.is_lock_timeout()
                    || reason.is_digest_mismatch()
            }
            Self::Task { exit, .. } => {
                exit == "unexpected status" || exit.contains("got timeout") || text::is_no_quorum(exit)
            }
            _ => false,
        }
    }
}

/// Name of the downloaded file: of our charset, one per digest, with the ending Proxmox goes by.
fn file_name(image: &ImageSource) -> String {
    let digest = image.digest.as_str().trim_start_matches("sha256:");
    let ending = if image.url.as_str().ends_with(".raw") { "raw" } else { "qcow2" };
    format!("ez-{}-{}.{ending}", image.name, digest.get(..12).unwrap_or(digest))
}

/// The description of a VM on its way.
fn build_marker(image: &ImageSource) -> String {
    format!("{BUILD_MARKER} {} {}", image.name, image.digest)
}

/// The description of a finished template: the marker, and what people want to know.
fn image_marker(image: &ImageSource) -> String {
    format!(
        "{} {} {}\nVersion {}, from {}",
        crate::pve::IMAGE_MARKER,
        image.name,
        image.digest,
        image.version,
        image.url
    )
}
