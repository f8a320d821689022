//! Link: the QUIC server that node agents dial; moves signed bytes and knows nothing of money (A5).

/// The agents connected to this process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry;
