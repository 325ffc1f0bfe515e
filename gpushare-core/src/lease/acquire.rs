//! Taking a lease: what is there, whose turn it is, and the slots.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, MigUuid, Pid, ShareId};
use crate::lease::grant::{grant, together};
use crate::lease::held::Held;
use crate::lease::leftover::leftovers;
use crate::lease::pick::{Candidate, candidates};
use crate::lease::request::LeaseRequest;
use crate::lease::{Document, Lease, SCHEMA, create};
use crate::node::Node;
use crate::observe::Scope;
use crate::port::{LeaseScope, Ports, Slot, Taken, Ticket};
use crate::process::Holder;
use crate::snapshot::Snapshot;
use crate::state::slot::{self, LeaseNote};
use crate::state::{journal, lock};
use crate::visible::{Standing, VisibleEntry, VisibleOutcome, resolve};

/// How often who waits is asked whether to stop.
const PROGRESS: Duration = Duration::from_millis(100);
/// How often who is first in the queue tries.
const SOON: Duration = Duration::from_micros(100);
const LATE: Duration = Duration::from_millis(5);

/// Who is in the way of somebody who waits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wait {
    /// What was asked for.
    pub what: String,
    /// Since when.
    pub waited: Duration,
    /// How many came before, for shares of the same devices.
    pub ahead: usize,
    /// Who holds what would do, as far as is known.
    pub holders: Vec<Holder>,
}

/// What a ticket says: of which devices its owner waits for shares.
#[derive(Serialize, Deserialize)]
struct Wanted {
    devices: BTreeSet<String>,
}

struct Acquire<'a> {
    node: &'a Node,
    ports: &'a Ports,
    request: &'a LeaseRequest,
    name: String,
    /// This process, as notes name it.
    taker: (Pid, Option<u64>),
    ticket: Option<Box<dyn Ticket>>,
    /// What the tickets of others say: they do not change.
    tickets: BTreeMap<String, BTreeSet<String>>,
    created: Vec<MigUuid>,
}

pub(super) fn acquire(
    node: &Node,
    given: Option<&Snapshot>,
    request: &LeaseRequest,
    waiting: &mut dyn FnMut(&Wait) -> ControlFlow<()>,
) -> Result<Lease> {
    request.check()?;
    let ports = node.ports();
    let pid = ports.processes.own_pid();
    let start_time = ports.processes.own_start_time();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{:x}-{:x}-{number:x}", start_time.unwrap_or_default(), pid.get());
    let acquire = Acquire {
        node,
        ports,
        request,
        name,
        taker: (pid, start_time),
        ticket: None,
        tickets: BTreeMap::new(),
        created: Vec::new(),
    };
    let snapshot = match given {
        Some(snapshot) => Cow::Borrowed(snapshot),
        None => Cow::Owned(node.snapshot()?),
    };
    acquire.run(snapshot, waiting)
}

/// What came of an attempt.
enum Attempt {
    Lease(Box<Lease>),
    /// Somebody else has it, or was quicker.
    Held,
    /// These are still on a share that is free, and may have been its last holder's.
    LeftOver(Vec<Holder>),
}

impl Acquire<'_> {
    fn run(
        mut self,
        mut snapshot: Cow<'_, Snapshot>,
        waiting: &mut dyn FnMut(&Wait) -> ControlFlow<()>,
    ) -> Result<Lease> {
        let start = Instant::now();
        let mut told = start;
        let mut looked = start;
        let mut poll = SOON;
        let mut left_over: Vec<Holder> = Vec::new();
        let mut wanted = self.candidates(&snapshot)?;
        loop {
            let devices = devices(&wanted);
            let ahead = self.ahead(&devices)?;
            if ahead.is_empty() {
                match self.attempt(&snapshot, &wanted)? {
                    Attempt::Lease(lease) => return Ok(*lease),
                    Attempt::Held => {}
                    Attempt::LeftOver(holders) => left_over = holders,
                }
                if self.request.create && !wanted.iter().any(Candidate::is_free) {
                    let made = create::create(self.node, self.request, |_| None)?;
                    self.created.push(made);
                    snapshot = Cow::Owned(self.node.snapshot()?);
                    wanted = self.candidates(&snapshot)?;
                    continue;
                }
            }
            let waited = start.elapsed();
            let wait = || Wait {
                what: self.request.what(),
                waited,
                ahead: ahead.len(),
                holders: holders(&wanted, &left_over),
            };
            if self.request.timeout.is_some_and(|timeout| waited >= timeout) {
                return Err(in_vain(&wait(), self.request.timeout));
            }
            if told.elapsed() >= PROGRESS || self.ticket.is_none() {
                told = Instant::now();
                if waiting(&wait()).is_break() {
                    let what = self.request.what();
                    let message = format!("stopped while waiting for {what}");
                    return Err(Error::new(ErrorCode::Interrupted, message));
                }
            }
            let left = self.request.timeout.map(|timeout| timeout.saturating_sub(waited));
            let most = left.unwrap_or(PROGRESS).min(PROGRESS);
            match (&mut self.ticket, ahead.last()) {
                // From here on it counts who came first.
                (None, _) => {
                    let content = serde_json::to_vec(&Wanted { devices }).unwrap_or_default();
                    self.ticket = Some(self.ports.slots.join(&content)?);
                }
                (Some(ticket), Some(before)) => ticket.wait_for(before, most),
                (Some(_), None) => {
                    std::thread::sleep(poll.min(most));
                    poll = (poll * 2).min(LATE);
                }
            }
            // Modes and layouts change, too.
            if looked.elapsed() >= PROGRESS {
                looked = Instant::now();
                left_over.clear();
                snapshot = Cow::Owned(self.node.snapshot()?);
                wanted = self.candidates(&snapshot)?;
            }
        }
    }

    fn candidates(&self, snapshot: &Snapshot) -> Result<Vec<Candidate>> {
        let visible = self.request.visible.as_ref().map(|list| visible(snapshot, list));
        let ours = self.ours(snapshot);
        let found = candidates(snapshot, self.request, visible.as_ref(), &ours);
        match found {
            // What is not there can be made.
            Err(error) if self.request.create && error.code() == ErrorCode::Insufficient => {
                Ok(Vec::new())
            }
            found => found,
        }
    }

    /// The processes on GPUs that are this one, the one that the lease is for, or children of theirs.
    fn ours(&self, snapshot: &Snapshot) -> BTreeSet<Pid> {
        let roots: BTreeSet<Pid> =
            [Some(self.taker.0), self.request.for_pid].into_iter().flatten().collect();
        let on_gpus = snapshot.gpus.iter().flat_map(|gpu| &gpu.processes);
        let pids: BTreeSet<Pid> = on_gpus.map(|process| process.holder.pid).collect();
        let processes = self.ports.processes.as_ref();
        pids.into_iter().filter(|pid| descends(processes, *pid, &roots)).collect()
    }

    /// The tickets that count before ours for shares of these devices; the last of them is alive.
    fn ahead(&mut self, devices: &BTreeSet<String>) -> Result<Vec<String>> {
        let slots = self.ports.slots.as_ref();
        let mut before = slots.queue()?;
        if let Some(ticket) = &self.ticket {
            let own = ticket.name();
            before.retain(|name| name.as_str() < own);
        }
        self.tickets.retain(|name, _| before.contains(name));
        let mut ahead = Vec::new();
        for name in before {
            let theirs = self.tickets.entry(name.clone()).or_insert_with(|| {
                let content = slots.ticket(&name).unwrap_or_default();
                let wanted = serde_json::from_slice::<Wanted>(&content);
                // What is no ticket stands in nobody's way.
                wanted.map(|wanted| wanted.devices).unwrap_or_default()
            });
            if !theirs.is_disjoint(devices) {
                ahead.push(name);
            }
        }
        while ahead.last().is_some_and(|last| !slots.still_waits(last)) {
            ahead.pop();
        }
        Ok(ahead)
    }

    fn attempt(&self, snapshot: &Snapshot, wanted: &[Candidate]) -> Result<Attempt> {
        // A process is the client of one MPS daemon only: its shares are of one device.
        let mut tried: BTreeSet<&str> = BTreeSet::new();
        let mut last = Attempt::Held;
        for (position, first) in wanted.iter().enumerate() {
            let device = first.share.device();
            if !first.open || !tried.insert(if first.mps { device } else { "" }) {
                continue;
            }
            let alike = wanted.iter().skip(position).filter(|candidate| {
                candidate.open
                    && candidate.mps == first.mps
                    && (!first.mps || candidate.share.device() == device)
            });
            match self.take(snapshot, alike)? {
                Attempt::Held => {}
                Attempt::LeftOver(holders) => last = Attempt::LeftOver(holders),
                lease => return Ok(lease),
            }
        }
        Ok(last)
    }

    /// Takes as many of these as are wanted, or none.
    fn take<'c>(
        &self,
        snapshot: &Snapshot,
        wanted: impl Iterator<Item = &'c Candidate>,
    ) -> Result<Attempt> {
        let count = self.request.count.get() as usize;
        let mut taken: Vec<(Slot, GpuUuid)> = Vec::new();
        let mut missing = None;
        let mut left_over: Vec<Holder> = Vec::new();
        for candidate in wanted {
            let slot = match self.ports.slots.try_take(&candidate.share)? {
                Taken::Slot(slot) => slot,
                Taken::Held => continue,
                Taken::Missing => match self.make(candidate) {
                    Ok(()) => match self.ports.slots.try_take(&candidate.share)? {
                        Taken::Slot(slot) => slot,
                        Taken::Held | Taken::Missing => continue,
                    },
                    Err(error) => {
                        missing.get_or_insert(error);
                        continue;
                    }
                },
            };
            let others = leftovers(
                self.ports,
                self.node,
                &slot,
                candidate,
                &|pid| self.is_ours(pid),
                self.taker,
            )?;
            if !others.is_empty() {
                left_over.extend(others);
                continue;
            }
            taken.push((slot, candidate.gpu.clone()));
            if taken.len() == count {
                return self.settle(snapshot, taken);
            }
        }
        match missing {
            Some(error) if left_over.is_empty() => Err(error),
            _ if left_over.is_empty() => Ok(Attempt::Held),
            _ => Ok(Attempt::LeftOver(left_over)),
        }
    }

    fn is_ours(&self, pid: Pid) -> bool {
        let roots = [Some(self.taker.0), self.request.for_pid].into_iter().flatten().collect();
        descends(self.ports.processes.as_ref(), pid, &roots)
    }

    /// Makes the slots of a GPU whose share has none, while nobody changes the GPU.
    fn make(&self, candidate: &Candidate) -> Result<()> {
        let slots = self.ports.slots.as_ref();
        if !slots.may_prepare() {
            return slots.prepare(&[]);
        }
        let gpus = [candidate.gpu.clone()];
        let timeout = Some(self.request.timeout.unwrap_or(MAKING).max(MAKING));
        let (store, clock) = (self.ports.store.as_ref(), self.ports.clock.as_ref());
        let _lock =
            lock::acquire(store, clock, &gpus, timeout, &mut |_| ControlFlow::Continue(()))?;
        let snapshot = self.node.observer()?.snapshot(&Scope::gpus(gpus))?;
        // Somebody may hold one that was removed from under them.
        let held: BTreeSet<ShareId> = slots.openers().into_iter().map(|(share, _)| share).collect();
        let shares = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares);
        let shares = shares.map(|share| share.id.clone()).filter(|share| !held.contains(share));
        slots.prepare(&shares.collect::<Vec<_>>())
    }

    /// The slots are ours: what they are of must still be there, and is noted.
    fn settle(&self, snapshot: &Snapshot, taken: Vec<(Slot, GpuUuid)>) -> Result<Attempt> {
        let unsettled = journal::unsettled(self.ports.store.as_ref())?;
        if let Some((gpu, journal)) =
            taken.iter().find_map(|(_, gpu)| Some((gpu, unsettled.get(gpu)?)))
        {
            return Err(Error::new(
                ErrorCode::RecoveryRequired,
                format!("a change of GPU {gpu} was not finished ({journal}): `gpushare recover` settles it"),
            )
            .of_gpu(gpu));
        }
        let gone = |gpu: &GpuUuid| {
            Error::new(ErrorCode::Stale, format!("GPU {gpu} is not in the snapshot")).of_gpu(gpu)
        };
        let mut grants = Vec::new();
        for (slot, gpu) in &taken {
            let there = snapshot.gpu(gpu).ok_or_else(|| gone(gpu))?;
            let devices = self.ports.devices.as_ref();
            grants.push(grant(there, &slot.share, &self.request.terms, devices)?);
        }
        let (variables, unset) = together(&self.name, &grants)?;
        let clock = self.ports.clock.as_ref();
        let mut note =
            LeaseNote::new(self.name.clone(), self.taker, clock.ticks(), clock.unix_time());
        note.terms = self.request.terms;
        note.for_pid = self.request.for_pid;
        for (slot, _) in &taken {
            slot::write(self.ports.slots.as_ref(), &slot.share, &note)?;
        }
        if !self.request.terms.is_empty() && !self.within(snapshot, &taken)? {
            return Ok(Attempt::Held);
        }
        let document = Document {
            schema: SCHEMA,
            simulated: self.node.is_simulated(),
            name: self.name.clone(),
            scope: self.ports.slots.scope(),
            shares: grants,
            variables,
            unset,
        };
        let slots = taken.into_iter().map(|(slot, _)| slot).collect();
        let created = if self.request.give_back { self.created.clone() } else { Vec::new() };
        let node = self.node.clone();
        Ok(Attempt::Lease(Box::new(Lease { node, document, held: Held::new(slots), created })))
    }

    /// Whether what all leases of an MPS daemon have declared is within what it has, now that ours is
    /// noted too. Of two who promise the same at once, at least one sees the other.
    fn within(&self, snapshot: &Snapshot, taken: &[(Slot, GpuUuid)]) -> Result<bool> {
        let Some((slot, gpu)) = taken.first() else { return Ok(true) };
        let device = slot.share.device();
        let gpu = snapshot.gpu(gpu);
        let memory = gpu.and_then(|gpu| match gpu.mig_device(&slot.share) {
            Some(device) => device.memory,
            None => gpu.memory,
        });
        let held: BTreeSet<ShareId> = self
            .ports
            .slots
            .held()?
            .into_iter()
            .map(|slot| slot.share)
            .filter(|share| share.device() == device)
            .collect();
        let notes = slot::read(self.ports.slots.as_ref(), None)?;
        let mut newest: BTreeMap<&ShareId, &LeaseNote> = BTreeMap::new();
        for noted in notes.iter().filter(|noted| held.contains(&noted.share)) {
            let known = newest.entry(&noted.share).or_insert(&noted.note);
            if noted.note.taken > known.taken {
                *known = &noted.note;
            }
        }
        let threads: f64 =
            newest.values().filter_map(|note| note.terms.thread_percentage).map(|p| p.get()).sum();
        let bytes: u128 = newest
            .values()
            .filter_map(|note| note.terms.pinned_memory_limit)
            .map(|limit| u128::from(limit.get()))
            .sum();
        Ok(threads <= 100.001 && memory.is_none_or(|memory| bytes <= u128::from(memory.get())))
    }
}

/// How long a change of a GPU is waited for at least, where a slot must be made.
const MAKING: Duration = Duration::from_secs(2);

/// Whether a process is one of these, or a child of one.
fn descends(processes: &dyn crate::port::Processes, pid: Pid, roots: &BTreeSet<Pid>) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| seen.insert(*pid)) {
        if roots.contains(&pid) {
            return true;
        }
        next = processes.facts(pid).and_then(|facts| facts.parent);
    }
    false
}

fn devices(wanted: &[Candidate]) -> BTreeSet<String> {
    wanted.iter().map(|candidate| candidate.share.device().to_owned()).collect()
}

fn holders(wanted: &[Candidate], left_over: &[Holder]) -> Vec<Holder> {
    let held = wanted.iter().flat_map(|candidate| &candidate.held_by);
    let mut holders: Vec<Holder> = held.chain(left_over).cloned().collect();
    holders.sort();
    holders.dedup_by_key(|holder| holder.pid);
    holders
}

fn in_vain(wait: &Wait, timeout: Option<Duration>) -> Error {
    let names: Vec<_> = wait.holders.iter().take(8).map(ToString::to_string).collect();
    let mut why = match names.len() {
        0 => "others hold it".to_owned(),
        _ => format!("held by {}", names.join(", ")),
    };
    if wait.holders.len() > names.len() {
        why.push_str(&format!(" and {} more", wait.holders.len() - names.len()));
    }
    if wait.ahead > 0 {
        why.push_str(&format!(
            "; {} came before and wait",
            crate::terminal::count(wait.ahead, "caller")
        ));
    }
    let what = &wait.what;
    let error = match timeout {
        Some(Duration::ZERO) => Error::new(
            ErrorCode::Busy,
            format!("nothing is free of what was asked for, {what}: {why}; wait with a timeout"),
        ),
        _ => Error::new(
            ErrorCode::Timeout,
            format!("waited {:.1} s for {what}: {why}", wait.waited.as_secs_f64()),
        ),
    };
    error.with_holders(wait.holders.clone())
}

/// The devices that a `CUDA_VISIBLE_DEVICES` names up to where CUDA ends the list: the GPU that is named
/// as a whole while MIG is on there stands for its MIG devices.
fn visible(snapshot: &Snapshot, list: &str) -> BTreeSet<String> {
    let resolved = resolve(snapshot, Some(list));
    if resolved.outcome == VisibleOutcome::InvalidDevice {
        return BTreeSet::new();
    }
    let counts = |entry: &&VisibleEntry| {
        matches!(entry.standing, Standing::Counts | Standing::NotShown | Standing::Unknown)
    };
    let named: Vec<&str> =
        resolved.entries.iter().filter(counts).filter_map(|entry| entry.uuid.as_deref()).collect();
    let mut devices = BTreeSet::new();
    for gpu in &snapshot.gpus {
        let whole = named.contains(&gpu.uuid.as_str());
        if whole {
            devices.insert(gpu.uuid.to_string());
        }
        let migs = gpu.mig_devices.iter().map(|device| device.uuid.to_string());
        devices.extend(migs.filter(|uuid| whole || named.contains(&uuid.as_str())));
    }
    devices
}

/// A scope that holds for this user alone is said in every list.
pub(super) const fn scope_note(scope: LeaseScope) -> Option<&'static str> {
    match scope {
        LeaseScope::Private => Some("scope private: other users do not see these leases"),
        LeaseScope::Node => None,
    }
}
