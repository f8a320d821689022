//! This slice's tables: users, accounts, memberships, sessions, email_links, api_tokens, ssh_keys.

mod keys;
mod proofs;
mod users;

pub(super) use keys::*;
pub(super) use proofs::*;
pub(super) use users::*;
