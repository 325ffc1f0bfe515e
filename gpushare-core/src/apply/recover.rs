//! Recovery: what a dead applier left is rolled back, or else finished.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use crate::apply::execute::{Executor, Reached};
use crate::apply::report::{Recovered, Report, Settled};
use crate::apply::settle::{Position, RolledBack, answering, locate, required, roll_back};
use crate::apply::stray::end_strays;
use crate::apply::{ApplyOptions, CdiSpecifications, Event, Progress, cdi, leases};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::mode::SharingMode;
use crate::observe::Observer;
use crate::plan::Step;
use crate::plan::state::GpuState;
use crate::port::Ports;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::state::journal::{self, Found, GpuChange, Header, Journal};
use crate::state::lock::{self, Locks};

/// Settles every unfinished change of this node whose applier is dead, and then ends the MPS daemons
/// of ours whose devices are gone.
///
/// # Errors
/// LOCKED where an applier is alive; RECOVERY_REQUIRED where a person has to decide.
pub(crate) fn recover(
    ports: &Ports,
    simulated: bool,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let mut recovered = Vec::new();
    let mut failed: Option<Error> = None;
    for found in journal::find(ports.store.as_ref())? {
        // One that cannot be settled does not keep the others from it.
        match recover_one(ports, simulated, &found, options, progress) {
            Ok(Some(one)) => recovered.push(one),
            Ok(None) => {}
            Err(error) if error.code() == ErrorCode::Interrupted => return Err(error),
            Err(error) => {
                failed = Some(match failed {
                    Some(first) => first.context(format!("{} too ({error})", found.name)),
                    None => error,
                });
            }
        }
    }
    // A journal that stays says nothing of the others' specifications.
    let written = refresh_all(ports, simulated);
    let done = match failed {
        Some(error) => Err(error),
        None => end_strays(ports, simulated, options, progress)
            .and_then(|strays| Ok((strays, written?))),
    };
    match done {
        Ok((strays, written)) => {
            let mut report = Report::recovered(simulated, recovered, strays);
            report.cdi_specifications = written;
            Ok(report)
        }
        Err(error) => Err(after_settling(error, &recovered)),
    }
}

/// Writes CDI specifications that are not as their GPUs are: another agent changed those, or a directory did
/// not outlive the machine's life.
pub(crate) fn refresh_all(ports: &Ports, simulated: bool) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut failed = None;
    for gpu in crate::state::cdi::gpus(ports.store.as_ref())? {
        let (store, clock) = (ports.store.as_ref(), ports.clock.as_ref());
        let now = Some(Duration::ZERO);
        match lock::acquire(store, clock, std::slice::from_ref(&gpu), now, &mut |_| {
            ControlFlow::Continue(())
        }) {
            Ok(locks) => {
                // One that cannot be written does not keep the others from it.
                match cdi::refresh(ports, simulated, [gpu]) {
                    Ok(one) => written.extend(one),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
                drop(locks);
            }
            // Whoever changes it writes it.
            Err(error) if error.code() == ErrorCode::Locked => {}
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(written), Err)
}

fn recover_one(
    ports: &Ports,
    simulated: bool,
    found: &Found,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Option<Recovered>> {
    let mut gpus: Vec<GpuUuid> = found.header.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    gpus.sort();
    let locks = lock::acquire(
        ports.store.as_ref(),
        ports.clock.as_ref(),
        &gpus,
        options.timeout,
        &mut |gpu| progress(&Event::WaitingForLock { gpu: gpu.clone() }),
    )?;
    // Whoever had the lock may have settled it.
    match journal::read(ports.store.as_ref(), &found.name)? {
        Some(found) => settle(ports, simulated, &locks, &found, progress).map(Some),
        None => Ok(None),
    }
}

/// An error that comes after unfinished changes were settled: something was changed, and it says so.
pub(super) fn after_settling(error: Error, recovered: &[Recovered]) -> Error {
    recovered.iter().fold(error, |error, one| {
        let how = match one.settled {
            Settled::RolledBack => "rolled back",
            Settled::Finished => "finished",
            Settled::Void => "found void",
        };
        let error = match error.outcome() {
            Outcome::Untouched => error.with_outcome(Outcome::RolledBack),
            _ => error,
        };
        let again =
            one.recreated.iter().map(|device| format!(", {} is now {}", device.old, device.new));
        let again: String = again.collect();
        error.context(format!("after the unfinished change {} was {how}{again}", one.journal))
    })
}

/// Sets a journal aside that a person has decided about. Returns where it is now.
///
/// # Errors
/// NOT_FOUND when there is none of that name; LOCKED while its applier is alive; IO.
pub(crate) fn discard(ports: &Ports, simulated: bool, name: &str) -> Result<String> {
    let store = ports.store.as_ref();
    // An unreadable journal names no GPUs to lock; it belongs to no living applier, whose journals
    // are whole at every moment.
    let gpus = match journal::read(store, name) {
        Ok(Some(found)) => found.header.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        _ => Vec::new(),
    };
    let options = ApplyOptions::new();
    let locks = lock::acquire(store, ports.clock.as_ref(), &gpus, options.timeout, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let place = journal::discard(store, name)?;
    let refreshed = cdi::refresh(ports, simulated, gpus);
    drop(locks);
    refreshed.map_err(|error| error.context(format!("{place} was set aside, and yet")))?;
    Ok(place)
}

/// Settles one unfinished change, whose GPUs are locked, and writes the CDI specifications of these GPUs.
pub(super) fn settle(
    ports: &Ports,
    simulated: bool,
    locks: &Locks,
    found: &Found,
    progress: &mut Progress<'_>,
) -> Result<Recovered> {
    let recovered = settle_gpus(ports, simulated, locks, found, progress)?;
    let wanted = match recovered.settled {
        Settled::Finished => found.header.cdi.clone(),
        Settled::RolledBack | Settled::Void => CdiSpecifications::AsBefore,
    };
    match cdi::finish(ports, simulated, &wanted, recovered.gpus.iter().cloned()) {
        Ok(_) => Ok(recovered),
        Err(error) => {
            let error = error.context("a CDI specification could not be written; recover again");
            Err(after_settling(error, &[recovered]))
        }
    }
}

fn settle_gpus(
    ports: &Ports,
    simulated: bool,
    locks: &Locks,
    found: &Found,
    progress: &mut Progress<'_>,
) -> Result<Recovered> {
    expect_dead(ports, found)?;
    let _ = progress(&Event::Recovering { journal: found.name.clone() });
    let observer = Observer::open(ports, simulated)?;
    let epoch = observer.epoch()?;
    let header = &found.header;
    let recovered = |settled, recreated| Recovered {
        journal: found.name.clone(),
        gpus: header.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        settled,
        recreated,
    };
    let mut journal = Journal::resume(ports.store.as_ref(), found)?;
    let empty = Snapshot::empty(simulated);
    let mut executor = Executor::new(ports, simulated, locks, observer, &header.digest, &empty);
    let reached: Vec<Reached> = (0..header.gpus.len())
        .map(|gpu| Reached { begun: found.begun(gpu), created: found.created(gpu) })
        .collect();
    if epoch.differs(&header.epoch) {
        undo_what_outlives_a_reboot(&mut executor, header, &reached)?;
        leases::retire_gone(ports, simulated, header);
        journal.settle()?;
        return Ok(recovered(Settled::Void, Vec::new()));
    }
    if epoch != header.epoch {
        return Err(Error::new(
            ErrorCode::RecoveryRequired,
            format!(
                "whether the driver was loaded anew since the unfinished change {} cannot be told here; recover where /sys/module/nvidia can be seen",
                found.name
            ),
        ));
    }
    let snapshot = executor.observe(header)?;
    let finished = header.gpus.iter().zip(&reached).all(|(change, reached)| {
        let state = snapshot.gpu(&change.uuid).map(GpuState::of);
        let position = state.and_then(|state| locate(change, reached.begun, &state));
        position == Some(Position::After(change.steps.len()))
    });
    if finished && !header.others_are_back {
        leases::retire_gone(ports, simulated, header);
        journal.settle()?;
        return Ok(recovered(Settled::Finished, Vec::new()));
    }
    let RolledBack { recreated, stuck } = roll_back(&mut executor, header, &reached)?;
    let Some((_, error)) = stuck.first() else {
        leases::retire_gone(ports, simulated, header);
        journal.settle()?;
        return Ok(recovered(Settled::RolledBack, recreated));
    };
    if stuck.iter().any(|(_, error)| error.code() == ErrorCode::RecoveryRequired) {
        // Nothing of ours to go on with there; the others are back, and out of the journal.
        let mut positions: Vec<usize> = stuck.iter().map(|(position, _)| *position).collect();
        positions.sort_unstable();
        Journal::resume(ports.store.as_ref(), &found.only(&positions))?;
        let error = error.clone().context(format!("journal {}", found.name));
        // Others were settled, or steps were undone before one failed.
        let touched = header.gpus.len() > positions.len()
            || stuck.iter().any(|(_, error)| error.outcome() != Outcome::Untouched);
        return Err(if touched { error.with_outcome(Outcome::Indeterminate) } else { error });
    }
    let barred = |why: String, source: Error| {
        Err(Error::new(
            ErrorCode::RecoveryRequired,
            format!(
                "the unfinished change {} can {why}; mend what stands in the way and recover again, or set it aside with `gpushare recover --discard {}`",
                found.name, found.name
            ),
        )
        .with_outcome(Outcome::Indeterminate)
        .with_source(source))
    };
    let undone = error.clone();
    if header.others_are_back {
        let why = format!("not be rolled back here, as it was on other GPUs ({undone})");
        return barred(why, undone);
    }
    // Back is barred: forward.
    match forward(&mut executor, &mut journal, header, progress) {
        Ok(()) => {
            leases::retire_gone(ports, simulated, header);
            journal.settle()?;
            Ok(recovered(Settled::Finished, recreated))
        }
        Err(error) => {
            barred(format!("neither be rolled back ({undone}) nor finished ({error})"), error)
        }
    }
}

/// The MIG mode after so many steps, where their undoing has left a change of it that waits for a reset: with that
/// nothing after them comes out as planned.
fn waits_to_be_undone(change: &GpuChange, done: usize, found: &GpuState) -> Option<bool> {
    let steps = change.steps.iter().take(done);
    let after = steps.fold(change.before.clone(), |state, step| state.after(step));
    let (after, found) = (after.mig?, found.mig?);
    let waits = after.enabled == after.pending && found.enabled != found.pending;
    (waits && after.enabled == found.enabled).then_some(after.enabled)
}

/// Does the steps that are not done.
fn forward(
    executor: &mut Executor<'_>,
    journal: &mut Journal<'_>,
    header: &Header,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let snapshot = executor.observe(header)?;
    let mut from = Vec::with_capacity(header.gpus.len());
    for change in &header.gpus {
        let gpu = answering(change, snapshot.gpu(&change.uuid))?;
        let found = GpuState::of(gpu);
        let position = locate(change, change.steps.len(), &found);
        let Some(Position::After(done) | Position::Within(done)) = position else {
            return Err(required(change, "it is in no state to go on from", Vec::new()));
        };
        if let (Some(Position::After(_)), Some(enable)) =
            (position, waits_to_be_undone(change, done, &found))
        {
            let step = Step::SetMigMode { enable, may_reset: false };
            executor.step(&change.uuid, &step).map_err(|error| error.of_gpu(&change.uuid))?;
        }
        from.push(Reached { begun: done, ..Reached::default() });
    }
    executor.run_from(journal, header, from, progress).map(drop).map_err(|failed| failed.error)
}

/// The applier of a journal must be dead: whoever has its locks is no proof, since a lock file can
/// be removed.
fn expect_dead(ports: &Ports, found: &Found) -> Result<()> {
    let (pid, started) = (found.header.pid, found.header.start_time);
    let there = ports.processes.facts(pid).map(|facts| facts.start_time);
    if started.is_none() || there != started || pid == ports.processes.own_pid() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Locked,
        format!("the change {} is being made by pid {pid}, which is alive", found.name),
    ))
}

/// From that compute capability on, a reboot or a load of the driver turns MIG mode off (NVIDIA's MIG guide).
const LOSES_MIG_MODE: (u32, u32) = (9, 0);

/// A reboot or a load of the driver loses instances, compute mode and MPS, and the old state with
/// them. Before compute capability 9.0 it keeps MIG mode: that is set back. What a later card has now, somebody
/// has set since. Our record, which is on disk, is set back on every card.
fn undo_what_outlives_a_reboot(
    executor: &mut Executor<'_>,
    header: &Header,
    reached: &[Reached],
) -> Result<()> {
    let snapshot = executor.observe(header)?;
    for (change, reached) in header.gpus.iter().zip(reached) {
        let begun = || change.steps.iter().take(reached.begun);
        let records = begun().filter(|step| matches!(step, Step::WriteRecord { .. }));
        for back in records.filter_map(Step::inverse) {
            executor.step(&change.uuid, &back).map_err(|error| error.of_gpu(&change.uuid))?;
        }
        let switches = |step: &Step| matches!(step, Step::SetMigMode { .. } | Step::Reset { .. });
        let switched = begun().any(switches);
        let keeps = |gpu: &&GpuSnapshot| {
            gpu.compute_capability.is_none_or(|capability| capability < LOSES_MIG_MODE)
        };
        let gpu = snapshot.gpu(&change.uuid).filter(|gpu| gpu.mode != SharingMode::Lost);
        let gpu = gpu.filter(keeps);
        let mig = gpu.and_then(|gpu| gpu.mig.as_ref());
        let (Some(gpu), Some(now), Some(before), true) = (gpu, mig, change.before.mig, switched)
        else {
            continue;
        };
        // A change that had waited would have come with this boot.
        let before = before.pending;
        if (now.enabled, now.pending) == (before, before) {
            continue;
        }
        if !now.gpu_instances.is_empty() || !gpu.processes.is_empty() || gpu.processes_hidden {
            let holders = gpu.processes.iter().map(|process| process.holder.clone()).collect();
            return Err(required(change, "the GPU is in use since the reboot", holders));
        }
        let step = Step::SetMigMode { enable: before, may_reset: true };
        executor.step(&change.uuid, &step).map_err(|error| error.of_gpu(&change.uuid))?;
    }
    Ok(())
}
