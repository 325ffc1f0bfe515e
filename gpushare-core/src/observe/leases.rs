//! Who holds which share: the kernel says who holds a slot, and what lies beside it says more.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::id::{GpuUuid, Pid, ShareId};
use crate::observe::occupants::{holder, lineage};
use crate::observe::{Observer, Scope};
use crate::port::{HeldSlot, ProcessFacts, Processes, Slots};
use crate::process::{Holder, HolderKind};
use crate::snapshot::{GpuSnapshot, LeaseStatus, LeaseTerms, Share, Usage};
use crate::state::slot::{self, Noted};

/// Where new leases were stopped.
const CORDONS: &str = "cordons";

/// The name of a GPU's cordon in the store.
pub(crate) fn cordon(gpu: &GpuUuid) -> String {
    format!("{CORDONS}/{gpu}")
}

impl Observer {
    /// Says which slots we hold ourselves so that nobody leases them: they are no leases.
    pub(crate) fn hold_back(&mut self, shares: impl IntoIterator<Item = ShareId>) {
        self.own_slots.extend(shares);
    }

    /// Says that we hold a slot no longer.
    pub(crate) fn let_go(&mut self, share: &ShareId) {
        self.own_slots.remove(share);
    }

    /// Fills in who holds which share, and returns the leases of shares that are no more.
    pub(super) fn look_at_leases(
        &self,
        gpus: &mut [GpuSnapshot],
        scope: &Scope,
    ) -> Result<Vec<Share>> {
        self.look_at_cordons(gpus)?;
        let mut held = self.ports.slots.held()?;
        held.retain(|slot| !self.own_slots.contains(&slot.share));
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let ports = &self.ports;
        let notes = slot::read(ports.slots.as_ref(), None)?;
        let lineage = lineage(ports.processes.as_ref());
        let mut witnesses = Witnesses::new(ports.slots.as_ref(), ports.processes.as_ref());
        let mut void = Vec::new();
        for slot in held {
            let tenant = witnesses.tenant(&slot, &notes);
            let share = slot.share;
            let leased = Share {
                id: share.clone(),
                holder: Some(holder(tenant.pid, HolderKind::Lease, tenant.facts, &lineage)),
                lease: Some(status(tenant.note, tenant.inherited)),
            };
            if let Some((gpu, position)) = place(gpus, &share) {
                mark(gpu, position, leased);
                continue;
            }
            // Where the device is there and has other shares now, whoever has this one has it still.
            let all = scope.gpus.is_none() && !scope.unnamed;
            if occupy(gpus, &leased) || all {
                void.push(leased);
            }
        }
        Ok(void)
    }

    fn look_at_cordons(&self, gpus: &mut [GpuSnapshot]) -> Result<()> {
        let store = self.ports.store.as_ref();
        for name in store.list(CORDONS)? {
            let Some(gpu) = gpus.iter_mut().find(|gpu| gpu.uuid.as_str() == name) else { continue };
            let why = store.read(&format!("{CORDONS}/{name}"))?.unwrap_or_default();
            gpu.cordoned = Some(String::from_utf8_lossy(&why).trim().to_owned());
        }
        Ok(())
    }
}

/// Who has a share, as far as it can be seen, and what may be believed of what is noted.
#[derive(Debug)]
pub(crate) struct Tenant<'a> {
    pub(crate) pid: Pid,
    pub(crate) facts: Option<ProcessFacts>,
    pub(crate) note: Option<&'a Noted>,
    /// The process that took it is gone, or has let go of it.
    pub(crate) inherited: bool,
}

/// Who is asked who holds a slot.
#[derive(Debug)]
pub(crate) struct Witnesses<'a> {
    slots: &'a dyn Slots,
    processes: &'a dyn Processes,
    /// Only where somebody who took a slot is gone: it looks at every process of the machine.
    openers: Option<BTreeMap<ShareId, Vec<Pid>>>,
}

impl<'a> Witnesses<'a> {
    pub(crate) fn new(slots: &'a dyn Slots, processes: &'a dyn Processes) -> Self {
        Self { slots, processes, openers: None }
    }

    /// Who has that share. A note counts where the one who has it wrote it, or root did.
    pub(crate) fn tenant<'n>(&mut self, slot: &HeldSlot, notes: &'n [Noted]) -> Tenant<'n> {
        let of_share = || notes.iter().filter(|noted| noted.share == slot.share);
        let taker = slot.pid.and_then(|pid| Some((pid, self.processes.facts(pid)?)));
        if let Some((pid, facts)) = taker {
            let by = |noted: &&Noted| {
                noted.note.is_by(pid, Some(facts.start_time)) && is_from(noted, facts.uid)
            };
            let note = of_share().find(by);
            // Another process may have that pid by now: without a note it must be seen to hold the slot. So
            // must one that has let go: it may have kept a copy.
            if note.is_some_and(|noted| !noted.note.released)
                || self.holders(&slot.share).contains(&pid)
            {
                return Tenant { pid, facts: Some(facts), note, inherited: false };
            }
        }
        let known = self.holders(&slot.share).first().copied();
        let facts = known.and_then(|pid| self.processes.facts(pid));
        let by_the_gone = of_share().filter(|noted| {
            slot.pid.is_none_or(|pid| noted.note.pid == pid)
                && facts.as_ref().is_none_or(|facts| is_from(noted, facts.uid))
        });
        let note = by_the_gone.max_by_key(|noted| noted.note.taken);
        let noted = note.map(|noted| noted.note.pid);
        let pid = known.or(slot.pid).or(noted).unwrap_or(Pid::new(0));
        // The kernel may not have said who took it.
        let by_taker = known.zip(facts.as_ref()).is_some_and(|(pid, facts)| {
            note.is_some_and(|noted| noted.note.is_by(pid, Some(facts.start_time)))
        });
        Tenant { pid, facts, note, inherited: !by_taker }
    }

    fn holders(&mut self, share: &ShareId) -> &[Pid] {
        let openers = self.openers.get_or_insert_with(|| {
            let mut by_share: BTreeMap<_, Vec<Pid>> = BTreeMap::new();
            for (share, pid) in self.slots.openers() {
                by_share.entry(share).or_default().push(pid);
            }
            by_share
        });
        openers.get(share).map(Vec::as_slice).unwrap_or_default()
    }
}

fn is_from(noted: &Noted, user: u32) -> bool {
    noted.author == user || noted.author == 0
}

fn status(note: Option<&Noted>, inherited: bool) -> LeaseStatus {
    LeaseStatus {
        name: note.map(|noted| noted.note.name.clone()),
        since: note.map(|noted| noted.note.since),
        terms: note.map_or_else(LeaseTerms::default, |noted| noted.note.terms),
        for_pid: note.and_then(|noted| noted.note.for_pid),
        inherited,
    }
}

fn place<'a>(gpus: &'a mut [GpuSnapshot], share: &ShareId) -> Option<(&'a mut GpuSnapshot, usize)> {
    gpus.iter_mut().find_map(|gpu| {
        let position = gpu.shares.iter().position(|known| known.id == *share)?;
        Some((gpu, position))
    })
}

/// Marks the device of a share that it no longer has as in use, if it is one of these GPUs' devices.
fn occupy(gpus: &mut [GpuSnapshot], leased: &Share) -> bool {
    let device = leased.id.device();
    let Some(gpu) = gpus
        .iter_mut()
        .find(|gpu| gpu.uuid.as_str() == device || gpu.mig_device(&leased.id).is_some())
    else {
        return false;
    };
    if let Some(holder) = &leased.holder {
        mark_device(gpu, &leased.id, holder);
    }
    true
}

/// A leased MIG device is in use, whether somebody computes there or not.
fn mark(gpu: &mut GpuSnapshot, position: usize, leased: Share) {
    let Some(holder) = leased.holder.clone() else { return };
    mark_device(gpu, &leased.id, &holder);
    if let Some(share) = gpu.shares.get_mut(position) {
        *share = leased;
    }
}

fn mark_device(gpu: &mut GpuSnapshot, share: &ShareId, holder: &Holder) {
    let device = gpu.mig_devices.iter_mut().find(|d| d.uuid.as_str() == share.device());
    let Some(device) = device else { return };
    add(&mut device.usage, holder);
    let gis = gpu.mig.iter_mut().flat_map(|mig| &mut mig.gpu_instances);
    let cis = gis.flat_map(|gi| &mut gi.compute_instances);
    for ci in cis.filter(|ci| ci.uuid.as_ref() == Some(&device.uuid)) {
        add(&mut ci.usage, holder);
    }
}

fn add(usage: &mut Usage, holder: &Holder) {
    match usage {
        Usage::Idle => *usage = Usage::Busy(vec![holder.clone()]),
        Usage::Busy(holders) if holders.iter().all(|known| known.pid != holder.pid) => {
            holders.push(holder.clone());
            holders.sort();
        }
        Usage::Busy(_) | Usage::Unknown => {}
    }
}

/// Refuses a reason that is none.
pub(crate) fn expect_reason(text: &str) -> Result<()> {
    if text.len() <= 500 && !text.contains(char::is_control) {
        return Ok(());
    }
    Err(Error::new(crate::ErrorCode::InvalidArgument, "a reason is one line of at most 500 bytes"))
}
