//! Habits of older drivers: structs that they don't know, functions that they lack, lists that
//! they write otherwise. A library in C has them, compiled once for each.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::path::Path;
use std::process::Command;

use gpushare_core::backend::nvml::RealNvml;
use gpushare_core::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, ProfileId, ProfileIndex,
};
use gpushare_core::mig::Placement;
use gpushare_core::port::{
    Activation, ContextKind, Nvml, NvmlLibrary as _, NvmlReturn, ProfileAnswer,
};
use gpushare_core::units::Bytes;
use gpushare_tests::nvidia::skipped;

/// The driver with that habit, opened, and its one GPU.
fn driver(habit: &str) -> Option<(tempfile::TempDir, Box<dyn Nvml>, GpuUuid)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("old-drivers/libnvidia-ml.c");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnvidia-ml.so.1");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    match compiler.arg(format!("-D{habit}")).arg("-o").arg(&library).arg(source).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => {
            skipped(habit, &format!("there is no C compiler: {error}"));
            return None;
        }
    }
    let nvml = RealNvml::new(Some(library)).open().unwrap();
    Some((folder, nvml, "GPU-old".parse().unwrap()))
}

const HABITS: [&str; 3] = ["R470", "R535_54", "STRICT"];

#[test]
fn profiles_are_read_from_whatever_struct_the_driver_knows() {
    for habit in HABITS {
        let Some((_library, mut nvml, gpu)) = driver(habit) else { return };
        let mut answer = |index| nvml.profile(&gpu, ProfileIndex::new(index)).unwrap();
        // The end is told from a struct that is not known, even before any was read.
        assert_eq!(answer(9), ProfileAnswer::End, "{habit}");
        assert_eq!(answer(1), ProfileAnswer::NotOnThisGpu, "{habit}");
        for (index, name, id, most, flow) in [(0, "1g.5gb", 19, 7, 0), (7, "1g.5gb+me", 20, 1, 1)] {
            let ProfileAnswer::Profile(profile) = answer(index) else { panic!("{habit} {index}") };
            assert_eq!(profile.name.to_string(), name, "{habit}");
            assert_eq!((profile.id.get(), profile.max_instances), (id, most));
            assert_eq!((profile.slices, profile.sm_count), (1, 14));
            assert_eq!(profile.engines.optical_flow, flow);
            assert_eq!(profile.memory, Bytes::from_mebibytes(4864));
        }
        assert_eq!(answer(9), ProfileAnswer::End, "{habit}");
        let places = nvml.placements(&gpu, ProfileId::new(20)).unwrap();
        assert_eq!(places.len(), 7);
        assert_eq!(places[6], Placement { start: 6, size: 1 });
    }
}

#[test]
fn processes_are_read_in_whatever_size_the_driver_writes() {
    for habit in HABITS {
        let Some((_library, mut nvml, gpu)) = driver(habit) else { return };
        let found = nvml.processes(&gpu, ContextKind::Compute).unwrap();
        let pids: Vec<_> = found.iter().map(|process| process.pid.get()).collect();
        assert_eq!(pids, [1000, 1001, 1002, 1003, 1004], "{habit}");
        assert_eq!(found[1].memory, None);
        assert_eq!(found[4].memory, Some(Bytes::from_mebibytes(4)));
        let instance = Some((GpuInstanceId::new(7), ComputeInstanceId::new(0)));
        assert_eq!(found[2].instance, instance);
        assert!(found.iter().filter(|process| process.instance.is_some()).count() == 1);
        // This library has no others.
        let failure = nvml.processes(&gpu, ContextKind::Graphics).unwrap_err();
        assert_eq!(failure.ret, NvmlReturn::FUNCTION_NOT_FOUND);
        assert_eq!(failure.call, "nvmlDeviceGetGraphicsRunningProcesses_v3");
    }
}

#[test]
fn what_a_driver_lacks_is_named_and_what_it_hides_is_read() {
    let Some((_library, mut nvml, gpu)) = driver("R470") else { return };
    let driver = nvml.driver().unwrap();
    assert_eq!((driver.version.as_str(), driver.cuda.as_deref()), ("470.256.02", Some("11.4")));
    assert_eq!(nvml.name(&gpu).unwrap(), "x".repeat(96));
    let failure = nvml.core_count(&gpu).unwrap_err();
    assert_eq!(failure.ret, NvmlReturn::FUNCTION_NOT_FOUND);
    assert_eq!(failure.call, "nvmlDeviceGetNumGpuCores");
    // SUCCESS, and beside it that nothing was changed.
    let activation = nvml.set_mig_mode(&gpu, true).unwrap();
    assert_eq!(activation, Activation::Pending(NvmlReturn::IN_USE));
    // Only where one fills its GPU instance is it known where it starts.
    let gi = GpuInstanceId::new(7);
    let profiles = nvml.compute_profiles(&gpu, gi).unwrap();
    let starts: Vec<_> = profiles.iter().map(|of| (of.slices, &of.starts[..])).collect();
    assert_eq!(starts, [(1, &[][..]), (2, &[]), (3, &[0])]);
    let one = ComputeProfileId::new(0);
    let failure = nvml.create_compute_instance(&gpu, gi, one, None).unwrap_err();
    assert_eq!(failure.call, "nvmlGpuInstanceCreateComputeInstance");
    assert_eq!(failure.ret, NvmlReturn::IN_USE);
    let place = Some(Placement { start: 0, size: 1 });
    let failure = nvml.create_compute_instance(&gpu, gi, one, place).unwrap_err();
    assert_eq!(failure.call, "nvmlGpuInstanceCreateComputeInstanceWithPlacement");
    assert_eq!(failure.ret, NvmlReturn::FUNCTION_NOT_FOUND);
}
