//! `persist` and `restore`: what a reboot takes, and how it comes back.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::place::{Answer, NOBODY, Place, can_be_nobody, skipped};
use crate::schema::Schema;

/// Entries of specs, with the hazards that they need: each mode, alone and inside MIG.
const ENTRIES: [(&str, &[&str]); 7] = [
    (r#""mode": "exclusive""#, &[]),
    (r#""mode": "time_sliced", "time_sliced": {"replicas": 7, "interval": "long"}"#, &[]),
    (
        r#""mode": "mps", "mps": {"thread_percentage": 19, "pinned_memory_limit": "3GiB",
            "max_clients": 5, "priority": "below_normal", "access": "any"}"#,
        &["hopper-partial-sm", "minimum-sm", "small-limit"],
    ),
    (r#""mode": "mps", "mps": {"compute_mode": "unchanged"}"#, &["bypass-possible"]),
    (
        r#""mode": "mig", "mig": {"instances": [{"profile": "1g", "start": 3, "name": "odd"},
            {"profile": "3g", "start": 4, "compute": ["1c", "2c"], "name": "big"},
            {"profile": "1g", "start": 0, "compute": []}]}"#,
        &[],
    ),
    (
        r#""mode": "mig", "mig": {"instances": [{"profile": "1g", "start": 1,
                "mps": {"thread_percentage": 50, "max_clients": 3}},
            {"profile": "2g", "start": 2, "time_sliced": {"replicas": 3}, "name": "turns"}]}"#,
        &["bypass-possible", "hopper-unmeasured", "minimum-sm"],
    ),
    (r#""mode": "mig", "mig": {"instances": {}}"#, &[]),
];

/// A spec of these entries, GPU by GPU.
fn spec<'e>(entries: impl IntoIterator<Item = &'e str>) -> String {
    let entries = entries.into_iter().enumerate();
    let gpus: Vec<_> =
        entries.map(|(index, entry)| format!(r#"{{"select": {index}, {entry}}}"#)).collect();
    format!(r#"{{"version": "gpushare/v1", "gpus": [{}]}}"#, gpus.join(", "))
}

/// A node on which that was applied and stored.
fn stored(fleet: &str, spec: &str, hazards: &[&str]) -> Place {
    let place = Place::new(fleet);
    let file = place.spec("spec.json", spec);
    let mut arguments = vec!["apply", &file, "--allow-reset"];
    arguments.extend(hazards.iter().flat_map(|hazard| ["--allow-hazard", hazard]));
    place.done(&arguments);
    place.done(&["persist"]);
    place
}

/// Where it is stored.
fn file(place: &Place) -> PathBuf {
    let name = place.lib().file_name().unwrap().to_owned();
    place.state().join("etc").join(name).join("node.yaml")
}

/// The status, without the uuids of MIG devices and the ids of instances: they are others each time.
fn status(place: &Place) -> String {
    let text = place.done(&["status"]).stdout;
    let ids = |word: &str| {
        let pair = word.trim_end().split_once('/');
        pair.is_some_and(|(gi, ci)| [gi, ci].iter().all(|id| id.parse::<u8>().is_ok()))
    };
    let words = text.split_inclusive(char::is_whitespace).map(|word| match word {
        word if word.starts_with("MIG-") => "MIG ",
        word if ids(word) => "GI/CI ",
        word => word,
    });
    words.collect()
}

fn modes(place: &Place) -> Vec<String> {
    let status = place.json(&["status"]);
    let gpus = status["gpus"].as_array().unwrap().iter();
    gpus.map(|gpu| gpu["mode"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn nothing_to_do(place: &Place) {
    assert_eq!(place.done(&["restore"]).stdout, "SIMULATED\nNothing to do.\n");
    assert_eq!(place.done(&["restore", "--dry-run"]).status, 0);
}

/// Loses what a reboot or reload takes, brings it back, and holds it against what was there.
fn comes_back(place: &Place, lost_by: &str) {
    let before = status(place);
    nothing_to_do(place);
    place.done(&["sim", lost_by]);
    assert_ne!(status(place), before, "nothing was lost: this shows nothing");
    place.run(&["restore", "--dry-run"]).expect(2);
    place.done(&["restore"]);
    assert_eq!(status(place), before);
    nothing_to_do(place);
}

#[test]
fn every_mode_comes_back_on_every_generation() {
    for fleet in ["1xH100-80GB", "1xA100-40GB"] {
        for (entry, hazards) in ENTRIES {
            let place = stored(fleet, &spec([entry]), hazards);
            for lost_by in ["reboot", "reload"] {
                comes_back(&place, lost_by);
            }
        }
    }
}

#[test]
fn cards_without_mig_come_back() {
    for (entry, hazards) in &ENTRIES[..3] {
        let place = stored("1xL40S", &spec([*entry]), hazards);
        comes_back(&place, "reboot");
    }
}

#[test]
fn a_mixed_node_comes_back_and_what_nobody_manages_stays() {
    let entries = [4, 2, 5, 1].map(|index| ENTRIES[index].0);
    let hazards = [ENTRIES[2].1, ENTRIES[5].1].concat();
    let place = stored("3xH100-80GB,1xA100-80GB,1xT4", &spec(entries), &hazards);
    let text = std::fs::read_to_string(file(&place)).unwrap();
    let t4 = place.json(&["status"])["gpus"][4]["uuid"].as_str().unwrap().to_owned();
    assert!(!text.contains(&t4) && text.matches("select:").count() == 4, "{text}");
    comes_back(&place, "reboot");
    comes_back(&place, "reload");
    // It is the same again, letter by letter, but for the time.
    let other = place.path().join("other.yaml");
    place.done(&["persist", "--file", other.to_str().unwrap()]);
    let without_time = |text: &str| text.split_once(". gpushare").unwrap().1.to_owned();
    let again = std::fs::read_to_string(&other).unwrap();
    assert_eq!(without_time(&again), without_time(&text));
}

#[test]
fn a_layout_that_another_tool_made_is_stored_too() {
    let place = stored("2xA100-40GB", &spec([ENTRIES[4].0]), &[]);
    // As on a node where gpushare is new.
    std::fs::remove_dir_all(place.lib().join("records")).unwrap();
    place.done(&["persist"]);
    let text = std::fs::read_to_string(file(&place)).unwrap();
    assert!(text.matches("profile:").count() == 3 && !text.contains("name:"), "{text}");
    place.done(&["sim", "reboot"]);
    let (mode, instances) = place.layout(0);
    assert_eq!((mode.as_str(), instances.len()), ("mig", 0), "Ampere keeps MIG mode alone");
    place.done(&["restore"]);
    assert_eq!(place.layout(0).1.len(), 3);
    assert_eq!(modes(&place)[1], "time_sliced");
}

#[test]
fn hazards_are_accepted_as_they_were_and_told() {
    let place = stored("1xH100-80GB", &spec([ENTRIES[2].0]), ENTRIES[2].1);
    place.done(&["sim", "reboot"]);
    let answer = place.done(&["restore"]);
    let told = "restored: time_sliced -> mps, 3 steps, hazard hopper-partial-sm accepted since";
    assert!(answer.stdout.contains(told), "{answer:?}");
}

#[test]
fn what_somebody_changed_since_is_left_alone() {
    let place = stored("2xH100-80GB", &spec([ENTRIES[4].0, ENTRIES[1].0]), &[]);
    let wanted = status(&place);
    // Before it could be restored.
    place.done(&["sim", "reboot"]);
    place.done(&["exclusive", "-i", "0"]);
    let answer = place.done(&["restore"]);
    assert!(answer.stdout.contains("GPU 0: left alone: gpushare changed it"), "{answer:?}");
    assert!(answer.stdout.contains("GPU 1: restored: time_sliced, 2 steps"), "{answer:?}");
    assert_eq!(modes(&place), ["exclusive", "time_sliced"]);
    assert!(place.done(&["restore", "--dry-run"]).stderr.contains("GPU 0: left alone"));
    place.done(&["restore", "--force"]);
    assert_eq!(status(&place), wanted);
    // After it was restored, without a record of it left, and where restoring had nothing to do.
    for restore in [true, false] {
        if restore {
            place.done(&["sim", "reboot"]);
        }
        place.done(&["restore"]);
        place.done(&["mig", "disable", "-i", "0"]);
        let before = status(&place);
        let answer = place.done(&["restore"]);
        assert!(answer.stdout.contains("left alone: it was restored before"), "{answer:?}");
        assert_eq!(status(&place), before);
        place.done(&["restore", "--force"]);
        assert_eq!(status(&place), wanted);
    }
    // Another life of the driver: it counts again.
    place.done(&["exclusive", "-i", "0"]);
    place.done(&["sim", "reload"]);
    place.done(&["restore"]);
    assert_eq!(status(&place), wanted);
}

#[test]
fn a_tenant_that_was_faster_stays_and_keeps_no_other_gpu_back() {
    let place = stored("2xH100-80GB", &spec([ENTRIES[4].0, ENTRIES[1].0]), &[]);
    let wanted = status(&place);
    place.done(&["sim", "reboot"]);
    place.done(&["sim", "busy", "0"]);
    let before = place.json(&["status"])["gpus"][0].clone();
    let answer = place.run(&["restore"]).expect_error("BUSY");
    assert!(answer.stderr.contains("python train.py"), "{answer:?}");
    assert!(answer.stderr.contains("GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65"), "{answer:?}");
    assert!(answer.stdout.contains("GPU 1: restored"), "{answer:?}");
    assert_eq!(place.json(&["status"])["gpus"][0], before);
    let document = place.run(&["restore", "--json"]).expect_error("BUSY").document();
    assert_eq!(document["holders"].as_array().unwrap().len(), 1, "{document}");
    place.done(&["sim", "idle", "-i", "0"]);
    place.done(&["restore"]);
    assert_eq!(status(&place), wanted);
}

#[test]
fn a_gpu_that_is_gone_is_named_and_keeps_no_other_back() {
    for loss in [&["sim", "lose", "0"][..], &["sim", "lose", "--gone", "0"]] {
        for by_index in [false, true] {
            let text = spec([ENTRIES[4].0, ENTRIES[1].0]);
            let place = stored("2xH100-80GB", &text, &[]);
            if by_index {
                place.done(&["persist", &place.spec("spec.json", &text)]);
            }
            let wanted = status(&place);
            place.done(&["sim", "reboot"]);
            place.done(loss);
            let answer = place.run(&["restore"]).expect_error("NOT_FOUND");
            if by_index && loss.contains(&"--gone") {
                // The other one has its number now.
                assert!(answer.stderr.contains("with index 1"), "{answer:?}");
            } else {
                assert!(answer.stderr.contains("GPU-1e109052-d5d2-57c4-c5cd"), "{answer:?}");
                assert!(answer.stdout.contains("restored: time_sliced, 2 steps"), "{answer:?}");
                // A new card in its place: nothing tells of the old one but the file.
                std::fs::remove_dir_all(place.lib().join("records")).unwrap();
                place.run(&["restore"]).expect_error("NOT_FOUND");
            }
            place.done(&["sim", "reboot"]);
            place.done(&["restore"]);
            assert_eq!(status(&place), wanted);
        }
    }
}

#[test]
fn a_driver_that_is_not_there_yet_is_waited_for() {
    let place = stored("1xH100-80GB", &spec([ENTRIES[4].0]), &[]);
    let wanted = status(&place);
    let faults = [
        ["nvmlInit_v2", "DRIVER_NOT_LOADED"],
        ["nvmlInit_v2", "LIBRARY_NOT_FOUND"],
        ["nvmlDeviceGetCount_v2", "UNKNOWN"],
    ];
    for [call, returns] in faults {
        place.done(&["sim", "reboot"]);
        place.done(&["sim", "fault", call, returns]);
        let refused = place.run(&["restore"]).expect(1);
        assert!(!refused.stderr.contains("waiting"), "{refused:?}");
        place.done(&["sim", "fault", call, returns]);
        let answer = place.done(&["restore", "--wait", "60"]);
        assert!(answer.stderr.starts_with("gpushare: waiting up to 60 s: "), "{answer:?}");
        assert_eq!(status(&place), wanted);
    }
    // A GPU that comes late.
    place.done(&["sim", "lose", "0", "--gone"]);
    let child = place.start(&["restore", "--wait", "60"]);
    std::thread::sleep(Duration::from_millis(300));
    place.done(&["sim", "reboot"]);
    Answer::of(child.wait_with_output().unwrap()).expect(0);
    assert_eq!(status(&place), wanted);
    // And one that never comes: as long as was said, or until somebody asks to stop.
    place.done(&["sim", "lose", "0", "--gone"]);
    let start = Instant::now();
    let answer = place.run(&["restore", "--wait", "1.5"]).expect(1);
    let told: Vec<_> = answer.stderr.lines().collect();
    assert!(told.len() == 2 && told[0].starts_with("gpushare: waiting up to 1.5 s: "), "{told:?}");
    assert!(told[1].starts_with("gpushare: NOT_FOUND: "), "{told:?}");
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    let child = place.start(&["restore", "--wait", "60"]);
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    let answer = Answer::of(child.wait_with_output().unwrap());
    // The signal may have come before somebody listened.
    assert!(answer.status == -1 || answer.stderr.contains("INTERRUPTED"), "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(50));
}

#[test]
fn a_restore_that_was_killed_is_taken_up_by_the_next() {
    let text = spec([ENTRIES[4].0, ENTRIES[5].0]);
    let place = stored("2xH100-80GB", &text, ENTRIES[5].1);
    let wanted = status(&place);
    for steps in [1, 2, 5, 7] {
        place.done(&["sim", "rules", "latency_ms=60"]);
        place.done(&["sim", "reboot"]);
        let mut child = place.start(&["restore"]);
        place.wait_for_steps(steps);
        child.kill().unwrap();
        child.wait().unwrap();
        place.done(&["sim", "rules", "latency_ms=0"]);
        assert_eq!(place.journals().len(), 1);
        let before = place.run(&["persist"]).expect_error("RECOVERY_REQUIRED");
        assert!(before.stderr.contains("gpushare recover"), "{before:?}");
        place.done(&["restore"]);
        assert_eq!(status(&place), wanted, "killed after {steps} steps");
        assert!(place.journals().is_empty());
    }
    // A journal of the boot before is void.
    place.done(&["sim", "rules", "latency_ms=60"]);
    place.done(&["sim", "reboot"]);
    let mut child = place.start(&["restore"]);
    place.wait_for_steps(4);
    child.kill().unwrap();
    child.wait().unwrap();
    place.done(&["sim", "rules", "latency_ms=0"]);
    place.done(&["sim", "reboot"]);
    place.done(&["restore"]);
    assert_eq!(status(&place), wanted);
}

#[test]
fn a_step_that_fails_is_undone_and_the_next_restore_does_it() {
    let place = stored("2xH100-80GB", &spec([ENTRIES[4].0, ENTRIES[1].0]), &[]);
    let wanted = status(&place);
    place.done(&["sim", "reboot"]);
    let lost = place.layout(0);
    place.done(&["sim", "fault", "nvmlGpuInstanceCreateComputeInstance", "UNKNOWN"]);
    let answer = place.run(&["restore"]).expect_error("DRIVER");
    assert!(answer.stdout.contains("GPU 1: restored"), "{answer:?}");
    assert_eq!(place.layout(0), lost);
    place.done(&["restore"]);
    assert_eq!(status(&place), wanted);
}

#[test]
fn a_file_that_is_not_to_be_trusted_is_not_read() {
    let place = stored("1xH100-80GB", &spec([ENTRIES[1].0]), &[]);
    let (path, good) = (file(&place), std::fs::read(file(&place)).unwrap());
    let elsewhere = place.path().join("elsewhere.yaml");
    std::fs::write(&elsewhere, &good).unwrap();
    place.done(&["sim", "reboot"]);
    let lost = status(&place);
    let refused = |code: &str, why: &str| {
        let answer = place.run(&["restore"]).expect_error(code);
        assert!(answer.stderr.contains(why), "{answer:?}");
        assert!(answer.stderr.contains("node.yaml") || code == "PERMISSION_DENIED", "{answer:?}");
        assert_eq!(status(&place), lost);
    };
    std::fs::remove_file(&path).unwrap();
    refused("NOT_FOUND", "nothing was stored");
    symlink(&elsewhere, &path).unwrap();
    refused("INVALID_STATE", "symbolic link");
    // To store replaces the link, and not what it leads to.
    place.done(&["time-slice", "--replicas", "2"]);
    place.done(&["persist"]);
    assert!(path.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&elsewhere).unwrap(), good);
    place.done(&["sim", "reboot"]);
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    refused("INVALID_STATE", "others may write");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    for (text, code, why) in [
        (&b""[..], "INVALID_ARGUMENT", "node.yaml"),
        (&b"\xff\xfe\x00"[..], "INVALID_ARGUMENT", "node.yaml"),
        (&good[..good.len() - 9], "INVALID_ARGUMENT", "node.yaml"),
        (&b"version: gpushare/v2\ngpus: []\n"[..], "INVALID_ARGUMENT", "version"),
        (&vec![b'#'; 2 << 20][..], "INVALID_ARGUMENT", "1 MiB"),
        (&vec![b'#'; 17 << 20][..], "INVALID_STATE", "too long"),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(code, why);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    refused("INVALID_STATE", "no regular file");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, &good).unwrap();
    let folder = path.parent().unwrap();
    std::fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    refused("PERMISSION_DENIED", "others may write");
    place.done(&["time-slice"]);
    place.run(&["persist"]).expect_error("PERMISSION_DENIED");
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    if can_be_nobody("a stored spec of another user's") {
        place.done(&["sim", "reboot"]);
        chown(&path, Some(NOBODY), None).unwrap();
        refused("INVALID_STATE", "belongs to user 65534");
        chown(&path, Some(0), None).unwrap();
    }
    place.done(&["restore", "--force"]);
}

#[test]
fn an_ordinary_user_is_told_what_they_need() {
    if !can_be_nobody("persist as an ordinary user") {
        return;
    }
    let place = stored("1xH100-80GB", &spec([ENTRIES[1].0]), &[]);
    let good = std::fs::read(file(&place)).unwrap();
    for arguments in [&["persist"][..], &["persist", "--remove"]] {
        let mut command = place.nobodys_command();
        command.args(["--json", "--sim", "1xH100-80GB", "--state-dir"]).arg(place.state());
        let answer = Answer::of(command.args(arguments).output().unwrap());
        let document = answer.expect_error("PERMISSION_DENIED").document();
        assert!(!document["needs"].as_array().unwrap().is_empty(), "{document}");
        assert_eq!(std::fs::read(file(&place)).unwrap(), good);
    }
    // It is for everybody to read, and where nothing is to be done that is no secret.
    assert_eq!(file(&place).metadata().unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(
        file(&place).parent().unwrap().metadata().unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn a_spec_is_stored_only_while_it_is_in_force() {
    let place = Place::new("2xH100-80GB");
    let refused = place.run(&["persist"]).expect_error("INVALID_STATE");
    assert!(refused.stderr.contains("apply a spec first"), "{refused:?}");
    let path = place.spec("spec.json", &spec([ENTRIES[4].0, ENTRIES[1].0]));
    let answer = place.run(&["persist", &path]).expect(2);
    assert!(answer.stdout.contains("create GPU instance"), "{answer:?}");
    assert!(answer.stderr.contains("nothing is stored"), "{answer:?}");
    assert!(!file(&place).exists());
    place.done(&["apply", &path]);
    place.done(&["persist", &path]);
    let text = std::fs::read_to_string(file(&place)).unwrap();
    assert!(text.contains("select: 0") && text.contains("select: 1"), "{text}");
    comes_back(&place, "reboot");
    // What stands for something at hand alone is written out, or refused.
    let keeps = place.spec("keeps.json", &spec([r#""mode": "mig""#]));
    let refused = place.run(&["persist", &keeps]).expect_error("INVALID_ARGUMENT");
    assert!(refused.stderr.contains("list the instances"), "{refused:?}");
    let caller = place.spec("mps.json", &spec([r#""mode": "mps""#]));
    place.done(&["apply", &caller]);
    place.done(&["persist", &caller]);
    let text = std::fs::read_to_string(file(&place)).unwrap();
    assert!(text.contains("user: ") && !text.contains("caller"), "{text}");
    // One whose GPU is not there.
    let third = spec([ENTRIES[1].0]).replace("\"select\": 0", "\"select\": 2");
    place.run(&["persist", &place.spec("third.json", &third)]).expect_error("NOT_FOUND");
    assert_eq!(std::fs::read_to_string(file(&place)).unwrap(), text);

    let gone = place.done(&["persist", "--remove"]);
    assert!(gone.stdout.contains("Nothing is stored in "), "{gone:?}");
    assert!(!file(&place).exists());
    place.done(&["persist", "--remove"]);
    place.run(&["restore"]).expect_error("NOT_FOUND");
}

#[test]
fn a_daemon_that_died_is_stored_as_it_was_meant() {
    let entries = [ENTRIES[2].0, ENTRIES[5].0];
    let place = stored("2xH100-80GB", &spec(entries), &[ENTRIES[2].1, ENTRIES[5].1].concat());
    let good = place.json(&["persist"])["spec"].clone();
    place.done(&["sim", "kill-mps", "0"]);
    place.done(&["sim", "kill-mps", &place.devices(1)[0]]);
    assert_eq!(modes(&place)[0], "degraded");
    assert_eq!(place.json(&["persist"])["spec"], good);
    // It is started again, and no more than that.
    let before = place.layout(1);
    let answer = place.done(&["restore", "--force"]);
    assert!(answer.stdout.contains("GPU 0: restored: degraded -> mps"), "{answer:?}");
    assert_eq!((place.layout(1), place.json(&["persist"])["spec"].clone()), (before, good));
}

#[test]
fn what_no_spec_can_say_is_told() {
    let place = stored("2xH100-80GB", &spec([ENTRIES[1].0, ENTRIES[1].0]), &[]);
    place.done(&["sim", "lose", "1"]);
    let answer = place.done(&["persist"]);
    assert!(answer.stderr.contains("no spec can say this: GPU GPU-02a19b3e-"), "{answer:?}");
    let text = std::fs::read_to_string(file(&place)).unwrap();
    assert!(text.contains("# Not said here: GPU GPU-02a19b3e-"), "{text}");
    assert_eq!(place.json(&["persist"])["cannot_say"].as_array().unwrap().len(), 1);
}

#[test]
fn the_documents_are_as_described() {
    let place = stored("2xH100-80GB", &spec([ENTRIES[2].0, ENTRIES[4].0]), ENTRIES[2].1);
    let document = place.json(&["persist"]);
    Schema::of(&document).expect(&document);
    Schema::named("spec").expect(&document["spec"]);
    assert_eq!(document["file"], json!(file(&place)));
    place.done(&["sim", "reboot"]);
    place.done(&["exclusive", "-i", "1"]);
    let results = |document: &Value| -> Vec<String> {
        let gpus = document["gpus"].as_array().unwrap().iter();
        gpus.map(|gpu| gpu["result"].as_str().unwrap().to_owned()).collect()
    };
    for expected in [["restored", "left_alone"], ["as_stored", "left_alone"]] {
        let document = place.json(&["restore"]);
        Schema::of(&document).expect(&document);
        assert_eq!(results(&document), expected, "{document}");
    }
    let document = place.json(&["persist", "--remove"]);
    Schema::of(&document).expect(&document);
    assert!(document["spec"].is_null());
}

#[test]
fn the_readme_shows_what_is_brought_back() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let section = readme.split("\n## After a reboot\n").nth(1).unwrap();
    let shown = section.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let fleet = "gpushare --sim 1xH100-80GB,1xT4 ";
    let place = Place::new("1xH100-80GB,1xT4");
    let mut printed = String::new();
    for line in shown.lines().filter_map(|line| line.strip_prefix("$ ")) {
        for command in line.split(" && ") {
            let words: Vec<_> = command.strip_prefix(fleet).unwrap().split(' ').collect();
            printed = place.done(&words).stdout;
        }
    }
    assert!(shown.ends_with(&format!("restore\n{printed}")), "{printed}");
}

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/gpushare-restore.service");

#[test]
fn the_unit_says_what_the_command_takes() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let lines: Vec<_> = unit.lines().filter_map(|line| line.split_once('=')).collect();
    let values = |key: &str| -> Vec<&str> {
        let lines = lines.iter().filter(|(found, _)| *found == key);
        lines.flat_map(|(_, value)| value.split(' ')).collect()
    };
    let place = stored("1xH100-80GB", &spec([ENTRIES[1].0]), &[]);
    let wanted = status(&place);
    place.done(&["sim", "reboot"]);
    let run = values("ExecStart");
    assert_eq!(run[0], "/usr/local/bin/gpushare", "make install writes another in its place");
    place.done(&run[1..]);
    assert_eq!(status(&place), wanted);
    // A unit without Before= comes too late for those who count GPUs.
    for service in [
        "docker",
        "containerd",
        "crio",
        "podman-restart",
        "kubelet",
        "k3s-agent",
        "slurmd",
        "nvidia-cdi-refresh",
    ] {
        assert!(values("Before").contains(&format!("{service}.service").as_str()), "{service}");
    }
    assert!(values("After").contains(&"nvidia-persistenced.service"));
    // Where persist stores it when nobody says.
    assert_eq!(values("ConditionPathExists"), ["|/etc/gpushare/node.yaml"]);
    assert_eq!(values("ConditionDirectoryNotEmpty"), ["|/var/lib/gpushare/cdi"]);
    let help = place.done(&["persist", "--help"]).stdout;
    assert!(help.contains("/etc/gpushare/node.yaml"), "{help}");
}

#[test]
fn systemd_takes_the_unit() {
    let place = Place::new("1xT4");
    let check = |change: &dyn Fn(String) -> String| {
        let text = std::fs::read_to_string(UNIT).unwrap();
        // It must be there.
        let text = change(text.replace("/usr/local/bin/gpushare", "/bin/sh"));
        let unit = place.spec("gpushare-restore.service", &text);
        std::process::Command::new("systemd-analyze").args(["verify", "--man=no", &unit]).output()
    };
    let answer = match check(&|text| text) {
        Ok(answer) => Answer::of(answer),
        Err(error) => return skipped("the unit of systemd", &error.to_string()),
    };
    let wrong = Answer::of(check(&|text| text.replace("UMask=", "NoSuchKey=")).unwrap());
    if !wrong.stderr.contains("NoSuchKey") {
        return skipped("the unit of systemd", "systemd-analyze finds no mistake here");
    }
    assert!(answer.status == 0 && !answer.stderr.contains("gpushare-restore"), "{answer:?}");
}
