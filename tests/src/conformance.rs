//! What every NVML port does, whatever stands behind it.
//!
//! Each case gets a fresh node of its fleet, NVML opened by root, and a way to make things happen
//! on that node. It panics where the port does otherwise than NVML is documented or was measured.
//! The rules that have no source are left alone: a case holds with any of them.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fmt::Debug;

use gpushare_core::backend::sim::{FaultSpec, Loss, ProcessKind, ProcessSpec, Simulator, Target};
use gpushare_core::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, Pid, ProfileId, ProfileIndex,
};
use gpushare_core::mig::{ComputeProfile, Placement, Profile};
use gpushare_core::mode::ComputeMode;
use gpushare_core::port::{
    Activation, ContextKind, MigMode, Nvml, NvmlResult, NvmlReturn, ProfileAnswer,
};

/// What makes things happen on the node behind a port.
pub trait Control {
    /// Puts a CUDA process on a GPU, or on a compute instance of it.
    fn busy(&self, gpu: &GpuUuid, instance: Option<(GpuInstanceId, ComputeInstanceId)>) -> Pid;
    /// Puts a graphics process on a GPU.
    fn draw(&self, gpu: &GpuUuid) -> Pid;
    /// Ends a process.
    fn idle(&self, pid: Pid);
    /// Lets the driver take its caller for that user.
    fn act_as(&self, uid: u32);
    /// Takes a GPU away, as it is listed and answers no more.
    fn lose(&self, gpu: &GpuUuid);
    /// Lets the next call of an NVML function fail.
    fn fail_next(&self, call: &str, ret: NvmlReturn);
}

impl Control for Simulator {
    fn busy(&self, gpu: &GpuUuid, instance: Option<(GpuInstanceId, ComputeInstanceId)>) -> Pid {
        let target = match instance {
            Some((gi, ci)) => Target::Instance(gpu.clone(), gi, ci),
            None => Target::Gpu(gpu.clone()),
        };
        Self::busy(self, target, ProcessSpec::new("tenant")).unwrap()
    }

    fn draw(&self, gpu: &GpuUuid) -> Pid {
        let spec = ProcessSpec::new("Xorg").doing(ProcessKind::Graphics);
        Self::busy(self, gpu, spec).unwrap()
    }

    fn idle(&self, pid: Pid) {
        Self::idle(self, pid).unwrap();
    }

    fn act_as(&self, uid: u32) {
        Self::act_as(self, uid).unwrap();
    }

    fn lose(&self, gpu: &GpuUuid) {
        Self::lose(self, gpu, Loss::Lost).unwrap();
    }

    fn fail_next(&self, call: &str, ret: NvmlReturn) {
        self.fault(FaultSpec::next(call, ret)).unwrap();
    }
}

/// One thing that every port does.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// The fleet that its node has.
    pub fleet: &'static str,
    /// Tries it.
    pub run: fn(&mut dyn Nvml, &dyn Control),
}

/// Every case.
pub fn all() -> Vec<Case> {
    macro_rules! cases {
        ($($name:ident on $fleet:literal,)*) => {
            vec![$(Case { name: stringify!($name), fleet: $fleet, run: $name }),*]
        };
    }
    cases! {
        gpus_are_told_apart on "2xH100-80GB,1xA30-24GB,1xT4",
        a_card_is_described on "H200",
        what_no_gpu_is_called_is_not_found on "T4",
        cards_without_mig_say_so on "V100",
        the_profile_loop_ends on "H200",
        every_profile_has_its_placements_with_mig_off on "A30-24GB,A100-40GB,H100-80GB,RTX-PRO-6000",
        hopper_changes_mig_mode_at_once on "H100-80GB",
        ampere_changes_mig_mode_in_the_call_or_says_that_it_waits on "A100-40GB,A30-24GB",
        a_change_of_mig_mode_waits_for_the_idle on "H100-80GB",
        compute_mode_is_set_and_goes_with_mig on "2xH100-80GB",
        a_gpu_instance_lives_where_it_was_put on "H100-80GB",
        a_full_gpu_takes_no_more on "H100-80GB",
        compute_instances_live_in_a_gpu_instance on "H100-80GB",
        compute_profiles_are_those_of_the_gpu_instance on "H100-80GB",
        mig_devices_are_the_compute_instances on "H200",
        what_is_in_use_is_not_destroyed on "H100-80GB",
        processes_are_listed_by_kind_and_instance on "2xH100-80GB",
        an_ordinary_user_may_look_and_not_touch on "2xH100-80GB",
        a_lost_gpu_says_so_and_the_others_answer on "2xH100-80GB",
        a_failed_call_is_told_by_its_return on "H100-80GB",
    }
}

const ONE: ProfileId = ProfileId::new(19);
const THREE: ProfileId = ProfileId::new(9);
const SEVEN: ProfileId = ProfileId::new(0);

fn refused<T: Debug>(answer: NvmlResult<T>) -> NvmlReturn {
    answer.unwrap_err().ret
}

fn first(nvml: &mut dyn Nvml) -> GpuUuid {
    nvml.device(0).unwrap()
}

fn with_mig(nvml: &mut dyn Nvml) -> GpuUuid {
    let gpu = first(nvml);
    assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
    gpu
}

/// Asks for every profile, as nvml.h says that one should: from 0 until INVALID_ARGUMENT.
fn profiles(nvml: &mut dyn Nvml, gpu: &GpuUuid) -> Vec<Profile> {
    let mut profiles = Vec::new();
    for index in 0.. {
        match nvml.profile(gpu, ProfileIndex::new(index)).unwrap() {
            ProfileAnswer::Profile(profile) => profiles.push(profile),
            ProfileAnswer::NotOnThisGpu => {}
            ProfileAnswer::End => break,
        }
        assert!(index < 64, "the loop does not end");
    }
    profiles
}

fn profile(nvml: &mut dyn Nvml, gpu: &GpuUuid, id: ProfileId) -> Profile {
    profiles(nvml, gpu).into_iter().find(|profile| profile.id == id).unwrap()
}

/// The profile of a compute instance that fills its GPU instance.
fn full(profiles: &[ComputeProfile]) -> &ComputeProfile {
    profiles.iter().max_by_key(|profile| profile.slices).unwrap()
}

fn gpus_are_told_apart(nvml: &mut dyn Nvml, _: &dyn Control) {
    assert_eq!(nvml.device_count().unwrap(), 4);
    let gpus: Vec<_> = (0..4).map(|index| nvml.device(index).unwrap()).collect();
    assert_eq!(refused(nvml.device(4)), NvmlReturn::INVALID_ARGUMENT);
    let mut minors = Vec::new();
    let mut addresses = Vec::new();
    for (gpu, name) in gpus.iter().zip(["H100", "H100", "A30", "T4"]) {
        assert!(nvml.name(gpu).unwrap().contains(name));
        minors.push(nvml.minor_number(gpu).unwrap());
        addresses.push(nvml.pci_info(gpu).unwrap().address);
    }
    assert!(addresses.is_sorted(), "the index follows the bus");
    for list in [
        &mut gpus.iter().map(ToString::to_string).collect::<Vec<_>>(),
        &mut minors.iter().map(ToString::to_string).collect(),
        &mut addresses.iter().map(ToString::to_string).collect(),
    ] {
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), 4);
    }
}

fn a_card_is_described(nvml: &mut dyn Nvml, _: &dyn Control) {
    let driver = nvml.driver().unwrap();
    assert_eq!((driver.version.as_str(), driver.cuda.as_deref()), ("580.159.04", Some("13.0")));
    let gpu = first(nvml);
    assert_eq!(nvml.name(&gpu).unwrap(), "NVIDIA H200");
    assert_eq!(nvml.memory_total(&gpu).unwrap().get(), 150_754_820_096);
    assert_eq!(nvml.compute_capability(&gpu).unwrap(), (9, 0));
    assert_eq!(nvml.core_count(&gpu).unwrap(), 16_896);
    let pci = nvml.pci_info(&gpu).unwrap();
    assert_eq!(pci.device_id.to_string(), "0x233510DE");
    assert_eq!(pci.subsystem_id, 0x18bf_10de);
}

fn what_no_gpu_is_called_is_not_found(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = "GPU-00000000-1111-2222-3333-444444444444".parse().unwrap();
    assert_eq!(refused(nvml.name(&gpu)), NvmlReturn::NOT_FOUND);
    assert_eq!(refused(nvml.mig_mode(&gpu)), NvmlReturn::NOT_FOUND);
    assert_eq!(refused(nvml.set_compute_mode(&gpu, ComputeMode::Default)), NvmlReturn::NOT_FOUND);
}

fn cards_without_mig_say_so(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = first(nvml);
    assert_eq!(refused(nvml.mig_mode(&gpu)), NvmlReturn::NOT_SUPPORTED);
    assert_eq!(refused(nvml.set_mig_mode(&gpu, true)), NvmlReturn::NOT_SUPPORTED);
    assert_eq!(profiles(nvml, &gpu), []);
    assert_eq!(nvml.mig_devices(&gpu).unwrap(), []);
    assert_eq!(nvml.compute_mode(&gpu).unwrap(), ComputeMode::Default);
}

fn the_profile_loop_ends(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = first(nvml);
    let found: Vec<_> = profiles(nvml, &gpu)
        .into_iter()
        .map(|p| {
            let mebibytes = p.memory.get() >> 20;
            (p.index.get(), p.id.get(), p.name.to_string(), p.max_instances, mebibytes, p.sm_count)
        })
        .collect();
    let measured = [
        (0, 19, "1g.18gb", 7, 16_384, 16),
        (1, 14, "2g.35gb", 3, 33_280, 32),
        (2, 9, "3g.71gb", 2, 71_424, 60),
        (3, 5, "4g.71gb", 1, 71_424, 64),
        (4, 0, "7g.141gb", 1, 143_360, 132),
        (7, 20, "1g.18gb+me", 1, 16_384, 16),
        (9, 15, "1g.35gb", 4, 33_280, 26),
    ];
    assert_eq!(
        found,
        measured.map(|(i, id, name, n, mib, sm)| (i, id, name.to_owned(), n, mib, sm))
    );
    let media = profile(nvml, &gpu, ProfileId::new(20)).engines;
    assert_eq!((media.decoders, media.encoders, media.jpeg, media.optical_flow), (1, 0, 1, 1));
}

fn every_profile_has_its_placements_with_mig_off(nvml: &mut dyn Nvml, _: &dyn Control) {
    for (index, slots) in [(0, 4), (1, 8), (2, 8), (3, 12)] {
        let gpu = nvml.device(index).unwrap();
        let profiles = profiles(nvml, &gpu);
        assert!(!profiles.is_empty());
        for profile in &profiles {
            assert_eq!(profile.placements, [], "they are asked for apart");
            let placements = nvml.placements(&gpu, profile.id).unwrap();
            assert!(placements.len() >= usize::from(profile.max_instances), "{}", profile.name);
            assert!(placements.iter().all(|p| p.size > 0 && p.start + p.size <= slots));
        }
        // The id of a chip that is not this one: an empty list, and no error.
        let foreign = if index == 3 { 19 } else { 47 };
        assert_eq!(nvml.placements(&gpu, ProfileId::new(foreign)).unwrap(), []);
        assert_eq!(refused(nvml.placements(&gpu, ProfileId::new(2))), NvmlReturn::INVALID_ARGUMENT);
    }
}

fn hopper_changes_mig_mode_at_once(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = first(nvml);
    for on in [true, true, false, false, true] {
        assert_eq!(nvml.set_mig_mode(&gpu, on).unwrap(), Activation::Active);
        assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: on, pending: on });
    }
}

fn ampere_changes_mig_mode_in_the_call_or_says_that_it_waits(nvml: &mut dyn Nvml, _: &dyn Control) {
    for index in [0, 1] {
        let gpu = nvml.device(index).unwrap();
        let active = match nvml.set_mig_mode(&gpu, true).unwrap() {
            Activation::Active => true,
            Activation::Pending(reason) => {
                assert_eq!(reason, NvmlReturn::RESET_REQUIRED);
                false
            }
        };
        assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: active, pending: true });
        if !active {
            // What is there already is never waited for.
            assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), Activation::Active);
            assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: false, pending: false });
        }
    }
}

fn a_change_of_mig_mode_waits_for_the_idle(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = first(nvml);
    let pid = control.busy(&gpu, None);
    let waits = nvml.set_mig_mode(&gpu, true).unwrap();
    assert_eq!(waits, Activation::Pending(NvmlReturn::IN_USE));
    assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: false, pending: true });
    control.idle(pid);
    assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
    assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: true, pending: true });
}

fn compute_mode_is_set_and_goes_with_mig(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = first(nvml);
    for mode in [ComputeMode::ExclusiveProcess, ComputeMode::Prohibited, ComputeMode::Default] {
        nvml.set_compute_mode(&gpu, mode).unwrap();
        assert_eq!(nvml.compute_mode(&gpu).unwrap(), mode);
    }
    nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess).unwrap();
    let other = nvml.device(1).unwrap();
    assert_eq!(nvml.compute_mode(&other).unwrap(), ComputeMode::Default);
    with_mig(nvml);
    assert_eq!(refused(nvml.compute_mode(&gpu)), NvmlReturn::NOT_SUPPORTED);
    let set = nvml.set_compute_mode(&gpu, ComputeMode::Prohibited);
    assert_eq!(refused(set), NvmlReturn::NOT_SUPPORTED);
    nvml.set_mig_mode(&gpu, false).unwrap();
    assert_eq!(nvml.compute_mode(&gpu).unwrap(), ComputeMode::Default);
}

fn a_gpu_instance_lives_where_it_was_put(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = first(nvml);
    let (one, three) = (profile(nvml, &gpu, ONE), profile(nvml, &gpu, THREE));
    let early = nvml.create_gpu_instance(&gpu, THREE, Placement::new(4, 4));
    assert_eq!(refused(early), NvmlReturn::NOT_SUPPORTED, "MIG is off");
    with_mig(nvml);
    let big = nvml.create_gpu_instance(&gpu, THREE, Placement::new(4, 4)).unwrap();
    assert_eq!((big.profile, big.placement), (THREE, Placement::new(4, 4)));
    let small = nvml.create_gpu_instance(&gpu, ONE, Placement::new(2, 1)).unwrap();
    assert_ne!(big.id, small.id);
    assert_eq!(nvml.gpu_instances(&gpu, &three).unwrap(), [big]);
    assert_eq!(nvml.gpu_instances(&gpu, &one).unwrap(), [small]);
    nvml.destroy_gpu_instance(&gpu, big.id).unwrap();
    assert_eq!(nvml.gpu_instances(&gpu, &three).unwrap(), []);
    assert_eq!(nvml.gpu_instances(&gpu, &one).unwrap(), [small]);
    assert_eq!(refused(nvml.destroy_gpu_instance(&gpu, big.id)), NvmlReturn::NOT_FOUND);
}

fn a_full_gpu_takes_no_more(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = with_mig(nvml);
    for start in 0..7 {
        nvml.create_gpu_instance(&gpu, ONE, Placement::new(start, 1)).unwrap();
    }
    let one = profile(nvml, &gpu, ONE);
    let instances = nvml.gpu_instances(&gpu, &one).unwrap();
    assert_eq!(instances.len(), 7);
    for (profile, start, size) in
        [(ONE, 3, 1), (THREE, 4, 4), (SEVEN, 0, 8), (ProfileId::new(20), 0, 1)]
    {
        let more = nvml.create_gpu_instance(&gpu, profile, Placement::new(start, size));
        assert_eq!(refused(more), NvmlReturn::INSUFFICIENT_RESOURCES);
    }
    let nowhere = nvml.create_gpu_instance(&gpu, ONE, Placement::new(7, 1));
    assert_eq!(refused(nowhere), NvmlReturn::INVALID_ARGUMENT);
    for instance in instances {
        nvml.destroy_gpu_instance(&gpu, instance.id).unwrap();
    }
    nvml.create_gpu_instance(&gpu, SEVEN, Placement::new(0, 8)).unwrap();
}

fn compute_instances_live_in_a_gpu_instance(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = with_mig(nvml);
    let gi = nvml.create_gpu_instance(&gpu, THREE, Placement::new(0, 4)).unwrap().id;
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    let (small, whole) = (profiles[0].clone(), full(&profiles).clone());
    assert_eq!((small.slices, whole.slices), (1, 3));
    let last = Placement::new(2, 1);
    let placed = nvml.create_compute_instance(&gpu, gi, small.id, Some(last)).unwrap();
    assert_eq!((placed.profile, placed.placement), (small.id, last));
    let anywhere = nvml.create_compute_instance(&gpu, gi, small.id, None).unwrap();
    assert_ne!((anywhere.id, &anywhere.uuid), (placed.id, &placed.uuid));
    let no_room = nvml.create_compute_instance(&gpu, gi, whole.id, None);
    assert_eq!(refused(no_room), NvmlReturn::INSUFFICIENT_RESOURCES);
    let taken = nvml.create_compute_instance(&gpu, gi, small.id, Some(last));
    assert_eq!(refused(taken), NvmlReturn::INSUFFICIENT_RESOURCES);
    let mut found = nvml.compute_instances(&gpu, gi, small.id).unwrap();
    found.sort_by_key(|ci| ci.id);
    assert_eq!(found, [placed.clone(), anywhere.clone()]);
    assert_eq!(nvml.compute_instances(&gpu, gi, whole.id).unwrap(), []);
    assert_eq!(refused(nvml.destroy_gpu_instance(&gpu, gi)), NvmlReturn::IN_USE);
    for ci in [placed.id, anywhere.id] {
        nvml.destroy_compute_instance(&gpu, gi, ci).unwrap();
    }
    let gone = nvml.destroy_compute_instance(&gpu, gi, placed.id);
    assert_eq!(refused(gone), NvmlReturn::NOT_FOUND);
    nvml.create_compute_instance(&gpu, gi, whole.id, None).unwrap();
}

fn compute_profiles_are_those_of_the_gpu_instance(nvml: &mut dyn Nvml, _: &dyn Control) {
    let gpu = with_mig(nvml);
    let gi = nvml.create_gpu_instance(&gpu, SEVEN, Placement::new(0, 8)).unwrap().id;
    let listed: Vec<_> = nvml
        .compute_profiles(&gpu, gi)
        .unwrap()
        .iter()
        .map(|p| (p.index.get(), p.id.get(), p.slices, p.starts.len()))
        .collect();
    assert_eq!(listed, [(0, 0, 1, 7), (1, 1, 2, 3), (2, 2, 3, 2), (3, 3, 4, 1), (4, 4, 7, 1)]);
    nvml.destroy_gpu_instance(&gpu, gi).unwrap();
    assert_eq!(refused(nvml.compute_profiles(&gpu, gi)), NvmlReturn::NOT_FOUND);
    // The one of a GPU instance with double memory has an id of its own.
    let gi = nvml.create_gpu_instance(&gpu, ProfileId::new(15), Placement::new(6, 2)).unwrap().id;
    let listed = nvml.compute_profiles(&gpu, gi).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, listed[0].slices), (ComputeProfileId::new(7), 1));
}

fn mig_devices_are_the_compute_instances(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = first(nvml);
    assert_eq!(nvml.mig_devices(&gpu).unwrap(), []);
    with_mig(nvml);
    let gi = nvml.create_gpu_instance(&gpu, THREE, Placement::new(4, 4)).unwrap().id;
    assert_eq!(nvml.mig_devices(&gpu).unwrap(), []);
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    let ci = nvml.create_compute_instance(&gpu, gi, full(&profiles).id, None).unwrap();
    for uid in [0, 1000] {
        control.act_as(uid);
        let devices = nvml.mig_devices(&gpu).unwrap();
        assert_eq!(devices.len(), 1);
        let device = &devices[0];
        assert_eq!((&device.uuid, device.gi, device.ci), (&ci.uuid, gi, ci.id));
        assert_eq!((device.gpu_slices, device.compute_slices), (3, 3));
        assert_eq!((device.memory.get() >> 20, device.sm_count), (71_424, 60));
    }
}

fn what_is_in_use_is_not_destroyed(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = with_mig(nvml);
    let gi = nvml.create_gpu_instance(&gpu, THREE, Placement::new(0, 4)).unwrap().id;
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    let mut make = || nvml.create_compute_instance(&gpu, gi, profiles[0].id, None).unwrap().id;
    let (used, idle) = (make(), make());
    let pid = control.busy(&gpu, Some((gi, used)));
    let destroyed = nvml.destroy_compute_instance(&gpu, gi, used);
    assert_eq!(refused(destroyed), NvmlReturn::IN_USE);
    nvml.destroy_compute_instance(&gpu, gi, idle).unwrap();
    assert_eq!(refused(nvml.destroy_gpu_instance(&gpu, gi)), NvmlReturn::IN_USE);
    control.idle(pid);
    nvml.destroy_compute_instance(&gpu, gi, used).unwrap();
    nvml.destroy_gpu_instance(&gpu, gi).unwrap();
}

fn processes_are_listed_by_kind_and_instance(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = with_mig(nvml);
    let other = nvml.device(1).unwrap();
    let gi = nvml.create_gpu_instance(&gpu, THREE, Placement::new(4, 4)).unwrap().id;
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    nvml.create_compute_instance(&gpu, gi, profiles[0].id, None).unwrap();
    let ci = nvml.create_compute_instance(&gpu, gi, profiles[0].id, None).unwrap().id;
    let tenant = control.busy(&gpu, Some((gi, ci)));
    let (compute, drawing) = (control.busy(&other, None), control.draw(&other));
    let mut list = |gpu, kind| -> Vec<_> {
        let processes = nvml.processes(gpu, kind).unwrap();
        processes.into_iter().map(|process| (process.pid, process.instance)).collect()
    };
    assert_eq!(list(&gpu, ContextKind::Compute), [(tenant, Some((gi, ci)))]);
    assert_eq!(list(&other, ContextKind::Compute), [(compute, None)]);
    assert_eq!(list(&other, ContextKind::Graphics), [(drawing, None)]);
    assert_eq!(list(&other, ContextKind::MpsClient), []);
    control.idle(compute);
    assert_eq!(list(&other, ContextKind::Compute), []);
}

fn an_ordinary_user_may_look_and_not_touch(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = with_mig(nvml);
    let other = nvml.device(1).unwrap();
    let seven = profile(nvml, &gpu, SEVEN);
    let gi = nvml.create_gpu_instance(&gpu, SEVEN, Placement::new(0, 8)).unwrap().id;
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    let whole = full(&profiles).id;
    let ci = nvml.create_compute_instance(&gpu, gi, whole, None).unwrap().id;
    control.act_as(1000);
    assert!(nvml.mig_mode(&gpu).unwrap().current);
    assert_eq!(profile(nvml, &gpu, SEVEN), seven);
    assert_eq!(nvml.placements(&gpu, SEVEN).unwrap(), [Placement::new(0, 8)]);
    assert_eq!(nvml.compute_mode(&other).unwrap(), ComputeMode::Default);
    assert_eq!(nvml.processes(&other, ContextKind::Compute).unwrap(), []);
    let refusals = [
        refused(nvml.gpu_instances(&gpu, &seven)),
        refused(nvml.create_gpu_instance(&gpu, SEVEN, Placement::new(0, 8))),
        refused(nvml.destroy_gpu_instance(&gpu, gi)),
        refused(nvml.compute_profiles(&gpu, gi)),
        refused(nvml.compute_instances(&gpu, gi, whole)),
        refused(nvml.create_compute_instance(&gpu, gi, whole, None)),
        refused(nvml.destroy_compute_instance(&gpu, gi, ci)),
        refused(nvml.set_mig_mode(&other, true)),
        refused(nvml.set_compute_mode(&other, ComputeMode::Prohibited)),
    ];
    assert_eq!(refusals, [NvmlReturn::NO_PERMISSION; 9]);
}

fn a_lost_gpu_says_so_and_the_others_answer(nvml: &mut dyn Nvml, control: &dyn Control) {
    let (lost, other) = (first(nvml), nvml.device(1).unwrap());
    control.lose(&lost);
    assert_eq!(nvml.device_count().unwrap(), 2);
    assert_eq!(refused(nvml.device(0)), NvmlReturn::GPU_IS_LOST);
    assert_eq!(refused(nvml.mig_mode(&lost)), NvmlReturn::GPU_IS_LOST);
    assert_eq!(refused(nvml.compute_mode(&lost)), NvmlReturn::GPU_IS_LOST);
    assert_eq!(nvml.device(1).unwrap(), other);
    assert!(!nvml.mig_mode(&other).unwrap().current);
}

fn a_failed_call_is_told_by_its_return(nvml: &mut dyn Nvml, control: &dyn Control) {
    let gpu = with_mig(nvml);
    for code in [NvmlReturn::INSUFFICIENT_RESOURCES, NvmlReturn::INVALID_STATE, NvmlReturn::UNKNOWN]
    {
        let call = "nvmlDeviceCreateGpuInstanceWithPlacement";
        control.fail_next(call, code);
        let failure = nvml.create_gpu_instance(&gpu, ONE, Placement::new(0, 1)).unwrap_err();
        assert_eq!((failure.call, failure.ret), (call, code));
    }
    nvml.create_gpu_instance(&gpu, SEVEN, Placement::new(0, 8)).unwrap();
}
