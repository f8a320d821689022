//! What a customer may choose for the first boot of a server: closed words and narrow texts, so that
//! an agent can turn them into configuration without trusting anybody's quoting.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::spec::{InvalidText, SpecError, checked_text};

/// Makes an enum whose words are the same in JSON, in the catalogue and on the screen.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$item_doc:meta])* $item:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$item_doc])* #[serde(rename = $word)] $item,)+
        }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$item),+];

            /// The word as it travels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$item => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidText;
            fn from_str(text: &str) -> Result<Self, InvalidText> {
                Self::ALL.iter().copied().find(|item| item.as_str() == text).ok_or(InvalidText($what))
            }
        }
    };
}

words! {
    /// Which distribution an image is of, as far as first-boot recipes differ between them.
    OsFamily, "a family of images: debian, ubuntu, rocky or alma" {
        /// Debian.
        Debian = "debian",
        /// Ubuntu.
        Ubuntu = "ubuntu",
        /// Rocky Linux.
        Rocky = "rocky",
        /// AlmaLinux.
        Alma = "alma",
    }
}

words! {
    /// Something an agent knows how to set up at the first boot.
    Recipe, "a recipe that is known here" {
        /// Docker with its compose plugin.
        Docker = "docker",
        /// nginx, MariaDB and PHP.
        Lemp = "lemp",
        /// WordPress on nginx, MariaDB and PHP.
        Wordpress = "wordpress",
        /// GitLab's runner, to be registered by its owner.
        GitlabRunner = "gitlab-runner",
        /// A WireGuard server with one client to begin with.
        Wireguard = "wireguard",
        /// Security updates without asking.
        UnattendedUpgrades = "unattended-upgrades",
    }
}

/// A locale such as `de_DE.UTF-8`, `C.UTF-8` or `ca_ES.UTF-8@valencia`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locale(String);

checked_text!(Locale, "a locale such as en_US.UTF-8", |text| {
    let (text, variant) = text.split_once('@').map_or((text, None), |(text, variant)| (text, Some(variant)));
    let variant_is_plain = |v: &str| (1..=16).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_lowercase());
    let language = text.strip_suffix(".UTF-8");
    let known = |name: &str| {
        let (language, country) = name.split_once('_').unwrap_or((name, ""));
        (2..=3).contains(&language.len())
            && language.bytes().all(|b| b.is_ascii_lowercase())
            && country.len() == 2
            && country.bytes().all(|b| b.is_ascii_uppercase())
    };
    variant.is_none_or(variant_is_plain)
        && language.is_some_and(|name| name == "C" && variant.is_none() || known(name))
});

/// A time zone of the tz database, such as `Europe/Berlin`, `Etc/UTC` or `America/Indiana/Knox`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeZone(String);

checked_text!(TimeZone, "a time zone such as Europe/Berlin", |text| {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+');
    let part =
        |part: &str| part.bytes().all(plain) && part.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
    let parts = text.split('/').count();
    text.len() <= 48 && (text == "UTC" || (2..=3).contains(&parts) && text.split('/').all(part))
});

/// Whether the recipes make sense together and on this family.
///
/// # Errors
/// [`SpecError::Recipes`] with the rule that is broken.
pub(super) fn check(family: Option<OsFamily>, recipes: &[Recipe]) -> Result<(), SpecError> {
    if recipes.is_empty() {
        return Ok(());
    }
    if family.is_none() {
        return Err(SpecError::Recipes("a recipe needs to know the image's family"));
    }
    let twice = recipes.iter().enumerate().any(|(index, recipe)| recipes[..index].contains(recipe));
    if twice { Err(SpecError::Recipes("a recipe is there twice")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_and_zones_people_use_pass_and_paths_do_not() {
        for good in ["C.UTF-8", "en_US.UTF-8", "de_DE.UTF-8", "ast_ES.UTF-8", "ca_ES.UTF-8@valencia"] {
            assert!(Locale::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "C",
            "en_US",
            "en_US.utf8",
            "en_US.UTF-8\n",
            "../x.UTF-8",
            "en_us.UTF-8",
            "en_US.UTF-8@",
            "C.UTF-8@x",
        ] {
            assert!(Locale::parse(bad).is_err(), "{bad:?}");
        }
        for good in [
            "UTC",
            "Etc/UTC",
            "Europe/Berlin",
            "America/Indiana/Knox",
            "America/Port-au-Prince",
            "Etc/GMT+12",
        ] {
            assert!(TimeZone::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "utc",
            "../etc/passwd",
            "Europe/../Berlin",
            "Europe/",
            "/Europe",
            "Europe/Ber lin",
            "A/B/C/D",
            "Europe/Berlin\r",
        ] {
            assert!(TimeZone::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_survive_their_own_text() {
        for recipe in Recipe::ALL {
            assert_eq!(recipe.as_str().parse(), Ok(*recipe));
            assert_eq!(serde_json::to_string(recipe).unwrap(), format!("\"{recipe}\""));
        }
        for family in OsFamily::ALL {
            assert_eq!(family.as_str().parse(), Ok(*family));
        }
        assert!("Docker".parse::<Recipe>().is_err());
    }
}
