//! What goes wrong at random: every scenario on any host, and programs that are killed or stand still.

use std::{path::Path, sync::Arc, time::Duration};

use ez_simulator::scenario::{self, At, Scenario, Target, Targets};
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::diary::Diary;
use crate::{dice::Dice, support::Demo};

/// One thing that can go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A scenario of the outside world, for a while.
    Weather,
    /// A program is killed, and started again as systemd would.
    Kill(&'static str),
    /// A program stands still for a while.
    Freeze(&'static str),
}

/// Stands for any of the agents.
const ANY_AGENT: &str = "/pids/agents/";
const CONTROL_PLANE: &str = "/pids/control_plane";
const SIMULATOR: &str = "/pids/simulator";

/// As often as they stand here.
const ALL: [Fault; 12] = [
    Fault::Weather,
    Fault::Weather,
    Fault::Weather,
    Fault::Weather,
    Fault::Weather,
    Fault::Kill(ANY_AGENT),
    Fault::Kill(ANY_AGENT),
    Fault::Kill(CONTROL_PLANE),
    Fault::Kill(SIMULATOR),
    Fault::Freeze(ANY_AGENT),
    Fault::Freeze(ANY_AGENT),
    Fault::Freeze(CONTROL_PLANE),
];

/// Lets things go wrong until the time is over; how many did. Everything is well again at the end.
pub async fn rage(demo: Arc<Demo>, mut dice: Dice, nodes: u16, until: Instant, diary: Diary) -> u32 {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let scenarios = Scenario::read_all(&directory).unwrap();
    let mut struck = 0;
    let mut frozen = tokio::task::JoinSet::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(2_500))).await;
        let fault = *dice.pick(&ALL);
        let node = usize::try_from(dice.below(u64::from(nodes))).unwrap();
        let lasts = Duration::from_millis(500 + dice.below(6_000));
        let pointer = |victim: &str| match victim {
            ANY_AGENT => format!("{ANY_AGENT}{node}"),
            other => other.to_owned(),
        };
        match fault {
            Fault::Weather => {
                let name = weather(&demo, dice.pick(&scenarios), node, lasts).await;
                diary.note(&format!("{name} on host {node} for {lasts:?}"));
            }
            Fault::Kill(victim) => {
                let pointer = pointer(victim);
                diary.note(&format!("kill {pointer}"));
                demo.kill(&pointer).await;
            }
            Fault::Freeze(victim) => {
                let pointer = pointer(victim);
                let pid = Pid::from_raw(i32::try_from(demo.pid(&pointer)).unwrap()).unwrap();
                diary.note(&format!("freeze {pointer} for {lasts:?}"));
                // It may have been killed a moment ago.
                let _ = rustix::process::kill_process(pid, Signal::STOP);
                frozen.spawn(async move {
                    tokio::time::sleep(lasts).await;
                    let _ = rustix::process::kill_process(pid, Signal::CONT);
                });
            }
        }
        struck += 1;
    }
    while frozen.join_next().await.is_some() {}
    clear(&demo).await;
    struck
}

fn targets(demo: &Demo) -> Targets {
    let ready = std::fs::read_to_string(demo.path("sim/ready.json")).unwrap_or_default();
    Targets::of(&demo.state(), &serde_json::from_str(&ready).unwrap_or_default())
}

/// Applies a scenario to one host, Stripe or the mail server for a while; its name. The simulator may have just
/// been killed: then there is no weather.
async fn weather(demo: &Demo, scenario: &Scenario, node: usize, lasts: Duration) -> String {
    let targets = targets(demo);
    let mut here = scenario.clone();
    for fault in &mut here.faults {
        fault.target = match fault.target {
            Target::Pve(None) => Target::Pve(Some(node)),
            Target::Link(None) => Target::Link(Some(node)),
            other => other,
        };
    }
    let started = scenario::apply(&here, &targets).await.is_ok();
    let started = started && scenario::apply_at(&here, &targets, At::OrderPaid).await.is_ok();
    tokio::time::sleep(lasts).await;
    clear(demo).await;
    if started { here.name } else { format!("{} (away)", here.name) }
}

/// Makes everything well again, also when the simulator is just being started.
async fn clear(demo: &Demo) {
    crate::support::until("the faults to be taken back", Duration::from_secs(60), || async {
        scenario::clear(&targets(demo)).await.ok()
    })
    .await;
}
