//! Having a server built: the signed order, and what came of it.

use ez_protocol::{
    ActionId, ProvisioningOrderId, UnixMillis,
    input::{Hostname, SshPublicKey},
    order::{ImageRef, InstanceSpec, NetworkSpec, Op, Service},
};
use sqlx::AnyConnection;

use super::{
    change,
    change::InstanceError,
    model::{ActionRow, Instance, InstanceEvent, InstanceState},
    resize::Size,
    settings::{self, RateMbit, Settings},
    store,
};
use crate::{
    db::DbError,
    dispatch::{self, FactsView, Intent, IssueError, Keys},
    entropy::{Entropy, EntropyExt as _},
    fleet::Placement,
};

/// What is stored of a server is not a valid specification: a defect of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's {0} is not valid")]
pub struct SpecError(pub(super) &'static str);

/// Why building was not ordered.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What was stored when it was sold is not a valid specification: a defect of ours.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The order was not issued.
    #[error("issuing the provisioning order")]
    Issue(#[from] IssueError),
    /// Its state does not allow it.
    #[error("noting that the server is being built")]
    Instance(#[from] InstanceError),
    /// The database.
    #[error("writing the action")]
    Db(#[from] DbError),
}

/// The full wished state of a server at a place.
pub(super) fn spec(
    instance: &Instance,
    settings: &Settings,
    place: &Placement,
) -> Result<InstanceSpec, SpecError> {
    let keys = instance.ssh_keys.iter().map(|key| SshPublicKey::parse(key));
    let rescue = match &settings.rescue {
        Some(image) => Some(image.named().ok_or(SpecError("rescue image"))?),
        None => None,
    };
    // What was chosen for the first boot fits the image it was chosen with; a server rebuilt from another one begins
    // plain. Older agents refuse what they do not know, so the family is said only where it matters.
    let chosen = &instance.first_boot;
    let recipes =
        if settings.image.code == instance.image_code { chosen.recipes.clone() } else { Vec::new() };
    let size = settings.size.clone().unwrap_or_else(|| Size::of(instance));
    let image = settings.image.named().ok_or(SpecError("image digest"))?;
    let hostname = match &settings.hostname {
        Some(name) => name.clone(),
        None => Hostname::parse(&instance.hostname).map_err(|_| SpecError("host name"))?,
    };
    Ok(InstanceSpec {
        hostname,
        service: if settings.suspended { Service::Suspended } else { Service::Active },
        vcpus: size.vcpu,
        memory_mib: size.memory_mib,
        disk_gib: size.disk_gib,
        image: ImageRef { family: chosen.family.filter(|_| !recipes.is_empty()), ..image },
        network: NetworkSpec {
            // Rules that nothing looks at are not ordered; they are kept for when the filter is on again.
            rules: settings.firewall.clone().filter(|_| !settings.unfiltered),
            firewall: !settings.unfiltered,
            ..place.network(settings.rate_mbit.map(RateMbit::get))
        },
        ssh_keys: keys.collect::<Result<_, _>>().map_err(|_| SpecError("SSH key"))?,
        password_hash: None,
        user_data: chosen.user_data.clone(),
        build: settings.build,
        rescue,
        iso: settings.iso.clone(),
        tags: settings.tags.clone(),
        recipes,
        locale: chosen.locale.clone(),
        timezone: chosen.timezone.clone(),
    })
}

/// Orders a server to be built at its fixed place. The cause carries the number of the attempt, so one attempt
/// issues once, whatever is repeated.
///
/// # Errors
/// [`BuildError`]; nothing was issued.
pub async fn issue_build(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    place: Placement,
    actor: &str,
) -> Result<Instance, BuildError> {
    let attempt = instance.attempts + 1;
    let settings = settings::wishes(tx, &instance).await?.applied;
    let intent = Intent {
        instance: instance.id,
        op: Op::Ensure(Box::new(spec(&instance, &settings, &place)?)),
        placement: place,
        cause_key: format!("order:{}:{attempt}", instance.order),
        order: Some(instance.order),
        actor: actor.to_owned(),
        ttl: None,
    };
    let id = dispatch::issue(tx, keys, at, entropy, intent).await?;
    note_action(tx, at, entropy, &instance, "create", id, actor).await?;
    let instance = Instance { attempts: attempt, provisioning_order: Some(id), ..instance };
    Ok(change::take(tx, at, instance, InstanceEvent::Issued, actor).await?)
}

/// Writes down the action behind a provisioning order.
pub(super) async fn note_action(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: &Instance,
    kind: &str,
    order: ProvisioningOrderId,
    actor: &str,
) -> Result<ActionRow, DbError> {
    let id = ActionId::generate(at, entropy.bytes());
    let action = ActionRow::begun(id, at, instance.id, kind, order, actor);
    store::insert_action(tx, &action).await?;
    Ok(action)
}

/// Takes over that a server was built.
///
/// # Errors
/// [`InstanceError`].
pub(crate) async fn built(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    facts: Option<&FactsView>,
    actor: &str,
) -> Result<Instance, InstanceError> {
    if instance.state.is_live() {
        return Ok(instance);
    }
    let confirmed = facts.is_some_and(|facts| facts.confirmed);
    let instance = Instance {
        built_at: instance.built_at.or(Some(at)),
        usable_at: instance.usable_at.or(confirmed.then_some(at)),
        host_keys: facts.map(|facts| facts.host_keys.clone()).unwrap_or_default(),
        reason: None,
        ..instance
    };
    let instance = change::take(tx, at, instance, InstanceEvent::Built, actor).await?;
    if let (Some(facts), Some(node)) = (facts, instance.node)
        && !facts.power.is_empty()
    {
        store::put_observed(tx, instance.id, node, &facts.power, facts.seen_at(at), at).await?;
        if facts.power == "stopped" && instance.state == InstanceState::Running {
            return change::take(tx, at, instance, InstanceEvent::SeenOff, actor).await;
        }
    }
    Ok(instance)
}
