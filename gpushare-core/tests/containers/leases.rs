//! Containers hold leases of their shares, as long as they run.

use std::time::Instant;

use crate::node::{Node, device, until};
use crate::place::{Answer, PATIENCE};

const SLEEP: &str = "exec sleep 300";

#[track_caller]
fn refused(answer: &Answer, said: &str) {
    assert_ne!(answer.status, 0, "{answer:?}");
    assert_eq!(answer.stdout, "", "{answer:?}");
    assert!(answer.stderr.contains(said), "{answer:?}");
}

fn two(what: &str) -> Option<Node> {
    let node = Node::new(what, "1xH100-80GB")?;
    node.apply("{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}");
    Some(node)
}

#[test]
fn a_share_is_one_containers_at_a_time() {
    let Some(node) = two("leases of containers") else { return };
    let shares = node.shares();
    let (first, second) = (device("gpu0-0"), device("gpu0-1"));
    node.runtime.start_named("first", &[&first], SLEEP).expect(0);
    let held = (shares[0].clone(), node.first_process("first"));
    assert_eq!(node.leased(), [held.clone()].into());
    // By either of its names, and beside another.
    for devices in [&[&*first][..], &[&device(&shares[0])], &[&second, &first]] {
        let answer = node.runtime.run(devices, "echo started");
        refused(&answer, "TIMEOUT");
        // Who reads podman's error knows which share, and who has it.
        assert!(answer.stderr.contains(&shares[0]), "{answer:?}");
        assert!(answer.stderr.contains(&format!("--pid={} ", held.1)), "{answer:?}");
        assert_eq!(node.runtime.containers(), ["first"]);
        until("a refused container keeps a share", || node.leased().len() == 1);
    }
    // Nor has a process of the host a chance, and another share is another.
    let denied = node.place.run(&["run", "--share", &shares[0], "--", "true"]).expect(125);
    assert!(denied.stderr.starts_with("gpushare: BUSY: "), "{denied:?}");
    node.runtime.start_named("second", &[&second], SLEEP).expect(0);
    let other = (shares[1].clone(), node.first_process("second"));
    assert_eq!(node.leased(), [held, other.clone()].into());
    // What they stand on is not taken away, until they end.
    let before = node.files();
    let busy = node.place.run(&["exclusive"]).expect_error("BUSY");
    assert!(busy.stderr.contains(&shares[0]), "{busy:?}");
    assert_eq!(node.files(), before);
    node.runtime.end("first");
    until("a lease outlives its container", || node.leased().len() == 1);
    node.runtime.run(&[&first], "true").expect(0);
    until("a lease outlives its container", || node.leased().len() == 1);
    assert_eq!(node.leased(), [other].into());
    // Evicted is who holds the lease. A container that has not begun to use its GPU stays.
    node.place.done(&["exclusive", "--allow-evict"]);
    assert!(node.leased().is_empty());
    assert_eq!(node.runtime.containers(), ["second"]);
    node.runtime.end("second");
    node.runtime.run(&[&device("gpu0")], "true").expect(0);
}

#[test]
fn a_container_that_ends_anyhow_gives_its_share_back() {
    let Some(node) = two("the ends of containers") else { return };
    let share = device("gpu0-0");
    let podman = |arguments: &[&str]| Answer::of(node.runtime.podman(arguments).output().unwrap());
    let stay = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let options = ["--rm=false", "--detach", "--name=tenant"];
    Answer::of(node.runtime.command(&options, &[&share], stay).output().unwrap()).expect(0);
    for end in [&["stop", "tenant"][..], &["kill", "tenant"], &["kill", "--signal=TERM", "tenant"]]
    {
        assert_eq!(node.leased().into_values().collect::<Vec<_>>(), [node.first_process("tenant")]);
        podman(end).expect(0);
        node.wait_until_free();
        // Started again, it takes it again.
        podman(&["start", "tenant"]).expect(0);
    }
    // What joins a container has its nodes. This engine gives it no variable of any CDI device.
    let script =
        "ls /dev/nvidia0; echo $GPUSHARE_SHARES$CUDA_VISIBLE_DEVICES$NVIDIA_VISIBLE_DEVICES";
    let joined = podman(&["exec", "tenant", "sh", "-c", script]).expect(0);
    assert_eq!(joined.stdout, "/dev/nvidia0\n\n");
    assert_eq!(node.leased().len(), 1);
    node.runtime.end("tenant");
    node.wait_until_free();
    // One whose command is not there has had its lease by then.
    let mut missing = node.runtime.command(&["--entrypoint=/nonexistent"], &[&share], "true");
    refused(&Answer::of(missing.output().unwrap()), "/nonexistent");
    node.wait_until_free();
}

#[test]
fn one_container_after_the_other_has_the_same_share() {
    let Some(node) = two("containers in a row") else { return };
    let share = device("gpu0-1");
    for number in 0..5 {
        let answer = node.runtime.run(&[&share], "exit 7");
        assert_eq!(answer.status, 7, "{number}: {answer:?}");
    }
    // The engine starts it again itself, as soon as it has ended.
    let options = ["--restart=on-failure:2", "--name=again", "--rm=false", "--detach"];
    let script = "echo run; exit 7";
    Answer::of(node.runtime.command(&options, &[&share], script).output().unwrap()).expect(0);
    let logs = || {
        let logs = node.runtime.podman(&["logs", "again"]).output().unwrap();
        Answer::of(logs)
    };
    let start = Instant::now();
    while logs().stdout != "run\nrun\nrun\n" {
        assert!(start.elapsed() < PATIENCE, "{:?}", logs());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_hook_that_refuses_says_why_in_the_engines_error() {
    let Some(node) = two("refusing hooks") else { return };
    let share = device("gpu0-0");
    node.place.done(&["cordon", "--reason", "it is cleaned"]);
    let answer = node.runtime.run(&[&share], "echo started");
    refused(&answer, "it is cleaned");
    assert!(answer.stderr.contains("gpushare: "), "{answer:?}");
    node.place.done(&["uncordon"]);
    node.runtime.run(&[&share], "true").expect(0);
    node.wait_until_free();
    // An engine that has read a specification before a change starts its hook after it.
    let old = node.files();
    node.place.done(&["mig", "enable"]);
    node.place.done(&["mig", "create", "7g.80gb"]);
    for (name, text) in old {
        std::fs::write(node.runtime.static_cdi().join(name), text).unwrap();
    }
    let answer = node.runtime.run(&[&share], "echo started");
    refused(&answer, "gpushare: NOT_FOUND: ");
    assert_eq!(node.runtime.containers(), [""; 0]);
    assert!(node.leased().is_empty());
}

#[test]
fn without_the_hook_nobody_is_kept_out_and_nothing_is_held() {
    let Some(node) = Node::new("containers without leases", "1xH100-80GB") else { return };
    node.change(&["time-slice", "--replicas=2", "--no-lease"]);
    let share = device("gpu0-0");
    node.runtime.start_named("first", &[&share], SLEEP).expect(0);
    node.runtime.start_named("second", &[&share], SLEEP).expect(0);
    assert!(node.leased().is_empty());
    node.place.done(&["exclusive"]);
    for name in ["first", "second"] {
        node.runtime.end(name);
    }
}
