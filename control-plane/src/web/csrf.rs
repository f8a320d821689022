//! Requests that change something must come from our own pages.
//!
//! Browsers say where a request comes from: `Sec-Fetch-Site` (all current ones, on https and loopback)
//! or at least `Origin` on every POST. A request that says neither is refused: no browser sends it, and
//! programs use the API with a bearer token.

use http::{HeaderMap, Method, header};

/// Whether a request may go on. `origin` is the portal's own, for instance `https://servers.example`.
pub(super) fn is_ours(method: &Method, headers: &HeaderMap, origin: &str) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return true;
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    match (text("sec-fetch-site"), text(header::ORIGIN.as_str())) {
        // `none` is the reader's own doing (typed address, bookmark); no page can cause it.
        (Some("same-origin" | "none"), _) => true,
        (Some(_), _) => false,
        (None, Some(sent)) => sent == origin,
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OURS: &str = "https://servers.example";

    fn asked(site: Option<&'static str>, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(site) = site {
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        is_ours(&Method::POST, &headers, OURS)
    }

    #[test]
    fn only_our_own_pages_may_change_something() {
        assert!(asked(Some("same-origin"), Some(OURS)));
        assert!(asked(Some("none"), None));
        assert!(asked(None, Some(OURS)));
        assert!(!asked(Some("same-site"), Some(OURS)));
        assert!(!asked(Some("cross-site"), Some("https://evil.example")));
        assert!(!asked(None, Some("https://servers.example.evil.example")));
        assert!(!asked(None, Some("null")));
        assert!(!asked(None, None));
    }

    #[test]
    fn looking_is_open_to_links_from_elsewhere() {
        let mut headers = HeaderMap::new();
        headers.insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert!(is_ours(&Method::GET, &headers, OURS));
        assert!(!is_ours(&Method::DELETE, &headers, OURS));
    }
}
