//! Leases on a machine that has the group `gpushare`: its members lease, and nobody else does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output};

use gpushare_tests::nvidia::skipped;
use gpushare_tests::nvml_sim::text;
use serde_json::Value;

use crate::is_root;
use crate::place::{NOBODY, Place, Program};

const GROUP: u32 = 4242;

/// Runs a command where /etc/group has the group, in a mount namespace of its own.
fn run(place: &Place<'_>, setpriv: &[&str], arguments: &[&str]) -> Output {
    let groups = place.folder.path().join("group");
    let script = "mount --bind \"$1\" /etc/group && shift && exec setpriv \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(groups);
    let plain = place.command(arguments);
    command.args(setpriv).arg("--").arg(plain.get_program()).args(plain.get_args());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command.output().unwrap_or_else(|error| panic!("unshare: {error}"))
}

#[test]
fn where_there_is_a_group_its_members_lease_and_nobody_else() {
    let what = "leases by group";
    if !is_root(what) {
        return;
    }
    let program = Program::install();
    let place = Place::new(&program);
    let group = fs::read_to_string("/etc/group").unwrap();
    let ours = format!("gpushare:x:{GROUP}:\n");
    let others = group.lines().filter(|line| !line.starts_with("gpushare:"));
    let lines = others.map(|line| format!("{line}\n")).collect::<String>() + &ours;
    fs::write(place.folder.path().join("group"), lines).unwrap();
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !has("unshare") || !has("setpriv") {
        return skipped(what, "there is no unshare or no setpriv here");
    }
    let probe = run(&place, &["--clear-groups"], &["status"]);
    if !probe.status.success() {
        return skipped(what, &format!("/etc/group is not replaced: {}", text(&probe).trim()));
    }
    let as_root = |arguments: &[&str]| run(&place, &["--clear-groups"], arguments);
    let (user, gid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let groups = format!("--groups={GROUP}");
    let as_member = |arguments: &[&str]| run(&place, &[&user, &gid, &groups], arguments);
    let as_other = |arguments: &[&str]| run(&place, &[&user, &gid, "--clear-groups"], arguments);

    for arguments in [&["time-slice", "--replicas", "2"][..], &["leases"]] {
        let output = as_root(arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
    let run = place.state().join("run/sim-1xH100-80GB");
    for (folder, mode) in [("slots", 0o750), ("leases", 0o1770), ("queue", 0o1770)] {
        let meta = fs::metadata(run.join(folder)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (mode, 0, GROUP), "{folder}");
    }
    for slot in fs::read_dir(run.join("slots")).unwrap() {
        let meta = slot.unwrap().metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o444, 0));
    }
    let leased = as_member(&["run", "--", "id", "-G"]);
    assert!(leased.status.success(), "{}", text(&leased));
    assert!(String::from_utf8_lossy(&leased.stdout).contains(&GROUP.to_string()));

    let refused = as_other(&["--json", "run", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125), "{}", text(&refused));
    let error: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(
        (&error["code"], &error["outcome"]),
        (&"PERMISSION_DENIED".into(), &"untouched".into())
    );
    assert_eq!(error["needs"][0], "membership in the group gpushare", "{error}");
    // What they may see is what everybody may.
    assert!(as_other(&["status"]).status.success());
    // A member leases, and changes no GPU.
    let changed = as_member(&["--json", "exclusive"]);
    let error: Value = serde_json::from_slice(&changed.stdout).unwrap();
    assert_eq!(
        (&error["code"], &error["outcome"]),
        (&"PERMISSION_DENIED".into(), &"untouched".into())
    );
}
