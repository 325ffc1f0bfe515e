//! Simulated nodes of every mode, and of what happens to them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gpushare_core::backend::sim::Loss;
use gpushare_core::hazard::HazardName;
use gpushare_core::mode::SharingMode;
use gpushare_core::parameters::Access;
use gpushare_core::snapshot::{DeviceNode, GpuSnapshot};
use gpushare_core::{ApplyOptions, Node, Snapshot, Spec};

/// A node in the state of a spec.
#[track_caller]
pub(crate) fn node(fleet: &str, spec: &str) -> Node {
    let node = Node::builder().sim(fleet).ignore_environment(true).open().unwrap();
    if !spec.is_empty() {
        let spec: Spec = format!("{{version: gpushare/v1, gpus: [{spec}]}}").parse().unwrap();
        let options = ApplyOptions::new().allow_reset(true);
        let options =
            HazardName::ALL.iter().fold(options, |options, &name| options.allow_hazard(name));
        node.apply(&spec, &options).unwrap();
    }
    node
}

/// One GPU of a fleet and what it is to be.
#[track_caller]
pub(crate) fn snapshot(fleet: &str, spec: &str) -> Snapshot {
    node(fleet, spec).snapshot().unwrap()
}

/// Names that want to be something else.
pub(crate) const HOSTILE: [&str; 6] = [
    "'; touch /tmp/pwned; '",
    "$(reboot) `reboot` ${HOME} $HOME",
    "a\nreboot\r\n\u{1b}[2Jb",
    "\" , ] } #: &x *x !t | > % @",
    "-rf",
    "a,b\\c=d ü 中\u{202e}",
];

const MIXED: &str = "
    {select: 0, mode: mps, mps: {thread_percentage: 50, max_clients: 2, access: any}},
    {select: 1, mode: mig, mig: {instances: [
        {profile: 1g.10gb, mps: {max_clients: 2, access: {user: alice}}},
        {profile: 1g.10gb, time_sliced: {replicas: 2}},
        {profile: 2g.20gb, compute: [1c, 1c]},
        {profile: 1g.10gb+me},
        {profile: 1g.10gb, compute: []}]}},
    {select: 2, mode: time_sliced, time_sliced: {replicas: 3, interval: short}},
    {select: 3, mode: exclusive}";

/// All of them, with a word for each.
pub(crate) fn all() -> Vec<(String, Snapshot)> {
    let mut all: Vec<(String, Snapshot)> = [
        ("as it comes", "1xH100-80GB", ""),
        ("without MIG", "2xT4,1xL40S", "{select: all, mode: time_sliced}"),
        ("exclusive", "2xH100-80GB", "{select: all, mode: exclusive}"),
        ("48 clients", "1xA100-40GB", "{select: all, mode: mps}"),
        (
            "one client",
            "1xH100-80GB",
            "{select: all, mode: mps, mps: {max_clients: 1, access: {group: '77'}}}",
        ),
        (
            "a group",
            "1xH100-80GB",
            "{select: all, mode: mps, mps: {max_clients: 2, access: {group: ml}}}",
        ),
        ("MIG, empty", "1xH100-80GB", "{select: all, mode: mig}"),
        ("MIG, one", "1xA30-24GB", "{select: all, mode: mig, mig: {instances: {1g: 4}}}"),
        ("mixed", "4xH100-80GB", MIXED),
    ]
    .into_iter()
    .map(|(name, fleet, spec)| (name.to_owned(), snapshot(fleet, spec)))
    .collect();

    let mixed = node("4xH100-80GB", MIXED);
    let simulator = mixed.simulator().unwrap();
    let gpus = simulator.gpus().unwrap();
    simulator.act_as(1000).unwrap();
    all.push(("partly seen".to_owned(), mixed.snapshot().unwrap()));
    simulator.act_as(0).unwrap();
    simulator.kill_mps_daemon(&gpus[0]).unwrap();
    simulator.lose(&gpus[2], Loss::Lost).unwrap();
    all.push(("dead and lost".to_owned(), mixed.snapshot().unwrap()));
    for (number, uuid) in gpus.iter().enumerate() {
        if number != 2 {
            simulator.lose(uuid, Loss::Gone).unwrap();
        }
    }
    all.push(("all gone".to_owned(), mixed.snapshot().unwrap()));

    for mode in [SharingMode::Foreign, SharingMode::Closed, SharingMode::Pending] {
        let other = altered("2xH100-80GB", "{select: all, mode: exclusive}", |gpu| {
            if gpu.index.is_some_and(|index| index.get() == 1) {
                gpu.mode = mode;
                gpu.shares.clear();
            }
        });
        all.push((mode.to_string(), other));
    }
    for name in HOSTILE {
        let hostile = altered("4xH100-80GB", MIXED, |gpu| {
            gpu.model = name.to_owned();
            gpu.cordoned = Some(name.to_owned());
            gpu.reason = name.to_owned();
            let devices = gpu.mig_devices.iter_mut();
            let devices = devices.flat_map(|device| {
                device.name = Some(name.to_owned());
                device.mps.as_mut()
            });
            for mps in gpu.mps.iter_mut().chain(devices) {
                mps.directory = Some(PathBuf::from(format!("/run/{name}")));
                mps.config.as_mut().unwrap().access = match gpu.index.unwrap().get() {
                    0 => Access::Group(name.to_owned()),
                    _ => Access::User(name.to_owned()),
                };
            }
        });
        all.push((format!("hostile {name:?}"), hostile));
    }
    all
}

/// A node whose GPUs were altered after they were looked at.
pub(crate) fn altered(fleet: &str, spec: &str, alter: impl Fn(&mut GpuSnapshot)) -> Snapshot {
    let mut snapshot = snapshot(fleet, spec);
    snapshot.gpus.iter_mut().for_each(alter);
    snapshot
}

/// The device nodes that are each GPU's and MIG device's own.
pub(crate) fn device_nodes(snapshot: &Snapshot) -> BTreeMap<String, Vec<DeviceNode>> {
    let mut nodes = BTreeMap::new();
    for gpu in &snapshot.gpus {
        let minor = gpu.minor.map_or(0, |minor| minor.get());
        let own = DeviceNode::new(format!("/dev/nvidia{minor}"), 195, minor);
        nodes.insert(gpu.uuid.to_string(), vec![own.clone()]);
        for (number, device) in (0..).zip(&gpu.mig_devices) {
            let capability =
                |cap: u32| DeviceNode::new(format!("/dev/nvidia-caps/nvidia-cap{cap}"), 235, cap);
            let capabilities = [2 * number, 2 * number + 1].map(capability);
            let all = [own.clone()].into_iter().chain(capabilities);
            nodes.insert(device.uuid.to_string(), all.collect());
        }
    }
    nodes
}
