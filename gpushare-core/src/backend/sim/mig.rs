//! MIG as the simulated driver does it: mode, GPU instances, compute instances.
//!
//! Each rule stands in RULES.md with its source. A function checks everything before it changes
//! anything.

use super::products::{PRODUCTS, Product, ProductProfile};
use super::state::{ComputeInstanceState, GpuInstanceState, GpuState, NodeState, hash};
use crate::id::{ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MigUuid, ProfileId};
use crate::mig::geometry::Engines;
use crate::mig::{ComputeProfile, Placement};
use crate::port::{
    Activation, ComputeInstanceInfo, GpuInstanceInfo, MigDeviceInfo, MigMode, NvmlReturn,
};

type Answer<T> = Result<T, NvmlReturn>;

/// Profile ids of chips that the table lacks, seen on an H200: placements of them are an empty list.
const FOREIGN_PROFILES: [u32; 2] = [38, 48];

impl NodeState {
    /// The GPU and its card, where it has MIG.
    fn mig_capable(&self, uuid: &GpuUuid) -> Answer<(&GpuState, &'static Product)> {
        let gpu = self.gpu(uuid)?;
        let product = self.product(gpu)?;
        if product.has_mig() { Ok((gpu, product)) } else { Err(NvmlReturn::NOT_SUPPORTED) }
    }

    /// The GPU and its card, where MIG is on.
    pub(super) fn mig_on(&self, uuid: &GpuUuid) -> Answer<(&GpuState, &'static Product)> {
        let (gpu, product) = self.mig_capable(uuid)?;
        if gpu.mig { Ok((gpu, product)) } else { Err(NvmlReturn::NOT_SUPPORTED) }
    }

    pub(super) fn mig_mode(&self, uuid: &GpuUuid) -> Answer<MigMode> {
        let (gpu, _) = self.mig_capable(uuid)?;
        Ok(MigMode { current: gpu.mig, pending: gpu.mig_pending })
    }

    pub(super) fn set_mig_mode(&mut self, uuid: &GpuUuid, enable: bool) -> Answer<Activation> {
        let (gpu, product) = self.mig_capable(uuid)?;
        self.privileged()?;
        let waits = if gpu.mig == enable {
            None
        } else if self.on_gpu(uuid).next().is_some()
            || !(gpu.instances.is_empty() || self.rules.disable_removes_instances)
        {
            Some(NvmlReturn::IN_USE)
        } else if !product.changes_mig_without_reset() && self.rules.mode_change_stays_pending {
            Some(NvmlReturn::RESET_REQUIRED)
        } else {
            None
        };
        let gpu = self.gpu_mut(uuid)?;
        gpu.mig_pending = enable;
        if let Some(reason) = waits {
            return Ok(Activation::Pending(reason));
        }
        if gpu.mig != enable {
            gpu.set_mig(enable);
        }
        Ok(Activation::Active)
    }

    /// The profile with that id on this GPU. An id that other chips have is NOT_SUPPORTED, one that
    /// none has is INVALID_ARGUMENT.
    pub(super) fn mig_profile(
        &self,
        uuid: &GpuUuid,
        id: ProfileId,
    ) -> Answer<&'static ProductProfile> {
        let (_, product) = self.mig_capable(uuid)?;
        product.profile(id).ok_or_else(|| {
            if foreign(id) { NvmlReturn::NOT_SUPPORTED } else { NvmlReturn::INVALID_ARGUMENT }
        })
    }

    pub(super) fn placements(&self, uuid: &GpuUuid, id: ProfileId) -> Answer<Vec<Placement>> {
        match self.mig_profile(uuid, id) {
            Ok(profile) => Ok(profile.placements().collect()),
            Err(NvmlReturn::NOT_SUPPORTED) if self.mig_capable(uuid).is_ok() => Ok(Vec::new()),
            Err(ret) => Err(ret),
        }
    }

    pub(super) fn gpu_instances(
        &self,
        uuid: &GpuUuid,
        profile: ProfileId,
    ) -> Answer<Vec<GpuInstanceInfo>> {
        let (gpu, _) = self.mig_on(uuid)?;
        self.may_configure_mig()?;
        self.mig_profile(uuid, profile)?;
        Ok(gpu.instances.iter().filter(|gi| gi.profile == profile).map(gi_info).collect())
    }

    /// A GPU instance by its id, which needs privilege.
    pub(super) fn gpu_instance(
        &self,
        uuid: &GpuUuid,
        id: GpuInstanceId,
    ) -> Answer<(&GpuInstanceState, &'static ProductProfile)> {
        let (gpu, product) = self.mig_on(uuid)?;
        self.may_configure_mig()?;
        let gi = gpu.instances.iter().find(|gi| gi.id == id).ok_or(NvmlReturn::NOT_FOUND)?;
        Ok((gi, product.profile(gi.profile).ok_or(NvmlReturn::UNKNOWN)?))
    }

    /// How many more instances of a profile fit. With MIG off, as many as the GPU takes.
    pub(super) fn remaining_capacity(&self, uuid: &GpuUuid, id: ProfileId) -> Answer<u32> {
        let (gpu, product) = self.mig_capable(uuid)?;
        let profile = self.mig_profile(uuid, id)?;
        let free = free_placements(gpu, profile).count();
        let present = gpu.instances.iter().filter(|gi| gi.profile == id).count();
        let most = usize::from(profile.max_instances).saturating_sub(present);
        let mut engines = engines_taken(gpu, product);
        let within = (0..free.min(most))
            .take_while(|_| {
                engines = engines.plus(profile.engines);
                engines.within(product.engines())
            })
            .count();
        u32::try_from(within).map_err(|_| NvmlReturn::UNKNOWN)
    }

    /// Creates a GPU instance, where a placement is given there, and otherwise where it reduces the
    /// remaining capacity least.
    pub(super) fn create_gpu_instance(
        &mut self,
        uuid: &GpuUuid,
        id: ProfileId,
        placement: Option<Placement>,
    ) -> Answer<GpuInstanceInfo> {
        let (gpu, product) = self.mig_on(uuid)?;
        self.may_configure_mig()?;
        let profile = self.mig_profile(uuid, id)?;
        if placement.is_some_and(|wanted| profile.placements().all(|legal| legal != wanted)) {
            return Err(NvmlReturn::INVALID_ARGUMENT);
        }
        let free = if self.remaining_capacity(uuid, id)? == 0 {
            None
        } else {
            free_placements(gpu, profile)
                .filter(|free| placement.is_none_or(|wanted| wanted == *free))
                .min_by_key(|free| (capacity_lost(gpu, product, *free), free.start))
        };
        let by_start = self.rules.id_follows_start;
        let slot = free.and_then(|placement| {
            Some((placement, instance_id(gpu, product.slots, placement, by_start)?))
        });
        self.count_create()?;
        let (placement, number) = slot.ok_or(NvmlReturn::INSUFFICIENT_RESOURCES)?;
        let gi = GpuInstanceState {
            id: GpuInstanceId::new(number),
            profile: id,
            placement,
            compute: Vec::new(),
        };
        let info = gi_info(&gi);
        self.gpu_mut(uuid)?.instances.push(gi);
        Ok(info)
    }

    pub(super) fn destroy_gpu_instance(&mut self, uuid: &GpuUuid, id: GpuInstanceId) -> Answer<()> {
        let (gi, _) = self.gpu_instance(uuid, id)?;
        let used = !gi.compute.is_empty() || self.in_use(uuid, id, None);
        self.count_destroy()?;
        if used {
            return Err(NvmlReturn::IN_USE);
        }
        self.gpu_mut(uuid)?.instances.retain(|gi| gi.id != id);
        Ok(())
    }

    pub(super) fn compute_profiles(
        &self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
    ) -> Answer<Vec<ComputeProfile>> {
        let (_, profile) = self.gpu_instance(uuid, gi)?;
        Ok(ComputeProfile::assumed(profile.index, profile.name.slices))
    }

    /// The compute profile with that id in a GPU instance, and the starts that are still free.
    fn compute_profile(
        &self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
        id: ComputeProfileId,
    ) -> Answer<(ComputeProfile, Vec<u8>)> {
        let profiles = self.compute_profiles(uuid, gi)?;
        let (gi, _) = self.gpu_instance(uuid, gi)?;
        let profile = profiles.into_iter().find(|profile| profile.id == id);
        let profile = profile.ok_or(NvmlReturn::NOT_SUPPORTED)?;
        let taken = gi.compute.iter().fold(0, |mask, ci| mask | ci.placement.mask());
        let starts = profile.starts.iter().copied();
        let free = starts.filter(|&s| Placement::new(s, profile.slices).mask() & taken == 0);
        let free = free.collect();
        Ok((profile, free))
    }

    pub(super) fn compute_remaining_capacity(
        &self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
        id: ComputeProfileId,
    ) -> Answer<u32> {
        let (_, free) = self.compute_profile(uuid, gi, id)?;
        u32::try_from(free.len()).map_err(|_| NvmlReturn::UNKNOWN)
    }

    pub(super) fn compute_instances(
        &self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> Answer<Vec<ComputeInstanceInfo>> {
        let (gi, _) = self.gpu_instance(uuid, gi)?;
        Ok(gi.compute.iter().filter(|ci| ci.profile == profile).map(ci_info).collect())
    }

    pub(super) fn create_compute_instance(
        &mut self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
        id: ComputeProfileId,
        placement: Option<Placement>,
    ) -> Answer<ComputeInstanceInfo> {
        let (profile, free) = self.compute_profile(uuid, gi, id)?;
        if placement.is_some_and(|p| p.size != profile.slices || !profile.starts.contains(&p.start))
        {
            return Err(NvmlReturn::INVALID_ARGUMENT);
        }
        let wanted = |start: &u8| placement.is_none_or(|placement| placement.start == *start);
        let start = free.into_iter().find(wanted);
        let (instance, _) = self.gpu_instance(uuid, gi)?;
        let number = (0..).find(|&n| instance.compute.iter().all(|ci| ci.id.get() != n));
        let salt = if self.rules.same_uuid { 0 } else { self.instances_made + 1 };
        let uuid_of = |start| {
            let gi = instance.placement;
            let digits = hash(&format!(
                "{uuid} {gi} {} {start}:{} {salt}",
                instance.profile, profile.slices
            ));
            format!("MIG-{digits}").parse::<MigUuid>().map_err(|_| NvmlReturn::UNKNOWN)
        };
        let ci = start.zip(number).map(|(start, number)| {
            Ok(ComputeInstanceState {
                id: ComputeInstanceId::new(number),
                profile: id,
                placement: Placement::new(start, profile.slices),
                uuid: uuid_of(start)?,
            })
        });
        self.count_create()?;
        let ci = ci.ok_or(NvmlReturn::INSUFFICIENT_RESOURCES)??;
        let info = ci_info(&ci);
        self.instances_made += 1;
        let instances = &mut self.gpu_mut(uuid)?.instances;
        let instance = instances.iter_mut().find(|instance| instance.id == gi);
        instance.ok_or(NvmlReturn::NOT_FOUND)?.compute.push(ci);
        Ok(info)
    }

    pub(super) fn destroy_compute_instance(
        &mut self,
        uuid: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> Answer<()> {
        let (instance, _) = self.gpu_instance(uuid, gi)?;
        if instance.compute.iter().all(|compute| compute.id != ci) {
            return Err(NvmlReturn::NOT_FOUND);
        }
        let used = self.in_use(uuid, gi, Some(ci));
        self.count_destroy()?;
        if used {
            return Err(NvmlReturn::IN_USE);
        }
        for instance in &mut self.gpu_mut(uuid)?.instances {
            if instance.id == gi {
                instance.compute.retain(|compute| compute.id != ci);
            }
        }
        Ok(())
    }

    pub(super) fn mig_devices(&self, uuid: &GpuUuid) -> Answer<Vec<MigDeviceInfo>> {
        let gpu = self.gpu(uuid)?;
        let product = self.product(gpu)?;
        let mut devices = Vec::new();
        for gi in &gpu.instances {
            let profile = product.profile(gi.profile).ok_or(NvmlReturn::UNKNOWN)?;
            for ci in &gi.compute {
                devices.push(MigDeviceInfo {
                    uuid: ci.uuid.clone(),
                    gi: gi.id,
                    ci: ci.id,
                    gpu_slices: profile.name.slices,
                    compute_slices: ci.placement.size,
                    memory: profile.memory,
                    sm_count: compute_sm_count(product, profile, ci.placement.size),
                });
            }
        }
        Ok(devices)
    }

    /// Counts a creation that the driver is about to do or refuse, and refuses the one that the
    /// rules name.
    fn count_create(&mut self) -> Answer<()> {
        self.creates += 1;
        if self.rules.insufficient_at_create == Some(self.creates) {
            return Err(NvmlReturn::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    fn count_destroy(&mut self) -> Answer<()> {
        self.destroys += 1;
        if self.rules.in_use_at_destroy == Some(self.destroys) {
            return Err(NvmlReturn::IN_USE);
        }
        Ok(())
    }
}

/// The multiprocessors of a compute instance: all of its GPU instance where it fills it, and
/// otherwise those of the card's `1g` for each slice.
pub(super) fn compute_sm_count(product: &Product, profile: &ProductProfile, slices: u8) -> u32 {
    let one = product.profiles.iter().map(|profile| profile.sm_count).min();
    if slices == profile.name.slices {
        return profile.sm_count;
    }
    (one.unwrap_or(0) * u32::from(slices)).min(profile.sm_count)
}

fn foreign(id: ProfileId) -> bool {
    FOREIGN_PROFILES.contains(&id.get()) || PRODUCTS.iter().any(|p| p.profile(id).is_some())
}

fn gi_info(gi: &GpuInstanceState) -> GpuInstanceInfo {
    GpuInstanceInfo { id: gi.id, profile: gi.profile, placement: gi.placement }
}

fn ci_info(ci: &ComputeInstanceState) -> ComputeInstanceInfo {
    ComputeInstanceInfo {
        id: ci.id,
        profile: ci.profile,
        placement: ci.placement,
        uuid: ci.uuid.clone(),
    }
}

fn slots_taken(gpu: &GpuState) -> u16 {
    gpu.instances.iter().fold(0, |mask, gi| mask | gi.placement.mask())
}

fn engines_taken(gpu: &GpuState, product: &Product) -> Engines {
    let profiles = gpu.instances.iter().filter_map(|gi| product.profile(gi.profile));
    profiles.fold(Engines::default(), |sum, profile| sum.plus(profile.engines))
}

/// The placements of a profile whose slots are free.
fn free_placements(
    gpu: &GpuState,
    profile: &ProductProfile,
) -> impl Iterator<Item = Placement> + use<> {
    let taken = slots_taken(gpu);
    profile.placements().filter(move |placement| placement.mask() & taken == 0)
}

/// How many placements, over all profiles, an instance there makes impossible.
fn capacity_lost(gpu: &GpuState, product: &Product, placement: Placement) -> usize {
    let profiles = product.profiles.iter();
    let free = profiles.flat_map(|profile| free_placements(gpu, profile));
    free.filter(|other| other.mask() & placement.mask() != 0).count()
}

/// An id for a GPU instance: 0 for the whole GPU, 1 and 2 for halves, 3 to 6 for quarters, 7 to 14
/// for eighths.
fn instance_id(gpu: &GpuState, slots: u8, placement: Placement, by_start: bool) -> Option<u32> {
    let parts = u32::from(slots.checked_div(placement.size)?);
    let own = u32::from(placement.start.checked_div(placement.size)?);
    let free = |id: &u32| gpu.instances.iter().all(|gi| gi.id.get() != *id);
    let first = parts.checked_sub(1)?;
    if by_start { Some(first + own).filter(free) } else { (first..first + parts).find(free) }
}
