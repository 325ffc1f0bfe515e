//! Transitions from one state of a simulated node to another.

use std::ops::ControlFlow;

use gpushare_core::apply::Source;
use gpushare_core::backend::sim::{Faults, ProcessKind, ProcessSpec, Rules, Simulator};
use gpushare_core::hazard::HazardName;
use gpushare_core::id::Pid;
use gpushare_core::plan::Request;
use gpushare_core::plan::state::GpuState;
use gpushare_core::{ApplyOptions, Node, Snapshot, Spec};

/// A transition of a simulated node.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) fleet: &'static str,
    pub(crate) rules: Rules,
    pub(crate) from: Vec<String>,
    pub(crate) to: String,
    /// A change of MIG mode that somebody else made and that waits for a reset.
    pub(crate) pending: Option<bool>,
    /// Clients of the MPS daemon of each GPU, or of each MIG device of it.
    pub(crate) clients: usize,
}

impl Scenario {
    pub(crate) fn new(fleet: &'static str, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            fleet,
            rules: Rules::default(),
            from: vec![from.into()],
            to: to.into(),
            pending: None,
            clients: 0,
        }
    }

    pub(crate) fn rules(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut self.rules);
        self
    }

    pub(crate) fn target(&self) -> Spec {
        self.to.parse().unwrap_or_else(|error| panic!("{error}: {}", self.to))
    }

    /// A node in the first state, with a switch for faults.
    pub(crate) fn start(&self) -> World {
        let simulator = Simulator::new(self.fleet.parse().unwrap()).unwrap();
        simulator.set_rules(self.rules.clone()).unwrap();
        let (ports, faults) = Faults::wrap(simulator.ports_in_memory());
        let node = Node::with_ports(ports, true);
        for spec in &self.from {
            let spec: Spec = spec.parse().unwrap_or_else(|error| panic!("{error}: {spec}"));
            node.apply(&spec, &options())
                .unwrap_or_else(|error| panic!("{error:?} at the start of {self:?}"));
        }
        if let Some(enable) = self.pending {
            let mut rules = self.rules.clone();
            rules.mode_change_stays_pending = true;
            simulator.set_rules(rules).unwrap();
            let mut nvml = node.ports().nvml.open().unwrap();
            for gpu in simulator.gpus().unwrap() {
                nvml.set_mig_mode(&gpu, enable).unwrap();
            }
            drop(nvml);
            simulator.set_rules(self.rules.clone()).unwrap();
        }
        let world = World { simulator, node, faults };
        world.serve(self.clients);
        world.faults.revive();
        world
    }
}

/// A simulated node with a switch for faults.
pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) node: Node,
    pub(crate) faults: Faults,
}

impl World {
    /// A node as its fleet is delivered.
    pub(crate) fn new(fleet: &str) -> Self {
        let simulator = Simulator::new(fleet.parse().unwrap()).unwrap();
        let (ports, faults) = Faults::wrap(simulator.ports_in_memory());
        Self { simulator, node: Node::with_ports(ports, true), faults }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.node.snapshot().unwrap()
    }

    /// The state of each GPU without ids and uuids, intervals included.
    pub(crate) fn states(&self) -> Vec<GpuState> {
        let scope = gpushare_core::observe::Scope::all().with_intervals();
        let snapshot = self.node.observer().unwrap().snapshot(&scope).unwrap();
        snapshot.gpus.iter().map(GpuState::of).collect()
    }

    pub(crate) fn apply(&self, spec: &str) -> gpushare_core::Result<gpushare_core::Report> {
        self.node.apply(&spec.parse()?, &options())
    }

    pub(crate) fn request(
        &self,
        request: &Request,
    ) -> gpushare_core::Result<gpushare_core::Report> {
        let go_on = |_: &gpushare_core::Event| ControlFlow::Continue(());
        self.node.apply_with(Source::Request(request), &options(), go_on)
    }

    /// Puts clients on every MPS daemon.
    pub(crate) fn serve(&self, clients: usize) -> Vec<Pid> {
        let client = || ProcessSpec::new("python serve.py").doing(ProcessKind::MpsClient);
        let mut pids = Vec::new();
        for gpu in self.snapshot().gpus {
            for _ in 0..clients {
                if gpu.mps.is_some() {
                    pids.push(self.simulator.busy(&gpu.uuid, client()).unwrap());
                }
                for device in gpu.mig_devices.iter().filter(|device| device.mps.is_some()) {
                    pids.push(self.simulator.busy(&device.uuid, client()).unwrap());
                }
            }
        }
        pids
    }

    pub(crate) fn journals(&self) -> Vec<String> {
        self.node.ports().store.list("journal").unwrap()
    }
}

/// Whatever is needed is allowed.
pub(crate) fn options() -> ApplyOptions {
    ApplyOptions::new()
        .allow_reset(true)
        .allow_evict(true)
        .allow_hazard(HazardName::BypassPossible)
        .allow_hazard(HazardName::HopperUnmeasured)
}

/// A spec for all GPUs: `mode`, and its block if it has one.
pub(crate) fn spec(mode: &str, block: &str) -> String {
    entry("\"all\"", mode, block)
}

pub(crate) fn entry(select: &str, mode: &str, block: &str) -> String {
    let block = if block.is_empty() { String::new() } else { format!(", \"{mode}\": {block}") };
    format!(
        r#"{{"version": "gpushare/v1", "gpus": [{{"select": {select}, "mode": "{mode}"{block}}}]}}"#
    )
}

/// A MIG spec by counts: `{"1g.10gb": 2}`.
pub(crate) fn counted(instances: &[(String, u8)]) -> String {
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    for (profile, _) in instances {
        *counts.entry(profile).or_default() += 1;
    }
    spec("mig", &format!(r#"{{"instances": {}}}"#, serde_json::to_string(&counts).unwrap()))
}
