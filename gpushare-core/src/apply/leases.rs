//! Shares that a plan destroys or alters: held while it is applied, so that nobody leases them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::apply::report::Recreated;
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid, ShareId};
use crate::observe::{Observer, Scope};
use crate::plan::Plan;
use crate::plan::shares::{doomed, void_leases};
use crate::port::{LeaseScope, Ports, Slot, Taken};
use crate::process::{Holder, HolderKind};
use crate::snapshot::Snapshot;
use crate::state::journal::Header;

/// How long the kernel may take to let go of what an ended process held.
const AFTER_EVICTION: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Slots that are held so that nobody leases what changes.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    slots: Vec<Slot>,
    /// Leased now: free when their holders were ended, by consent.
    leased: Vec<(GpuUuid, ShareId)>,
    gpus: Vec<GpuUuid>,
}

/// Takes the slots of all shares that go or become others, as far as they are free.
///
/// # Errors
/// BUSY when somebody leased one since the snapshot; PERMISSION_DENIED, IO. Nothing is held then.
pub(super) fn reserve(ports: &Ports, plan: &Plan, snapshot: &Snapshot) -> Result<Reserved> {
    let mut reserved = Reserved::default();
    let mut missing = Vec::new();
    for planned in plan.changed() {
        let Some(gpu) = snapshot.gpu(&planned.uuid) else { continue };
        reserved.gpus.push(gpu.uuid.clone());
        for share in void_leases(snapshot, gpu) {
            reserved.leased.push((gpu.uuid.clone(), share.id.clone()));
        }
        for share in doomed(gpu, planned) {
            let known = gpu.shares.iter().find(|known| known.id == share);
            if known.is_some_and(|share| share.is_leased()) {
                reserved.leased.push((gpu.uuid.clone(), share));
                continue;
            }
            match ports.slots.try_take(&share)? {
                Taken::Slot(slot) => reserved.slots.push(slot),
                Taken::Missing => missing.push((gpu.uuid.clone(), share)),
                Taken::Held => return Err(held(ports, &gpu.uuid, &share)),
            }
        }
    }
    // Without a slot nobody has it, unless the slot was removed from under its holder; and nobody gets
    // one while the GPU is locked.
    if !missing.is_empty() {
        let openers = ports.slots.openers();
        let own = ports.processes.own_pid();
        let is_held = |share: &ShareId| openers.iter().any(|(s, pid)| s == share && *pid != own);
        if let Some((gpu, share)) = missing.iter().find(|(_, share)| is_held(share)) {
            return Err(held(ports, gpu, share));
        }
    }
    Ok(reserved)
}

impl Reserved {
    /// All of them, those that are still leased included.
    pub(super) fn shares(&self) -> Vec<ShareId> {
        let held = self.slots.iter().map(|slot| slot.share.clone());
        held.chain(self.leased.iter().map(|(_, share)| share.clone())).collect()
    }

    /// Takes the slots whose holders were ended.
    ///
    /// # Errors
    /// BUSY when somebody holds on to one.
    pub(super) fn take_the_rest(&mut self, ports: &Ports) -> Result<()> {
        let start = ports.clock.time_of_others();
        while let Some((gpu, share)) = self.leased.pop() {
            loop {
                match ports.slots.try_take(&share)? {
                    Taken::Slot(slot) => self.slots.push(slot),
                    Taken::Missing => {}
                    Taken::Held => {
                        let waited = ports.clock.time_of_others().saturating_sub(start);
                        if waited >= AFTER_EVICTION {
                            return Err(held(ports, &gpu, &share));
                        }
                        ports.clock.wait_for_others(POLL);
                        continue;
                    }
                }
                break;
            }
        }
        Ok(())
    }

    /// The change was undone, and these are other devices now: whoever leases by an old snapshot takes a slot
    /// for its share.
    pub(super) fn retire_recreated(&self, ports: &Ports, recreated: &[Recreated]) {
        let gone = |slot: &&Slot| recreated.iter().any(|d| d.old.as_str() == slot.share.device());
        for slot in self.slots.iter().filter(gone) {
            if let Err(error) = ports.slots.retire(slot) {
                warn(&error);
            }
        }
    }

    /// The change is made: what was held is no share any more. Before its journal is settled, since until then
    /// nothing of its GPUs is leased: whoever is killed in between leaves no slot of a share that is no more.
    pub(super) fn retire(&self, ports: &Ports) {
        for slot in &self.slots {
            if let Err(error) = ports.slots.retire(slot) {
                warn(&error);
            }
        }
    }

    /// The change stands: the shares that are get slots. What fails here costs nobody anything: a share without
    /// a slot gets one when root looks.
    pub(super) fn commit(self, ports: &Ports, observer: &mut Observer) {
        // What was removed from under a holder is not made again.
        drop(self.slots);
        // Elsewhere who leases makes the slot.
        if ports.slots.scope() == LeaseScope::Private || !ports.slots.may_prepare() {
            return;
        }
        let prepared = observer.snapshot(&Scope::gpus(self.gpus)).and_then(|snapshot| {
            let shares = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares);
            let shares: BTreeSet<_> = shares.map(|share| share.id.clone()).collect();
            ports.slots.prepare(&shares.into_iter().collect::<Vec<_>>())
        });
        if let Err(error) = prepared {
            warn(&error);
        }
    }
}

fn warn(error: &Error) {
    tracing::warn!(target: "gpushare::lease", %error, "slots are not as the shares are");
}

/// Removes the slots of MIG devices of a change that is being settled and that are no more, or have other names
/// since it was undone: whoever leases by an old snapshot takes a slot for its share. While there is a journal
/// nothing of its GPUs is leased.
pub(super) fn retire_gone(ports: &Ports, simulated: bool, header: &Header) {
    let devices = || header.gpus.iter().flat_map(|gpu| &gpu.devices);
    if devices().next().is_none() {
        return;
    }
    let scope = Scope::gpus(header.gpus.iter().map(|gpu| gpu.uuid.clone()));
    let snapshot =
        match Observer::open(ports, simulated).and_then(|mut observer| observer.snapshot(&scope)) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn(&error);
                return;
            }
        };
    let there: BTreeSet<_> =
        snapshot.gpus.iter().flat_map(|gpu| &gpu.mig_devices).map(|device| &device.uuid).collect();
    for gone in devices().map(|device| &device.uuid).filter(|uuid| !there.contains(uuid)) {
        let parts = (0..).map(|number| ShareId::part(gone.as_str(), number));
        let _ = retire_one(ports, &ShareId::whole(gone.as_str()));
        // Slots of parts are made and removed together.
        for part in parts {
            if !retire_one(ports, &part) {
                break;
            }
        }
    }
}

/// Removes the slot of a share that is no more, unless somebody has it. Whether there was one.
fn retire_one(ports: &Ports, share: &ShareId) -> bool {
    match ports.slots.try_take(share) {
        Ok(Taken::Slot(slot)) => ports.slots.retire(&slot).is_ok(),
        Ok(Taken::Held) => true,
        Ok(Taken::Missing) | Err(_) => false,
    }
}

fn held(ports: &Ports, gpu: &GpuUuid, share: &ShareId) -> Error {
    let openers = ports.slots.openers();
    let kernel = ports.slots.held().unwrap_or_default();
    let kernel = kernel.into_iter().filter(|slot| slot.share == *share).filter_map(|slot| slot.pid);
    let alive = |pid: &Pid| ports.processes.facts(*pid).is_some();
    let mut pids: Vec<Pid> = openers
        .into_iter()
        .filter_map(|(opened, pid)| (opened == *share).then_some(pid))
        .chain(kernel.filter(alive))
        .filter(|pid| *pid != ports.processes.own_pid())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    let holders: Vec<Holder> = pids
        .into_iter()
        .map(|pid| {
            let mut holder = Holder::new(pid, HolderKind::Lease);
            if let Some(facts) = ports.processes.facts(pid) {
                holder.start_time = Some(facts.start_time);
                holder.uid = Some(facts.uid);
                holder.command = facts.command;
            }
            holder
        })
        .collect();
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by {}", names.join(", ")) };
    Error::new(
        ErrorCode::Busy,
        format!("share {share} is leased{by}; wait for it, or stop new leases first with `gpushare cordon`"),
    )
    .of_gpu(gpu)
    .with_holders(holders)
}
