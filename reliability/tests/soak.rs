//! A short soak, and that a leak is seen.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::fs::File;
use std::process::Command;

use gpushare_core::Node;
use gpushare_reliability::soak::{self, Budget};

/// One test: what another thread of this process opens would count.
#[test]
#[ignore = "by hand: `reliability soak`, which measures memory"]
fn a_thousand_transitions_leave_nothing_open_and_a_leak_is_seen() {
    let mut kept = Vec::new();
    let node = || Node::builder().ignore_environment(true).sim(soak::FLEET).open().unwrap();
    let mut leak = |number: usize| {
        if number % 100 == 99 {
            kept.push(File::open("/dev/null").unwrap());
        }
    };
    let seen = soak::run(&node(), Budget::of(150), 1, None, &mut leak).unwrap_err();
    assert!(seen.contains("descriptors leak"), "{seen}");

    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut leak = |_| kept.push(vec![1; 64 << 10]);
    let seen = soak::run(&node(), Budget::of(150), 1, None, &mut leak).unwrap_err();
    assert!(seen.contains("memory leaks"), "{seen}");

    let output = Command::new(env!("CARGO_BIN_EXE_reliability"))
        .args(["soak", "--transitions", "200", "--in-memory", "800"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", gpushare_tests::nvml_sim::text(&output));
}
