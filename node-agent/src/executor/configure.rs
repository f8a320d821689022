//! Step `configure`: size, name, network card. The difference is computed from what is there, guarded
//! by its digest, checked against the policy's allow-list right before it is sent.

use std::collections::BTreeSet;

use ez_protocol::order::InstanceSpec;
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::{Class, Trouble},
    saga::{Act, Look, Step},
};
use crate::{
    journal::StepRow,
    policy,
    pve::{ConfigChange, settings},
};

/// Which options this step sees to.
pub(super) enum Configure {
    /// Everything a server in service needs.
    Serve,
    /// The same right after its clone, without what the template must not pass on. Until everything is there and it may
    /// be started, its host must not start it either when it boots.
    ServeUnstarted,
    /// Everything a server needs that has just been started for the first time: from now on with its host.
    StartOnBoot,
    /// The same without the rescue system that could not be brought about.
    ServeWithoutRescue,
    /// The signs of a retired server.
    Retire,
}

impl Configure {
    async fn change(&self, cx: &Cx) -> Result<Option<ConfigChange>, Trouble> {
        let config = cx.present().await?;
        let media = cx.engine().rules.policy.iso_storage.as_deref();
        let served = |spec: &InstanceSpec| {
            let mut wanted = settings::served(spec, &config, media);
            if matches!(self, Self::ServeUnstarted) {
                wanted.extend(settings::unstarted());
            }
            let leftovers = settings::leftovers(&config, spec, matches!(self, Self::ServeUnstarted));
            settings::change(&config, &wanted, leftovers)
        };
        Ok(match self {
            Self::Serve | Self::ServeUnstarted | Self::StartOnBoot => served(cx.spec()?),
            Self::ServeWithoutRescue => served(&InstanceSpec { rescue: None, ..cx.spec()?.clone() }),
            Self::Retire => settings::change(&config, &settings::retired(), BTreeSet::new()),
        })
    }
}

/// Sends a change after the policy's last look at it. Tags are for people's eyes alone: where the datacenter's rules forbid
/// one, the rest of the change is made without them.
pub(super) async fn send(cx: &Cx, mut change: ConfigChange) -> Result<(), Trouble> {
    let rules = &cx.engine().rules;
    policy::check_change(&rules.policy, cx.vmid(), &rules.snippet_storage, &change)
        .map_err(|refusal| Trouble::fail(Class::Policy, refusal.to_string()))?;
    let Err(error) = cx.pve().set_config(cx.vmid(), change.clone()).await else { return Ok(()) };
    if !(error.is_about_tags() && change.set.remove("tags").is_some()) {
        return Err(error.into());
    }
    tracing::warn!(order = %cx.id(), vmid = cx.vmid(), %error, "the server goes without its tags");
    if change.set.is_empty() && change.delete.is_empty() {
        return Ok(());
    }
    Ok(cx.pve().set_config(cx.vmid(), change).await?)
}

impl Step for Configure {
    fn name(&self) -> &'static str {
        match self {
            Self::Serve | Self::ServeUnstarted => "configure",
            Self::StartOnBoot => "start_on_boot",
            Self::ServeWithoutRescue => "configure_again",
            Self::Retire => "mark_retired",
        }
    }

    fn attempts(&self) -> u32 {
        // A server that has just been started is not taken back because its host is busy for half a minute.
        if matches!(self, Self::StartOnBoot) { u32::MAX } else { 5 }
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            // A server whose create was superseded before it began can be retired without ever having been.
            if matches!(self, Self::Retire) && cx.own_config().await?.is_none() {
                return Ok(Look::Done(json!({ "absent": true })));
            }
            Ok(match self.change(cx).await? {
                Some(_) => Look::Todo,
                None => Look::Done(json!({})),
            })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let Some(change) = self.change(cx).await? else { return Ok(Act::Done(json!({}))) };
            let keys: Vec<String> = change.set.keys().cloned().collect();
            let removed = change.delete.clone();
            send(cx, change).await?;
            Ok(Act::Done(json!({ "set": keys, "removed": removed })))
        })
    }
}
