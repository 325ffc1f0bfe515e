//! Changes of a node, and the containers that are started meanwhile and thereafter.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::node::{Node, device, until};
use crate::place::Answer;

/// A directory with one hook, a shell's script.
fn hook(node: &Node, name: &str, script: &str) -> String {
    let directory = node.place.path().join("hooks");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    let path: PathBuf = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("--hooks={}", directory.display())
}

/// A hook before the MIG mode changes that waits: the flag that says so, and the one that it waits for.
fn waits(node: &Node) -> (String, PathBuf, PathBuf) {
    let flag = |name: &str| node.place.path().join(name);
    let (begun, go) = (flag("begun"), flag("go"));
    let (touch, wait) = (begun.display(), go.display());
    let script = format!("touch {touch}; while ! [ -e {wait} ]; do sleep 0.01; done");
    (hook(node, "pre-mode", &script), begun, go)
}

#[test]
fn after_a_rollback_containers_start_as_before() {
    let Some(node) = Node::new("rollbacks", "1xH100-80GB") else { return };
    node.apply("{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}");
    let share = device("gpu0-1");
    let before = node.files();
    assert_eq!(before.len(), 1);
    let seen = node.runtime.brings(&[&share]);
    node.wait_until_free();
    let no = "echo the kubelet stays >&2; exit 3";
    for name in ["pre-apply", "pre-mode"] {
        let option = hook(&node, name, no);
        let failed = node.place.run(&["mig", "enable", &option]).expect_error("IO");
        assert!(failed.stderr.contains("the kubelet stays"), "{failed:?}");
        assert_eq!(node.files(), before, "{name}");
    }
    // Of the driver, in the midst of it.
    for call in ["nvmlDeviceSetComputeMode", "nvmlDeviceSetMigMode"] {
        node.place.done(&["sim", "fault", call, "UNKNOWN"]);
        let change: &[&str] = match call {
            "nvmlDeviceSetMigMode" => &["mig", "enable"],
            _ => &["exclusive"],
        };
        let failed = node.place.run(change).expect_error("DRIVER");
        assert!(failed.stderr.trim_end().ends_with("; rolled back"), "{failed:?}");
        assert_eq!(node.files(), before, "{call}");
        node.place.done(&["sim", "fault", "--clear"]);
    }
    assert_eq!(node.runtime.brings(&[&share]), seen);
}

#[test]
fn while_a_gpu_changes_no_container_starts_on_it() {
    let Some(node) = Node::new("containers during a change", "2xH100-80GB") else { return };
    for gpu in [0, 1] {
        node.apply(&format!("{{select: {gpu}, mode: time_sliced, time_sliced: {{replicas: 2}}}}"));
    }
    let before = node.files();
    let (option, begun, go) = waits(&node);
    let changing = node.place.start(&["mig", "enable", "-i", "0", &option]);
    until("the change begins", || begun.exists());
    let refused = node.runtime.run(&[&device("gpu0-0")], "echo started");
    assert!(refused.status != 0 && refused.stdout.is_empty(), "{refused:?}");
    assert!(refused.stderr.contains("unresolvable"), "{refused:?}");
    // Nor where the engine had read the specification before: its hook comes too late.
    for (name, text) in before {
        fs::write(node.runtime.static_cdi().join(name), text).unwrap();
    }
    let late = node.runtime.run(&[&device("gpu0-0")], "echo started");
    assert!(late.status != 0 && late.stdout.is_empty(), "{late:?}");
    assert!(late.stderr.contains("gpushare: TIMEOUT: "), "{late:?}");
    // The other GPU is none of its business.
    node.runtime.run(&[&device("gpu1-0")], "true").expect(0);
    fs::write(go, "").unwrap();
    Answer::of(changing.wait_with_output().unwrap()).expect(0);
    node.place.done(&["mig", "create", "1g.10gb", "-i", "0"]);
    node.runtime.run(&[&device("gpu0-mig0")], "true").expect(0);
}

#[test]
fn after_a_kill_no_container_starts_until_recover() {
    let Some(node) = Node::new("containers after a kill", "1xH100-80GB") else { return };
    node.apply("{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}");
    let before = node.files();
    let (option, begun, go) = waits(&node);
    let mut changing = node.place.start(&["mig", "enable", &option]);
    until("the change begins", || begun.exists());
    changing.kill().unwrap();
    changing.wait().unwrap();
    fs::write(go, "").unwrap();
    let share = device("gpu0-0");
    let refused = node.runtime.run(&[&share], "echo started");
    assert!(refused.stderr.contains("unresolvable"), "{refused:?}");
    node.place.done(&["recover"]);
    assert_eq!(node.files(), before);
    node.runtime.run(&[&share], "true").expect(0);
}
