//! A whole node through the real backend, over the simulator behind NVIDIA's C ABI: what a program
//! on a machine with GPUs runs, down to the calls of the driver, counted.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use gpushare_core::apply::ApplyOptions;
use gpushare_core::node::Node as GpuNode;
use gpushare_core::spec::Spec;
use gpushare_tests::nvidia::{drivers, skipped};
use gpushare_tests::nvml_sim::{Node, in_child, library, text};

const SPEC: &str = "GPUSHARE_TESTS_SPEC";

/// In a process of the node: applies the spec that the environment names, through C.
fn apply() -> Option<()> {
    in_child()?;
    let spec: Spec = std::env::var(SPEC).unwrap().parse().unwrap();
    let node = GpuNode::builder().nvml_path(std::env::var("GPUSHARE_TESTS_CHILD").unwrap());
    let node = node.open().unwrap();
    assert!(!node.is_simulated());
    node.apply(&spec, &ApplyOptions::new()).unwrap();
    Some(())
}

fn layout(instances: &str) -> String {
    format!(
        r#"{{"version": "gpushare/v1", "gpus": [{{"select": "all", "mode": "mig",
            "mig": {{"instances": {instances}}}}}]}}"#
    )
}

/// Applies a spec in a process of its own and counts its calls of the driver.
fn calls_of(test: &str, node: &Node, spec: &str, device: &str) -> BTreeMap<String, u32> {
    let file = node.folder().join("calls");
    let _ = std::fs::remove_file(&file);
    let variables = [
        (SPEC, OsStr::new(spec)),
        ("GPUSHARE_NVML_CALLS", file.as_os_str()),
        ("GPUSHARE_NVML_CI_DEVICE", OsStr::new(device)),
    ];
    node.run_again(test, &variables);
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

#[test]
fn a_node_of_eight_is_cut_up_and_then_left_alone() {
    let test = "a_node_of_eight_is_cut_up_and_then_left_alone";
    if apply().is_some() {
        return;
    }
    let wanted = layout(r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#);
    for device in ["gpu", "mig"] {
        let node = Node::new("8xH100-80GB");
        let calls = calls_of(test, &node, &wanted, device);
        assert_eq!(of(&calls, "nvmlDeviceSetMigMode"), 8);
        assert_eq!(of(&calls, "nvmlDeviceCreateGpuInstance"), 32);
        assert_eq!(of(&calls, "nvmlGpuInstanceCreateComputeInstance"), 32);

        let calls = calls_of(test, &node, &wanted, device);
        assert_eq!(of(&calls, "nvmlInit"), 1);
        for change in ["Create", "Destroy", "Set"] {
            assert_eq!(of(&calls, change), 0, "{calls:?}");
        }
        let all: u32 = calls.values().sum();
        // However the driver describes a compute instance: uuids are not asked for to see that
        // there is nothing to do.
        let budget = 280;
        assert!(all <= budget, "{all} calls with {device}: {calls:?}");

        // One 2g becomes two 1g: nothing else is touched.
        let other = layout(r#"{"3g.40gb": 1, "1g.10gb": 4}"#);
        let calls = calls_of(test, &node, &other, device);
        assert_eq!(of(&calls, "nvmlGpuInstanceDestroy"), 8);
        assert_eq!(of(&calls, "nvmlComputeInstanceDestroy"), 8);
        assert_eq!(of(&calls, "nvmlDeviceCreateGpuInstance"), 16);
        assert_eq!(of(&calls, "nvmlGpuInstanceCreateComputeInstance"), 16);
        smi_sees(&node, &["MIG 3g.40gb", "MIG 1g.10gb"], 8 * 5);
    }
}

/// NVIDIA's own list has that many MIG devices, each of one of these profiles.
fn smi_sees(node: &Node, names: &[&str], count: usize) {
    let drivers = match drivers() {
        Ok(drivers) => drivers,
        Err(why) => return skipped("nvidia-smi beside a whole node", why),
    };
    for (_, folder) in drivers.iter().filter(|(major, _)| *major >= 535) {
        let mut smi = Command::new(folder.join("nvidia-smi"));
        let list = text(&node.tell(smi.arg("-L")).output().unwrap());
        let listed = list.lines().filter(|line| names.iter().any(|name| line.contains(name)));
        assert_eq!(listed.count(), count, "{list}");
    }
}

#[test]
fn a_library_that_is_not_there_is_no_driver() {
    let path = Path::new("/nonexistent/libnvidia-ml.so.1");
    let refused = GpuNode::builder().nvml_path(path).open().and_then(|node| node.snapshot());
    assert!(refused.unwrap_err().to_string().contains("/nonexistent"));
    // Nobody said which GPUs this library should simulate.
    let folder = tempfile::tempdir().unwrap();
    let node = GpuNode::builder().nvml_path(library()).state_dir(folder.path()).open().unwrap();
    let error = node.snapshot().unwrap_err();
    assert_eq!(error.code(), gpushare_core::ErrorCode::NotFound, "{error}");
}
