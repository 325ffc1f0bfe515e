//! Rust, C and Python have the same codes, numbers and words.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use gpushare_core::apply::Moment;
use gpushare_core::export;
use gpushare_core::hazard::HazardName;
use gpushare_core::mode::{SharingMode, Verdict};
use gpushare_core::{ErrorCode, Outcome};

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every code by its name, and OK, which is no error and has a number in C.
fn codes() -> BTreeMap<String, i32> {
    ErrorCode::ALL.iter().map(|code| (code.name().to_owned(), code.number())).collect()
}

#[test]
fn c_has_a_constant_for_every_code() {
    let header = std::fs::read_to_string(workspace().join("include/gpushare.h")).unwrap();
    let constants: BTreeMap<String, i32> = header
        .lines()
        .filter_map(|line| line.trim().strip_prefix("GPUSHARE_STATUS_"))
        .filter_map(|rest| rest.trim_end_matches(',').split_once(" = "))
        .map(|(name, number)| (name.to_owned(), number.parse().unwrap()))
        .collect();
    let mut expected = codes();
    expected.insert("OK".to_owned(), 0);
    assert_eq!(constants, expected);
}

/// What the Python files say, without the extension module, which `gpushare-py/test.sh` builds.
const PYTHON: &str = r#"
import json, sys, types
package = types.ModuleType("gpushare")
package.__path__ = [sys.argv[1]]
sys.modules["gpushare"] = package
from gpushare import _enums, _errors
print(json.dumps({
    "codes": {code.name: code.value for code in _enums.ErrorCode},
    "classes": {cls.code.name: cls.__name__ for cls in _errors.GpuShareError.__subclasses__()},
    "modes": [str(mode) for mode in _enums.SharingMode],
    "outcomes": [str(outcome) for outcome in _enums.Outcome],
    "names": {mode.name: mode.value for mode in _enums.SharingMode},
    "verdicts": [str(verdict) for verdict in _enums.Verdict],
    "hazards": [str(name) for name in _enums.HazardName],
    "moments": [str(moment) for moment in _enums.Moment],
    "exports": [str(kind) for kind in _enums.ExportKind],
    "events": [str(kind) for kind in _enums.EventKind],
}))
"#;

#[test]
fn python_has_a_class_for_every_code_and_the_words_of_every_mode() {
    let output = Command::new("python3")
        .args(["-B", "-c", PYTHON])
        .arg(workspace().join("gpushare-py/python/gpushare"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let python: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(python["codes"], serde_json::json!(codes()));
    let classes = python["classes"].as_object().unwrap();
    assert!(classes.keys().eq(codes().keys()), "{classes:?}");
    let modes: Vec<_> = SharingMode::ALL.iter().map(|mode| mode.as_str()).collect();
    assert_eq!(python["modes"], serde_json::json!(modes));
    for (name, word) in python["names"].as_object().unwrap() {
        assert_eq!(name.to_lowercase(), word.as_str().unwrap());
    }
    let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect();
    assert_eq!(python["verdicts"], serde_json::json!(verdicts));
    let hazards: Vec<_> = HazardName::ALL.iter().map(|name| name.as_str()).collect();
    assert_eq!(python["hazards"], serde_json::json!(hazards));
    assert_eq!(python["moments"], serde_json::json!(Moment::WORDS));
    let exports: Vec<_> = export::Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(python["exports"], serde_json::json!(exports));
    // The kinds of events are words of C's and Python's.
    let events: Vec<_> = python["events"].as_array().unwrap().iter().collect();
    let header = std::fs::read_to_string(workspace().join("include/gpushare.h")).unwrap();
    for event in &events {
        let constant = format!("GPUSHARE_EVENT_KIND_{} = ", event.as_str().unwrap().to_uppercase());
        assert!(header.contains(&constant), "{constant}");
    }
    assert_eq!(events.len(), header.matches("  GPUSHARE_EVENT_KIND_").count());
    let outcomes = [Outcome::Untouched, Outcome::RolledBack, Outcome::Indeterminate];
    assert_eq!(python["outcomes"], serde_json::json!(outcomes.map(|outcome| outcome.to_string())));
}
