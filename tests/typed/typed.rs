//! What has no meaning does not compile: each program of `wrong` is refused with the message
//! beside it; and each of `right` compiles, here, and runs.
//!
//! `TRYBUILD=overwrite cargo test -p gpushare-typed` writes the messages anew.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "right/a_failure_hands_the_gpu_back.rs"]
mod a_failure_hands_the_gpu_back;
#[path = "right/handles_cross_threads.rs"]
mod handles_cross_threads;
#[path = "right/round_trip.rs"]
mod round_trip;

use std::io::Write as _;
use std::process::Command;

/// The compiler whose messages are beside the programs.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn what_has_no_meaning_does_not_compile() {
    let programs = trybuild::TestCases::new();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if version.starts_with(COMPILER) {
        programs.compile_fail("wrong/*.rs");
    } else {
        let why =
            format!("their messages are those of {COMPILER}x, and this is {}", version.trim());
        let _ =
            writeln!(std::io::stderr().lock(), "SKIPPED: programs that must not compile: {why}");
    }
}
