//! The Python package's own tests, which `gpushare-py/test.sh` runs on the extension that cargo
//! builds. `PYTHON` names another interpreter than `python3`.

use std::path::Path;
use std::process::Command;

use gpushare_tests::nvidia::skipped;

#[test]
fn the_python_package_passes_its_tests() {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../gpushare-py/test.sh"));
    let output = Command::new(script).output().unwrap();
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
