//! `doctor`, run on simulated nodes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use gpushare_core::doctor::check_ids;
use serde_json::Value;

use crate::place::{Answer, Place, command};
use crate::schema::Schema;

/// The ids of what was found.
fn ids(document: &Value) -> Vec<&str> {
    let findings = document["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[track_caller]
fn diagnosed(place: &Place, status: i32, arguments: &[&str]) -> Value {
    let mut all = vec!["--json", "doctor"];
    all.extend(arguments);
    let document = place.run(&all).expect(status).document();
    Schema::named("doctor").expect(&document);
    document
}

#[test]
fn a_healthy_node_has_nothing_to_mend() {
    for fleet in ["1xH200-141GB", "1xT4,1xA30-24GB", "8xH100-80GB"] {
        let place = Place::new(fleet);
        let document = diagnosed(&place, 0, &[]);
        assert_eq!(document["simulated"], true);
        let checked = document["checked"].as_array().unwrap();
        assert_eq!(checked.len(), check_ids().count(), "{document:#}");
        let text = place.done(&["doctor"]).stdout;
        assert!(text.starts_with("SIMULATED\n0 errors, 0 warnings, 0 notices; "), "{text}");
    }
}

/// A daemon of ours ends badly, and what the doctor says mends it.
fn mended(event: &str, id: &str) {
    let place = Place::new("2xH200-141GB");
    place.done(&["mps", "enable", "-i", "1", "--thread-percentage", "27", "--max-clients", "3"]);
    place.done(&["persist"]);
    diagnosed(&place, 0, &[]);
    place.done(&["sim", event, "1"]);
    let document = diagnosed(&place, 2, &[]);
    assert_eq!(ids(&document), [id]);
    // The other GPU is well.
    diagnosed(&place, 0, &["-i", "0"]);
    assert_eq!(ids(&diagnosed(&place, 2, &["--gpu", "1"])), [id]);
    let mend = document["findings"][0]["mend"].as_str().unwrap();
    let mend = mend.split(", or ").next().unwrap();
    let words: Vec<_> = mend.split(' ').skip(1).collect();
    assert_eq!(&words[..6], ["mps", "enable", "--thread-percentage", "27", "--max-clients", "3"]);
    place.done(&words);
    diagnosed(&place, 0, &[]);
    let status = place.json(&["status"]);
    assert_eq!(status["gpus"][1]["mode"], "mps");
}

#[test]
fn a_daemon_that_was_killed_is_found_and_mended() {
    mended("kill-mps", "daemon-dead");
}

#[test]
fn a_daemon_that_is_frozen_is_found_and_mended() {
    mended("freeze-mps", "daemon-frozen");
}

#[test]
fn what_is_lost_with_a_reboot_is_found_and_mended() {
    let place = Place::new("1xH100-80GB");
    place.done(&["time-slice", "--replicas", "8", "--interval", "short"]);
    diagnosed(&place, 0, &[]);
    place.done(&["exclusive"]);
    place.done(&["sim", "reboot"]);
    let document = diagnosed(&place, 2, &[]);
    assert_eq!(ids(&document), ["record-stale"]);
    let mend = document["findings"][0]["mend"].as_str().unwrap();
    let mend =
        mend.strip_prefix("gpushare restore where it was stored for the next boot, else gpushare ");
    place.done(&mend.unwrap().split(' ').collect::<Vec<_>>());
    diagnosed(&place, 0, &[]);
}

#[test]
fn sharing_that_is_not_stored_is_noticed_and_stored() {
    let place = Place::new("2xH100-80GB");
    assert_eq!(ids(&diagnosed(&place, 0, &[])), [""; 0]);
    place.done(&["time-slice", "-i", "1"]);
    let name = place.lib().file_name().unwrap().to_owned();
    let file = place.state().join("etc").join(name).join("node.yaml");
    // A notice is nothing that must be mended.
    let document = diagnosed(&place, 0, &[]);
    assert_eq!(ids(&document), ["sharing-not-stored"]);
    let finding = &document["findings"][0];
    assert_eq!((&finding["severity"], &finding["gpu"]), (&"notice".into(), &Value::Null));
    assert_eq!(finding["evidence"][0], format!("{} is not there", file.display()));
    let evidence = finding["evidence"][1].as_str().unwrap();
    assert!(evidence.starts_with("GPU 1 (GPU-") && evidence.contains("time_sliced"), "{evidence}");
    assert_eq!(ids(&diagnosed(&place, 0, &["-i", "0"])), [""; 0]);
    assert_eq!(ids(&diagnosed(&place, 0, &["-i", "1"])), ["sharing-not-stored"]);

    let mend = finding["mend"].as_str().unwrap().split(" && ").next().unwrap();
    place.done(&mend.split(' ').skip(1).collect::<Vec<_>>());
    let document = diagnosed(&place, 0, &[]);
    assert_eq!((ids(&document), &document["unseen"]), (vec![], &serde_json::json!([])));

    // A file that anybody could have written is not looked at.
    let mode = |mode| std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    let document = diagnosed(&place, 0, &[]);
    let unseen = &document["unseen"][0];
    assert_eq!(unseen["checks"], serde_json::json!(["sharing-not-stored"]), "{document:#}");
    assert!(unseen["needed"].as_str().unwrap().contains("others may write"), "{document:#}");
    assert_eq!(ids(&document), [""; 0]);
    mode(0o644);
    place.done(&["persist", "--remove"]);
    assert_eq!(ids(&diagnosed(&place, 0, &[])), ["sharing-not-stored"]);
    // What a reboot took is nothing that could be stored.
    place.done(&["sim", "reboot"]);
    assert!(!ids(&diagnosed(&place, 0, &[])).contains(&"sharing-not-stored"));
}

#[test]
fn a_hazard_that_was_allowed_is_still_in_force() {
    let place = Place::new("1xH200-141GB");
    let allowed =
        ["mps", "enable", "--thread-percentage", "40", "--allow-hazard", "hopper-partial-sm"];
    place.done(&allowed);
    place.done(&["persist"]);
    let document = diagnosed(&place, 2, &[]);
    assert_eq!(ids(&document), ["hazard-in-force"]);
    assert_eq!(document["findings"][0]["severity"], "error");
    let text = place.run(&["doctor"]).expect(2).stdout;
    for part in [
        "SIMULATED",
        "error  hazard-in-force  GPU-",
        "seen    the daemon gives 40 %",
        "mend    gpushare mps enable --thread-percentage 27",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    place.done(&["mps", "enable", "--thread-percentage", "27"]);
    diagnosed(&place, 0, &[]);
}

#[test]
fn who_asks_as_nobody_is_told_what_was_not_seen() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "3g"]);
    diagnosed(&place, 0, &[]);
    place.done(&["sim", "act-as", "1000"]);
    let document = diagnosed(&place, 0, &[]);
    let unseen = &document["unseen"][0];
    assert_eq!(unseen["checks"], serde_json::json!(["instance-without-compute"]), "{document:#}");
}

#[test]
fn no_driver_is_a_finding_and_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--json", "doctor"][..], &["--json", "doctor", "-i", "0"]] {
        let mut command = command();
        // Whatever this machine has: a library that is not there.
        command.env("GPUSHARE_NVML_PATH", "/nonexistent/libnvidia-ml.so.1");
        command.arg("--state-dir").arg(directory.path()).args(arguments);
        let document = Answer::of(command.output().unwrap()).expect(2).document();
        Schema::named("doctor").expect(&document);
        assert_eq!(document["simulated"], false);
        assert_eq!(ids(&document)[0], "library-missing");
        let unseen = document["unseen"].as_array().unwrap();
        let no_driver = unseen.iter().find(|unseen| unseen["what"] == "the GPUs").unwrap();
        assert!(no_driver["checks"].as_array().unwrap().len() > 15);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let place = Place::new("1xT4");
    place.run(&["doctor", "-i", "7"]).expect_error("NOT_FOUND");
}
