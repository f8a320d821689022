//! `image build|list`: templates on this host, by hand.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ez_protocol::{
    image::{ImageSource, ImageUrl},
    order::ImageDigest,
};
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::json;

use super::{host, message, print, print_json};
use crate::{
    config::Config,
    image::{self, Begun, BuildError, Report, Site, Step},
    journal::{Journal, lists},
    policy::{self, ImageBuilds, Policy},
    pve::{ConfigRead, Vmid},
    setup::{AdminApi, PveshAdmin, TokenAdmin, vmid_range},
};

/// Where images are described if nothing else is said.
const IMAGES_FILE: &str = "/etc/ez-node-agent/images.toml";

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Download an image, check its digest and make it a template of this node.
    ///
    /// Address and digest come from a file with the catalogue's [[images]], or from the command line. What
    /// is there already is used, so it may be run again at any time. As root through pvesh, or with an
    /// administrator's token.
    Build(Box<BuildArgs>),
    /// Show the images this node can make servers from, and orders to build some.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Options of `image build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Catalogue name, such as debian-13.
    name: String,
    /// File with [[images]].
    #[arg(long, value_name = "FILE", default_value = IMAGES_FILE)]
    from: PathBuf,
    /// Address of the image instead.
    #[arg(long, requires = "sha256")]
    url: Option<String>,
    /// Its SHA-256.
    #[arg(long, value_name = "HEX", requires = "url")]
    sha256: Option<String>,
    /// Its version, for people.
    #[arg(long = "image-version", default_value = "unknown")]
    version: String,
    /// Ask Proxmox over HTTPS with this administrator's token instead of through pvesh.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Storage that takes the download; needs content `import` [default: images.import_storage of the
    /// policy file, else local].
    #[arg(long, value_name = "NAME")]
    import_storage: Option<String>,
    /// VMIDs for templates [default: those of the policy file, else 9000-9099].
    #[arg(long, value_name = "FIRST-LAST")]
    vmids: Option<String>,
    /// Print what became of it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn image(config: &Config, command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Build(args) => build(config, &args).await,
        ImageCommand::List { json } => list(config, json).await,
    }
}

fn source(args: &BuildArgs) -> anyhow::Result<ImageSource> {
    let (Some(url), Some(hex)) = (&args.url, &args.sha256) else {
        return Ok(image::from_file(&args.from, &args.name)?);
    };
    let digest = format!("sha256:{}", hex.trim_start_matches("sha256:").to_ascii_lowercase());
    let source = ImageSource {
        name: args.name.clone(),
        version: args.version.clone(),
        url: ImageUrl::parse(url).context("--url")?,
        digest: ImageDigest::parse(&digest).context("--sha256")?,
    };
    source.check()?;
    Ok(source)
}

/// What was given goes before what the policy says, and that before what is usual.
fn site(config: &Config, policy: &Policy, args: &BuildArgs) -> anyhow::Result<Site> {
    let usual = ImageBuilds { sources: Vec::new(), vmids: 9_000..=9_099, import_storage: "local".to_owned() };
    let mut builds = policy.build.clone().unwrap_or(usual);
    if let Some(storage) = &args.import_storage {
        builds.import_storage.clone_from(storage);
    }
    if let Some(text) = &args.vmids {
        let range = vmid_range(text);
        builds.vmids = range.with_context(|| format!("--vmids {text}: 9000-9099 is the form"))?;
    }
    if policy.vmids.contains(builds.vmids.start()) || policy.vmids.contains(builds.vmids.end()) {
        bail!("the VMIDs for templates lie in those for servers; give others with --vmids");
    }
    Ok(Site::new(&config.pve_node, policy, &builds))
}

fn admin(config: &Config, token_file: Option<&Path>) -> anyhow::Result<Box<dyn AdminApi>> {
    match token_file {
        None => Ok(Box::new(PveshAdmin)),
        Some(file) => Ok(Box::new(TokenAdmin::new(&host::address(config, file)?)?)),
    }
}

/// Says each step.
struct Spoken;

impl Report for Spoken {
    fn begin(&mut self, step: Step, vmid: Option<Vmid>) -> BoxFuture<'_, Result<(), BuildError>> {
        let vmid = vmid.map(|vmid| format!(" (VM {vmid})")).unwrap_or_default();
        message(&format!("{}{vmid} …", step.as_str()));
        async { Ok(()) }.boxed()
    }

    fn called(&mut self, upid: &str) -> BoxFuture<'_, Result<(), BuildError>> {
        tracing::debug!(upid, "task");
        async { Ok(()) }.boxed()
    }

    fn left(&mut self, help: &str) {
        message(&format!("{}, {help}", image::LEFT));
    }
}

async fn build(config: &Config, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let policy = policy::load(&config.policy_file)?;
    let source = source(args)?;
    let site = site(config, &policy, args)?;
    let api = admin(config, args.admin_token_file.as_deref())?;
    message(&format!("{} {} on node {}, asked {}", source.name, source.digest, site.node, api.how()));
    let vmid = image::build(api.as_ref(), &site, &source, Begun::default(), &mut Spoken).await?;
    if args.json {
        print_json(&json!({ "image": source.name, "digest": source.digest, "vmid": vmid, "ready": true }));
    } else {
        print(&format!("{} is ready as template {vmid}", source.name));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let policy = policy::load(&config.policy_file)?;
    let pve = host::connect(config)?;
    let templates = pve.templates().await.context("listing the templates")?;
    let usual = ImageBuilds { sources: Vec::new(), vmids: 9_000..=9_099, import_storage: "local".to_owned() };
    let site = Site::new(&config.pve_node, &policy, policy.build.as_ref().unwrap_or(&usual));
    let mut rows = Vec::new();
    for template in &templates {
        let wrong = match pve.guest_config(template.vmid).await {
            Ok(ConfigRead::Present(config)) => image::lint(&config, &site),
            _ => vec!["its configuration cannot be read".to_owned()],
        };
        rows.push((template, wrong));
    }
    let journal = config.journal_file();
    let builds = match journal.exists() {
        true => lists::image_builds(&Journal::open_read_only(&journal).await?, 20).await?,
        false => Vec::new(),
    };
    if as_json {
        let images: Vec<_> = rows
            .iter()
            .map(|(t, wrong)| {
                json!({ "image": t.image, "digest": t.digest, "vmid": t.vmid, "storage": t.storage, "unfit": wrong })
            })
            .collect();
        let builds: Vec<_> = builds
            .iter()
            .map(|b| {
                json!({ "order_id": b.order_id, "image": b.name, "digest": b.digest, "state": b.state,
                        "step": b.step, "detail": b.detail, "accepted_at": b.accepted_at })
            })
            .collect();
        print_json(&json!({ "images": images, "orders": builds }));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        message("no template carries the image marker: `ez-node-agent image build <name>` makes one");
    }
    for (template, wrong) in &rows {
        let fit = if wrong.is_empty() { String::new() } else { format!("  unfit: {}", wrong.join("; ")) };
        print(&format!(
            "{:<20} {}  VM {:<9} {}{fit}",
            template.image, template.digest, template.vmid, template.storage
        ));
    }
    for build in builds.iter().filter(|build| build.state != "ready") {
        let detail = build.detail.as_deref().or(build.step.as_deref()).unwrap_or_default();
        print(&format!(
            "{:<20} {}  order {} is {}: {detail}",
            build.name, build.digest, build.order_id, build.state
        ));
    }
    Ok(ExitCode::SUCCESS)
}
