//! CDI specifications that follow a node, and the hook by which a container takes a lease, started as a
//! container runtime starts it. Podman itself is in tests/containers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::place::{Answer, PATIENCE, Place};
use crate::schema::Schema;

const SPEC: &str = "version: gpushare/v1
gpus:
  - {select: 0, mode: mig, mig: {instances: {3g.40gb: 1, 1g.10gb: 1}}}
  - {select: 1, mode: time_sliced, time_sliced: {replicas: 2}}
";

/// A place with a directory for specifications.
struct Containers {
    place: Place,
    directory: PathBuf,
    option: String,
}

impl Containers {
    fn new() -> Self {
        let place = Place::new("2xH100-80GB");
        let directory = place.path().join("cdi");
        std::fs::create_dir(&directory).unwrap();
        let option = format!("--cdi={}", directory.display());
        Self { place, directory, option }
    }

    fn apply(&self) -> Value {
        let spec = self.place.spec("spec.yaml", SPEC);
        let report = self.place.json(&["apply", &self.option, &spec]);
        Schema::named("report").expect(&report);
        report
    }

    /// The names that a container can ask for.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for file in self.files() {
            let text = std::fs::read_to_string(file).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("  - name: "));
            names.extend(lines.map(|name| name.trim_matches('"').to_owned()));
        }
        names
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.directory).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The hook of a share, with the environment that its specification gives it and no other.
    fn hook(&self, name: &str) -> Command {
        let exported = self.place.json(&["export", "cdi"]);
        let text = exported["text"].as_str().unwrap();
        let (_, device) = text.split_once(&format!("name: {name}\n")).unwrap();
        let value = |key: &str| {
            let line = device.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
            line.trim().to_owned()
        };
        // The words of these lists have neither commas nor quotes in them.
        let words = |list: String| -> Vec<String> {
            let list = list.trim_start_matches('[').trim_end_matches(']').to_owned();
            list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
        };
        let mut command = Command::new(value("path: \"").trim_end_matches('"'));
        command.env_clear().args(&words(value("args:"))[1..]);
        // The first env of a device is the container's own.
        let (_, hook) = device.split_once("hookName: createRuntime").unwrap();
        let own = hook.lines().find_map(|line| line.trim().strip_prefix("env:")).unwrap();
        for variable in words(own.trim().to_owned()) {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(name, value);
        }
        command
    }

    fn holder(&self, share: &str) -> Value {
        let list = self.place.json(&["leases"]);
        let shares = list["gpus"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|gpu| gpu["shares"].as_array().unwrap().iter());
        let mut shares = shares.filter(|known| known["id"] == share);
        shares.next().unwrap()["lease"]["for_pid"].clone()
    }
}

/// Runs a hook with that on standard input, and waits until it and all who have its output are done: so
/// long does a runtime wait.
fn run(mut hook: Command, state: &str) -> Answer {
    hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = hook.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(state.as_bytes());
    Answer::of(child.wait_with_output().unwrap())
}

fn state(pid: u32) -> String {
    json!({"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": pid, "bundle": "/b"})
        .to_string()
}

fn container() -> Child {
    Command::new("sleep").arg("300").stdout(Stdio::null()).spawn().unwrap()
}

fn share(containers: &Containers, gpu: usize, number: usize) -> String {
    let status = containers.place.json(&["status"]);
    status["gpus"][gpu]["shares"][number]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_container_holds_a_lease_until_it_ends() {
    let containers = Containers::new();
    containers.apply();
    let id = share(&containers, 1, 1);
    let mut first = container();
    let mut second = container();
    let taken = run(containers.hook("gpu1-1"), &state(first.id())).expect(0);
    assert_eq!((taken.stdout.as_str(), taken.stderr.as_str()), ("", ""));
    assert_eq!(containers.holder(&id), json!(first.id()));
    // Nobody else gets it, and the hook says why the container does not start.
    let refused = run(containers.hook("gpu1-1"), &state(second.id())).expect(1);
    let said = refused.stderr.lines().last().unwrap();
    assert!(said.starts_with("gpushare: TIMEOUT: ") && said.contains(&id), "{refused:?}");
    run(containers.hook("gpu1-0"), &state(second.id())).expect(0);
    // What it stands on is not taken away.
    let spec = containers
        .place
        .spec("off.yaml", "version: gpushare/v1\ngpus: [{select: 1, mode: exclusive}]\n");
    containers.place.run(&["apply", &spec]).expect_error("BUSY");
    first.kill().unwrap();
    first.wait().unwrap();
    let start = Instant::now();
    while !containers.holder(&id).is_null() {
        assert!(start.elapsed() < PATIENCE, "the lease outlives its container");
        std::thread::sleep(Duration::from_millis(10));
    }
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_hook_that_is_told_of_no_container_takes_no_lease() {
    let containers = Containers::new();
    containers.apply();
    let id = share(&containers, 1, 0);
    for (wrong, code) in [
        (String::new(), "INVALID_ARGUMENT"),
        ("[]".to_owned(), "INVALID_ARGUMENT"),
        (r#"{"id": "c1", "status": "stopped"}"#.to_owned(), "INVALID_ARGUMENT"),
        (state(1), "INVALID_ARGUMENT"),
        (state(u32::MAX - 1), "NOT_FOUND"),
        (state(4_000_000), "NOT_FOUND"),
        ("x".repeat(2 << 20), "INVALID_ARGUMENT"),
    ] {
        let answer = run(containers.hook("gpu1-0"), &wrong);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.stderr.contains(code), "{wrong:.60}: {answer:?}");
        assert!(containers.holder(&id).is_null());
    }
    containers.place.run(&["hold", "--oci-hook", "--pid", "4"]).expect(1);
}

#[test]
fn specifications_follow_every_command() {
    let containers = Containers::new();
    let place = &containers.place;
    // What is only looked at writes nothing.
    let spec = place.spec("spec.yaml", SPEC);
    place.run(&["apply", "--dry-run", &containers.option, &spec]).expect(2);
    assert!(containers.files().is_empty());
    let report = containers.apply();
    place.run(&["apply", "--dry-run", &containers.option, &spec]).expect(0);
    let would = place.run(&["apply", "--dry-run", "--no-cdi", &spec]).expect(2);
    assert!(would.stderr.contains("CDI specifications"), "{would:?}");
    let written: Vec<_> = report["cdi_specifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap())
        .collect();
    assert_eq!(written.iter().map(PathBuf::from).collect::<Vec<_>>(), containers.files());
    assert_eq!(containers.names().len(), 8);
    place.done(&["mig", "create", "1g.10gb", "-i", "0"]);
    assert!(containers.names().contains(&"gpu0-mig2".to_owned()));
    let devices = place.devices(0);
    place.done(&["mig", "destroy", &devices[0]]);
    assert!(!containers.names().contains(&devices[0]));
    place.done(&["mps", "enable", "--max-clients", "3", "-i", "1"]);
    assert!(containers.names().contains(&"gpu1-2".to_owned()));
    let text = place.done(&["exclusive", "-i", "1"]).stdout;
    assert!(text.contains("Wrote 1 CDI specification in "), "{text}");
    assert!(containers.names().contains(&"gpu1".to_owned()));
    // By GPU: one goes, the other stays.
    place.done(&["mig", "disable", "-i", "0", "--no-cdi"]);
    assert_eq!(containers.files().len(), 1);
    place.done(&["time-slice", "--replicas", "2", "-i", "0"]);
    assert_eq!(containers.files().len(), 1);
    place.done(&["time-slice", "--replicas", "2", "-i", "0", &containers.option, "--no-lease"]);
    let text = containers.files().into_iter().map(|file| std::fs::read_to_string(file).unwrap());
    assert_eq!(text.filter(|text| text.contains("createRuntime")).count(), 1);
    // Everybody may read them, and nobody else may write.
    for file in containers.files() {
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o644);
    }
    // A directory that did not outlive the machine's life.
    std::fs::remove_dir_all(&containers.directory).unwrap();
    let text = place.done(&["recover"]).stdout;
    assert!(text.contains("Wrote 2 CDI specifications in "), "{text}");
    assert_eq!(containers.files().len(), 2);
}

#[test]
fn where_containers_of_this_machine_look_is_no_place_for_simulated_devices() {
    let containers = Containers::new();
    let spec = containers.place.spec("spec.yaml", SPEC);
    for option in ["--cdi", "--cdi=/etc/cdi", "--cdi=/var/run/cdi/"] {
        let error =
            containers.place.run(&["apply", option, &spec]).expect_error("INVALID_ARGUMENT");
        assert!(error.stderr.contains("simulated"), "{error:?}");
    }
    containers.place.run(&["apply", &containers.option, "--no-cdi", &spec]).expect(1);
    containers.place.run(&["apply", "--no-lease", &spec]).expect(1);
    containers.place.run(&["export", "gres", "--no-lease"]).expect_error("INVALID_ARGUMENT");
    let text = containers.place.done(&["export", "cdi", "--no-lease"]);
    assert!(!text.stdout.contains("hooks") && text.stderr.contains("holds none"), "{text:?}");
    assert!(!Path::new("/var/run/cdi").exists() || containers.files().is_empty());
}

/// /var/run/cdi goes with the machine's life, and MIG devices have other uuids in the next one.
#[test]
fn specifications_are_back_after_a_reboot() {
    let containers = Containers::new();
    containers.apply();
    containers.place.done(&["persist"]);
    let before = containers.names();
    for again in [false, true] {
        std::fs::remove_dir_all(&containers.directory).unwrap();
        if !again {
            containers.place.done(&["sim", "reboot"]);
        }
        containers.place.done(&["restore"]);
        let names = containers.names();
        assert_eq!(names.len(), before.len());
        let status = containers.place.json(&["status"]);
        for gpu in status["gpus"].as_array().unwrap() {
            for share in gpu["shares"].as_array().unwrap() {
                let id = share["id"].as_str().unwrap();
                assert!(names.iter().any(|name| name == id), "{id}: {names:?}");
            }
        }
    }
}

/// Nobody stored a spec: the specifications are kept all the same.
#[test]
fn specifications_need_no_stored_spec() {
    let containers = Containers::new();
    containers.place.run(&["restore"]).expect_error("NOT_FOUND");
    containers.apply();
    std::fs::remove_dir_all(&containers.directory).unwrap();
    containers.place.done(&["sim", "reboot"]);
    let document = containers.place.json(&["restore"]);
    Schema::named("restore").expect(&document);
    // MIG went with the reboot; the other GPU has its replicas in nobody's record any more.
    assert_eq!(document["cdi_specifications"].as_array().unwrap().len(), containers.files().len());
    assert!(!containers.names().iter().any(|name| name.starts_with("MIG-")));
    assert!(containers.names().contains(&"gpu0".to_owned()), "{:?}", containers.names());
}

/// A directory that others may write to is no place any more, and there is a way out.
#[test]
fn a_directory_that_is_no_longer_trusted_is_left() {
    let containers = Containers::new();
    let place = &containers.place;
    containers.apply();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&containers.directory, mode).unwrap();
    place.run(&["exclusive", "-i", "1"]).expect_error("PERMISSION_DENIED");
    let other = place.path().join("other");
    place.done(&["exclusive", "-i", "1", &format!("--cdi={}", other.display())]);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    let left = place.done(&["mig", "disable", "-i", "0", "--no-cdi"]);
    assert!(left.stderr.contains("is left: remove"), "{left:?}");
    place.done(&["mig", "enable", "-i", "0"]);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    // To remove what is in a directory that is gone makes none.
    std::fs::remove_dir_all(&other).unwrap();
    place.done(&["exclusive", "-i", "1", "--no-cdi"]);
    assert!(!other.exists());
}
