//! gpushare's backend on a real GPU. Reads, and changes nothing.
//!
//! `cargo test -p gpushare-tests --test gpu -- --ignored`

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::io::Write as _;
use std::process::Command;

use gpushare_core::backend::nvidia_smi::NvidiaSmi;
use gpushare_core::backend::nvml::RealNvml;
use gpushare_core::id::{GpuUuid, PciAddress, ProfileIndex};
use gpushare_core::mig::{Geometry, Profile};
use gpushare_core::port::{
    ComputePolicy as _, ContextKind, Nvml, NvmlLibrary as _, NvmlReturn, ProfileAnswer,
};

fn say(line: &str) {
    // Past the harness, for whoever runs this by hand.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What nvidia-smi says of every GPU: these fields, one line each.
fn smi(fields: &str) -> Vec<Vec<String>> {
    let query = format!("--query-gpu={fields}");
    let output = Command::new("nvidia-smi")
        .args([query.as_str(), "--format=csv,noheader,nounits"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(", ").map(str::to_owned).collect()).collect()
}

fn profiles(nvml: &mut dyn Nvml, gpu: &GpuUuid) -> Vec<Profile> {
    let mut found = Vec::new();
    for index in 0.. {
        match nvml.profile(gpu, ProfileIndex::new(index)).unwrap() {
            ProfileAnswer::Profile(mut profile) => {
                profile.placements = nvml.placements(gpu, profile.id).unwrap();
                found.push(profile);
            }
            ProfileAnswer::NotOnThisGpu => {}
            ProfileAnswer::End => break,
        }
        assert!(index < 64);
    }
    found
}

#[test]
#[ignore = "gpu: needs an NVIDIA GPU"]
fn the_backend_reads_what_nvidia_smi_reads() {
    let said = smi("uuid,name,pci.bus_id,memory.total,driver_version,compute_cap,compute_mode");
    let mut nvml = RealNvml::new(None).open().unwrap();
    let driver = nvml.driver().unwrap();
    say(&format!("driver {driver:?}"));
    assert_eq!(nvml.device_count().unwrap() as usize, said.len());
    for (index, said) in said.iter().enumerate() {
        let gpu = nvml.device(index as u32).unwrap();
        let pci = nvml.pci_info(&gpu).unwrap();
        let (major, minor) = nvml.compute_capability(&gpu).unwrap();
        let memory = nvml.memory_total(&gpu).unwrap().get() >> 20;
        let seen = [
            gpu.to_string(),
            nvml.name(&gpu).unwrap(),
            memory.to_string(),
            driver.version.clone(),
            format!("{major}.{minor}"),
        ];
        let expected = [&said[0], &said[1], &said[3], &said[4], &said[5]];
        assert_eq!(seen.each_ref(), expected);
        assert_eq!(said[2].parse::<PciAddress>().unwrap(), pci.address);
        say(&format!(
            "{gpu} {pci:?} minor {:?} cores {:?}",
            nvml.minor_number(&gpu).unwrap(),
            nvml.core_count(&gpu).unwrap()
        ));
        for kind in [ContextKind::Compute, ContextKind::Graphics, ContextKind::MpsClient] {
            let processes = nvml.processes(&gpu, kind).unwrap();
            say(&format!("  {kind:?}: {processes:?}"));
        }
        let on = match nvml.mig_mode(&gpu) {
            Ok(mode) => {
                look_at_mig(nvml.as_mut(), &gpu, mode.current);
                mode.current
            }
            Err(failure) => {
                assert_eq!(failure.ret, NvmlReturn::NOT_SUPPORTED);
                false
            }
        };
        // With MIG on it is a property of the MIG devices.
        if !on {
            let mode = nvml.compute_mode(&gpu).unwrap();
            let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "");
            assert_eq!(plain(mode.as_str()), plain(&said[6]));
        }
        say(&format!("  interval {:?}", NvidiaSmi::new(None).interval(&gpu)));
    }
}

/// The instances, where MIG is on, are those of NVIDIA's own lists; the names of the profiles are
/// those that it prints.
fn look_at_mig(nvml: &mut dyn Nvml, gpu: &GpuUuid, on: bool) {
    let profiles = profiles(nvml, gpu);
    let output =
        Command::new("nvidia-smi").args(["mig", "-lgip", "-i", gpu.as_str()]).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for profile in &profiles {
        say(&format!("  {} id {} {:?}", profile.name, profile.id, profile.placements));
        let printed = table.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.contains(&profile.name.to_string().as_str())
                && words.contains(&profile.id.to_string().as_str())
        });
        assert!(printed || output.stdout.is_empty(), "{}:\n{table}", profile.name);
    }
    Geometry::new(profiles.clone()).unwrap();
    let devices = nvml.mig_devices(gpu).unwrap();
    if !on {
        assert_eq!(devices, []);
        return;
    }
    // For root alone: others see the devices and not where they stand.
    for profile in &profiles {
        let instances = match nvml.gpu_instances(gpu, profile) {
            Ok(instances) => instances,
            Err(failure) => {
                assert_eq!(failure.ret, NvmlReturn::NO_PERMISSION);
                return;
            }
        };
        for gi in instances {
            for of in nvml.compute_profiles(gpu, gi.id).unwrap() {
                for ci in nvml.compute_instances(gpu, gi.id, of.id).unwrap() {
                    say(&format!("  {gi:?} {ci:?}"));
                    assert!(devices.iter().any(|device| {
                        device.uuid == ci.uuid && device.gi == gi.id && device.ci == ci.id
                    }));
                }
            }
        }
    }
}
