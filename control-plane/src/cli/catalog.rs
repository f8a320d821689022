//! `apply`.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use super::say;
use crate::{app::App, catalog};

/// Applies a catalogue file and says what stands now.
pub(super) async fn apply(app: App, file: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report = catalog::apply_file(&app, &text, super::ACTOR)
        .await
        .with_context(|| format!("{} was not applied", file.display()))?;
    say(format_args!(
        "{} locations, {} address pools, {} images, {} media, {} plans, {} prices, {} coupons; {} prices new at Stripe",
        report.locations,
        report.address_pools,
        report.images,
        report.isos,
        report.plans,
        report.prices,
        report.coupons,
        report.pushed
    ))?;
    Ok(ExitCode::SUCCESS)
}
