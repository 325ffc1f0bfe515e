//! NVIDIA's own nvidia-smi and gpushare's NVML backend on one simulated node: what either makes
//! the other must see.
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::process::Command;

use gpushare_core::backend::sim::{ProcessSpec, Simulator};
use gpushare_core::id::{GpuUuid, MigUuid, ProfileIndex};
use gpushare_core::mig::{Placement, Profile};
use gpushare_core::mode::ComputeMode;
use gpushare_core::port::{ContextKind, Nvml, NvmlLibrary as _, NvmlReturn, ProfileAnswer};
use gpushare_tests::nvidia::{drivers, skipped};
use gpushare_tests::nvml_sim::{Node, in_child, text};

const SMI: &str = "GPUSHARE_TESTS_NVIDIA_SMI";

/// The node in the process of one nvidia-smi's test.
struct Both {
    nvml: Box<dyn Nvml>,
    node: Simulator,
    /// The second GPU: index 1.
    gpu: GpuUuid,
}

/// Runs a test once for every nvidia-smi, in a process of its own; gives the node there.
fn each_driver(test: &str, fleet: &str) -> Option<Both> {
    if let Some((library, node)) = in_child() {
        let mut nvml = library.open().unwrap();
        let gpu = nvml.device(1).unwrap();
        return Some(Both { nvml, node, gpu });
    }
    let drivers = match drivers() {
        Ok(drivers) => drivers,
        Err(why) => {
            skipped(test, why);
            return None;
        }
    };
    for (major, folder) in drivers {
        // 470 knows no MIG devices' attributes as they are asked for today.
        if *major >= 535 {
            let smi = folder.join("nvidia-smi");
            Node::new(fleet).run_again(test, &[(SMI, smi.as_os_str())]);
        }
    }
    None
}

/// What nvidia-smi prints, and its exit status, which is NVML's return code.
fn smi(arguments: &str) -> (i32, String) {
    let path = std::env::var_os(SMI).unwrap();
    let output = Command::new(&path).args(arguments.split(' ')).output().unwrap();
    (output.status.code().unwrap(), text(&output))
}

fn ok(arguments: &str) -> String {
    let (code, text) = smi(arguments);
    assert_eq!(code, 0, "nvidia-smi {arguments}: {text}");
    text
}

/// A GPU instance: profile id, id, start, size. A compute instance: those of its GPU instance's
/// id, profile, id, start, size.
type Row = Vec<u32>;

/// The rows of a table that nvidia-smi prints about GPU 1, with all their numbers in order.
fn rows(table: &str) -> BTreeSet<Row> {
    let cells = |line: &str| -> Option<Row> {
        let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let words: Vec<_> = line.split([' ', ':']).filter(|word| !word.is_empty()).collect();
        let mig = words.iter().position(|word| *word == "MIG")?;
        let numbers =
            words.iter().enumerate().filter(|(place, _)| *place != mig && *place != mig + 1);
        let numbers: Option<Row> = numbers.map(|(_, word)| word.parse().ok()).collect();
        numbers.filter(|numbers| numbers.first() == Some(&1)).map(|n| n[1..].to_vec())
    };
    table.lines().filter_map(cells).collect()
}

/// The MIG devices in `nvidia-smi -L`: profile and uuid.
fn listed_devices(list: &str) -> BTreeSet<(String, String)> {
    list.lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix("MIG ")?.split_once("Device")?;
            let uuid = rest.split_once("UUID: ")?.1.strip_suffix(')')?;
            Some((name.trim().to_owned(), uuid.to_owned()))
        })
        .collect()
}

impl Both {
    fn profiles(&mut self) -> Vec<Profile> {
        let mut found = Vec::new();
        for index in 0.. {
            match self.nvml.profile(&self.gpu, ProfileIndex::new(index)).unwrap() {
                ProfileAnswer::Profile(mut profile) => {
                    profile.placements = self.nvml.placements(&self.gpu, profile.id).unwrap();
                    found.push(profile);
                }
                ProfileAnswer::NotOnThisGpu => {}
                ProfileAnswer::End => break,
            }
        }
        found
    }

    /// What gpushare sees: GPU instances, compute instances, MIG devices.
    fn seen(&mut self) -> (BTreeSet<Row>, BTreeSet<Row>, BTreeSet<(String, String)>) {
        let place = |place: Placement| [u32::from(place.start), u32::from(place.size)];
        let (mut gis, mut cis, mut devices) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for profile in self.profiles() {
            for gi in self.nvml.gpu_instances(&self.gpu, &profile).unwrap() {
                let mut row = vec![profile.id.get(), gi.id.get()];
                row.extend(place(gi.placement));
                gis.insert(row);
                for of in self.nvml.compute_profiles(&self.gpu, gi.id).unwrap() {
                    for ci in self.nvml.compute_instances(&self.gpu, gi.id, of.id).unwrap() {
                        let mut row = vec![gi.id.get(), of.id.get(), ci.id.get()];
                        row.extend(place(ci.placement));
                        cis.insert(row);
                        let name = profile.name.with_compute(of.slices).to_string();
                        devices.insert((name, ci.uuid.to_string()));
                    }
                }
            }
        }
        (gis, cis, devices)
    }

    /// Asserts that nvidia-smi prints what gpushare sees.
    fn agree(&mut self) -> (usize, usize) {
        let (gis, cis, devices) = self.seen();
        assert_eq!(rows(&ok("mig -i 1 -lgi")), gis);
        assert_eq!(rows(&ok("mig -i 1 -lci")), cis);
        assert_eq!(listed_devices(&ok("-L")), devices);
        (gis.len(), cis.len())
    }
}

#[test]
fn what_nvidia_smi_creates_gpushare_sees() {
    let Some(mut both) = each_driver("what_nvidia_smi_creates_gpushare_sees", "2xH100-80GB") else {
        return;
    };
    let gpu = both.gpu.clone();
    assert!(ok("-L").contains(gpu.as_str()));
    ok("-i 1 -mig 1");
    assert!(both.nvml.mig_mode(&gpu).unwrap().current);
    ok("mig -i 1 -cgi 9,14 -C");
    assert_eq!(both.agree(), (2, 2));
    ok("mig -i 1 -cgi 19");
    assert_eq!(both.agree(), (3, 2));
    let last = rows(&ok("mig -i 1 -lgi")).into_iter().find(|row| row[0] == 19).unwrap();
    ok(&format!("mig -i 1 -gi {} -cci 0", last[1]));
    assert_eq!(both.agree(), (3, 3));
    let (code, _) = smi("mig -i 1 -cgi 0");
    assert_eq!(code, NvmlReturn::INSUFFICIENT_RESOURCES.0 as i32);
    ok("mig -i 1 -dci");
    assert_eq!(both.seen().1, BTreeSet::new());
    ok("mig -i 1 -dgi");
    assert_eq!(both.seen().0, BTreeSet::new());
    ok("-i 1 -mig 0");
    assert!(!both.nvml.mig_mode(&gpu).unwrap().current);
}

#[test]
fn what_gpushare_creates_nvidia_smi_sees() {
    let Some(mut both) = each_driver("what_gpushare_creates_nvidia_smi_sees", "2xA100-40GB") else {
        return;
    };
    let gpu = both.gpu.clone();
    both.nvml.set_mig_mode(&gpu, true).unwrap();
    let profiles = both.profiles();
    for (name, start, compute) in
        [("3g.20gb", 4, &[2, 1][..]), ("1g.5gb", 3, &[1]), ("2g.10gb", 0, &[2]), ("1g.5gb", 2, &[])]
    {
        let profile = profiles.iter().find(|profile| profile.name.to_string() == name).unwrap();
        let place = *profile.placements.iter().find(|place| place.start == start).unwrap();
        let gi = both.nvml.create_gpu_instance(&gpu, profile.id, place).unwrap();
        for &slices in compute {
            let all = both.nvml.compute_profiles(&gpu, gi.id).unwrap();
            let of = all.iter().find(|of| of.slices == slices).unwrap();
            let made = both.nvml.create_compute_instance(&gpu, gi.id, of.id, None).unwrap();
            assert!(of.starts.contains(&made.placement.start), "{made:?}");
        }
    }
    assert_eq!(both.agree(), (4, 4));
    let table = ok("-i 1");
    assert!(table.contains("MIG devices:") && table.contains("Enabled"), "{table}");
    ok("mig -i 1 -dci");
    ok("mig -i 1 -dgi");
    assert_eq!(both.seen(), Default::default());
}

#[test]
fn both_read_the_same_profiles_and_placements() {
    let test = "both_read_the_same_profiles_and_placements";
    let Some(mut both) = each_driver(test, "2xH200-141GB") else { return };
    both.nvml.set_mig_mode(&both.gpu.clone(), true).unwrap();
    let profiles = both.profiles();
    let table = ok("mig -i 1 -lgip");
    for profile in &profiles {
        let row = table
            .lines()
            .find(|line| line.split_whitespace().any(|word| word == profile.name.to_string()));
        let words: Vec<_> = row.unwrap().split_whitespace().collect();
        let free = format!("{0}/{0}", profile.max_instances);
        // |   1  MIG 1g.18gb         19     7/7        16.00      No     16     1     0   |
        assert_eq!(words[4], profile.id.to_string(), "{words:?}");
        assert_eq!(words[5], free, "{words:?}");
        assert_eq!(words[8], profile.sm_count.to_string(), "{words:?}");
    }
    let printed: BTreeSet<_> = ok("mig -i 1 -lgipp")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected: BTreeSet<_> = profiles
        .iter()
        .map(|profile| {
            let starts: Vec<_> =
                profile.placements.iter().map(|place| place.start.to_string()).collect();
            let word = if starts.len() == 1 { "Placement :" } else { "Placements:" };
            let (id, size) = (profile.id, profile.placements[0].size);
            format!("GPU 1 Profile ID {id} {word} {{{}}}:{size}", starts.join(","))
        })
        .collect();
    assert_eq!(printed, expected);
}

/// nvidia-smi lists processes through a table that NVIDIA does not document, so only what it does
/// because of them can be compared.
#[test]
fn what_is_in_use_neither_destroys() {
    let Some(mut both) = each_driver("what_is_in_use_neither_destroys", "2xH100-80GB") else {
        return;
    };
    let gpu = both.gpu.clone();
    let pid = both.node.busy(&gpu, ProcessSpec::new("train")).unwrap();
    let whole = both.nvml.processes(&gpu, ContextKind::Compute).unwrap();
    assert_eq!((whole[0].pid, whole[0].instance), (pid, None));
    both.node.idle(pid).unwrap();

    ok("-i 1 -mig 1");
    ok("mig -i 1 -cgi 9,9 -C");
    let (_, _, devices) = both.seen();
    let device: MigUuid = devices.first().unwrap().1.parse().unwrap();
    let pid = both.node.busy(&device, ProcessSpec::new("infer")).unwrap();
    let on_mig = both.nvml.processes(&gpu, ContextKind::Compute).unwrap();
    let (gi, ci) = on_mig[0].instance.unwrap();
    assert_eq!(on_mig[0].pid, pid);
    let (code, text) = smi(&format!("mig -i 1 -gi {gi} -dci"));
    assert_eq!(code, NvmlReturn::IN_USE.0 as i32, "{text}");
    let failure = both.nvml.destroy_compute_instance(&gpu, gi, ci).unwrap_err();
    assert_eq!(failure.ret, NvmlReturn::IN_USE);
}

#[test]
fn both_set_the_compute_mode() {
    let Some(mut both) = each_driver("both_set_the_compute_mode", "2xL40S") else { return };
    let gpu = both.gpu.clone();
    ok("-i 1 -c EXCLUSIVE_PROCESS");
    assert_eq!(both.nvml.compute_mode(&gpu).unwrap(), ComputeMode::ExclusiveProcess);
    both.nvml.set_compute_mode(&gpu, ComputeMode::Prohibited).unwrap();
    let all = ok("-i 1 -q");
    assert!(all.contains(gpu.as_str()) && all.contains("Prohibited"), "{all}");
    let (code, text) = smi("-i 1 -mig 1");
    assert!(code != 0 || text.contains("Unable") || text.contains("not"), "{code} {text}");
    assert_eq!(both.nvml.mig_mode(&gpu).unwrap_err().ret, NvmlReturn::NOT_SUPPORTED);
}
