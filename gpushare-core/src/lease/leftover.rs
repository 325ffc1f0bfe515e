//! Who is still on a share whose slot is free.
//!
//! A child that closed its parent's descriptors holds no lease and may compute on. A share is given
//! again only when none of its last holder's processes is on it.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::SHARES_VARIABLE;
use crate::lease::look::Look;
use crate::lease::pick::Candidate;
use crate::port::{Ports, Processes, Slot, ancestry};
use crate::process::{Holder, HolderKind};
use crate::snapshot::GpuSnapshot;
use crate::state::slot::{self, Noted};

/// Who held a share before and is still there, in whoever's name. Nobody is asked where the
/// last holder was this process itself, or nobody ever held it.
///
/// # Errors
/// STALE when there is no such share any more; as [`Node::snapshot`](crate::Node::snapshot).
pub(super) fn leftovers(
    ports: &Ports,
    look: &Look<'_>,
    slot: &Slot,
    candidate: &Candidate,
    is_ours: &dyn Fn(Pid) -> bool,
    taker: (Pid, Option<u64>),
) -> Result<Vec<Holder>> {
    let mut notes = slot::read(ports.slots.as_ref(), Some(&slot.share))?;
    // Nobody leased it in the time to come, whatever they wrote.
    let now = ports.clock.ticks();
    notes.retain(|noted| noted.note.taken <= now);
    let Some(last) = notes.iter().max_by_key(|noted| noted.note.taken) else {
        return Ok(Vec::new());
    };
    let own = ports.processes.own_uid();
    let later = |noted: &Noted| noted.author != own && noted.note.taken >= last.note.taken;
    let ours = last.author == own && last.note.is_by(taker.0, taker.1) && !notes.iter().any(later);
    if ours && last.note.for_pid.is_none() {
        return Ok(Vec::new());
    }
    let snapshot = look.holding(&slot.share, &candidate.gpu)?;
    let there = snapshot.gpu(&candidate.gpu);
    let there = there.filter(|gpu| gpu.shares.iter().any(|share| share.id == slot.share));
    let gpu = there.ok_or_else(|| {
        Error::new(
            ErrorCode::Stale,
            format!("share {} is no more: its GPU was changed meanwhile; ask again", slot.share),
        )
        .of_gpu(&candidate.gpu)
    })?;
    let count = gpu.shares.iter().filter(|s| s.id.device() == slot.share.device()).count();
    let here = on_device(gpu, slot).into_iter().filter(|holder| !is_ours(holder.pid));
    // Any of them may have left somebody there, and any of them but the last may be made up.
    Ok(here
        .filter(|holder| {
            let there = |noted: &Noted| is_of(ports, gpu, holder, slot, noted);
            count == 1 || notes.iter().any(there)
        })
        .collect())
}

/// Whoever computes on the device of a share.
fn on_device(gpu: &GpuSnapshot, slot: &Slot) -> Vec<Holder> {
    let computes = |kind: HolderKind| matches!(kind, HolderKind::Compute | HolderKind::MpsClient);
    let there: Vec<Holder> = match gpu.mig_device(&slot.share) {
        Some(device) => device.usage.holders().to_vec(),
        None => gpu.processes.iter().map(|process| process.holder.clone()).collect(),
    };
    there.into_iter().filter(|holder| computes(holder.kind)).collect()
}

/// Whether a process is there by the lease that ended: its environment says so, or it descends from
/// who took it. Where neither can be seen, it is by its user and time.
fn is_of(ports: &Ports, gpu: &GpuSnapshot, holder: &Holder, slot: &Slot, last: &Noted) -> bool {
    let processes = ports.processes.as_ref();
    let share = slot.share.to_string();
    match processes.environment(holder.pid, &[SHARES_VARIABLE]) {
        Some(variables) => {
            let named = variables.iter().any(|(_, list)| list.split(',').any(|id| id == share));
            named || descends_from_the_last(processes, holder.pid, last)
        }
        None => {
            holder.uid == Some(last.author)
                && holder.start_time.is_none_or(|start| start >= last.note.taken)
                && !has_another(processes, gpu, holder, slot)
        }
    }
}

/// Whether a process descends from the holder of another share of the same device.
fn has_another(processes: &dyn Processes, gpu: &GpuSnapshot, holder: &Holder, slot: &Slot) -> bool {
    let others = gpu
        .shares
        .iter()
        .filter(|share| share.id.device() == slot.share.device() && share.id != slot.share);
    let holders: BTreeSet<Pid> =
        others.filter_map(|share| Some(share.holder.as_ref()?.pid)).collect();
    ancestry(processes, holder.pid).any(|pid| holders.contains(&pid))
}

fn descends_from_the_last(processes: &dyn Processes, pid: Pid, last: &Noted) -> bool {
    ancestry(processes, pid).any(|pid| {
        pid == last.note.pid
            && processes
                .facts(pid)
                .is_some_and(|facts| last.note.is_by(pid, Some(facts.start_time)))
    })
}
