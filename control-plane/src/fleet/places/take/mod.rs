//! Taking one address or one VMID so that nobody else gets it, whatever races (I4).

pub(super) mod store;
