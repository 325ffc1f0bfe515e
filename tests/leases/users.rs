//! Other users: who may lease, who may not yet, and what they write.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use gpushare_core::id::ShareId;

use crate::{Fleet, Leaser, SLICED, is_root};

const NOBODY: u32 = 65_534;

/// The leaser where any user can run it.
fn program(fleet: &Fleet) -> PathBuf {
    let path = fleet.state.with_file_name("leaser");
    if !path.exists() {
        // By another process: whatever this one starts meanwhile would have it open to write, and it
        // could not be run.
        let copied = Command::new("install").arg(env!("CARGO_BIN_EXE_leaser")).arg(&path).status();
        assert!(copied.unwrap().success());
    }
    path
}

fn as_nobody(fleet: &Fleet, arguments: &[&str]) -> Leaser {
    let mut command = fleet.command(&program(fleet), arguments);
    command.uid(NOBODY).gid(NOBODY);
    Leaser::start(command)
}

#[test]
fn a_user_leases_when_root_has_made_slots_and_is_told_so_before() {
    if !is_root("leases of another user") {
        return;
    }
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    // As after a reboot.
    for name in ["slots", "leases", "queue"] {
        let _ = fs::remove_dir_all(fleet.folder(name));
    }
    let refused = as_nobody(&fleet, &["take", "0", "0"]).end();
    assert!(refused.starts_with("PERMISSION_DENIED"), "{refused}");
    assert!(refused.contains("root makes them") && refused.contains("needs=root"), "{refused}");
    fleet.leases();
    let mut holder = as_nobody(&fleet, &["take", "0", "0"]);
    let share: ShareId = holder.says()["share"].as_str().unwrap().parse().unwrap();
    let list = fleet.leases();
    let held = list.gpus[0].shares.iter().find(|known| known.id == share).unwrap();
    assert_eq!(held.holder.as_ref().unwrap().uid, Some(NOBODY));
    assert!(held.lease.as_ref().unwrap().name.is_some());
    // Nor can they take away what is another's.
    let all: Vec<_> = (0..3).map(|_| fleet.lease_soon()).collect();
    let refused = as_nobody(&fleet, &["take", "0", "0"]).end();
    assert!(refused.starts_with("BUSY"), "{refused}");
    drop(all);
    assert_eq!(holder.end(), "");
    assert_eq!(fleet.free(), 4);
    let mut waiter = as_nobody(&fleet, &["take", "0", "5000"]);
    assert!(waiter.says()["share"].is_string());
}

#[test]
fn a_user_leases_from_a_daemon_that_serves_every_user_and_from_no_other() {
    if !is_root("leases of another user") {
        return;
    }
    for (access, serves) in [("\"any\"", true), ("{\"user\": 1}", false), ("\"caller\"", false)] {
        let mps = format!(r#"{{"max_clients": 2, "access": {access}}}"#);
        let gpu = format!(r#"{{"select": 0, "mode": "mps", "mps": {mps}}}"#);
        let fleet = Fleet::new("1xH100-80GB", &gpu);
        drop(fleet.lease_soon());
        let mut tenant = as_nobody(&fleet, &["take", "0", "0"]);
        if serves {
            let says = tenant.says();
            assert!(says["variables"]["CUDA_MPS_PIPE_DIRECTORY"].is_string(), "{says}");
            assert_eq!(fleet.free(), 1);
        } else {
            let refused = tenant.end();
            assert!(refused.starts_with("PERMISSION_DENIED"), "{access}: {refused}");
        }
    }
}

#[test]
fn what_another_user_forged_is_not_believed() {
    if !is_root("forged notes") {
        return;
    }
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    let mut holder = fleet.leaser(&["take", "0", "0"]);
    let share = holder.says()["share"].as_str().unwrap().to_owned();
    let notes = fleet.folder("leases");
    let own = fs::read_to_string(notes.join(format!("{share}~0"))).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&own).unwrap();
    let name = forged["name"].as_str().unwrap().to_owned();
    forged["name"] = "forged".into();
    forged["taken"] = u64::MAX.into();
    forged["thread_percentage"] = 100.0.into();
    let forge = |name: &str| {
        let path = notes.join(name);
        fs::write(&path, forged.to_string()).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    };
    // In their own name and in another's.
    forge(&format!("{share}~{NOBODY}"));
    forge(&format!("{share}~1000"));
    let leased = |fleet: &Fleet| {
        let list = fleet.leases();
        let held = list.gpus[0].shares.iter().find(|known| known.id.to_string() == share).cloned();
        held.unwrap().lease.unwrap()
    };
    let lease = leased(&fleet);
    assert_eq!((lease.name.as_deref(), lease.terms.is_empty()), (Some(&*name), true));
    // The child that inherited it is root's, and so is the note.
    holder.end();
    let mut parent = fleet.leaser(&["inherit", "0"]);
    let said = parent.says();
    assert_eq!(said["share"].as_str().unwrap(), share);
    forged["pid"] = parent.child.id().into();
    let path = notes.join(format!("{share}~{NOBODY}"));
    fs::write(&path, forged.to_string()).unwrap();
    parent.kill();
    let lease = leased(&fleet);
    assert!(lease.inherited && lease.terms.is_empty(), "{lease:?}");
    assert!(lease.name.is_some_and(|name| name != "forged"));
    let child = i32::try_from(said["child"].as_i64().unwrap()).unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}
