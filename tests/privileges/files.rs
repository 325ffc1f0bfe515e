//! What a node's root leaves on its disk: whose it is, and who may do what with it, whatever the umask.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gpushare_tests::nvidia::skipped;

use crate::is_root;
use crate::machine::Machine;
use crate::place::tree;

/// Name and mode of all that is left; `UUID` stands for that of a GPU or MIG device.
const LEFT: &[(&str, u32)] = &[
    ("", 0o040_755),
    ("etc", 0o040_755),
    // Specs, records and logs are for everybody to read, and root's to write.
    ("etc/node.yaml", 0o100_644),
    ("lib", 0o040_755),
    ("lib/audit.jsonl", 0o100_644),
    ("lib/cdi", 0o040_755),
    ("lib/cdi/UUID.json", 0o100_644),
    ("lib/cordons", 0o040_755),
    ("lib/cordons/UUID", 0o100_644),
    // What was set aside is for root to look at.
    ("lib/discarded", 0o040_700),
    ("lib/discarded/JOURNAL", 0o100_644),
    ("lib/journal", 0o040_755),
    ("lib/journal/JOURNAL", 0o100_644),
    ("lib/records", 0o040_755),
    ("lib/records/UUID.json", 0o100_644),
    ("lib/restored", 0o040_755),
    ("lib/restored/UUID.json", 0o100_644),
    ("lib/transitions", 0o040_755),
    ("lib/transitions/applied", 0o100_644),
    ("run", 0o040_755),
    // Notes and places in the queue are those of the users who made them.
    ("run/leases", 0o041_777),
    ("run/leases/UUID~0", 0o100_644),
    ("run/lock", 0o040_700),
    ("run/lock/UUID.lock", 0o100_600),
    ("run/queue", 0o041_777),
    ("run/queue/TICKET", 0o100_644),
    // To lock a slot is to hold it; nobody writes to one.
    ("run/slots", 0o040_755),
    ("run/slots/UUID.slot", 0o100_444),
];

/// What a daemon has, closed to all but those it serves: here root.
const OF_MPS: &[(&str, u32)] = &[
    ("lib/mps", 0o040_755),
    ("lib/mps/UUID", 0o040_755),
    ("lib/mps/UUID/control.log", 0o100_644),
    ("lib/mps/UUID/server.log", 0o100_644),
    ("run/mps", 0o040_755),
    ("run/mps/UUID", 0o040_700),
    ("run/mps/UUID.lock", 0o100_600),
    ("run/mps/UUID/access.json", 0o100_644),
    ("run/mps/UUID/admitted", 0o100_644),
    ("run/mps/UUID/changed", 0o100_644),
    // These are NVIDIA's own: the directory is what keeps others out.
    ("run/mps/UUID/control", 0o140_666),
    ("run/mps/UUID/control_lock", 0o100_666),
    ("run/mps/UUID/control_privileged", 0o140_755),
    ("run/mps/UUID/log", 0o010_777),
    ("run/mps/UUID/nvidia-cuda-mps-control.pid", 0o100_666),
];

/// A name without what is another in each run.
fn general(name: &str) -> String {
    let word = |part: &str| {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        match folder {
            "lib/journal" | "lib/discarded" => return "JOURNAL".to_owned(),
            "run/queue" => return "TICKET".to_owned(),
            _ => {}
        }
        // A share of several: `GPU-…::0`.
        let is_hex = |c: char| c.is_ascii_hexdigit() || c == '-' || c == ':';
        match part.strip_prefix("GPU-").or_else(|| part.strip_prefix("MIG-")) {
            Some(rest) => format!("UUID{}", rest.trim_start_matches(is_hex)),
            None => part.to_owned(),
        }
    };
    let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut parts: Vec<String> = folder
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| if part.starts_with("GPU-") { "UUID".to_owned() } else { part.to_owned() })
        .collect();
    parts.push(word(last));
    parts.join("/")
}

fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Leaves one of everything.
fn leave(machine: &Machine) {
    let shared = if machine.has_mps {
        r#""mode": "mps", "mps": {"max_clients": 2, "compute_mode": "unchanged"}"#
    } else {
        r#""mode": "time_sliced", "time_sliced": {"replicas": 2}"#
    };
    let spec = machine.spec(&format!(
        r#"{{"select": 0, {shared}}},
           {{"select": 1, "mode": "mig", "mig": {{"instances": {{"3g.40gb": 1, "1g.10gb": 2}}}}}}"#
    ));
    let cdi = format!("--cdi={}", machine.state().join("lib/cdi").display());
    machine.done(&["apply", &spec, "--allow-hazard", "bypass-possible", &cdi]);
    machine.done(&["persist", &spec]);
    machine.done(&["restore", "--force"]);
    machine.done(&["cordon", "-i", "0"]);
    let lost = machine.dies(&["exclusive", "-i", "2"]);
    fs::write(&lost, "not a journal\n").unwrap();
    machine.done(&["recover", "--discard", lost.file_name().unwrap().to_str().unwrap()]);
    machine.dies(&["exclusive", "-i", "2"]);
}

#[test]
fn all_that_is_left_is_roots_and_open_to_those_it_is_for_whatever_the_umask() {
    if !is_root("owners and modes of what root leaves") {
        return;
    }
    if fs::read_to_string("/etc/group").unwrap_or_default().contains("\ngpushare:") {
        return skipped(
            "owners and modes of what root leaves",
            "this machine has the group gpushare",
        );
    }
    for umask in ["000", "077"] {
        let machine = Machine::new("3xH100-80GB", umask);
        leave(&machine);
        let run = machine.state().join("run");
        let mut holders = vec![machine.start(&["hold", "--mig", "3g.40gb"])];
        wait_for("a lease", || count(&run.join("leases")) == 1);
        holders.push(machine.start(&["hold", "--mig", "3g.40gb", "--timeout", "600"]));
        wait_for("somebody who waits", || count(&run.join("queue")) == 1);
        let left = tree(&machine.state());
        for mut holder in holders {
            holder.kill().unwrap();
            holder.wait().unwrap();
        }
        let found: BTreeSet<(String, u32)> = left
            .iter()
            .map(|(path, entry)| {
                assert_eq!(entry.owner, (0, 0), "{}", path.display());
                let name = path.strip_prefix(machine.state()).unwrap().to_str().unwrap();
                (general(name), entry.mode)
            })
            .collect();
        let of_mps = if machine.has_mps { OF_MPS } else { &[] };
        let known = LEFT.iter().chain(of_mps).map(|(name, mode)| ((*name).to_owned(), *mode));
        let known: BTreeSet<_> = known.collect();
        let octal = |set: Vec<&(String, u32)>| -> Vec<String> {
            set.into_iter().map(|(name, mode)| format!("{name} {mode:o}")).collect()
        };
        let more = octal(found.difference(&known).collect());
        let less = octal(known.difference(&found).collect());
        assert!(more.is_empty() && less.is_empty(), "umask {umask}: {more:?} and no {less:?}");
    }
}
