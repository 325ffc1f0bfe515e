//! The digest of a state: what makes two states of a GPU the same.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::id::{GpuUuid, MigUuid, ProfileId};
use crate::mig::Placement;
use crate::mode::{ComputeMode, Interval, SharingMode};
use crate::parameters::{MpsConfig, Parameters};
use crate::snapshot::{GpuSnapshot, MpsStatus, Record};
use crate::units::{Bytes, ThreadPercentage};

impl GpuSnapshot {
    /// What makes two states of a GPU the same state: no pids, no memory in use, no times.
    fn structure(&self) -> Structure<'_> {
        let mig = self.mig.as_ref();
        let instances = mig.map_or(&[][..], |mig| &mig.gpu_instances);
        let interval = match &self.record {
            Some(record) => matches!(record.parameters, Parameters::TimeSliced(_)),
            None => false,
        };
        Structure {
            uuid: &self.uuid,
            mode: self.mode,
            mig: mig.map(|mig| (mig.enabled, mig.pending)),
            compute_mode: self.compute_mode,
            interval: self.interval.filter(|_| interval),
            instances: instances
                .iter()
                .map(|instance| StructureInstance {
                    profile: instance.profile,
                    placement: instance.placement,
                    compute: instance
                        .compute_instances
                        .iter()
                        .map(|ci| (ci.start, ci.slices, ci.uuid.as_ref()))
                        .collect(),
                })
                .collect(),
            mps: self.mps.as_ref().map(structure_of_mps),
            mig_mps: self
                .mig_devices
                .iter()
                .filter_map(|device| Some((&device.uuid, structure_of_mps(device.mps.as_ref()?))))
                .collect(),
            record: self.record.as_ref(),
            unsettled: self.unsettled.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Structure<'a> {
    uuid: &'a GpuUuid,
    mode: SharingMode,
    mig: Option<(bool, bool)>,
    compute_mode: Option<ComputeMode>,
    interval: Option<Interval>,
    instances: Vec<StructureInstance<'a>>,
    mps: Option<StructureMps<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mig_mps: Vec<(&'a MigUuid, StructureMps<'a>)>,
    record: Option<&'a Record>,
    unsettled: Option<&'a str>,
}

/// Whether it is ours, whether it serves, and what; with what its servers give, where that differs.
#[derive(Serialize)]
struct StructureMps<'a>(bool, bool, Option<&'a MpsConfig>, bool, Vec<Limits>);

type Limits = (Option<ThreadPercentage>, Option<Bytes>);

fn structure_of_mps(mps: &MpsStatus) -> StructureMps<'_> {
    let config = mps.config.as_ref();
    let defaults = config.map(|c| (Some(c.thread_percentage), c.pinned_memory_limit));
    // One that still starts shows nothing.
    let servers = mps.servers.iter().filter(|server| server.thread_percentage.is_some());
    let limits = servers.map(|s| (s.thread_percentage, s.pinned_memory_limit));
    let differ = limits.filter(|limits| Some(*limits) != defaults).collect();
    StructureMps(mps.ours, mps.alive, config, mps.is_unready(), differ)
}

#[derive(Serialize)]
struct StructureInstance<'a> {
    profile: ProfileId,
    placement: Placement,
    compute: Vec<(u8, u8, Option<&'a MigUuid>)>,
}

/// SHA-256 over the canonical JSON of the structure of these GPUs, in hexadecimal.
///
/// Structure is what a plan rests on: mode, pending changes, compute mode, interval where it is
/// used, instances with uuid, profile and placement, our daemons and records. Who uses what, how
/// much memory is in use and what time it is are not in it.
pub fn digest<'a>(gpus: impl Iterator<Item = &'a GpuSnapshot>) -> String {
    hash(&gpus.map(GpuSnapshot::structure).collect::<Vec<_>>())
}

/// SHA-256 of a value's JSON. It is canonical because every map in it is a struct with a fixed
/// order of keys.
pub(crate) fn hash(value: &impl Serialize) -> String {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    // Writing to a hasher cannot fail, and no value of ours fails to serialise.
    let written = serde_json::to_writer(&mut hasher, value);
    debug_assert!(written.is_ok());
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
