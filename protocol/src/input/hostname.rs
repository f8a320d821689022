//! Host names as RFC 1123 has them, without the surprises.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a host name was refused. The texts are for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing was given.
    #[error("a name is needed")]
    Empty,
    /// Over 253 characters in all.
    #[error("a name has at most 253 characters")]
    TooLong,
    /// A part between dots is empty or over 63 characters.
    #[error("each part between dots has 1 to 63 characters")]
    LabelLength,
    /// A character other than a–z, 0–9, hyphen and dot.
    #[error("only a-z, 0-9, '-' and '.' are allowed")]
    Character,
    /// A part begins or ends with a hyphen.
    #[error("a part may not begin or end with '-'")]
    Hyphen,
    /// The last part is all digits, so that the name could be read as an address.
    #[error("the last part may not be only digits")]
    OnlyDigits,
}

/// A lower-case host name: 1–253 characters, labels of 1–63, `a-z 0-9 -`, last label not numeric.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hostname(String);

impl Hostname {
    /// Checks a name. Upper case is accepted and lowered; nothing is trimmed.
    ///
    /// # Errors
    /// The first rule that the name breaks.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        if text.is_empty() {
            return Err(HostnameError::Empty);
        }
        if text.len() > 253 {
            return Err(HostnameError::TooLong);
        }
        let text = text.to_ascii_lowercase();
        for label in text.split('.') {
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return Err(HostnameError::Character);
            }
            if label.is_empty() || label.len() > 63 {
                return Err(HostnameError::LabelLength);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostnameError::Hyphen);
            }
        }
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostnameError::OnlyDigits);
        }
        Ok(Self(text))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first dot.
    pub fn short(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Hostname {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_people_use_pass() {
        for name in ["web-1", "a", "db.example.com", "WEB-1", "1a", "xn--mller-kva.example"] {
            assert!(Hostname::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn each_rule_refuses() {
        use HostnameError::*;
        let long_label = "a".repeat(64);
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        for (name, why) in [
            ("", Empty),
            (long.as_str(), TooLong),
            (long_label.as_str(), LabelLength),
            ("a..b", LabelLength),
            ("web_1", Character),
            ("web1\n", Character),
            ("wéb", Character),
            ("web 1", Character),
            ("-web", Hyphen),
            ("web-", Hyphen),
            ("10.0.0.1", OnlyDigits),
            ("1234", OnlyDigits),
        ] {
            assert_eq!(Hostname::parse(name), Err(why), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_plain_and_stable(text in ".{0,300}") {
            if let Ok(name) = Hostname::parse(&text) {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert_eq!(Hostname::parse(name.as_str()), Ok(name.clone()));
            }
        }
    }
}
