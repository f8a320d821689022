//! Building: look, act, look again.

use std::{collections::BTreeSet, time::Duration};

use ez_protocol::image::ImageSource;
use serde_json::Value;

use super::{
    BuildError, Report, Site, Step, build_marker, file_name, image_marker, lint,
    look::{self, Found},
    room, task,
};
use crate::{
    pve::{CloneMode, Upid, Vmid},
    setup::{AdminApi, Verb},
};

/// How often something passing is waited for, and how many acts an image takes at most.
const TRIES: u32 = 8;
const ACTS: u32 = 12;
/// First and longest pause before looking again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What a caller before us had begun.
#[derive(Clone, Debug, Default)]
pub struct Begun {
    /// The VMID it had chosen.
    pub vmid: Option<Vmid>,
    /// The task it waited for, and in which step.
    pub task: Option<(Step, Upid)>,
}

/// Makes the image ready on this node and answers the template's VMID. Whatever is there already is
/// used; what is begun is finished.
///
/// # Errors
/// See [`BuildError`]. What was made and cannot be used is removed, as far as it can be; the downloaded
/// file stays, so that another try is quick.
pub async fn build(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
    begun: Begun,
    report: &mut dyn Report,
) -> Result<Vmid, BuildError> {
    take_up(api, site, &begun).await?;
    let (mut acts, mut tries, mut pause) = (0, 0, PAUSE.0);
    loop {
        match one_act(api, site, image, report).await {
            Ok(Some(vmid)) => {
                if let Some(help) = remove_leftovers(api, site, image).await {
                    report.left(&help);
                }
                return Ok(vmid);
            }
            Ok(None) if acts < ACTS => acts += 1,
            Ok(None) => return Err(BuildError::Circles(acts, "the image does not become ready".to_owned())),
            Err(error) if error.is_passing() && tries < TRIES => {
                tries += 1;
                tracing::warn!(image = image.name, %error, tries, "looking again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            // As in a crash: what stands there is taken up by whoever comes next.
            Err(error @ BuildError::Journal(_)) => return Err(error),
            Err(error) => {
                return Err(match remove_leftovers(api, site, image).await {
                    Some(help) => BuildError::Left { error: Box::new(error), help },
                    None => error,
                });
            }
        }
    }
}

/// Waits for what was at work when the caller before us died.
async fn take_up(api: &dyn AdminApi, site: &Site, begun: &Begun) -> Result<(), BuildError> {
    if let Some((step, upid)) = &begun.task {
        task::wait(api, site, *step, upid).await?;
    }
    let Some(vmid) = begun.vmid else { return Ok(()) };
    // The call may have gone out without its answer being heard: its task is found by the VMID.
    let path = format!("/nodes/{}/tasks", site.node);
    let query = [("source", "active".to_owned()), ("vmid", vmid.to_string())];
    let active = api.call(Verb::Get, &path, &query).await.map_err(BuildError::pve("looking for tasks"))?;
    for row in active.as_array().into_iter().flatten() {
        let running = row.get("endtime").is_none();
        if let Some(upid) = row.get("upid").filter(|_| running).and_then(|u| task::handle(u).ok()) {
            task::wait(api, site, Step::Create, &upid).await?;
        }
    }
    Ok(())
}

/// Looks, does the one thing that is next, and answers the VMID once nothing is.
async fn one_act(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
    report: &mut dyn Report,
) -> Result<Option<Vmid>, BuildError> {
    match look::find(api, site, image).await? {
        Found::Ready(vmid) => {
            fit(api, site, vmid).await?;
            Ok(Some(vmid))
        }
        Found::Template(vmid) => {
            report.begin(Step::Lint, Some(vmid)).await?;
            fit(api, site, vmid).await?;
            report.begin(Step::Mark, Some(vmid)).await?;
            let path = format!("/nodes/{}/qemu/{vmid}/config", site.node);
            let description = [("description", image_marker(image))];
            api.call(Verb::Set, &path, &description)
                .await
                .map_err(BuildError::pve("marking the template"))?;
            Ok(None)
        }
        Found::Built(vmid) => {
            report.begin(Step::Convert, Some(vmid)).await?;
            let path = format!("/nodes/{}/qemu/{vmid}/template", site.node);
            let doing = BuildError::pve("converting into a template");
            let answer = api.call(Verb::Create, &path, &[]).await.map_err(doing)?;
            if !answer.is_null() {
                task::follow(api, site, Step::Convert, &answer, report).await?;
            }
            Ok(None)
        }
        Found::Busy(vmid, lock) => Err(BuildError::Task {
            step: "look",
            exit: format!("VM {vmid} is locked ({lock}) - got timeout"),
        }),
        Found::Nothing => {
            // What cannot become a VM is not downloaded: an order that comes again and again would load it each time.
            let vmid = free_vmid(api, site, *site.vmids.start()).await?;
            room::look(api, site, image).await?;
            download(api, site, image, report).await?;
            create(api, site, image, vmid, report).await?;
            Ok(None)
        }
    }
}

/// Refuses a template that servers must not be cloned from.
async fn fit(api: &dyn AdminApi, site: &Site, vmid: Vmid) -> Result<(), BuildError> {
    let config = look::config(api, site, vmid).await?.unwrap_or_default();
    let mut wrong = lint(&config, site);
    let path = format!("/nodes/{}/qemu/{vmid}/feature", site.node);
    // Thick LVM, for one, copies and cannot link: what is asked for is what will be done here.
    let (wanted, cannot) = match site.clone {
        CloneMode::Full => ("copy", "its storage cannot copy a disk"),
        CloneMode::Linked => (
            "clone",
            "its storage cannot make linked clones; with `clone = \"full\"` in the policy file servers get copies",
        ),
    };
    let query = [("feature", wanted.to_owned())];
    let feature = api.call(Verb::Get, &path, &query).await.map_err(BuildError::pve("asking for clones"))?;
    // A storage that cannot clone is skipped in silence when a template is made.
    let able = feature
        .get("hasFeature")
        .is_some_and(|f| f.as_u64() == Some(1) || f.as_str() == Some("1") || f == &Value::Bool(true));
    if !able {
        wrong.push(cannot.to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(BuildError::Unfit(format!("VM {vmid}: {}", wrong.join("; ")))) }
}

async fn download(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
    report: &mut dyn Report,
) -> Result<(), BuildError> {
    report.begin(Step::Download, None).await?;
    let path = format!("/nodes/{}/storage/{}/download-url", site.node, site.import_storage);
    let parameters = [
        ("content", "import".to_owned()),
        ("filename", file_name(image)),
        ("url", image.url.to_string()),
        ("checksum-algorithm", "sha256".to_owned()),
        ("checksum", image.digest.as_str().trim_start_matches("sha256:").to_owned()),
    ];
    let answer = api.call(Verb::Create, &path, &parameters).await;
    let answer = answer.map_err(BuildError::pve("starting the download"))?;
    task::follow(api, site, Step::Download, &answer, report).await
}

/// The first free VMID of the range, from this one on.
async fn free_vmid(api: &dyn AdminApi, site: &Site, from: Vmid) -> Result<Vmid, BuildError> {
    let (first, last) = (*site.vmids.start(), *site.vmids.end());
    for vmid in from..=last {
        match api.call(Verb::Get, "/cluster/nextid", &[("vmid", vmid.to_string())]).await {
            Ok(_) => return Ok(vmid),
            Err(error) if error.is_already_exists() => {}
            Err(reason) => return Err(BuildError::Pve { doing: "looking for a free VMID", reason }),
        }
    }
    Err(BuildError::NoVmid { first, last })
}

/// Makes the VM at this VMID, or at the next one that is free.
async fn create(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
    mut vmid: Vmid,
    report: &mut dyn Report,
) -> Result<(), BuildError> {
    loop {
        report.begin(Step::Create, Some(vmid)).await?;
        let parameters = vm(site, image, vmid);
        let path = format!("/nodes/{}/qemu", site.node);
        match api.call(Verb::Create, &path, &parameters).await {
            Ok(answer) => return task::follow(api, site, Step::Create, &answer, report).await,
            // Somebody was faster.
            Err(error) if error.is_already_exists() => {
                vmid = free_vmid(api, site, vmid.saturating_add(1)).await?;
            }
            Err(reason) => return Err(BuildError::Pve { doing: "creating the VM", reason }),
        }
    }
}

/// A VM as plain as can be: what servers need of a template, and nothing they would have to lose. Tags
/// cannot be set before a VM is in its pool.
fn vm(site: &Site, image: &ImageSource, vmid: Vmid) -> Vec<(&'static str, String)> {
    let storage = site.storages.first().cloned().unwrap_or_default();
    let source = format!("{}:import/{}", site.import_storage, file_name(image));
    let letters = image.name.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b) } else { '-' });
    let name: String = letters.collect::<String>().to_ascii_lowercase();
    let mut parameters = vec![
        ("vmid", vmid.to_string()),
        ("name", format!("ez-image-{}", name.trim_matches('-'))),
        ("pool", site.template_pool.clone()),
        ("description", build_marker(image)),
        ("ostype", "l26".to_owned()),
        // Enterprise Linux 9 does not start on anything older.
        ("cpu", "x86-64-v2-AES".to_owned()),
        ("cores", "1".to_owned()),
        ("memory", "1024".to_owned()),
        ("scsihw", "virtio-scsi-single".to_owned()),
        ("scsi0", format!("{storage}:0,import-from={source},discard=on")),
        ("ide2", format!("{storage}:cloudinit")),
        ("boot", "order=scsi0".to_owned()),
        ("agent", "enabled=1".to_owned()),
        // Cloud images speak on the serial port; the console of the portal shows the screen.
        ("serial0", "socket".to_owned()),
        ("vga", "std".to_owned()),
    ];
    if let Some(bridge) = site.bridges.first() {
        parameters.push(("net0", format!("virtio,bridge={bridge},firewall=1")));
    }
    parameters
}

/// Removes what carries the build marker of this image and did not become it. Failing to is only said:
/// the next build goes on from it. A disk that stayed where its VM is gone no build meets again: what root does about it is
/// answered.
async fn remove_leftovers(api: &dyn AdminApi, site: &Site, image: &ImageSource) -> Option<String> {
    let mut kept = BTreeSet::new();
    while remove_one(api, site, image, &mut kept).await {}
    let help: Vec<String> = kept.iter().map(|volume| format!("`pvesm free {volume}`")).collect();
    (!help.is_empty()).then(|| help.join(" and "))
}

/// Removes one of them, if there is one; true if there may be more.
async fn remove_one(
    api: &dyn AdminApi,
    site: &Site,
    image: &ImageSource,
    kept: &mut BTreeSet<String>,
) -> bool {
    let vmid = match look::find_unmarked(api, site, image).await {
        Ok(Some(vmid)) => vmid,
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(%error, "could not look for half-made templates");
            return false;
        }
    };
    let path = format!("/nodes/{}/qemu/{vmid}", site.node);
    let parameters = [("purge", "1".to_owned()), ("destroy-unreferenced-disks", "1".to_owned())];
    let called = api.call(Verb::Delete, &path, &parameters).await.and_then(|answer| task::handle(&answer));
    let upid = match called {
        Ok(upid) => upid,
        Err(error) => {
            tracing::warn!(vmid, %error, "a half-made template could not be removed");
            return false;
        }
    };
    let gone = task::wait(api, site, Step::Lint, &upid).await.is_ok_and(|exit| exit.is_success());
    match task::kept_disks(api, site, &upid).await {
        Ok(volumes) => kept.extend(volumes),
        Err(error) => {
            tracing::warn!(vmid, %error, "whether a disk of a half-made template stayed is not known")
        }
    }
    if gone {
        tracing::info!(vmid, image = image.name, "a half-made template was removed");
    }
    gone
}
