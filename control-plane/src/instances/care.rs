//! What the pages for looking after a server show. No HTTP here.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::{
    Instance, backups, firewall,
    firewall::Written,
    show::{self, Names},
    snapshots, wishes,
};
use crate::{
    catalog,
    db::DbError,
    dispatch, fleet, orders,
    web::{
        forms::FormState,
        views::instances::{
            Backup, Backups, Firewall, Medium, Operated, Password, Rebuild, Rescue, Rule, Snapshot, Snapshots,
        },
    },
};

/// What the firewall's form offers to add: (code, protocol, port).
pub(super) const PRESETS: [(&str, &str, &str); 4] =
    [("ssh", "tcp", "22"), ("http", "tcp", "80"), ("https", "tcp", "443"), ("ping", "icmp", "")];

async fn newest_snapshots(
    connection: &mut AnyConnection,
    instance: &Instance,
) -> Result<Vec<Snapshot>, DbError> {
    let all = snapshots(connection, instance.id).await?.into_iter().rev();
    Ok(all.map(|snapshot| Snapshot { name: snapshot.name, taken_at: snapshot.taken_at }).collect())
}

async fn newest_backups(connection: &mut AnyConnection, instance: &Instance) -> Result<Vec<Backup>, DbError> {
    let all = backups(connection, instance.id).await?.into_iter();
    let shown = all.map(|backup| Backup {
        id: backup.order.to_string(),
        made_at: backup.made_at,
        bytes: backup.bytes,
    });
    Ok(shown.collect())
}

/// The page of its snapshots.
pub(super) async fn of_snapshots(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    form: FormState,
) -> Result<Snapshots, DbError> {
    Ok(Snapshots {
        server: show::head(connection, instance, now).await?,
        snapshots: newest_snapshots(connection, instance).await?,
        most: instance.max_snapshots,
        form,
    })
}

/// The page of its backups.
pub(super) async fn of_backups(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
) -> Result<Backups, DbError> {
    Ok(Backups {
        server: show::head(connection, instance, now).await?,
        backups: newest_backups(connection, instance).await?,
        most: instance.max_backups,
    })
}

/// The page of its firewall: the rules that hold, or those that were typed.
pub(super) async fn of_firewall(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    typed: Option<Written>,
    form: FormState,
) -> Result<Firewall, DbError> {
    let held = firewall::write(wishes(connection, instance).await?.applied.firewall.as_ref());
    let unsaved = typed.as_ref().is_some_and(|typed| *typed != held);
    let Written { inbound, rules } = typed.unwrap_or(held);
    let rules = rules.into_iter().map(|rule| Rule {
        direction: rule.direction,
        verdict: rule.verdict,
        protocol: rule.protocol,
        ports: rule.ports,
        peers: rule.peers.join(", "),
    });
    Ok(Firewall {
        server: show::head(connection, instance, now).await?,
        inbound,
        rules: rules.collect(),
        unsaved,
        presets: PRESETS.iter().map(|(code, ..)| *code).collect(),
        form,
    })
}

/// Those of some images that the server's node has.
async fn ready(
    connection: &mut AnyConnection,
    instance: &Instance,
    images: Vec<catalog::Image>,
) -> Result<Vec<Medium>, DbError> {
    let node = match instance.node {
        Some(node) => fleet::node(connection, node).await?,
        None => None,
    };
    let ready = |image: &catalog::Image| {
        node.as_ref().is_some_and(|node| node.images.iter().any(|ready| ready.digest == image.digest))
    };
    let images = images.into_iter().filter(ready);
    Ok(images.map(|image| Medium { code: image.code, name: image.name }).collect())
}

/// The page of rescue systems and media.
pub(super) async fn of_rescue(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    form: FormState,
) -> Result<Rescue, DbError> {
    let applied = wishes(connection, instance).await?.applied;
    let rescue_images = catalog::rescue_images(connection).await?;
    let name = |code: &str| {
        let image = rescue_images.iter().find(|image| image.code == code);
        image.map_or_else(|| code.to_owned(), |image| image.name.clone())
    };
    let rescue = applied.rescue.as_ref().map(|image| name(&image.code));
    let isos = catalog::isos(connection).await?;
    let iso = applied.iso.as_ref().map(|iso| {
        let offered = isos.iter().find(|offered| offered.file == iso.as_str());
        offered.map_or_else(|| iso.as_str().to_owned(), |offered| offered.name.clone())
    });
    let place = fleet::placement_of(connection, instance.id).await?;
    let ssh = place
        .zip(applied.rescue.as_ref())
        .map(|(place, image)| format!("ssh {}@{}", image.login_user, place.ipv4.address));
    Ok(Rescue {
        server: show::head(connection, instance, now).await?,
        rescue,
        images: ready(connection, instance, rescue_images).await?,
        ssh,
        iso,
        isos: isos.into_iter().map(|iso| Medium { code: iso.file, name: iso.name }).collect(),
        form,
    })
}

/// The page for another disk.
pub(super) async fn of_rebuild(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    form: FormState,
) -> Result<Rebuild, DbError> {
    let chosen = form.values.get("image").and_then(|typed| typed.first().cloned());
    let images = catalog::images(connection).await?;
    let taken = snapshots(connection, instance.id).await?.len();
    Ok(Rebuild {
        server: show::head(connection, instance, now).await?,
        images: ready(connection, instance, images).await?,
        current: chosen.unwrap_or_else(|| instance.image_code.clone()),
        disk_lost: wishes(connection, instance).await?.disk_lost,
        snapshots: u32::try_from(taken).unwrap_or(u32::MAX),
        form,
    })
}

/// The page for another password; with one, the only page that ever shows it.
pub(super) async fn of_password(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    password: Option<String>,
) -> Result<Password, DbError> {
    Ok(Password { server: show::head(connection, instance, now).await?, password })
}

/// The operator's page.
pub(super) async fn operated(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
    form: FormState,
) -> Result<Operated, DbError> {
    let head = show::head(connection, instance, now).await?;
    let wishes = wishes(connection, instance).await?;
    let place = fleet::placement_of(connection, instance.id).await?;
    let owner = orders::get(connection, instance.order).await?.map_or_else(String::new, |order| order.email);
    let newest = dispatch::latest_for(connection, instance.id).await?;
    let names = Names::read(connection).await?;
    let addresses = place.iter().flat_map(|place| {
        std::iter::once(place.ipv4.address).chain(place.ipv6.map(|address| address.address))
    });
    let rules = wishes.applied.firewall.as_ref().map_or(0, |rules| rules.rules.len());
    let tags: Vec<&str> = wishes.applied.tags.iter().map(ez_protocol::order::Tag::as_str).collect();
    Ok(Operated {
        server: crate::web::views::instances::Head {
            href: format!("/operator/servers/{}", instance.id),
            ..head
        },
        owner,
        addresses: addresses.map(|address| address.to_string()).collect(),
        vmid: place.as_ref().map(|place| place.vmid),
        node: place.map(|place| place.node_name),
        image: names.image(&instance.image_code),
        rescue: wishes.applied.rescue.as_ref().map(|image| image.code.clone()),
        iso: wishes.applied.iso.as_ref().map(|iso| iso.as_str().to_owned()),
        rules: u32::try_from(rules).unwrap_or(u32::MAX),
        snapshots: newest_snapshots(connection, instance).await?,
        backups: newest_backups(connection, instance).await?,
        suspended: wishes.suspension().is_some(),
        order_href: newest.map(|order| format!("/operator/orders/{}", order.id)),
        tags: tags.join(" "),
        rate: wishes.applied.rate_mbit.map_or_else(String::new, |rate| rate.get().to_string()),
        filtered: !wishes.applied.unfiltered,
        form,
    })
}
