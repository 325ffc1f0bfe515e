//! Eviction: holders that are in the way are ended, by consent. It is not undone.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::apply::execute::Executor;
use crate::apply::report::Evicted;
use crate::apply::{ApplyOptions, Event, POLL, Progress};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::plan::{Plan, Step};
use crate::port::{Ports, Signal};
use crate::process::{Holder, HolderKind};

/// How long the kernel may take to end a process that was killed.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Ends every holder that the plan needs gone: SIGTERM, the grace time, SIGKILL.
///
/// # Errors
/// BUSY when one does not go; INTERRUPTED. Processes that were ended before stay ended, and the
/// error names them.
pub(super) fn evict(
    executor: &Executor<'_>,
    plan: &Plan,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Evicted>> {
    let mut evicted = Vec::new();
    match end_all(executor, plan, options, progress, &mut evicted) {
        Ok(()) => Ok(evicted),
        Err(error) => Err(after_evicting(error, &evicted)),
    }
}

/// An error that comes after processes were ended: they stay ended, and it says so.
pub(super) fn after_evicting(error: Error, evicted: &[Evicted]) -> Error {
    if evicted.is_empty() {
        return error;
    }
    let holders: Vec<Holder> = evicted.iter().map(|evicted| evicted.holder.clone()).collect();
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let outcome = match error.outcome() {
        Outcome::Untouched => Outcome::RolledBack,
        outcome => outcome,
    };
    error
        .with_outcome(outcome)
        .with_evicted(holders)
        .context(format!("after {} had been ended, by consent", names.join(", ")))
}

fn end_all(
    executor: &Executor<'_>,
    plan: &Plan,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
    evicted: &mut Vec<Evicted>,
) -> Result<()> {
    let ports = executor.ports();
    let mut pids = BTreeSet::new();
    let holders: Vec<(&GpuUuid, &Holder)> = plan
        .needs
        .evict
        .iter()
        .flat_map(|eviction| eviction.holders.iter().map(|holder| (&eviction.gpu, holder)))
        .filter(|(gpu, holder)| !ended_by_its_daemon(plan, gpu, holder))
        // A process on several GPUs is ended once.
        .filter(|(_, holder)| pids.insert(holder.pid))
        .collect();
    let mut waiting = Vec::new();
    for (gpu, holder) in holders {
        let Some(start_time) = holder.start_time.filter(|_| holder.protected.is_none()) else {
            return Err(stays(gpu, holder, "it cannot be signalled"));
        };
        if progress(&Event::Evicting { holder: holder.clone() }).is_break() {
            return Err(Error::new(ErrorCode::Interrupted, "stopped while evicting"));
        }
        executor.audit_signal(gpu, holder, Signal::Terminate);
        signal(ports, holder, start_time, Signal::Terminate)?;
        // From here on it is on its way out, whatever happens next.
        let ended = holder.without_arguments();
        evicted.push(Evicted { gpu: gpu.clone(), holder: ended, killed: false });
        waiting.push((gpu, holder, start_time));
    }
    let start = ports.clock.now();
    loop {
        waiting.retain(|(_, holder, start_time)| is_there(ports, holder, *start_time));
        if waiting.is_empty() || ports.clock.now().saturating_sub(start) >= options.grace {
            break;
        }
        if progress(&Event::Draining {
            holders: waiting.iter().map(|(_, h, _)| (*h).clone()).collect(),
        })
        .is_break()
        {
            return Err(Error::new(ErrorCode::Interrupted, "stopped while evicting"));
        }
        ports.clock.sleep(POLL);
    }
    for (gpu, holder, start_time) in waiting {
        executor.audit_signal(gpu, holder, Signal::Kill);
        signal(ports, holder, start_time, Signal::Kill)?;
        let killed = ports.clock.now();
        while is_there(ports, holder, start_time) {
            if ports.clock.now().saturating_sub(killed) >= AFTER_KILL {
                return Err(stays(gpu, holder, "it did not end after SIGKILL"));
            }
            ports.clock.sleep(Duration::from_millis(10));
        }
        if let Some(evicted) = evicted.iter_mut().find(|evicted| evicted.holder.pid == holder.pid) {
            evicted.killed = true;
        }
    }
    Ok(())
}

/// A client of a daemon that stops is terminated by it, when nobody new can come in any more. Where
/// its device goes or is switched too, its process must end.
fn ended_by_its_daemon(plan: &Plan, gpu: &GpuUuid, holder: &Holder) -> bool {
    let steps = plan.gpu(gpu).map(|gpu| &gpu.steps[..]).unwrap_or_default();
    let stops = |step: &Step| matches!(step, Step::StopMps { config: Some(_), .. });
    let takes_the_device = |step: &Step| {
        matches!(
            step,
            Step::SetMigMode { .. }
                | Step::Reset { .. }
                | Step::DestroyGpuInstance(_)
                | Step::DestroyComputeInstance(_)
        )
    };
    holder.kind == HolderKind::MpsClient
        && steps.iter().any(stops)
        && !steps.iter().any(takes_the_device)
}

fn is_there(ports: &Ports, holder: &Holder, start_time: u64) -> bool {
    ports.processes.facts(holder.pid).is_some_and(|facts| facts.start_time == start_time)
}

/// A process that is gone by now is what was wanted.
fn signal(ports: &Ports, holder: &Holder, start_time: u64, signal: Signal) -> Result<()> {
    match ports.processes.signal(holder.pid, start_time, signal) {
        Err(error) if error.code() == ErrorCode::NotFound => Ok(()),
        other => other.map_err(|error| error.context(format!("end {holder}"))),
    }
}

fn stays(gpu: &GpuUuid, holder: &Holder, why: &str) -> Error {
    Error::new(ErrorCode::Busy, format!("{holder} stays: {why}"))
        .of_gpu(gpu)
        .with_holders(vec![holder.clone()])
}
