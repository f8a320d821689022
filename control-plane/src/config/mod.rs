//! Configuration: environment variables, read once, all problems reported at once.
//!
//! One file per section; each says which variables it reads and what is allowed. `.env.example` describes
//! every variable in prose and a test compares the two.

mod billing;
mod http;
mod link;
mod log;
mod mail;
mod read;
mod storage;
mod stripe;
#[cfg(test)]
mod tests;

pub use self::{
    billing::Billing,
    http::Http,
    link::Link,
    log::{Log, LogFormat},
    mail::Mail,
    read::{Problem, Problems, Secret, Vars},
    storage::Storage,
    stripe::{Stripe, Tax},
};

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The portal and the API.
    pub http: Http,
    /// The link to the node agents.
    pub link: Link,
    /// Database and key files.
    pub storage: Storage,
    /// Payments.
    pub stripe: Stripe,
    /// What happens to a server that is not paid.
    pub billing: Billing,
    /// Outgoing mail.
    pub mail: Mail,
    /// Logs.
    pub log: Log,
}

impl Config {
    /// Reads the configuration from variables, usually [`Vars::from_environment`].
    ///
    /// # Errors
    /// Every problem found, each with its variable and reason.
    pub fn read(vars: &Vars) -> Result<Self, Problems> {
        Self::read_with(read::Reader::new(vars)).0
    }

    /// What concerns the database and the key files, for commands that need nothing else.
    ///
    /// # Errors
    /// Every problem with these variables.
    pub fn read_storage(vars: &Vars) -> Result<Storage, Problems> {
        Self::read_part(vars, Storage::read)
    }

    /// What concerns the link, for commands that need nothing else.
    ///
    /// # Errors
    /// Every problem with these variables.
    pub fn read_link(vars: &Vars) -> Result<Link, Problems> {
        Self::read_part(vars, Link::read)
    }

    fn read_part<T>(
        vars: &Vars,
        read: impl FnOnce(&mut read::Reader<'_>) -> Option<T>,
    ) -> Result<T, Problems> {
        let mut reader = read::Reader::new(vars);
        let part = read(&mut reader);
        match (part, reader.problems()) {
            (Some(part), problems) if problems.0.is_empty() => Ok(part),
            (_, problems) => Err(problems),
        }
    }

    /// The same, and which variables were asked for.
    fn read_with(mut reader: read::Reader<'_>) -> (Result<Self, Problems>, Vec<&'static str>) {
        let http = Http::read(&mut reader);
        let link = Link::read(&mut reader);
        let storage = Storage::read(&mut reader);
        let stripe = Stripe::read(&mut reader);
        let billing = Billing::read(&mut reader);
        let mail = Mail::read(&mut reader);
        let log = Log::read(&mut reader);
        let asked = std::mem::take(&mut reader.asked);
        let all = || {
            Some(Self {
                http: http?,
                link: link?,
                storage: storage?,
                stripe: stripe?,
                billing: billing?,
                mail: mail?,
                log: log?,
            })
        };
        match (all(), reader.problems()) {
            (Some(config), problems) if problems.0.is_empty() => (Ok(config), asked),
            (_, problems) => (Err(problems), asked),
        }
    }

    /// A configuration for tests: loopback, no mail, a pretend Stripe.
    ///
    /// # Errors
    /// None, unless the defaults broke.
    pub fn for_tests() -> Result<Self, Problems> {
        Self::read(&Vars::from_pairs([
            ("PUBLIC_URL", "http://127.0.0.1:8080"),
            ("LINK_LISTEN", "127.0.0.1:0"),
            ("STRIPE_API_BASE", "http://127.0.0.1:1"),
            ("STRIPE_SECRET_KEY", "sk_test_tests"),
            ("STRIPE_WEBHOOK_SECRETS", "whsec_tests"),
            ("MAIL_FROM", "EZ Solutions <noreply@ez.example>"),
        ]))
    }
}

/// The variables that a reading asks for.
#[cfg(test)]
fn keys_asked() -> Vec<&'static str> {
    Config::read_with(read::Reader::new(&Vars::default())).1
}
