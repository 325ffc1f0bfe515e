//! Taking a lease: what is there, whose turn it is, and the slots.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::fork::Caller;
use crate::id::{GpuUuid, MigUuid, Pid, ShareId};
use crate::lease::grant::{grant, together};
use crate::lease::held::Held;
use crate::lease::leftover::leftovers;
use crate::lease::look::Look;
use crate::lease::pick::{Candidate, candidates};
use crate::lease::request::LeaseRequest;
use crate::lease::{Document, Lease, SCHEMA, create};
use crate::node::Node;
use crate::observe::{Scope, Witnesses};
use crate::port::{LeaseScope, Ports, Slot, Taken, Ticket, ancestry};
use crate::process::Holder;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::state::slot::{self, LeaseNote};
use crate::state::{journal, lock, record};
use crate::visible::{Standing, VisibleEntry, VisibleOutcome, resolve};

/// How often who waits is asked whether to stop.
const PROGRESS: Duration = Duration::from_millis(100);
/// How often who has others before them looks at the GPUs anew.
const SELDOM: Duration = Duration::from_secs(2);
/// How often what was looked at may turn out to be old before it counts as held.
const MOST_CHANGES: usize = 8;
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
#[derive(Debug, Default, Serialize, Deserialize)]
struct Wanted {
    devices: BTreeSet<String>,
    count: u32,
}

struct Acquire<'a> {
    node: &'a Node,
    ports: &'a Ports,
    request: &'a LeaseRequest,
    name: String,
    look: Look<'a>,
    /// This process, as notes name it.
    taker: (Pid, Option<u64>),
    ticket: Option<Box<dyn Ticket>>,
    /// Who was first in the queue, and since when no share lay free that we saw.
    first: Option<(String, Instant)>,
    /// What the tickets of others say: they do not change.
    tickets: BTreeMap<String, Wanted>,
    /// Tickets whose owners are gone, and which others must remove.
    gone: BTreeSet<String>,
    /// GPUs that an applier changes now.
    changing: BTreeSet<GpuUuid>,
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
    let mut acquire = Acquire {
        node,
        ports,
        request,
        name,
        look: Look::new(node),
        taker: (pid, start_time),
        ticket: None,
        first: None,
        tickets: BTreeMap::new(),
        gone: BTreeSet::new(),
        changing: BTreeSet::new(),
        created: Vec::new(),
    };
    let snapshot = match given {
        Some(snapshot) => Cow::Borrowed(snapshot),
        None => Cow::Owned(acquire.look.at(request)?),
    };
    let leased = acquire.run(snapshot, waiting);
    if let Ok(lease) = &leased {
        let shares = lease.grants().iter().map(|grant| grant.share.to_string());
        let shares: Vec<_> = shares.collect();
        tracing::debug!(target: "gpushare::lease", "took lease {} of {}", lease.name(), shares.join(", "));
    } else {
        // What was made for it is nobody's. In a forked child it is the parent's, and this does nothing.
        if let Err(error) = create::give_back(node, &acquire.created) {
            tracing::warn!(target: "gpushare::lease", %error, "a MIG device stays that was made for a lease");
        }
    }
    leased
}

/// What came of an attempt.
enum Attempt {
    Lease(Box<Lease>),
    /// Somebody else has it, or was quicker.
    Held,
    /// These are still on a share that is free, and may have been its last holder's.
    LeftOver(Vec<Holder>),
    /// The GPUs are not as they were when they were looked at.
    Changed,
}

impl Acquire<'_> {
    fn run(
        &mut self,
        mut snapshot: Cow<'_, Snapshot>,
        waiting: &mut dyn FnMut(&Wait) -> ControlFlow<()>,
    ) -> Result<Lease> {
        let start = Instant::now();
        let mut told = start;
        let mut looked = start;
        let mut poll = SOON;
        let mut left_over: Vec<Holder> = Vec::new();
        let mut changes = 0;
        let mut wanted = match self.candidates(&snapshot) {
            // It may be only that what was given is old.
            Err(_) if matches!(snapshot, Cow::Borrowed(_)) => {
                snapshot = Cow::Owned(self.look.at(self.request)?);
                self.candidates(&snapshot)?
            }
            found => found?,
        };
        loop {
            let devices = devices(&wanted);
            let ahead = self.ahead(&devices)?;
            if ahead.is_empty() || self.overtakes(&ahead, &wanted)? {
                match self.attempt(&snapshot, &wanted)? {
                    Attempt::Lease(lease) => return Ok(*lease),
                    Attempt::Changed if changes < MOST_CHANGES => {
                        changes += 1;
                        looked = Instant::now();
                        snapshot = Cow::Owned(self.look.at(self.request)?);
                        wanted = self.candidates(&snapshot)?;
                        continue;
                    }
                    Attempt::Held | Attempt::Changed => {}
                    Attempt::LeftOver(holders) => left_over = holders,
                }
                let count = self.request.count.get() as usize;
                if self.request.create
                    && self.created.len() < count
                    && wanted.iter().filter(|candidate| candidate.is_free()).count() < count
                {
                    let visible = |snapshot: &Snapshot| {
                        self.request.visible.as_ref().map(|list| visible(snapshot, list))
                    };
                    let made = create::create(self.node, self.request, visible);
                    snapshot = Cow::Owned(self.look.at(self.request)?);
                    wanted = self.candidates(&snapshot)?;
                    let full = |error: &Error| error.code() == ErrorCode::Insufficient;
                    let locked = |error: &Error| error.code() == ErrorCode::Locked;
                    match made {
                        Ok(made) => {
                            self.created.push(made);
                            continue;
                        }
                        // Another changes a GPU: that is over soon, and then there may be room.
                        Err(error) if full(&error) && !self.changing.is_empty() => {}
                        Err(error)
                            if locked(&error)
                                && self
                                    .request
                                    .timeout
                                    .is_none_or(|most| start.elapsed() < most) => {}
                        // It may have ended between the two looks.
                        Err(error) if full(&error) && changes < MOST_CHANGES => {
                            changes = MOST_CHANGES;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            let waited = start.elapsed();
            let late = self.request.timeout.is_some_and(|timeout| waited >= timeout);
            if late && matches!(snapshot, Cow::Borrowed(_)) {
                // What was given does not say who holds it now.
                snapshot = Cow::Owned(self.look.at(self.request)?);
                wanted = self.candidates(&snapshot)?;
                continue;
            }
            let changing = self.changing.clone();
            let wait = || Wait {
                what: self.request.what(),
                waited,
                ahead: ahead.len(),
                holders: holders(&wanted, &left_over),
            };
            if late {
                return Err(in_vain(&wait(), self.request.timeout, &changing));
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
            self.look.close();
            match (&mut self.ticket, ahead.last()) {
                // From here on it counts who came first.
                (None, _) => {
                    let content =
                        serde_json::to_vec(&Wanted { devices, count: self.request.count.get() })
                            .unwrap_or_default();
                    self.ticket = Some(self.ports.slots.join(&content)?);
                }
                (Some(ticket), Some(before)) => ticket.wait_for(before, most),
                (Some(ticket), None) => {
                    let told = ticket.wait_for_release(poll.min(most));
                    poll = if told { SOON } else { (poll * 2).min(LATE) };
                }
            }
            // Modes and layouts change, too. Whoever is not first can do nothing with it yet: a hundred
            // who wait must not keep the driver busy.
            let again = if ahead.is_empty() { PROGRESS } else { SELDOM };
            if looked.elapsed() >= again {
                looked = Instant::now();
                left_over.clear();
                snapshot = Cow::Owned(self.look.at(self.request)?);
                wanted = self.candidates(&snapshot)?;
            }
        }
    }

    fn candidates(&mut self, snapshot: &Snapshot) -> Result<Vec<Candidate>> {
        let at_work = |gpu: &&GpuSnapshot| {
            let journal = gpu.unsettled.as_ref();
            journal.is_some_and(|journal| is_at_work(self.ports, &gpu.uuid, journal))
        };
        self.changing = snapshot.gpus.iter().filter(at_work).map(|gpu| gpu.uuid.clone()).collect();
        let visible = self.request.visible.as_ref().map(|list| visible(snapshot, list));
        let ours = self.ours(snapshot);
        let found = candidates(snapshot, self.request, visible.as_ref(), &ours, &self.changing);
        match found {
            // It is over soon, and nobody knows what will be there then.
            Err(_) if !self.changing.is_empty() => Ok(Vec::new()),
            // What is not there can be made.
            Err(error)
                if self.request.create
                    && self.created.len() < self.request.count.get() as usize
                    && error.code() == ErrorCode::Insufficient =>
            {
                Ok(Vec::new())
            }
            found => found,
        }
    }

    /// The processes on GPUs that are this one, the one that the lease is for, or children of theirs.
    fn ours(&self, snapshot: &Snapshot) -> BTreeSet<Pid> {
        let on_gpus = snapshot.gpus.iter().flat_map(|gpu| &gpu.processes);
        let pids: BTreeSet<Pid> = on_gpus.map(|process| process.holder.pid).collect();
        pids.into_iter().filter(|pid| self.is_ours(*pid)).collect()
    }

    /// The tickets that count before ours for shares of these devices; the last of them is alive.
    fn ahead(&mut self, devices: &BTreeSet<String>) -> Result<Vec<String>> {
        let slots = self.ports.slots.as_ref();
        let mut before = slots.queue()?;
        if let Some(ticket) = &self.ticket {
            let own = ticket.name();
            before.retain(|name| name.as_str() < own);
        }
        // Sorted, as they are.
        self.tickets.retain(|name, _| before.binary_search(name).is_ok());
        before.retain(|name| !self.gone.contains(name));
        let mut ahead = Vec::new();
        for name in before {
            let theirs = self.tickets.entry(name.clone()).or_insert_with(|| {
                let content = slots.ticket(&name).unwrap_or_default();
                let wanted = serde_json::from_slice::<Wanted>(&content);
                // What is no ticket stands in nobody's way.
                wanted.unwrap_or_default()
            });
            if !theirs.devices.is_disjoint(devices) {
                ahead.push(name);
            }
        }
        while let Some(last) = ahead.pop() {
            if slots.still_waits(&last) {
                ahead.push(last);
                break;
            }
            self.gone.insert(last);
        }
        Ok(ahead)
    }

    /// Whether who is first lets a free share lie: it was stopped, or is no caller of gpushare's. Who wants
    /// several at once is given time until they are together.
    fn overtakes(&mut self, ahead: &[String], wanted: &[Candidate]) -> Result<bool> {
        let Some(first) = ahead.first() else { return Ok(false) };
        let since = match &self.first {
            Some((name, since)) if name == first => *since,
            _ => {
                self.first = Some((first.clone(), Instant::now()));
                return Ok(false);
            }
        };
        let several = self.tickets.get(first).is_some_and(|ticket| ticket.count > 1);
        if since.elapsed() < if several { OVERTAKEN_WITH_SEVERAL } else { OVERTAKEN } {
            return Ok(false);
        }
        let held: BTreeSet<ShareId> =
            self.ports.slots.held()?.into_iter().map(|slot| slot.share).collect();
        let lies = |candidate: &Candidate| candidate.open && !held.contains(&candidate.share);
        let lie = wanted.iter().any(lies);
        if !lie {
            // It waits as everybody does.
            self.first = Some((first.clone(), Instant::now()));
        }
        Ok(lie)
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
                attempt => return Ok(attempt),
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
        let mut held = false;
        let mut left_over: Vec<Holder> = Vec::new();
        for candidate in wanted {
            let slot = match self.slot(candidate) {
                Ok(Some(slot)) => slot,
                Ok(None) => {
                    held = true;
                    continue;
                }
                Err(error) if error.code() == ErrorCode::Stale => return Ok(Attempt::Changed),
                // Another may do: one that is broken must not bar them all.
                Err(error) => {
                    missing.get_or_insert(error);
                    continue;
                }
            };
            let others = leftovers(
                self.ports,
                &self.look,
                &slot,
                candidate,
                &|pid| self.is_ours(pid),
                self.taker,
            );
            let others = match others {
                Err(error) if error.code() == ErrorCode::Stale => return Ok(Attempt::Changed),
                others => others?,
            };
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
            // Who waits can still have one that others hold.
            Some(_) if held && self.request.timeout != Some(Duration::ZERO) => Ok(Attempt::Held),
            Some(error) if left_over.is_empty() => Err(error),
            _ if left_over.is_empty() => Ok(Attempt::Held),
            _ => Ok(Attempt::LeftOver(left_over)),
        }
    }

    /// The slot of a share, if it is free; it is made where there is none.
    ///
    /// # Errors
    /// STALE when there is no such share any more; as [`Slots::try_take`](crate::port::Slots::try_take).
    fn slot(&self, candidate: &Candidate) -> Result<Option<Slot>> {
        match self.ports.slots.try_take(&candidate.share)? {
            Taken::Slot(slot) => return Ok(Some(slot)),
            Taken::Held => return Ok(None),
            Taken::Missing => self.make(candidate)?,
        }
        match self.ports.slots.try_take(&candidate.share)? {
            Taken::Slot(slot) => Ok(Some(slot)),
            // Removed from under its holder, who has it still.
            Taken::Held | Taken::Missing => Ok(None),
        }
    }

    fn is_ours(&self, pid: Pid) -> bool {
        let is_root = |pid| pid == self.taker.0 || Some(pid) == self.request.for_pid;
        ancestry(self.ports.processes.as_ref(), pid).any(is_root)
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
        let shares = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares);
        let shares: Vec<_> = shares.map(|share| share.id.clone()).collect();
        slots.prepare(&shares)?;
        if shares.contains(&candidate.share) {
            return Ok(());
        }
        let message = format!("share {} is no more: its GPU was changed", candidate.share);
        Err(Error::new(ErrorCode::Stale, message).of_gpu(&candidate.gpu))
    }

    /// The slots are ours: what they are of must still be there, and is noted.
    fn settle(&self, snapshot: &Snapshot, taken: Vec<(Slot, GpuUuid)>) -> Result<Attempt> {
        let unsettled = journal::unsettled(self.ports.store.as_ref())?;
        if let Some((gpu, journal)) =
            taken.iter().find_map(|(_, gpu)| Some((gpu, unsettled.get(gpu)?)))
        {
            if is_at_work(self.ports, gpu, journal) {
                return Ok(Attempt::Changed);
            }
            return Err(Error::new(
                ErrorCode::RecoveryRequired,
                format!("a change of GPU {gpu} was not finished ({journal}): `gpushare recover` settles it"),
            )
            .of_gpu(gpu));
        }
        let mut grants = Vec::new();
        for (position, (slot, gpu)) in taken.iter().enumerate() {
            let Some(there) = snapshot.gpu(gpu) else { return Ok(Attempt::Changed) };
            // Shares of other modes have the same names. While we have the slot it stays as it is.
            let known = taken.iter().take(position).any(|(_, known)| known == gpu);
            if !known && record::of(self.ports.store.as_ref(), gpu)? != there.record {
                return Ok(Attempt::Changed);
            }
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
        let held = Held::new(slots);
        let handed_on = false.into();
        let caller = Caller::this();
        Ok(Attempt::Lease(Box::new(Lease { node, document, held, handed_on, caller, created })))
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
        let slots = self.ports.slots.as_ref();
        let held = slots.held()?;
        let notes = slot::read(slots, None)?;
        let mut witnesses = Witnesses::new(slots, self.ports.processes.as_ref());
        let (mut threads, mut bytes) = (0.0, 0_u128);
        for slot in held.iter().filter(|slot| slot.share.device() == device) {
            let Some(noted) = witnesses.tenant(slot, &notes).note else { continue };
            let terms = noted.note.terms;
            threads += terms.thread_percentage.map_or(0.0, |percentage| percentage.get());
            bytes += terms.pinned_memory_limit.map_or(0, |limit| u128::from(limit.get()));
        }
        Ok(threads <= 100.001 && memory.is_none_or(|memory| bytes <= u128::from(memory.get())))
    }
}

/// How long who is first may let a free share lie before others take it.
const OVERTAKEN: Duration = Duration::from_secs(1);
const OVERTAKEN_WITH_SEVERAL: Duration = Duration::from_secs(30);

/// How long a change of a GPU is waited for at least, where a slot must be made.
const MAKING: Duration = Duration::from_secs(2);

/// Whether the applier that wrote a journal is still at it: then it is no matter of recovery.
fn is_at_work(ports: &Ports, gpu: &GpuUuid, journal: &str) -> bool {
    let there =
        || journal::has_living_applier(ports.store.as_ref(), ports.processes.as_ref(), journal);
    if !there() {
        return false;
    }
    match ports.store.try_lock(&format!("lock/{gpu}.lock")) {
        // It gave up, or is done by now.
        Ok(Some(_lock)) => {
            journal::read(ports.store.as_ref(), journal).is_ok_and(|found| found.is_none())
        }
        Ok(None) => true,
        // This user may not ask.
        Err(_) => true,
    }
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

fn in_vain(wait: &Wait, timeout: Option<Duration>, changing: &BTreeSet<GpuUuid>) -> Error {
    let names: Vec<_> = wait.holders.iter().take(8).map(ToString::to_string).collect();
    let mut why = match names.len() {
        0 => match changing.first() {
            Some(gpu) => format!("GPU {gpu} is being changed now"),
            None => "others hold it".to_owned(),
        },
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
