//! A new password for root. We make it, show it once, and keep nothing of it: the order carries its crypt hash.

use std::fmt;

use ez_protocol::{InstanceId, order::PasswordHash};
use sha_crypt::{PasswordHasher as _, ShaCrypt};

use super::{ActError, Verb, act, build};
use crate::{
    api,
    app::Services,
    entropy::{Entropy, EntropyExt as _},
    instances::model::ActionRow,
};

/// What it is made of: nothing that is mistaken for something else when it is typed from a screen.
const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// So many of them are 116 bits.
const LENGTH: usize = 20;
/// Twelve bytes are the sixteen characters that the crypt function takes of a salt.
const SALT: usize = 12;

/// A password as it is shown, once. It is never printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The text, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn generate(entropy: &dyn Entropy) -> Self {
        let mut text = String::with_capacity(LENGTH);
        // The largest multiple of the alphabet in a byte: what is beyond would make some letters likelier.
        let fair = u8::try_from(256 - 256 % LETTERS.len()).unwrap_or(u8::MAX);
        while text.len() < LENGTH {
            let [byte] = entropy.bytes::<1>();
            if byte < fair {
                text.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            }
        }
        Self(text)
    }

    /// Its SHA-512 crypt hash, which every distribution that we sell understands.
    fn hash(&self, entropy: &dyn Entropy) -> Option<PasswordHash> {
        let salt: [u8; SALT] = entropy.bytes();
        let hash = ShaCrypt::SHA512.hash_password_with_salt(self.0.as_bytes(), &salt).ok()?;
        PasswordHash::parse(hash.as_str()).ok()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Gives root another password. The answer is the action and the password: it is nowhere else.
///
/// # Errors
/// [`ActError`]; nothing was told to the node.
pub async fn reset_password(
    app: &Services,
    id: InstanceId,
    actor: &str,
    claim: Option<api::Claim>,
) -> Result<(ActionRow, Password), ActError> {
    let password = Password::generate(app.entropy.as_ref());
    let hash = password.hash(app.entropy.as_ref()).ok_or(build::SpecError("password hash"))?;
    let action = act(app, id, Verb::SetPassword(hash), actor, claim).await?;
    Ok((action, password))
}

#[cfg(test)]
mod tests {
    use sha_crypt::{PasswordHashRef, PasswordVerifier as _};

    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_password_is_long_plain_and_verifies_against_its_hash_alone() {
        let entropy = SeededEntropy::new(7);
        let (one, other) = (Password::generate(&entropy), Password::generate(&entropy));
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), LENGTH);
        assert!(one.expose().bytes().all(|b| LETTERS.contains(&b)));
        let hash = one.hash(&entropy).unwrap();
        let stored = PasswordHashRef::new(hash.as_str()).unwrap();
        assert!(ShaCrypt::SHA512.verify_password(one.expose().as_bytes(), stored).is_ok());
        assert!(ShaCrypt::SHA512.verify_password(other.expose().as_bytes(), stored).is_err());
        assert!(!format!("{one:?}{hash:?}").contains(one.expose()));
    }
}
