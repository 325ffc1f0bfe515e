//! Who holds which share: the kernel says who holds a slot, and what lies beside it says more.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::id::{GpuUuid, Pid, ShareId};
use crate::observe::occupants::{holder, lineage};
use crate::observe::{Observer, Scope};
use crate::port::HeldSlot;
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
        let notes = slot::read(self.ports.slots.as_ref(), None)?;
        let lineage = lineage(self.ports.processes.as_ref());
        // Only where somebody who took a slot is gone: it looks at every process of the machine.
        let mut openers: Option<BTreeMap<ShareId, Vec<Pid>>> = None;
        let mut void = Vec::new();
        for HeldSlot { share, pid } in held {
            let processes = self.ports.processes.as_ref();
            let taker = pid.and_then(|pid| Some((pid, processes.facts(pid)?)));
            let note = notes.iter().find(|noted| {
                let taker = taker.as_ref();
                let by_taker = taker.is_some_and(|(pid, facts)| {
                    noted.note.is_by(*pid, Some(facts.start_time))
                        && (noted.author == facts.uid || noted.author == 0)
                });
                let by_the_gone = taker.is_none() && pid.is_none_or(|pid| noted.note.pid == pid);
                noted.share == share && (by_taker || by_the_gone)
            });
            let inherited = taker.is_none();
            let (pid, facts) = match taker {
                Some((pid, facts)) => (pid, Some(facts)),
                None => {
                    let openers = openers.get_or_insert_with(|| {
                        let mut by_share: BTreeMap<_, Vec<Pid>> = BTreeMap::new();
                        for (share, pid) in self.ports.slots.openers() {
                            by_share.entry(share).or_default().push(pid);
                        }
                        by_share
                    });
                    let known = openers.get(&share).and_then(|pids| pids.first()).copied();
                    let noted = note.map(|noted| noted.note.pid);
                    let pid = known.or(pid).or(noted).unwrap_or(Pid::new(0));
                    (pid, processes.facts(pid))
                }
            };
            let leased = Share {
                id: share.clone(),
                holder: Some(holder(pid, HolderKind::Lease, facts, &lineage)),
                lease: Some(status(note, inherited)),
            };
            match place(gpus, &share) {
                Some((gpu, position)) => mark(gpu, position, leased),
                None if scope.gpus.is_none() && !scope.unnamed => void.push(leased),
                None => {}
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

/// A leased MIG device is in use, whether somebody computes there or not.
fn mark(gpu: &mut GpuSnapshot, position: usize, leased: Share) {
    let Some(holder) = leased.holder.clone() else { return };
    let device = gpu.mig_devices.iter_mut().find(|d| d.uuid.as_str() == leased.id.device());
    if let Some(device) = device {
        add(&mut device.usage, &holder);
        let gis = gpu.mig.iter_mut().flat_map(|mig| &mut mig.gpu_instances);
        let cis = gis.flat_map(|gi| &mut gi.compute_instances);
        for ci in cis.filter(|ci| ci.uuid.as_ref() == Some(&device.uuid)) {
            add(&mut ci.usage, &holder);
        }
    }
    if let Some(share) = gpu.shares.get_mut(position) {
        *share = leased;
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
