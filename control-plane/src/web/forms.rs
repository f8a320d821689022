//! Forms as values. A handler reads a [`Submission`], collects what it refuses into a [`FormState`],
//! and renders the page again with it: the fields come back filled, each message at its field.
//!
//! ```ignore
//! let mut form = submission.state();
//! if let Err(refusal) = ez_protocol::input::hostname(submission.text("hostname")) {
//!     form.refuse("hostname", refusal.code());          // text: field-error-<code>
//! }
//! if form.is_refused() { return ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &View { form, … }); }
//! ```

use std::{borrow::Cow, collections::BTreeMap};

use ez_protocol::input::{HostnameError, SshKeyError};
use serde::Serialize;

/// What a browser sent, in order; names may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submission {
    pairs: Vec<(String, String)>,
}

impl Submission {
    /// Takes pairs as they come from the body.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self { pairs }
    }

    /// Reads an `application/x-www-form-urlencoded` body.
    pub fn parse(body: &[u8]) -> Self {
        Self {
            // Not every database can keep a NUL; as in HTML itself, the replacement character stands for it.
            pairs: url::form_urlencoded::parse(body)
                .map(|(k, v)| (k.into_owned(), v.replace('\0', "\u{fffd}")))
                .collect(),
        }
    }

    /// The first value of a field without white space around it; empty when it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The first value of a field as it came (passwords); empty when it is not there.
    pub fn raw(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// All values of a field (check boxes of one name).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a check box is ticked.
    pub fn is_on(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// A form state that carries these values back to the page.
    pub fn state(&self) -> FormState {
        let mut state = FormState::default();
        for (name, value) in &self.pairs {
            state.fill(name.clone(), value.clone());
        }
        state
    }
}

/// Why a field was refused: the text `field-error-<code>` with arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Key of the text, without `field-error-`.
    pub code: Cow<'static, str>,
    /// A number or word the text names (`$limit` in the catalogue); empty when it needs none.
    pub limit: String,
}

/// Values and messages of a form that is shown (again); `form` in the templates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FormState {
    /// Values by field name; several for check boxes of one name.
    pub values: BTreeMap<String, Vec<String>>,
    /// Messages by field name.
    pub errors: BTreeMap<String, FieldError>,
    /// A message about the form as a whole: the text `form-error-<code>`.
    pub refusal: Option<Cow<'static, str>>,
}

impl FormState {
    /// Puts a value into a field. Passwords and tokens are never carried back to a page.
    pub fn fill(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if !name.contains("password") && !name.contains("token") {
            self.values.entry(name).or_default().push(value.into());
        }
    }

    /// Refuses a field; the first message of a field stays.
    pub fn refuse(&mut self, name: impl Into<String>, code: impl Into<Cow<'static, str>>) {
        self.refuse_with(name, code, "");
    }

    /// Refuses a field with the number or word its text names.
    pub fn refuse_with(
        &mut self,
        name: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        limit: impl ToString,
    ) {
        self.errors
            .entry(name.into())
            .or_insert_with(|| FieldError { code: code.into(), limit: limit.to_string() });
    }

    /// Refuses the form as a whole.
    pub fn refuse_form(&mut self, code: impl Into<Cow<'static, str>>) {
        self.refusal = Some(code.into());
    }

    /// Whether anything was refused.
    pub fn is_refused(&self) -> bool {
        !self.errors.is_empty() || self.refusal.is_some()
    }
}

/// The text for a refused SSH key: `field-error-<code>`.
pub fn ssh_key_code(error: &SshKeyError) -> &'static str {
    match error {
        SshKeyError::Empty => "ssh-key-empty",
        SshKeyError::LineBreak => "ssh-key-lines",
        SshKeyError::TooLong => "ssh-key-long",
        SshKeyError::PrivateKey => "ssh-key-private",
        SshKeyError::Options => "ssh-key-options",
        SshKeyError::UnknownType => "ssh-key-kind",
        SshKeyError::BadBody => "ssh-key-invalid",
        SshKeyError::ShortRsa => "ssh-key-short-rsa",
        SshKeyError::Comment => "ssh-key-comment",
    }
}

/// The text for a refused host name: `field-error-<code>`.
pub fn hostname_code(error: HostnameError) -> &'static str {
    match error {
        HostnameError::Empty => "hostname-empty",
        HostnameError::Hyphen => "hostname-hyphen",
        HostnameError::OnlyDigits => "hostname-digits",
        HostnameError::TooLong | HostnameError::LabelLength | HostnameError::Character => "hostname-invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_form_comes_back_filled_but_without_its_password() {
        let sent = Submission::parse(b"email=a%40b.example&password=hunter2&key=1&key=2");
        let mut form = sent.state();
        form.refuse("email", "email-invalid");
        form.refuse("email", "email-taken");
        assert_eq!(form.values["email"], ["a@b.example"]);
        assert_eq!(form.values["key"], ["1", "2"]);
        assert!(!form.values.contains_key("password"));
        assert_eq!(form.errors["email"].code, "email-invalid");
        assert!(form.is_refused());
        assert_eq!(sent.raw("password"), "hunter2");
    }

    #[test]
    fn no_value_holds_a_nul() {
        let sent = Submission::parse(b"location=a%00b&key=%00");
        assert_eq!(sent.text("location"), "a\u{fffd}b");
        assert!(sent.all("key").all(|key| !key.contains('\0')));
    }
}
