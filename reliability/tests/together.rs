//! Processes that work together on one node, for a moment.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::process::Command;

use gpushare_tests::nvml_sim::text;

#[test]
#[ignore = "by hand: `reliability together`, which kills processes at random"]
fn nobody_hurts_another_and_what_is_left_was_asked_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_reliability"))
        .args(["together", "--seconds", "10", "--processes", "4"])
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    if let Some(line) = text.lines().find(|line| line.starts_with("SKIPPED")) {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    // They got on, too: a round in which everybody fails shows nothing.
    let done = |what: &str| text.lines().any(|line| line.contains(what) && line.contains(" OK "));
    for what in ["apply:", "lease:", "recover:", "other:"] {
        assert!(done(what), "{what} never came off: {text}");
    }
}

/// Whoever takes the lock of a GPU has it here, and so does everybody else.
#[test]
fn without_locks_it_is_seen() {
    let output = Command::new(env!("CARGO_BIN_EXE_reliability"))
        .args(["together", "--without-locks", "--seconds", "120", "--processes", "4"])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("VIOLATION"), "{text}");
}
