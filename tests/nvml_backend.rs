//! gpushare's NVML backend over NVIDIA's C ABI, beside the simulator that stands behind it: what
//! goes through C and back must be what was asked and answered.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;

use gpushare_core::backend::sim::{FaultSpec, PRODUCTS, ProcessKind, ProcessSpec, Simulator};
use gpushare_core::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, ProfileId, ProfileIndex,
};
use gpushare_core::mig::{Placement, Profile};
use gpushare_core::mode::ComputeMode;
use gpushare_core::port::{
    ContextKind, Nvml, NvmlLibrary as _, NvmlResult, NvmlReturn, ProfileAnswer,
};
use gpushare_tests::conformance;
use gpushare_tests::nvml_sim::{Node, in_child};

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

/// A node through C, and its twin in memory.
struct Twins {
    through_c: Box<dyn Nvml>,
    file: Simulator,
    direct: Box<dyn Nvml>,
    memory: Simulator,
}

impl Twins {
    /// Does the same to both and compares the answers. Now and then somebody else does it to the
    /// node behind C, past the session that is tested.
    fn same<T: PartialEq + Debug>(
        &mut self,
        what: &str,
        foreign: bool,
        act: impl Fn(&mut dyn Nvml) -> NvmlResult<T>,
    ) -> Result<T, NvmlReturn> {
        let a = if foreign {
            act(&mut self.file.open().unwrap())
        } else {
            act(self.through_c.as_mut())
        };
        let b = act(self.direct.as_mut());
        match (&a, &b) {
            (Err(a), Err(b)) => assert_eq!(a.ret, b.ret, "{what}: {a} here, {b} there"),
            (a, b) => assert_eq!(a, b, "{what}"),
        }
        a.map_err(|failure| failure.ret)
    }

    fn mig_devices(&mut self, gpu: &GpuUuid) -> usize {
        self.direct.mig_devices(gpu).unwrap_or_default().len()
    }

    fn look(&mut self, gpu: &GpuUuid, profiles: &[Profile]) {
        let profiles = profiles.to_vec();
        self.same("looking at all of it", false, |nvml| {
            let mut seen = vec![
                format!("{:?}", code(nvml.mig_mode(gpu))),
                format!("{:?}", code(nvml.compute_mode(gpu))),
                format!("{:?}", code(nvml.mig_devices(gpu))),
            ];
            for kind in [ContextKind::Compute, ContextKind::Graphics, ContextKind::MpsClient] {
                seen.push(format!("{:?}", code(nvml.processes(gpu, kind))));
            }
            for profile in &profiles {
                let instances = code(nvml.gpu_instances(gpu, profile));
                for gi in instances.iter().flatten() {
                    for ci in &nvml.compute_profiles(gpu, gi.id)? {
                        seen.push(format!("{:?}", code(nvml.compute_instances(gpu, gi.id, ci.id))));
                    }
                }
                seen.push(format!("{instances:?}"));
            }
            Ok(seen)
        })
        .unwrap();
    }
}

fn code<T>(result: NvmlResult<T>) -> Result<T, NvmlReturn> {
    result.map_err(|failure| failure.ret)
}

fn profiles(nvml: &mut dyn Nvml, gpu: &GpuUuid) -> NvmlResult<Vec<Profile>> {
    let mut found = Vec::new();
    for index in 0.. {
        match nvml.profile(gpu, ProfileIndex::new(index))? {
            ProfileAnswer::Profile(mut profile) => {
                profile.placements = nvml.placements(gpu, profile.id)?;
                found.push(profile);
            }
            ProfileAnswer::NotOnThisGpu => {}
            ProfileAnswer::End => break,
        }
    }
    Ok(found)
}

#[test]
fn every_product_behaves_through_c_as_it_does_without() {
    let Some((library, file)) = in_child() else {
        for product in PRODUCTS {
            for device in ["gpu", "mig"] {
                let node = Node::new(&format!("2x{}", product.name));
                let variables = [("GPUSHARE_NVML_CI_DEVICE", OsStr::new(device))];
                node.run_again("every_product_behaves_through_c_as_it_does_without", &variables);
            }
        }
        return;
    };
    let memory = Simulator::new(file.fleet().unwrap()).unwrap();
    let mut twins = Twins {
        through_c: library.open().unwrap(),
        file,
        direct: Box::new(memory.open().unwrap()),
        memory,
    };
    twins.same("driver", false, |nvml| nvml.driver()).unwrap();
    assert_eq!(twins.same("count", false, |nvml| nvml.device_count()), Ok(2));
    let gpu = twins.same("device", false, |nvml| nvml.device(1)).unwrap();
    let none = "GPU-00000000-0000-0000-0000-000000000000".parse().unwrap();
    assert_eq!(twins.same("name", false, |nvml| nvml.name(&none)), Err(NvmlReturn::NOT_FOUND));
    twins.same("index 2", false, |nvml| nvml.device(2)).unwrap_err();
    twins.same("minor", false, |nvml| nvml.minor_number(&gpu)).unwrap();
    twins.same("pci", false, |nvml| nvml.pci_info(&gpu)).unwrap();
    twins.same("name", false, |nvml| nvml.name(&gpu)).unwrap();
    twins.same("memory", false, |nvml| nvml.memory_total(&gpu)).unwrap();
    twins.same("capability", false, |nvml| nvml.compute_capability(&gpu)).unwrap();
    twins.same("cores", false, |nvml| nvml.core_count(&gpu)).unwrap();
    let profiles = twins.same("profiles", false, |nvml| profiles(nvml, &gpu)).unwrap_or_default();
    for foreign in [32, 99] {
        let id = ProfileId::new(foreign);
        let _ = twins.same("foreign placements", false, |nvml| nvml.placements(&gpu, id));
    }
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ gpu.as_str().len() as u64);
    let mut most = 0;
    for step in 0..120 {
        walk(&mut twins, &mut dice, &gpu, &profiles, step);
        twins.look(&gpu, &profiles);
        most = most.max(twins.mig_devices(&gpu));
    }
    assert!(most > 1 || profiles.is_empty(), "the walk never came to two MIG devices");
}

fn instances(
    twins: &mut Twins,
    gpu: &GpuUuid,
    profiles: &[Profile],
) -> Vec<(GpuInstanceId, Vec<(ComputeProfileId, ComputeInstanceId)>)> {
    let mut all = Vec::new();
    for profile in profiles {
        for gi in twins.direct.gpu_instances(gpu, profile).unwrap_or_default() {
            let mut compute = Vec::new();
            for ci in twins.direct.compute_profiles(gpu, gi.id).unwrap_or_default() {
                let found = twins.direct.compute_instances(gpu, gi.id, ci.id).unwrap_or_default();
                compute.extend(found.iter().map(|found| (ci.id, found.id)));
            }
            all.push((gi.id, compute));
        }
    }
    all
}

/// One change of both nodes, sensible or not.
fn walk(twins: &mut Twins, dice: &mut Dice, gpu: &GpuUuid, profiles: &[Profile], step: usize) {
    let foreign = dice.below(4) == 0;
    let there = instances(twins, gpu, profiles);
    let at = format!("step {step}");
    match dice.below(12) {
        0 => {
            let enable = dice.below(3) > 0;
            let _ = twins.same(&at, foreign, |nvml| nvml.set_mig_mode(gpu, enable));
        }
        1..=4 => {
            let Some(profile) = dice.pick(profiles) else { return };
            let place = match dice.pick(&profile.placements) {
                Some(&place) if dice.below(8) > 0 => place,
                _ => Placement { start: dice.below(9) as u8, size: dice.below(5) as u8 },
            };
            let _ =
                twins.same(&at, foreign, |nvml| nvml.create_gpu_instance(gpu, profile.id, place));
        }
        5..=6 => {
            let Some(&(gi, _)) = dice.pick(&there) else { return };
            let all = twins.direct.compute_profiles(gpu, gi).unwrap();
            let Some(profile) = dice.pick(&all) else { return };
            let place = dice
                .pick(&profile.starts)
                .filter(|start| **start % 2 == 0)
                .map(|&start| Placement { start, size: profile.slices });
            let _ = twins.same(&at, foreign, |nvml| {
                nvml.create_compute_instance(gpu, gi, profile.id, place)
            });
        }
        7 => {
            let Some((gi, compute)) = dice.pick(&there) else { return };
            let ci = dice.pick(compute).map_or(ComputeInstanceId::new(5), |&(_, ci)| ci);
            let _ = twins.same(&at, foreign, |nvml| nvml.destroy_compute_instance(gpu, *gi, ci));
        }
        8 => {
            let gi = dice.pick(&there).map_or(GpuInstanceId::new(5), |&(gi, _)| gi);
            let _ = twins.same(&at, foreign, |nvml| nvml.destroy_gpu_instance(gpu, gi));
        }
        9 => {
            let modes = ComputeMode::ALL;
            let Some(&mode) = dice.pick(modes) else { return };
            let _ = twins.same(&at, foreign, |nvml| nvml.set_compute_mode(gpu, mode));
        }
        10 => {
            let compute: Vec<_> = there
                .iter()
                .flat_map(|(gi, compute)| compute.iter().map(move |&(_, ci)| (*gi, ci)))
                .collect();
            let kind =
                if dice.below(3) == 0 { ProcessKind::Graphics } else { ProcessKind::Compute };
            let spec = ProcessSpec::new("python").doing(kind);
            let busy = |node: &Simulator| match compute.first() {
                Some(&(gi, ci)) => node.busy((gpu, gi, ci), spec.clone()),
                None => node.busy(gpu, spec.clone()),
            };
            let (a, b) = (busy(&twins.file), busy(&twins.memory));
            assert_eq!(a.map_err(|e| e.code()), b.map_err(|e| e.code()), "{at}");
        }
        _ => {
            let user = if dice.below(3) == 0 { 1000 } else { 0 };
            for node in [&twins.file, &twins.memory] {
                node.act_as(user).unwrap();
                node.idle_all(gpu).unwrap();
            }
        }
    }
}

#[test]
fn it_does_what_every_nvml_port_does() {
    const CASE: &str = "GPUSHARE_TESTS_CASE";
    let Some((library, node)) = in_child() else {
        for case in conformance::all() {
            for device in ["gpu", "mig"] {
                let variables = [
                    (CASE, OsStr::new(case.name)),
                    ("GPUSHARE_NVML_CI_DEVICE", OsStr::new(device)),
                ];
                let test = "it_does_what_every_nvml_port_does";
                Node::new(case.fleet).run_again(test, &variables);
            }
        }
        return;
    };
    let name = std::env::var(CASE).unwrap();
    let case = conformance::all().into_iter().find(|case| case.name == name).unwrap();
    (case.run)(library.open().unwrap().as_mut(), &node);
}

#[test]
fn what_the_driver_returns_comes_through() {
    let Some((library, node)) = in_child() else {
        let node = Node::new("1xA100-40GB");
        node.run_again("what_the_driver_returns_comes_through", &[]);
        return;
    };
    let mut nvml = library.open().unwrap();
    let gpu = nvml.device(0).unwrap();
    for ret in (1..=30).chain([999, 12345]) {
        let call = "nvmlDeviceGetName";
        node.fault(FaultSpec::next(call, NvmlReturn(ret))).unwrap();
        let failure = nvml.name(&gpu).unwrap_err();
        assert_eq!((failure.call, failure.ret), (call, NvmlReturn(ret)));
        nvml.name(&gpu).unwrap();
    }
    drop(nvml);
    node.fault(FaultSpec::next("nvmlInit_v2", NvmlReturn::INSUFFICIENT_RESOURCES)).unwrap();
    let failure = library.open().unwrap_err();
    assert_eq!((failure.call, failure.ret), ("nvmlInit_v2", NvmlReturn::INSUFFICIENT_RESOURCES));
}

#[test]
fn more_processes_than_a_call_has_room_for_are_all_listed() {
    let Some((library, node)) = in_child() else {
        let node = Node::new("1xL40S");
        node.run_again("more_processes_than_a_call_has_room_for_are_all_listed", &[]);
        return;
    };
    let mut nvml = library.open().unwrap();
    let gpu = nvml.device(0).unwrap();
    for count in 1..=150 {
        node.busy(&gpu, ProcessSpec::new("x")).unwrap();
        assert_eq!(nvml.processes(&gpu, ContextKind::Compute).unwrap().len(), count);
    }
}

#[test]
fn every_method_is_as_few_calls_as_it_says() {
    let Some((library, _)) = in_child() else {
        let node = Node::new("1xH100-80GB");
        let calls = node.folder().join("calls");
        let variables = [("GPUSHARE_NVML_CALLS", calls.as_os_str())];
        node.run_again("every_method_is_as_few_calls_as_it_says", &variables);
        let counts = std::fs::read_to_string(calls).unwrap();
        let counts: BTreeMap<_, u32> = counts
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, count)| (name, count.parse().unwrap()))
            .collect();
        let expected = [
            ("nvmlComputeInstanceDestroy", 1),
            // One to describe each of two that were created, and of two that were listed.
            ("nvmlComputeInstanceGetInfo_v2", 4),
            ("nvmlDeviceCreateGpuInstanceWithPlacement", 1),
            // The first found after its creation, both after that of the second; the list then
            // knows where they are.
            ("nvmlDeviceGetComputeInstanceId", 3),
            ("nvmlDeviceGetComputeRunningProcesses_v3", 1),
            ("nvmlDeviceGetCount_v2", 1),
            ("nvmlDeviceGetGpuInstanceId", 3),
            ("nvmlDeviceGetGpuInstancePossiblePlacements_v2", 1),
            ("nvmlDeviceGetGpuInstanceProfileInfoV", 2),
            ("nvmlDeviceGetGpuInstances", 1),
            ("nvmlDeviceGetHandleByIndex_v2", 1),
            // MIG mode was set, so the GPU was found anew.
            ("nvmlDeviceGetHandleByUUID", 1),
            ("nvmlDeviceGetMigDeviceHandleByIndex", 3),
            ("nvmlDeviceGetMigMode", 1),
            ("nvmlDeviceGetName", 1),
            ("nvmlDeviceGetUUID", 5),
            ("nvmlDeviceSetMigMode", 1),
            ("nvmlGpuInstanceCreateComputeInstance", 1),
            ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 1),
            ("nvmlGpuInstanceGetComputeInstanceById", 1),
            ("nvmlGpuInstanceGetComputeInstances", 1),
            // To describe the GPU instance that was created, and the one that was listed.
            ("nvmlGpuInstanceGetInfo", 2),
            ("nvmlInit_v2", 1),
            ("nvmlShutdown", 1),
            // nvml-wrapper asks once, of its own accord.
            ("nvmlSystemGetDriverVersion", 1),
        ];
        assert_eq!(counts, expected.into_iter().collect());
        return;
    };
    let mut nvml = library.open().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 1);
    let gpu = nvml.device(0).unwrap();
    nvml.name(&gpu).unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
    assert!(nvml.mig_mode(&gpu).unwrap().current);
    let mut found = Vec::new();
    for index in [0, 2] {
        if let ProfileAnswer::Profile(profile) =
            nvml.profile(&gpu, ProfileIndex::new(index)).unwrap()
        {
            found.push(profile);
        }
    }
    let wanted = found.pop().unwrap();
    nvml.placements(&gpu, wanted.id).unwrap();
    let gi = nvml.create_gpu_instance(&gpu, wanted.id, Placement { start: 4, size: 4 }).unwrap();
    let one = ComputeProfileId::new(0);
    nvml.create_compute_instance(&gpu, gi.id, one, None).unwrap();
    let place = Some(Placement { start: 2, size: 1 });
    nvml.create_compute_instance(&gpu, gi.id, one, place).unwrap();
    assert_eq!(nvml.gpu_instances(&gpu, &wanted).unwrap(), [gi]);
    let all = nvml.compute_instances(&gpu, gi.id, one).unwrap();
    assert_eq!(all.len(), 2);
    nvml.processes(&gpu, ContextKind::Compute).unwrap();
    nvml.destroy_compute_instance(&gpu, gi.id, all[0].id).unwrap();
}
