//! The nodes that the tests resolve on.

mod properties;
mod record;
mod rules;

use crate::id::{ComputeInstanceId, GpuIndex, GpuInstanceId};
use crate::mig::Geometry;
use crate::mode::{ComputeMode, SharingMode};
use crate::snapshot::{GpuSnapshot, MigDevice, MigStatus, Snapshot, Usage};
use crate::units::Bytes;

use super::*;

/// An H200 as it comes.
fn card(index: u32, uuid: &str) -> GpuSnapshot {
    let mut gpu = GpuSnapshot::new(uuid.parse().unwrap());
    gpu.index = Some(GpuIndex::new(index));
    gpu.model = "H200".to_owned();
    gpu.memory = Some(Bytes::from_mebibytes(143_771));
    gpu.sm_count = Some(132);
    gpu.mode = SharingMode::TimeSliced;
    gpu.compute_mode = Some(ComputeMode::Default);
    gpu
}

fn node(uuids: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::empty(false);
    snapshot.gpus = (0..).zip(uuids).map(|(index, uuid)| card(index, uuid)).collect();
    snapshot
}

const A: &str = "GPU-aaaa1111-0000-0000-0000-00000000000a";
const B: &str = "GPU-bbbb1111-0000-0000-0000-00000000000b";
const C: &str = "GPU-bbbb2222-0000-0000-0000-00000000000c";

/// Turns MIG on, with as many devices of one slice.
fn cut(gpu: &mut GpuSnapshot, devices: u32) {
    gpu.mode = SharingMode::Mig;
    gpu.compute_mode = None;
    gpu.mig = Some(MigStatus {
        enabled: true,
        pending: true,
        geometry: Geometry::new(Vec::new()).unwrap(),
        gpu_instances: Vec::new(),
    });
    let digits = &gpu.uuid.as_str()[4..8];
    gpu.mig_devices = (0..devices)
        .map(|number| MigDevice {
            uuid: format!("MIG-{digits}000{number}-1111-1111-1111-111111111111").parse().unwrap(),
            profile: "1g.18gb".parse().unwrap(),
            gi: GpuInstanceId::new(7 + number),
            ci: ComputeInstanceId::new(0),
            start: None,
            memory: Some(Bytes::from_mebibytes(16_384)),
            sm_count: Some(16),
            name: None,
            mps: None,
            usage: Usage::Idle,
        })
        .collect();
}

fn uuids(resolution: &Resolution) -> Vec<&str> {
    resolution.devices.iter().map(|device| device.uuid.as_str()).collect()
}
