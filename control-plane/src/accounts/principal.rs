//! Who acts: what a session or a bearer token proves.

use ez_protocol::{AccountId, UserId};

/// What a staff user may do beside using the portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaffRole {
    /// Looks, helps.
    Support,
    /// Looks, and moves money.
    Billing,
    /// Everything about nodes and orders.
    Operator,
}

/// Who acts, proven by a session or a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The person.
    pub user_id: UserId,
    /// On whose behalf: everything a customer owns hangs on the account.
    pub account_id: AccountId,
    /// The person's mail address.
    pub email: String,
    /// The account's name, as the account switch shows it.
    pub account_name: String,
    /// Present for staff.
    pub staff: Option<StaffRole>,
}
