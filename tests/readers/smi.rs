//! What nvidia-smi prints of a node, as facts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use gpushare_tests::nvml_sim::{Node, text};

use crate::facts::{Facts, Field, address, model};

const QUERY: &str = "--query-gpu=index,uuid,name,pci.bus_id,memory.total,memory.used,\
     mig.mode.current,mig.mode.pending,compute_mode";

pub(crate) fn read(node: &Node, program: &Path) -> Facts {
    let say = |arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = node.tell(command.args(arguments)).output().unwrap();
        assert!(output.status.success(), "nvidia-smi {arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut facts = Facts::default();
    let mut uuids = BTreeMap::new();
    for line in say(&[QUERY, "--format=csv,noheader,nounits"]).lines() {
        let cells: Vec<_> = line.split(", ").collect();
        let &[index, uuid, name, pci, memory, used, mig, pending, mode] = &cells[..] else {
            panic!("{line}")
        };
        uuids.insert(index.to_owned(), uuid.to_owned());
        facts.add(Field::Index, uuid, &[&index]);
        facts.add(Field::Name, uuid, &[&model(name)]);
        facts.add(Field::Pci, uuid, &[&address(pci)]);
        facts.add(Field::Memory, uuid, &[&mebibytes(memory)]);
        facts.add(Field::Used, uuid, &[&mebibytes(used)]);
        facts.add(Field::Mig, uuid, &[&switch(mig)]);
        facts.add(Field::MigPending, uuid, &[&switch(pending)]);
        let mode = if mode == "[N/A]" { "-".to_owned() } else { mode.to_lowercase() };
        facts.add(Field::ComputeMode, uuid, &[&mode]);
    }
    listed(&mut facts, &say(&["-L"]));
    // MIG is on somewhere, or there are no tables of it and the exit status says so.
    if facts.of(Field::Mig).iter().any(|(_, words)| words[0] == "1") {
        for words in rows(&say(&["mig", "-lgi"])) {
            facts.add(Field::GpuInstance, &uuids[&words[0]], &numbers(&words[1..]));
        }
        for words in rows(&say(&["mig", "-lci"])) {
            facts.add(Field::ComputeInstance, &uuids[&words[0]], &numbers(&words[1..]));
        }
    }
    devices(&mut facts, &uuids, &say(&[]));
    facts
}

fn numbers(words: &[String]) -> Vec<&dyn ToString> {
    words.iter().map(|word| word as &dyn ToString).collect()
}

fn mebibytes(text: &str) -> u64 {
    text.parse::<u64>().unwrap() << 20
}

fn switch(text: &str) -> &str {
    match text {
        "Enabled" => "1",
        "Disabled" => "0",
        "[N/A]" => "-",
        _ => panic!("{text}"),
    }
}

/// `-L`: the MIG devices below their GPUs.
fn listed(facts: &mut Facts, list: &str) {
    let mut gpu = "";
    for line in list.lines() {
        let (what, uuid) = line.split_once("UUID: ").unwrap();
        let uuid = uuid.strip_suffix(')').unwrap();
        match what.trim().strip_prefix("MIG ") {
            Some(device) => {
                let profile = device.split_once("Device").unwrap().0.trim();
                facts.add(Field::MigDevice, gpu, &[&profile, &uuid]);
            }
            None => gpu = uuid,
        }
    }
}

/// The rows of a table of instances: all their numbers in order, without the profile's name.
fn rows(table: &str) -> Vec<Vec<String>> {
    table
        .lines()
        .filter_map(|line| {
            let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
            let (before, after) = line.split_once(" MIG ")?;
            let (_, after) = after.trim().split_once(' ')?;
            let words = before.split_whitespace().chain(after.split([' ', ':']));
            Some(words.filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect())
        })
        .collect()
}

/// The table of MIG devices on the first page: `|  1    7   0   0  |  77MiB /  9984MiB  | 16 …`. The
/// memory of a GPU instance stands at the first of its compute instances alone.
fn devices(facts: &mut Facts, uuids: &BTreeMap<String, String>, page: &str) {
    let mut table = page.lines().skip_while(|line| !line.starts_with("| MIG devices:"));
    let bytes = |text: &str| mebibytes(text.trim().strip_suffix("MiB").unwrap());
    let mut memory = BTreeMap::new();
    for line in table.by_ref().take_while(|line| !line.trim().is_empty()) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, ids, cell, ..] = &cells[..] else { continue };
        let ids: Vec<_> = ids.split_whitespace().collect();
        let &[gpu, gi, ci, number] = &ids[..] else { continue };
        // Its heading has words there.
        if number.parse::<u32>().is_err() {
            continue;
        }
        if let Some((used, total)) = cell.split_once('/') {
            memory.insert((gpu, gi), (bytes(used), bytes(total)));
        }
        let (used, total) = memory[&(gpu, gi)];
        facts.add(Field::MigMemory, &uuids[gpu], &[&gi, &ci, &total]);
        facts.add(Field::MigUsed, &uuids[gpu], &[&gi, &ci, &used]);
    }
}
