//! `image build|list`.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use super::{ACTOR, say};
use crate::{
    app::App,
    catalog,
    dispatch::images::{self, ImageRecord, ImageState},
    fleet::nodes,
};

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Orders an image of the catalogue to be built on a node, or on every node in service that lacks it.
    /// The node downloads it, checks its digest and makes a template; the fleet page shows when it is ready.
    Build {
        /// Code of the image, such as debian-13.
        name: String,
        /// Name or id of the node.
        #[arg(long)]
        node: Option<String>,
        /// Wait until every order has ended.
        #[arg(long)]
        wait: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the images on sale, on how many nodes each is ready, and the newest orders to build some.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How often a command that waits looks.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn image(app: App, command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Build { name, node, wait, json } => {
            build(&app, &name, node.as_deref(), wait, json).await
        }
        ImageCommand::List { json } => list(&app, json).await,
    }
}

async fn build(
    app: &App,
    name: &str,
    node: Option<&str>,
    wait: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut conn = app.db.read().await?;
    let Some(image) = catalog::image(&mut conn, name).await? else {
        bail!("the catalogue has no image {name}");
    };
    let wanted = match node {
        Some(node) => vec![images::node(&mut conn, node).await?],
        None => {
            let all = nodes::list(&mut conn, None).await?;
            let lacks = |n: &nodes::NodeRow| !n.images.iter().any(|i| i.digest == image.digest);
            all.into_iter().filter(|n| n.state.takes_orders() && lacks(n)).collect()
        }
    };
    drop(conn);
    if wanted.is_empty() {
        say(format_args!("{name} is ready on every node in service"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut issued = Vec::new();
    for node in wanted {
        let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
        let (code, row) = (image.code.clone(), node.clone());
        let order = app.db.write(move |tx| {
            Box::pin(async move { images::order(tx, &keys, at, entropy.as_ref(), &code, &row, ACTOR).await })
        });
        let id = order.await?;
        if !as_json {
            say(format_args!("order {id} for node {}", node.name))?;
        }
        issued.push((id, node.name));
    }
    let mut ended = Vec::new();
    while wait && ended.len() < issued.len() {
        tokio::time::sleep(LOOK).await;
        let mut conn = app.db.read().await?;
        let all = images::list(&mut conn, None, 500).await?;
        ended = all
            .into_iter()
            .filter(|o| issued.iter().any(|(id, _)| *id == o.id) && o.state.is_final())
            .collect();
    }
    if as_json {
        let rows: Vec<_> = issued
            .iter()
            .map(|(id, node)| {
                let end = ended.iter().find(|order: &&ImageRecord| order.id == *id);
                json!({ "order_id": id, "node": node, "state": end.map(|o| o.state), "detail": end.and_then(|o| o.detail.clone()) })
            })
            .collect();
        say(json!({ "orders": rows }))?;
    }
    for order in ended.iter().filter(|_| !as_json) {
        say(format_args!("order {} is {} {}", order.id, order.state, order.detail.as_deref().unwrap_or("")))?;
    }
    let good = ended.iter().all(|order| order.state == ImageState::Ready);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn list(app: &App, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut conn = app.db.read().await?;
    let all = nodes::list(&mut conn, None).await?;
    let serving: Vec<_> = all.iter().filter(|n| n.state.takes_orders()).collect();
    let ready = |digest: &str| serving.iter().filter(|n| n.images.iter().any(|i| i.digest == digest)).count();
    let images = catalog::images(&mut conn).await?;
    let orders = images::list(&mut conn, None, 20).await?;
    if as_json {
        let images: Vec<_> = images
            .iter()
            .map(|i| {
                json!({ "code": i.code, "version": i.version, "digest": i.digest, "url": i.url,
                        "ready": ready(&i.digest), "nodes": serving.len() })
            })
            .collect();
        let orders: Vec<_> = orders
            .iter()
            .map(|o| {
                json!({ "id": o.id, "node": o.node, "image": o.image, "digest": o.digest, "state": o.state,
                        "step": o.step, "detail": o.detail, "issued_at": o.issued_at })
            })
            .collect();
        say(json!({ "images": images, "orders": orders }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for image in &images {
        say(format_args!(
            "{:<20} {:<12} ready on {} of {} nodes",
            image.code,
            image.version,
            ready(&image.digest),
            serving.len()
        ))?;
    }
    for order in orders.iter().filter(|order| !order.state.is_final() || order.state != ImageState::Ready) {
        let more = order.detail.as_deref().or(order.step.as_deref()).unwrap_or("");
        say(format_args!(
            "order {} for {} on {}: {} {more}",
            order.id, order.image, order.node, order.state
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
