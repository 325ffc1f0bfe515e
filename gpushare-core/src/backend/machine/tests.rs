use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::doctor::CdiSpec;

/// A made-up machine.
struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.at(path), text).unwrap();
        self
    }

    fn process(&self, pid: u32, comm: &str, cmdline: &str, environ: &str, cgroup: &str) -> &Self {
        let of = |file: &str| format!("/proc/{pid}/{file}");
        self.write(&of("comm"), format!("{comm}\n"))
            .write(&of("cmdline"), cmdline)
            .write(&of("status"), "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nGid:\t5\t5\t5\t5\n")
            .write(&of("environ"), environ)
            .write(&of("cgroup"), cgroup)
    }

    fn machine(&self) -> RealMachine {
        RealMachine {
            root: self.root.path().to_owned(),
            daemons: "/run/gpushare/mps".into(),
            library: None,
        }
    }

    fn facts(&self, processes: &[u32]) -> MachineFacts {
        let processes: Vec<_> = processes.iter().copied().map(Pid::new).collect();
        self.machine().facts(&processes)
    }
}

#[test]
fn an_empty_machine_has_nothing_and_hides_nothing() {
    let facts = Tree::new().facts(&[]);
    assert_eq!(facts, MachineFacts::seen_by(facts.uid));
}

#[test]
fn the_driver_is_known_by_its_files() {
    let tree = Tree::new();
    tree.write(
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (x)\nGCC version:  gcc version 12.2.0\n",
    );
    symlink("libnvidia-ml.so.580.159.04", tree.at("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"))
        .unwrap();
    tree.write("/sys/module/nouveau/refcnt", "0");
    tree.write("/run/nvidia-persistenced/socket", "");
    for (device, vendor, class) in [
        ("0000:01:00.0", "0x10de\n", "0x030200\n"),
        ("0000:01:00.1", "0x10de\n", "0x040300\n"),
        ("0000:02:00.0", "0x10de\n", "0x030000\n"),
        ("0000:03:00.0", "0x8086\n", "0x030000\n"),
    ] {
        let of = |file: &str| format!("/sys/bus/pci/devices/{device}/{file}");
        tree.write(&of("vendor"), vendor).write(&of("class"), class);
    }
    let facts = tree.facts(&[]);
    assert_eq!(facts.module, Some(Some("580.159.04".to_owned())));
    let library = facts.library.unwrap();
    assert_eq!(library.path, Path::new("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"));
    assert_eq!(library.version.as_deref(), Some("580.159.04"));
    assert!(facts.nouveau && facts.persistenced);
    assert_eq!(facts.pci_gpus, Some(2));
}

#[test]
fn the_version_of_a_module_is_the_first_word_of_numbers() {
    for (text, version) in [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Mon", Some("535.261.03")),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  550.54  x", Some("550.54")),
        ("GCC version: 12.2.0", None),
        ("NVRM version: none . .. 5. .5", None),
        ("", None),
    ] {
        assert_eq!(module_version(text).as_deref(), version, "{text}");
    }
}

#[test]
fn nodes_and_capabilities_are_listed() {
    let tree = Tree::new();
    tree.write("/dev/nvidia0", "")
        .write("/dev/null", "")
        .write("/dev/nvidia-caps/nvidia-cap12", "");
    fs::set_permissions(tree.at("/dev/nvidia0"), fs::Permissions::from_mode(0o640)).unwrap();
    tree.write(
        "/proc/driver/nvidia-caps/mig-minors",
        "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\nrubbish\n x y\n",
    );
    let facts = tree.facts(&[]);
    let paths: Vec<_> = facts.nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12"]);
    let first = facts.node("/dev/nvidia0").unwrap();
    assert!(!first.device && first.mode == 0o640);
    let minors = facts.mig_minors.unwrap();
    assert_eq!(minors.len(), 4);
    assert_eq!((minors[3].name.as_str(), minors[3].minor), ("gpu0/gi1/ci0/access", 13));
    // A real device, wherever this runs.
    let null = node(Path::new("/dev/null"), "/dev/null".into()).unwrap();
    assert_eq!((null.device, null.major, null.minor), (true, 1, 3));
}

#[test]
fn containers_are_known_by_programs_and_settings() {
    let tree = Tree::new();
    tree.write("/usr/bin/docker", "").write("/usr/local/bin/nvidia-ctk", "");
    tree.write(
        "/etc/docker/daemon.json",
        r#"{"runtimes": {"nvidia": {"path": "x"}}, "auth": "SECRET"}"#,
    );
    let gpu = "GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65";
    let mig = "MIG-0592d622-20bf-7ecf-264d-0fa1bfef88d3";
    tree.write(
        "/etc/cdi/nvidia.yaml",
        format!("kind: nvidia.com/gpu\ndevices:\n- name: \"{gpu}\"\n- name: {mig}\n- name: {mig}\n- name: MIG-1\n"),
    );
    tree.write("/var/run/cdi/other.json", r#"{"kind": "example.com/x"}"#);
    tree.write("/etc/cdi/readme.txt", "nvidia.com/gpu");
    let facts = tree.facts(&[]);
    assert_eq!(facts.containers.engines, ["docker"]);
    assert_eq!(facts.containers.toolkit, [Path::new("/usr/local/bin/nvidia-ctk")]);
    assert!(facts.containers.docker_runtime);
    let path = "/etc/cdi/nvidia.yaml".into();
    let uuids = vec![gpu.to_owned(), mig.to_owned()];
    assert_eq!(facts.containers.cdi, [CdiSpec { path, uuids }]);
    assert_eq!(facts.hidden, []);
    assert!(!format!("{facts:?}").contains("SECRET"));
    tree.write("/etc/docker/daemon.json", "{");
    let facts = tree.facts(&[]);
    assert!(!facts.containers.docker_runtime && facts.hidden(&Part::Docker).is_some());
}

#[test]
fn daemons_are_told_from_all_else_and_ours_from_others() {
    let tree = Tree::new();
    let daemon = "nvidia-cuda-mps-control\0-d\0";
    tree.process(
        10,
        "nvidia-cuda-mps",
        daemon,
        "TOKEN=SECRET\0CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/mps/GPU-1\0",
        "0::/system.slice/run-1.scope\n",
    );
    tree.process(
        11,
        "nvidia-cuda-mps",
        "/usr/bin/nvidia-cuda-mps-control\0-f\0",
        "A=1\0",
        "12:devices:/\n2:name=systemd:/user.slice/user-1.slice/session-2.scope\n0::/\n",
    );
    tree.process(
        12,
        "nvidia-cuda-mps",
        "/bin/sh\0/x/nvidia-cuda-mps-control\0-d\0",
        "CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/mps2\0",
        "5:freezer:/slurm/uid_7/job_9/step_0\n1:name=systemd:/system.slice/slurmd.service\n",
    );
    // Somebody who talks to one, a server, and a name alone.
    tree.process(13, "nvidia-cuda-mps", "nvidia-cuda-mps-control\0", "", "");
    tree.process(14, "nvidia-cuda-mps", "nvidia-cuda-mps-server\0", "", "");
    tree.process(15, "bash", daemon, "", "");
    let facts = tree.facts(&[]);
    let found: Vec<_> = facts
        .daemons
        .iter()
        .map(|d| (d.pid.get(), d.ours, d.directory.as_ref().unwrap().to_str().unwrap()))
        .collect();
    let expected = [
        (10, true, "/run/gpushare/mps/GPU-1"),
        (11, false, "/tmp/nvidia-mps"),
        (12, false, "/run/gpushare/mps2"),
    ];
    assert_eq!(found, expected);
    let groups: Vec<_> = facts.daemons.iter().map(|d| d.cgroup.as_deref().unwrap()).collect();
    assert_eq!(
        groups,
        [
            "/system.slice/run-1.scope",
            "/user.slice/user-1.slice/session-2.scope",
            "/slurm/uid_7/job_9/step_0"
        ]
    );
    assert!(facts.daemons.iter().all(|daemon| daemon.uid == Some(1001)));
    assert!(!format!("{facts:?}").contains("SECRET"));
}

#[test]
fn an_environment_that_is_not_there_is_hidden() {
    let tree = Tree::new();
    tree.process(10, "nvidia-cuda-mps", "nvidia-cuda-mps-control\0-d\0", "", "0::/\n");
    fs::remove_file(tree.at("/proc/10/environ")).unwrap();
    let facts = tree.facts(&[20]);
    assert_eq!(facts.daemons[0].directory, None);
    assert!(facts.hidden(&Part::Daemon(Pid::new(10))).is_some());
    assert!(facts.hidden(&Part::Process(Pid::new(20))).is_some());
}

#[test]
fn of_an_environment_only_the_named_variables_are_kept() {
    let tree = Tree::new();
    let long = "y".repeat(5000);
    let environ = format!(
        "TOKEN=SECRET\0CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=40\0XCUDA_MPS_LOG_DIRECTORY=SECRET\0CUDA_MPS_SOMETHING=SECRET\0CUDA_MPS_PIPE_DIRECTORY={long}\0"
    );
    tree.process(20, "python", "python\0", &environ, "0::/\n");
    tree.write(
        "/etc/environment",
        "PATH=/bin\nAPI_KEY=SECRET\nexport CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=\"33\"\n  CUDA_MPS_PIPE_DIRECTORY='/x'\n#CUDA_MPS_LOG_DIRECTORY=/y\nCUDA_MPS_SECRET=SECRET\n",
    );
    let facts = tree.facts(&[20]);
    let (pid, variables) = &facts.declared[0];
    assert_eq!(pid.get(), 20);
    assert_eq!(variables[1], ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE".to_owned(), "40".to_owned()));
    assert_eq!((variables.len(), variables[0].1.len()), (2, MOST_VALUE));
    let named: Vec<_> = facts.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let expected = [("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "33"), ("CUDA_MPS_PIPE_DIRECTORY", "/x")];
    assert_eq!(named, expected);
    assert!(!format!("{facts:?}").contains("SECRET"));
}

const SOCKETS: &str = "Num RefCount Protocol Flags Type St Inode Path\n\
    0: 00000002 00000000 00010000 0005 01 7 /tmp/nvidia-mps/control\n\
    0: 00000002 00000000 00010000 0005 01 8 /run/gpushare/mps/GPU-1/control\n";

#[test]
fn who_listens_in_a_directory_is_told_from_what_is_left() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("/tmp/nvidia-mps/x")).unwrap();
    let _socket =
        std::os::unix::net::UnixListener::bind(tree.at("/tmp/nvidia-mps/control")).unwrap();
    for name in ["GPU-1", "GPU-2"] {
        fs::create_dir_all(tree.at(&format!("/run/gpushare/mps/{name}/x"))).unwrap();
    }
    tree.write("/run/gpushare/mps/GPU-1.lock", "");
    let left = tree.facts(&[]);
    let pipe = left.default_pipe.unwrap();
    assert!(pipe.directory && pipe.socket && !pipe.listens);
    assert!(left.directories.iter().all(|directory| !directory.listens));
    tree.write("/proc/net/unix", SOCKETS);
    let facts = tree.facts(&[]);
    assert!(facts.default_pipe.unwrap().listens);
    let found: Vec<_> = facts.directories.iter().map(|d| (d.device.as_str(), d.listens)).collect();
    assert_eq!(found, [("GPU-1", true), ("GPU-2", false)]);
}

#[test]
fn a_link_in_the_place_of_the_default_directory_is_not_followed() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("/elsewhere/x")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.at("/elsewhere/control")).unwrap();
    symlink(tree.at("/elsewhere"), tree.at("/tmp/nvidia-mps")).unwrap();
    let pipe = tree.facts(&[]).default_pipe.unwrap();
    assert!(!pipe.directory && !pipe.socket);
}

#[test]
fn what_would_never_end_is_not_read() {
    let tree = Tree::new();
    // A pipe without a writer, a directory, and too much.
    let pipe = tree.at("/etc/environment");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    fs::create_dir_all(tree.at("/etc/docker/daemon.json/x")).unwrap();
    tree.write("/etc/cdi/long.yaml", "nvidia.com/gpu ".repeat(1 << 17));
    tree.write("/proc/driver/nvidia-caps/mig-minors", vec![b'x'; (1 << 20) + 1]);
    tree.write("/proc/net/unix", b"\xff\xfe\0\n\n");
    let facts = tree.facts(&[]);
    for part in [Part::Environment, Part::Docker, Part::Cdi, Part::MigMinors] {
        assert!(facts.hidden(&part).is_some(), "{part:?}");
    }
    assert_eq!((facts.variables.len(), facts.containers.cdi.len()), (0, 0));
    assert_eq!(facts.mig_minors, None);
}

#[test]
fn the_group_of_a_job_counts_before_others() {
    for (text, group) in [
        ("0::/a/b\n", Some("/a/b")),
        ("0::/\n", Some("/")),
        ("3:cpu:/deep/deep/deep\n1:name=systemd:/a\n", Some("/a")),
        ("3:cpu:/deep/deep\n1:name=systemd:/\n0::/\n", Some("/deep/deep")),
        (
            "5:freezer:/slurm/uid_1/job_2\n1:name=systemd:/system.slice/x.service\n",
            Some("/slurm/uid_1/job_2"),
        ),
        ("0::/a:b\n", Some("/a:b")),
        ("", None),
        ("rubbish\n", None),
    ] {
        assert_eq!(control_group(text).as_deref(), group, "{text}");
    }
}

#[test]
fn this_machine_can_be_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::below(directory.path()).unwrap();
    let facts = RealMachine::new(&store, None).facts(&[Pid::new(std::process::id())]);
    assert_eq!(facts.declared.len(), 1);
    assert_eq!(facts.directories, []);
}

#[test]
fn a_specification_is_whose_its_kind_says() {
    let tree = Tree::new();
    let gpu = "GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65";
    let text = |kind: &str, mentioned: &str| {
        format!(
            "# beside {mentioned}: --device {mentioned}=UUID\ncdiVersion: 0.5.0\nkind: {kind}\ndevices:\n- name: {gpu}\n"
        )
    };
    tree.write("/etc/cdi/a.yaml", text("nvidia.com/gpu", "gpushare.dev/share"))
        .write("/etc/cdi/b.yml", text("\"gpushare.dev/share\"", "nvidia.com/gpu"))
        .write("/etc/cdi/c.yaml", text("example.com/x", "nvidia.com/gpu"))
        .write("/var/run/cdi/d.json", r#"{"kind": "gpushare.dev/share", "a": "nvidia.com/gpu"}"#)
        .write("/var/run/cdi/e.json", r#"{"a": "gpushare.dev/share", "kind": "nvidia.com/gpu"}"#)
        .write("/var/run/cdi/f.yaml", "# nvidia.com/gpu, gpushare.dev/share");
    let facts = tree.facts(&[]);
    let found = |specs: &[CdiSpec]| -> Vec<_> {
        let each = specs.iter().map(|spec| (spec.path.display().to_string(), spec.uuids.len()));
        each.collect()
    };
    let named = |path: &str, count| (path.to_owned(), count);
    let nvidias = [named("/etc/cdi/a.yaml", 1), named("/var/run/cdi/e.json", 0)];
    assert_eq!(found(&facts.containers.cdi), nvidias);
    let ours = [named("/etc/cdi/b.yml", 1), named("/var/run/cdi/d.json", 0)];
    assert_eq!(found(&facts.containers.shares), ours);
}

/// As gpushare writes it in each mode, before and after somebody else took its devices.
#[cfg(feature = "sim")]
#[test]
fn what_gpushare_writes_is_its_own_and_stale_when_its_devices_are_gone() {
    use crate::export::{Kind, LeaseHook, Options};
    use crate::parameters::{MpsComputeMode, MpsConfig, TimeSlicing};
    use crate::spec::{Instance, Selector, Spec, Want};

    let mps = || MpsConfig { compute_mode: MpsComputeMode::Unchanged, ..MpsConfig::default() };
    let three = || Instance::new("3g".parse().unwrap());
    let shared = || Instance { sharing: Some(crate::spec::Sharing::Mps(mps())), ..three() };
    for (want, leaves) in [
        (Want::Exclusive, false),
        (Want::TimeSliced(TimeSlicing::default()), false),
        (Want::Mps(mps()), false),
        (Want::Mig(Some(vec![three(), three().with_compute(vec![1, 2])])), true),
        (Want::Mig(Some(vec![shared(), three()])), true),
    ] {
        let node = crate::Node::builder().sim("2xH100-80GB").open().unwrap();
        let apply = |want: Want| {
            let spec = Spec::new().gpu([Selector::All], want);
            let options = crate::ApplyOptions::new().allow_reset(true);
            let allowed = crate::hazard::HazardName::ALL.iter();
            let options = allowed.fold(options, |options, name| options.allow_hazard(*name));
            node.apply(&spec, &options).unwrap();
        };
        apply(want.clone());
        let hook = LeaseHook::new("/usr/bin/gpushare").argument("--state-dir=/x");
        let options = Options { lease_hook: Some(hook), ..Options::default() };
        let text = node.export(Kind::Cdi, &options).unwrap().text;
        assert!(text.contains("nvidia.com/gpu"));
        let tree = Tree::new();
        tree.write("/var/run/cdi/gpushare.dev-share_x.yaml", text);
        let facts = tree.facts(&[]);
        assert_eq!((facts.containers.cdi.len(), facts.containers.shares.len()), (0, 1));
        let stale = || {
            let diagnosis = crate::doctor::diagnose(Ok(&node.snapshot().unwrap()), &facts);
            diagnosis.findings_of("share-spec-stale").map(|found| found.evidence.len()).sum()
        };
        let devices: usize =
            node.snapshot().unwrap().gpus.iter().map(|gpu| gpu.mig_devices.len()).sum();
        assert_eq!((stale(), leaves), (0_usize, devices > 0), "{want:?}");
        apply(Want::Exclusive);
        assert_eq!(stale(), devices, "{want:?}");
    }
}
