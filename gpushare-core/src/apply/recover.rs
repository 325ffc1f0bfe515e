//! Recovery: what a dead applier left is rolled back, or else finished.

use std::collections::BTreeMap;

use crate::apply::execute::Executor;
use crate::apply::report::{Recovered, Report, Settled};
use crate::apply::settle::{Position, positions, roll_back};
use crate::apply::{ApplyOptions, Event, Progress};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::observe::Observer;
use crate::plan::Step;
use crate::port::Ports;
use crate::process::Holder;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::state::journal::{self, Found, GpuChange, Journal};
use crate::state::lock::{self, Locks};

/// Settles every unfinished change of this node whose applier is dead.
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
    for found in journal::find(ports.store.as_ref())? {
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
        if let Some(found) = journal::read(ports.store.as_ref(), &found.name)? {
            recovered.push(settle(ports, simulated, &locks, &found, progress)?);
        }
        drop(locks);
    }
    Ok(Report::recovered(simulated, recovered))
}

/// Sets a journal aside that a person has decided about. Returns where it is now.
///
/// # Errors
/// NOT_FOUND when there is none of that name; LOCKED while its applier is alive; IO.
pub(crate) fn discard(ports: &Ports, name: &str) -> Result<String> {
    let store = ports.store.as_ref();
    // An unreadable journal names no GPUs to lock; it belongs to no living applier, whose journals
    // are whole at every moment.
    let gpus = match journal::read(store, name) {
        Ok(Some(found)) => found.header.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        _ => Vec::new(),
    };
    let options = ApplyOptions::new();
    let locks = lock::acquire(store, ports.clock.as_ref(), &gpus, options.timeout, &mut |_| {
        std::ops::ControlFlow::Continue(())
    })?;
    let place = journal::discard(store, name);
    drop(locks);
    place
}

/// Settles one unfinished change, whose GPUs are locked.
pub(super) fn settle(
    ports: &Ports,
    simulated: bool,
    locks: &Locks,
    found: &Found,
    progress: &mut Progress<'_>,
) -> Result<Recovered> {
    let _ = progress(&Event::Recovering { journal: found.name.clone() });
    let observer = Observer::open(ports, simulated)?;
    let header = &found.header;
    let recovered = |settled, recreated| Recovered {
        journal: found.name.clone(),
        gpus: header.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        settled,
        recreated,
    };
    let mut journal = Journal::resume(ports.store.as_ref(), found)?;
    if observer.epoch()? != header.epoch {
        journal.settle()?;
        return Ok(recovered(Settled::Void, Vec::new()));
    }
    let empty = Snapshot::empty(simulated);
    let mut executor = Executor::new(ports, simulated, locks, observer, &header.digest, &empty);
    let snapshot = executor.observe(header)?;
    let begun: Vec<usize> = (0..header.gpus.len()).map(|gpu| found.begun(gpu)).collect();
    let reached = positions(header, &begun, &snapshot)?;
    let all = |done: fn(&GpuChange) -> usize| {
        header
            .gpus
            .iter()
            .zip(&reached)
            .all(|(gpu, position)| *position == Position::After(done(gpu)))
    };
    if all(|gpu| gpu.steps.len()) {
        journal.settle()?;
        return Ok(recovered(Settled::Finished, Vec::new()));
    }
    if all(|_| 0) {
        journal.settle()?;
        return Ok(recovered(Settled::RolledBack, Vec::new()));
    }
    for (number, (change, position)) in header.gpus.iter().zip(&reached).enumerate() {
        let Some(gpu) = snapshot.gpu(&change.uuid) else { continue };
        expect_ours(change, gpu, found.created(number).collect())?;
        expect_idle(change, *position, gpu)?;
    }
    let undone = match roll_back(&mut executor, header, &begun) {
        Ok(recreated) => {
            journal.settle()?;
            return Ok(recovered(Settled::RolledBack, recreated));
        }
        Err(undone) => undone,
    };
    // Back is barred: forward.
    let forward = (|| {
        let snapshot = executor.observe(header)?;
        let steps = header.gpus.iter().map(|gpu| gpu.steps.len()).collect::<Vec<_>>();
        let from: Vec<usize> = positions(header, &steps, &snapshot)?
            .into_iter()
            .map(|position| match position {
                Position::After(done) | Position::Within(done) => done,
            })
            .collect();
        executor.run_from(&mut journal, header, &from, progress).map_err(|failed| failed.error)
    })();
    match forward {
        Ok(()) => {
            journal.settle()?;
            Ok(recovered(Settled::Finished, Vec::new()))
        }
        Err(error) => Err(Error::new(
            ErrorCode::RecoveryRequired,
            format!(
                "the unfinished change {} can neither be rolled back ({undone}) nor finished ({error}); mend what stands in the way and recover again, or set it aside with `gpushare recover --discard {}`",
                found.name, found.name
            ),
        )
        .with_outcome(Outcome::Indeterminate)
        .with_source(error)),
    }
}

/// Instances where ours were created must be ours.
fn expect_ours(
    change: &GpuChange,
    gpu: &GpuSnapshot,
    created: Vec<(usize, &crate::id::MigUuid)>,
) -> Result<()> {
    for (step, uuid) in created {
        let Some(Step::CreateComputeInstance(ci)) = change.steps.get(step) else { continue };
        let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
        let there = gis
            .filter(|gi| gi.placement == ci.gpu_instance)
            .flat_map(|gi| &gi.compute_instances)
            .find(|there| there.start == ci.placement.start);
        if let Some(other) =
            there.and_then(|there| there.uuid.as_ref()).filter(|there| *there != uuid)
        {
            return Err(in_the_way(
                change,
                &format!("{other} stands where it had created {uuid}"),
                Vec::new(),
            ));
        }
    }
    Ok(())
}

/// What rolling back would destroy must be idle.
fn expect_idle(change: &GpuChange, position: Position, gpu: &GpuSnapshot) -> Result<()> {
    let (Position::After(done) | Position::Within(done)) = position;
    let mut in_use: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
    for step in change.steps.iter().take(done) {
        match step {
            Step::CreateGpuInstance(created) => {
                let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
                for gi in gis.filter(|gi| gi.placement == created.placement) {
                    let usages = gi.compute_instances.iter().map(|ci| &ci.usage).chain([&gi.usage]);
                    for usage in usages.filter(|usage| usage.is_busy()) {
                        let what = format!("{} at {}", gi.name, gi.placement);
                        in_use.entry(what).or_default().extend_from_slice(usage.holders());
                    }
                }
            }
            Step::CreateComputeInstance(created) => {
                let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
                let cis = gis
                    .filter(|gi| gi.placement == created.gpu_instance)
                    .flat_map(|gi| &gi.compute_instances)
                    .filter(|ci| ci.start == created.placement.start);
                for ci in cis.filter(|ci| ci.usage.is_busy()) {
                    let what = format!("{} at {}", created.name, created.gpu_instance);
                    in_use.entry(what).or_default().extend_from_slice(ci.usage.holders());
                }
            }
            Step::SetMigMode { .. } | Step::Reset { .. } if !gpu.processes.is_empty() => {
                let holders = gpu.processes.iter().map(|process| process.holder.clone());
                in_use.entry("the GPU".to_owned()).or_default().extend(holders);
            }
            _ => {}
        }
    }
    match in_use.into_iter().next() {
        Some((what, holders)) => {
            Err(in_the_way(change, &format!("{what} is in use since"), holders))
        }
        None => Ok(()),
    }
}

fn in_the_way(change: &GpuChange, why: &str, mut holders: Vec<Holder>) -> Error {
    holders.sort();
    holders.dedup();
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by {}", names.join(", ")) };
    Error::new(
        ErrorCode::RecoveryRequired,
        format!(
            "an unfinished change of GPU {} was found and not touched: {why}{by}. End what stands there and recover again, or keep the GPU as it is with `gpushare recover --discard`",
            change.uuid
        ),
    )
    .of_gpu(&change.uuid)
    .with_holders(holders)
}
