//! The real libnvidia-ml of four drivers, without a driver behind it: what gpushare says then, and
//! what an old one lacks.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use gpushare_core::backend::nvml::RealNvml;
use gpushare_core::port::{NvmlLibrary as _, NvmlReturn};
use gpushare_core::{Error, ErrorCode};
use gpushare_tests::nvidia::{called, drivers, skipped};
use gpushare_tests::nvml_sim::text;

#[test]
fn without_the_driver_a_real_library_says_that_it_is_not_loaded() {
    let drivers = match drivers() {
        Ok(drivers) => drivers,
        Err(why) => return skipped("the real libnvidia-ml", why),
    };
    if Path::new("/proc/driver/nvidia").exists() {
        return skipped("the real libnvidia-ml", "this machine has a driver");
    }
    // As root the library makes this node on its way to finding out that there is no driver.
    let node = Path::new("/dev/nvidiactl");
    let node = (!node.exists()).then_some(node);
    for (major, folder) in drivers {
        let library = RealNvml::new(Some(folder.join("libnvidia-ml.so.1")));
        for _ in 0..3 {
            let failure = library.open().unwrap_err();
            assert_eq!(failure.ret, NvmlReturn::DRIVER_NOT_LOADED, "{major}");
            let error = Error::from(failure);
            assert_eq!(error.code(), ErrorCode::NotFound);
            assert!(error.to_string().contains("the NVIDIA driver is not loaded"), "{error}");
        }
        the_command_says_so(&folder.join("libnvidia-ml.so.1"));
    }
    // An ordinary user could not make it, so not finding it is as good as removing it.
    let _ = node.map(std::fs::remove_file);
}

/// Whatever it was to do: nothing is written then.
fn the_command_says_so(library: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_command"));
        command.env_clear().env("GPUSHARE_NVML_PATH", library).args(arguments);
        command.arg("--state-dir").arg(&state).output().unwrap()
    };
    for arguments in
        [&["status"][..], &["exclusive", "-i", "all"], &["mig", "list"], &["run", "--", "true"]]
    {
        let output = run(arguments);
        let text = text(&output);
        let status = if arguments[0] == "run" { 125 } else { 1 };
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(text.starts_with("gpushare: NOT_FOUND: "), "{arguments:?}: {text}");
        assert!(text.contains("the NVIDIA driver is not loaded"), "{arguments:?}: {text}");
    }
    let output = run(&["status", "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&error["code"], &error["outcome"]),
        (&"NOT_FOUND".into(), &"untouched".into()),
        "{error}"
    );
    let output = run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["findings"][0]["id"], "driver-not-loaded", "{found}");
    assert!(!state.exists(), "{state:?}");
}

fn exported(library: &Path) -> Option<BTreeSet<String>> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    Some(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect())
}

#[test]
fn only_r470_lacks_functions_and_each_is_known() {
    let drivers = match drivers() {
        Ok(drivers) => drivers,
        Err(why) => return skipped("the symbols of real drivers", why),
    };
    let called = called();
    assert!(called.len() > 40, "{called:?}");
    for (major, folder) in drivers {
        let Some(exported) = exported(&folder.join("libnvidia-ml.so.1")) else {
            return skipped("the symbols of real drivers", "there is no nm here");
        };
        let missing: Vec<_> = called.difference(&exported).map(String::as_str).collect();
        let expected: &[&str] = if *major < 510 {
            &[
                // There is _v2 instead.
                "nvmlDeviceGetComputeRunningProcesses_v3",
                // There is the struct without a name instead.
                "nvmlDeviceGetGpuInstanceProfileInfoV",
                "nvmlDeviceGetGraphicsRunningProcesses_v3",
                "nvmlDeviceGetMPSComputeRunningProcesses_v3",
                // Nothing: how many multiprocessors there are is not known then.
                "nvmlDeviceGetNumGpuCores",
                // There is creation without a placement instead.
                "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
                // Where one compute instance fills its GPU instance, it starts at 0.
                "nvmlGpuInstanceGetComputeInstancePossiblePlacements",
            ]
        } else {
            &[]
        };
        assert_eq!(missing, expected, "driver {major}");
    }
}
