//! The steps of MPS daemons: which stop, which start, which are told something else.

use crate::error::Result;
use crate::hazard::{self, MpsTarget};
use crate::mig::solve::Solution;
use crate::mps::{MpsSetting, MpsSettings};
use crate::parameters::MpsConfig;
use crate::plan::layout::Planner;
use crate::plan::step::{MigPlace, Step};
use crate::plan::{GpuHazard, Needs};
use crate::snapshot::{MigDevice, MigStatus, MpsStatus};
use crate::spec::{Instance, Sharing};
use crate::terminal::count;

/// What becomes of one daemon.
#[derive(Debug, Default)]
struct Fate {
    /// It stops.
    stop: Option<Step>,
    /// Why it stops, where one with other settings would only have been told them.
    why: Option<String>,
    /// One starts, or it is told something else.
    then: Vec<Step>,
}

/// From what is there to what is wanted.
fn fate(on: Option<MigPlace>, now: Option<&MpsStatus>, wanted: Option<&MpsConfig>) -> Fate {
    let start = || wanted.map(|config| Step::StartMps { on, config: config.clone() });
    let Some(now) = now.filter(|now| now.ours) else {
        return Fate { then: start().into_iter().collect(), ..Fate::default() };
    };
    let serving = now.config.as_ref().filter(|_| now.alive);
    let Some(config) = serving else {
        // What does not answer is not brought back, and what is left of it is cleared away.
        let stop = (now.is_unready() || (wanted.is_none() && now.directory.is_some()))
            .then_some(Step::StopMps { on, config: None });
        return Fate { stop, then: start().into_iter().collect(), why: None };
    };
    match wanted {
        // Whom it serves is settled when it starts: it runs with their group.
        Some(wanted) if wanted.access == config.access => {
            Fate { then: settings(on, now, config, wanted), ..Fate::default() }
        }
        _ => Fate {
            stop: Some(Step::StopMps { on, config: Some(config.clone()) }),
            then: start().into_iter().collect(),
            why: wanted.map(|wanted| {
                format!(
                    "access changes from {} to {}: a daemon serves those it was started for, so it is stopped and a new one started",
                    config.access, wanted.access
                )
            }),
        },
    }
}

/// What a daemon that serves is told: its defaults, and then the servers that run.
fn settings(
    on: Option<MigPlace>,
    now: &MpsStatus,
    config: &MpsConfig,
    wanted: &MpsConfig,
) -> Vec<Step> {
    let to = MpsSettings::from(wanted);
    let defaults = MpsSettings::from(config).changes(&to);
    // A server may come at any time before the default is set.
    let mut servers: Vec<MpsSetting> =
        defaults.iter().filter(|setting| setting.is_of_servers_too()).copied().collect();
    let mut steps: Vec<Step> =
        defaults.into_iter().map(|setting| Step::SetMpsDefault { on, setting }).collect();
    for server in &now.servers {
        let Some(thread_percentage) = server.thread_percentage else { continue };
        let from = MpsSettings {
            thread_percentage,
            pinned_memory_limit: server.pinned_memory_limit,
            // A server has none of its own.
            priority: to.priority,
        };
        for setting in from.changes(&to) {
            match servers.iter_mut().find(|other| other.is_same_kind(&setting)) {
                // What the server has is what is brought back.
                Some(other) => *other = setting,
                None => servers.push(setting),
            }
        }
    }
    steps.extend(servers.into_iter().map(|setting| Step::SetMpsServers { on, setting }));
    steps
}

/// The MPS daemon that a MIG device is to have.
fn shared(sharing: Option<&Sharing>) -> Option<&MpsConfig> {
    match sharing {
        Some(Sharing::Mps(config)) => Some(config),
        _ => None,
    }
}

impl Planner<'_> {
    /// The daemon of the whole GPU: what stops comes before everything else, the rest after.
    pub(super) fn whole_gpu_mps(&mut self) {
        let fate = fate(None, self.gpu.mps.as_ref(), self.target.mps.as_ref());
        self.take(fate, None);
    }

    /// The daemons of MIG devices, where the layout becomes that of a solution.
    pub(super) fn mig_devices_mps(
        &mut self,
        mig: &MigStatus,
        solution: &Solution,
        instances: &[Instance],
    ) {
        let gpu = self.gpu;
        let mut fates: Vec<(MigPlace, Option<&MigDevice>, Option<&MpsConfig>)> = Vec::new();
        for (position, gi) in mig.gpu_instances.iter().enumerate() {
            let kept = solution.instances.iter().find(|placed| placed.keeps == Some(position));
            for (number, ci) in gi.compute_instances.iter().enumerate() {
                if kept.is_none_or(|kept| kept.destroyed_compute.contains(&number)) {
                    let place = MigPlace::new(gi.placement, ci.start);
                    fates.push((place, gpu.mig_device_of(ci), None));
                }
            }
        }
        for (placed, instance) in solution.instances.iter().zip(instances) {
            let gi = placed.keeps.and_then(|position| mig.gpu_instances.get(position));
            for compute in &placed.compute {
                let there = gi.zip(compute.keeps).and_then(|(gi, n)| gi.compute_instances.get(n));
                let device = there.and_then(|ci| gpu.mig_device_of(ci));
                let place = MigPlace::new(placed.placement, compute.start);
                fates.push((place, device, shared(instance.sharing.as_ref())));
            }
        }
        self.take_all(&fates);
    }

    /// The daemons of MIG devices, where the layout stays: those that the record speaks of run.
    pub(super) fn kept_mig_devices_mps(&mut self, mig: &MigStatus) {
        let gpu = self.gpu;
        let instances = self.instances.clone();
        let mut fates = Vec::new();
        for gi in &mig.gpu_instances {
            let record = instances.iter().find(|record| record.placement == gi.placement);
            let wanted = shared(record.and_then(|record| record.sharing.as_ref()));
            for ci in &gi.compute_instances {
                let place = MigPlace::new(gi.placement, ci.start);
                fates.push((place, gpu.mig_device_of(ci), wanted));
            }
        }
        self.take_all(&fates);
    }

    fn take_all(&mut self, fates: &[(MigPlace, Option<&MigDevice>, Option<&MpsConfig>)]) {
        for (place, device, wanted) in fates {
            let now = device.and_then(|device| device.mps.as_ref());
            self.take(fate(Some(*place), now, *wanted), *device);
        }
    }

    fn take(&mut self, fate: Fate, device: Option<&MigDevice>) {
        let Fate { stop, why, then } = fate;
        let tenants = self.gpu.mps_tenants(device);
        if let Some(step) = stop {
            let mut what = match device {
                Some(device) => format!("the MPS daemon of {} that is stopped", device.uuid),
                None => "the MPS daemon that is stopped".to_owned(),
            };
            if let Some(why) = why {
                what = format!("{what} ({why})");
                self.plan.notes.push(why);
            }
            self.step(step);
            self.need_idle(what, tenants);
        } else if !tenants.holders().is_empty() && !then.is_empty() {
            let clients = tenants.holders().len();
            let keep = if clients == 1 {
                "is there keeps the limits that it came with"
            } else {
                "are there keep the limits that they came with"
            };
            self.plan.notes.push(format!(
                "{} that {keep}; those that come get the new ones",
                count(clients, "MPS client")
            ));
        }
        self.later.extend(then);
    }

    /// What starts or is told something, at the end: the devices stand and the compute mode is set.
    pub(super) fn start_mps(&mut self, needs: &mut Needs) -> Result<()> {
        let later = std::mem::take(&mut self.later);
        let mut hazards: Vec<GpuHazard> = Vec::new();
        let mut judged = Vec::new();
        for step in &later {
            let (on, config) = match step {
                Step::StartMps { on, config } => (*on, Some(config.clone())),
                Step::SetMpsDefault { on, .. } | Step::SetMpsServers { on, .. } => {
                    (*on, self.wanted(*on))
                }
                _ => continue,
            };
            let Some(config) = config.filter(|_| !judged.contains(&on)) else { continue };
            judged.push(on);
            let target = self.mps_target(on);
            if on.is_some() {
                hazard::expect_possible(&target, &self.snapshot.driver, &config)?;
                for note in hazard::notes(&target, &config) {
                    if !self.plan.notes.contains(&note) {
                        self.plan.notes.push(note);
                    }
                }
            }
            for hazard in hazard::of_mps_on(&target, &config) {
                let hazard = GpuHazard { gpu: self.gpu.uuid.clone(), hazard };
                if !hazards.contains(&hazard) {
                    hazards.push(hazard);
                }
            }
        }
        needs.hazards.append(&mut hazards);
        self.plan.steps.extend(later);
        Ok(())
    }

    /// What is wanted of the daemon there.
    fn wanted(&self, on: Option<MigPlace>) -> Option<MpsConfig> {
        let Some(place) = on else { return self.target.mps.clone() };
        let record = self.instances.iter().find(|record| record.placement == place.gpu_instance);
        shared(record.and_then(|record| record.sharing.as_ref())).cloned()
    }

    /// What a daemon there serves, as far as it is known before it exists.
    fn mps_target(&self, on: Option<MigPlace>) -> MpsTarget {
        let Some(place) = on else { return MpsTarget::of_gpu(self.gpu) };
        let mig = self.gpu.mig.as_ref();
        let geometry = mig.map(|mig| &mig.geometry);
        // It is there, or a step makes it.
        let made = self.plan.steps.iter().find_map(|step| match step {
            Step::CreateGpuInstance(gi) if gi.placement == place.gpu_instance => Some(gi.profile),
            _ => None,
        });
        let gis = mig.iter().flat_map(|mig| &mig.gpu_instances);
        let there = gis.clone().find(|gi| gi.placement == place.gpu_instance);
        let profile = made.or(there.map(|gi| gi.profile));
        let profile = profile.and_then(|id| geometry?.by_id(id));
        let slices = self.plan.steps.iter().find_map(|step| match step {
            Step::CreateComputeInstance(ci)
                if ci.gpu_instance == place.gpu_instance && ci.placement.start == place.start =>
            {
                Some(ci.placement.size)
            }
            _ => None,
        });
        let kept = there
            .filter(|_| made.is_none())
            .and_then(|gi| gi.compute_instances.iter().find(|ci| ci.start == place.start));
        let slices = slices.or(kept.map(|ci| ci.slices));
        // A part of a GPU instance has an unknown part of its SMs.
        let whole = profile.filter(|profile| Some(profile.slices) == slices);
        MpsTarget::of_mig_device(
            self.gpu,
            whole.map(|profile| profile.sm_count),
            profile.map(|profile| profile.memory),
        )
    }
}
