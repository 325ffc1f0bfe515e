//! Every command, its exit status and what it does.

use crate::place::{Answer, Place};

const MIG: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 2}}}]}"#;

fn example() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/mig.yaml")
}

#[test]
fn the_example_is_planned_applied_and_then_there() {
    let place = Place::new("8xH100-80GB");
    let plan = place.run(&["plan", example(), "--json"]).expect(2).document();
    assert_eq!((&plan["noop"], &plan["simulated"]), (&false.into(), &true.into()));
    let digest = plan["digest"].as_str().unwrap();
    let report = place.json(&["apply", example(), "--expect", digest]);
    assert_eq!((&report["outcome"], &report["digest"]), (&"applied".into(), &plan["digest"]));
    let again = place.done(&["apply", example()]);
    assert!(again.stdout.starts_with("SIMULATED\nNothing to do.\n\nGPU 0 "), "{}", again.stdout);
    assert_eq!(again.stderr, "");
    place.done(&["plan", example()]);
    place.done(&["apply", example(), "--dry-run"]);
    let (mode, layout) = place.layout(1);
    assert_eq!(mode, "mig");
    assert_eq!(layout, ["4g.40gb@0 4@0", "2g.20gb@4 1@0+1@1", "1g.10gb@6 1@0"]);
    assert_eq!(place.layout(7).0, "exclusive");
    assert_eq!(place.json(&["status"])["gpus"][2]["time_sliced"]["replicas"], 8);

    // The report's `previous` leads back.
    let previous = place.spec("previous.json", &report["previous"].to_string());
    place.done(&["apply", &previous]);
    assert_eq!(place.layout(1).0, "time_sliced");
}

#[test]
fn the_mps_example_needs_its_hazard_and_is_then_there() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/mps.yaml");
    let place = Place::new("4xH200-141GB");
    place.run(&["apply", example]).expect_error("HAZARD");
    place.done(&["apply", example, "--allow-hazard", "bypass-possible"]);
    let again = place.done(&["apply", example]);
    assert!(again.stdout.starts_with("SIMULATED\nNothing to do.\n"), "{}", again.stdout);
    let status = place.json(&["mps", "status"]);
    let daemons = [&status["gpus"][0], &status["gpus"][1], &status["gpus"][2]["mig_devices"][1]];
    for daemon in daemons {
        assert_eq!(daemon["mps"]["alive"], true, "{daemon}");
    }
    // Its equal parts are those that `mps split` says.
    let split = place.json(&["mps", "split", "3", "-i", "0"]);
    assert_eq!(split["thread_percentage"], status["gpus"][0]["mps"]["config"]["thread_percentage"]);
    assert_eq!(place.layout(3).0, "exclusive");
}

#[test]
fn an_expected_digest_that_is_another_is_stale() {
    let place = Place::new("1xH100-80GB");
    let spec = place.spec("mig.json", MIG);
    let wrong = "0".repeat(64);
    for dry in [&[][..], &["--dry-run"]] {
        let arguments = [&["apply", &spec, "--expect", &wrong], dry].concat();
        place.run(&arguments).expect_error("STALE");
    }
    assert_eq!(place.layout(0).0, "time_sliced");
}

#[test]
fn a_spec_may_come_from_standard_input_and_errors_name_file_and_line() {
    let place = Place::new("1xH100-80GB");
    let with_input = |arguments: &[&str], input: &str| {
        let file = std::fs::File::open(place.spec("input", input)).unwrap();
        Answer::of(place.command(arguments).stdin(file).output().unwrap())
    };
    with_input(&["plan", "-"], MIG).expect(2);
    with_input(&["apply", "-"], MIG).expect(0);
    let bad = "version: gpushare/v1\ngpus:\n  - select: 0\n    mode: mgi\n";
    let answer = with_input(&["apply", "-"], bad).expect_error("INVALID_ARGUMENT");
    assert!(
        answer.stderr.contains("standard input: ") && answer.stderr.contains("line 4"),
        "{answer:?}"
    );
    let path = place.spec("bad.yaml", bad);
    let answer = place.run(&["plan", &path]).expect_error("INVALID_ARGUMENT");
    assert!(answer.stderr.contains(&path), "{answer:?}");
    let huge = place.spec("huge.yaml", &"#".repeat((1 << 20) + 1));
    place.run(&["plan", &huge]).expect_error("INVALID_ARGUMENT");
    let folder = place.path().to_str().unwrap();
    let answer = place.run(&["plan", folder]).expect_error("INVALID_ARGUMENT");
    assert!(answer.stderr.contains(folder), "{answer:?}");
    let mut piped = std::process::Command::new("bash");
    let command = place.command(&["plan"]);
    piped
        .args(["-c", r#""$@" <(cat)"#, "bash"])
        .arg(command.get_program())
        .args(command.get_args());
    piped.stdin(std::fs::File::open(place.spec("piped", MIG)).unwrap());
    // What is there already.
    Answer::of(piped.output().unwrap()).expect(0);
}

#[test]
fn modes_are_set_on_the_gpus_that_are_selected() {
    let place = Place::new("3xH100-80GB");
    let uuid = place.json(&["status"])["gpus"][2]["uuid"].as_str().unwrap().to_owned();
    place.run(&["exclusive", "-i", "0", "--dry-run"]).expect(2);
    assert_eq!(place.layout(0).0, "time_sliced");
    place.done(&["exclusive", "--gpu", "0,1", "-i", &uuid[..12]]);
    assert_eq!([0, 1, 2].map(|gpu| place.layout(gpu).0), ["exclusive"; 3]);
    assert!(place.done(&["exclusive", "-i", "all"]).stdout.contains("Nothing to do."));
    place.done(&["time-slice", "-i", "0000:06:00.0", "--replicas", "3", "--interval", "long"]);
    let gpu = &place.json(&["status", "-i", "1"])["gpus"][0];
    assert_eq!(gpu["time_sliced"], serde_json::json!({"replicas": 3, "interval": "long"}));
    assert_eq!(gpu["shares"].as_array().unwrap().len(), 3);
    place.done(&["exclusive", "-i", "0", "-i", "0,0", "--dry-run"]);
    place.run(&["exclusive", "-i", "3"]).expect_error("NOT_FOUND");
    place.run(&["exclusive", "-i", "GPU-ffffffff"]).expect_error("NOT_FOUND");
}

#[test]
fn one_gpu_needs_no_naming() {
    let place = Place::new("1xH100-80GB");
    place.done(&["exclusive"]);
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g"]);
    place.done(&["mig", "disable"]);
    // What was there before the first managed change.
    assert_eq!(place.layout(0).0, "time_sliced");
    let text = place.done(&["mig", "disable"]).stdout;
    assert!(text.contains("Nothing to do."), "{text}");
}

#[test]
fn create_adds_and_destroy_removes_what_is_named() {
    let place = Place::new("2xH100-80GB");
    let off = place.run(&["mig", "create", "1g", "-i", "0"]).expect_error("INVALID_STATE");
    assert!(off.stderr.contains("mig enable"), "{off:?}");
    place.run(&["mig", "destroy", "0", "-i", "0"]).expect_error("INVALID_STATE");
    place.done(&["mig", "enable", "-i", "all"]);
    place.done(&["mig", "create", "3g@4", "-i", "0,1"]);
    place.done(&["mig", "create", "1g.10gb", "2g", "--count", "1", "-i", "0"]);
    let before = place.layout(0).1;
    assert_eq!(before.len(), 3);
    let devices = place.devices(0);
    place.run(&["mig", "create", "1g", "-i", "0", "--dry-run"]).expect(2);
    let full = place.run(&["mig", "create", "1g", "--count", "2", "-i", "0"]);
    full.expect_error("INSUFFICIENT");
    place.run(&["mig", "create", "9g", "-i", "0"]).expect_error("INVALID_ARGUMENT");
    place.run(&["mig", "create", "3g@1", "-i", "0"]).expect_error("INVALID_ARGUMENT");
    assert_eq!(place.layout(0).1, before);

    // Nothing that was there was touched.
    place.done(&["mig", "create", "1g", "-i", "0"]);
    let more = place.devices(0);
    assert!(more.len() == 4 && devices.iter().all(|device| more.contains(device)), "{more:?}");

    // A uuid says which GPU it is on; a prefix of one is enough.
    let new = more.iter().find(|device| !devices.contains(device)).unwrap();
    place.run(&["mig", "destroy", &new[..16], "--dry-run"]).expect(2);
    place.done(&["mig", "destroy", &new[..16]]);
    assert_eq!(place.layout(0).1, before);
    place.run(&["mig", "destroy", new]).expect_error("NOT_FOUND");
    place.run(&["mig", "destroy", "MIG-"]).expect_error("INVALID_ARGUMENT");
    let first = place.devices(0).remove(0);
    place.run(&["mig", "destroy", &first, "-i", "1"]).expect_error("NOT_FOUND");

    // Two at once, and a GPU instance by its id on each GPU that is selected.
    let ids: Vec<String> = place.json(&["status"])["gpus"][0]["mig"]["gpu_instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gi| gi["id"].to_string())
        .collect();
    place.run(&["mig", "destroy", "99", "-i", "0"]).expect_error("NOT_FOUND");
    place.done(&["mig", "destroy", &first, &ids[1], "-i", "0"]);
    assert_eq!(place.layout(0).1, ["3g.40gb@4 3@0"]);
    place.done(&["mig", "destroy", &ids[2], "-i", "all"]);
    assert_eq!((place.layout(0).1.len(), place.layout(1).1.len()), (0, 0));
}

/// Like nvidia-smi's `-dgi -gi 1,2`, and in words as before: it is the same, however it is divided.
#[test]
fn instances_to_destroy_may_be_lists() {
    let ids = |place: &Place, gpu: usize| -> Vec<String> {
        let status = place.json(&["status"]);
        let gis = status["gpus"][gpu]["mig"]["gpu_instances"].as_array().unwrap();
        gis.iter().map(|gi| gi["id"].to_string()).collect()
    };
    let place = Place::new("2xH100-80GB");
    place.done(&["mig", "enable", "-i", "all"]);
    // Bit by bit: by uuid or by id, and a comma or a space behind it.
    for ways in 0_u32..32 {
        place.done(&["mig", "create", "1g", "--count", "4", "-i", "0,1"]);
        let (ids, devices, kept) = (ids(&place, 0), place.devices(0), place.devices(1));
        let is = |bit: u32| ways >> bit & 1 == 1;
        let name = |at: usize, bit| if is(bit) { devices[at].clone() } else { ids[at].clone() };
        let (mut names, last) = (vec![name(0, 0)], [name(1, 1), name(2, 2)]);
        for (name, bit) in last.into_iter().zip(3..) {
            match names.last_mut().filter(|_| is(bit)) {
                Some(list) => *list = format!("{list},{name}"),
                None => names.push(name),
            }
        }
        let mut arguments = vec!["mig", "destroy", "-i", "0"];
        arguments.extend(names.iter().map(String::as_str));
        place.done(&arguments);
        assert_eq!(place.devices(0), devices[3..], "{arguments:?}");
        assert_eq!(place.devices(1), kept, "{arguments:?}");
        let (rest, other) = (place.devices(0), place.devices(1).join(","));
        // Uuids say which GPU each is on.
        place.done(&["mig", "destroy", &format!("{},{other}", rest[0])]);
        assert_eq!((place.devices(0).len(), place.devices(1).len()), (0, 0));
    }
    // One that is not there keeps the others.
    place.done(&["mig", "create", "1g", "--count", "2", "-i", "0"]);
    let list = format!("{},99", ids(&place, 0)[0]);
    place.run(&["mig", "destroy", &list, "-i", "0"]).expect_error("NOT_FOUND");
    assert_eq!(place.devices(0).len(), 2);
}

#[test]
fn names_and_cuts_survive_create_and_destroy() {
    let place = Place::new("1xH100-80GB");
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": [
        {"profile": "3g.40gb", "start": 0, "compute": ["1c", "1c", "1c"], "name": "cut"},
        {"profile": "1g.10gb", "start": 4, "compute": []},
        {"profile": "1g.10gb", "start": 5, "name": "keep", "time_sliced": {"replicas": 4}}]}}]}"#;
    place.done(&["apply", &place.spec("cut.json", spec)]);
    let before = place.json(&["status"])["gpus"][0].clone();
    place.done(&["mig", "create", "1g"]);
    let after = place.json(&["status"])["gpus"][0].clone();
    let devices = |gpu: &serde_json::Value| gpu["mig_devices"].as_array().unwrap().clone();
    assert!(devices(&before).iter().all(|device| devices(&after).contains(device)));
    assert_eq!(before["record"]["instances"], after["record"]["instances"]);

    // The last of three equal compute instances goes alone; another one of them cannot be named in
    // a layout, and none goes in its place.
    let uuid = |start: usize| after["mig_devices"][start]["uuid"].as_str().unwrap().to_owned();
    place.run(&["mig", "destroy", &uuid(0)]).expect_error("UNSUPPORTED");
    place.done(&["mig", "destroy", &uuid(2)]);
    assert_eq!(place.layout(0).1[0], "3g.40gb@0 1@0+1@1");
    // All that are left: the GPU instance goes with them.
    place.done(&["mig", "destroy", &uuid(0), &uuid(1)]);
    assert_eq!(place.layout(0).1.len(), 3);
}

#[test]
fn what_is_in_use_is_not_destroyed_without_consent() {
    let place = Place::new("1xH100-80GB");
    place.done(&["apply", &place.spec("mig.json", MIG)]);
    let device = place.devices(0).remove(0);
    let pid = place.done(&["sim", "busy", &device, "--command", "train", "--stubborn"]).stdout;
    let pid = pid.trim();
    for arguments in [&["mig", "destroy", &device][..], &["mig", "disable"], &["exclusive"]] {
        let answer = place.run(arguments).expect_error("BUSY");
        assert!(answer.stderr.contains(pid) && answer.stderr.contains("train"), "{answer:?}");
        let mut json = vec!["--json"];
        json.extend(arguments);
        let document = place.run(&json).expect_error("BUSY").document();
        assert_eq!(document["holders"][0]["pid"].to_string(), pid);
        assert_eq!(document["outcome"], "untouched");
    }
    let waited = std::time::Instant::now();
    place.run(&["mig", "destroy", &device, "--drain", "0.3"]).expect_error("BUSY");
    assert!(waited.elapsed() >= std::time::Duration::from_millis(300));
    let report = place.json(&["mig", "destroy", &device, "--allow-evict", "--grace", "0.1"]);
    assert_eq!(report["evicted"][0]["killed"], true);
    assert!(!place.devices(0).contains(&device));

    // A tenant that nobody can see: the driver says IN_USE, and the change is rolled back.
    let device = place.devices(0).remove(0);
    place.done(&["sim", "busy", &device, "--invisible"]);
    let before = place.layout(0);
    let answer = place.run(&["mig", "destroy", &device, "--allow-evict", "--json"]);
    assert_eq!(answer.expect_error("BUSY").document()["code"], "BUSY");
    assert_eq!(place.layout(0), before);
}

#[test]
fn ampere_asks_for_a_reset() {
    let place = Place::new("1xA100-40GB");
    let refused = place.run(&["mig", "enable"]).expect_error("RESET_REQUIRED");
    assert!(refused.stderr.contains("allow the reset") && refused.stderr.contains("--allow-reset"));
    let plan = place.run(&["mig", "enable", "--dry-run", "--json"]).expect(2).document();
    assert_eq!(plan["needs"]["reset"].as_array().unwrap().len(), 1);
    place.done(&["mig", "enable", "--allow-reset"]);
    assert_eq!(place.layout(0).0, "mig");
}

#[test]
fn hazards_are_allowed_by_name() {
    let place = Place::new("1xH100-80GB");
    let spec = place.spec(
        "mps.json",
        r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mps", "mps": {"thread_percentage": 40}}]}"#,
    );
    let document = place.run(&["apply", &spec, "--json"]).expect_error("HAZARD").document();
    assert!(!document["safe"].as_array().unwrap().is_empty());
    place.run(&["apply", &spec, "--allow-hazard", "small-limit"]).expect_error("HAZARD");
    place.done(&["apply", &spec, "--allow-hazard", "hopper-partial-sm"]);
    assert_eq!(place.layout(0).0, "mps");
    let text = place.done(&["status"]).stdout;
    assert!(text.contains("40 % of the threads (52 SMs) for each client"), "{text}");
    place.done(&["sim", "kill-mps"]);
    assert_eq!(place.layout(0).0, "degraded");
}

#[test]
fn cards_without_mig_say_so() {
    let place = Place::new("1xL40S");
    for arguments in [&["mig", "enable"][..], &["mig", "create", "1g"], &["mig", "destroy", "1"]] {
        place.run(arguments).expect_error("UNSUPPORTED");
    }
    let text = place.done(&["mig", "profiles"]).stdout;
    assert!(text.contains("Without MIG: GPU 0 (L40S)"), "{text}");
    assert!(place.done(&["mig", "list"]).stdout.contains("No MIG devices."));
}

#[test]
fn a_driver_that_fails_is_named_and_the_change_undone() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["sim", "fault", "nvmlGpuInstanceCreateComputeInstance", "UNKNOWN"]);
    place.done(&["sim", "fault", "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "999"]);
    let answer = place.run(&["mig", "create", "1g", "--json"]).expect_error("DRIVER");
    assert!(answer.stderr.trim_end().ends_with("; rolled back"), "{answer:?}");
    let document = answer.document();
    assert_eq!(document["outcome"], "rolled_back");
    assert_eq!(document["driver"]["name"], "UNKNOWN");
    assert_eq!(place.layout(0).1.len(), 0);
    place.done(&["sim", "fault", "--clear"]);
    place.done(&["mig", "create", "1g"]);
}

#[test]
fn a_rollback_that_fails_too_says_what_to_do() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["sim", "fault", "nvmlGpuInstanceCreateComputeInstance", "UNKNOWN"]);
    place.done(&["sim", "fault", "nvmlGpuInstanceDestroy", "UNKNOWN"]);
    let answer = place.run(&["mig", "create", "1g", "--json"]).expect_error("DRIVER");
    let end = "; indeterminate: run `gpushare recover`";
    assert!(answer.stderr.trim_end().ends_with(end), "{answer:?}");
    assert_eq!(answer.stderr.matches("`gpushare recover`").count(), 1, "{answer:?}");
    assert_eq!(answer.document()["outcome"], "indeterminate");
    assert_eq!(place.json(&["recover"])["recovered"][0]["settled"], "rolled_back");
    assert_eq!(place.layout(0).1.len(), 0);
}

#[test]
fn an_unprivileged_caller_sees_in_part_and_changes_nothing() {
    let place = Place::new("2xH100-80GB");
    let spec = place.spec("mig.json", MIG);
    place.done(&["apply", &spec]);
    place.done(&["sim", "act-as", "1000"]);
    let gpu = &place.json(&["status"])["gpus"][0];
    assert_eq!(gpu["visibility"]["level"], "partial");
    assert_eq!(gpu["mig_devices"].as_array().unwrap().len(), 3);
    let text = place.done(&["status"]).stdout;
    assert!(text.contains("seen in part") && !text.contains("still fits"), "{text}");
    let device = place.devices(0).remove(0);
    for arguments in [
        &["plan", &spec][..],
        &["mig", "create", "1g", "-i", "0"],
        &["mig", "destroy", &device],
        &["mig", "destroy", "1", "-i", "0"],
        &["mig", "disable", "-i", "0"],
        &["exclusive", "-i", "0"],
    ] {
        let mut json = vec!["--json"];
        json.extend(arguments);
        let document = place.run(&json).expect_error("PERMISSION_DENIED").document();
        assert!(document["needs"][0].as_str().unwrap().contains("mig/config"), "{document}");
    }
    // MIG off shows everything, so a plan needs nothing; doing it does.
    place.run(&["exclusive", "-i", "1", "--dry-run"]).expect(2);
    place.run(&["exclusive", "-i", "1"]).expect_error("PERMISSION_DENIED");
    place.done(&["sim", "act-as", "0"]);
    assert_eq!(place.layout(0).1.len(), 3);
    assert_eq!(place.layout(1).0, "time_sliced");
}

#[test]
fn what_happens_to_a_node_from_outside_shows() {
    let place = Place::new("3xH100-80GB");
    place.done(&["apply", &place.spec("mig.json", MIG)]);
    place.done(&["sim", "busy", "1", "--kind", "graphics", "--command", "Xorg", "--uid", "0"]);
    let text = place.done(&["status", "-i", "1"]).stdout;
    assert!(text.contains("Xorg") && text.contains("graphics"), "{text}");
    place.run(&["sim", "reload"]).expect_error("BUSY");
    place.done(&["sim", "idle", "-i", "1"]);
    place.run(&["sim", "idle", "1"]).expect_error("NOT_FOUND");
    let uuid = place.json(&["status"])["gpus"][2]["uuid"].as_str().unwrap().to_owned();
    place.done(&["exclusive", "-i", "2"]);
    place.done(&["sim", "lose", "2"]);
    assert_eq!(place.layout(2).0, "lost");
    place.run(&["exclusive", "-i", &uuid]).expect_error("NOT_FOUND");
    place.done(&["exclusive", "-i", "1"]);
    place.done(&["sim", "lose", "1", "--gone"]);
    let text = place.done(&["status"]).stdout;
    assert!(text.contains("GPU ?  lost") && text.contains("no longer shows it"), "{text}");
    place.done(&["sim", "reboot"]);
    assert_eq!(place.layout(0).0, "time_sliced");
    assert_eq!(place.layout(2).0, "time_sliced");
    place.done(&["mig", "enable", "-i", "0"]);
    place.done(&["mig", "create", "1g", "-i", "0"]);
    place.done(&["sim", "reset", "0"]);
    assert_eq!(place.layout(0).1.len(), 0);
    place.done(&["sim", "reload"]);
    place.done(&["sim", "rules", "latency_ms=1", "same_uuid=true", "insufficient_at_create=null"]);
    let sim = place.json(&["sim", "status"]);
    assert_eq!(
        (&sim["rules"]["latency_ms"], &sim["rules"]["same_uuid"]),
        (&1.into(), &true.into())
    );
    let pid = place.json(&["sim", "busy", "0"]);
    assert_eq!(pid["pid"], pid["processes"][0]["pid"]);
    place.done(&["sim", "idle", &pid["pid"].to_string()]);
    assert!(place.done(&["sim", "status"]).stdout.contains("rule latency_ms=1"));
}

#[test]
fn every_call_that_changes_something_is_audited() {
    let place = Place::new("1xH100-80GB");
    let audit = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(place.lib().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    place.done(&["status"]);
    place.run(&["mig", "enable", "--dry-run"]).expect(2);
    assert!(audit().is_empty());
    let report = place.json(&["apply", &place.spec("mig.json", MIG)]);
    let lines = audit();
    let calls: Vec<_> = lines.iter().map(|line| line["call"].as_str().unwrap()).collect();
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("nvmlDeviceSetMigMode"), 1, "{calls:?}");
    assert_eq!(count("nvmlDeviceCreateGpuInstance"), 3, "{calls:?}");
    assert_eq!(count("nvmlGpuInstanceCreateComputeInstance"), 3, "{calls:?}");
    for line in &lines {
        for key in ["time", "uid", "pid", "micros"] {
            assert!(line[key].is_u64(), "{line}");
        }
        assert_eq!((&line["digest"], &line["result"]), (&report["digest"], &"SUCCESS".into()));
        assert!(line["gpu"].as_str().unwrap().starts_with("GPU-") && line["argument"].is_string());
    }
    // Failures are written down too.
    let device = place.devices(0).remove(0);
    place.done(&["sim", "busy", &device, "--invisible"]);
    place.run(&["mig", "destroy", &device]).expect_error("BUSY");
    assert!(audit().iter().skip(lines.len()).any(|line| line["result"] == "IN_USE"));
}

/// A directory with one shell script for each name.
fn hooks(place: &Place, scripts: &[(&str, &str)]) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = place.path().join("hooks");
    // Afresh.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir(&directory).unwrap();
    for (name, text) in scripts {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory.to_str().unwrap().to_owned()
}

#[test]
fn hooks_read_the_plan_and_are_called_in_order() {
    let place = Place::new("1xH100-80GB");
    let log = place.path().join("log");
    let note = format!(
        "echo \"$GPUSHARE_HOOK $GPUSHARE_SIMULATED $GPUSHARE_GPU $GPUSHARE_ERROR_CODE $GPUSHARE_OUTCOME $PWD\" >> {0}; cat >> {0}; echo >> {0}",
        log.display()
    );
    let all = ["pre-apply", "pre-mode", "post-apply", "failure"].map(|name| (name, note.as_str()));
    let directory = hooks(&place, &all);
    let uuid = place.json(&["status"])["gpus"][0]["uuid"].as_str().unwrap().to_owned();
    let digest =
        place.run(&["plan", &place.spec("mig.json", MIG), "--json"]).document()["digest"].clone();
    let spec = place.spec("mig.json", MIG);
    place.done(&["apply", &spec, "--hooks", &directory]);
    let said = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 6, "{said}");
    assert_eq!(lines[0], "pre-apply 1    /");
    assert_eq!(lines[2], format!("pre-mode 1 {uuid}   /"));
    assert_eq!(lines[4], "post-apply 1    /");
    for line in [1, 3, 5] {
        let plan: serde_json::Value = serde_json::from_str(lines[line]).unwrap();
        assert_eq!((&plan["schema"], &plan["digest"]), (&"gpushare.plan/v1".into(), &digest));
    }
    // Nothing to do, nothing called; --dry-run neither.
    std::fs::remove_file(&log).unwrap();
    place.done(&["apply", &spec, "--hooks", &directory]);
    place.run(&["exclusive", "--hooks", &directory, "--dry-run"]).expect(2);
    assert!(!log.exists());
}

#[test]
fn a_hook_that_fails_is_named_with_what_it_said() {
    let place = Place::new("1xH100-80GB");
    let spec = place.spec("mig.json", MIG);
    let log = place.path().join("log");
    let note = format!(
        "echo \"$GPUSHARE_ERROR_CODE $GPUSHARE_OUTCOME $GPUSHARE_ERROR\" > {}",
        log.display()
    );
    let no = "echo the kubelet does not stop >&2; exit 3";
    let directory = hooks(&place, &[("pre-apply", no), ("failure", &note)]);
    let answer = place.run(&["apply", &spec, "--hooks", &directory]).expect_error("IO");
    assert!(answer.stderr.contains("the kubelet does not stop"), "{}", answer.stderr);
    assert_eq!(place.layout(0).0, "time_sliced");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.starts_with("IO untouched hook pre-apply: "), "{said}");

    let directory = hooks(&place, &[("pre-mode", no)]);
    let answer = place.run(&["apply", &spec, "--hooks", &directory, "--json"]).expect(1);
    assert_eq!(answer.document()["outcome"], "untouched");

    let directory = hooks(&place, &[("pre-apply", "sleep 60")]);
    let began = std::time::Instant::now();
    place
        .run(&["apply", &spec, "--hooks", &directory, "--hook-timeout", "0.2"])
        .expect_error("TIMEOUT");
    assert!(began.elapsed() < std::time::Duration::from_secs(20));

    // Done, and the last hook fails: it is said, and the exit status is that of a failure.
    let directory = hooks(&place, &[("post-apply", no)]);
    let answer = place.run(&["apply", &spec, "--hooks", &directory]).expect(1);
    assert!(answer.stdout.contains("the kubelet does not stop"), "{answer:?}");
    assert_eq!(place.layout(0).0, "mig");
    place.done(&["exclusive"]);
    let report = place.run(&["apply", &spec, "--hooks", &directory, "--json"]).expect(1).document();
    assert_eq!(report["outcome"], "applied");
    assert!(report["failed_hooks"][0].as_str().unwrap().contains("post-apply"), "{report}");
}

#[test]
fn hooks_that_would_never_be_called_are_refused_before_anything_is_touched() {
    let place = Place::new("1xH100-80GB");
    let spec = place.spec("mig.json", MIG);
    for (scripts, said) in [
        (&[("preapply", "true")][..], "preapply"),
        (&[("pre-apply", "true"), ("post-apply.sh", "true")][..], "post-apply.sh"),
        (&[][..], "there is none"),
    ] {
        let directory = hooks(&place, scripts);
        let answer =
            place.run(&["apply", &spec, "--hooks", &directory]).expect_error("INVALID_ARGUMENT");
        assert!(answer.stderr.contains(said), "{}", answer.stderr);
    }
    place.run(&["apply", &spec, "--hooks", "/nonexistent"]).expect_error("INVALID_ARGUMENT");
    // A file beside them that is no program is left alone.
    let directory = hooks(&place, &[("pre-apply", "true")]);
    std::fs::write(format!("{directory}/README"), "about them").unwrap();
    place.done(&["apply", &spec, "--hooks", &directory]);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(format!("{directory}/pre-apply"), Some(65534), None).unwrap();
        let answer =
            place.run(&["exclusive", "--hooks", &directory]).expect_error("PERMISSION_DENIED");
        assert!(answer.stderr.contains("belongs to user 65534"), "{}", answer.stderr);
    }
}
