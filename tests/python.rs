//! The Python package's own tests, which `gpushare-py/test.sh` runs on the extension that cargo
//! builds, and its wheel, which `gpushare-py/wheel.sh` builds and tries. `PYTHON` names another interpreter
//! than `python3`.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use gpushare_tests::nvidia::skipped;

fn passes(script: &str) {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../gpushare-py")).join(script);
    let output = Command::new(script).env("PROFILE", "dev").output().unwrap();
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n");
    for line in text.lines() {
        let rest = line.strip_prefix("SKIPPED: ").and_then(|rest| rest.split_once(": "));
        if let Some((what, why)) = rest {
            skipped(what, why);
        }
    }
    assert!(output.status.success(), "{text}");
}

#[test]
fn the_python_package_passes_its_tests() {
    passes("test.sh");
}

#[test]
fn the_wheel_works_where_it_is_installed() {
    passes("wheel.sh");
}
