//! Who somebody is, what they may present, and what is refused.

use ez_protocol::{AccountId, ApiTokenId, SessionId, UnixMillis, UserId, input::SshKeyError};

use crate::db::{DbError, text_enum};

text_enum! {
    /// What a member of staff may do. Each role includes the ones before it.
    pub enum StaffRole {
        /// Sees customers and servers.
        Support = "support",
        /// Also refunds.
        Billing = "billing",
        /// Also changes the fleet.
        Operator = "operator",
    }
}

text_enum! {
    /// What an API token may do.
    pub enum Scope {
        /// Look at everything the account owns.
        Read = "read",
        /// Order, change and delete.
        Write = "write",
        /// Use the operators' endpoints, if the user is staff.
        Operator = "operator",
    }
}

text_enum! {
    /// What a link sent by mail is good for.
    pub(super) enum LinkPurpose {
        Verify = "verify",
        Reset = "reset",
        /// Of a letter that says there is an account already: it has no link, but is counted as those with one are.
        Exists = "exists",
    }
}

/// Somebody who proved who they are, and the account they act for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The person.
    pub user_id: UserId,
    /// The account they act for.
    pub account_id: AccountId,
    /// Their address.
    pub email: String,
    /// What the account is called.
    pub account_name: String,
    /// Their role, if they are staff.
    pub staff: Option<StaffRole>,
}

impl Principal {
    /// Whether this is staff with at least this role.
    pub fn is_staff(&self, at_least: StaffRole) -> bool {
        self.staff.is_some_and(|role| role >= at_least)
    }

    /// How the audit log names them.
    pub fn actor(&self) -> String {
        let kind = if self.staff.is_some() { "staff" } else { "user" };
        format!("{kind}:{}", self.user_id)
    }
}

/// A fresh session: the secret goes into the cookie and is not kept.
#[derive(Clone)]
pub struct NewSession {
    /// The cookie's value.
    pub token: String,
    /// Who logged in.
    pub principal: Principal,
    /// When it ends at the latest.
    pub ends_at: UnixMillis,
}

impl std::fmt::Debug for NewSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSession").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// A session that was presented and is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Who it belongs to.
    pub principal: Principal,
    /// When it began.
    pub created_at: UnixMillis,
    /// When it ends at the latest.
    pub ends_at: UnixMillis,
}

/// Somebody who presented an API token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCaller {
    /// The token.
    pub token_id: ApiTokenId,
    /// Who it acts for.
    pub principal: Principal,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

impl ApiCaller {
    /// Whether the token carries a scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// A token as its owner sees it; the secret is shown once, when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was last used, to about ten minutes.
    pub last_used_at: Option<UnixMillis>,
}

/// A user made by an operator.
#[derive(Clone)]
pub struct NewUser {
    /// Their address, as typed.
    pub email: String,
    /// Their password.
    pub password: String,
    /// Their role, if they are staff.
    pub staff: Option<StaffRole>,
    /// Whether the address counts as proven.
    pub verified: bool,
}

/// Why a password is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordProblem {
    /// Under ten characters.
    #[error("use at least 10 characters")]
    TooShort,
    /// Over 512 bytes: hashing it would cost us more than it protects.
    #[error("use at most 512 characters")]
    TooLong,
    /// One character over and over, or the address itself.
    #[error("this is too easy to guess")]
    Guessable,
}

/// What the verbs of this slice refuse.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// Not a mail address.
    #[error("this is not a mail address")]
    Email,
    /// The password is refused.
    #[error(transparent)]
    Password(#[from] PasswordProblem),
    /// Address and password do not belong together, or nobody has proven the address yet. Says no more on purpose.
    #[error("address or password is wrong")]
    Credentials,
    /// The link is unknown, too old or was used.
    #[error("this link is not valid any more")]
    Link,
    /// The link is of a sign-up with another password: somebody else's, or a forgotten one.
    #[error("this is not the password of the sign-up that sent this link")]
    OtherPassword,
    /// Too many people are logging in at once.
    #[error("too many attempts at once; try again in a moment")]
    Busy,
    /// A user with this address exists (operators only; customers never learn this).
    #[error("a user with this address exists")]
    Exists,
    /// Not theirs, or not there: both look the same.
    #[error("not found")]
    NotFound,
    /// The key is refused.
    #[error(transparent)]
    SshKey(#[from] SshKeyError),
    /// The name is empty or too long.
    #[error("give a name of 1 to 64 characters")]
    Name,
    /// A scope that this user's role does not allow.
    #[error("only an operator's token can have the scope operator; no token was made")]
    Scope,
    /// An account holds only so many.
    #[error("an account holds at most {0} of these")]
    TooMany(usize),
    /// The database.
    #[error("accounts: the database failed")]
    Db(#[from] DbError),
}

/// The one spelling of a mail address, or nothing if it is none. At most 254 bytes, plain ASCII.
///
/// ```
/// use ez_control_plane::accounts::email_address;
///
/// assert_eq!(email_address(" Ada@Example.ORG ").as_deref(), Some("ada@example.org"));
/// assert_eq!(email_address("ada@"), None);
/// ```
pub fn email_address(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let (local, domain) = text.rsplit_once('@')?;
    let plain = text.len() <= 254 && local.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    let dotted = domain.contains('.')
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let ok = plain && dotted && !local.is_empty() && text.parse::<lettre::Address>().is_ok();
    ok.then_some(text)
}

/// Whether a password is good enough for this address.
pub(super) fn check_password(password: &str, email: &str) -> Result<(), PasswordProblem> {
    if password.chars().count() < 10 {
        return Err(PasswordProblem::TooShort);
    }
    if password.len() > 512 {
        return Err(PasswordProblem::TooLong);
    }
    let first = password.chars().next();
    let monotone = password.chars().all(|c| Some(c) == first);
    if monotone || password.eq_ignore_ascii_case(email) {
        return Err(PasswordProblem::Guessable);
    }
    Ok(())
}

/// A name that people give to a key or token.
pub(super) fn check_name(name: &str) -> Result<String, AccountsError> {
    let name = name.trim();
    let fits = (1..=64).contains(&name.chars().count());
    if !fits || name.chars().any(ez_protocol::input::is_control_or_line_break) {
        return Err(AccountsError::Name);
    }
    Ok(name.to_owned())
}

/// What is stored of a secret: its SHA-256 as hex. Enough, because the secret itself has 256 bits.
pub(super) fn token_hash(token: &str) -> String {
    use sha2::{Digest, Sha256};
    data_encoding::HEXLOWER.encode(&Sha256::digest(token.as_bytes()))
}
