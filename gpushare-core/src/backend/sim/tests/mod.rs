mod faults;
mod file;
mod instances;
mod modes;
mod processes;

use super::*;
use crate::error::ErrorCode;
use crate::id::{ComputeProfileId, GpuUuid, Pid, ProfileId, ProfileIndex};
use crate::mig::Placement;
use crate::mode::{ComputeMode, Interval};
use crate::port::{Activation, ContextKind, MigMode, Nvml, NvmlResult, NvmlReturn};

/// A node in memory, NVML opened, and its first GPU.
fn node(fleet: &str) -> (Simulator, SimulatedNvml, GpuUuid) {
    let simulator = Simulator::new(fleet.parse().unwrap()).unwrap();
    let mut nvml = simulator.open().unwrap();
    let gpu = nvml.device(0).unwrap();
    (simulator, nvml, gpu)
}

/// The same with MIG on.
fn mig_node(fleet: &str) -> (Simulator, SimulatedNvml, GpuUuid) {
    let (simulator, mut nvml, gpu) = node(fleet);
    assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
    (simulator, nvml, gpu)
}

/// Changes one rule or several.
fn rule(simulator: &Simulator, change: impl FnOnce(&mut Rules)) {
    let mut rules = simulator.rules().unwrap();
    change(&mut rules);
    simulator.set_rules(rules).unwrap();
}

/// What a call was refused with.
fn refused<T: std::fmt::Debug>(answer: NvmlResult<T>) -> NvmlReturn {
    answer.unwrap_err().ret
}
