//! What nodes reported about orders, kept once per journal and number.

pub(super) mod store;
