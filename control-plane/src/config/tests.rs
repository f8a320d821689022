//! What configuration is accepted, and what is said about the rest.

use std::collections::BTreeSet;

use super::{Config, Problems, Vars};

fn good() -> Vars {
    Vars::from_pairs([
        ("PUBLIC_URL", "https://servers.example"),
        ("STRIPE_SECRET_KEY", "sk_test_x"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a, whsec_b"),
        ("MAIL_FROM", "EZ <noreply@servers.example>"),
    ])
}

fn refused(vars: &Vars) -> Vec<&'static str> {
    match Config::read(vars) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems.iter().map(|problem| problem.key).collect(),
    }
}

#[test]
fn a_usable_configuration_has_sane_defaults() {
    let config = Config::read(&good()).unwrap();
    assert!(config.http.is_secure() && config.http.listen.ip().is_loopback());
    assert_eq!(config.stripe.webhook_secrets.len(), 2);
    assert_eq!(config.stripe.checkout_origins[0], "https://checkout.stripe.com");
    assert_eq!(config.link.listen.port(), 7443);
    assert_eq!(config.link.address, "localhost:7443");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let vars = Vars::from_pairs([("LISTEN", "here"), ("LOG_FORMAT", "xml"), ("LINK_NAMES", "a_b")]);
    let keys = refused(&vars);
    for key in
        ["PUBLIC_URL", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS", "LISTEN", "LOG_FORMAT", "LINK_NAMES"]
    {
        assert!(keys.contains(&key), "{key} is missing in {keys:?}");
    }
}

#[test]
fn single_values_are_judged() {
    let cases = [
        ("PUBLIC_URL", "http://servers.example", false),
        ("PUBLIC_URL", "http://localhost.evil.example", false),
        ("PUBLIC_URL", "https://servers.example/shop", false),
        ("PUBLIC_URL", "https://user@servers.example", false),
        ("PUBLIC_URL", "ftp://servers.example", false),
        ("PUBLIC_URL", "http://127.0.0.1:8080", true),
        ("PUBLIC_URL", "http://[::1]:8080", true),
        ("PUBLIC_URL", "http://localhost:8080", true),
        ("STRIPE_SECRET_KEY", "pk_test_x", false),
        ("STRIPE_SECRET_KEY", "rk_test_x", true),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a,oops", false),
        ("STRIPE_API_BASE", "http://stripe.example", false),
        ("STRIPE_API_BASE", "http://127.0.0.1:18200", true),
        ("STRIPE_SECRET_KEY", "sk_test_schl\u{fc}ssel", false),
        ("STRIPE_SECRET_KEY", "sk_test_a b", false),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_\u{e9}", false),
        ("DATABASE_URL", "mysql://x", false),
        ("DATABASE_URL", "sqlite:", false),
        ("DATABASE_URL", "sqlite://", false),
        ("DATABASE_URL", "sqlite:?mode=rw", false),
        ("DATABASE_URL", "sqlite:///var/lib/ez/ez.sqlite", true),
        ("DATABASE_URL", "postgres://", false),
        ("DATABASE_URL", "postgres:///ez", false),
        ("DATABASE_URL", "postgres:///ez?host=/run/postgresql", true),
        ("DATABASE_URL", "postgresql://ez@db.example/ez", true),
        ("SMTP_URL", "mail.example:25", false),
        ("SMTP_URL", "smtp://mail.example:25", true),
        ("MAIL_FROM", "nobody", false),
        ("OPERATOR_MAIL", "ops@servers.example, oops", false),
        ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8", true),
        ("TRUSTED_PROXIES", "everyone", false),
        ("LINK_ADDRESS", "link.example:7443", true),
        ("LINK_ADDRESS", "link.example:443", true),
        ("LINK_ADDRESS", "[2001:db8::1]:7443", true),
        ("LINK_ADDRESS", "https://link.example", false),
        ("LINK_ADDRESS", "x", false),
        ("LINK_ADDRESS", "link.example:0", false),
        ("LINK_ADDRESS", "link.example:99999", false),
        ("LINK_ADDRESS", ":7443", false),
        ("LINK_ADDRESS", "me@link.example:7443", false),
        ("LINK_ADDRESS", "link.example:7443/", false),
        ("LOG", "info,ez_control_plane=debug", true),
        ("LOG", "in fo=,=", false),
    ];
    for (key, value, accepted) in cases {
        let keys = refused(&good().with(key, value));
        assert_eq!(keys.is_empty(), accepted, "{key}={value}: {keys:?}");
        assert!(keys.iter().all(|named| *named == key), "{key}={value}: {keys:?}");
    }
}

#[test]
fn a_part_needs_its_own_variables_alone() {
    let vars = Vars::from_pairs([("DATABASE_URL", "sqlite:ez.sqlite"), ("LINK_LISTEN", "0.0.0.0:7000")]);
    assert_eq!(Config::read_storage(&vars).unwrap().database_url.expose(), "sqlite:ez.sqlite");
    assert_eq!(Config::read_link(&vars).unwrap().listen.port(), 7000);
    assert!(Config::read(&vars).is_err());
    assert!(Config::read_storage(&vars.with("DATABASE_URL", "sqlite:")).is_err());
}

#[test]
fn live_keys_go_to_stripe_alone() {
    let live = good().with("STRIPE_SECRET_KEY", "sk_live_x");
    assert!(refused(&live).is_empty());
    let elsewhere = live.with("STRIPE_API_BASE", "https://api.stripe.com.evil.example");
    assert_eq!(refused(&elsewhere), ["STRIPE_API_BASE"]);
}

#[test]
fn secrets_are_never_printed() {
    let vars =
        good().with("DATABASE_URL", "postgres://ez:hidden@db/ez").with("STRIPE_SECRET_KEY", "sk_test_hidden");
    let config = Config::read(&vars).unwrap();
    assert!(!format!("{config:?}").contains("hidden"));
    let wrong = vars.with("STRIPE_SECRET_KEY", "hidden").with("STRIPE_WEBHOOK_SECRETS", "hidden");
    let problems = Config::read(&wrong).unwrap_err();
    assert!(!problems.to_string().contains("hidden"), "{problems}");
}

/// `.env.example` and the code know the same variables.
#[test]
fn the_example_names_every_variable() {
    let example = include_str!("../../../.env.example");
    let described: BTreeSet<&str> = example
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once('='))
        .map(|(key, _)| key)
        .filter(|key| key.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    let asked: BTreeSet<&str> = super::keys_asked().into_iter().collect();
    assert_eq!(described, asked);
}

#[test]
fn the_example_is_usable_as_it_stands() {
    let example = include_str!("../../../.env.example");
    let pairs = example.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    assert_eq!(refused(&Vars::from_pairs(pairs)), Vec::<&str>::new());
}
