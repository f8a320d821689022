//! Stories of accounts, on both databases.

use std::{sync::Arc, time::Duration};

use ez_protocol::UnixMillis;
use serde_json::Value;

use super::{
    AccountsError, NewUser, PasswordProblem, Principal, Scope, StaffRole, add_ssh_key, contact, create_token,
    create_user, email_address, forgot_password, list_tokens, log_in, log_out, operators, remove_ssh_key,
    reset_password, revoke_token, session_principal, sign_up, ssh_keys, store, token_principal, verify_email,
};
use crate::{
    app::{App, Services},
    audit,
    clock::{Clock, ManualClock},
    db::{Db, DbError, testing::each_database},
    entropy::EntropyExt,
};

const EMAIL: &str = "ada@example.org";
const PASSWORD: &str = "correct horse battery";

fn app(db: &Db) -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
    (Services::for_tests(db.clone(), clock.clone()), clock)
}

/// The letters that wait, oldest first: template and context.
async fn letters(db: &Db) -> Vec<(String, Value)> {
    let mut connection = db.read().await.unwrap();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT template, context FROM mail_outbox ORDER BY created_at, id")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    rows.into_iter().map(|(name, context)| (name, serde_json::from_str(&context).unwrap())).collect()
}

/// The secret in the newest letter of a kind.
async fn link(db: &Db, template: &str) -> String {
    let letters = letters(db).await;
    let (_, context) = letters.iter().rev().find(|(name, _)| name == template).unwrap();
    context["link"].as_str().unwrap().split_once("token=").unwrap().1.to_owned()
}

async fn made(app: &App, email: &str, staff: Option<StaffRole>) -> super::Principal {
    let new = NewUser { email: email.into(), password: PASSWORD.into(), staff, verified: true };
    create_user(app, new).await.unwrap()
}

#[tokio::test]
async fn signing_up_proves_the_address_and_logs_in() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        sign_up(&app, " Ada@Example.org", PASSWORD).await.unwrap();
        let early = log_in(&app, EMAIL, PASSWORD).await.unwrap_err();
        assert!(matches!(early, AccountsError::Credentials), "{early:?}");
        assert_eq!(letters(&db).await.len(), 2, "and is sent the link once more");
        clock.advance(Duration::from_millis(5));
        let secret = link(&db, "verify-email").await;
        let principal = verify_email(&app, &secret, PASSWORD).await.unwrap();
        assert_eq!((principal.email.as_str(), principal.staff), (EMAIL, None));
        let again = verify_email(&app, &secret, PASSWORD).await;
        assert!(matches!(again, Err(AccountsError::Link)), "used twice");
        let session = log_in(&app, EMAIL, PASSWORD).await.unwrap();
        assert_eq!(session_principal(&app, &session.token).await.unwrap(), Some(principal.clone()));
        let mut connection = db.read().await.unwrap();
        assert_eq!(contact(&mut connection, principal.account_id).await.unwrap(), EMAIL);
        drop(connection);
        log_out(&app, &session.token).await.unwrap();
        assert_eq!(session_principal(&app, &session.token).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn nobody_learns_who_has_an_account() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        made(&app, EMAIL, None).await;
        sign_up(&app, EMAIL, "another password").await.unwrap();
        clock.advance(Duration::from_millis(5));
        forgot_password(&app, "nobody@example.org").await.unwrap();
        let sent = letters(&db).await;
        assert_eq!(sent.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["account-exists"]);
        for (email, password) in
            [("nobody@example.org", PASSWORD), (EMAIL, "wrong password"), ("oops", PASSWORD)]
        {
            let refused = log_in(&app, email, password).await.unwrap_err();
            assert!(matches!(refused, AccountsError::Credentials), "{refused:?}");
        }
        // Nor by signing up in their name and trying the password that was chosen then.
        for email in [EMAIL, "nobody@example.org"] {
            sign_up(&app, email, "another password").await.unwrap();
            let refused = log_in(&app, email, "another password").await.unwrap_err();
            assert!(matches!(refused, AccountsError::Credentials), "{email}: {refused:?}");
        }
        assert!(log_in(&app, EMAIL, PASSWORD).await.is_ok(), "the second sign-up changed nothing");
    })
    .await;
}

#[tokio::test]
async fn somebody_elses_sign_up_does_not_set_my_password() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        sign_up(&app, EMAIL, "mine, typed first").await.unwrap();
        let mine = link(&db, "verify-email").await;
        clock.advance(Duration::from_secs(1));
        sign_up(&app, EMAIL, "the attacker's one").await.unwrap();
        verify_email(&app, &mine, "mine, typed first").await.unwrap();
        assert!(log_in(&app, EMAIL, "mine, typed first").await.is_ok());
        assert!(matches!(log_in(&app, EMAIL, "the attacker's one").await, Err(AccountsError::Credentials)));
        let theirs = link(&db, "verify-email").await;
        let late = verify_email(&app, &theirs, "the attacker's one").await;
        assert!(matches!(late, Err(AccountsError::Link)), "used up with mine");
    })
    .await;
}

#[tokio::test]
async fn a_letter_of_somebody_elses_sign_up_does_not_set_their_password() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        for _ in 0..5 {
            sign_up(&app, EMAIL, "the attacker's one").await.unwrap();
            clock.advance(Duration::from_secs(1));
        }
        sign_up(&app, EMAIL, PASSWORD).await.unwrap();
        assert_eq!(letters(&db).await.len(), 5, "the hour's letters are all theirs");
        let theirs = link(&db, "verify-email").await;
        let refused = verify_email(&app, &theirs, PASSWORD).await;
        assert!(matches!(refused, Err(AccountsError::OtherPassword)), "{refused:?}");
        let early = log_in(&app, EMAIL, "the attacker's one").await.unwrap_err();
        assert!(matches!(early, AccountsError::Credentials), "nothing was confirmed: {early:?}");
        forgot_password(&app, EMAIL).await.unwrap();
        let way_out = link(&db, "reset-password").await;
        reset_password(&app, &way_out, PASSWORD).await.unwrap();
        assert!(log_in(&app, EMAIL, PASSWORD).await.is_ok());
        let late = verify_email(&app, &theirs, "the attacker's one").await;
        assert!(matches!(late, Err(AccountsError::Link)), "their letters are void");
    })
    .await;
}

#[tokio::test]
async fn signing_up_with_anothers_address_leaves_them_their_new_password() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        made(&app, EMAIL, None).await;
        for _ in 0..8 {
            sign_up(&app, EMAIL, "another password").await.unwrap();
        }
        assert_eq!(letters(&db).await.len(), 5, "these letters have a bound, too");
        forgot_password(&app, EMAIL).await.unwrap();
        let secret = link(&db, "reset-password").await;
        assert!(reset_password(&app, &secret, "a new password").await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_password_is_set_anew_once_and_in_time() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let principal = made(&app, EMAIL, None).await;
        let session = log_in(&app, EMAIL, PASSWORD).await.unwrap();
        let bob = made(&app, "bob@example.org", None).await;
        let (_, token) = create_token(&app, &principal, "laptop", vec![Scope::Read]).await.unwrap();
        let (_, of_bob) = create_token(&app, &bob, "laptop", vec![Scope::Read]).await.unwrap();
        forgot_password(&app, EMAIL).await.unwrap();
        let late = link(&db, "reset-password").await;
        clock.advance(Duration::from_secs(30 * 60));
        assert!(matches!(reset_password(&app, &late, "a new password").await, Err(AccountsError::Link)));
        forgot_password(&app, EMAIL).await.unwrap();
        let secret = link(&db, "reset-password").await;
        let short = reset_password(&app, &secret, "short").await;
        assert!(matches!(short, Err(AccountsError::Password(PasswordProblem::TooShort))));
        let confirmed = verify_email(&app, &secret, PASSWORD).await;
        assert!(matches!(confirmed, Err(AccountsError::Link)), "another purpose");
        assert_eq!(reset_password(&app, &secret, "a new password").await.unwrap(), principal);
        assert!(matches!(reset_password(&app, &secret, "once more, please").await, Err(AccountsError::Link)));
        assert_eq!(session_principal(&app, &session.token).await.unwrap(), None, "sessions end");
        assert!(token_principal(&app, &token).await.unwrap().is_none(), "tokens end");
        assert!(token_principal(&app, &of_bob).await.unwrap().is_some(), "and nobody else's");
        assert!(log_in(&app, EMAIL, "a new password").await.is_ok());
        assert!(log_in(&app, EMAIL, PASSWORD).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn mails_to_one_person_are_limited() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        made(&app, EMAIL, None).await;
        for _ in 0..8 {
            forgot_password(&app, EMAIL).await.unwrap();
        }
        assert_eq!(letters(&db).await.len(), 5);
        clock.advance(Duration::from_secs(3_601));
        forgot_password(&app, EMAIL).await.unwrap();
        assert_eq!(letters(&db).await.len(), 6);
    })
    .await;
}

#[tokio::test]
async fn links_that_ran_out_or_were_used_keep_nobody_from_one_that_is_good() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        made(&app, EMAIL, None).await;
        let asks = async || {
            for _ in 0..8 {
                forgot_password(&app, EMAIL).await.unwrap();
            }
            letters(&db).await.len()
        };
        assert_eq!(asks().await, 5, "somebody else asks for all there are");
        clock.advance(Duration::from_secs(29 * 60));
        assert_eq!(asks().await, 5, "and they are good still");
        clock.advance(Duration::from_secs(2 * 60));
        forgot_password(&app, EMAIL).await.unwrap();
        let secret = link(&db, "reset-password").await;
        assert!(reset_password(&app, &secret, "a new password").await.is_ok(), "none of them was");
        assert_eq!(asks().await, 11, "a new password has used up the others");
    })
    .await;
}

#[tokio::test]
async fn sessions_end_when_idle_and_in_any_case() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        made(&app, EMAIL, None).await;
        made(&app, "op@example.org", Some(StaffRole::Operator)).await;
        let hour = Duration::from_secs(3_600);
        let customer = log_in(&app, EMAIL, PASSWORD).await.unwrap();
        let staff = log_in(&app, "op@example.org", PASSWORD).await.unwrap();
        for _ in 0..(14 * 24 / 20) {
            clock.advance(hour * 20);
            assert!(session_principal(&app, &customer.token).await.unwrap().is_some(), "used every 20 h");
        }
        assert!(
            session_principal(&app, &staff.token).await.unwrap().is_none(),
            "staff's idle time is shorter"
        );
        clock.advance(hour * 20);
        assert!(session_principal(&app, &customer.token).await.unwrap().is_none(), "14 days are over");
        let idle = log_in(&app, EMAIL, PASSWORD).await.unwrap();
        clock.advance(hour * 24);
        assert!(session_principal(&app, &idle.token).await.unwrap().is_none(), "idle for a day");
        let now = clock.now().plus(hour * 24 * 30);
        db.write::<_, DbError, _>(move |tx| Box::pin(async move { store::sweep(tx, now).await }))
            .await
            .unwrap();
        let mut connection = db.read().await.unwrap();
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sessions").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(left, 0);
    })
    .await;
}

#[tokio::test]
async fn tokens_work_until_revoked_and_belong_to_their_account() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        let (ada, bob) = (made(&app, EMAIL, None).await, made(&app, "bob@example.org", None).await);
        let refused = create_token(&app, &ada, "laptop", vec![Scope::Read, Scope::Operator]).await;
        assert!(matches!(refused, Err(AccountsError::Scope)), "a customer is no operator");
        let (token, secret) = create_token(&app, &ada, " laptop ", vec![Scope::Read]).await.unwrap();
        assert!(secret.starts_with("ezt_") && token.name == "laptop");
        let caller = token_principal(&app, &secret).await.unwrap().unwrap();
        assert_eq!(
            (&caller.principal, caller.may(Scope::Read), caller.may(Scope::Write)),
            (&ada, true, false)
        );
        assert!(list_tokens(&app, &ada).await.unwrap()[0].last_used_at.is_some());
        for wrong in ["", "ezt_", &secret[..20], &secret.replace("ezt_", "ezs_")] {
            assert!(token_principal(&app, wrong).await.unwrap().is_none(), "{wrong}");
        }
        assert!(matches!(revoke_token(&app, &bob, token.id).await, Err(AccountsError::NotFound)));
        revoke_token(&app, &ada, token.id).await.unwrap();
        assert!(token_principal(&app, &secret).await.unwrap().is_none());
        assert!(list_tokens(&app, &ada).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn nothing_that_is_presented_is_stored_in_the_clear() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        let ada = made(&app, EMAIL, None).await;
        let session = log_in(&app, EMAIL, PASSWORD).await.unwrap();
        let (_, token) = create_token(&app, &ada, "laptop", vec![Scope::Read]).await.unwrap();
        let mut connection = db.read().await.unwrap();
        let stored: Vec<String> = sqlx::query_scalar(
            "SELECT token_hash FROM sessions UNION ALL SELECT token_hash FROM api_tokens
             UNION ALL SELECT password_hash FROM users UNION ALL SELECT entry FROM audit",
        )
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        assert!(stored.iter().any(|text| text.starts_with("$argon2id$v=19$m=47104,t=1,p=1$")), "{stored:?}");
        for secret in [session.token.as_str(), token.as_str(), PASSWORD] {
            assert!(stored.iter().all(|text| !text.contains(secret)), "{stored:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn ssh_keys_belong_to_the_account() {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ada@laptop";
    each_database(async |db| {
        let (app, clock) = app(&db);
        let (ada, bob) = (made(&app, EMAIL, None).await, made(&app, "bob@example.org", None).await);
        let add = |who: &Principal, name: &'static str, text: &'static str| {
            let (at, random, db, who) = (clock.now(), app.entropy.bytes(), db.clone(), who.clone());
            async move {
                db.write(move |tx| {
                    Box::pin(async move { add_ssh_key(tx, at, random, &who, name, text).await })
                })
                .await
            }
        };
        let key = add(&ada, "", KEY).await.unwrap();
        assert_eq!(key.name, "ada@laptop");
        assert_eq!(add(&ada, "again", KEY).await.unwrap(), key, "the same key is the same row");
        assert!(matches!(add(&ada, "x", "ssh-ed25519 AAAA\nevil").await, Err(AccountsError::SshKey(_))));
        let mut connection = db.read().await.unwrap();
        assert_eq!(ssh_keys(&mut connection, ada.account_id).await.unwrap(), std::slice::from_ref(&key));
        assert_eq!(ssh_keys(&mut connection, bob.account_id).await.unwrap(), []);
        drop(connection);
        let remove = |who: &Principal| {
            let (at, db, who, id) = (clock.now(), db.clone(), who.clone(), key.id);
            async move {
                db.write(move |tx| Box::pin(async move { remove_ssh_key(tx, at, &who, id).await })).await
            }
        };
        clock.advance(Duration::from_millis(5));
        assert!(matches!(remove(&bob).await, Err(AccountsError::NotFound)));
        remove(&ada).await.unwrap();
        let mut connection = db.read().await.unwrap();
        let kept = audit::history(&mut connection, "ssh_key", &key.id.to_string()).await.unwrap();
        let said: Vec<_> = kept.iter().map(|row| (&*row.entry.actor, &*row.entry.action)).collect();
        let actor = ada.actor();
        assert_eq!(said, [(&*actor, "ssh_key.added"), (&*actor, "ssh_key.removed")]);
    })
    .await;
}

#[tokio::test]
async fn operators_make_users() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        let op = made(&app, "op@example.org", Some(StaffRole::Operator)).await;
        assert!(op.is_staff(StaffRole::Support) && op.actor().starts_with("staff:"));
        let again = NewUser {
            email: "OP@example.org".into(),
            password: PASSWORD.into(),
            staff: None,
            verified: true,
        };
        assert!(matches!(create_user(&app, again).await, Err(AccountsError::Exists)));
        let mut connection = db.read().await.unwrap();
        assert_eq!(operators(&mut connection).await.unwrap(), ["op@example.org"]);
    })
    .await;
}

#[test]
fn addresses_have_one_spelling_or_none() {
    for (text, wanted) in [
        ("A.B+c@Example.Org", Some("a.b+c@example.org")),
        ("a@b", None),
        ("a@b..example", None),
        ("a@-b.example", None),
        ("@b.example", None),
        ("a b@c.example", None),
        ("a@b.example\r\nBcc: c@d.example", None),
        ("ä@b.example", None),
    ] {
        assert_eq!(email_address(text).as_deref(), wanted, "{text:?}");
    }
}

#[test]
fn passwords_are_judged() {
    use super::model::check_password;
    assert_eq!(check_password("123456789", EMAIL), Err(PasswordProblem::TooShort));
    assert_eq!(check_password("aaaaaaaaaaaa", EMAIL), Err(PasswordProblem::Guessable));
    assert_eq!(check_password("ADA@example.org", EMAIL), Err(PasswordProblem::Guessable));
    assert_eq!(check_password(&"ab".repeat(300), EMAIL), Err(PasswordProblem::TooLong));
    assert_eq!(check_password(PASSWORD, EMAIL), Ok(()));
}

#[tokio::test]
async fn twice_at_once_is_twice_in_a_row() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        let signed_up = futures::future::join_all((0..4).map(|_| sign_up(&app, EMAIL, PASSWORD))).await;
        assert!(signed_up.iter().all(Result::is_ok), "{signed_up:?}");
        let mut connection = db.read().await.unwrap();
        let users: i64 =
            sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(users, 1);
        drop(connection);

        let ada = made(&app, "ada2@example.org", None).await;
        let text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl t";
        let added = futures::future::join_all((0..4_u8).map(|n| {
            let (at, who) = (app.clock.now(), ada.clone());
            db.write(move |tx| Box::pin(async move { add_ssh_key(tx, at, [n; 10], &who, "", text).await }))
        }))
        .await;
        let ids: Vec<_> = added.into_iter().map(|key| key.unwrap().id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one key: {ids:?}");

        // What is counted before it is added is counted one after the other.
        let made = (0..60).map(|_| create_token(&app, &ada, "laptop", vec![Scope::Read]));
        let made = futures::future::join_all(made).await;
        assert_eq!(made.iter().filter(|token| token.is_ok()).count(), 50);
        let asked = (0..12).map(|_| forgot_password(&app, &ada.email));
        assert!(futures::future::join_all(asked).await.iter().all(Result::is_ok));
        let sent = letters(&db).await;
        assert_eq!(sent.iter().filter(|(name, _)| name == "reset-password").count(), 5);
    })
    .await;
}
