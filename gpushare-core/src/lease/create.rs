//! A MIG device that is made for a lease, and given back with it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::apply::{ApplyOptions, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, MigUuid};
use crate::lease::request::{LeaseRequest, Of};
use crate::mig::ProfileName;
use crate::mode::SharingMode;
use crate::node::Node;
use crate::plan::{self, Plan, Request, Step, previous, select};
use crate::snapshot::{GpuSnapshot, MigStatus, Snapshot};
use crate::spec::{Entry, Instance, Selector, Spec, Want};

/// How often it is tried again when others changed the GPUs meanwhile.
const MOST_TRIES: usize = 5;

/// Creates one MIG device for a request on a GPU with MIG on, beside everything that is there: of those
/// that `allowed` names, where it names any.
///
/// # Errors
/// INSUFFICIENT when no GPU has room, with what fits; as [`Node::apply`].
pub(super) fn create(
    node: &Node,
    request: &LeaseRequest,
    allowed: impl Fn(&Snapshot) -> Option<BTreeSet<String>>,
) -> Result<MigUuid> {
    let Of::Mig(profile) = request.of else {
        return Err(Error::new(ErrorCode::InvalidArgument, "a profile must be named"));
    };
    for _ in 0..MOST_TRIES {
        let snapshot = node.snapshot()?;
        let (gpu, plan) = best(&snapshot, request, profile, allowed(&snapshot).as_ref())?;
        let options = ApplyOptions::new();
        match node.apply_with(Source::Plan(&plan), &options, |_| ControlFlow::Continue(())) {
            Ok(_) => {
                let steps = plan.changed().flat_map(|gpu| &gpu.steps);
                let place = steps.into_iter().find_map(|step| match step {
                    Step::CreateGpuInstance(gi) => Some(gi.placement),
                    _ => None,
                });
                let after = node.snapshot()?;
                let there = after.gpu(&gpu).zip(place);
                let device = there.and_then(|(gpu, place)| gpu.mig_device_at(place, 0));
                if let Some(device) = device {
                    return Ok(device.uuid.clone());
                }
            }
            Err(error) if error.code() == ErrorCode::Stale => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorCode::Stale,
        "others changed the GPUs again and again while a MIG device was made",
    ))
}

/// The plan that leaves the least room free: large profiles fit elsewhere then.
fn best(
    snapshot: &Snapshot,
    request: &LeaseRequest,
    profile: ProfileName,
    allowed: Option<&BTreeSet<String>>,
) -> Result<(GpuUuid, Plan)> {
    let mut best: Option<(usize, GpuUuid, Plan)> = None;
    let mut refused = None;
    let open = |gpu: &&GpuSnapshot| {
        gpu.mode == SharingMode::Mig
            && gpu.cordoned.is_none()
            && gpu.unsettled.is_none()
            && allowed.is_none_or(|allowed| allowed.contains(gpu.uuid.as_str()))
    };
    for gpu in snapshot.gpus.iter().filter(open) {
        let Some(mig) = &gpu.mig else { continue };
        let enough = mig.geometry.resolve(profile).is_ok_and(|profile| {
            request.min_memory.is_none_or(|memory| profile.memory >= memory)
                && request.min_sm_count.is_none_or(|count| profile.sm_count >= count)
        });
        if !enough {
            continue;
        }
        match plan::plan_request(snapshot, &Request::Apply(beside(snapshot, gpu, mig, profile))) {
            Ok(plan) if !destroys(&plan) && plan.needs.is_empty() => {
                let left: usize = plan.gpus.iter().map(|gpu| gpu.fits_after.len()).sum();
                if best.as_ref().is_none_or(|(least, ..)| left < *least) {
                    best = Some((left, gpu.uuid.clone(), plan));
                }
            }
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    best.map(|(_, gpu, plan)| (gpu, plan)).ok_or_else(|| {
        refused.unwrap_or_else(|| {
            let what = request.what();
            let why = "no GPU with MIG on has room for it beside what is there";
            Error::new(ErrorCode::Insufficient, format!("{what}: {why}"))
        })
    })
}

/// The instances that are there, and one more.
fn beside(snapshot: &Snapshot, gpu: &GpuSnapshot, mig: &MigStatus, profile: ProfileName) -> Spec {
    let mut layout: Vec<_> =
        mig.gpu_instances.iter().map(|gi| previous::instance(snapshot, gpu, gi)).collect();
    layout.push(Instance::new(profile));
    of(gpu, layout)
}

fn of(gpu: &GpuSnapshot, layout: Vec<Instance>) -> Spec {
    let select = vec![Selector::Uuid(gpu.uuid.to_string())];
    Spec { gpus: vec![Entry::new(select, Want::Mig(Some(layout)))] }
}

fn destroys(plan: &Plan) -> bool {
    let gone =
        |step: &Step| matches!(step, Step::DestroyGpuInstance(_) | Step::DestroyComputeInstance(_));
    plan.changed().any(|gpu| gpu.steps.iter().any(gone))
}

/// Destroys what was created for a lease that is not held (any more), each device on its own: one that
/// somebody has, a child with its descriptor or who was quicker to lease it, keeps no other from going.
///
/// # Errors
/// As [`Node::apply`], of the first device that stays; all that stay are named.
pub(super) fn give_back(node: &Node, created: &[MigUuid]) -> Result<()> {
    let mut stay = Vec::new();
    let mut first = None;
    for uuid in created {
        if let Err(error) = destroy_soon(node, uuid) {
            stay.push(uuid.to_string());
            first.get_or_insert(error);
        }
    }
    let Some(error) = first else { return Ok(()) };
    let stay = stay.join(", ");
    Err(error.context(format!("what was created for the lease stays ({stay})")))
}

/// Destroys one, also where others change the GPUs meanwhile.
fn destroy_soon(node: &Node, uuid: &MigUuid) -> Result<()> {
    for _ in 1..MOST_TRIES {
        match destroy(node, uuid) {
            Err(error) if error.code() == ErrorCode::Stale => {}
            done => return done,
        }
    }
    destroy(node, uuid)
}

fn destroy(node: &Node, uuid: &MigUuid) -> Result<()> {
    let snapshot = node.snapshot()?;
    let owner = snapshot.gpus.iter().find_map(|gpu| {
        let device = gpu.mig_devices.iter().find(|device| device.uuid == *uuid)?;
        Some((gpu, gpu.mig.as_ref()?, device))
    });
    // It is gone already.
    let Some((gpu, mig, device)) = owner else { return Ok(()) };
    let stays = mig.gpu_instances.iter().filter(|gi| gi.id != device.gi);
    let layout = stays.map(|gi| previous::instance(&snapshot, gpu, gi)).collect();
    let plan = plan::plan_request(&snapshot, &Request::Apply(of(gpu, layout)))?;
    let one = plan.changed().flat_map(|gpu| &gpu.steps);
    let count = one.filter(|step| matches!(step, Step::DestroyGpuInstance(_))).count();
    if count > 1 {
        return Err(Error::new(
            ErrorCode::InvalidState,
            format!("{uuid} cannot be destroyed alone on GPU {}", select::name(gpu)),
        ));
    }
    let options = ApplyOptions::new();
    node.apply_with(Source::Plan(&plan), &options, |_| ControlFlow::Continue(())).map(drop)
}
