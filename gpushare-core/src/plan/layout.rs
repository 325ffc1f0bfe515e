//! The steps of one GPU: from what was observed to its target.

use crate::error::{Error, ErrorCode, Result};
use crate::mig::fit::fits;
use crate::mig::order::{Action, order};
use crate::mig::solve::{CurrentCompute, CurrentInstance, Solution, WantedInstance, solve};
use crate::mig::{ComputeProfile, Geometry, Placement, Profile};
use crate::mode::{ComputeMode, Interval, SharingMode};
use crate::parameters::Parameters;
use crate::plan::shares::{doomed, void_leases};
use crate::plan::step::{ComputeInstanceStep, GpuInstanceStep, Step};
use crate::plan::target::{MigTarget, Target, known_interval};
use crate::plan::{Eviction, Fit, GpuPlan, Kept, Needs, expect_visible};
use crate::process::{Holder, HolderKind};
use crate::snapshot::{
    GpuInstance, GpuSnapshot, InstanceRecord, MigStatus, Prior, Record, Snapshot, Usage,
};
use crate::spec::Instance;

/// Plans one GPU.
pub(super) fn plan_gpu(
    snapshot: &Snapshot,
    gpu: &GpuSnapshot,
    target: &Target,
    needs: &mut Needs,
) -> Result<GpuPlan> {
    let mut plan = GpuPlan {
        uuid: gpu.uuid.clone(),
        index: gpu.index,
        model: gpu.model.clone(),
        from: gpu.mode,
        to: target.mode,
        keep: Vec::new(),
        steps: Vec::new(),
        fits_after: Vec::new(),
        notes: target.notes.clone(),
    };
    if target.unchanged {
        return Ok(plan);
    }
    if gpu.mode == SharingMode::Lost {
        return Err(Error::new(
            ErrorCode::NotFound,
            format!("the GPU is lost ({}): reset it or reboot, then ask again", gpu.reason),
        ));
    }
    expect_visible(gpu)?;
    expect_daemons_visible(gpu)?;
    if gpu.unsettled.is_some() {
        plan.notes.push("an unfinished change lies here and is settled first".to_owned());
    }
    let mut planner = Planner {
        snapshot,
        gpu,
        target,
        plan,
        evict: Vec::new(),
        instances: Vec::new(),
        later: Vec::new(),
    };
    planner.whole_gpu_mps();
    planner.mig(needs)?;
    planner.settings();
    planner.start_mps(needs)?;
    planner.foreign();
    planner.record();
    planner.leases();
    needs.evict.append(&mut planner.evict);
    Ok(planner.plan)
}

/// Refuses a GPU with a daemon of ours that this user may not ask: whether it is as wanted, nobody knows.
fn expect_daemons_visible(gpu: &GpuSnapshot) -> Result<()> {
    let on_devices = gpu.mig_devices.iter().filter_map(|device| device.mps.as_ref());
    if on_devices.chain(&gpu.mps).any(|mps| mps.ours && mps.health.is_none()) {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            "an MPS daemon of gpushare's serves it that this user may not ask; ask as root, or as a user whom it serves",
        )
        .with_needs(vec!["root".to_owned()]));
    }
    Ok(())
}

/// Plans one GPU.
pub(super) struct Planner<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) gpu: &'a GpuSnapshot,
    pub(super) target: &'a Target,
    pub(super) plan: GpuPlan,
    evict: Vec<Eviction>,
    pub(super) instances: Vec<InstanceRecord>,
    /// Steps of MPS daemons that come when everything else stands.
    pub(super) later: Vec<Step>,
}

impl Planner<'_> {
    pub(super) fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    /// Holders that are not in the way already.
    pub(super) fn need_gone(&mut self, what: impl Into<String>, holders: Vec<Holder>) {
        let known = |holder: &Holder| {
            self.evict.iter().any(|eviction| eviction.holders.iter().any(|h| h.pid == holder.pid))
        };
        let mut new: Vec<_> = holders.into_iter().filter(|holder| !known(holder)).collect();
        new.sort();
        new.dedup_by_key(|holder| holder.pid);
        if !new.is_empty() {
            self.evict.push(Eviction {
                gpu: self.gpu.uuid.clone(),
                what: what.into(),
                holders: new,
            });
        }
    }

    /// Whoever uses it must go; where that could not be seen, somebody may be there.
    pub(super) fn need_idle(&mut self, what: String, usage: Usage) {
        match usage {
            Usage::Idle => {}
            Usage::Busy(holders) => self.need_gone(what, holders),
            Usage::Unknown => self.evict.push(Eviction {
                gpu: self.gpu.uuid.clone(),
                what: format!("{what}: who uses it could not be seen"),
                holders: Vec::new(),
            }),
        }
    }

    /// Where nobody could look who is there, somebody may be.
    fn need_seen(&mut self, what: &str) {
        if self.gpu.processes_hidden {
            self.evict.push(Eviction {
                gpu: self.gpu.uuid.clone(),
                what: format!("{what}: who uses it could not be seen"),
                holders: Vec::new(),
            });
        }
    }

    pub(super) fn holders(&self, which: impl Fn(HolderKind) -> bool) -> Vec<Holder> {
        let holders = self.gpu.processes.iter().map(|process| &process.holder);
        holders.filter(|holder| which(holder.kind)).cloned().collect()
    }

    fn mig(&mut self, needs: &mut Needs) -> Result<()> {
        let Some(mig) = &self.gpu.mig else {
            return match self.target.mig {
                Some(_) => Err(Error::new(
                    ErrorCode::Unsupported,
                    format!(
                        "{} has no MIG; it can be exclusive, time_sliced or mps",
                        self.gpu.model
                    ),
                )),
                None => Ok(()),
            };
        };
        match &self.target.mig {
            Some(MigTarget::Untouched) => {}
            None => {
                if mig.enabled {
                    self.change_layout(mig, &[])?;
                }
                if mig.enabled || mig.pending {
                    self.change_mig_mode(mig, false, needs)?;
                }
            }
            Some(layout) => {
                if !mig.enabled
                    && self.gpu.compute_mode.is_some_and(|mode| mode != ComputeMode::Default)
                {
                    // Turning MIG on would do it, but then turning it off would not undo it.
                    self.set_compute_mode(ComputeMode::Default);
                }
                if !(mig.enabled && mig.pending) {
                    self.change_mig_mode(mig, true, needs)?;
                }
                match layout {
                    MigTarget::Instances(instances) => self.change_layout(mig, instances)?,
                    MigTarget::Keep | MigTarget::Untouched => self.keep_layout(mig),
                }
            }
        }
        Ok(())
    }

    fn change_mig_mode(&mut self, mig: &MigStatus, enable: bool, needs: &mut Needs) -> Result<()> {
        if mig.enabled == enable {
            self.step(Step::CallOffMigMode { enabled: enable });
            return Ok(());
        }
        let everyone = self.holders(|_| true);
        self.need_gone("the GPU, whose MIG mode changes", everyone);
        self.need_seen("the GPU, whose MIG mode changes");
        if mig.pending == enable {
            if !self.snapshot.abilities.reset {
                return Err(Error::new(
                    ErrorCode::Unsupported,
                    "a change of MIG mode waits for a reset, and GPUs cannot be reset here: NVML has no function for it, and nvidia-smi was not found; reboot instead",
                ));
            }
            needs.reset.push(self.gpu.uuid.clone());
            self.step(Step::Reset { enable });
        } else {
            // Ampere resets the device inside the call, or leaves the change pending until a reset;
            // Hopper and later switch at once (NVIDIA's MIG guide).
            let may_reset = self.gpu.compute_capability.is_none_or(|(major, _)| major < 9);
            if may_reset {
                needs.reset.push(self.gpu.uuid.clone());
            }
            self.step(Step::SetMigMode { enable, may_reset });
        }
        Ok(())
    }

    fn change_layout(&mut self, mig: &MigStatus, instances: &[Instance]) -> Result<()> {
        let geometry = &mig.geometry;
        let current = current(geometry, &mig.gpu_instances)?;
        let wanted: Vec<_> = instances
            .iter()
            .map(|instance| {
                wanted(geometry, instance).map_err(|error| match instance.location.to_string() {
                    place if place.is_empty() => error,
                    place => error.context(place),
                })
            })
            .collect::<Result<_>>()?;
        let mut solution = solve(geometry, &current, &wanted)?;
        self.settle_in(mig, &wanted, instances, &mut solution);
        self.mig_devices_mps(mig, &solution, instances);
        self.need_instances_gone(mig, &solution);
        for action in order(geometry, &current, &wanted, &solution)? {
            if let Some(step) =
                layout_step(geometry, &mig.gpu_instances, &wanted, &solution, action)
            {
                self.step(step);
            }
        }
        for (placed, instance) in solution.instances.iter().zip(instances) {
            if let Some(there) = placed.keeps.and_then(|position| mig.gpu_instances.get(position)) {
                let stays = |position: usize| !placed.destroyed_compute.contains(&position);
                self.plan.keep.push(kept(there, stays));
            }
            if instance.name.is_some() || instance.sharing.is_some() {
                self.instances.push(InstanceRecord::new(
                    placed.placement,
                    instance.name.clone(),
                    instance.sharing.clone(),
                ));
            }
        }
        self.plan.keep.sort_by_key(|kept| kept.placement);
        self.instances.sort_by_key(|instance| instance.placement);
        let placed: Vec<_> = wanted
            .iter()
            .zip(&solution.instances)
            .map(|(wanted, placed)| (wanted.profile, placed.placement))
            .collect();
        if self.target.mig.is_some() {
            self.plan.fits_after = fits_after(geometry, &placed);
        }
        Ok(())
    }

    fn keep_layout(&mut self, mig: &MigStatus) {
        let record = self.gpu.current_record(&self.snapshot.epoch);
        self.instances = record.map(|record| record.instances.clone()).unwrap_or_default();
        self.kept_mig_devices_mps(mig);
        self.plan.keep = mig.gpu_instances.iter().map(|gi| kept(gi, |_| true)).collect();
        let placed: Vec<_> = mig
            .gpu_instances
            .iter()
            .filter_map(|gi| Some((mig.geometry.position(gi.profile)?, gi.placement)))
            .collect();
        self.plan.fits_after = fits_after(&mig.geometry, &placed);
    }

    fn need_instances_gone(&mut self, mig: &MigStatus, solution: &Solution) {
        let mut busy: Vec<(String, Usage)> = Vec::new();
        let mut check = |gi: &GpuInstance, whole: bool, goes: &dyn Fn(usize) -> bool| {
            if whole && gi.usage.is_busy() {
                busy.push((
                    format!("GPU instance {} at {}", gi.name, gi.placement),
                    gi.usage.clone(),
                ));
            }
            for (position, ci) in gi.compute_instances.iter().enumerate() {
                if goes(position) && ci.usage.is_busy() {
                    let name = gi.name.with_compute(ci.slices);
                    busy.push((
                        match &ci.uuid {
                            Some(uuid) => format!("{name} at {} ({uuid})", gi.placement),
                            None => format!("{name} at {}", gi.placement),
                        },
                        ci.usage.clone(),
                    ));
                }
            }
        };
        for gi in solution.destroyed.iter().filter_map(|&position| mig.gpu_instances.get(position))
        {
            check(gi, true, &|_| true);
        }
        for placed in &solution.instances {
            if let Some(gi) = placed.keeps.and_then(|position| mig.gpu_instances.get(position)) {
                check(gi, false, &|position| placed.destroyed_compute.contains(&position));
            }
        }
        for (what, usage) in busy {
            self.need_idle(what, usage);
        }
    }

    fn set_compute_mode(&mut self, to: ComputeMode) {
        let switched_off = self.gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
        let earlier = self.plan.steps.iter().rev().find_map(|step| match step {
            Step::SetComputeMode { to, .. } => Some(*to),
            _ => None,
        });
        // Without MIG the compute mode starts at DEFAULT.
        let from = earlier
            .or(self.gpu.compute_mode.filter(|_| !switched_off))
            .unwrap_or(ComputeMode::Default);
        if from != to {
            self.step(Step::SetComputeMode { from, to });
        }
    }

    fn settings(&mut self) {
        if let Some(to) = self.target.compute_mode {
            let before = self.plan.steps.len();
            self.set_compute_mode(to);
            if self.plan.steps.len() > before && to == ComputeMode::ExclusiveProcess {
                // It would say that one process has the GPU while several do.
                let there = self.holders(|kind| {
                    matches!(kind, HolderKind::Compute)
                        || (kind == HolderKind::MpsClient && self.target.mps.is_none())
                });
                let allowed = usize::from(self.target.mps.is_none());
                if there.len() > allowed {
                    self.need_gone("the GPU, which becomes exclusive", there);
                }
                self.need_seen("the GPU, which becomes exclusive");
            }
        }
        if let Some(to) = self.target.interval {
            let from = known_interval(self.snapshot, self.gpu).unwrap_or(Interval::Default);
            if from != to {
                self.step(Step::SetInterval { from, to });
            }
        }
    }

    /// A daemon that is not ours is never commanded, so as long as it runs no mode of ours holds.
    fn foreign(&mut self) {
        // To leave a mode claims none.
        if self.gpu.mode == SharingMode::Foreign && self.target.parameters.is_some() {
            let daemons = self.holders(|kind| kind == HolderKind::ForeignMps);
            self.need_gone("the GPU, which an MPS daemon serves that is not ours", daemons);
        }
    }

    /// What was there before the first managed change. The interval is asked for only where it is
    /// used; until we have set one ourselves, what is seen is what was there before.
    fn prior(&self, record: &Record) -> Prior {
        let ours = matches!(record.parameters, Parameters::TimeSliced(_));
        let seen = self.gpu.interval.filter(|_| !ours);
        let compute_mode = record.prior.compute_mode.or(self.compute_mode_before());
        Prior { interval: record.prior.interval.or(seen), compute_mode }
    }

    /// The compute mode, where this change touches it: what is left alone need not be brought back.
    fn compute_mode_before(&self) -> Option<ComputeMode> {
        let touched = self.target.compute_mode.is_some() || self.target.mig.is_some();
        self.gpu.compute_mode.filter(|_| touched)
    }

    /// A share that goes, or becomes another one, must not be somebody's; nor must the device whose shares
    /// were others when it was leased.
    fn leases(&mut self) {
        if !self.plan.steps.is_empty() {
            let void: Vec<_> = void_leases(self.snapshot, self.gpu).cloned().collect();
            for share in void {
                let holders = share.holder.into_iter().collect();
                self.need_gone(format!("share {}, which is leased,", share.id), holders);
            }
        }
        for share in doomed(self.gpu, &self.plan) {
            let there = self.gpu.shares.iter().find(|there| there.id == share);
            if let Some(holder) = there.and_then(|there| there.holder.clone()) {
                self.need_gone(format!("the lease of share {share}"), vec![holder]);
            }
        }
    }

    fn record(&mut self) {
        let current = self.gpu.current_record(&self.snapshot.epoch);
        let to = self.target.parameters.clone().map(|parameters| {
            let prior = current.map_or_else(
                || Prior { compute_mode: self.compute_mode_before(), interval: self.gpu.interval },
                |record| self.prior(record),
            );
            Box::new(Record {
                epoch: self.snapshot.epoch.clone(),
                parameters,
                prior,
                instances: std::mem::take(&mut self.instances),
            })
        });
        if to.as_deref() != self.gpu.record.as_ref() {
            let from = self.gpu.record.clone().map(Box::new);
            self.step(Step::WriteRecord { from, to });
        }
    }
}

fn kept(gi: &GpuInstance, stays: impl Fn(usize) -> bool) -> Kept {
    let staying = gi.compute_instances.iter().enumerate().filter(|(position, _)| stays(*position));
    let staying: Vec<_> = staying.map(|(_, ci)| ci).collect();
    Kept {
        profile: gi.name,
        placement: gi.placement,
        uuids: staying.iter().filter_map(|ci| ci.uuid.clone()).collect(),
        busy: gi.usage.is_busy() || staying.iter().any(|ci| ci.usage.is_busy()),
    }
}

fn fits_after(geometry: &Geometry, placed: &[(usize, Placement)]) -> Vec<Fit> {
    fits(geometry, placed)
        .into_iter()
        .filter_map(|fit| {
            let starts = fit.placements.iter().map(|placement| placement.start).collect();
            Some(Fit { profile: geometry.profiles().get(fit.profile)?.name, starts })
        })
        .collect()
}

fn current(geometry: &Geometry, instances: &[GpuInstance]) -> Result<Vec<CurrentInstance>> {
    let one = |gi: &GpuInstance| {
        let profile = geometry.position(gi.profile).ok_or_else(|| {
            Error::new(
                ErrorCode::Unsupported,
                format!(
                    "GPU instance {} at {} has profile id {}, which the driver does not list",
                    gi.id, gi.placement, gi.profile
                ),
            )
        })?;
        let compute = gi.compute_instances.iter().map(|ci| CurrentCompute {
            slices: ci.slices,
            start: ci.start,
            busy: ci.usage.is_busy(),
        });
        Ok(CurrentInstance {
            profile,
            placement: gi.placement,
            busy: gi.usage.is_busy(),
            compute: compute.collect(),
        })
    };
    instances.iter().map(one).collect()
}

fn wanted(geometry: &Geometry, instance: &Instance) -> Result<WantedInstance> {
    let profile = geometry.resolve(instance.profile)?;
    let position = geometry.position(profile.id).unwrap_or_default();
    let named = instance.profile.compute.map(|slices| vec![slices]);
    let mut compute = instance.compute.clone().or(named);
    if compute.as_deref() == Some(&[profile.slices]) {
        compute = None;
    }
    Ok(WantedInstance { profile: position, start: instance.start, compute })
}

fn layout_step(
    geometry: &Geometry,
    there: &[GpuInstance],
    wanted: &[WantedInstance],
    solution: &Solution,
    action: Action,
) -> Option<Step> {
    let placed = |position: usize| {
        let placed = solution.instances.get(position)?;
        let profile = geometry.profiles().get(wanted.get(position)?.profile)?;
        Some((placed, profile))
    };
    Some(match action {
        Action::DestroyCompute { current, compute } => {
            let gi = there.get(current)?;
            let ci = gi.compute_instances.get(compute)?;
            Step::DestroyComputeInstance(ComputeInstanceStep {
                gpu_instance: gi.placement,
                profile: ci.profile,
                name: gi.name.with_compute(ci.slices),
                placement: Placement::new(ci.start, ci.slices),
                assumed: false,
            })
        }
        Action::DestroyGpuInstance { current } => {
            let gi = there.get(current)?;
            Step::DestroyGpuInstance(GpuInstanceStep {
                profile: gi.profile,
                name: gi.name,
                placement: gi.placement,
            })
        }
        Action::CreateGpuInstance { wanted } => {
            let (placed, profile) = placed(wanted)?;
            Step::CreateGpuInstance(GpuInstanceStep {
                profile: profile.id,
                name: profile.name,
                placement: placed.placement,
            })
        }
        Action::CreateCompute { wanted, compute } => {
            let (placed, profile) = placed(wanted)?;
            let ci = placed.compute.get(compute)?;
            Step::CreateComputeInstance(ComputeInstanceStep {
                gpu_instance: placed.placement,
                profile: compute_profile(profile, ci.slices)?.id,
                name: profile.name.with_compute(ci.slices),
                placement: Placement::new(ci.start, ci.slices),
                assumed: ci.slices != profile.slices,
            })
        }
    })
}

fn compute_profile(profile: &Profile, slices: u8) -> Option<ComputeProfile> {
    ComputeProfile::assumed(profile.index, profile.slices)
        .into_iter()
        .find(|ci| ci.slices == slices)
}
