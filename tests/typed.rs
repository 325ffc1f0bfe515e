//! What has no meaning does not compile: each program of `typed/wrong` is refused with the message
//! beside it; and each of `typed/right` compiles, here, and runs.
//!
//! `TRYBUILD=overwrite cargo test -p gpushare-tests --test typed` writes the messages anew.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "typed/right/a_failure_hands_the_gpu_back.rs"]
mod a_failure_hands_the_gpu_back;
#[path = "typed/right/handles_cross_threads.rs"]
mod handles_cross_threads;
#[path = "typed/right/round_trip.rs"]
mod round_trip;

use std::process::Command;

use gpushare_tests::nvidia::skipped;

/// The compiler whose messages are beside the programs.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn what_has_no_meaning_does_not_compile() {
    let programs = trybuild::TestCases::new();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if version.starts_with(COMPILER) {
        programs.compile_fail("typed/wrong/*.rs");
    } else {
        let why =
            format!("their messages are those of {COMPILER}x, and this is {}", version.trim());
        skipped("programs that must not compile", &why);
    }
}
