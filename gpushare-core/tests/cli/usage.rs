//! Usage: help, version, and what is refused before anything is looked at.

use crate::place::{Answer, Place, command};

fn run(arguments: &[&str]) -> Answer {
    Answer::of(command().args(arguments).output().unwrap())
}

#[test]
fn help_and_version_are_answers() {
    let version = run(&["--version"]).expect(0);
    assert_eq!(version.stdout, format!("gpushare {}\n", env!("CARGO_PKG_VERSION")));
    for arguments in
        [&["--help"][..], &["apply", "--help"], &["mig", "create", "-h"], &["sim", "-h"]]
    {
        let help = run(arguments).expect(0);
        assert!(help.stdout.contains("Usage: gpushare") && help.stderr.is_empty(), "{help:?}");
    }
    for command in [
        "status",
        "plan",
        "apply",
        "exclusive",
        "time-slice",
        "mps",
        "mig",
        "recover",
        "resolve",
        "doctor",
        "advise",
        "export",
        "import",
        "persist",
        "restore",
        "run",
        "lease",
        "hold",
        "release",
        "leases",
        "cordon",
        "uncordon",
        "sim",
    ] {
        assert!(run(&["--help"]).stdout.contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn bad_usage_is_an_error_and_not_an_answer() {
    let place = Place::new("2xH100-80GB");
    for arguments in [
        &[][..],
        &["statu"],
        &["status", "--wach"],
        &["status", "extra"],
        &["apply"],
        &["plan", "a", "b"],
        &["mig"],
        &["mig", "create"],
        &["mig", "create", "1x.10gb", "-i", "0"],
        &["mig", "create", "1g@", "-i", "0"],
        &["mig", "create", "1c.3g.40gb", "-i", "0"],
        &["mig", "create", "1g", "--count", "0", "-i", "0"],
        &["mig", "create", "1g", "--count", "17", "-i", "0"],
        &["mig", "create", "1g@0", "--count", "2", "-i", "0"],
        &["mig", "create", "1g@16", "-i", "0"],
        &["mig", "destroy", "-i", "0"],
        &["mig", "destroy", "GPU-1", "-i", "0"],
        &["mig", "destroy", "1,GPU-1", "-i", "0"],
        &["mig", "destroy", "1;2", "-i", "0"],
        &["mig", "destroy", "1-2", "-i", "0"],
        &["time-slice", "--replicas", "0", "-i", "0"],
        &["time-slice", "--replicas", "1025", "-i", "0"],
        &["time-slice", "--interval", "never", "-i", "0"],
        &["exclusive", "-i", "0", "--timeout", "-1"],
        &["exclusive", "-i", "0", "--timeout", "soon"],
        &["exclusive", "-i", "0", "--drain", "none"],
        &["exclusive", "-i", "0", "--grace", "1e9"],
        &["exclusive", "-i", "0", "--allow-hazard", "all"],
        // Two GPUs, and none was named.
        &["exclusive"],
        &["time-slice"],
        &["mig", "enable"],
        &["mig", "disable"],
        &["mig", "create", "1g"],
        &["mig", "destroy", "7"],
        &["exclusive", "-i", ""],
        &["exclusive", "-i", "first"],
        &["plan", "no-such-file.yaml"],
        &["persist", "no-such-file.yaml"],
        &["persist", "a.yaml", "--remove"],
        &["persist", "--file", "/"],
        &["restore", "--wait", "none"],
        &["restore", "--file", ".."],
        &["sim", "busy"],
        &["sim", "busy", "0/1"],
        &["sim", "idle"],
        &["sim", "fault"],
        &["sim", "fault", "nvmlGpuInstanceDestroy"],
        &["sim", "fault", "nvmlGpuInstanceDestroy", "OOPS"],
        &["sim", "fault", "nvmlGpuInstanceDestroy", "IN_USE", "--nth", "0"],
        &["sim", "rules", "latency_ms"],
        &["sim", "rules", "latency_ms=soon"],
        &["sim", "rules", "no_such_rule=1"],
    ] {
        let answer = place.run(arguments).expect_error("INVALID_ARGUMENT");
        assert!(answer.stdout.is_empty(), "{arguments:?}: {answer:?}");

        let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let document = place.run(&json).expect_error("INVALID_ARGUMENT").document();
        assert_eq!(document["schema"], "gpushare.error/v1");
        assert_eq!(document["code"], "INVALID_ARGUMENT");
        assert_eq!(document["outcome"], "untouched");
        assert!(!document["message"].as_str().unwrap().is_empty(), "{document}");
    }
}

#[test]
fn an_empty_element_of_a_list_is_named() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g", "--count", "3"]);
    let before = place.layout(0);
    let uuid = place.devices(0).remove(0);
    let lists = ["", ",", "1,", ",1", "1,,2"].map(str::to_owned);
    for list in lists.into_iter().chain([format!("{uuid},"), format!("1,,{uuid}")]) {
        for arguments in [&["mig", "destroy", &list][..], &["mig", "destroy", "1", &list]] {
            let error = place.run(arguments).expect_error("INVALID_ARGUMENT").stderr;
            assert!(error.contains("'' for '<UUID|GI>...'"), "{list}: {error}");
            assert!(error.contains("an element of the list is empty"), "{list}: {error}");
        }
    }
    assert_eq!(place.layout(0), before);
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    let place = Place::new("1xT4");
    let state = place.state();
    let (sim, state) = (["--sim", "1xT4"], ["--state-dir", state.to_str().unwrap()]);
    let before = [&sim[..], &state, &["--json", "status"]].concat();
    let after = [&["status"], &sim[..], &state, &["--json"]].concat();
    let between = [&sim[..], &["sim"], &state, &["status", "--json"]].concat();
    let documents: Vec<_> =
        [before, after].iter().map(|arguments| run(arguments).expect(0).document()).collect();
    assert_eq!(documents[0], documents[1]);
    assert_eq!(documents[0]["simulated"], true);
    assert_eq!(run(&between).expect(0).document()["fleet"], "1xT4");
}

#[test]
fn the_environment_gives_defaults_and_options_override_it() {
    let place = Place::new("1xT4");
    let with_environment = |arguments: &[&str]| {
        let mut command = command();
        command.env("GPUSHARE_SIM", "2xL4").env("GPUSHARE_STATE_DIR", place.state());
        Answer::of(command.args(arguments).output().unwrap())
    };
    let status = with_environment(&["status", "--json"]).expect(0).document();
    assert_eq!(status["gpus"].as_array().unwrap().len(), 2);
    let status = with_environment(&["status", "--json", "--sim", "3xT4"]).expect(0).document();
    assert_eq!(status["gpus"].as_array().unwrap().len(), 3);
}

#[test]
fn what_is_not_simulated_never_says_so() {
    let place = Place::new("1xT4");
    let state = place.state();
    let real = |arguments: &[&str]| {
        Answer::of(command().arg("--state-dir").arg(&state).args(arguments).output().unwrap())
    };
    let sim = real(&["sim", "reboot"]).expect_error("INVALID_ARGUMENT");
    assert!(sim.stderr.contains("--sim FLEET"), "{sim:?}");
    let status = real(&["status", "--json"]);
    // Most machines that test have no GPU.
    match status.status {
        0 => assert_eq!(status.document()["simulated"], false),
        _ => assert_eq!(status.expect_error("NOT_FOUND").document()["code"], "NOT_FOUND"),
    }
}

#[test]
fn a_fleet_that_nobody_makes_is_refused() {
    let answer = Answer::of(command().args(["--sim", "8xH800", "status"]).output().unwrap());
    assert!(answer.expect_error("INVALID_ARGUMENT").stderr.contains("H100-80GB"));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    use std::io::Read as _;
    let place = Place::new("64xH100-80GB");
    let mut child = place.start(&["status"]);
    let mut first = [0; 10];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"SIMULATED\n");
    drop(stdout);
    let answer = Answer::of(child.wait_with_output().unwrap()).expect(0);
    assert!(answer.stderr.is_empty(), "{answer:?}");
}

#[test]
fn help_says_what_becomes_of_mig_and_of_access_that_is_not_given() {
    for (arguments, parts) in [
        (&["exclusive", "--help"][..], &["MIG is on it is turned off", "`previous`"][..]),
        (&["time-slice", "--help"], &["MIG is on it is turned off", "`previous`"]),
        (
            &["mps", "enable", "--help"],
            &["MIG is on it is turned off", "`previous`", "access is the caller's"],
        ),
        (&["mps", "disable", "--help"], &["do not come back", "`previous`"]),
    ] {
        let help = run(arguments).expect(0).stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(help.contains(part), "{part} in {help}");
        }
    }
}
