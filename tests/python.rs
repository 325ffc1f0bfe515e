//! The Python package's own tests, which `gpushare-py/test.sh` runs on the extension that cargo
//! builds. `PYTHON` names another interpreter than `python3`.

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_package_passes_its_tests() {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../gpushare-py/test.sh"));
    let output = Command::new(script).output().unwrap();
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n");
    // Python's runner says what ran and what was skipped.
    for line in text.lines().filter(|line| line.starts_with("SKIPPED: ")) {
        println!("{line}");
    }
    assert!(output.status.success(), "{text}");
}
