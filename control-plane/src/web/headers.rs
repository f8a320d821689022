//! The headers every page carries, in one table.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::Config;

/// Headers that never vary.
const ALWAYS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Not `no-referrer`: browsers would then send `Origin: null` with our own forms.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    ),
];

/// The content security policy; `{hosts}` is where forms may lead besides here. Chrome applies
/// `form-action` to redirects too, so the pages of Stripe have to be in it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; form-action 'self'{hosts}; frame-ancestors 'none'; base-uri 'none'; \
    require-trusted-types-for 'script'; trusted-types portal";

/// The headers of this installation.
#[derive(Debug)]
pub(super) struct Headers {
    fixed: Vec<(HeaderName, HeaderValue)>,
}

impl Headers {
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = String::new();
        for origin in &config.stripe.checkout_origins {
            hosts.push(' ');
            hosts.push_str(origin);
        }
        let mut fixed: Vec<_> = ALWAYS
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        if let Ok(policy) = HeaderValue::from_str(&POLICY.replace("{hosts}", &hosts)) {
            fixed.push((header::CONTENT_SECURITY_POLICY, policy));
        }
        if config.http.is_secure() {
            let year = HeaderValue::from_static("max-age=31536000");
            fixed.push((header::STRICT_TRANSPORT_SECURITY, year));
        }
        Self { fixed }
    }

    /// Adds them. What says nothing about caching is not cached: pages depend on who looks.
    pub(super) fn add(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fixed {
            headers.insert(name.clone(), value.clone());
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_our_own_files_and_the_payment_pages_only() {
        let headers = {
            let mut map = HeaderMap::new();
            Headers::new(&Config::for_tests().unwrap()).add(&mut map);
            map
        };
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("form-action 'self' http://127.0.0.1:1 http://localhost:1;"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!policy.contains('{') && !policy.contains('\n'), "{policy}");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(!headers.contains_key(header::STRICT_TRANSPORT_SECURITY), "loopback http");
    }
}
