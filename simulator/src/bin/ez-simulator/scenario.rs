//! `ez-simulator scenario`: makes the outside world of a running demo go wrong.

use std::{io::Write as _, path::Path};

use ez_simulator::scenario::{self, At, Scenario, Targets};

/// Applies a scenario; faults that wait for a payment are applied when there is one.
pub(crate) async fn apply(file: &Path, state_dir: &Path) -> anyhow::Result<()> {
    let scenario = Scenario::read(file)?;
    let targets = Targets::read(state_dir)?;
    say(&format!("{}: {}", scenario.name, scenario.proves))?;
    let posted = scenario::apply(&scenario, &targets).await?;
    say(&format!("Applied {posted} from the start."))?;
    if scenario.waits_for_payment() {
        say("Waiting for the next payment; Ctrl-C ends the wait.")?;
        scenario::next_payment(&targets).await?;
        let posted = scenario::apply_at(&scenario, &targets, At::OrderPaid).await?;
        say(&format!("Somebody has paid: applied {posted}."))?;
    }
    let dir = state_dir.display();
    say(&format!("`ez-simulator scenario --clear --state-dir {dir}` makes everything well again."))
}

/// Takes every fault back and tells how often they struck.
pub(crate) async fn clear(state_dir: &Path) -> anyhow::Result<()> {
    let targets = Targets::read(state_dir)?;
    let hits = scenario::hits(&targets).await?;
    scenario::clear(&targets).await?;
    say(&format!("Everything is well again. The faults have struck {hits} times."))
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
