//! Console streams: the one message before the raw bytes.

/// The agent's answer to a console grant. An opened console's stream carries raw bytes from here on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConsoleAnswer {
    /// Refusal code such as `TOO_MANY`; empty: it is open.
    #[prost(string, tag = "1")]
    pub code: String,
    /// Name of the policy rule that refused; empty otherwise.
    #[prost(string, tag = "2")]
    pub rule: String,
    /// One sentence for people; empty: it is open.
    #[prost(string, tag = "3")]
    pub detail: String,
}
