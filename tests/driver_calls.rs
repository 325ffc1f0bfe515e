//! How many calls of the driver an apply makes, counted behind NVIDIA's C ABI.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeMap;
use std::process::Command;

use gpushare_tests::nvml_sim::{Node, library, text};

/// A spec of MIG instances, the same for all GPUs or for one of them.
fn layout(select: &str, instances: &str) -> String {
    format!(
        r#"{{"version": "gpushare/v1", "gpus": [
            {{"select": {select}, "mode": "mig", "mig": {{"instances": {instances}}}}}]}}"#
    )
}

/// Applies a spec in a process of its own. Returns the calls of each function.
fn apply(node: &Node, spec: &str) -> BTreeMap<String, u32> {
    let file = node.folder().join("calls");
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_applier"));
    node.tell(command.args(["apply", spec]))
        .env("GPUSHARE_NVML_PATH", library())
        .env("GPUSHARE_NVIDIA_SMI", "/nonexistent/nvidia-smi")
        .env("GPUSHARE_NVML_CALLS", &file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let (name, count) = line.split_once(' ').unwrap();
        *calls.entry(name.to_owned()).or_default() += count.parse::<u32>().unwrap();
    }
    calls
}

fn of(calls: &BTreeMap<String, u32>, part: &str) -> u32 {
    calls.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
}

/// Creations and destructions of GPU instances, then of compute instances, and changes of modes.
fn changes(calls: &BTreeMap<String, u32>) -> [u32; 5] {
    [
        "nvmlDeviceCreateGpuInstance",
        "nvmlGpuInstanceDestroy",
        "nvmlGpuInstanceCreateComputeInstance",
        "nvmlComputeInstanceDestroy",
        "nvmlDeviceSet",
    ]
    .map(|name| of(calls, name))
}

const FOUR: &str = r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#;
const FIVE: &str = r#"{"3g.40gb": 1, "1g.10gb": 4}"#;

#[test]
fn nothing_to_do_on_eight_gpus_takes_one_session_and_280_calls() {
    let node = Node::new("8xH100-80GB");
    let calls = apply(&node, &layout(r#""all""#, FOUR));
    assert_eq!(changes(&calls), [32, 0, 32, 0, 8]);
    assert_eq!(of(&calls, "nvmlInit"), 1);

    let calls = apply(&node, &layout(r#""all""#, FOUR));
    assert_eq!(changes(&calls), [0; 5]);
    assert_eq!(of(&calls, "nvmlInit"), 1);
    assert_eq!(of(&calls, "GetGpuInstanceProfileInfo"), 18, "the profiles once for all GPUs");
    let all: u32 = calls.values().sum();
    assert!(all <= 280, "{all}: {calls:#?}");

    // One 2g becomes two 1g, on one of them: 2 destructions and 4 creations.
    let calls = apply(&node, &layout("5", FIVE));
    assert_eq!(changes(&calls), [2, 1, 2, 1, 0]);
    assert_eq!(of(&calls, "nvmlInit"), 1);
}
