//! Typed transitions.

use std::num::NonZeroU32;

use gpushare_core::gpu::{AnyGpu, Layout};
use gpushare_core::mode::{ComputeMode, SharingMode};
use gpushare_core::parameters::{Access, MpsConfig, TimeSlicing};
use gpushare_core::spec::{Selector, Spec, Want};
use gpushare_core::{ApplyOptions, ErrorCode};

use crate::scenario::World;

fn time_sliced(gpu: AnyGpu) -> gpushare_core::gpu::Gpu<gpushare_core::gpu::TimeSliced> {
    match gpu {
        AnyGpu::TimeSliced(gpu) => gpu,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_gpu_goes_through_every_mode_and_back() {
    let world = World::new("1xH200-141GB");
    let gpu = time_sliced(world.node.gpu("0").unwrap());
    assert_eq!(gpu.replicas().unwrap(), None);
    let gpu = gpu.set(TimeSlicing::new(NonZeroU32::new(8).unwrap())).unwrap();
    assert_eq!(gpu.replicas().unwrap(), Some(8));
    let gpu = gpu.into_exclusive().unwrap();
    assert_eq!(gpu.snapshot().unwrap().compute_mode, Some(ComputeMode::ExclusiveProcess));
    let gpu = gpu.into_mps(MpsConfig::default()).unwrap();
    // The caller is a user: who asks again may be another one.
    let mut config = MpsConfig::default();
    config.access = Access::User(world.node.ports().processes.caller_uid().to_string());
    assert_eq!(gpu.config().unwrap(), Some(config));
    let gpu = gpu.into_mig(Layout::of(["3g", "1g", "1g"]).unwrap()).unwrap();
    assert_eq!(gpu.devices().unwrap().len(), 3);
    let gpu = gpu.set_layout(Layout::empty()).unwrap();
    assert!(gpu.gpu_instances().unwrap().is_empty());
    // Back to what was there before the first managed change.
    let gpu = time_sliced(gpu.disable().unwrap());
    assert_eq!(gpu.replicas().unwrap(), None);
    assert_eq!(world.snapshot().gpus[0].record, None);
}

#[test]
fn a_failed_transition_hands_the_gpu_back() {
    let world = World::new("1xA100-80GB");
    let gpu = time_sliced(world.node.gpu("0").unwrap());
    let failed = gpu.into_mig(Layout::of(["3g"]).unwrap()).unwrap_err();
    assert_eq!(failed.error().code(), ErrorCode::ResetRequired);
    let gpu = time_sliced(failed.into_gpu().unwrap());
    let gpu = gpu.with_options(ApplyOptions::new().allow_reset(true));
    let gpu = gpu.into_mig(Layout::of(["3g"]).unwrap()).unwrap();
    assert_eq!(gpu.devices().unwrap().len(), 1);
}

#[test]
fn a_claim_that_no_longer_holds_is_stale() {
    let world = World::new("2xH100-80GB");
    let gpu = time_sliced(world.node.gpu("0").unwrap());
    world.apply(&crate::scenario::entry("0", "exclusive", "")).unwrap();
    assert_eq!(gpu.replicas().unwrap_err().code(), ErrorCode::Stale);
    let failed = gpu.into_mig(Layout::of(["7g"]).unwrap()).unwrap_err();
    assert_eq!(failed.error().code(), ErrorCode::Stale);
    let back = failed.into_gpu().unwrap();
    assert_eq!(back.mode(), SharingMode::Exclusive);
    assert_eq!(world.node.gpu("all").unwrap_err().code(), ErrorCode::InvalidArgument);
    assert_eq!(world.node.gpu("9").unwrap_err().code(), ErrorCode::NotFound);
}

#[test]
fn a_gpu_in_no_mode_of_ours_can_be_brought_to_each() {
    let config = MpsConfig::default();
    for to in [SharingMode::Exclusive, SharingMode::TimeSliced, SharingMode::Mps, SharingMode::Mig]
    {
        let world = World::new("1xA100-80GB");
        let uuid = world.snapshot().gpus[0].uuid.clone();
        let mut nvml = world.node.ports().nvml.open().unwrap();
        nvml.set_compute_mode(&uuid, ComputeMode::Prohibited).unwrap();
        drop(nvml);
        let AnyGpu::Other(gpu) = world.node.gpu("0").unwrap() else { panic!("it is closed") };
        assert_eq!((gpu.mode(), gpu.uuid()), (SharingMode::Closed, &uuid));
        let gpu = gpu.with_options(ApplyOptions::new().allow_reset(true));
        match to {
            SharingMode::Exclusive => drop(gpu.into_exclusive().unwrap()),
            SharingMode::TimeSliced => drop(gpu.into_time_sliced(TimeSlicing::default()).unwrap()),
            SharingMode::Mps => drop(gpu.into_mps(config.clone()).unwrap()),
            _ => drop(gpu.into_mig(Layout::of(["3g"]).unwrap()).unwrap()),
        }
        assert_eq!(world.snapshot().gpus[0].mode, to);
    }
}

#[test]
fn an_expected_digest_holds_for_one_transition() {
    let world = World::new("1xH100-80GB");
    let gpu = time_sliced(world.node.gpu("0").unwrap());
    let spec = Spec::new().gpu([Selector::Uuid(gpu.uuid().to_string())], Want::Exclusive);
    let digest = world.node.plan(&spec).unwrap().digest;
    let gpu = gpu.with_options(ApplyOptions::new().allow_reset(true).expect(digest));
    let gpu = gpu.into_exclusive().unwrap();
    let gpu = gpu.into_time_sliced(TimeSlicing::default()).unwrap();
    let gpu = gpu.with_options(ApplyOptions::new().expect("another"));
    let failed = gpu.into_exclusive().unwrap_err();
    assert_eq!(failed.error().code(), ErrorCode::Stale);
}

#[test]
fn instances_that_are_hidden_are_not_said_to_be_none() {
    let world = World::new("1xH100-80GB");
    let gpu = time_sliced(world.node.gpu("0").unwrap());
    let gpu = gpu.into_mig(Layout::of(["3g", "1g"]).unwrap()).unwrap();
    world.simulator.act_as(1000).unwrap();
    let refused = gpu.gpu_instances().unwrap_err();
    assert_eq!((refused.code(), refused.gpu()), (ErrorCode::PermissionDenied, Some(gpu.uuid())));
    assert!(!refused.needs().is_empty());
    assert_eq!(gpu.devices().unwrap().len(), 2);
    world.simulator.act_as(0).unwrap();
    assert_eq!(gpu.gpu_instances().unwrap().len(), 2);
}
