//! Leases: what it takes to have one when nobody else wants it, and how long after it was given back
//! the next one has it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use divan::Bencher;
use gpushare_benches::Times;
use gpushare_core::lease::LeaseRequest;
use gpushare_core::{ApplyOptions, Node, Spec};

fn main() {
    divan::main();
    hand_over();
}

fn node(state: &Path, wanted: &str) -> Node {
    let node = Node::builder().sim("1xH100-80GB").state_dir(state).open().expect("a fleet");
    let spec = format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": "all", {wanted}}}]}}"#);
    let spec: Spec = spec.parse().expect("a spec");
    node.apply(&spec, &ApplyOptions::new().allow_reset(true)).expect("it fits");
    node
}

const SLICED: &str = r#""mode": "time_sliced", "time_sliced": {"replicas": 4}"#;
const EXCLUSIVE: &str = r#""mode": "exclusive""#;

fn acquire_and_release(bencher: Bencher<'_, '_>, state: &Path) {
    let node = node(state, SLICED);
    let snapshot = node.snapshot().expect("a simulated node");
    let request = LeaseRequest::any();
    drop(node.lease_in(&snapshot, &request).expect("it is free"));
    bencher.bench_local(|| drop(node.lease_in(&snapshot, &request).expect("it is free")));
}

#[divan::bench(sample_count = 2_000, sample_size = 5)]
fn on_disk(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().expect("a folder");
    acquire_and_release(bencher, &folder.path().join("state"));
}

#[divan::bench(sample_count = 2_000, sample_size = 5)]
fn in_memory(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    acquire_and_release(bencher, &folder.path().join("state"));
}

/// Two that take turns: from the moment before it is given back until the other has it.
fn hand_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(&folder.path().join("state"), EXCLUSIVE);
    let snapshot = node.snapshot().expect("a simulated node");
    let (mut soon, mut late) = (Times::default(), Times::default());
    for (times, milliseconds) in [(&mut soon, 2), (&mut late, 30)] {
        for _ in 0..50 {
            let held = node.lease_in(&snapshot, &LeaseRequest::any()).expect("it is free");
            let (tell, told) = channel();
            let took = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let request = LeaseRequest::any().timeout(None);
                    let lease = node.lease_in(&snapshot, &request).expect("it comes");
                    tell.send(Instant::now()).expect("somebody listens");
                    drop(lease);
                });
                std::thread::sleep(std::time::Duration::from_millis(milliseconds));
                let given = Instant::now();
                drop(held);
                told.recv().expect("it has it").saturating_duration_since(given)
            });
            times.add(took);
        }
    }
    println!("handed over after a wait of 2 ms: {soon}");
    println!("handed over after a wait of 30 ms: {late}");
}
