//! Text from outside, where people read it: nothing in it moves the cursor or begins a line.

use gpushare_core::{Error, ErrorCode, Plan, Report, Snapshot};
use serde_json::Value;

use crate::place::{Place, command};
use crate::schema::Schema;

const FORGED: &str = "x\u{1b}[2J\r\nGPU 9  \u{9b}31m\u{202e}\u{2028}";

/// Puts the forged text into every string under these keys.
fn forge(value: &mut Value, keys: &[&str], under: bool) -> usize {
    match value {
        Value::String(text) if under => {
            text.push_str(FORGED);
            1
        }
        Value::Array(all) => all.iter_mut().map(|one| forge(one, keys, under)).sum(),
        Value::Object(fields) => {
            fields.iter_mut().map(|(key, one)| forge(one, keys, keys.contains(&key.as_str()))).sum()
        }
        _ => 0,
    }
}

#[track_caller]
fn expect_plain(forged: &str, honest: &str) {
    assert!(forged.contains("x\u{fffd}[2J\u{fffd}\u{fffd}GPU 9"), "{forged:?}");
    let obeyed = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2028}');
    assert!(!forged.contains(obeyed), "{forged:?}");
    assert_eq!(forged.lines().count(), honest.lines().count(), "{forged}");
}

/// A GPU with MIG, a name, and somebody on it.
fn used() -> Place {
    let place = Place::new("1xH100-80GB,1xT4");
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": [
        {"profile": "3g.40gb", "start": 4, "name": "big"}, {"profile": "1g.10gb", "start": 0}]}}]}"#;
    place.done(&["apply", &place.spec("used.json", spec)]);
    place.done(&["sim", "busy", "0/1/0"]);
    place.done(&["sim", "busy", "1"]);
    place
}

#[test]
fn the_status_is_the_snapshot_displayed() {
    let place = used();
    let snapshot: Snapshot = serde_json::from_value(place.json(&["status"])).unwrap();
    assert_eq!(place.done(&["status"]).stdout, snapshot.to_string());
    assert!(snapshot.to_string().contains("in use by pid"));
}

#[test]
fn a_snapshot_shows_forged_text_and_does_not_obey_it() {
    let place = used();
    let document = place.json(&["status"]);
    let honest: Snapshot = serde_json::from_value(document.clone()).unwrap();
    for key in ["model", "reason", "command", "unsettled", "version", "cuda", "name"] {
        let mut document = document.clone();
        if key == "unsettled" {
            document["gpus"][0][key] = Value::String("journal".to_owned());
        }
        // Profiles have names too, of which only some letters can be read.
        let count = match key {
            "name" => {
                document["gpus"][0]["mig_devices"][0][key] = Value::String(FORGED.to_owned());
                1
            }
            _ => forge(&mut document, &[key], false),
        };
        assert!(count > 0, "{key}");
        let forged: Snapshot = serde_json::from_value(document).unwrap();
        let more = usize::from(key == "unsettled");
        let honest = honest.to_string() + &"\n".repeat(more);
        expect_plain(&forged.to_string(), &honest);
    }
}

#[test]
fn a_plan_shows_forged_text_and_does_not_obey_it() {
    let place = used();
    let plan = place.run(&["--json", "mig", "disable", "-i", "0", "--dry-run"]).expect(2);
    let mut document = plan.document();
    document["gpus"][0]["notes"] = serde_json::json!(["a note"]);
    document["needs"]["hazards"] = serde_json::json!([{
        "gpu": document["gpus"][0]["uuid"], "name": "small-limit", "message": "harm", "safe": ["1"],
    }]);
    let keys = ["model", "command", "what", "notes", "message", "safe", "digest", "protected"];
    let honest: Plan = serde_json::from_value(document.clone()).unwrap();
    assert!(forge(&mut document, &keys, false) >= 6);
    let forged: Plan = serde_json::from_value(document).unwrap();
    expect_plain(&forged.to_string(), &honest.to_string());
}

#[test]
fn a_report_shows_forged_text_and_does_not_obey_it() {
    let place = used();
    let mut document = place.json(&["mig", "disable", "-i", "0", "--allow-evict"]);
    document["recovered"] = serde_json::json!([{
        "journal": "1.jsonl", "gpus": [], "settled": "rolled_back", "recreated": [],
    }]);
    let honest: Report = serde_json::from_value(document.clone()).unwrap();
    assert!(forge(&mut document, &["command", "journal"], false) >= 2);
    let forged: Report = serde_json::from_value(document).unwrap();
    expect_plain(&forged.to_string(), &honest.to_string());
}

#[test]
fn an_error_is_one_line_and_its_document_says_all() {
    let error = Error::new(ErrorCode::Busy, FORGED)
        .context(FORGED)
        .with_source(std::io::Error::other(FORGED));
    for text in [error.to_string(), format!("{error:#}"), format!("{error:?}")] {
        expect_plain(&text, "one line");
    }
    assert_eq!(error.message(), FORGED);
    assert_eq!(error.to_document()["message"], FORGED);

    let place = used();
    place.done(&["sim", "busy", "0/1/0", "--command", FORGED]);
    let busy = place.run(&["mig", "disable", "-i", "0"]).expect_error("BUSY");
    expect_plain(&busy.stderr, "one line");
    let file = format!("/{FORGED}");
    let answer = place.run(&["apply", &file]).expect_error("INVALID_ARGUMENT");
    expect_plain(&answer.stderr, "one line");
    expect_plain(
        &place.done(&["sim", "status"]).stdout,
        &"\n".repeat(place.done(&["sim", "status"]).stdout.lines().count()),
    );
}

#[test]
fn an_error_says_whether_the_node_is_simulated() {
    let place = Place::new("1xT4");
    let failed = |arguments: &[&str]| {
        let document = place.run(arguments).expect(1).document();
        Schema::named("error").expect(&document);
        document["simulated"].clone()
    };
    assert_eq!(failed(&["--json", "exclusive", "-i", "7"]), true);
    assert_eq!(failed(&["--json", "exclusive", "--what"]), Value::Null);
    let real = command()
        .env("GPUSHARE_NVML_PATH", "/nonexistent/libnvidia-ml.so.1")
        .arg("--state-dir")
        .arg(place.state())
        .args(["status", "--json"])
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&real.stdout).unwrap();
    Schema::named("error").expect(&document);
    assert_eq!(document["simulated"], false);
}
