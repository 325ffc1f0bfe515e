//! Settling: finding out how far a change got, and undoing it.

use crate::apply::execute::Executor;
use crate::apply::report::Recreated;
use crate::error::{Error, ErrorCode, Result};
use crate::plan::Step;
use crate::plan::state::GpuState;
use crate::snapshot::Snapshot;
use crate::state::journal::{GpuChange, Header};

/// How far the change of one GPU got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// That many steps are done.
    After(usize),
    /// That many steps are done, and the next one stopped half-way.
    Within(usize),
}

/// How far the change of each GPU got, of the steps that had begun.
///
/// # Errors
/// RECOVERY_REQUIRED when a GPU is in no state that the change could have left.
pub(super) fn positions(
    header: &Header,
    begun: &[usize],
    snapshot: &Snapshot,
) -> Result<Vec<Position>> {
    let mut positions = Vec::with_capacity(header.gpus.len());
    for (change, &begun) in header.gpus.iter().zip(begun) {
        let found = snapshot
            .gpu(&change.uuid)
            .map(GpuState::of)
            .ok_or_else(|| required(change, "the GPU does not answer"))?;
        let position = locate(change, begun, &found).ok_or_else(|| {
            required(change, "it is in no state that the change could have left: somebody else has changed it since")
        })?;
        positions.push(position);
    }
    Ok(positions)
}

fn required(change: &GpuChange, why: &str) -> Error {
    Error::new(
        ErrorCode::RecoveryRequired,
        format!(
            "an unfinished change of GPU {} was found and not touched: {why}. Look at it with `gpushare status`; when it is as you want it, `gpushare recover --discard` with the journal's name sets the change aside",
            change.uuid
        ),
    )
    .of_gpu(&change.uuid)
}

fn locate(change: &GpuChange, begun: usize, found: &GpuState) -> Option<Position> {
    let mut state = change.before.clone();
    let mut position = state.matches(found).then_some(Position::After(0));
    if position.is_none() && called_off(change).is_some_and(|state| state.matches(found)) {
        position = Some(Position::After(0));
    }
    // Where two states look the same the later one counts: undoing a step that was not done sets
    // what is set already.
    for (number, step) in change.steps.iter().enumerate().take(begun) {
        if state.halfway(step).is_some_and(|halfway| halfway.matches(found)) {
            position = Some(Position::Within(number));
        }
        state = state.after(step);
        if state.matches(found) {
            position = Some(Position::After(number + 1));
        }
    }
    position
}

/// The state before, with a pending change of MIG mode called off: what a rollback over a reset
/// comes back to, since nothing makes a change pending again.
fn called_off(change: &GpuChange) -> Option<GpuState> {
    let mut state = change.before.clone();
    let mig = state.mig.as_mut()?;
    if mig.enabled == mig.pending
        || !change.steps.iter().any(|step| matches!(step, Step::Reset { .. }))
    {
        return None;
    }
    mig.pending = mig.enabled;
    Some(state)
}

/// Undoes what was done of the steps that had begun, and checks that the state before is back.
pub(super) fn roll_back(
    executor: &mut Executor<'_>,
    header: &Header,
    begun: &[usize],
) -> Result<Vec<Recreated>> {
    let snapshot = executor.observe(header)?;
    let positions = positions(header, begun, &snapshot)?;
    let mut recreated = Vec::new();
    for (change, position) in header.gpus.iter().zip(positions).rev() {
        let steps = match position {
            Position::After(done) => done,
            Position::Within(done) => done + 1,
        };
        for step in change.steps.iter().take(steps).rev() {
            let Some(inverse) = step.inverse() else { continue };
            let created = executor
                .step(&change.uuid, &inverse)
                .map_err(|error| error.of_gpu(&change.uuid).context(format!("undo: {inverse}")))?;
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
    }
    let snapshot = executor.observe(header)?;
    for change in &header.gpus {
        let found = snapshot.gpu(&change.uuid).map(GpuState::of);
        let back = found.is_some_and(|found| {
            found.matches(&change.before)
                || called_off(change).is_some_and(|state| state.matches(&found))
        });
        if !back {
            return Err(required(change, "it was rolled back and is still not as before"));
        }
    }
    Ok(recreated)
}
