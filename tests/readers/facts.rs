//! What is known of a node, field by field, whoever shows it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A thing that a reader may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// NVML's index of a GPU.
    Index,
    /// NVML's name of it.
    Name,
    /// Its PCI address.
    Pci,
    /// Its memory, in bytes.
    Memory,
    /// What is used of it, in bytes: on the simulator what its processes have.
    Used,
    /// Whether MIG is on: 1, 0, or `-` where the card has none.
    Mig,
    /// Whether it will be.
    MigPending,
    /// Its compute mode, `-` with MIG on.
    ComputeMode,
    /// Profile id, id, start and size of each GPU instance.
    GpuInstance,
    /// GPU instance's id, profile id, id, start and size of each compute instance.
    ComputeInstance,
    /// Profile and uuid of each MIG device.
    MigDevice,
    /// Ids and memory of each MIG device, in bytes.
    MigMemory,
    /// Ids of each MIG device, and what is used of its GPU instance's memory, in bytes.
    MigUsed,
    /// Pid and memory of each process, in bytes.
    Process,
    /// Pid and ids of each process that is on an instance.
    ProcessInstance,
}

impl Field {
    pub(crate) const ALL: [Self; 15] = [
        Self::Index,
        Self::Name,
        Self::Pci,
        Self::Memory,
        Self::Used,
        Self::Mig,
        Self::MigPending,
        Self::ComputeMode,
        Self::GpuInstance,
        Self::ComputeInstance,
        Self::MigDevice,
        Self::MigMemory,
        Self::MigUsed,
        Self::Process,
        Self::ProcessInstance,
    ];

    /// As `readers/read.py` calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Name => "name",
            Self::Pci => "pci",
            Self::Memory => "memory",
            Self::Used => "used",
            Self::Mig => "mig",
            Self::MigPending => "mig_pending",
            Self::ComputeMode => "compute_mode",
            Self::GpuInstance => "gpu_instance",
            Self::ComputeInstance => "compute_instance",
            Self::MigDevice => "mig_device",
            Self::MigMemory => "mig_memory",
            Self::MigUsed => "mig_used",
            Self::Process => "process",
            Self::ProcessInstance => "process_instance",
        }
    }
}

/// The uuid of the GPU that a fact is about, and the fact's words.
type Fact = (String, Vec<String>);

/// All that somebody shows: each field's facts, in no order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(pub(crate) BTreeMap<Field, BTreeSet<Fact>>);

impl Facts {
    pub(crate) fn add(&mut self, field: Field, gpu: &str, words: &[&dyn ToString]) {
        let words = words.iter().map(|word| word.to_string()).collect();
        let new = self.0.entry(field).or_default().insert((gpu.to_owned(), words));
        assert!(new, "{field:?} of {gpu} twice: {:?}", self.0[&field]);
    }

    pub(crate) fn of(&self, field: Field) -> BTreeSet<Fact> {
        self.0.get(&field).cloned().unwrap_or_default()
    }

    /// What `gpushare status --json` says.
    pub(crate) fn of_status(status: &Value) -> Self {
        let mut facts = Self::default();
        for gpu in status["gpus"].as_array().unwrap() {
            facts.gpu(gpu);
        }
        facts
    }

    fn gpu(&mut self, gpu: &Value) {
        let uuid = gpu["uuid"].as_str().unwrap();
        assert_eq!(gpu["visibility"]["level"], "full", "{gpu}");
        let bytes = |value: &Value| value["memory_bytes"].as_u64().unwrap();
        let processes = gpu["processes"].as_array().unwrap();
        self.add(Field::Index, uuid, &[&gpu["index"]]);
        self.add(Field::Name, uuid, &[&gpu["model"].as_str().unwrap()]);
        self.add(Field::Pci, uuid, &[&address(gpu["pci"].as_str().unwrap())]);
        self.add(Field::Memory, uuid, &[&bytes(gpu)]);
        self.add(Field::Used, uuid, &[&processes.iter().map(bytes).sum::<u64>()]);
        self.add(Field::ComputeMode, uuid, &[&gpu["compute_mode"].as_str().unwrap_or("-")]);
        let mig = |word: &str| match gpu["mig"][word].as_bool() {
            Some(on) => u8::from(on).to_string(),
            None => "-".to_owned(),
        };
        self.add(Field::Mig, uuid, &[&mig("enabled")]);
        self.add(Field::MigPending, uuid, &[&mig("pending")]);
        for gi in gpu["mig"]["gpu_instances"].as_array().into_iter().flatten() {
            let (id, place) = (&gi["id"], &gi["placement"]);
            self.add(
                Field::GpuInstance,
                uuid,
                &[&gi["profile"], id, &place["start"], &place["size"]],
            );
            for ci in gi["compute_instances"].as_array().unwrap() {
                let words: [&dyn ToString; 5] =
                    [id, &ci["profile"], &ci["id"], &ci["start"], &ci["slices"]];
                self.add(Field::ComputeInstance, uuid, &words);
            }
        }
        for device in gpu["mig_devices"].as_array().unwrap() {
            let words = [&device["profile"], &device["uuid"]].map(|word| word.as_str().unwrap());
            self.add(Field::MigDevice, uuid, &[&words[0], &words[1]]);
            let (gi, ci) = (&device["gi"], &device["ci"]);
            self.add(Field::MigMemory, uuid, &[gi, ci, &bytes(device)]);
            let there = processes.iter().filter(|process| process["gi"] == *gi);
            self.add(Field::MigUsed, uuid, &[gi, ci, &there.map(bytes).sum::<u64>()]);
        }
        for process in processes {
            self.add(Field::Process, uuid, &[&process["pid"], &bytes(process)]);
            if !process["gi"].is_null() {
                let words: [&dyn ToString; 3] = [&process["pid"], &process["gi"], &process["ci"]];
                self.add(Field::ProcessInstance, uuid, &words);
            }
        }
    }
}

/// A PCI address as everybody writes it in a way of their own: the domain has four digits or eight.
pub(crate) fn address(text: &str) -> String {
    let (domain, rest) = text.split_once(':').unwrap();
    format!("{domain:0>8}:{rest}").to_lowercase()
}

/// A name without the word that gpushare leaves out.
pub(crate) fn model(name: &str) -> &str {
    name.strip_prefix("NVIDIA ").unwrap_or(name)
}
