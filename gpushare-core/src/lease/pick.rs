//! Which shares a request means, best first. Pure.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::{self, MpsTarget};
use crate::id::{GpuUuid, Pid, ShareId};
use crate::lease::request::{LeaseRequest, Of};
use crate::mode::{MpsHealth, SharingMode};
use crate::parameters::MpsConfig;
use crate::plan::select;
use crate::process::{Holder, HolderKind};
use crate::snapshot::{GpuSnapshot, MigDevice, MpsStatus, Share, Snapshot, Usage};
use crate::units::Bytes;

/// A share that would do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) share: ShareId,
    pub(crate) gpu: GpuUuid,
    /// Whether its tenant is a client of an MPS daemon: of one only.
    pub(crate) mps: bool,
    /// Whether its slot is all that stands between: it is free, or leased now.
    pub(crate) open: bool,
    /// Who has it, or is on it without a lease.
    pub(crate) held_by: Vec<Holder>,
}

impl Candidate {
    pub(crate) fn is_free(&self) -> bool {
        self.open && self.held_by.is_empty()
    }
}

/// A device whose shares are looked at.
struct Device<'a> {
    gpu: &'a GpuSnapshot,
    mig: Option<&'a MigDevice>,
    mps: Option<&'a MpsStatus>,
    shares: Vec<&'a Share>,
    /// Who leased it when it had other shares, and has it still.
    void: Vec<&'a Holder>,
}

/// The shares that a request means, best first; those that others have are among them. `ours` are the
/// processes of whoever asks: they are in nobody's way. `changing` are the GPUs that an applier changes
/// now: they are BUSY.
///
/// # Errors
/// NOT_FOUND for a GPU or share that is not there; INVALID_STATE, UNSUPPORTED, PERMISSION_DENIED,
/// HAZARD or INSUFFICIENT when no share is one that was asked for, held or not, with the reasons.
pub(crate) fn candidates(
    snapshot: &Snapshot,
    request: &LeaseRequest,
    visible: Option<&BTreeSet<String>>,
    ours: &BTreeSet<Pid>,
    changing: &BTreeSet<GpuUuid>,
) -> Result<Vec<Candidate>> {
    let gpus = gpus(snapshot, request)?;
    let mut refused: Vec<Error> = Vec::new();
    let mut ranked: Vec<(Rank, Candidate)> = Vec::new();
    for gpu in gpus {
        if let Err(error) = expect_open(gpu, changing) {
            // A cordon keeps nobody from what the GPU does not have.
            let has = |device| !matches!(fits(snapshot, request, visible, device), Ok(false));
            if error.code() != ErrorCode::Busy || devices(snapshot, gpu).iter().any(has) {
                refused.push(error);
            }
            continue;
        }
        for device in devices(snapshot, gpu) {
            match fits(snapshot, request, visible, &device) {
                Ok(true) => ranked.extend(of_device(request, &device, ours)),
                Ok(false) => {}
                Err(error) => refused.push(error.of_gpu(&gpu.uuid)),
            }
        }
    }
    if ranked.len() < request.count.get() as usize {
        return Err(none(snapshot, request, ranked.len(), refused));
    }
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.share.cmp(&b.1.share)));
    Ok(ranked.into_iter().map(|(_, candidate)| candidate).collect())
}

/// The GPUs that are meant.
fn gpus<'a>(snapshot: &'a Snapshot, request: &LeaseRequest) -> Result<Vec<&'a GpuSnapshot>> {
    match &request.of {
        Of::Gpu(selector) => {
            let positions = select::one(snapshot, &select::parse(selector)?)?;
            Ok(positions.into_iter().filter_map(|position| snapshot.gpus.get(position)).collect())
        }
        Of::Share(share) => {
            let has = |gpu: &&GpuSnapshot| gpu.shares.iter().any(|known| known.id == *share);
            if let Some(gpu) = snapshot.gpus.iter().find(has) {
                return Ok(vec![gpu]);
            }
            let device = |gpu: &&GpuSnapshot| {
                gpu.uuid.as_str() == share.device() || gpu.mig_device(share).is_some()
            };
            let (code, why) = match snapshot.gpus.iter().find(device) {
                Some(gpu) => (
                    ErrorCode::NotFound,
                    format!(
                        "its GPU {} is {} and has {}",
                        select::name(gpu),
                        gpu.mode,
                        shares_of(gpu)
                    ),
                ),
                None => (ErrorCode::NotFound, "no GPU of this node has it".to_owned()),
            };
            Err(Error::new(code, format!("there is no share {share}: {why}")))
        }
        Of::Any | Of::Mig(_) | Of::AnyMig => Ok(snapshot.gpus.iter().collect()),
    }
}

fn shares_of(gpu: &GpuSnapshot) -> String {
    match (gpu.shares.first(), gpu.shares.last()) {
        (Some(first), Some(last)) if first.id != last.id => format!("{} to {}", first.id, last.id),
        (Some(only), _) => only.id.to_string(),
        _ => "no share".to_owned(),
    }
}

/// Refuses a GPU of which nothing is leased now.
fn expect_open(gpu: &GpuSnapshot, changing: &BTreeSet<GpuUuid>) -> Result<()> {
    let refuse = |code, why: String| {
        Err(Error::new(code, format!("GPU {} {why}", select::name(gpu))).of_gpu(&gpu.uuid))
    };
    if changing.contains(&gpu.uuid) {
        return refuse(ErrorCode::Busy, "is being changed now: wait with a timeout".to_owned());
    }
    if let Some(journal) = &gpu.unsettled {
        return refuse(
            ErrorCode::RecoveryRequired,
            format!(
                "has a change that was not finished ({journal}): `gpushare recover` settles it"
            ),
        );
    }
    if let Some(why) = &gpu.cordoned {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        return refuse(
            ErrorCode::Busy,
            format!("gives no new leases{why}; `gpushare uncordon` lets it again"),
        );
    }
    match gpu.mode {
        SharingMode::Exclusive | SharingMode::TimeSliced | SharingMode::Mps | SharingMode::Mig => {
            Ok(())
        }
        mode => refuse(ErrorCode::InvalidState, format!("is {mode}: {}", gpu.reason)),
    }
}

fn devices<'a>(snapshot: &'a Snapshot, gpu: &'a GpuSnapshot) -> Vec<Device<'a>> {
    let shares = |device: &str| {
        gpu.shares.iter().filter(|share| share.id.device() == device).collect::<Vec<_>>()
    };
    // Leased when the device had other shares.
    let void = |device: &str| {
        let void = snapshot.void_leases.iter().filter(|share| share.id.device() == device);
        void.filter_map(|share| share.holder.as_ref()).collect::<Vec<_>>()
    };
    if gpu.mode == SharingMode::Mig {
        let devices = gpu.mig_devices.iter().map(|mig| Device {
            gpu,
            void: void(mig.uuid.as_str()),
            mig: Some(mig),
            mps: mig.mps.as_ref().filter(|mps| mps.ours && mps.alive),
            shares: shares(mig.uuid.as_str()),
        });
        return devices.collect();
    }
    let mps = gpu.mps.as_ref().filter(|mps| gpu.mode == SharingMode::Mps && mps.ours && mps.alive);
    let uuid = gpu.uuid.as_str();
    vec![Device { gpu, mig: None, mps, shares: shares(uuid), void: void(uuid) }]
}

impl Device<'_> {
    fn memory(&self) -> Option<Bytes> {
        self.mig.map_or(self.gpu.memory, |mig| mig.memory)
    }

    fn sm_count(&self) -> Option<u32> {
        self.mig.map_or(self.gpu.sm_count, |mig| mig.sm_count)
    }

    fn name(&self) -> String {
        match self.mig {
            Some(mig) => format!("MIG device {} ({})", mig.uuid, mig.profile),
            None => format!("GPU {}", select::name(self.gpu)),
        }
    }

    fn target(&self) -> MpsTarget {
        match self.mig {
            Some(mig) => MpsTarget::of_mig_device(self.gpu, mig.sm_count, mig.memory),
            None => MpsTarget::of_gpu(self.gpu),
        }
    }
}

/// Whether a device is of the kind that is asked for; an error where it is and cannot give it.
fn fits(
    snapshot: &Snapshot,
    request: &LeaseRequest,
    visible: Option<&BTreeSet<String>>,
    device: &Device<'_>,
) -> Result<bool> {
    let of_this_kind = match &request.of {
        Of::Any => true,
        Of::Share(share) => device.shares.iter().any(|known| known.id == *share),
        Of::Gpu(_) => {
            if device.mig.is_some() {
                return Err(Error::new(
                    ErrorCode::InvalidState,
                    format!(
                        "GPU {} has MIG on: ask for one of its MIG devices, by profile or by share",
                        select::name(device.gpu)
                    ),
                ));
            }
            true
        }
        Of::Mig(profile) => {
            let wanted = device.gpu.mig.as_ref().map(|mig| mig.geometry.resolve(*profile));
            match (device.mig, wanted) {
                (Some(mig), Some(Ok(wanted))) => match profile.compute {
                    Some(slices) => mig.profile == wanted.name.with_compute(slices),
                    None => mig.profile == wanted.name,
                },
                _ => false,
            }
        }
        Of::AnyMig => device.mig.is_some(),
    };
    let device_id = device.mig.map_or(device.gpu.uuid.as_str(), |mig| mig.uuid.as_str());
    let seen = visible.is_none_or(|visible| visible.contains(device_id));
    if !of_this_kind || !seen {
        return Ok(false);
    }
    let lacks =
        |has: Option<u64>, wants: Option<u64>| wants.is_some_and(|w| has.is_none_or(|h| h < w));
    let memory = request.min_memory.map(Bytes::get);
    if lacks(device.memory().map(Bytes::get), memory)
        || lacks(device.sm_count().map(u64::from), request.min_sm_count.map(u64::from))
    {
        return Ok(false);
    }
    match device.mps {
        Some(mps) => expect_terms(snapshot, request, device, mps).map(|()| true),
        None if request.terms.is_empty() => Ok(true),
        None => Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "{} has no MPS daemon of gpushare's, and without one a thread percentage or memory limit holds nobody; `gpushare mps enable` starts one",
                device.name()
            ),
        )),
    }
}

/// Refuses terms that the daemon cannot give, and a daemon that serves somebody else.
fn expect_terms(
    snapshot: &Snapshot,
    request: &LeaseRequest,
    device: &Device<'_>,
    mps: &MpsStatus,
) -> Result<()> {
    let refuse = |code, why: String| {
        Err(Error::new(code, format!("the MPS daemon of {} {why}", device.name())))
    };
    let Some(config) = mps.config.as_ref() else {
        return refuse(ErrorCode::InvalidState, "has no parameters on record".to_owned());
    };
    if mps.health != Some(MpsHealth::Answers) || mps.directory.is_none() {
        return refuse(
            ErrorCode::PermissionDenied,
            format!("does not serve this user; it serves {}", config.access),
        );
    }
    if let Some(wanted) = request.terms.thread_percentage {
        if wanted.get() > config.thread_percentage.get() {
            return refuse(
                ErrorCode::Insufficient,
                format!(
                    "gives each client at most {} % of the threads, and {wanted} % were asked for",
                    config.thread_percentage
                ),
            );
        }
    }
    let most = config.pinned_memory_limit.or(device.memory());
    if let (Some(wanted), Some(most)) = (request.terms.pinned_memory_limit, most) {
        if wanted > most {
            return refuse(
                ErrorCode::Insufficient,
                format!("gives each client at most {most}, and {wanted} were asked for"),
            );
        }
    }
    if request.terms.is_empty() {
        return Ok(());
    }
    let asked = MpsConfig {
        thread_percentage: request.terms.thread_percentage.unwrap_or(config.thread_percentage),
        pinned_memory_limit: request.terms.pinned_memory_limit.or(config.pinned_memory_limit),
        ..config.clone()
    };
    hazard::expect_possible(&device.target(), &snapshot.driver, &asked)?;
    let there = hazard::of_mps_on(&device.target(), config);
    let new = hazard::of_mps_on(&device.target(), &asked).into_iter().find(|hazard| {
        !request.allow_hazards.contains(&hazard.name)
            && there.iter().all(|known| known.name != hazard.name)
    });
    match new {
        None => Ok(()),
        Some(hazard) => Err(Error::new(
            ErrorCode::Hazard,
            format!(
                "{}: {}; safe: {}. To do it all the same, allow the hazard {} by name",
                hazard.name,
                hazard.message,
                hazard.safe.join(", "),
                hazard.name
            ),
        )
        .with_safe(hazard.safe.clone())),
    }
}

/// Lower is taken first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// With several shares, one of each device before a second of one.
    round: u32,
    /// What is left of an MPS daemon's threads, in hundredths of a percent, and of its memory: the
    /// largest free part stays free.
    left: (u64, u64),
    /// The smallest device.
    memory: u64,
    sm_count: u32,
    /// The device with the fewest leases: who takes turns takes them with few.
    leased: usize,
    index: u32,
    number: u32,
}

/// The shares of a device, with what is in the way of each.
fn of_device(
    request: &LeaseRequest,
    device: &Device<'_>,
    ours: &BTreeSet<Pid>,
) -> Vec<(Rank, Candidate)> {
    let leased: Vec<_> = device.shares.iter().filter(|share| share.is_leased()).collect();
    let mut left = (0, 0);
    if device.mps.is_some() {
        let Some(rest) = rest(request, device, &leased) else { return full(device, &leased) };
        left = rest;
    }
    // On a device that is nobody's by halves, whoever is there without a lease is in the way.
    let mut intruders = if device.shares.len() == 1 && device.mps.is_none() {
        intruders(device, ours)
    } else {
        Vec::new()
    };
    intruders.extend(device.void.iter().map(|holder| (*holder).clone()));
    let mut round = 0;
    let wanted = device.shares.iter().filter(|share| match &request.of {
        Of::Share(wanted) => share.id == *wanted,
        _ => true,
    });
    wanted
        .map(|share| {
            let mut held_by: Vec<Holder> = share.holder.iter().cloned().collect();
            // Who could not be seen may be there.
            let unseen = device.mig.is_some_and(|mig| mig.usage == Usage::Unknown);
            let open = !unseen && (!held_by.is_empty() || intruders.is_empty());
            if held_by.is_empty() {
                held_by.clone_from(&intruders);
            }
            let rank = Rank {
                round,
                left,
                memory: device.memory().map_or(u64::MAX, Bytes::get),
                sm_count: device.sm_count().unwrap_or(u32::MAX),
                leased: leased.len(),
                index: device.gpu.index.map_or(u32::MAX, |index| index.get()),
                number: share.id.number().unwrap_or(0),
            };
            round += u32::from(held_by.is_empty());
            (rank, candidate(device, share, open, held_by))
        })
        .collect()
}

fn candidate(device: &Device<'_>, share: &Share, open: bool, held_by: Vec<Holder>) -> Candidate {
    Candidate {
        open,
        share: share.id.clone(),
        gpu: device.gpu.uuid.clone(),
        mps: device.mps.is_some(),
        held_by,
    }
}

/// What would be left of an MPS daemon's threads and memory, as far as leases have declared theirs;
/// none where it is not enough.
fn rest(request: &LeaseRequest, device: &Device<'_>, leased: &[&&Share]) -> Option<(u64, u64)> {
    let terms = || leased.iter().filter_map(|share| share.lease.as_ref()).map(|lease| lease.terms);
    // Hundredths of a percent, so that they add up.
    let parts = |percent: f64| (percent * 100.0).round() as u64;
    let count = u64::from(request.count.get());
    let threads: u64 = terms().filter_map(|t| t.thread_percentage).map(|p| parts(p.get())).sum();
    let memory: u64 = terms().filter_map(|t| t.pinned_memory_limit).map(Bytes::get).sum();
    let asked = request.terms.thread_percentage.map_or(0, |p| parts(p.get()));
    let left_threads = if asked == 0 {
        10_000_u64.saturating_sub(threads)
    } else {
        10_000_u64.checked_sub(threads)?.checked_sub(asked.checked_mul(count)?)?
    };
    let whole = device.memory().map_or(u64::MAX, Bytes::get);
    let asked = request.terms.pinned_memory_limit.map_or(0, Bytes::get);
    let left_memory = if asked == 0 {
        whole.saturating_sub(memory)
    } else {
        whole.checked_sub(memory)?.checked_sub(asked.checked_mul(count)?)?
    };
    Some((left_threads, left_memory))
}

/// The shares of an MPS daemon whose threads or memory are all promised: who has them is in the way.
fn full(device: &Device<'_>, leased: &[&&Share]) -> Vec<(Rank, Candidate)> {
    let holders: Vec<Holder> = leased.iter().filter_map(|share| share.holder.clone()).collect();
    let rank = Rank {
        round: u32::MAX,
        left: (0, 0),
        memory: u64::MAX,
        sm_count: u32::MAX,
        leased: leased.len(),
        index: device.gpu.index.map_or(u32::MAX, |index| index.get()),
        number: 0,
    };
    let all = device.shares.iter().map(|share| {
        let held_by = match &share.holder {
            Some(holder) => vec![holder.clone()],
            None => holders.clone(),
        };
        (rank.clone(), candidate(device, share, false, held_by))
    });
    all.collect()
}

/// Who computes on a device and is not ours.
fn intruders(device: &Device<'_>, ours: &BTreeSet<Pid>) -> Vec<Holder> {
    let there: Vec<&Holder> = match device.mig {
        Some(mig) => mig.usage.holders().iter().collect(),
        None => device.gpu.processes.iter().map(|process| &process.holder).collect(),
    };
    let computes = |holder: &&&Holder| {
        matches!(holder.kind, HolderKind::Compute | HolderKind::MpsClient | HolderKind::ForeignMps)
    };
    let others = there.iter().filter(computes).filter(|holder| !ours.contains(&holder.pid));
    others.map(|holder| (*holder).clone()).collect()
}

/// Why there is no such share, or not enough of them.
fn none(
    snapshot: &Snapshot,
    request: &LeaseRequest,
    found: usize,
    mut refused: Vec<Error>,
) -> Error {
    let what = request.what();
    // A single reason is the answer.
    if found == 0 && refused.len() == 1 {
        return refused.remove(0).context(what);
    }
    if snapshot.gpus.is_empty() {
        return Error::new(ErrorCode::NotFound, format!("{what}: this node has no GPU"));
    }
    let code = match refused.first() {
        Some(first) if found == 0 && refused.iter().all(|e| e.code() == first.code()) => {
            first.code()
        }
        _ => ErrorCode::Insufficient,
    };
    let there: Vec<_> = snapshot
        .gpus
        .iter()
        .map(|gpu| format!("GPU {} is {} with {}", select::name(gpu), gpu.mode, kinds(gpu)))
        .collect();
    let mut message = if found == 0 {
        format!("this node has no such share: {what}; {}", there.join("; "))
    } else {
        format!("{what}: this node has {found} such; {}", there.join("; "))
    };
    for error in &refused {
        message.push_str("; ");
        message.push_str(error.message());
    }
    let safe = refused.iter().flat_map(|error| error.safe().iter().cloned()).collect();
    Error::new(code, message).with_fits(fitting(snapshot)).with_safe(safe)
}

/// What a GPU has to lease.
fn kinds(gpu: &GpuSnapshot) -> String {
    match gpu.mode {
        SharingMode::Mig if gpu.mig_devices.is_empty() => "no MIG device".to_owned(),
        SharingMode::Mig => {
            let mut names: Vec<_> = gpu.mig_devices.iter().map(|d| d.profile.to_string()).collect();
            names.sort();
            names.dedup();
            format!("MIG devices {}", names.join(", "))
        }
        _ if gpu.shares.len() == 1 => "1 share".to_owned(),
        _ => format!("{} shares", gpu.shares.len()),
    }
}

fn fitting(snapshot: &Snapshot) -> Vec<String> {
    let devices = snapshot.gpus.iter().flat_map(|gpu| &gpu.mig_devices);
    let mut names: Vec<_> = devices.map(|device| device.profile.to_string()).collect();
    names.sort();
    names.dedup();
    names
}
