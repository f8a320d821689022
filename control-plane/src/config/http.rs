//! `PUBLIC_URL`, `LISTEN`, `TRUSTED_PROXIES`: the portal and the API.

use std::net::SocketAddr;

use ipnet::IpNet;
use url::Url;

use super::read::Reader;

/// The portal and the API.
#[derive(Clone, Debug)]
pub struct Http {
    /// What customers type; without a trailing slash after its path.
    pub public_url: Url,
    /// Where the server listens; a reverse proxy ends TLS in front of it.
    pub listen: SocketAddr,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Http {
    /// Whether cookies are `Secure` and `__Host-`; false only on loopback http.
    pub fn is_secure(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// The address of a page, from its absolute path.
    ///
    /// ```
    /// # use ez_control_plane::config::Config;
    /// let config = Config::for_tests()?;
    /// assert_eq!(config.http.page("/login"), "http://127.0.0.1:8080/login");
    /// # Ok::<_, ez_control_plane::config::Problems>(())
    /// ```
    pub fn page(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_str().trim_end_matches('/'))
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen =
            reader.parsed("LISTEN", "127.0.0.1:8080", "an address with a port, such as 127.0.0.1:8080");
        let mut trusted_proxies = Vec::new();
        for item in reader.list("TRUSTED_PROXIES") {
            let parsed = item.parse::<IpNet>().or_else(|_| item.parse::<std::net::IpAddr>().map(IpNet::from));
            match parsed {
                Ok(net) => trusted_proxies.push(net),
                Err(_) => reader.problem("TRUSTED_PROXIES", format!("{item:?} is not an address or network")),
            }
        }
        let public_url = public_url(reader);
        Some(Self { public_url: public_url?, listen: listen?, trusted_proxies })
    }
}

/// https anywhere, http only on loopback: cookies and tokens would travel in the clear otherwise.
fn public_url(reader: &mut Reader<'_>) -> Option<Url> {
    const KEY: &str = "PUBLIC_URL";
    let text = reader.required(KEY, "the address customers use, such as https://servers.example")?;
    let Ok(url) = text.parse::<Url>() else {
        reader.problem(KEY, format!("{text:?} is not a URL"));
        return None;
    };
    let reason = match url.scheme() {
        _ if url.query().is_some() || url.fragment().is_some() || url.path() != "/" => {
            "must be an origin alone, without path, query or fragment"
        }
        _ if !url.username().is_empty() || url.password().is_some() => {
            "must not contain a user name or password"
        }
        "https" => return Some(url),
        "http" if is_loopback(&url) => return Some(url),
        "http" => "must be https; plain http is allowed only on 127.0.0.1, [::1] and localhost",
        _ => "must begin with https://",
    };
    reader.problem(KEY, reason);
    None
}

/// Whether a URL's host is this machine by its spelling.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
