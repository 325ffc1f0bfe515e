//! A node in a file that handles, threads and processes share.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

const FLEET: &str = "8xH100-80GB";

fn open(path: &Path) -> Simulator {
    Simulator::in_file(path, FLEET.parse().unwrap()).unwrap()
}

#[test]
fn handles_on_one_file_are_one_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    let (one, two) = (open(&path), open(&path));
    let (mut first, mut second) = (one.open().unwrap(), two.open().unwrap());
    let gpu = first.device(3).unwrap();
    assert!(!second.mig_mode(&gpu).unwrap().current);
    first.set_mig_mode(&gpu, true).unwrap();
    assert!(second.mig_mode(&gpu).unwrap().current);
    // Many changes within one tick of the file system's clock are all seen.
    for on in [false, true].repeat(50) {
        first.set_mig_mode(&gpu, on).unwrap();
        assert_eq!(second.mig_mode(&gpu).unwrap().current, on);
    }
    one.fault(FaultSpec::next("nvmlDeviceGetName", NvmlReturn::UNKNOWN)).unwrap();
    second.name(&gpu).unwrap_err();
    first.name(&gpu).unwrap();
    let pid = two.busy(&gpu, ProcessSpec::new("unseen").invisible()).unwrap();
    one.idle(pid).unwrap();
    let again = open(&path);
    assert_eq!(again.gpus().unwrap(), one.gpus().unwrap());
}

#[test]
fn a_file_of_another_fleet_or_of_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    open(&path);
    let other = Simulator::in_file(&path, "4xT4".parse().unwrap()).unwrap_err();
    assert_eq!(other.code(), ErrorCode::InvalidArgument);
    assert!(other.message().contains(FLEET) && other.message().contains("4xT4"));
    let content = std::fs::read_to_string(&path).unwrap();
    for bad in [
        String::new(),
        "{}".to_owned(),
        content[..content.len() / 2].to_owned(),
        content.replace("gpushare.sim/v1", "gpushare.sim/v9"),
        content.replace(FLEET, "9xH100-80GB"),
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = Simulator::in_file(&path, FLEET.parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Io);
    }
    let missing = Simulator::in_file(&folder.path().join("no/node"), FLEET.parse().unwrap());
    assert_eq!(missing.unwrap_err().code(), ErrorCode::Io);
}

#[test]
fn a_file_that_leads_elsewhere_is_refused() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("node.json"), folder.path().join("other"));
    let refusal = |path: &Path| Simulator::in_file(path, FLEET.parse().unwrap()).unwrap_err();
    // The node itself, its lock, and the file that it is written to.
    for name in ["node.json", "node.json.lock"] {
        std::fs::write(&other, "theirs").unwrap();
        symlink(&other, folder.path().join(name)).unwrap();
        assert_eq!(refusal(&path).code(), ErrorCode::InvalidState);
        std::fs::remove_file(folder.path().join(name)).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs");
    }
    symlink(&other, folder.path().join("node.json.new")).unwrap();
    open(&path);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs");

    let run = folder.path().join("run");
    std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
    symlink(folder.path().join("elsewhere"), &run).unwrap();
    assert_eq!(refusal(&run.join("node.json")).code(), ErrorCode::PermissionDenied);
    assert_eq!(refusal(Path::new("/")).code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_file_that_goes_away_is_an_error_of_every_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    let simulator = open(&path);
    let mut nvml = simulator.open().unwrap();
    std::fs::remove_file(&path).unwrap();
    let failure = nvml.device_count().unwrap_err();
    assert_eq!(failure.ret, NvmlReturn::OPERATING_SYSTEM);
    assert!(failure.detail.unwrap().contains("node.json"));
    assert_eq!(simulator.gpus().unwrap_err().code(), ErrorCode::Io);
}

/// Cuts and joins one GPU many times; a change that another undid or lost would fail.
fn work(path: &Path, index: u32, rounds: u32) {
    let simulator = open(path);
    let mut nvml = simulator.open().unwrap();
    let gpu = nvml.device(index).unwrap();
    for _ in 0..rounds {
        nvml.set_mig_mode(&gpu, true).unwrap();
        let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(0)).unwrap();
        let ci = nvml.create_compute_instance(&gpu, gi.id, ComputeProfileId::new(4), None).unwrap();
        nvml.destroy_compute_instance(&gpu, gi.id, ci.id).unwrap();
        nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
        nvml.set_mig_mode(&gpu, false).unwrap();
    }
}

#[test]
fn threads_with_handles_of_their_own_lose_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    std::thread::scope(|scope| {
        for index in 0..8 {
            let path = &path;
            scope.spawn(move || work(path, index, 10));
        }
    });
    let made = open(&path).read(|node| (node.instances_made, node.creates, node.destroys)).unwrap();
    assert_eq!(made, (80, 160, 160));
}

const CHILD: &str = "GPUSHARE_TEST_CHILD_PATH";

/// The body of the child processes of the next test: nothing unless that test runs it.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let (index, path) = path.split_once(':').unwrap();
    work(Path::new(path), index.parse().unwrap(), 10);
}

#[test]
fn processes_lose_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    let children: Vec<_> = (0..4)
        .map(|index| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "backend::sim::tests::file::child"])
                .env(CHILD, format!("{index}:{}", path.display()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(open(&path).read(|node| node.instances_made).unwrap(), 40);
}

#[test]
fn a_snapshots_worth_of_reads_is_fast() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = open(&folder.path().join("node.json"));
    let mut nvml = simulator.open().unwrap();
    let gpus = simulator.gpus().unwrap();
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let start = Instant::now();
            for gpu in &gpus {
                for _ in 0..35 {
                    nvml.compute_capability(gpu).unwrap();
                }
            }
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    // 0.4 ms where it was measured; the bound leaves room for a busy machine.
    assert!(times[10] < Duration::from_millis(5), "{:?}", times[10]);
}
