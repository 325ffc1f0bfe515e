//! Power loss at every moment of every scenario; and that it is noticed when syncs are missing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

use std::io::Write as _;
use std::path::Path;

use gpushare_reliability::power::{Figures, Options, Stopped, Without, check};

/// None where processes cannot be followed: that is said aloud.
fn looked_at(options: &Options) -> Option<Result<Figures, String>> {
    match check(Path::new(env!("CARGO_BIN_EXE_reliability")), options) {
        Ok(figures) => Some(Ok(figures)),
        Err(Stopped::Broken(why)) => Some(Err(why)),
        Err(Stopped::NotHere(why)) => {
            // Past the test harness, which would keep it to itself. Without a standard error nobody listens.
            let _ = writeln!(std::io::stderr(), "SKIPPED: power loss: {why}");
            None
        }
        Err(Stopped::Failed(why)) => panic!("{why}"),
    }
}

fn options(only: Option<&str>, without: Option<Without>) -> Options {
    Options { seed: 1, states: 500, only: only.map(str::to_owned), without, recoveries: 20 }
}

#[test]
fn a_power_loss_leaves_the_old_state_or_the_new_one() {
    let Some(found) = looked_at(&options(None, None)) else { return };
    let figures = found.unwrap_or_else(|why| panic!("{why}"));
    assert!(figures.moments > 900 && figures.started > 1000 && figures.killed > 500, "{figures}");
}

#[test]
fn a_directory_that_nobody_syncs_is_missed() {
    let Some(found) = looked_at(&options(Some("a30-bare"), Some(Without::DirectorySyncs))) else {
        return;
    };
    // The directory of the journal goes, and MIG mode stays.
    let why = found.unwrap_err();
    assert!(why.contains("the journal is lost while the change is halfway"), "{why}");
}

#[test]
fn a_file_that_nobody_syncs_is_missed() {
    let Some(found) = looked_at(&options(Some("a30-bare"), Some(Without::FileSyncs))) else {
        return;
    };
    // The journal has its name and not its content.
    let why = found.unwrap_err();
    assert!(why.contains("RECOVERY_REQUIRED"), "{why}");
}
