//! The letters about traffic.

use serde::Serialize;

use crate::notify::Letter;

/// Four fifths of the included traffic are used.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficNear {
    /// Description of the server.
    pub server: String,
    /// `November 2026`
    pub month: String,
    /// What was used, with its unit.
    pub used: String,
    /// What is included, with its unit.
    pub included: String,
    /// What each started 100 GiB more cost.
    pub price: String,
    /// The server's graphs.
    pub link: String,
}

impl Letter for TrafficNear {
    const TEMPLATE: &'static str = "traffic-near";
    fn sample() -> Self {
        Self {
            server: "Server web-1".into(),
            month: "November 2026".into(),
            used: "810 GB".into(),
            included: "1000 GB".into(),
            price: "0.12 €".into(),
            link: "https://servers.example/servers/1/graphs".into(),
        }
    }
}

/// All of the included traffic is used: more costs something.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficOver {
    /// Description of the server.
    pub server: String,
    /// `November 2026`
    pub month: String,
    /// What was used, with its unit.
    pub used: String,
    /// What is included, with its unit.
    pub included: String,
    /// What each started 100 GiB more cost.
    pub price: String,
    /// The server's graphs.
    pub link: String,
}

impl Letter for TrafficOver {
    const TEMPLATE: &'static str = "traffic-over";
    fn sample() -> Self {
        let near = TrafficNear::sample();
        Self {
            server: near.server,
            month: near.month,
            used: "1010 GB".into(),
            included: near.included,
            price: near.price,
            link: near.link,
        }
    }
}
