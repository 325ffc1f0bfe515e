//! Apply: from a plan to the hardware, as one transaction.
//!
//! Lock, settle what a dead applier left, observe, compare with the plan, ask for consent, write
//! the journal, evict, do each step and read it back, and at the end observe once more. Whatever
//! fails on the way is undone. After it a GPU is in the old state or the new one; when even the
//! undoing fails, the journal stays, and [`recover`](crate::node::Node::recover) settles it.

mod cdi;
mod consent;
mod daemon;
mod evict;
mod execute;
mod hooks;
mod leases;
mod options;
mod recover;
pub mod report;
mod settle;
mod stray;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::observe::{Observer, Scope};
use crate::plan::state::GpuState;
use crate::plan::{self, Plan, Request, Step};
use crate::port::Ports;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::spec::{Entry, Sharing, Want};
use crate::state::journal::{self, Device, GpuChange, Header, Journal};
use crate::state::lock::{self, Locks};
use crate::state::transitions;

pub use crate::export::CdiSpecifications;
#[cfg(feature = "cli")]
pub(crate) use cdi::has_specifications;
pub use hooks::{Hooks, Moment};
pub use options::{ApplyOptions, Event};
#[cfg(feature = "cli")]
pub(crate) use recover::refresh_all;
pub(crate) use recover::{discard, recover};
pub use report::Report;

use report::{Recovered, ReportOutcome};

use cdi::{Put, Specifications};
use execute::{Executor, Failed};
use hooks::AtSteps;
use leases::Reserved;
use settle::RolledBack;

/// Called at each step and every 100 ms of waiting; asking to stop rolls back.
pub(crate) type Progress<'a> = dyn FnMut(&Event) -> ControlFlow<()> + 'a;

/// What is applied.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// A plan: the state that it was made from must still be there.
    Plan(&'a Plan),
    /// A request: planned afresh.
    Request(&'a Request),
}

impl<'a> Source<'a> {
    pub(crate) fn request(&self) -> &'a Request {
        match self {
            Self::Plan(plan) => &plan.request,
            Self::Request(request) => request,
        }
    }
}

/// Applies a plan or a request.
///
/// # Errors
/// Every code but PANIC; the [outcome](Error::outcome) says what is left on the hardware.
pub(crate) fn apply(
    ports: &Ports,
    simulated: bool,
    source: Source<'_>,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let mut observer = Observer::open(ports, simulated)?;
    let request = source.request();
    // Without the lock: it only finds out which GPUs to lock, or that there is nothing to do.
    let compared = matches!(source, Source::Plan(_)) || options.expect.is_some();
    let scope = scope_of(request);
    let specified = cdi::concerns(ports, &options.cdi)?;
    let named = compared || specified || wants_mps_on_mig(request);
    let first = observer.snapshot(&if named { scope.clone() } else { scope.clone().unnamed() })?;
    // The daemons of MIG devices are found by the uuids of these.
    let first = if named || !first.gpus.iter().any(has_mps_on_mig) {
        first
    } else {
        observer.snapshot(&scope)?
    };
    if specified && scope.gpus.is_none() {
        cdi::drop_lost(ports, &first)?;
    }
    let glance = plan::plan_request(&first, request)?;
    let settled =
        glance.gpus.iter().all(|gpu| first.gpu(&gpu.uuid).is_none_or(|g| g.unsettled.is_none()));
    let specified = specified
        && !{
            let gpus = glance.gpus.iter().map(|gpu| gpu.uuid.clone());
            Specifications::of(ports, simulated, &options.cdi, gpus)?.are_there(&first)?
        };
    if glance.noop && settled && !specified {
        expect(&source, &glance, options)?;
        let mut report = Report::unchanged(&first, &glance);
        // Without uuids it is not the digest that a plan would show.
        report.digest = report.digest.filter(|_| compared);
        return Ok(report);
    }
    let gpus: Vec<GpuUuid> = match source {
        Source::Plan(plan) => plan.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        Source::Request(_) => glance.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
    };
    // Settling may reset a GPU, which needs every session of ours closed; so does waiting for
    // whoever may reset it.
    let mut observer = settled.then_some(observer);
    let (locks, recovered) =
        lock_and_settle(ports, simulated, gpus.clone(), options, &mut |event| {
            if !matches!(event, Event::Step { .. }) {
                observer = None;
            }
            progress(event)
        })?;
    let under_lock = UnderLock { ports, simulated, source, options, locks: &locks };
    let done = under_lock.apply(observer, gpus, progress);
    let outcome = match &done {
        Ok(report) if report.outcome == ReportOutcome::Unchanged => None,
        Ok(_) => Some("applied".to_owned()),
        Err(error) if error.outcome() == Outcome::Untouched => None,
        Err(error) => Some(error.outcome().to_string()),
    };
    let store = ports.store.as_ref();
    outcome.into_iter().for_each(|outcome| transitions::count(store, &outcome));
    recovered.iter().for_each(|_| transitions::count(store, "recovered"));
    let report = done.map(|report| Report { recovered: recovered.clone(), ..report });
    drop(locks);
    report.map_err(|error| recover::after_settling(error, &recovered))
}

/// What apply does once it has the locks.
struct UnderLock<'a> {
    ports: &'a Ports,
    simulated: bool,
    source: Source<'a>,
    options: &'a ApplyOptions,
    locks: &'a Locks,
}

impl UnderLock<'_> {
    fn apply(
        &self,
        observer: Option<Observer>,
        gpus: Vec<GpuUuid>,
        progress: &mut Progress<'_>,
    ) -> Result<Report> {
        let Self { ports, simulated, options, .. } = *self;
        let request = self.source.request();
        let mut observer = match observer {
            Some(observer) => observer,
            None => Observer::open(ports, simulated)?,
        };
        let scope = Scope { gpus: Some(gpus.into_iter().collect()), ..scope_of(request) };
        let snapshot = observer.snapshot(&scope)?;
        let fresh = plan::plan_request(&snapshot, request)?;
        let plan = check(&self.source, &snapshot, fresh, options)?;
        if plan.noop {
            return self.unchanged(&snapshot, &plan);
        }
        let Some(hooks) = &options.hooks else {
            let told = &mut plan.clone();
            return self.carry_out(observer, &scope, plan, snapshot, told, progress);
        };
        // A hook may end what holds the driver, or reload it.
        drop(observer);
        // What hooks are told of: in the end what is carried out.
        let mut told = plan;
        let done = hooks.call(&Moment::PreApply, &told).and_then(|()| {
            let mut observer = Observer::open(ports, simulated)?;
            let snapshot = observer.snapshot(&scope)?;
            let fresh = plan::plan_request(&snapshot, request)?;
            let plan = check(&self.source, &snapshot, fresh, options)?;
            if plan.noop {
                return self.unchanged(&snapshot, &plan);
            }
            self.carry_out(observer, &scope, plan, snapshot, &mut told, progress)
        });
        match done {
            Ok(mut report) => {
                if let Err(error) = hooks.call(&Moment::PostApply, &told) {
                    report.failed_hooks.push(error.to_string());
                }
                Ok(report)
            }
            Err(error) => Err(match hooks.call(&Moment::Failure(&error), &told) {
                Ok(()) => error,
                Err(hook) => error.context(format!("and then {hook}")),
            }),
        }
    }

    /// Asks for consent, and then for the work.
    fn carry_out(
        &self,
        mut observer: Observer,
        scope: &Scope,
        plan: Plan,
        snapshot: Snapshot,
        told: &mut Plan,
        progress: &mut Progress<'_>,
    ) -> Result<Report> {
        let Self { ports, simulated, options, .. } = *self;
        let pinned = matches!(self.source, Source::Plan(_)) || options.expect.is_some();
        let (plan, snapshot) = consent::obtain(
            ports,
            &mut observer,
            scope,
            plan,
            snapshot,
            pinned,
            options,
            progress,
        )?;
        if plan.noop {
            return self.unchanged(&snapshot, &plan);
        }
        told.clone_from(&plan);
        expect_startable(ports, &plan, &snapshot)?;
        let specifications = self.specifications(&plan)?;
        specifications.expect_writable()?;
        if progress(&Event::Planned { plan: Box::new(plan.clone()) }).is_break() {
            return Err(Error::new(ErrorCode::Interrupted, "stopped before anything was changed"));
        }
        let reserved = leases::reserve(ports, &plan, &snapshot)?;
        let executor =
            Executor::new(ports, simulated, self.locks, observer, &plan.digest, &snapshot)
                .holding_back(reserved.shares())
                .evicting(options.allow_evict)
                .telling(options.hooks.as_ref().map(|hooks| AtSteps { hooks, plan: &plan }));
        transact(executor, &plan, &snapshot, reserved, &specifications, options, progress)
    }

    /// Those of all GPUs of a plan, changed or not.
    fn specifications(&self, plan: &Plan) -> Result<Specifications<'_>> {
        let gpus = plan.gpus.iter().map(|gpu| gpu.uuid.clone());
        Specifications::of(self.ports, self.simulated, &self.options.cdi, gpus)
    }

    /// There is nothing to do, but perhaps for CDI specifications.
    fn unchanged(&self, snapshot: &Snapshot, plan: &Plan) -> Result<Report> {
        let specifications = self.specifications(plan)?;
        let mut report = Report::unchanged(snapshot, plan);
        if !specifications.are_there(snapshot)? {
            specifications.expect_writable()?;
            report.put(specifications.put_or_leave(snapshot)?);
        }
        Ok(report)
    }
}

/// Whether somebody asks for MPS daemons of MIG devices.
fn wants_mps_on_mig(request: &Request) -> bool {
    let Request::Apply(spec) = request else { return false };
    spec.gpus.iter().any(|entry| match &entry.want {
        Want::Mig(Some(instances)) => {
            instances.iter().any(|instance| matches!(instance.sharing, Some(Sharing::Mps(_))))
        }
        _ => false,
    })
}

/// Whether MIG devices of a GPU have MPS daemons, or should.
fn has_mps_on_mig(gpu: &GpuSnapshot) -> bool {
    let records = gpu.record.iter().flat_map(|record| &record.instances);
    gpu.mig.as_ref().is_some_and(|mig| mig.enabled)
        && records.into_iter().any(|record| matches!(record.sharing, Some(Sharing::Mps(_))))
}

/// Refuses MPS daemons that cannot be started for whom they are meant, before anything is touched.
pub(crate) fn expect_startable(ports: &Ports, plan: &Plan, snapshot: &Snapshot) -> Result<()> {
    for gpu in plan.changed() {
        for step in &gpu.steps {
            let Step::StartMps { on, config } = step else { continue };
            // A MIG device that is not there yet has a uuid of the same length.
            let there = snapshot.gpu(&gpu.uuid).filter(|_| on.is_some());
            let device = there.and_then(|there| there.mig_devices.first());
            let domain = match device {
                Some(device) => device.uuid.clone().into(),
                None => gpu.uuid.clone().into(),
            };
            let able = ports.mps.expect_startable(&domain, &config.access);
            able.map_err(|error| error.of_gpu(&gpu.uuid))?;
        }
    }
    Ok(())
}

/// What must be observed for a request. A selector such as `all` needs every GPU.
pub(crate) fn scope_of(request: &Request) -> Scope {
    match request {
        // What was there before may not be on record: then the interval becomes default too.
        Request::Leave { gpus, .. } => Scope::gpus(gpus.iter().cloned()).with_intervals(),
        Request::Apply(spec) => {
            let asks = |entry: &Entry| matches!(entry.want, Want::TimeSliced(_));
            let scope = Scope::all();
            if spec.gpus.iter().any(asks) {
                scope.with_intervals()
            } else {
                scope.with_intervals_on_record()
            }
        }
    }
}

/// Compares with what the caller expects.
fn expect(source: &Source<'_>, fresh: &Plan, options: &ApplyOptions) -> Result<()> {
    if let Source::Plan(plan) = source {
        if plan.basis != fresh.basis || (!plan.computed && plan.digest != fresh.digest) {
            return Err(stale(&plan.digest, &fresh.digest));
        }
    }
    match &options.expect {
        Some(expected) if *expected != fresh.digest => Err(stale(expected, &fresh.digest)),
        _ => Ok(()),
    }
}

pub(crate) fn stale(expected: &str, found: &str) -> Error {
    Error::new(
        ErrorCode::Stale,
        format!(
            "the GPUs or the spec are no longer as they were planned for: expected digest {expected}, found {found}; plan again"
        ),
    )
}

/// The plan to execute: the one that was given, with today's needs.
fn check(
    source: &Source<'_>,
    snapshot: &Snapshot,
    fresh: Plan,
    options: &ApplyOptions,
) -> Result<Plan> {
    expect(source, &fresh, options)?;
    match source {
        Source::Plan(plan) if plan.digest != fresh.digest => {
            // The structure is the same. Either usage is not, and the planner would take another
            // way; or something else that the steps rest on has changed.
            let holders = consent::holders_in_the_way(snapshot, plan);
            if holders.is_empty() {
                return Err(stale(&plan.digest, &fresh.digest));
            }
            Err(Error::new(
                ErrorCode::Busy,
                "an instance that the plan destroys is in use since it was made; plan again",
            )
            .with_holders(holders))
        }
        _ => Ok(fresh),
    }
}

/// Settles what dead appliers left on these GPUs: for a request that follows from their state.
#[cfg(feature = "cli")]
pub(crate) fn settle_gpus(
    ports: &Ports,
    simulated: bool,
    gpus: Vec<GpuUuid>,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Recovered>> {
    lock_and_settle(ports, simulated, gpus, options, progress).map(|(_, recovered)| recovered)
}

/// Locks the GPUs, in the order of uuids, and settles what dead appliers left on them. A journal
/// over more GPUs makes it lock those too.
fn lock_and_settle(
    ports: &Ports,
    simulated: bool,
    gpus: Vec<GpuUuid>,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<(Locks, Vec<Recovered>)> {
    let mut wanted: BTreeSet<GpuUuid> = gpus.into_iter().collect();
    loop {
        let list: Vec<_> = wanted.iter().cloned().collect();
        let locks = lock::acquire(
            ports.store.as_ref(),
            ports.clock.as_ref(),
            &list,
            options.timeout,
            &mut |gpu| progress(&Event::WaitingForLock { gpu: gpu.clone() }),
        )?;
        let mut ours = Vec::new();
        for found in journal::find(ports.store.as_ref())? {
            if found.header.gpus.iter().any(|gpu| wanted.contains(&gpu.uuid)) {
                ours.push(found);
            }
        }
        let more: Vec<_> = ours
            .iter()
            .flat_map(|found| found.header.gpus.iter().map(|gpu| gpu.uuid.clone()))
            .filter(|gpu| !wanted.contains(gpu))
            .collect();
        if !more.is_empty() {
            // The order of locks forbids to add them: begin again with all of them.
            drop(locks);
            wanted.extend(more);
            continue;
        }
        let mut recovered = Vec::new();
        for found in ours {
            recovered.push(recover::settle(ports, simulated, &locks, &found, progress)?);
        }
        return Ok((locks, recovered));
    }
}

/// Journal, evict, step, verify, commit; or roll back.
fn transact(
    mut executor: Executor<'_>,
    plan: &Plan,
    snapshot: &Snapshot,
    mut reserved: Reserved,
    specifications: &Specifications<'_>,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let changes: Vec<GpuChange> = plan
        .changed()
        .filter_map(|gpu| {
            let there = snapshot.gpu(&gpu.uuid)?;
            Some(GpuChange {
                uuid: gpu.uuid.clone(),
                before: GpuState::of(there),
                devices: devices(there),
                steps: gpu.steps.clone(),
            })
        })
        .collect();
    let ports = executor.ports();
    let pid = ports.processes.own_pid();
    let start_time = ports.processes.facts(pid).map(|facts| facts.start_time);
    let applier = (pid, start_time);
    let (epoch, digest) = (snapshot.epoch.clone(), plan.digest.clone());
    let header = Header::new(applier, epoch, digest, changes, options.cdi.clone());
    // Threads of one process may apply to several GPUs in the same second.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // Containers that share the directory may have the same pid.
    let salt = ports.clock.now().subsec_nanos();
    let name = format!("{}-{pid}-{number}-{salt:08x}.jsonl", ports.clock.unix_time());
    let mut journal = Journal::begin(ports.store.as_ref(), &name, &header)?;
    let changing: Vec<&GpuUuid> = header.gpus.iter().map(|change| &change.uuid).collect();
    // From here on no container starts there that would be in the way.
    let evicted = specifications.withdraw(&changing).and_then(|()| {
        let evicted = evict::evict(&executor, plan, options, progress)?;
        let taken = reserved.take_the_rest(ports);
        taken.map(|()| evicted.clone()).map_err(|error| evict::after_evicting(error, &evicted))
    });
    let evicted = match evicted {
        Ok(evicted) => evicted,
        Err(error) => {
            // No step was done: there is nothing to undo.
            let back = specifications.put_back(snapshot, &[]);
            journal.settle()?;
            return Err(match back {
                Ok(()) => error,
                Err(left) => error.context(left.to_string()),
            });
        }
    };
    let all = Scope::gpus(plan.gpus.iter().map(|gpu| gpu.uuid.clone()));
    let ran = executor.run(&mut journal, &header, progress);
    let written = ran.and_then(|reached| {
        if specifications.is_empty() {
            return Ok(Put::default());
        }
        let now = executor.observer().and_then(|observer| observer.snapshot(&all));
        now.and_then(|now| specifications.put(&now)).map_err(|error| Failed { error, reached })
    });
    let mut evicted = evicted;
    evicted.append(&mut executor.take_evicted());
    let Failed { error, reached } = match written {
        Ok(written) => {
            reserved.retire(ports);
            journal.settle().map_err(|error| evict::after_evicting(error, &evicted))?;
            let mut report = Report::applied(snapshot, plan);
            report.put(written);
            report.evicted = evicted;
            if let Ok(observer) = executor.observer() {
                reserved.commit(ports, observer);
            }
            return Ok(report);
        }
        Err(failed) => failed,
    };
    let _ = progress(&Event::RollingBack);
    let rolled_back = settle::roll_back(&mut executor, &header, &reached).unwrap_or_else(|undo| {
        let all = (0..header.gpus.len()).map(|position| (position, undo.clone()));
        RolledBack { recreated: Vec::new(), stuck: all.collect() }
    });
    let error = rolled_back.recreated.iter().fold(error, |error, device| {
        error.context(format!("rolled back, and {} is now {}", device.old, device.new))
    });
    let stuck = rolled_back.stuck.iter().filter_map(|(position, _)| changing.get(*position));
    let stuck: Vec<&GpuUuid> = stuck.copied().collect();
    let error = match put_back(&mut executor, specifications, &all, &stuck) {
        Ok(()) => error,
        Err(left) => error.context(left.to_string()),
    };
    let error = match rolled_back.stuck.first() {
        None => {
            let begun = reached.iter().any(|reached| reached.begun > 0);
            let outcome = if begun { Outcome::RolledBack } else { Outcome::Untouched };
            reserved.retire_recreated(ports, &rolled_back.recreated);
            journal.settle()?;
            error.with_outcome(outcome)
        }
        Some((_, undo)) => {
            // The journal keeps those that are not back.
            let mut stuck: Vec<usize> = rolled_back.stuck.iter().map(|(gpu, _)| *gpu).collect();
            stuck.sort_unstable();
            stuck.dedup();
            let store = ports.store.as_ref();
            let kept = journal::read(store, &name).and_then(|found| {
                found.map(|found| Journal::resume(store, &found.only(&stuck))).transpose()
            });
            if let Err(kept) = kept {
                tracing::warn!(target: "gpushare::state", error = %kept, "the journal keeps more GPUs than it must");
            }
            let undo = undo.to_string();
            error
                .with_outcome(Outcome::Indeterminate)
                .context(format!("rolling back failed too ({undo})"))
        }
    };
    Err(evict::after_evicting(error, &evicted))
}

/// CDI specifications as they were, of GPUs that are as they were.
fn put_back(
    executor: &mut Executor<'_>,
    specifications: &Specifications<'_>,
    all: &Scope,
    stuck: &[&GpuUuid],
) -> Result<()> {
    if specifications.is_empty() {
        return Ok(());
    }
    let now = executor.observer()?.snapshot(all)?;
    specifications.put_back(&now, stuck)
}

fn devices(gpu: &GpuSnapshot) -> Vec<Device> {
    let instances = gpu.mig.as_ref().map(|mig| &mig.gpu_instances[..]).unwrap_or_default();
    instances
        .iter()
        .flat_map(|gi| {
            gi.compute_instances.iter().filter_map(|ci| {
                Some(Device { placement: gi.placement, start: ci.start, uuid: ci.uuid.clone()? })
            })
        })
        .collect()
}

/// How often a waiting apply looks again and asks whether to stop.
const POLL: Duration = Duration::from_millis(100);
