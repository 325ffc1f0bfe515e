//! The real libnvidia-ml of four drivers, without a driver behind it: what gpushare says then, and
//! what an old one lacks.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use gpushare_core::backend::nvml::RealNvml;
use gpushare_core::port::{NvmlLibrary as _, NvmlReturn};
use gpushare_core::{Error, ErrorCode};
use gpushare_tests::nvidia::{drivers, skipped};

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
    }
    // An ordinary user could not make it, so not finding it is as good as removing it.
    let _ = node.map(std::fs::remove_file);
}

/// The names that gpushare's backend calls, read from its source: every `call!`, and the fields
/// and names that it looks up by hand.
fn called() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpushare-core/src/backend/nvml");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (place, _) in line.match_indices("nvml") {
                let name: String = line[place..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let is_function = name["nvml".len()..].starts_with(|c: char| c.is_uppercase())
                    && !name.ends_with("_t")
                    && !name.ends_with("_st");
                if is_function {
                    names.insert(name);
                }
            }
        }
    }
    names
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
