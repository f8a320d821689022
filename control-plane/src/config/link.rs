//! `LINK_LISTEN`, `LINK_NAMES`, `LINK_ADDRESS`: where node agents dial in.

use std::net::SocketAddr;

use url::Url;

use super::read::Reader;

/// The link to the node agents.
#[derive(Clone, Debug)]
pub struct Link {
    /// UDP for QUIC and, on the same number, TCP for enrolment.
    pub listen: SocketAddr,
    /// DNS names and addresses that agents dial; they stand in the link's certificate.
    pub names: Vec<String>,
    /// `host:port` that agents are told to join; the first name and the listening port unless set.
    pub address: String,
}

impl Link {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen: Option<SocketAddr> =
            reader.parsed("LINK_LISTEN", "0.0.0.0:7443", "an address with a port, such as 0.0.0.0:7443");
        let mut names: Vec<String> =
            reader.list("LINK_NAMES").into_iter().map(str::to_ascii_lowercase).collect();
        for name in &names {
            let is_name = !name.is_empty()
                && name.len() <= 253
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
            if !is_name && name.parse::<std::net::IpAddr>().is_err() {
                reader.problem("LINK_NAMES", format!("{name:?} is neither a DNS name nor an address"));
            }
        }
        if names.is_empty() {
            names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
        }
        let listen = listen?;
        let address = match reader.optional("LINK_ADDRESS") {
            Some(text) if is_address(text) => text.to_owned(),
            Some(text) => {
                reader
                    .problem("LINK_ADDRESS", format!("{text:?} is not host:port, such as link.example:7443"));
                return None;
            }
            None => written_address(names.first()?, listen.port()),
        };
        Some(Self { listen, names, address })
    }
}

/// `host:port`, with brackets around an IPv6 address.
fn written_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Whether this is a host and a port and nothing else.
fn is_address(text: &str) -> bool {
    // The port is looked for in the text: a URL forgets the one of its scheme.
    let has_port =
        text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    has_port
        && format!("https://{text}").parse::<Url>().is_ok_and(|url| {
            url.host_str().is_some_and(|host| !host.is_empty())
                && url.path() == "/"
                && !text.ends_with('/')
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        })
}
