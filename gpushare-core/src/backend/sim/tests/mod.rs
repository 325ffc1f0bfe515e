mod faults;

use std::time::Instant;

use super::*;
use crate::error::ErrorCode;
use crate::id::{ComputeProfileId, GpuUuid, ProfileId, ProfileIndex};
use crate::mig::Placement;
use crate::port::{Activation, ContextKind, Nvml, NvmlReturn, ProfileAnswer};

fn node(fleet: &str) -> (Simulator, SimulatedNvml, GpuUuid) {
    let simulator = Simulator::new(fleet.parse().unwrap()).unwrap();
    let mut nvml = simulator.open().unwrap();
    let gpu = nvml.device(0).unwrap();
    (simulator, nvml, gpu)
}

#[test]
fn a_gpu_can_be_cut_and_joined_again() {
    let (simulator, mut nvml, gpu) = node("2xH100-80GB");
    assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
    let gi = nvml.create_gpu_instance(&gpu, ProfileId::new(9), Placement::new(4, 4)).unwrap();
    let ci = nvml.create_compute_instance(&gpu, gi.id, ComputeProfileId::new(2), None).unwrap();
    let devices = nvml.mig_devices(&gpu).unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].gi, devices[0].ci, devices[0].sm_count), (gi.id, ci.id, 60));
    let pid = simulator.busy(&ci.uuid, ProcessSpec::new("train")).unwrap();
    let busy = nvml.destroy_compute_instance(&gpu, gi.id, ci.id).unwrap_err();
    assert_eq!(busy.ret, NvmlReturn::IN_USE);
    assert_eq!(nvml.processes(&gpu, ContextKind::Compute).unwrap()[0].pid, pid);
    simulator.idle(pid).unwrap();
    assert_eq!(nvml.destroy_gpu_instance(&gpu, gi.id).unwrap_err().ret, NvmlReturn::IN_USE);
    nvml.destroy_compute_instance(&gpu, gi.id, ci.id).unwrap();
    nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
    assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), Activation::Active);
}

#[test]
fn a_file_is_shared_and_keeps_its_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    let one = Simulator::in_file(&path, "8xH100-80GB".parse().unwrap()).unwrap();
    let two = Simulator::in_file(&path, "8xH100-80GB".parse().unwrap()).unwrap();
    let (mut first, mut second) = (one.open().unwrap(), two.open().unwrap());
    let gpu = first.device(3).unwrap();
    first.set_mig_mode(&gpu, true).unwrap();
    assert!(second.mig_mode(&gpu).unwrap().current);
    let other = Simulator::in_file(&path, "4xT4".parse().unwrap()).unwrap_err();
    assert_eq!(other.code(), ErrorCode::InvalidArgument);
    assert!(other.message().contains("8xH100-80GB") && other.message().contains("4xT4"));

    let start = Instant::now();
    for index in 0..8 {
        let gpu = second.device(index).unwrap();
        for _ in 0..34 {
            second.compute_capability(&gpu).unwrap();
        }
    }
    let reads = start.elapsed();
    let start = Instant::now();
    for on in [false, true, false, true, false, true, false, true, false, true] {
        second.set_mig_mode(&gpu, on).unwrap();
    }
    eprintln!("280 reads: {reads:?}; a change: {:?}", start.elapsed() / 10);
}

#[test]
fn profile_queries_end_where_the_measured_driver_ends_them() {
    let (_, mut nvml, gpu) = node("H200");
    let answers: Vec<_> =
        (0..19).map(|index| nvml.profile(&gpu, ProfileIndex::new(index)).unwrap()).collect();
    let known = answers.iter().filter(|answer| matches!(answer, ProfileAnswer::Profile(_)));
    assert_eq!(known.count(), 7);
    let end = answers.iter().position(|answer| *answer == ProfileAnswer::End);
    assert_eq!(end, Some(17));
}
