//! Several processes, signals, other users, and directories that are not to be trusted.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Answer, NOBODY, Place, can_be_nobody};

const OLD: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": [
        {"profile": "2g.20gb", "start": 0, "name": "old"}, {"profile": "1g.10gb", "start": 2}]}}]}"#;
const NEW: &str = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 2}}}]}"#;

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A node with a layout, on which every change takes its time.
fn slow(milliseconds: u32) -> Place {
    let place = Place::new("1xH100-80GB");
    place.done(&["apply", &place.spec("old.json", OLD)]);
    place.done(&["sim", "rules", &format!("latency_ms={milliseconds}")]);
    place.spec("new.json", NEW);
    place
}

fn new(place: &Place) -> String {
    place.path().join("new.json").to_str().unwrap().to_owned()
}

#[test]
fn a_command_sees_what_the_one_before_it_did() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g@3"]);
    assert_eq!(place.layout(0), ("mig".to_owned(), vec!["1g.10gb@3 1@0".to_owned()]));
    let pid = place.json(&["sim", "busy", &place.devices(0)[0]])["pid"].clone();
    let status = place.json(&["status"]);
    assert_eq!(status["gpus"][0]["processes"][0]["pid"], pid);
}

#[test]
fn ctrl_c_rolls_back_and_a_second_one_changes_nothing() {
    for asked in [Signal::INT, Signal::TERM] {
        let place = slow(100);
        let before = place.layout(0);
        let child = place.start(&["--json", "apply", &new(&place)]);
        place.wait_for_steps(3);
        signal(&child, asked);
        std::thread::sleep(std::time::Duration::from_millis(30));
        signal(&child, Signal::INT);
        let answer = Answer::of(child.wait_with_output().unwrap()).expect_error("INTERRUPTED");
        assert!(answer.stderr.trim_end().ends_with("; rolled back"), "{answer:?}");
        let document = answer.document();
        assert_eq!(document["outcome"], "rolled_back");
        assert_eq!(place.layout(0), before);
        assert!(place.journals().is_empty());
        assert_eq!(place.json(&["status"])["gpus"][0]["mig_devices"][0]["name"], "old");
    }
}

#[test]
fn an_apply_that_was_killed_is_settled_by_recover() {
    for steps in [1, 2, 4, 6] {
        let place = slow(100);
        let before = place.layout(0);
        let mut child = place.start(&["apply", &new(&place)]);
        place.wait_for_steps(steps);
        child.kill().unwrap();
        child.wait().unwrap();
        let text = place.done(&["status"]).stdout;
        assert!(text.contains("an unfinished change lies here"), "{text}");
        let report = place.json(&["recover"]);
        assert_eq!(report["outcome"], "recovered");
        assert_eq!(report["recovered"][0]["settled"], "rolled_back");
        crate::schema::Schema::named("report").expect(&report);
        assert_eq!(place.layout(0), before, "killed after {steps} steps");
        assert!(place.done(&["recover"]).stdout.contains("Nothing to do."));
        place.done(&["apply", &new(&place)]);
        assert_eq!(place.layout(0).1.len(), 2);
    }
}

#[test]
fn an_apply_that_was_killed_leaves_its_audit() {
    let place = slow(100);
    let audit = || std::fs::read_to_string(place.lib().join("audit.jsonl")).unwrap();
    let before = audit().lines().count();
    let mut child = place.start(&["apply", &new(&place)]);
    place.wait_for_steps(4);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = audit();
    assert!(text.ends_with('\n'));
    let lines: Vec<serde_json::Value> =
        text.lines().skip(before).map(|line| serde_json::from_str(line).unwrap()).collect();
    // The call of the step that it died in had not returned, or else just had.
    let journal = place.journals().remove(0);
    let begun = journal.lines().filter(|line| line.contains("\"begin\"")).count();
    assert!((begun - 1..=begun).contains(&lines.len()), "{begun} steps, {lines:?}");
    let calls: Vec<_> = lines.iter().map(|line| line["call"].as_str().unwrap()).collect();
    let first = [
        "nvmlDeviceCreateGpuInstanceWithPlacement",
        "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
        "nvmlComputeInstanceDestroy",
    ];
    assert_eq!(calls[..3], first);
    for line in &lines {
        assert_eq!((&line["pid"], &line["result"]), (&child.id().into(), &"SUCCESS".into()));
    }
}

#[test]
fn the_next_change_settles_a_killed_one_first() {
    for next in [&["mig", "create", "1g@3"][..], &["mig", "disable"], &["exclusive"]] {
        let place = slow(100);
        let mut child = place.start(&["apply", &new(&place)]);
        place.wait_for_steps(4);
        child.kill().unwrap();
        child.wait().unwrap();
        let report = place.json(next);
        assert_eq!(report["recovered"][0]["settled"], "rolled_back", "{report}");
        match next {
            ["mig", "create", ..] => {
                let layout = ["2g.20gb@0 2@0", "1g.10gb@2 1@0", "1g.10gb@3 1@0"];
                assert_eq!(place.layout(0).1, layout);
            }
            ["exclusive"] => assert_eq!(place.layout(0).0, "exclusive"),
            _ => assert_eq!(place.layout(0).0, "time_sliced"),
        }
    }
}

#[test]
fn a_journal_that_nobody_can_settle_is_set_aside_by_name() {
    let place = slow(100);
    let mut child = place.start(&["apply", &new(&place)]);
    place.wait_for_steps(4);
    child.kill().unwrap();
    child.wait().unwrap();
    let folder = place.lib().join("journal");
    let name = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().file_name();
    let name = name.to_str().unwrap();
    std::fs::write(folder.join(name), "not a journal\n").unwrap();
    // Whoever only looks is told, and not held up.
    let status = place.done(&["status"]);
    assert!(status.stderr.contains("gpushare: warning: journal passed over"), "{status:?}");
    place.run(&["apply", &new(&place)]).expect_error("RECOVERY_REQUIRED");
    // The reason is told once.
    let answer = place.run(&["recover"]).expect_error("RECOVERY_REQUIRED");
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    place.run(&["recover", "--discard", "../journal"]).expect_error("NOT_FOUND");
    let document = place.json(&["recover", "--discard", name]);
    assert_eq!(document["schema"], "gpushare.discard/v1");
    assert!(Path::new(document["place"].as_str().unwrap()).exists());
    place.done(&["apply", &new(&place)]);
}

#[test]
fn of_two_applies_at_once_one_waits_or_is_told() {
    let place = slow(200);
    let child = place.start(&["apply", &new(&place)]);
    place.wait_for_steps(1);
    let other = place.spec("old.json", OLD);
    let locked = place.run(&["--json", "apply", &other]).expect_error("LOCKED");
    assert!(locked.stderr.contains(&format!("pid {}", child.id())), "{locked:?}");
    assert_eq!(locked.document()["outcome"], "untouched");
    place.run(&["apply", &other, "--timeout", "0.05"]).expect_error("TIMEOUT");
    place.run(&["recover"]).expect_error("LOCKED");
    place.done(&["apply", &other, "--timeout", "none"]);
    Answer::of(child.wait_with_output().unwrap()).expect(0);
    // The one that waited came last.
    assert_eq!(place.layout(0).1, ["2g.20gb@0 2@0", "1g.10gb@2 1@0"]);
}

#[test]
fn creates_at_once_all_add() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    let children: Vec<Child> =
        (0..5).map(|_| place.start(&["mig", "create", "1g", "--timeout", "none"])).collect();
    for child in children {
        Answer::of(child.wait_with_output().unwrap()).expect(0);
    }
    assert_eq!(place.layout(0).1.len(), 5);
}

#[test]
fn a_watched_status_goes_on_until_it_is_stopped() {
    let place = Place::new("2xH100-80GB");
    let mut child = place.start(&["status", "--watch", "--json", "-i", "1"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["gpus"][0]["mode"], "time_sliced");
    place.done(&["exclusive", "-i", "1"]);
    let mut seen = next();
    while seen["gpus"][0]["mode"] != "exclusive" {
        seen = next();
    }
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let child = place.start(&["status", "--watch"]);
    let mut child = child;
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "SIMULATED\n");
    // Nobody reads any more.
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn state_directories_that_others_could_write_to_are_refused() {
    let place = Place::new("1xT4");
    place.done(&["status"]);
    let lib = place.state().join("lib");
    let run = place.state().join("run");
    for directory in [&lib, &run] {
        if !directory.exists() {
            std::fs::create_dir(directory).unwrap();
        }
        let mode =
            |mode| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode));
        mode(0o777).unwrap();
        let answer = place.run(&["exclusive"]).expect_error("PERMISSION_DENIED");
        assert!(answer.stderr.contains("others may write"), "{answer:?}");
        mode(0o755).unwrap();
        place.done(&["status"]);
    }
    let elsewhere = place.path().join("elsewhere");
    std::fs::rename(&run, &elsewhere).unwrap();
    symlink(&elsewhere, &run).unwrap();
    let answer = place.run(&["status", "--json"]).expect_error("PERMISSION_DENIED");
    assert!(answer.stderr.contains("symbolic link"), "{answer:?}");
    assert!(!answer.document()["needs"].as_array().unwrap().is_empty());
    let empty = Answer::of(
        crate::place::command()
            .args(["--sim", "T4", "--state-dir", "", "status"])
            .output()
            .unwrap(),
    );
    empty.expect_error("INVALID_ARGUMENT");
}

#[test]
fn an_ordinary_user_has_a_simulated_node_of_their_own() {
    // Every other test runs as an ordinary user then.
    if !can_be_nobody("a simulated node of an ordinary user") {
        return;
    }
    let place = Place::new("1xH100-80GB");
    let runtime = place.path().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    chown(&runtime, Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = place.nobodys_command();
        command.env("XDG_RUNTIME_DIR", &runtime);
        Answer::of(command.args(["--sim", "1xH100-80GB"]).args(arguments).output().unwrap())
    };
    as_nobody(&["mig", "enable"]).expect(0);
    as_nobody(&["mig", "create", "1g"]).expect(0);
    let status = as_nobody(&["status", "--json"]).expect(0).document();
    assert_eq!(status["gpus"][0]["mig_devices"].as_array().unwrap().len(), 1);
    // A real node's state would be beside it, and all of it is theirs alone.
    let simulated = runtime.join("gpushare/simulated");
    assert!(simulated.join("run/sim-1xH100-80GB.json").exists());
    assert!(!runtime.join("gpushare/lib").exists() && !runtime.join("gpushare/run").exists());
    let mode = std::fs::metadata(runtime.join("gpushare")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    // Root's node is not theirs to change.
    place.done(&["status"]);
    let state = place.state();
    let answer = as_nobody(&["--state-dir", state.to_str().unwrap(), "exclusive"]);
    answer.expect_error("PERMISSION_DENIED");
    // Nor may root be led to use theirs.
    let theirs = runtime.join("gpushare");
    let roots = Answer::of(
        crate::place::command()
            .args(["--sim", "1xH100-80GB", "--state-dir", theirs.to_str().unwrap(), "exclusive"])
            .output()
            .unwrap(),
    );
    assert!(roots.expect_error("PERMISSION_DENIED").stderr.contains("belongs to user 65534"));
    assert!(!theirs.join("lib").exists());
}

#[test]
fn a_state_directory_that_is_a_link_is_refused_and_what_it_leads_to_is_untouched() {
    let place = Place::new("1xT4");
    let elsewhere = place.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, place.state()).unwrap();
    for arguments in [&["status"][..], &["exclusive"]] {
        let answer = place.run(arguments).expect_error("PERMISSION_DENIED");
        assert!(answer.stderr.contains("symbolic link"), "{answer:?}");
    }
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn fleets_in_one_state_directory_have_nothing_in_common() {
    let one = slow(100);
    let on_two = |arguments: &[&str]| {
        let mut command = crate::place::command();
        command.args(["--sim", "2xH100-80GB", "--json", "--state-dir"]).arg(one.state());
        Answer::of(command.args(arguments).output().unwrap())
    };
    on_two(&["exclusive", "-i", "all"]).expect(0);
    // The first fleet has one card, with the uuid of the other's first.
    let status = one.json(&["status"]);
    assert_eq!(status["gpus"].as_array().unwrap().len(), 1, "{status}");
    let mut child = one.start(&["apply", &new(&one)]);
    one.wait_for_steps(2);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(one.journals().len(), 1);
    // Neither is in the other's way, nor settles what is not its own.
    let report = on_two(&["recover"]).expect(0).document();
    assert_eq!(report["recovered"].as_array().unwrap().len(), 0, "{report}");
    on_two(&["apply", &one.spec("shared.json", OLD)]).expect(0);
    assert_eq!(one.journals().len(), 1);
    let status = on_two(&["status"]).expect(0).document();
    assert_eq!(status["gpus"][1]["mode"], "exclusive");
    assert_eq!(status["gpus"][1]["unsettled"], serde_json::Value::Null);
    let report = one.json(&["recover"]);
    assert_eq!(report["recovered"].as_array().unwrap().len(), 1, "{report}");
    assert!(one.journals().is_empty());
}

#[test]
fn a_node_of_sixteen_gpus_takes_little_memory() {
    let place = Place::new("16xH100-80GB");
    place.done(&["mig", "enable", "-i", "all"]);
    place.done(&["mig", "create", "1g", "--count", "7", "-i", "all"]);
    let mut child = place.start(&["status", "--watch", "--json"]);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    signal(&child, Signal::INT);
    child.wait().unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 30 * 1024, "{peak} KiB");
}

#[test]
fn who_may_not_write_where_the_state_is_is_told_to_give_a_directory_of_their_own() {
    if !can_be_nobody("a state directory of root's") {
        return;
    }
    let place = Place::new("1xH200-141GB");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (roots, own) = (place.path().join("roots"), place.path().join("own"));
    for directory in [&roots, &own] {
        std::fs::create_dir(directory).unwrap();
        mode(directory, 0o755);
    }
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let enable = |state: &Path| {
        let mut command = place.nobodys_command();
        command.args(["--sim", "1xH200-141GB", "mps", "enable", "--state-dir"]).arg(state);
        Answer::of(command.output().unwrap())
    };
    let advice = "belongs to root; give a state directory of your own (GPUSHARE_STATE_DIR); --state-dir DIR names one, too";
    // What is to be made in it, and what is there and for root alone.
    for doing in ["make the directory", "open"] {
        let error = enable(&roots).expect_error("PERMISSION_DENIED");
        assert!(error.stderr.contains(doing) && error.stderr.contains(advice), "{error:?}");
        std::fs::create_dir_all(roots.join("run")).unwrap();
        mode(&roots.join("run"), 0o700);
    }
    enable(&own).expect(0);
}
