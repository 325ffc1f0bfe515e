//! What `gpushare export gres` writes, read by a real Slurm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use gpushare_core::export::{Kind, Options};
use gpushare_core::hazard::HazardName;
use gpushare_core::{ApplyOptions, Node, Spec};

use crate::cluster::{Cluster, ended, host};

/// Turns, clients of a daemon with limits and of one without, and GPUs that are one.
const SHARDS: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 4}},
    {"select": 1, "mode": "mps", "mps": {"thread_percentage": 50, "max_clients": 2, "access": "any"}},
    {"select": 2, "mode": "mps", "mps": {"access": "any"}},
    {"select": [3, 4], "mode": "exclusive"}]}"#;

/// Daemons that leave the percentage to their clients.
const PERCENT: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": [0, 1], "mode": "mps", "mps": {"access": "any"}},
    {"select": [2, 3, 4], "mode": "exclusive"}]}"#;

/// MIG devices beside GPUs that are one, and one that is shared.
const CUT: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 4}},
    {"select": 3, "mode": "mig", "mig": {"instances": {"1g.10gb": 2, "3g.40gb": 1, "1g.10gb+me": 1}}},
    {"select": 4, "mode": "exclusive"}]}"#;

/// A field of a line of gres.conf or of what slurmd prints: `Name=gpu`.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split([' ', ',']).find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn slurm_takes_shards_as_they_are_exported() {
    slurm_takes(
        SHARDS,
        &[
            ("gpu:h100_80gb_hbm3:4", Some("CUDA_VISIBLE_DEVICES=0,1,2,3")),
            ("gpu:h100_80gb_hbm3:5", None),
            ("gpu:tesla_t4:1", Some("CUDA_VISIBLE_DEVICES=4")),
            ("shard:4", Some("SLURM_SHARDS_ON_NODE=4")),
            ("shard:48", Some("CUDA_VISIBLE_DEVICES=2")),
            ("shard:49", None),
        ],
    );
}

#[test]
fn slurm_takes_percent_as_they_are_exported() {
    slurm_takes(
        PERCENT,
        &[
            ("gpu:5", Some("CUDA_VISIBLE_DEVICES=0,1,2,3,4")),
            ("mps:25", Some("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25")),
            ("mps:100", Some("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100")),
            ("mps:101", None),
        ],
    );
}

#[test]
fn slurm_takes_mig_devices_as_they_are_exported() {
    slurm_takes(
        CUT,
        &[
            ("gpu:h100_80gb_hbm3:3", Some("SLURM_GPUS_ON_NODE=3")),
            ("gpu:h100_80gb_hbm3:4", None),
            ("gpu:1g.10gb:2", Some("SLURM_GPUS_ON_NODE=2")),
            ("gpu:1g.10gb:3", None),
            ("gpu:1g.10gb_me:1", Some("SLURM_GPUS_ON_NODE=1")),
            ("gpu:3g.40gb:1", Some("SLURM_GPUS_ON_NODE=1")),
            ("gpu:8", Some("SLURM_GPUS_ON_NODE=8")),
            ("gpu:9", None),
        ],
    );
}

/// A Slurm with what is exported of such a node has it all, and jobs get what they ask for, as these
/// variables say, or nothing.
fn slurm_takes(spec: &str, jobs: &[(&str, Option<&str>)]) {
    let Some(mut cluster) = Cluster::prepare("the exported gres.conf in a real Slurm") else {
        return;
    };
    let node = Node::builder().sim("4xH100-80GB,1xT4").ignore_environment(true).open().unwrap();
    let options =
        HazardName::ALL.iter().fold(ApplyOptions::new(), |options, &h| options.allow_hazard(h));
    node.apply(&spec.parse::<Spec>().unwrap(), &options).unwrap();
    let mut options = Options::default();
    options.allow_hazards = vec![HazardName::HopperPartialSm];
    options.node = Some(host());
    let text = node.export(Kind::Gres, &options).unwrap().text;

    // The device nodes are made up, in a folder of this test's.
    let devices = cluster.path("dev");
    fs::create_dir_all(devices.join("nvidia-caps")).unwrap();
    let text = text.replace("/dev/", &format!("{}/", devices.display()));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("Name=")).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with('#')).collect();
    for path in text.split(|c: char| c.is_whitespace() || ",=".contains(c)) {
        if path.starts_with('/') && !fs::exists(path).unwrap() {
            symlink("/dev/null", path).unwrap();
        }
    }
    let comment = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("#   "));
        lines.find_map(|line| field_to_end(line, name)).unwrap().to_owned()
    };
    let (types, gres) = (comment("GresTypes"), comment("Gres"));
    cluster.with_gres(&types, &gres, &text);

    // What slurmd parsed is what was written, line by line.
    let parsed = cluster.slurm("slurmd").args(["-G", "-N", &host()]).output().unwrap();
    let (out, err) = ended(&parsed, 0);
    let parsed = format!("{out}{err}");
    let parsed: Vec<&str> =
        parsed.lines().filter_map(|line| Some(line.split_once("Gres Name=")?.1)).collect();
    let mut found = BTreeMap::new();
    for line in &parsed {
        let line = format!("Name={line}");
        let count: u64 = field(&line, "Count").unwrap().parse().unwrap();
        *found.entry(key(&line)).or_insert(0) += count;
    }
    // Of a GPU without shards it has none.
    found.retain(|_, count| *count > 0);
    let mut wanted = BTreeMap::new();
    for line in lines.iter().filter(|line| line.contains(" Name=")) {
        let line = line.split_once(' ').unwrap().1;
        let count: u64 = field(line, "Count").map_or(1, |count| count.parse().unwrap());
        *wanted.entry(key(line)).or_insert(0) += count;
    }
    assert_eq!(found, wanted, "{parsed:#?}\n{text}");

    // The controller has it so, and the node is there to be used.
    let shown = cluster.slurm("scontrol").args(["show", "node", &host()]).output().unwrap();
    let (shown, _) = ended(&shown, 0);
    let line = |name: &str| {
        let lines = shown.lines().map(str::trim);
        lines.into_iter().find_map(|line| line.strip_prefix(name)).unwrap().to_owned()
    };
    assert_eq!(counted(&line("Gres=")), counted(&gres), "{shown}");
    assert!(line("State=").starts_with("IDLE") && !shown.contains("Reason="), "{shown}");

    // A job gets each of them, and no more than there are.
    for (asked, gets) in jobs {
        let mut srun = cluster.slurm("srun");
        let output = srun.args(["--immediate=5", &format!("--gres={asked}"), "env"]).output();
        let output = output.unwrap();
        let environment = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), gets.is_some(), "{asked}: {output:?}");
        let told = |variable| environment.lines().any(|line| line == variable);
        assert!(gets.is_none_or(told), "{asked}: {environment}");
    }
}

/// How many there are of what, in a node's `Gres`. Slurm writes shards with the type of their GPU.
fn counted(gres: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for one in gres.split(',') {
        let (what, count) = one.rsplit_once(':').unwrap();
        let what = if what.starts_with("gpu") { what } else { what.split(':').next().unwrap() };
        *counts.entry(what.to_owned()).or_insert(0) += count.parse::<u64>().unwrap();
    }
    counts
}

/// What counts together: GPUs by type, and whatever is made of them.
fn key(line: &str) -> (String, Option<String>) {
    let name = field(line, "Name").unwrap().to_owned();
    let kind = field(line, "Type").filter(|_| name == "gpu");
    (name, kind.map(str::to_owned))
}

/// The rest of a line after `Name=`, which is its last field.
fn field_to_end<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
