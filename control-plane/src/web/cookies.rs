//! Cookies, in one spelling: `__Host-` and `Secure` on https; a plain name without `Secure` only while
//! the portal is on loopback http. Always `SameSite=Lax`, always for the whole site.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// The cookie that holds the session token.
pub const SESSION: &str = "ez_session";
/// The cookie that holds a message for the next page.
pub(super) const FLASH: &str = "ez_flash";
/// The cookie that holds the chosen colours.
pub(super) const THEME: &str = "ez_theme";

/// How cookies are written in this installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookies {
    secure: bool,
}

impl Cookies {
    /// `secure` when the portal's public address is https.
    pub const fn new(secure: bool) -> Self {
        Self { secure }
    }

    fn name(self, base: &str) -> String {
        if self.secure { format!("__Host-{base}") } else { base.to_owned() }
    }

    /// The value of a cookie the browser sent.
    pub fn read(self, headers: &HeaderMap, base: &str) -> Option<String> {
        let name = self.name(base);
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    }

    /// A `Set-Cookie` value. The cookie's value must be of URL-safe characters; `None` otherwise.
    pub fn set(self, base: &str, value: &str, lives: Duration) -> Option<HeaderValue> {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        if !value.chars().all(safe) {
            return None;
        }
        let name = self.name(base);
        let secure = if self.secure { "; Secure" } else { "" };
        let age = lives.as_secs();
        let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).ok()
    }

    /// A `Set-Cookie` value that removes the cookie.
    pub fn clear(self, base: &str) -> Option<HeaderValue> {
        self.set(base, "", Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_cookies_are_bound_to_the_host() {
        let set = Cookies::new(true).set(SESSION, "abc-1", Duration::from_secs(60)).unwrap();
        assert_eq!(set, "__Host-ez_session=abc-1; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        let plain = Cookies::new(false).clear(SESSION).unwrap();
        assert_eq!(plain, "ez_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
        assert_eq!(Cookies::new(true).set(SESSION, "a;b", Duration::ZERO), None);
    }

    #[test]
    fn a_plain_cookie_does_not_stand_in_for_a_host_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; ez_session=planted"));
        headers.append(header::COOKIE, HeaderValue::from_static("__Host-ez_session=real"));
        assert_eq!(Cookies::new(true).read(&headers, SESSION).as_deref(), Some("real"));
        assert_eq!(Cookies::new(false).read(&headers, SESSION).as_deref(), Some("planted"));
        assert_eq!(Cookies::new(false).read(&headers, "b"), None);
    }
}
