//! Every step of every saga, disturbed in every way: refused, failed, killed, unanswered, repeated,
//! undone, undone twice.
//!
//! The steps are not listed here. Each scene is played once without a disturbance; every call that a
//! step made then is disturbed in every way a call of its kind can be. So a new step is disturbed from
//! its first day on, and a saga that no scene plays fails the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    disturbed::{Disturbance, Haste, Picture, Played, Stage, play, with_repair},
    scenes::{Scene, all, sagas_of_the_executor},
};
use crate::{
    executor::fault,
    journal::{OrderState, Verb},
    pve::fake::{Call, Kind},
    testing::VMID,
};

/// Steps that change nothing, by their nature.
const ONLY_LOOK: &[&str] =
    &["await_usable", "settle_clone", "note_power", "find_backup", "find_backups", "may_destroy"];

/// What a scene comes to without a disturbance.
struct Plain {
    state: OrderState,
    calls: Vec<Call>,
    steps: Vec<(i64, String)>,
    end: Picture,
    effects: Vec<String>,
}

async fn plain(scene: &Scene, stage: &Stage) -> Plain {
    let played = play(scene, stage, Haste::Patient, None).await;
    assert_eq!(played.ends_told(&scene.target).await, 1);
    let wanted = if scene.failing.is_some() { OrderState::Undone } else { OrderState::Succeeded };
    assert_eq!(played.row.state, wanted, "{}: {:?}", scene.name, played.row.result);
    Plain {
        state: wanted,
        calls: played.host.pve.trace().split_off(played.first),
        steps: played.steps().await,
        end: played.picture().await,
        effects: played.effects(),
    }
}

/// One thing that goes wrong, and where.
#[derive(Clone, Copy, Debug)]
struct Case {
    what: Disturbance,
    at: usize,
    call: Call,
    pace: Haste,
}

fn cases(scene: &Scene, plain: &Plain) -> Vec<Case> {
    let mut out = Vec::new();
    for (at, call) in plain.calls.iter().enumerate() {
        // What goes forward in an undo's scene is the scene "create".
        if scene.failing.is_some() && call.step.is_some_and(|(k, _)| k > 0) {
            continue;
        }
        for what in Disturbance::of(call) {
            out.push(Case { what, at, call: *call, pace: Haste::Patient });
            if what.depends_on_haste(call) {
                out.push(Case { what, at, call: *call, pace: Haste::Hasty });
            }
        }
    }
    for (k, name) in plain.steps.iter().filter(|(k, _)| scene.failing.is_none() || *k < 0) {
        // A stop that a later step takes back is no step to repeat alone.
        if name == "stop" && plain.steps.iter().any(|(later, name)| later > k && name == "start") {
            continue;
        }
        let known = plain.calls.iter().find_map(|c| c.step.filter(|(n, s)| n == k && s == name));
        let call = Call { step: known, verb: "", kind: Kind::Look };
        for what in [Disturbance::Repeated, Disturbance::RepeatedUnanswered] {
            out.push(Case { what, at: usize::MAX, call, pace: Haste::Patient });
        }
    }
    out
}

/// How often each thing was done.
fn counted(effects: &[String]) -> BTreeMap<&str, usize> {
    let mut out = BTreeMap::new();
    for effect in effects {
        *out.entry(effect.as_str()).or_default() += 1;
    }
    out
}

/// What is wrong with an end.
async fn judge(scene: &Scene, plain: &Plain, case: &Case, played: &mut Played) -> Result<(), String> {
    let state = played.row.state;
    let detail = played.row.result.clone().unwrap_or_default();
    let mut picture = played.picture().await;
    timed_alike(&mut picture, plain);
    let effects = played.effects();
    let undoing = case.call.step.is_some_and(|(k, _)| k < 0);
    let wrong = |text: &str| Err(format!("{text}; {state} {detail} {effects:?} {picture:?}"));

    if played.foreign_now() != played.foreign {
        return wrong("a foreign VM was changed");
    }
    if state != OrderState::Stuck && !played.host.pve.left_over().is_empty() {
        return wrong("a disk is left, and nobody is told");
    }
    let repeated = matches!(case.what, Disturbance::Repeated | Disturbance::RepeatedUnanswered);
    if !repeated && played.ends_told(&scene.target).await != 1 {
        return wrong("not exactly one end was told");
    }
    let usual = counted(&plain.effects);
    // What is taken back is done a second time the other way: the power is cut again, the half-made disk
    // thrown away like the old one, the configuration set back.
    let undone = usize::from(state == OrderState::Undone && !scene.creates());
    // A worker that died when all was done looks like one that died half way; before the server is started,
    // going back once more comes to the same.
    let again =
        case.what == Disturbance::WorkerKilledLate && ["roll_back", "restore"].contains(&case.call.verb);
    let most = |effect: &str| usual.get(effect).copied().unwrap_or(1) + undone.max(usize::from(again));
    if let Some((effect, _)) = counted(&effects).into_iter().find(|(e, n)| *n > most(e)) {
        return wrong(&format!("{effect} was done more than once"));
    }
    // A passing disturbance leaves no trace, but where a second press would be a second action.
    if case.what.is_passing() && state != plain.state {
        let unknown = scene.verb() == Verb::Action && state == OrderState::Failed;
        if !(unknown || excused(scene, case, state)) {
            return wrong("nothing final was said, and the order ended otherwise");
        }
    }
    match state {
        OrderState::Succeeded => {
            if picture != plain.end {
                return wrong(&format!("another end than {:#?}", plain.end));
            }
            if effects != plain.effects && !again {
                return wrong(&format!("something else was done than {:?}", plain.effects));
            }
        }
        OrderState::Failed | OrderState::Undone if scene.creates() => {
            nothing_left(&picture).or_else(|t| wrong(&t))?
        }
        OrderState::Failed | OrderState::Undone => {
            // Nothing is taken from what was there before, unless that was the order.
            let destroyed = effects.iter().any(|e| e.starts_with("destroy"));
            if !picture.guests.contains_key(&VMID) && !destroyed {
                return wrong("the server is gone");
            }
        }
        OrderState::Stuck => {
            let allowed = !case.what.is_passing()
                && (undoing
                    || matches!(
                        case.what,
                        Disturbance::AlwaysUnreachable
                            | Disturbance::AlwaysLost
                            | Disturbance::AlwaysNoQuorum
                            | Disturbance::KeepsDisk
                    ));
            if !(allowed || excused(scene, case, state)) {
                return wrong("stuck without need");
            }
            if picture.books.is_none() || detail.len() < 40 {
                return wrong("stuck without facts");
            }
            if !detail.contains(fault::COMMAND) {
                return wrong("stuck without the command that helps");
            }
        }
        _ => return wrong("no end at all"),
    }
    if state == OrderState::Undone {
        let before = played.host.pve.effects();
        played.undo_again(scene).await;
        if played.row.state != OrderState::Undone || played.host.pve.effects() != before {
            return wrong("undone a second time it did something");
        }
        if scene.creates() {
            nothing_left(&played.picture().await).or_else(|t| wrong(&t))?;
        }
    }
    if state != OrderState::Succeeded && scene.verb() != Verb::Action {
        way_out(scene, plain, played).await.or_else(|t| wrong(&t))?;
    }
    Ok(())
}

/// Where an operator has to help although nothing final was said: a clone that was killed between its
/// last write and its pool is whole, and not in this agent's reach; a lock that a worker left is root's to take
/// away, and some leave it also when they fail.
fn excused(scene: &Scene, case: &Case, state: OrderState) -> bool {
    let locks =
        ["take_snapshot", "roll_back", "drop_snapshot", "back_up", "restore"].contains(&case.call.verb);
    let killed = matches!(case.what, Disturbance::WorkerKilled | Disturbance::WorkerKilledHalf);
    if locks && killed && state == OrderState::Stuck {
        return true;
    }
    // Of a destruction that died half way no token can remove the rest.
    if case.call.verb == "destroy" && case.what == Disturbance::WorkerKilledHalf && state == OrderState::Stuck
    {
        return true;
    }
    let fails_locked = ["roll_back", "drop_snapshot"].contains(&case.call.verb);
    let failed = matches!(case.what, Disturbance::TaskFails | Disturbance::TaskWithoutQuorum);
    if fails_locked && failed && state == OrderState::Stuck {
        return true;
    }
    let clones = scene.creates() || scene.rebuilds();
    clones
        && matches!(case.what, Disturbance::WorkerKilledLate | Disturbance::TaskFailsLate)
        && case.call.verb == "clone_template"
        && state == OrderState::Stuck
}

fn nothing_left(picture: &Picture) -> Result<(), String> {
    let whole = !picture.guests.contains_key(&VMID) && picture.books.is_none() && picture.files.is_empty();
    if whole { Ok(()) } else { Err("something of it is left".to_owned()) }
}

/// After an end that was none, with nothing wrong any more, the same wish comes true.
async fn way_out(scene: &Scene, plain: &Plain, played: &mut Played) -> Result<(), String> {
    played.host.pve.plan_nothing();
    let half_destroyed = played
        .host
        .pve
        .guest(VMID)
        .is_some_and(|guest| guest.config.get("lock").is_some_and(|lock| lock == "destroyed"));
    if half_destroyed {
        played.host.pve.forget(VMID);
    }
    if played.row.state == OrderState::Stuck && (scene.creates() || scene.rebuilds()) {
        // As the message asks for: root puts what is whole into the pool, and removes what is not.
        played.host.pve.finish_tasks();
        match played.host.pve.guest(VMID) {
            Some(guest) if guest.pool.is_none() && !guest.config.contains_key("lock") => {
                played.host.pve.put_guest(VMID, |guest| guest.pool = Some("ez".to_owned()));
            }
            _ => played.host.pve.forget(VMID),
        }
    }
    played.host.books.accept(&scene.again).await;
    with_repair(&played.host, &scene.again).await?;
    let mut row = played.host.row(&scene.again).await;
    let kept = played.host.pve.left_over();
    if row.state == OrderState::Stuck && !kept.is_empty() {
        // A disk that stayed is asked for by the newer order, too: root frees it, and that one goes on.
        for volume in &kept {
            played.host.pve.free(volume);
        }
        played.host.resume(&scene.again).await;
        with_repair(&played.host, &scene.again).await?;
        row = played.host.row(&scene.again).await;
    }
    if row.state != OrderState::Succeeded {
        return Err(format!("the next try fails: {} {:?}", row.state, row.result));
    }
    if scene.failing.is_some() {
        return Ok(());
    }
    let mut end = played.picture().await;
    for guest in end.guests.values_mut() {
        let order = scene.again.order_id.to_string();
        if let Some(text) = guest.config.get_mut("description") {
            *text = text.replace(&order, &scene.target.order_id.to_string());
        }
    }
    named_alike(&mut end, plain);
    if end == plain.end {
        Ok(())
    } else {
        Err(format!("the next try ends otherwise: {end:#?} instead of {:#?}", plain.end))
    }
}

/// The first-boot files carry the generation in their name.
fn named_alike(end: &mut Picture, plain: &Plain) {
    if let (Some(ours), Some(theirs)) = (end.guests.get_mut(&VMID), plain.end.guests.get(&VMID))
        && let (Some(a), Some(b)) = (ours.config.get_mut("cicustom"), theirs.config.get("cicustom"))
    {
        a.clone_from(b);
    }
}

/// The host's clock counts its tasks: one that was begun in vain makes what comes after it later.
fn timed_alike(end: &mut Picture, plain: &Plain) {
    let (Some(ours), Some(theirs)) = (end.guests.get_mut(&VMID), plain.end.guests.get(&VMID)) else { return };
    for (name, kept) in &mut ours.snapshots {
        kept.at_secs = theirs.snapshots.get(name).map_or(kept.at_secs, |theirs| theirs.at_secs);
    }
}

async fn run(scene: &Scene, stage: &Stage, plain: &Plain, case: &Case) -> Result<(), String> {
    let disturbed = (case.at != usize::MAX).then_some((case.what, case.at, case.call));
    let mut played = play(scene, stage, case.pace, disturbed).await;
    if let (None, Some((k, _))) = (disturbed, case.call.step) {
        let forget_task = case.what == Disturbance::RepeatedUnanswered;
        played.repeat(scene, k, forget_task).await;
    }
    judge(scene, plain, case, &mut played).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_step_of_every_saga_stands_every_disturbance() {
    let mut played_sagas = BTreeSet::new();
    let mut changed_by = BTreeSet::new();
    let mut looked_by = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut steps, mut total) = (0, 0);
    for scene in all() {
        let stage = Arc::new(Stage::of(&scene).await);
        let scene = Arc::new(scene);
        let plain = Arc::new(plain(&scene, &stage).await);
        for sign in [1, -1] {
            let own: Vec<_> = plain.steps.iter().filter(|(k, _)| k.signum() == sign).cloned().collect();
            played_sagas.insert(own);
        }
        for call in &plain.calls {
            let name = call.step.map_or("", |(_, name)| name);
            if call.kind == Kind::Look {
                looked_by.insert(name)
            } else {
                changed_by.insert(name)
            };
        }
        let cases = cases(&scene, &plain);
        let count = cases.len();
        let mut at_work = tokio::task::JoinSet::new();
        let room = Arc::new(tokio::sync::Semaphore::new(8));
        for case in cases {
            let (scene, stage) = (Arc::clone(&scene), Arc::clone(&stage));
            let (plain, room) = (Arc::clone(&plain), Arc::clone(&room));
            at_work.spawn(async move {
                let _permit = room.acquire_owned().await;
                let limit = std::time::Duration::from_secs(60);
                let end = tokio::time::timeout(limit, run(&scene, &stage, &plain, &case)).await;
                let end = end.unwrap_or_else(|_| Err("it does not come to an end".to_owned()));
                end.map_err(|text| format!("{}: {case:?}: {text}", scene.name))
            });
        }
        while let Some(end) = at_work.join_next().await {
            match end {
                Ok(Ok(())) => {}
                Ok(Err(text)) => wrong.push(text),
                Err(panic) => wrong.push(format!("{}: {panic:?}", scene.name)),
            }
        }
        println!("{}: {} steps, {} calls, {count} cases", scene.name, plain.steps.len(), plain.calls.len());
        (steps, total) = (steps + plain.steps.len(), total + count);
    }
    println!("{steps} steps, {total} cases of a step and a disturbance, {} went wrong", wrong.len());
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));

    // Nothing the executor can do was left out.
    for saga in sagas_of_the_executor() {
        let saga: Vec<(i64, String)> = saga.into_iter().map(|(k, name)| (k, name.to_owned())).collect();
        assert!(played_sagas.contains(&saga), "no scene plays {saga:?}");
        for (_, name) in saga {
            let reached = changed_by.contains(name.as_str()) || ONLY_LOOK.contains(&name.as_str());
            assert!(reached, "no scene lets {name} change anything");
            assert!(
                looked_by.contains(name.as_str()) || changed_by.contains(name.as_str()),
                "{name} makes no call"
            );
        }
    }
}
