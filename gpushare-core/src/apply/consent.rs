//! What a plan needs and the caller must allow: asked before anything is touched.

use crate::apply::{ApplyOptions, Event, POLL, Progress};
use crate::error::{Error, ErrorCode, Result};
use crate::mig::fit::fits;
use crate::observe::{Observer, Scope};
use crate::plan::{self, Eviction, Plan, Step};
use crate::port::Ports;
use crate::process::Holder;
use crate::snapshot::Snapshot;

/// Lets holders go by themselves as long as the caller wants to wait, and then refuses what was not
/// allowed. Returns the plan and the snapshot as they are when it is done.
///
/// When a tenant leaves, the best way may be another one: that is taken, unless the caller wants
/// exactly the plan that they saw (`pinned`).
#[expect(clippy::too_many_arguments, reason = "apply's own state, passed on once")]
pub(super) fn obtain(
    ports: &Ports,
    observer: &mut Observer,
    scope: &Scope,
    mut plan: Plan,
    mut snapshot: Snapshot,
    pinned: bool,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<(Plan, Snapshot)> {
    let start = ports.clock.time_of_others();
    loop {
        expect_accepted(&plan, options)?;
        expect_worth_an_eviction(ports, &plan, options)?;
        let waited = ports.clock.time_of_others().saturating_sub(start);
        if plan.needs.evict.is_empty() || waited >= options.drain {
            break;
        }
        let holders = plan.needs.evict.iter().flat_map(|eviction| eviction.holders.clone());
        if progress(&Event::Draining { holders: holders.collect() }).is_break() {
            return Err(Error::new(
                ErrorCode::Interrupted,
                "stopped while waiting for tenants to go",
            ));
        }
        ports.clock.wait_for_others(POLL);
        snapshot = observer.snapshot(scope)?;
        let again = plan::plan_request(&snapshot, &plan.request)?;
        if again.basis != plan.basis || (pinned && again.digest != plan.digest) {
            return Err(Error::new(
                ErrorCode::Stale,
                "the GPUs changed while tenants were leaving, and with them the plan; plan again",
            ));
        }
        plan = again;
    }
    if let Some(eviction) = plan.needs.evict.iter().find(|e| !can_evict(e, options)) {
        return Err(in_the_way(&snapshot, eviction, options));
    }
    Ok((plan, snapshot))
}

/// Refuses hazards and resets that the caller did not accept.
fn expect_accepted(plan: &Plan, options: &ApplyOptions) -> Result<()> {
    let accepted = |name| options.allow_hazards.contains(&name);
    if let Some(hazard) = plan.needs.hazards.iter().find(|hazard| !accepted(hazard.hazard.name)) {
        return Err(Error::new(
            ErrorCode::Hazard,
            format!(
                "{}: {}; safe: {}. To do it all the same, allow the hazard {} by name",
                hazard.hazard.name,
                hazard.hazard.message,
                hazard.hazard.safe.join(", "),
                hazard.hazard.name
            ),
        )
        .of_gpu(&hazard.gpu)
        .with_safe(hazard.hazard.safe.clone()));
    }
    if let Some(gpu) = plan.needs.reset.first().filter(|_| !options.allow_reset) {
        let names: Vec<_> = plan.needs.reset.iter().map(ToString::to_string).collect();
        return Err(Error::new(
            ErrorCode::ResetRequired,
            format!(
                "MIG mode of {} can only be changed with a reset, which ends everything on the GPU; allow the reset when nothing of value runs there",
                names.join(", ")
            ),
        )
        .of_gpu(gpu));
    }
    Ok(())
}

/// Refuses to end anybody for what the driver then denies: an eviction is not undone, so that rolling back
/// would come too late.
fn expect_worth_an_eviction(ports: &Ports, plan: &Plan, options: &ApplyOptions) -> Result<()> {
    let own = ports.processes.own_uid();
    let steps = || plan.gpus.iter().flat_map(|gpu| gpu.steps.iter().map(|step| (&gpu.uuid, step)));
    if own == 0 || !steps().any(|(_, step)| step.needs_root()) {
        return Ok(());
    }
    // Whom nobody sees nobody ends: that is BUSY. But to a daemon clients may come until it stops.
    let seen = plan.needs.evict.iter().find(|eviction| !eviction.holders.is_empty());
    let stops = steps().find(|(_, step)| matches!(step, Step::StopMps { config: Some(_), .. }));
    let (gpu, what, holders) = match (seen, stops) {
        (Some(eviction), _) => (&eviction.gpu, &*eviction.what, eviction.holders.clone()),
        (None, Some((gpu, _))) if options.allow_evict => (gpu, "its MPS daemon", Vec::new()),
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "{what} is in use, or may be, and the driver lets only root do what an eviction would be for; this is user {own}"
        ),
    )
    .of_gpu(gpu)
    .with_holders(holders)
    .with_needs(vec!["root".to_owned()]))
}

fn can_evict(eviction: &Eviction, options: &ApplyOptions) -> bool {
    // Whoever could not be seen cannot be ended, and may be anybody.
    options.allow_evict
        && !eviction.holders.is_empty()
        && eviction.holders.iter().all(|holder| holder.protected.is_none())
}

fn in_the_way(snapshot: &Snapshot, eviction: &Eviction, options: &ApplyOptions) -> Error {
    let holders: Vec<_> = eviction.holders.iter().map(ToString::to_string).collect();
    let held = if holders.is_empty() {
        String::new()
    } else {
        format!(" is held by {}", holders.join(", "))
    };
    let advice = if eviction.holders.is_empty() {
        "run as a user who may see it, or make sure that nobody is there and turn MIG off and on by hand"
    } else if options.allow_evict {
        "end the protected holder by its own means"
    } else {
        "wait until it goes, allow its eviction, or ask for what fits beside it"
    };
    let fits = beside_the_busy(snapshot, eviction);
    let beside = if fits.is_empty() {
        String::new()
    } else {
        format!("; beside what is in use fits {}", fits.join(", "))
    };
    Error::new(ErrorCode::Busy, format!("{}{held}; {advice}{beside}", eviction.what))
        .of_gpu(&eviction.gpu)
        .with_holders(eviction.holders.clone())
        .with_fits(fits)
}

/// The profiles of which one would fit beside the instances in use.
fn beside_the_busy(snapshot: &Snapshot, eviction: &Eviction) -> Vec<String> {
    let Some(mig) = snapshot.gpu(&eviction.gpu).and_then(|gpu| gpu.mig.as_ref()) else {
        return Vec::new();
    };
    if !mig.enabled {
        return Vec::new();
    }
    let busy = mig.gpu_instances.iter().filter(|gi| {
        gi.usage.is_busy() || gi.compute_instances.iter().any(|ci| ci.usage.is_busy())
    });
    let placed: Vec<_> =
        busy.filter_map(|gi| Some((mig.geometry.position(gi.profile)?, gi.placement))).collect();
    let names = fits(&mig.geometry, &placed);
    names
        .iter()
        .filter_map(|fit| Some(mig.geometry.profiles().get(fit.profile)?.name.to_string()))
        .collect()
}

/// Who uses what a plan destroys.
pub(super) fn holders_in_the_way(snapshot: &Snapshot, plan: &Plan) -> Vec<Holder> {
    let mut holders = Vec::new();
    for gpu in &plan.gpus {
        let Some(mig) = snapshot.gpu(&gpu.uuid).and_then(|gpu| gpu.mig.as_ref()) else { continue };
        for step in &gpu.steps {
            let usages: Vec<_> = match step {
                Step::DestroyGpuInstance(gi) => {
                    let there = mig.gpu_instances.iter().filter(|i| i.placement == gi.placement);
                    there.map(|gi| &gi.usage).collect()
                }
                Step::DestroyComputeInstance(ci) => {
                    let gis = mig.gpu_instances.iter().filter(|i| i.placement == ci.gpu_instance);
                    let cis = gis.flat_map(|gi| &gi.compute_instances);
                    cis.filter(|there| there.start == ci.placement.start)
                        .map(|ci| &ci.usage)
                        .collect()
                }
                _ => Vec::new(),
            };
            holders.extend(usages.iter().flat_map(|usage| usage.holders().iter().cloned()));
        }
    }
    holders.sort();
    holders.dedup();
    holders
}
