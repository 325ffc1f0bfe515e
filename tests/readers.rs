//! Programs that people watch their GPUs with, and `gpushare status`, on one simulated node behind
//! NVIDIA's C ABI: field by field they show the same, before and after every change.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

#[path = "readers/facts.rs"]
mod facts;
#[path = "readers/python.rs"]
mod python;
#[path = "readers/smi.rs"]
mod smi;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use gpushare_core::backend::sim::{ProcessSpec, Target};
use gpushare_core::id::{GpuUuid, MigUuid, Pid};
use gpushare_core::units::Bytes;
use gpushare_tests::nvidia::{drivers, skipped};
use gpushare_tests::nvml_sim::{Node, library, text};
use serde_json::{Value, json};

use facts::{Facts, Field};

/// A program that reads GPUs.
#[derive(Debug)]
enum Reader {
    /// NVIDIA's own, of one driver.
    Smi(PathBuf),
    /// nvidia-ml-py or nvitop.
    Library(&'static str, PathBuf),
    Gpustat(PathBuf),
}

/// What a reader cannot show, and why. Everything else it must.
const LACKS: [(&str, &[Field], &str); 4] = [
    (
        "nvidia-smi",
        &[Field::Process, Field::ProcessInstance],
        "its processes come through a table of functions that NVIDIA does not document",
    ),
    ("nvidia-ml-py", &[], ""),
    (
        "nvitop",
        &[Field::MigPending, Field::GpuInstance, Field::ComputeInstance],
        "it shows MIG devices and whether MIG is on, and asks for no placements",
    ),
    (
        "gpustat",
        &[
            Field::Pci,
            Field::Mig,
            Field::MigPending,
            Field::ComputeMode,
            Field::GpuInstance,
            Field::ComputeInstance,
            Field::MigDevice,
            Field::MigMemory,
            Field::MigUsed,
            Field::ProcessInstance,
        ],
        "it knows no MIG: a GPU's processes are all it shows of its instances",
    ),
];

impl Reader {
    fn name(&self) -> &'static str {
        match self {
            Self::Smi(..) => "nvidia-smi",
            Self::Library(name, _) => name,
            Self::Gpustat(_) => "gpustat",
        }
    }

    fn read(&self, node: &Node) -> Facts {
        match self {
            Self::Smi(program) => smi::read(node, program),
            Self::Library(name, environment) => python::library(node, environment, name),
            Self::Gpustat(environment) => python::gpustat(node, environment),
        }
    }

    fn lacks(&self) -> &'static [Field] {
        LACKS.iter().find(|(name, ..)| *name == self.name()).unwrap().1
    }
}

/// Those that this machine can have.
fn readers() -> Vec<Reader> {
    let mut readers = Vec::new();
    match drivers() {
        Ok(drivers) => {
            // 470 knows no MIG devices' attributes as they are asked for today.
            let known = drivers.iter().filter(|(major, _)| *major >= 535);
            readers.extend(known.map(|(_, folder)| Reader::Smi(folder.join("nvidia-smi"))));
        }
        Err(why) => skipped("nvidia-smi beside gpushare", why),
    }
    match python::environment() {
        Ok(environment) => readers.extend([
            Reader::Library("nvidia-ml-py", environment.clone()),
            Reader::Library("nvitop", environment.clone()),
            Reader::Gpustat(environment),
        ]),
        Err(why) => skipped("nvidia-ml-py, nvitop and gpustat beside gpushare", &why),
    }
    readers
}

/// A node with readers.
struct Machine {
    node: Node,
    readers: Vec<Reader>,
    /// What each reader has shown so far of what it can, by its place.
    shown: BTreeSet<(usize, Field)>,
    tenants: Vec<Child>,
}

impl Machine {
    /// The command on the library that the readers have, which it takes for the driver's own.
    fn gpushare(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_command"));
        self.node.tell(command.args(arguments)).env("GPUSHARE_NVML_PATH", library());
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn status(&self) -> Value {
        let output = self.gpushare(&["status", "--json"]);
        assert!(output.status.success(), "{}", text(&output));
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["simulated"], false);
        status
    }

    fn gpu(&self, index: usize) -> GpuUuid {
        self.status()["gpus"][index]["uuid"].as_str().unwrap().parse().unwrap()
    }

    /// The uuid of the MIG device of that profile.
    fn device(&self, index: usize, profile: &str) -> MigUuid {
        let status = self.status();
        let devices = status["gpus"][index]["mig_devices"].as_array().unwrap();
        let found = devices.iter().find(|device| device["profile"] == profile).unwrap();
        found["uuid"].as_str().unwrap().parse().unwrap()
    }

    /// A real process with memory there; gpustat and nvitop show no others.
    fn tenant(&mut self, target: impl Into<Target>, mebibytes: u64) -> u32 {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id();
        self.tenants.push(child);
        let spec = ProcessSpec::new("").being(Pid::new(pid));
        let spec = spec.with_memory(Bytes::from_mebibytes(mebibytes));
        self.node.simulator().busy(target, spec).unwrap();
        pid
    }

    fn leave(&mut self, pid: u32) {
        let place = self.tenants.iter().position(|tenant| tenant.id() == pid).unwrap();
        let mut tenant = self.tenants.remove(place);
        tenant.kill().unwrap();
        tenant.wait().unwrap();
    }

    fn apply(&mut self, gpus: &Value) {
        let spec = json!({"version": "gpushare/v1", "gpus": gpus}).to_string();
        let file = self.node.folder().join("spec.json");
        std::fs::write(&file, spec).unwrap();
        let output = self.gpushare(&["apply", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// All readers show what gpushare does. Returns that.
    fn agree(&mut self, when: &str) -> Facts {
        let expected = Facts::of_status(&self.status());
        for (place, reader) in self.readers.iter().enumerate() {
            let shown = reader.read(&self.node);
            for field in Field::ALL {
                let facts = shown.of(field);
                if reader.lacks().contains(&field) {
                    assert!(facts.is_empty(), "{reader:?} does show {field:?}: say so in LACKS");
                    continue;
                }
                assert_eq!(facts, expected.of(field), "{field:?}, {when}, {reader:?}");
                if !facts.is_empty() {
                    self.shown.insert((place, field));
                }
            }
        }
        expected
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for tenant in &mut self.tenants {
            let _ = tenant.kill();
            let _ = tenant.wait();
        }
    }
}

#[test]
fn whatever_people_watch_their_gpus_with_shows_what_gpushare_does() {
    let readers = readers();
    if readers.is_empty() {
        return;
    }
    // The last has no MIG.
    let node = Node::new("2xH100-80GB,1xL40S");
    let mut machine = Machine { node, readers, shown: BTreeSet::new(), tenants: Vec::new() };
    machine.agree("as the driver was loaded");

    machine.apply(&json!([{"select": "all", "mode": "exclusive"}]));
    let (first, last) = (machine.gpu(0), machine.gpu(2));
    let alone = machine.tenant(&last, 40_000);
    let all = machine.agree("exclusive");
    let exclusive = all.of(Field::ComputeMode);
    assert!(exclusive.iter().all(|(_, words)| words == &["exclusive_process"]), "{exclusive:?}");
    machine.leave(alone);
    machine.agree("without its tenant");

    let layout = |instances: Value| {
        json!([
            {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 4}},
            {"select": 1, "mode": "mig", "mig": {"instances": instances}},
        ])
    };
    let split = json!({"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]});
    machine.apply(&layout(json!([split, {"profile": "2g.20gb"}, {"profile": "1g.10gb"}])));
    assert_eq!(machine.agree("a layout").of(Field::MigDevice).len(), 4);
    let inside = machine.device(1, "2c.3g.40gb");
    let beside = machine.device(1, "1g.10gb");
    let tenants = [machine.tenant(&inside, 3000), machine.tenant(&beside, 77)];
    let sliced = [machine.tenant(&first, 1000), machine.tenant(&first, 2001)];
    let before = machine.agree("tenants on two instances and on a time-sliced GPU");
    assert_eq!(before.of(Field::ProcessInstance).len(), 2);

    // The tenants keep their instances, and what stands beside them is another.
    let four = json!({"profile": "1g.10gb"});
    machine.apply(&layout(json!([split, four, four, four])));
    let after = machine.agree("another layout around its tenants");
    assert_eq!(after.of(Field::Process), before.of(Field::Process));
    assert_eq!(after.of(Field::ProcessInstance), before.of(Field::ProcessInstance));
    assert_eq!(after.of(Field::MigDevice).len(), 5);
    assert_eq!(after.of(Field::MigDevice).difference(&before.of(Field::MigDevice)).count(), 2);

    for pid in tenants.into_iter().chain(sliced) {
        machine.leave(pid);
    }
    machine.apply(&json!([{"select": "all", "mode": "exclusive"}]));
    assert_eq!(machine.agree("exclusive again"), all_idle(&all));
    for (place, reader) in machine.readers.iter().enumerate() {
        for field in Field::ALL {
            let seen = machine.shown.contains(&(place, field));
            assert!(seen || reader.lacks().contains(&field), "{reader:?} never showed {field:?}");
        }
    }
}

/// The same without its one tenant.
fn all_idle(facts: &Facts) -> Facts {
    let mut idle = facts.clone();
    idle.0.remove(&Field::Process);
    let gpus = facts.of(Field::Used).into_iter();
    idle.0.insert(Field::Used, gpus.map(|(gpu, _)| (gpu, vec!["0".to_owned()])).collect());
    idle
}
