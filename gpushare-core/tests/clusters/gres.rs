//! Slurm's gres.conf. That a real Slurm takes it is tested with the C library's plugin for it.

use std::collections::BTreeMap;

use gpushare_core::export::{Exported, Kind, LeaseHook, Options, export};
use gpushare_core::hazard::HazardName;
use gpushare_core::snapshot::DeviceNode;
use gpushare_core::{ErrorCode, Snapshot};

use crate::nodes::{HOSTILE, all, altered, device_nodes, node, snapshot};

/// A line of gres.conf (gres.conf(5)): words with a value each, `Name` first unless `NodeName` is.
struct Line {
    name: String,
    kind: Option<String>,
    count: usize,
    files: Vec<String>,
}

fn exported(snapshot: &Snapshot, options: &Options) -> Exported {
    let exported = export(snapshot, Kind::Gres, options).unwrap();
    assert!(exported.text.ends_with('\n') && exported.text.is_ascii(), "{}", exported.text);
    assert!(!exported.text.chars().any(|c| c.is_control() && c != '\n'), "{}", exported.text);
    let odd = |text: &String| text.chars().any(char::is_control);
    assert!(!exported.cannot_say.iter().any(odd), "{:?}", exported.cannot_say);
    exported
}

fn lines(text: &str) -> Vec<Line> {
    let written: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(written[0].ends_with("AutoDetect=off"));
    let line = |text: &&str| {
        let mut words: BTreeMap<&str, &str> = BTreeMap::new();
        for (place, word) in text.split(' ').enumerate() {
            let (name, value) = word.split_once('=').unwrap();
            assert!(!value.is_empty() && words.insert(name, value).is_none(), "{text}");
            assert!(place > 0 || ["Name", "NodeName"].contains(&name), "{text}");
        }
        words.remove("NodeName");
        let name = words.remove("Name").unwrap().to_owned();
        let several = words.remove("MultipleFiles");
        assert_eq!(several.is_some(), !words.contains_key("File"), "{text}");
        let files = several.or_else(|| words.remove("File")).unwrap();
        let line = Line {
            kind: words.remove("Type").map(str::to_owned),
            count: words.remove("Count").map_or(1, |count| count.parse().unwrap()),
            files: files.split(',').map(str::to_owned).collect(),
            name,
        };
        assert!(words.is_empty(), "{text}");
        assert_eq!(line.files.len() > 1, several.is_some());
        line
    };
    written[1..].iter().map(line).collect()
}

#[test]
fn every_device_of_every_node_is_counted_once() {
    for (name, snapshot) in all() {
        let mut options = Options::default();
        options.device_nodes = device_nodes(&snapshot);
        let exported = exported(&snapshot, &options);
        let lines = lines(&exported.text);
        let mut devices = 0;
        let mut shards = 0;
        let cut = snapshot.gpus.iter().any(|gpu| !gpu.mig_devices.is_empty());
        for gpu in snapshot.gpus.iter().filter(|gpu| !gpu.shares.is_empty()) {
            devices += if gpu.mig_devices.is_empty() { 1 } else { gpu.mig_devices.len() };
            shards += if cut || gpu.shares.len() < 2 { 0 } else { gpu.shares.len() };
        }
        let count = |name: &str| -> usize {
            lines.iter().filter(|line| line.name == name).map(|line| line.count).sum()
        };
        assert_eq!(count("gpu"), devices, "{name}");
        // A daemon without limits, alone, is by percent.
        let percent = count("mps");
        assert!(
            percent == 0 && count("shard") == shards || percent == 100 && shards == 48,
            "{name}"
        );
        let mut seen: Vec<_> =
            lines.iter().filter(|line| line.name == "gpu").map(|line| &line.files).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), devices, "{name}: no device stands twice");
        for line in &lines {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            assert!(line.kind.as_ref().is_none_or(|kind| kind.chars().all(good)), "{name}");
            assert!(line.files.iter().all(|file| file.starts_with("/dev/nvidia")), "{name}");
        }
        // slurm.conf says the same.
        let gres = exported.text.lines().find_map(|line| line.split_once(" Gres="));
        let total = |what: &str| -> usize {
            let all = gres.map_or("", |(_, gres)| gres).split(',');
            let own = all.filter_map(|one| one.strip_prefix(what)?.rsplit_once(':'));
            own.map(|(_, count)| count.parse::<usize>().unwrap()).sum()
        };
        for what in ["gpu", "shard", "mps"] {
            assert_eq!(total(what), count(what), "{name}: {}", exported.text);
        }
    }
}

#[test]
fn a_node_that_is_named_has_lines_of_its_own() {
    let snapshot = snapshot("2xT4", "{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}");
    let mut options = Options::default();
    options.device_nodes = device_nodes(&snapshot);
    options.node = Some("gpu-01".to_owned());
    let text = exported(&snapshot, &options).text;
    let own = text.lines().filter(|line| !line.starts_with('#'));
    assert!(
        own.clone().count() == 4 && own.clone().all(|line| line.starts_with("NodeName=gpu-01 "))
    );
    assert!(text.contains("#   NodeName=gpu-01 Gres=gpu:tesla_t4:2,shard:2\n"), "{text}");
    for wrong in ["", "a b", "a\nb", "-a", "a=b", "a#b", "n[1-2]"] {
        options.node = Some(wrong.to_owned());
        let error = export(&snapshot, Kind::Gres, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong:?}");
    }
}

#[test]
fn nodes_that_slurm_would_misread_are_left_out_aloud() {
    let snapshot = snapshot("1xT4", "");
    for name in HOSTILE.iter().chain(&["", "nvidia0", "/dev/nvidia[0-3]", "/dev/a b", "/dev/a#b"]) {
        let mut options = Options::default();
        let nodes = vec![DeviceNode::new(name, 195, 0)];
        options.device_nodes.insert(snapshot.gpus[0].uuid.to_string(), nodes);
        let exported = exported(&snapshot, &options);
        assert!(lines(&exported.text).is_empty(), "{}", exported.text);
        assert!(exported.cannot_say[0].contains("left out"));
    }
    let unknown = exported(&snapshot, &Options::default());
    assert!(unknown.cannot_say[0].contains("device node is not known"), "{unknown:?}");
}

#[test]
fn the_nodes_are_found_where_they_are() {
    let node = node(
        "2xH100-80GB",
        "{select: 0, mode: mig, mig: {instances: {3g.40gb: 1}}}, {select: 1, mode: exclusive}",
    );
    let text = node.export(Kind::Gres, &Options::default()).unwrap().text;
    let lines = lines(&text);
    assert_eq!(lines.iter().map(|line| line.files.len()).collect::<Vec<_>>(), [3, 1], "{text}");
    assert_eq!(lines[0].kind.as_deref(), Some("3g.40gb"));
    assert_eq!(lines[1].kind.as_deref(), Some("h100_80gb_hbm3"));
}

/// Slurm tells a job whatever percentage it asked for.
#[test]
fn percent_of_a_hopper_card_are_a_hazard() {
    for (fleet, name) in
        [("1xH100-80GB", Some(HazardName::HopperPartialSm)), ("1xA100-40GB", None), ("1xT4", None)]
    {
        let node = snapshot(fleet, "{select: 0, mode: mps, mps: {access: any}}");
        let mut options = Options::default();
        options.device_nodes = device_nodes(&node);
        let Some(name) = name else {
            assert!(exported(&node, &options).text.contains("Name=mps Count=100 "));
            continue;
        };
        let error = export(&node, Kind::Gres, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Hazard);
        assert!(error.message().starts_with(name.as_str()), "{error}");
        assert!(error.safe()[0].contains("exported as shards"));
        options.allow_hazards = vec![name];
        assert!(exported(&node, &options).text.contains("Name=mps Count=100 "));
        // What the error advises is no hazard.
        let limited = snapshot(fleet, "{select: 0, mode: mps, mps: {access: any, max_clients: 4}}");
        options.allow_hazards.clear();
        options.device_nodes = device_nodes(&limited);
        assert!(exported(&limited, &options).text.contains("Name=shard Count=4 "));
    }
    let unmeasured =
        altered("1xH100-80GB", "{select: 0, mode: mps}", |gpu| gpu.sm_count = Some(114));
    let mut options = Options::default();
    options.device_nodes = device_nodes(&unmeasured);
    let error = export(&unmeasured, Kind::Gres, &options).unwrap_err();
    assert!(error.message().starts_with("hopper-unmeasured"), "{error}");
}

/// An option of another kind is no option.
#[test]
fn a_kind_takes_its_own_options_alone() {
    let snapshot = snapshot("1xT4", "");
    type Give = fn(&mut Options);
    let given: [(&str, Give, &[Kind]); 8] = [
        ("config", |o| o.config = Some("a".to_owned()), &[Kind::MigParted, Kind::GpuOperator]),
        ("image", |o| o.image = Some("a".to_owned()), &[Kind::DockerRun, Kind::Compose]),
        ("cdi", |o| o.cdi = true, &[Kind::DockerRun, Kind::Compose]),
        ("node", |o| o.node = Some("a".to_owned()), &[Kind::GpuOperator, Kind::Gres]),
        (
            "allow_hazards",
            |o| o.allow_hazards.push(HazardName::MinimumSm),
            &[Kind::DevicePlugin, Kind::GpuOperator, Kind::ResourceClaim, Kind::Gres],
        ),
        (
            "device_nodes",
            |o| drop(o.device_nodes.insert(String::new(), Vec::new())),
            &[Kind::Gres, Kind::Cdi],
        ),
        (
            "driver_nodes",
            |o| o.driver_nodes.push(DeviceNode::new("/dev/nvidiactl", 195, 255)),
            &[Kind::Cdi],
        ),
        ("lease_hook", |o| o.lease_hook = Some(LeaseHook::new("/gpushare")), &[Kind::Cdi]),
    ];
    for (name, give, takers) in given {
        for &kind in Kind::ALL {
            let mut options = Options::default();
            give(&mut options);
            match export(&snapshot, kind, &options) {
                Ok(_) => assert!(takers.contains(&kind), "{kind} {name}"),
                // CDI takes no file without devices, and here are no device nodes.
                Err(error) if error.code() == ErrorCode::NotFound => {
                    assert!(takers.contains(&kind) && kind == Kind::Cdi, "{kind} {name}: {error}");
                }
                Err(error) => {
                    assert!(!takers.contains(&kind), "{kind} {name}: {error}");
                    assert_eq!(error.code(), ErrorCode::InvalidArgument);
                    assert!(error.message().contains(name), "{error}");
                }
            }
        }
    }
}
