//! MIG as it stands on a GPU: mode, geometry, instances.

use crate::id::{ComputeProfileId, GpuInstanceId, GpuUuid, ProfileIndex};
use crate::mig::{ComputeProfile, Geometry, Profile, ProfileName};
use crate::observe::{Failure, Observer, is_absent, optional};
use crate::port::{
    GpuInstanceInfo, MigDeviceInfo, NvmlReturn, PciInfo, ProfileAnswer, UnnamedComputeInstance,
};
use crate::snapshot::{
    ComputeInstance, GpuInstance, GpuSnapshot, MigDevice, MigStatus, Usage, Visibility,
};

/// What the driver wants of a caller who looks at instances and where they stand.
const MIG_CONFIG: &str = "/proc/driver/nvidia/capabilities/mig/config";

/// No GPU has more profile indices; a driver that never says END is not asked for ever.
const MOST_PROFILES: u32 = 64;

impl Observer {
    pub(super) fn look_at_mig(
        &mut self,
        gpu: &mut GpuSnapshot,
        pci: PciInfo,
        unnamed: bool,
    ) -> Result<(), Failure> {
        let Some(mode) = optional(self.nvml.mig_mode(&gpu.uuid))? else { return Ok(()) };
        let geometry = self.geometry(&gpu.uuid, pci)?;
        let mut gpu_instances = Vec::new();
        let mut devices = None;
        if mode.current {
            match self.gpu_instances(&gpu.uuid, &geometry, unnamed) {
                Ok(instances) => gpu_instances = instances,
                Err(Failure::Driver(failure)) if failure.ret == NvmlReturn::NO_PERMISSION => {
                    gpu.visibility = Visibility::Partial { missing: vec![MIG_CONFIG.to_owned()] };
                    devices = Some(self.nvml.mig_devices(&gpu.uuid)?);
                }
                Err(failure) => return Err(failure),
            }
        }
        gpu.mig_devices = match devices {
            Some(devices) => {
                devices.iter().map(|device| hidden_device(&geometry, device)).collect()
            }
            None => devices_of(&geometry, &gpu_instances, gpu),
        };
        gpu.mig = Some(MigStatus {
            enabled: mode.current,
            pending: mode.pending,
            geometry,
            gpu_instances,
        });
        Ok(())
    }

    /// The profiles of a model, asked of the first GPU of it.
    fn geometry(&mut self, gpu: &GpuUuid, pci: PciInfo) -> Result<Geometry, Failure> {
        let key = (pci.device_id, pci.subsystem_id);
        if let Some(geometry) = self.models.get(&key).and_then(|model| model.geometry.clone()) {
            return Ok(geometry);
        }
        let mut profiles = Vec::new();
        for index in 0..MOST_PROFILES {
            match self.nvml.profile(gpu, ProfileIndex::new(index))? {
                ProfileAnswer::Profile(mut profile) => {
                    profile.placements = self.nvml.placements(gpu, profile.id)?;
                    profiles.push(profile);
                }
                ProfileAnswer::NotOnThisGpu => {}
                ProfileAnswer::End => break,
            }
        }
        let geometry = Geometry::new(profiles).map_err(Failure::Other)?;
        if let Some(model) = self.models.get_mut(&key) {
            model.geometry = Some(geometry.clone());
        }
        Ok(geometry)
    }

    /// All GPU instances with their compute instances.
    ///
    /// NVML lists them by profile. Once no profile that was not asked for could stand on what is
    /// left, there are no more to find.
    fn gpu_instances(
        &mut self,
        gpu: &GpuUuid,
        geometry: &Geometry,
        unnamed: bool,
    ) -> Result<Vec<GpuInstance>, Failure> {
        let mut found = Vec::new();
        let mut taken: u16 = 0;
        for (position, profile) in geometry.profiles().iter().enumerate() {
            let rest = geometry.profiles().get(position..).unwrap_or_default();
            let mut places = rest.iter().flat_map(|profile| &profile.placements);
            if !places.any(|placement| placement.mask() & taken == 0) {
                break;
            }
            for info in self.nvml.gpu_instances(gpu, profile)? {
                taken |= info.placement.mask();
                found.push(self.gpu_instance(gpu, profile, info, unnamed)?);
            }
        }
        found.sort_by_key(|instance| instance.placement);
        Ok(found)
    }

    fn gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        profile: &Profile,
        info: GpuInstanceInfo,
        unnamed: bool,
    ) -> Result<GpuInstance, Failure> {
        let assumed = ComputeProfile::assumed(profile.index, profile.slices);
        let mut compute_instances = Vec::new();
        let mut free = profile.slices;
        // Largest first: mostly one compute instance fills its GPU instance, and one call finds it.
        for candidate in assumed.iter().rev() {
            if candidate.slices <= free {
                let found = self.compute_instances(gpu, info.id, candidate, unnamed)?;
                free = left(free, candidate, &found);
                compute_instances.extend(found);
            }
        }
        if free > 0 {
            // Something is not as assumed, or slices are unused: ask the driver for all its profiles.
            let asked: Vec<ComputeProfileId> = assumed.iter().map(|profile| profile.id).collect();
            for other in self.nvml.compute_profiles(gpu, info.id)? {
                if !asked.contains(&other.id) {
                    compute_instances
                        .extend(self.compute_instances(gpu, info.id, &other, unnamed)?);
                }
            }
        }
        compute_instances.sort_by_key(|ci| ci.start);
        Ok(GpuInstance {
            id: info.id,
            profile: profile.id,
            name: profile.name,
            placement: info.placement,
            usage: Usage::Idle,
            compute_instances,
        })
    }

    fn compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: &ComputeProfile,
        unnamed: bool,
    ) -> Result<Vec<ComputeInstance>, Failure> {
        let one = |ci: UnnamedComputeInstance, uuid| ComputeInstance {
            id: ci.id,
            profile: ci.profile,
            slices: profile.slices,
            start: ci.placement.start,
            uuid,
            usage: Usage::Idle,
        };
        let found = if unnamed {
            let instances = self.nvml.unnamed_compute_instances(gpu, gi, profile.id);
            instances.map(|found| found.into_iter().map(|ci| one(ci, None)).collect())
        } else {
            let instances = self.nvml.compute_instances(gpu, gi, profile.id);
            instances
                .map(|found| found.into_iter().map(|ci| one((&ci).into(), Some(ci.uuid))).collect())
        };
        match found {
            // This GPU instance does not have that profile.
            Err(failure) if is_absent(&failure) || failure.ret == NvmlReturn::INVALID_ARGUMENT => {
                Ok(Vec::new())
            }
            found => Ok(found?),
        }
    }
}

/// Slices that are free beside these compute instances.
fn left(free: u8, profile: &ComputeProfile, found: &[ComputeInstance]) -> u8 {
    found.iter().fold(free, |free, _| free.saturating_sub(profile.slices))
}

/// The MIG devices of instances that could be seen.
fn devices_of(geometry: &Geometry, instances: &[GpuInstance], gpu: &GpuSnapshot) -> Vec<MigDevice> {
    let names = gpu.record.as_ref().map(|record| &record.instances[..]).unwrap_or_default();
    let mut devices = Vec::new();
    for gi in instances {
        let profile = geometry.by_id(gi.profile);
        for ci in &gi.compute_instances {
            let whole = profile.is_some_and(|profile| profile.slices == ci.slices);
            let Some(uuid) = ci.uuid.clone() else { continue };
            devices.push(MigDevice {
                uuid,
                profile: gi.name.with_compute(ci.slices),
                gi: gi.id,
                ci: ci.id,
                start: Some(gi.placement.start),
                memory: profile.map(|profile| profile.memory),
                sm_count: profile.filter(|_| whole).map(|profile| profile.sm_count),
                name: names
                    .iter()
                    .find(|record| record.placement == gi.placement)
                    .and_then(|record| record.name.clone()),
                mps: None,
                usage: Usage::Idle,
            });
        }
    }
    devices
}

/// A MIG device as its own handle shows it to a caller without privilege.
fn hidden_device(geometry: &Geometry, device: &MigDeviceInfo) -> MigDevice {
    let same_slices =
        geometry.profiles().iter().filter(|profile| profile.slices == device.gpu_slices);
    let closest = same_slices
        .min_by_key(|profile| (profile.memory.get().abs_diff(device.memory.get()), profile.id));
    let name = closest.map_or(ProfileName::short(device.gpu_slices), |profile| profile.name);
    MigDevice {
        uuid: device.uuid.clone(),
        profile: name.with_compute(device.compute_slices),
        gi: device.gi,
        ci: device.ci,
        start: None,
        memory: Some(device.memory),
        sm_count: Some(device.sm_count),
        name: None,
        mps: None,
        usage: Usage::Unknown,
    }
}
