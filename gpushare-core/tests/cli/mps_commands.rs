//! `mps`: daemons that are started, told and ended.

use gpushare_core::Node;
use gpushare_core::mode::ComputeMode;
use serde_json::Value;

use crate::place::{Answer, Place};
use crate::schema::Schema;

pub(crate) const GPU: &str = "GPU-f9573946-9f8a-8d38-31d9-6dc514cecfe4";

pub(crate) fn h200() -> Place {
    Place::new("1xH200-141GB")
}

/// Puts a process on a GPU or MIG device.
pub(crate) fn busy(place: &Place, target: &str, arguments: &[&str]) -> String {
    let all = [&["sim", "busy", target], arguments].concat();
    place.done(&all).stdout.trim().to_owned()
}

pub(crate) fn client(place: &Place, target: &str) -> String {
    busy(place, target, &["--kind", "mps-client", "--command", "python serve.py", "--uid", "1001"])
}

/// A document that is as its schema says.
#[track_caller]
pub(crate) fn document(answer: &Answer) -> Value {
    let document = answer.document();
    Schema::of(&document).expect(&document);
    document
}

pub(crate) fn gpu(place: &Place) -> Value {
    document(&place.done(&["--json", "status"]))["gpus"][0].clone()
}

pub(crate) fn words<'a>(line: &'a str, of: &[&str]) -> &'a str {
    let missing = of.iter().find(|word| !line.contains(*word));
    assert!(missing.is_none(), "no {missing:?} in {line}");
    line
}

#[test]
fn enable_starts_a_daemon_says_how_to_use_it_and_does_nothing_twice() {
    let place = h200();
    let arguments = [
        "mps",
        "enable",
        "--thread-percentage",
        "25",
        "--pinned-memory-limit",
        "4G",
        "--max-clients",
        "4",
    ];
    let dry = place.run(&[&arguments[..], &["--dry-run"]].concat()).expect(2);
    words(&dry.stdout, &["start an MPS daemon", "25 %", "exclusive_process"]);
    assert_eq!(gpu(&place)["mode"], "time_sliced");

    let done = place.done(&arguments);
    words(
        &done.stdout,
        &[
            "SIMULATED\nApplied: 3 steps.\nGPU 0: time_sliced -> mps, 3 steps\n",
            "Clients of GPU 0, of user 0 alone, need\n",
            &format!(
                "\n  export CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/simulated/mps/{GPU}  # SIMULATED: it does not exist\n"
            ),
            &format!("\n  export CUDA_VISIBLE_DEVICES={GPU}\n"),
        ],
    );
    let there = gpu(&place);
    assert_eq!(
        (&there["mode"], &there["compute_mode"]),
        (&"mps".into(), &"exclusive_process".into())
    );
    let config = &there["mps"]["config"];
    assert_eq!(config["thread_percentage"], 25.0);
    assert_eq!(config["pinned_memory_limit_bytes"], 4_u64 << 30);
    assert_eq!((&config["max_clients"], there["shares"].as_array().unwrap().len()), (&4.into(), 4));

    let again = place.done(&arguments);
    words(&again.stdout, &["Nothing to do.", "export CUDA_MPS_PIPE_DIRECTORY="]);
    place.done(&[&arguments[..], &["--dry-run"]].concat());
    let report = document(&place.done(&[&arguments[..], &["--json"]].concat()));
    assert_eq!((&report["outcome"], &report["steps"]), (&"unchanged".into(), &0.into()));
    assert_eq!(gpu(&place)["mps"]["pid"], there["mps"]["pid"]);
}

#[test]
fn a_changed_limit_restarts_nothing_and_says_what_clients_keep() {
    let place = h200();
    place.done(&["mps", "enable", "--thread-percentage", "25"]);
    let pids = [client(&place, "0"), client(&place, "0")];
    let before = gpu(&place)["mps"].clone();
    let keep = "GPU 0: 2 MPS clients that are there keep the limits that they came with; those that come get the new ones\n";
    let done = place.done(&["mps", "enable", "--thread-percentage", "50"]);
    words(&done.stdout, &[keep]);
    let after = gpu(&place)["mps"].clone();
    assert_eq!(
        (&after["pid"], &after["config"]["thread_percentage"]),
        (&before["pid"], &50.0.into())
    );
    assert_eq!(after["servers"][0]["pid"], before["servers"][0]["pid"]);
    assert_eq!(after["servers"][0]["thread_percentage"], 50.0);
    assert_eq!(after["servers"][0]["clients"], before["servers"][0]["clients"]);
    // Those that came before are attached, and what holds for them is not known.
    let old = place.done(&["mps", "verify", &pids[0]]);
    words(&old.stdout, &["attached to the MPS daemon of", "not known to be enforced: "]);
    assert!(!old.stdout.contains("enforced: at most"), "{old:?}");
    let old = document(&place.done(&["--json", "mps", "verify", &pids[0]]));
    assert!(old["at_most"]["sm_count"].is_null() && old["at_most"]["reason"].is_string(), "{old}");
    let new = document(&place.done(&["--json", "mps", "verify", &client(&place, "0")]));
    assert_eq!(
        (&new["at_most"]["sm_count"], &new["at_most"]["reason"]),
        (&66.into(), &Value::Null)
    );

    // Where nobody keeps anything, nothing is said.
    place.done(&["sim", "idle", "-i", "0"]);
    let done = place.done(&["mps", "enable", "--thread-percentage", "25"]);
    assert!(!done.stdout.contains("keep"), "{done:?}");
}

#[test]
fn hazards_name_the_nearest_safe_values() {
    let place = h200();
    let asked = ["mps", "enable", "--thread-percentage", "40"];
    let error = place.run(&asked).expect_error("HAZARD");
    words(&error.stderr, &["52 of 132 SMs", "safe: 27, 47", "hopper-partial-sm"]);
    let error = document(&place.run(&[&["--json"], &asked[..]].concat()).expect_error("HAZARD"));
    assert_eq!(
        (&error["safe"], &error["outcome"]),
        (&serde_json::json!(["27", "47"]), &"untouched".into())
    );
    assert_eq!(gpu(&place)["mode"], "time_sliced");
    for (option, value, name) in [
        ("--pinned-memory-limit", "512M", "small-limit"),
        ("--thread-percentage", "1", "minimum-sm"),
        ("--compute-mode", "unchanged", "bypass-possible"),
    ] {
        let asked = ["mps", "enable", option, value];
        let error = place.run(&asked).expect_error("HAZARD");
        words(&error.stderr, &[&format!("HAZARD: {name}: "), "; safe: "]);
        place
            .run(&[&asked[..], &["--allow-hazard", "hopper-partial-sm"]].concat())
            .expect_error("HAZARD");
        // A plan is shown whatever it needs.
        let dry = place.run(&[&asked[..], &["--dry-run"]].concat()).expect(2);
        words(&dry.stdout, &[&format!("--allow-hazard {name}  ")]);
        let allowed = [&asked[..], &["--dry-run", "--allow-hazard", name]].concat();
        words(
            &place.run(&allowed).expect(2).stdout,
            &[&format!("--allow-hazard {name} (given)  ")],
        );
        place.done(&[&asked[..], &["--allow-hazard", name]].concat());
        place.done(&["mps", "disable"]);
    }
    place.done(&[&asked[..], &["--allow-hazard", "hopper-partial-sm"]].concat());
    assert_eq!(gpu(&place)["mps"]["config"]["thread_percentage"], 40.0);
}

#[test]
fn a_bad_value_is_an_error_of_ours_before_anything_is_touched() {
    let place = h200();
    let size = "write a whole number and K, M, G or T, for example 4GiB";
    let whole = "no whole number of MiB above 0; leave the option out for no limit";
    let (above, percent) =
        ("must be above 0 and at most 100", "a number above 0 and at most 100, such as 25 or 12.5");
    let count = "a whole number from 1 on, such as 4";
    let limit = "--pinned-memory-limit";
    for (option, value, wording) in [
        (limit, "1.5G", "a fraction"),
        (limit, "1.5G", size),
        (limit, "4X", size),
        (limit, "4", "it names no unit"),
        (limit, "0", size),
        (limit, "-1", size),
        (limit, "", size),
        (limit, "abc", size),
        (limit, "4 G", size),
        (limit, "99999999999999999999G", "too large"),
        (limit, "4K", whole),
        (limit, "0G", whole),
        (limit, "1025K", whole),
        ("--thread-percentage", "0", above),
        ("--thread-percentage", "101", above),
        ("--thread-percentage", "100.01", above),
        ("--thread-percentage", "-1", percent),
        ("--thread-percentage", "abc", percent),
        ("--thread-percentage", "1e1", percent),
        ("--thread-percentage", "25%", percent),
        ("--thread-percentage", "inf", percent),
        ("--max-clients", "0", count),
        ("--max-clients", "-1", count),
        ("--max-clients", "1.5", count),
        ("--max-clients", "+4", count),
        ("--max-clients", "4294967296", count),
        ("--priority", "high", "one of normal, below_normal"),
        ("--compute-mode", "default", "exclusive_process or unchanged"),
    ] {
        let answer = place.run(&["mps", "enable", option, value]).expect_error("INVALID_ARGUMENT");
        words(&answer.stderr, &[wording, option, &format!("'{value}'")]);
        assert!(answer.stdout.is_empty(), "{answer:?}");
        let json = place.run(&["--json", "mps", "enable", option, value]);
        let error = document(&json.expect_error("INVALID_ARGUMENT"));
        assert_eq!(error["outcome"], "untouched");
        assert!(error["message"].as_str().unwrap().contains(wording), "{error}");
    }
    for access in [
        ["--user", "a", "--group", "b"],
        ["--user", "a", "--any-user", "--json"],
        ["--any-user", "--group", "b", "--json"],
    ] {
        let answer = place.run(&[&["mps", "enable"], &access[..]].concat());
        words(&answer.expect_error("INVALID_ARGUMENT").stderr, &["cannot be used with"]);
    }
    for arguments in [
        &["mps"][..],
        &["mps", "verify"],
        &["mps", "verify", "0"],
        &["mps", "verify", "-1"],
        &["mps", "verify", "4x"],
        &["mps", "verify", "4294967296"],
        &["mps", "split"],
        &["mps", "split", "0"],
        &["mps", "split", "-1"],
        &["mps", "split", "abc"],
        &["mps", "disable", "--grace", "soon"],
    ] {
        place.run(arguments).expect_error("INVALID_ARGUMENT");
    }
    assert!(!place.state().exists(), "no state was left behind");

    // What depends on the card is refused by the plan, and untouched too.
    for (option, value, part) in
        [(limit, "1T", "the GPU has 143771MiB"), ("--max-clients", "49", "ask for 48 or fewer")]
    {
        let error = place.run(&["mps", "enable", option, value]).expect_error("INSUFFICIENT");
        words(&error.stderr, &[part, option.trim_start_matches('-').replace('-', "_").as_str()]);
    }
    for (option, kind) in [("--user", "user"), ("--group", "group")] {
        for more in [&[][..], &["--dry-run"], &["--json"]] {
            let asked = [&["mps", "enable", option, "no-such-name"], more].concat();
            let error = place.run(&asked).expect_error("NOT_FOUND");
            words(&error.stderr, &[&format!("\"no-such-name\" names no {kind}")]);
        }
    }
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mps", "mps": {"access": {"user": "no-such-name"}}}]}"#;
    let spec = place.spec("nobody.json", spec);
    for command in ["plan", "apply"] {
        place.run(&[command, &spec]).expect_error("NOT_FOUND");
    }
    assert_eq!(
        (&gpu(&place)["mode"], &gpu(&place)["record"]),
        (&"time_sliced".into(), &Value::Null)
    );
}

#[test]
fn each_access_is_kept_and_told() {
    for (options, access, told) in [
        (&["--user", "root"][..], serde_json::json!({"user": "root"}), "of user root alone"),
        (&["--group", "root"], serde_json::json!({"group": "root"}), "of group root alone"),
        (&["--any-user"], serde_json::json!("any"), "of every user"),
    ] {
        let place = h200();
        words(&place.done(&[&["mps", "enable"], options].concat()).stdout, &[told]);
        assert_eq!(gpu(&place)["mps"]["config"]["access"], access);
    }
}

/// A node in which somebody else set the compute mode of its GPU.
fn set_by_others(mode: ComputeMode) -> Place {
    let place = h200();
    let node = Node::builder().sim("1xH200-141GB").state_dir(place.state()).open().unwrap();
    let mut nvml = node.ports().nvml.open().unwrap();
    nvml.set_compute_mode(&GPU.parse().unwrap(), mode).unwrap();
    place
}

#[test]
fn disable_of_an_idle_daemon_returns_to_what_was_there_before() {
    let manage = &["time-slice", "--replicas", "3", "--interval", "long"][..];
    for (there, managed, mode) in [
        (ComputeMode::Default, None, "time_sliced"),
        (ComputeMode::ExclusiveProcess, None, "exclusive"),
        // What gpushare managed itself returns to what was there before it came.
        (ComputeMode::Default, Some(&["exclusive"][..]), "time_sliced"),
        (ComputeMode::ExclusiveProcess, Some(manage), "exclusive"),
    ] {
        let place = set_by_others(there);
        let before = gpu(&place);
        assert_eq!((&before["mode"], &before["record"]), (&mode.into(), &Value::Null));
        if let Some(managed) = managed {
            place.done(managed);
        }
        place.done(&["mps", "enable"]);
        assert_eq!(gpu(&place)["compute_mode"], "exclusive_process");
        place.run(&["mps", "disable", "--dry-run"]).expect(2);
        assert_eq!(gpu(&place)["mode"], "mps");
        let done = place.done(&["mps", "disable"]);
        assert!(done.stdout.starts_with("SIMULATED\nApplied: "), "{done:?}");
        let gpu_line = done.stdout.lines().nth(2).unwrap();
        words(gpu_line, &["GPU 0: mps -> ", " steps"]);
        assert_eq!(done.stdout.lines().count(), 3, "{done:?}");
        assert_eq!(gpu(&place), before);
        // Where there is no daemon there is nothing to do.
        let again = place.done(&["mps", "disable"]);
        assert_eq!(again.stdout, "SIMULATED\nNothing to do.\n");
        place.done(&["mps", "disable", "--dry-run", "--grace", "0"]);
        assert_eq!(gpu(&place), before);
    }
}

#[test]
fn disable_says_when_nobody_remembers_what_was_there_before() {
    let place = set_by_others(ComputeMode::ExclusiveProcess);
    place.done(&["mps", "enable"]);
    std::fs::remove_dir_all(place.lib().join("records")).unwrap();
    let done = place.done(&["mps", "disable"]);
    words(
        &done.stdout,
        &[
            "\nGPU 0: what was there before is not on record: compute mode and interval become default\n",
        ],
    );
    assert_eq!(gpu(&place)["mode"], "time_sliced");
}

#[test]
fn disable_leaves_a_daemon_with_clients_alone_until_a_grace_is_given() {
    let place = h200();
    place.done(&["mps", "enable", "--thread-percentage", "25"]);
    let pids = [client(&place, "0"), client(&place, "0")];
    let before = gpu(&place);
    let said = format!(
        "gpushare: BUSY: the MPS daemon of {GPU} still serves pid {} (python serve.py), pid {} (python serve.py), and was left as it is; with --grace S clients have S seconds to go by themselves and are then ended\n",
        pids[0], pids[1]
    );
    for arguments in [&["mps", "disable"][..], &["mps", "disable", "--drain", "0.2"]] {
        let answer = place.run(arguments).expect_error("BUSY");
        assert_eq!((answer.stderr, answer.stdout), (said.clone(), String::new()));
    }
    let error = document(&place.run(&["--json", "mps", "disable"]).expect_error("BUSY"));
    assert_eq!((&error["outcome"], &error["gpu"]), (&"untouched".into(), &GPU.into()));
    let holders: Vec<_> =
        error["holders"].as_array().unwrap().iter().map(|one| one["pid"].to_string()).collect();
    assert_eq!(holders, pids);
    assert_eq!(gpu(&place), before);

    // What it needs is the grace, and a plan says so; what was given already is marked.
    let needs = |more: &[&str]| {
        let plan = place.run(&[&["mps", "disable", "--dry-run"], more].concat()).expect(2).stdout;
        plan.split("Needs:\n").nth(1).unwrap().lines().next().unwrap().to_owned()
    };
    let held = "  the MPS daemon that is stopped: pid ";
    words(&needs(&[]), &[&format!("  --grace S{held}")]);
    for given in [&["--grace", "1"][..], &["--allow-evict"]] {
        words(&needs(given), &[&format!("  --grace S (given){held}")]);
    }

    let begun = std::time::Instant::now();
    let done = place.done(&["mps", "disable", "--grace", "0"]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    for pid in &pids {
        words(&done.stdout, &[&format!("ended pid {pid} (python)\n")]);
        place.run(&["mps", "verify", pid]).expect_error("NOT_FOUND");
    }
    assert_eq!(gpu(&place)["mode"], "time_sliced");

    // The report says it to programs. A client that goes within its grace is not ended.
    place.done(&["mps", "enable"]);
    let pid = client(&place, "0");
    let report = document(&place.done(&["--json", "mps", "disable", "--grace", "0.1"]));
    assert_eq!(
        (
            report["evicted"][0]["holder"]["pid"].to_string(),
            report["evicted"].as_array().unwrap().len()
        ),
        (pid, 1)
    );
    place.done(&["mps", "enable"]);
    let pid = client(&place, "0");
    let waiting = place.start(&["--json", "mps", "disable", "--grace", "60"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    place.done(&["sim", "idle", &pid]);
    let report = Answer::of(waiting.wait_with_output().unwrap()).expect(0).document();
    assert_eq!(
        (&report["outcome"], &report["evicted"]),
        (&"applied".into(), &serde_json::json!([]))
    );
}

#[test]
fn the_daemon_of_a_destroyed_mig_device_is_listed_and_ended_by_recover() {
    let place = Place::new("1xA100-40GB");
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig":
        {"instances": [{"profile": "3g", "mps": {}}]}}]}"#;
    let path = place.spec("mig.json", spec);
    let consent = ["--allow-reset", "--allow-hazard", "bypass-possible"];
    place.done(&[&["apply", &path][..], &consent].concat());
    let device = gpu(&place)["mig_devices"][0].clone();
    let node = Node::builder().sim("1xA100-40GB").state_dir(place.state()).open().unwrap();
    let simulated = node.simulator().unwrap().gpus().unwrap().remove(0);
    let seen = node.snapshot().unwrap().gpus.remove(0).mig_devices.remove(0);
    let mut nvml = node.ports().nvml.open().unwrap();
    nvml.destroy_compute_instance(&simulated, seen.gi, seen.ci).unwrap();
    drop(nvml);

    let uuid = device["uuid"].as_str().unwrap();
    for arguments in [&["status"][..], &["mps", "status"]] {
        let text = place.done(arguments).stdout;
        words(&text, &["Stray MPS daemon", uuid, "serves", "`gpushare recover` ends it"]);
        let one = place.done(&[arguments, &["-i", "0"]].concat()).stdout;
        assert!(!one.contains("Stray"), "{one}");
    }
    let strays = document(&place.done(&["--json", "status"]))["stray_mps"].clone();
    assert_eq!(strays[0]["device"], device["uuid"]);
    for key in ["pid", "directory", "health", "admitted"] {
        assert_eq!(strays[0]["mps"][key], device["mps"][key], "{key}");
    }
    let again = document(&place.done(&["--json", "mps", "status"]));
    assert_eq!(again["stray_mps"].as_array().unwrap().len(), 1);

    let report = document(&place.done(&["--json", "recover"]));
    assert_eq!(report["outcome"], "recovered");
    assert_eq!(report["stray_mps"], serde_json::json!([{"device": uuid, "left": null}]));
    assert_eq!(place.done(&["recover"]).stdout, "SIMULATED\nNothing to do.\n");
    assert!(!place.done(&["status"]).stdout.contains("Stray"));
}

#[test]
fn other_access_restarts_the_daemon_and_says_so() {
    let place = h200();
    place.done(&["mps", "enable", "--user", "65534"]);
    let before = gpu(&place)["mps"].clone();
    let why = "access changes from user 65534 to user 0: a daemon serves those it was started for, so it is stopped and a new one started";
    let dry = place.run(&["mps", "enable", "--dry-run"]).expect(2);
    words(&dry.stdout, &["- stop the MPS daemon", &format!("note     {why}\n")]);
    let pid = client(&place, "0");
    let busy = place.run(&["mps", "enable"]).expect_error("BUSY");
    words(&busy.stderr, &[why, &format!("is held by pid {pid} ")]);
    assert_eq!(gpu(&place)["mps"]["pid"], before["pid"]);
    place.done(&["sim", "idle", "-i", "0"]);
    let done = place.done(&["mps", "enable"]);
    words(&done.stdout, &[&format!("\nGPU 0: {why}\n"), "of user 0 alone"]);
    assert_ne!(gpu(&place)["mps"]["pid"], before["pid"]);
    // The priority is told to the daemon that runs, and nothing but access says this.
    let running = gpu(&place)["mps"]["pid"].clone();
    let done = place.done(&["mps", "enable", "--priority", "below_normal"]);
    assert!(!done.stdout.contains("access changes"), "{done:?}");
    assert_eq!(gpu(&place)["mps"]["pid"], running);
}
