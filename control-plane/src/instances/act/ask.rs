//! What a request asks of a server, in words: the same for API and pages.

use ez_protocol::order::{IsoName, PowerVerb, SnapshotName};
use sqlx::AnyConnection;

use super::Verb;
use crate::{
    catalog,
    db::DbError,
    instances::{model::Instance, settings::ImageChoice},
};

/// A word and its parameters, as they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A power verb, or a word of [`Verb::kind`].
    pub action: String,
    /// Name of a snapshot.
    pub name: Option<String>,
    /// Id of a backup.
    pub backup: Option<String>,
    /// Code of an image.
    pub image: Option<String>,
    /// File of a medium.
    pub iso: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A verb as it is.
    Verb(Verb),
    /// A new password, which is made when it is told to the node.
    Password,
}

/// Why nothing was understood.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A field is not acceptable.
    #[error("{field}: {message}")]
    Field {
        /// `action`, `name`, `backup`, `image` or `iso`.
        field: &'static str,
        /// A stable word.
        code: &'static str,
        /// A sentence.
        message: String,
    },
    /// The catalogue could not be read.
    #[error("reading the catalogue")]
    Db(#[from] DbError),
}

fn field(field: &'static str, code: &'static str, message: impl Into<String>) -> AskError {
    AskError::Field { field, code, message: message.into() }
}

fn missing(name: &'static str) -> AskError {
    field(name, "missing", "This field is needed.")
}

impl Wanted {
    /// The fields that belong to the word.
    fn takes(&self) -> &'static [&'static str] {
        match self.action.as_str() {
            "snapshot_create" | "snapshot_rollback" | "snapshot_delete" => &["name"],
            "backup_restore" | "backup_delete" => &["backup"],
            "rebuild" | "rescue_on" => &["image"],
            "iso_attach" => &["iso"],
            _ => &[],
        }
    }

    /// Reads the word and its parameters. Images and media must be on offer.
    ///
    /// # Errors
    /// [`AskError`] names the field.
    pub async fn read(self, connection: &mut AnyConnection, instance: &Instance) -> Result<Asked, AskError> {
        let given =
            [("name", &self.name), ("backup", &self.backup), ("image", &self.image), ("iso", &self.iso)];
        for (name, value) in given {
            if value.is_some() && !self.takes().contains(&name) {
                return Err(field(name, "unknown", format!("There is no such field for {}.", self.action)));
            }
        }
        Ok(Asked::Verb(match self.action.as_str() {
            "snapshot_create" => Verb::SnapshotCreate(self.snapshot()?),
            "snapshot_rollback" => Verb::SnapshotRollback(self.snapshot()?),
            "snapshot_delete" => Verb::SnapshotDelete(self.snapshot()?),
            "backup_create" => Verb::BackupCreate,
            "backup_restore" => Verb::BackupRestore(self.backup()?),
            "backup_delete" => Verb::BackupDelete(self.backup()?),
            "set_password" => return Ok(Asked::Password),
            "rebuild" => {
                let code = self.image.as_deref().unwrap_or(&instance.image_code);
                Verb::Rebuild(image(catalog::images(connection).await?, Some(code))?)
            }
            "rescue_on" => {
                Verb::RescueOn(image(catalog::rescue_images(connection).await?, self.image.as_deref())?)
            }
            "rescue_off" => Verb::RescueOff,
            "iso_attach" => {
                let file = self.iso.as_deref().ok_or_else(|| missing("iso"))?;
                let offered = catalog::isos(connection).await?.into_iter().any(|iso| iso.file == file);
                let iso = IsoName::parse(file).ok().filter(|_| offered);
                Verb::IsoAttach(
                    iso.ok_or_else(|| field("iso", "iso_unknown", "There is no such medium on offer."))?,
                )
            }
            "iso_detach" => Verb::IsoDetach,
            other => {
                let unknown = |_| field("action", "action_unknown", "There is no such action.");
                Verb::Power(other.parse::<PowerVerb>().map_err(unknown)?)
            }
        }))
    }

    fn snapshot(&self) -> Result<SnapshotName, AskError> {
        let name = self.name.as_deref().ok_or_else(|| missing("name"))?;
        let refused = |error| field("name", "snapshot_name_invalid", format!("This is not {error}."));
        SnapshotName::parse(name)
            .map_err(|error| refused(error.to_string().trim_start_matches("not ").to_owned()))
    }

    fn backup<T: std::str::FromStr>(&self) -> Result<T, AskError> {
        let id = self.backup.as_deref().ok_or_else(|| missing("backup"))?;
        id.parse().map_err(|_| field("backup", "backup_unknown", "This server has no such backup."))
    }
}

/// An image by its code, or the first.
fn image(offered: Vec<catalog::Image>, code: Option<&str>) -> Result<ImageChoice, AskError> {
    let found = offered.into_iter().find(|image| code.is_none_or(|code| image.code == code));
    found.map(Into::into).ok_or_else(|| field("image", "image_unknown", "There is no such image on offer."))
}
