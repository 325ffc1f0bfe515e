//! What each process does, over and over: applies, leases, recovers, cordons.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use gpushare_core::apply::Source;
use gpushare_core::backend::sim::{Process, ProcessKind, ProcessSpec, Simulator};
use gpushare_core::hazard::HazardName;
use gpushare_core::id::Pid;
use gpushare_core::lease::{Grant, LeaseRequest};
use gpushare_core::plan::Request;
use gpushare_core::port::Ports;
use gpushare_core::snapshot::GpuSnapshot;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Event, Lease, Node, Result, Snapshot};

use super::events::Events;
use super::mark::Mark;
use super::place::{Asked, GPUS, Place, WANTED, index, simulator, spec};
use crate::dice::Dice;
use crate::plant::Flawed;

const SIGTERM: i32 = 15;

/// Why a worker ends.
#[derive(Debug)]
pub(super) enum Ended {
    /// A promise was broken.
    Violation(String),
    /// What it stands on failed: the machine, or the test itself.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Worker<'a> {
    place: &'a Place,
    simulator: Simulator,
    node: Node,
    events: Events,
    dice: Dice,
    /// As it was looked at last, for who leases of what was.
    seen: Snapshot,
    tenants: Vec<Tenant>,
}

/// A child with the lease.
struct Tenant {
    child: Child,
    gpu: usize,
}

/// Works until it is told to stop.
pub(super) fn work(
    place: &Place,
    seed: u64,
    without_locks: bool,
) -> std::result::Result<(), Ended> {
    let parent = rustix::process::getppid();
    let node = place.node()?;
    let simulator = simulator(&node)?.clone();
    let node = if without_locks { unlocked(&node) } else { node };
    let failed = |error: std::io::Error| {
        Error::new(ErrorCode::Io, "the events cannot be written").with_source(error)
    };
    let events = place.note().map_err(failed)?;
    let seen = node.snapshot()?;
    let mut worker =
        Worker { place, simulator, node, events, dice: Dice::new(seed), seen, tenants: Vec::new() };
    while place.goes_on(parent) {
        match worker.dice.below(20) {
            0..=9 => worker.apply()?,
            10..=15 => worker.lease()?,
            16 | 17 => {
                let recovered = worker.node.recover().map(|report| report.recovered.len());
                worker.done("recover", recovered.map(|count| count.to_string()))?;
            }
            _ => worker.cordon()?,
        }
        worker.look_after_tenants(false)?;
        sleep(Duration::from_millis(worker.dice.below(8) as u64));
    }
    worker.look_after_tenants(true)
}

/// The same node, where whoever changes a GPU is not alone.
fn unlocked(node: &Node) -> Node {
    let ports = node.ports().clone();
    let store = Arc::new(Flawed::unlocked(ports.store.clone()));
    Node::with_ports(Ports { store, ..ports }, node.is_simulated())
}

impl Worker<'_> {
    /// Notes how it ended, and what must not happen.
    fn done(&mut self, what: &str, result: Result<String>) -> std::result::Result<(), Ended> {
        match result {
            Ok(how) => {
                self.events.note(&format!("done {what} OK {how}"));
                Ok(())
            }
            Err(error) => {
                let gpu = error.gpu().and_then(|gpu| index(&self.seen, gpu));
                let at = gpu.map_or_else(|| "?".to_owned(), |gpu| gpu.to_string());
                let (code, outcome) = (error.code().name(), error.outcome());
                self.events.note(&format!("done {what} {code} gpu {at} {outcome}: {error}"));
                if may_happen(what, &error, gpu, self.place) {
                    let stuck = error.code() == ErrorCode::RecoveryRequired;
                    if stuck && gpu == Some(self.place.roles.other) && self.place.roles.person {
                        self.decide()?;
                    }
                    return Ok(());
                }
                Err(Ended::Violation(format!("{what} must not end so: {error:?}")))
            }
        }
    }

    /// As a person would who keeps the GPU as the other agent made it: sets aside what is of that GPU alone.
    fn decide(&mut self) -> std::result::Result<(), Ended> {
        let store = self.node.ports().store.clone();
        let other = self.place.roles.other;
        for name in store.list("journal")? {
            let text = store.read(&format!("journal/{name}"))?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let of = |gpu: &GpuSnapshot| text.contains(gpu.uuid.as_str());
            let gpus: Vec<usize> =
                (0..GPUS).filter(|gpu| self.seen.gpus.get(*gpu).is_some_and(of)).collect();
            if gpus == [other] {
                self.events.note("decides");
                let discarded = self.node.discard(&name);
                self.done("discard", discarded.map(|_| name))?;
            }
        }
        Ok(())
    }

    fn apply(&mut self) -> std::result::Result<(), Ended> {
        let first = self.dice.below(GPUS);
        let mut asked: Asked = vec![(first, self.dice.below(WANTED.len()))];
        if self.dice.once_in(4) {
            asked.push(((first + 1) % GPUS, self.dice.below(WANTED.len())));
        }
        // Only of that GPU: consent is for all of a spec.
        let evicts = asked.iter().all(|(gpu, _)| *gpu == self.place.roles.consent);
        let mut options = ApplyOptions::new()
            .allow_evict(evicts)
            .timeout(Some(Duration::from_millis([0, 0, 30, 300][self.dice.below(4)])));
        options.grace = Duration::from_millis(200);
        options.allow_hazards.push(HazardName::BypassPossible);
        self.events.note(&format!("asks {asked:?}"));
        let request = Request::Apply(spec(&asked)?);
        let stops = self.dice.once_in(8).then(|| 1 + self.dice.below(6));
        let progress = |event: &Event| match event {
            Event::Step { number, .. } if Some(*number) == stops => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let result = if self.dice.once_in(3) {
            // With a plan that it made a while ago.
            let planned = self.node.plan_request(&request);
            sleep(Duration::from_millis(self.dice.below(20) as u64));
            planned.and_then(|plan| self.node.apply_with(Source::Plan(&plan), &options, progress))
        } else {
            self.node.apply_with(Source::Request(&request), &options, progress)
        };
        self.done("apply", result.map(|report| format!("{} steps", report.steps)))
    }

    fn cordon(&mut self) -> std::result::Result<(), Ended> {
        let gpu = self.dice.below(GPUS);
        let Some(uuid) = self.seen.gpus.get(gpu).map(|gpu| gpu.uuid.clone()) else { return Ok(()) };
        let result = self.node.cordon(&uuid, "reliability together");
        self.done("cordon", result.map(|()| format!("gpu {gpu}")))?;
        sleep(Duration::from_millis(self.dice.below(15) as u64));
        let result = self.node.uncordon(&uuid);
        self.done("uncordon", result.map(|()| format!("gpu {gpu}")))
    }

    fn lease(&mut self) -> std::result::Result<(), Ended> {
        if self.dice.once_in(3) {
            self.seen = self.node.snapshot()?;
        }
        let profile = |name: &str| name.parse().map(LeaseRequest::mig);
        let request = match self.dice.below(5) {
            0 => profile("1g.10gb")?,
            1 => LeaseRequest::any_mig(),
            2 => LeaseRequest::gpu(self.dice.below(GPUS).to_string()),
            _ => LeaseRequest::any(),
        };
        let count = std::num::NonZeroU32::new(1 + u32::from(self.dice.once_in(4)));
        let timeout = Duration::from_millis([0, 40, 200][self.dice.below(3)]);
        let request =
            request.count(count.unwrap_or(std::num::NonZeroU32::MIN)).timeout(Some(timeout));
        // It has the slot of a share before it knows that it is given it, wherever that is.
        self.events.note(&format!("wants gpu={} or another", self.place.roles.consent));
        let leased = if self.dice.once_in(2) {
            self.node.lease_in(&self.seen, &request)
        } else {
            self.node.lease(&request)
        };
        let lease = match leased {
            Ok(lease) => lease,
            Err(error) => return self.done("lease", Err(error)),
        };
        let marks: std::result::Result<Vec<Mark>, String> =
            lease.shares().map(|share| Mark::stand(&self.place.marks(), share)).collect();
        let marks = marks.map_err(Ended::Violation)?;
        let grants: Vec<Grant> = lease.grants().to_vec();
        for grant in &grants {
            let gpu = index(&self.seen, &grant.gpu).unwrap_or_default();
            self.events.note(&format!("holds gpu={gpu} {}", grant.share));
        }
        self.use_it(&lease, &grants, &marks)?;
        for mark in &marks {
            mark.withdraw().map_err(Ended::Violation)?;
        }
        self.done("lease", lease.release().map(|()| String::new()))
    }

    fn use_it(
        &mut self,
        lease: &Lease,
        grants: &[Grant],
        marks: &[Mark],
    ) -> std::result::Result<(), Ended> {
        let (Some(grant), Some(mark)) = (grants.first(), marks.first()) else { return Ok(()) };
        // Whoever holds shares of several GPUs may be evicted from each of them.
        let gpus: Vec<usize> =
            grants.iter().filter_map(|grant| index(&self.seen, &grant.gpu)).collect();
        let consent = self.place.roles.consent;
        let gpu = if gpus.contains(&consent) {
            consent
        } else {
            gpus.first().copied().unwrap_or_default()
        };
        let stands = if self.dice.once_in(2) { self.stand(grant)? } else { None };
        if self.dice.once_in(3) {
            self.tenant(lease, grant, mark, gpu)?;
        }
        // Now and then so long that nobody's leaving can be taken for it.
        let most = if self.dice.once_in(6) { 600 } else { 40 };
        sleep(Duration::from_millis(self.dice.below(most) as u64));
        if let Some(before) = stands {
            let own = Pid::new(std::process::id());
            let processes = self.simulator.processes()?;
            let here = processes.iter().find(|process| process.pid == own);
            let undisturbed = here.is_some_and(|process| process.instance == before.instance);
            if !undisturbed && gpu != self.place.roles.consent {
                return Err(Ended::Violation(format!(
                    "a tenant of {} was disturbed without consent: it was {before:?}, and now {here:?}",
                    grant.share
                )));
            }
            if here.is_some() {
                self.simulator.idle(own)?;
            }
        }
        // Nobody but the other agent takes away what is leased.
        if gpu != self.place.roles.consent && gpu != self.place.roles.other {
            if let Err(error) = lease.check() {
                let recovery = error.code() == ErrorCode::RecoveryRequired;
                if grants.len() == 1 && !recovery {
                    return Err(Ended::Violation(format!("a lease is void: {error:?}")));
                }
            }
        }
        Ok(())
    }

    /// Works there, as far as the driver lets it. How it stands there then.
    fn stand(&mut self, grant: &Grant) -> std::result::Result<Option<Process>, Ended> {
        let own = Pid::new(std::process::id());
        let kind = if grant.is_mps() { ProcessKind::MpsClient } else { ProcessKind::Compute };
        let work = ProcessSpec::new("reliability").being(own).doing(kind);
        let simulator = &self.simulator;
        let came = match &grant.mig_device {
            Some(device) => simulator.busy(device, work),
            None => simulator.busy(&grant.gpu, work),
        };
        match came {
            Ok(_) => {
                let processes = simulator.processes()?;
                let here = processes.into_iter().find(|process| process.pid == own);
                let place = here.as_ref().map(|process| process.instance);
                self.events.note(&format!("stands on {} {place:?}", grant.share));
                Ok(here)
            }
            Err(error) => {
                self.events.note(&format!("done stand {}: {error}", error.code().name()));
                Ok(None)
            }
        }
    }

    /// A child that has the lease, and lives on if this process is killed.
    fn tenant(
        &mut self,
        lease: &Lease,
        grant: &Grant,
        mark: &Mark,
        gpu: usize,
    ) -> std::result::Result<(), Ended> {
        let failed =
            |error| Error::new(ErrorCode::Io, "a tenant does not start").with_source(error);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        lease.apply_to(&mut command)?;
        let hold = 10 + self.dice.below(250);
        command
            .args(["together-tenant", "--folder"])
            .arg(&self.place.folder)
            .arg("--mark")
            .arg(mark.path())
            .args(["--from", mark.token(), "--gpu", &gpu.to_string()])
            .args(["--hold-ms", &hold.to_string()])
            .stdin(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        self.events.note(&format!("tenant {} of gpu={gpu} {}", child.id(), grant.share));
        self.tenants.push(Tenant { child, gpu });
        Ok(())
    }

    /// Nobody ends them without consent, and what they find they say.
    fn look_after_tenants(&mut self, to_the_end: bool) -> std::result::Result<(), Ended> {
        let until = Instant::now() + Duration::from_secs(5);
        let mut left = Vec::new();
        for mut tenant in std::mem::take(&mut self.tenants) {
            let status = loop {
                match tenant.child.try_wait() {
                    Ok(None) if to_the_end && Instant::now() < until => {
                        sleep(Duration::from_millis(2));
                    }
                    status => break status,
                }
            };
            let Ok(Some(status)) = status else {
                left.push(tenant);
                continue;
            };
            let evicted = status.signal() == Some(SIGTERM);
            let consented = tenant.gpu == self.place.roles.consent;
            if !(status.success() || evicted && consented || status.signal() == Some(9)) {
                return Err(Ended::Violation(format!(
                    "tenant {} of gpu {} ended with {status}",
                    tenant.child.id(),
                    tenant.gpu
                )));
            }
        }
        self.tenants = left;
        Ok(())
    }
}

/// A child with a lease: says that it holds the share too, and stays a while.
pub(super) fn hold(
    place: &Place,
    mark: &Path,
    from: &str,
    gpu: usize,
    time: Duration,
) -> std::result::Result<(), Ended> {
    let failed = |error: std::io::Error| Ended::Violation(format!("no events: {error}"));
    let mut events = place.note().map_err(failed)?;
    let mark = Mark::join(mark, from).map_err(Ended::Violation)?;
    events.note(&format!("inherits gpu={gpu} {}", mark.path().display()));
    sleep(time);
    mark.withdraw().map_err(Ended::Violation)
}

/// Whether that is how it may end, beside others.
pub(super) fn may_happen(what: &str, error: &Error, gpu: Option<usize>, place: &Place) -> bool {
    use ErrorCode as Code;
    let beside_the_other = gpu.is_none_or(|gpu| gpu == place.roles.other);
    match (what, error.code()) {
        (_, Code::Stale | Code::Busy | Code::Locked | Code::Timeout) => true,
        // Work that came onto what a dead applier left is in its way, wherever it is.
        (_, Code::RecoveryRequired) => true,
        ("apply", Code::Interrupted) => true,
        // Somebody else settled it, or set it aside.
        ("discard", Code::NotFound) => true,
        // A change of MIG mode that waited was set aside: no one takes that back.
        ("apply", Code::ResetRequired) => place.roles.person && beside_the_other,
        // The other agent took the room, or what was to go.
        ("apply" | "recover", Code::Driver | Code::Insufficient | Code::NotFound) => {
            beside_the_other
        }
        ("lease", Code::NotFound | Code::Insufficient) => true,
        // A GPU has MIG on, or has it on no more.
        ("lease", Code::InvalidState) => {
            ["this node has no such share", "has MIG on", "is pending: "]
                .iter()
                .any(|known| error.message().contains(known))
        }
        _ => false,
    }
}

/// How often each ending came, for people.
pub(super) fn shown(counts: &BTreeMap<(String, String), usize>) -> String {
    let mut by: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((what, how), count) in counts {
        by.entry(what).or_default().push(format!("{how} {count}"));
    }
    let lines = by.iter().map(|(what, how)| format!("  {what}: {}\n", how.join(", ")));
    lines.collect()
}
