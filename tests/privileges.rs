//! Least privilege: who may do what, who owns what, and what nobody is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

#[path = "privileges/files.rs"]
mod files;
#[path = "privileges/group.rs"]
mod group;
#[path = "privileges/machine.rs"]
mod machine;
#[path = "privileges/place.rs"]
mod place;
#[path = "privileges/secrets.rs"]
mod secrets;
#[path = "privileges/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gpushare_core::backend::sim::ProcessSpec;
use gpushare_core::id::MigUuid;
use gpushare_tests::nvidia::skipped;
use gpushare_tests::nvml_sim::text;
use serde_json::Value;

use place::{Entry, NOBODY, Place, Program, tree};
use table::{Answer, Caller, Row, Stage, TABLE};

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(
            what,
            "only root runs commands as other users, and ends processes for what only root may do",
        );
    }
    root
}

fn prepare(program: &Program, stage: Stage, caller: Caller) -> Place<'_> {
    let mut place = Place::new(program);
    let sliced = r#""mode": "time_sliced", "time_sliced": {"replicas": 2}"#;
    match stage {
        Stage::Off | Stage::Own | Stage::Unsettled => drop(place.done(&["status"])),
        Stage::Empty => drop(place.done(&["mig", "enable"])),
        Stage::Layout | Stage::Tenant => {
            place.done(&["mig", "enable"]);
            place.done(&["mig", "create", "3g@4", "1g@0"]);
        }
        Stage::Slots => {
            place.done(&["time-slice", "--replicas", "2"]);
            place.done(&["leases"]);
        }
        Stage::Stored => {
            let spec = place.spec(sliced);
            place.done(&["apply", &spec]);
            place.done(&["persist", &spec]);
            place.done(&["sim", "reboot"]);
        }
    }
    match stage {
        Stage::Tenant => {
            let status = place.json(&["status"]);
            let devices = status["gpus"][0]["mig_devices"].as_array().unwrap();
            let big = devices.iter().find(|device| device["gi"] == 1).unwrap();
            let uuid: MigUuid = big["uuid"].as_str().unwrap().parse().unwrap();
            place.simulator().busy(&uuid, ProcessSpec::new("train")).unwrap();
        }
        Stage::Own => {
            let gpu = place.simulator().gpus().unwrap().remove(0);
            for _ in 0..2 {
                place.simulator().busy(&gpu, ProcessSpec::new("train").by(NOBODY)).unwrap();
            }
        }
        Stage::Unsettled => place.die(sliced),
        _ => {}
    }
    place.hand_to(caller);
    place
}

/// Of a tree, what is not a lock or a directory: neither says anything of a GPU.
fn contents(place: &Place<'_>) -> BTreeMap<PathBuf, Entry> {
    let mut files = tree(&place.state());
    files.retain(|path, entry| !entry.is_directory() && !path.parent().unwrap().ends_with("lock"));
    files
}

fn check(row: &Row, caller: Caller, place: &Place<'_>) {
    let answer = row.answers[Caller::ALL.iter().position(|known| *known == caller).unwrap()];
    let before = contents(place);
    let devices = place.devices();
    let output = place.run(&[&["--json"], row.arguments].concat());
    let after = contents(place);
    let what = format!("{} as {caller:?}: {answer:?}: {}", row.to, text(&output));
    let status = output.status.code().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let needs = |wanted: &str| {
        let needs = document["needs"].as_array().unwrap_or_else(|| panic!("{what}"));
        assert!(needs.iter().any(|need| need.as_str().unwrap().contains(wanted)), "{what}");
    };
    let refused = |code: &str, outcome: &str| {
        assert_eq!(status, if row.arguments[0] == "run" { 125 } else { 1 }, "{what}");
        assert_eq!(
            (&document["code"], &document["outcome"]),
            (&code.into(), &outcome.into()),
            "{what}"
        );
    };
    match answer {
        Answer::Done => {
            let pending = row.arguments.contains(&"--dry-run");
            assert_eq!(status, if pending { 2 } else { 0 }, "{what}");
            if row.arguments == ["status"] {
                assert_eq!(document["gpus"][0]["visibility"]["level"], "full", "{what}");
            }
            let changes = !pending && !["status", "leases"].contains(&row.arguments[0]);
            assert_eq!(before != after, changes, "{what}");
        }
        Answer::Partial(missing) => {
            assert_eq!(status, 0, "{what}");
            let gpu = &document["gpus"][0];
            assert_eq!(gpu["visibility"]["level"], "partial", "{what}");
            let named = gpu["visibility"]["missing"].as_array().unwrap();
            assert!(named.len() == 1 && named[0].as_str().unwrap().ends_with(missing), "{what}");
            assert_eq!(gpu["processes_hidden"], true, "{what}");
            let seen = gpu["mig_devices"].as_array().unwrap();
            assert!(seen.iter().all(|device| device["start"].is_null()), "{what}");
            let seen: BTreeSet<_> = seen.iter().map(|device| device["uuid"].to_string()).collect();
            assert_eq!((seen.len(), &seen), (2, &devices), "{what}");
            assert_eq!(before, after, "{what}");
        }
        Answer::Denied(wanted) => {
            refused("PERMISSION_DENIED", "untouched");
            needs(wanted);
            assert_eq!(before, after, "{what}");
        }
        Answer::Undone(wanted) => {
            refused("PERMISSION_DENIED", "rolled_back");
            needs(wanted);
            let told = |path: &PathBuf| {
                path.ends_with("audit.jsonl") || path.parent().unwrap().ends_with("transitions")
            };
            let mut left = after;
            left.retain(|path, _| !told(path));
            let mut there = before;
            there.retain(|path, _| !told(path));
            assert_eq!(there, left, "{what}");
        }
        Answer::Unseen => {
            refused("BUSY", "untouched");
            assert!(what.contains("who uses it could not be seen"), "{what}");
            assert_eq!(before, after, "{what}");
        }
    }
}

#[test]
fn each_caller_may_do_what_the_table_says_and_nothing_else() {
    if !is_root("who may do what") {
        return;
    }
    let program = Program::install();
    for row in TABLE {
        for caller in Caller::ALL {
            check(row, caller, &prepare(&program, row.stage, caller));
        }
    }
}

/// `GPUSHARE_BLESS=1` prints it anew.
#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("privileges.md");
    if std::env::var_os("GPUSHARE_BLESS").is_some() {
        std::fs::write(&path, table::page()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), table::page());
}
