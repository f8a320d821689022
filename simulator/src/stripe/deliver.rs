//! Webhooks: signed as Stripe signs them, tried again for three days, never forgotten by a crash.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use data_encoding::HEXLOWER;
use futures::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    engine::{Engine, StoreError},
    inject::{Injector, Manner, Spoil, Verdict},
    journal::Journal,
    world::{Asker, World, int, public, text},
};

/// Seconds of this Stripe's clock from one attempt to the next; the last is repeated until three days are over.
const BACKOFF: [i64; 8] = [1, 2, 5, 10, 30, 120, 600, 3_600];
const GIVE_UP_AFTER: i64 = 3 * 86_400;
const AT_ONCE: usize = 16;
/// How old a stale signature is, in seconds; five minutes are tolerated.
const STALE: i64 = 3_600;
/// How often the worker looks although nobody woke it.
const BEAT: Duration = Duration::from_millis(250);

/// A webhook ready to be posted.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) delivery: String,
    pub(crate) url: String,
    pub(crate) body: String,
    pub(crate) secrets: Vec<String>,
}

/// The value of `Stripe-Signature` at `t`, with one `v1` for each secret.
pub(crate) fn signature(t: i64, body: &str, secrets: &[String]) -> String {
    let mut header = format!("t={t}");
    for secret in secrets {
        header.push_str(",v1=");
        header.push_str(&mac(t, body, secret));
    }
    header
}

fn mac(t: i64, body: &str, secret: &str) -> String {
    // HMAC takes keys of any length; the error cannot come.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{t}.{body}").as_bytes());
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// The endpoint's secrets: those whose end has not come.
fn secrets(endpoint: &Value, now: i64) -> Vec<String> {
    let hidden = &endpoint["_sim"];
    let old = hidden["rolled"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rolled| int(rolled, "until") > now)
        .map(|rolled| text(rolled, "secret"));
    let current = hidden["secrets"].as_array().into_iter().flatten().filter_map(Value::as_str);
    current.chain(old).map(str::to_owned).collect()
}

/// The text that is posted for an event.
pub(crate) fn body(event: &Value) -> String {
    serde_json::to_string_pretty(&public(event)).unwrap_or_default()
}

/// Builds the post of an event to an endpoint.
pub(crate) fn post(world: &World, event: &str, endpoint: &str) -> Option<Post> {
    let known = world.get("webhook_endpoint", endpoint)?;
    let event = world.get("event", event)?;
    Some(Post {
        delivery: format!("_dlv:{}:{endpoint}", text(event, "id")),
        url: text(known, "url").to_owned(),
        body: body(event),
        secrets: secrets(known, world.now),
    })
}

/// Signs and posts in the given manner; the answer's status, if there was one.
pub(crate) async fn send(
    client: &reqwest::Client,
    engine: &Engine,
    journal: &Journal,
    post: &Post,
    manner: &Manner,
) -> Option<u16> {
    let now = engine.wall_secs();
    let (t, secrets) = match manner.spoil {
        None => (now, post.secrets.clone()),
        Some(Spoil::Bad) => (now, vec!["whsec_wrong".to_owned()]),
        Some(Spoil::Stale) => (now - STALE, post.secrets.clone()),
    };
    let header = signature(t, &post.body, &secrets);
    let mut line =
        json!({ "body": post.body, "header": header, "secret": secrets, "at_ms": engine.wall_ms() });
    // What is stale on purpose is no finding of whoever checks the log.
    if manner.spoil != Some(Spoil::Stale) {
        line["now"] = now.into();
    }
    let request = client
        .post(&post.url)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks; simulated)")
        .header("stripe-signature", header)
        .body(post.body.clone());
    let status = match request.send().await {
        Ok(response) => Some(response.status().as_u16()),
        Err(error) => {
            tracing::debug!(error = %error.without_url(), "a webhook was not answered");
            None
        }
    };
    journal.delivery(&line, status, &manner.words);
    status
}

/// A client that keeps connections, gives up after twenty seconds and follows no redirects.
///
/// # Errors
/// The TLS library has no provider.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Delivers until told to stop.
pub(crate) async fn worker(
    engine: Engine,
    journal: Arc<Journal>,
    client: reqwest::Client,
    injector: Arc<Injector>,
    stop: CancellationToken,
) {
    loop {
        let rows = match due(&engine, &injector).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, "deliveries could not be read");
                Vec::new()
            }
        };
        let idle = rows.is_empty();
        let attempts = stream::iter(rows).for_each_concurrent(AT_ONCE, |row| {
            let (engine, journal, client, injector) = (&engine, &journal, &client, &injector);
            async move {
                for (post, manner) in row {
                    let times = 1 + usize::try_from(manner.copies).unwrap_or_default();
                    let copies = (0..times).map(|_| send(client, engine, journal, &post, &manner));
                    let statuses = futures::future::join_all(copies).await;
                    let status = statuses.iter().copied().flatten().min();
                    injector.forget(&post.delivery);
                    if let Err(error) = settle(engine, post.delivery, status).await {
                        tracing::error!(%error, "a delivery's result could not be stored; it will be repeated");
                    }
                }
            }
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = attempts => {}
        }
        if idle {
            tokio::select! {
                () = stop.cancelled() => return,
                () = engine.wake.notified() => {}
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }
}

/// One attempt of a delivery.
type Attempt = (Post, Manner);

/// What is to be sent now: rows that go side by side, each row one after the other.
async fn due(engine: &Engine, injector: &Arc<Injector>) -> Result<Vec<Vec<Attempt>>, StoreError> {
    let injector = injector.clone();
    let work = move |world: &mut World| {
        if is_paused(world) {
            return Vec::new();
        }
        let pending: Vec<(String, String, String)> = world
            .all("_delivery")
            .into_iter()
            .rev()
            .filter(|delivery| text(delivery, "state") == "pending" && int(delivery, "next_at") <= world.now)
            .map(|delivery| {
                (
                    text(delivery, "id").to_owned(),
                    text(delivery, "event").to_owned(),
                    text(delivery, "endpoint").to_owned(),
                )
            })
            .collect();
        let now = Instant::now();
        for (id, event, _) in &pending {
            let fresh = world.get("_delivery", id).is_some_and(|delivery| int(delivery, "attempts") == 0);
            if let Some(event) = world.get("event", event).filter(|_| fresh) {
                injector.decide(id, text(event, "type"), now);
            }
        }
        let mut rows: Vec<Vec<Attempt>> = Vec::new();
        let mut batches: BTreeMap<(u64, u32), Vec<Attempt>> = BTreeMap::new();
        for (id, event, endpoint) in pending {
            let Some(post) = post(world, &event, &endpoint) else {
                world.delete(&id);
                continue;
            };
            match injector.verdict(&id, now) {
                Verdict::Hold => {}
                Verdict::Lose => {
                    injector.forget(&id);
                    world.change("_delivery", &id, None, |delivery| delivery["state"] = "lost".into());
                }
                Verdict::Send(manner) => match manner.batch {
                    Some(batch) => batches.entry(batch).or_default().push((post, manner)),
                    None => rows.push(vec![(post, manner)]),
                },
            }
        }
        for mut batch in batches.into_values() {
            batch.sort_by_key(|(_, manner)| manner.place);
            rows.push(batch);
        }
        rows
    };
    engine.run(Asker::default(), work).await
}

/// Whether the control API has paused deliveries.
pub(crate) fn is_paused(world: &World) -> bool {
    world.get("_meta", "meta_webhooks").is_some_and(|state| super::world::flag(state, "paused"))
}

/// Records the result of an attempt: done, or when to try again.
async fn settle(engine: &Engine, delivery: String, status: Option<u16>) -> Result<(), StoreError> {
    let work = move |world: &mut World| {
        let Some(known) = world.get("_delivery", &delivery).cloned() else { return };
        let event = text(&known, "event").to_owned();
        if status.is_some_and(|status| (200..300).contains(&status)) {
            world.delete(&delivery);
            world.change("event", &event, None, |event| {
                let left = (int(event, "pending_webhooks") - 1).max(0);
                event["pending_webhooks"] = left.into();
            });
            return;
        }
        let now = world.now;
        let created = world.get("event", &event).map_or(now, |event| int(event, "created"));
        world.change("_delivery", &delivery, None, |delivery| {
            let attempts = int(delivery, "attempts");
            let wait =
                usize::try_from(attempts).ok().and_then(|index| BACKOFF.get(index)).copied().unwrap_or(3_600);
            delivery["attempts"] = (attempts + 1).into();
            delivery["last_status"] = status.map_or(Value::Null, Value::from);
            delivery["next_at"] = (now + wait).into();
            if now - created > GIVE_UP_AFTER {
                delivery["state"] = "failed".into();
            }
        });
    };
    engine.run(Asker::default(), work).await
}

/// Posts one event several times, at once or one after the other, beside the queue; the statuses.
pub(crate) async fn redeliver(
    client: &reqwest::Client,
    engine: &Engine,
    journal: &Journal,
    event: &str,
    times: usize,
    parallel: bool,
) -> Result<Option<Vec<Option<u16>>>, StoreError> {
    let id = event.to_owned();
    let posts = engine
        .run(Asker::default(), move |world| {
            world.get("event", &id)?;
            let endpoints: HashSet<String> = world
                .all("webhook_endpoint")
                .into_iter()
                .map(|endpoint| text(endpoint, "id").to_owned())
                .collect();
            Some(endpoints.iter().filter_map(|endpoint| post(world, &id, endpoint)).collect::<Vec<_>>())
        })
        .await?;
    let Some(posts) = posts else { return Ok(None) };
    let all: Vec<Post> = posts.into_iter().flat_map(|post| std::iter::repeat_n(post, times)).collect();
    let at_once = if parallel { times.max(1) } else { 1 };
    let attempts = all
        .into_iter()
        .map(|post| async move { send(client, engine, journal, &post, &Manner::default()).await });
    let statuses = stream::iter(attempts).buffer_unordered(at_once).collect().await;
    Ok(Some(statuses))
}
