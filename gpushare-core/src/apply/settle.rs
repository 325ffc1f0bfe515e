//! Settling: finding out how far a change got, and undoing it.
//!
//! Each GPU is judged by itself. One that cannot be judged, or that somebody uses or has changed
//! since, is not touched and does not keep the others from being settled.

use std::collections::BTreeMap;

use crate::apply::execute::{Executor, Reached};
use crate::apply::report::Recreated;
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::MigUuid;
use crate::mode::SharingMode;
use crate::plan::Step;
use crate::plan::state::GpuState;
use crate::process::Holder;
use crate::snapshot::{GpuSnapshot, Usage};
use crate::state::journal::{GpuChange, Header};

/// How far the change of one GPU got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// That many steps are done.
    After(usize),
    /// That many steps are done, and the next one stopped half-way.
    Within(usize),
}

/// The state before, without what was left of MPS daemons that served nobody: nothing brings that
/// back.
fn cleared(change: &GpuChange) -> Option<GpuState> {
    let mut state = change.before.clone();
    for step in &change.steps {
        if let Step::StopMps { on, config: None } = step {
            state = state.with_mps(*on, None);
        }
    }
    (state != change.before).then_some(state)
}

/// What a rollback came to.
#[derive(Debug, Default)]
pub(super) struct RolledBack {
    /// MIG devices that were created again.
    pub(super) recreated: Vec<Recreated>,
    /// GPUs, by position in the header, that are not back, and why.
    pub(super) stuck: Vec<(usize, Error)>,
}

/// The GPU, if it answers.
///
/// # Errors
/// RECOVERY_REQUIRED.
pub(super) fn answering<'a>(
    change: &GpuChange,
    gpu: Option<&'a GpuSnapshot>,
) -> Result<&'a GpuSnapshot> {
    gpu.filter(|gpu| gpu.mode != SharingMode::Lost)
        .ok_or_else(|| required(change, "the GPU does not answer", Vec::new()))
}

pub(super) fn required(change: &GpuChange, why: &str, holders: Vec<Holder>) -> Error {
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by {}", names.join(", ")) };
    Error::new(
        ErrorCode::RecoveryRequired,
        format!(
            "an unfinished change of GPU {} is left as it is: {why}{by}. Look at it with `gpushare status`; mend what stands in the way and recover again, or keep the GPU as it is with `gpushare recover --discard` and the name of the journal",
            change.uuid
        ),
    )
    .of_gpu(&change.uuid)
    .with_holders(holders)
}

pub(super) fn locate(change: &GpuChange, begun: usize, found: &GpuState) -> Option<Position> {
    let mut state = change.before.clone();
    let is = |state: &GpuState| {
        state.matches(found) || called_off(change, state).is_some_and(|state| state.matches(found))
    };
    let mut position = is(&state).then_some(Position::After(0));
    // Where two states look the same the later one counts: undoing a step that was not done sets
    // what is set already.
    for (number, step) in change.steps.iter().enumerate().take(begun) {
        if state.halfway(step).is_some_and(|halfway| halfway.matches(found)) {
            position = Some(Position::Within(number));
        }
        let undone = state.half_undone(step);
        state = state.after(step);
        if is(&state) || undone.is_some_and(|undone| undone.matches(found)) {
            position = Some(Position::After(number + 1));
        }
    }
    position
}

/// That state, with a pending change of MIG mode called off: what a rollback over a reset comes back to, since
/// nothing makes a change pending again.
fn called_off(change: &GpuChange, state: &GpuState) -> Option<GpuState> {
    let mut state = state.clone();
    let mig = state.mig.as_mut()?;
    let settles = |step: &Step| matches!(step, Step::Reset { .. } | Step::CallOffMigMode { .. });
    if mig.enabled == mig.pending || !change.steps.iter().any(settles) {
        return None;
    }
    mig.pending = mig.enabled;
    Some(state)
}

/// Undoes what was done of the steps that had begun, GPU by GPU, and checks that the states before
/// are back.
///
/// # Errors
/// Only when nothing could be looked at.
pub(super) fn roll_back(
    executor: &mut Executor<'_>,
    header: &Header,
    reached: &[Reached],
) -> Result<RolledBack> {
    executor.undo(true);
    let snapshot = executor.observe(header)?;
    let mut outcome = RolledBack::default();
    let mut undone = Vec::new();
    for (position, change) in header.gpus.iter().enumerate().rev() {
        let Some(reached) = reached.get(position).filter(|reached| reached.begun > 0) else {
            continue;
        };
        let back = answering(change, snapshot.gpu(&change.uuid))
            .and_then(|gpu| undo(executor, change, reached, gpu, &mut outcome.recreated));
        match back {
            Ok(()) => undone.push(position),
            Err(error) => outcome.stuck.push((position, error)),
        }
    }
    executor.undo(false);
    let snapshot = executor.observe(header)?;
    for position in undone {
        let Some(change) = header.gpus.get(position) else { continue };
        let found = snapshot.gpu(&change.uuid).map(GpuState::of);
        let back = found.is_some_and(|found| {
            found.matches(&change.before)
                || called_off(change, &change.before).is_some_and(|state| state.matches(&found))
                || cleared(change).is_some_and(|state| state.matches(&found))
        });
        if !back {
            let why = "it was rolled back and is still not as before";
            let error = required(change, why, Vec::new()).with_outcome(Outcome::Indeterminate);
            outcome.stuck.push((position, error));
        }
    }
    Ok(outcome)
}

fn undo(
    executor: &mut Executor<'_>,
    change: &GpuChange,
    reached: &Reached,
    gpu: &GpuSnapshot,
    recreated: &mut Vec<Recreated>,
) -> Result<()> {
    let position = locate(change, reached.begun, &GpuState::of(gpu)).ok_or_else(|| {
        let why =
            "it is in no state that the change could have left: somebody else has changed it since";
        required(change, why, Vec::new())
    })?;
    let steps = match position {
        Position::After(done) => done,
        Position::Within(done) => done + 1,
    };
    expect_ours(change, steps, gpu, &reached.created)?;
    expect_idle(change, steps, gpu)?;
    let mut undone = false;
    for step in change.steps.iter().take(steps).rev() {
        let Some(inverse) = step.inverse() else { continue };
        let created = executor.step(&change.uuid, &inverse).map_err(|error| {
            let error = error.of_gpu(&change.uuid).context(format!("undo: {inverse}"));
            if undone { error.with_outcome(Outcome::Indeterminate) } else { error }
        })?;
        undone = true;
        if let (Some(new), Step::CreateComputeInstance(ci)) = (created, &inverse) {
            let old = change.devices.iter().find(|device| {
                device.placement == ci.gpu_instance && device.start == ci.placement.start
            });
            if let Some(old) = old.filter(|old| old.uuid != new) {
                recreated.push(Recreated {
                    gpu: change.uuid.clone(),
                    placement: ci.gpu_instance,
                    old: old.uuid.clone(),
                    new,
                });
            }
        }
    }
    Ok(())
}

/// Instances where ours were created by the first steps must be ours. Where a step was undone already, those
/// of before stand there again, under another uuid maybe.
fn expect_ours(
    change: &GpuChange,
    steps: usize,
    gpu: &GpuSnapshot,
    created: &BTreeMap<usize, MigUuid>,
) -> Result<()> {
    for (step, uuid) in created.range(..steps) {
        let Some(Step::CreateComputeInstance(ci)) = change.steps.get(*step) else { continue };
        let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
        let there = gis
            .filter(|gi| gi.placement == ci.gpu_instance)
            .flat_map(|gi| &gi.compute_instances)
            .find(|there| there.start == ci.placement.start);
        if let Some(other) =
            there.and_then(|there| there.uuid.as_ref()).filter(|there| *there != uuid)
        {
            let why = format!("{other} stands where it had created {uuid}");
            return Err(required(change, &why, Vec::new()));
        }
    }
    Ok(())
}

/// What rolling back the first steps would destroy or end must be idle.
fn expect_idle(change: &GpuChange, steps: usize, gpu: &GpuSnapshot) -> Result<()> {
    let gis = || gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
    let everyone =
        || -> Vec<Holder> { gpu.processes.iter().map(|process| process.holder.clone()).collect() };
    for step in change.steps.iter().take(steps) {
        let (what, busy, mut holders) = match step {
            Step::CreateGpuInstance(created) => {
                let usages: Vec<_> = gis()
                    .filter(|gi| gi.placement == created.placement)
                    .flat_map(|gi| {
                        gi.compute_instances.iter().map(|ci| &ci.usage).chain([&gi.usage])
                    })
                    .collect();
                let holders = usages.iter().flat_map(|usage| usage.holders().to_vec()).collect();
                let what = format!("{} at {}", created.name, created.placement);
                (what, usages.iter().any(|usage| usage.is_busy()), holders)
            }
            Step::CreateComputeInstance(created) => {
                let usages: Vec<_> = gis()
                    .filter(|gi| gi.placement == created.gpu_instance)
                    .flat_map(|gi| &gi.compute_instances)
                    .filter(|ci| ci.start == created.placement.start)
                    .map(|ci| &ci.usage)
                    .collect();
                let holders = usages.iter().flat_map(|usage| usage.holders().to_vec()).collect();
                let what = format!("{} at {}", created.name, created.gpu_instance);
                (what, usages.iter().any(|usage| usage.is_busy()), holders)
            }
            Step::SetMigMode { .. } | Step::Reset { .. } => {
                let holders = everyone();
                ("the GPU".to_owned(), gpu.processes_hidden || !holders.is_empty(), holders)
            }
            Step::StartMps { on, .. } => {
                let device = on.and_then(|on| gpu.mig_device_at(on.gpu_instance, on.start));
                let tenants = match (on, device) {
                    (Some(_), None) => Usage::Idle,
                    (_, device) => gpu.mps_tenants(device),
                };
                ("its MPS daemon".to_owned(), tenants.is_busy(), tenants.holders().to_vec())
            }
            _ => continue,
        };
        if busy {
            holders.sort();
            holders.dedup();
            return Err(required(change, &format!("{what} is in use since"), holders));
        }
    }
    Ok(())
}
