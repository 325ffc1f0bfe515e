use std::collections::BTreeSet;

use super::*;
use crate::backend::sim::{Loss, ProcessKind, ProcessSpec, Simulator};
use crate::hazard::HazardName;
use crate::id::{GpuIndex, Pid};
use crate::mode::{ComputeMode, Interval, MpsHealth, SharingMode};
use crate::mps::Command;
use crate::parameters::{MpsConfig, Parameters, TimeSlicing};
use crate::port::NvmlReturn;
use crate::snapshot::Visibility;
use crate::spec::{Instance, Selector, Spec, Want};
use crate::units::ThreadPercentage;
use crate::{ApplyOptions, Node};

const FLEET: &str = "2xH200-141GB";

fn node() -> Node {
    Node::builder().sim(FLEET).open().unwrap()
}

fn simulator(node: &Node) -> &Simulator {
    node.simulator().unwrap()
}

/// A healthy node as it is seen.
struct Case {
    snapshot: Snapshot,
    machine: MachineFacts,
}

impl Case {
    fn of(node: &Node) -> Self {
        let (snapshot, machine) = node.examine();
        Self { snapshot: snapshot.unwrap(), machine }
    }

    fn healthy() -> Self {
        Self::of(&node())
    }

    fn diagnose(&self) -> Diagnosis {
        diagnose(Ok(&self.snapshot), &self.machine)
    }
}

fn apply(node: &Node, want: Want) {
    let spec = Spec::new().gpu([Selector::All], want);
    let options = HazardName::ALL
        .iter()
        .fold(ApplyOptions::new(), |options, name| options.allow_hazard(*name));
    node.apply(&spec, &options.allow_reset(true)).unwrap();
}

fn mps(percentage: f64) -> Want {
    let thread_percentage = ThreadPercentage::new(percentage).unwrap();
    Want::Mps(MpsConfig { thread_percentage, ..MpsConfig::default() })
}

fn with_mps(percentage: f64) -> Case {
    let node = node();
    apply(&node, mps(percentage));
    Case::of(&node)
}

fn with_mig(instances: Vec<Instance>) -> Case {
    let node = node();
    apply(&node, Want::Mig(Some(instances)));
    Case::of(&node)
}

fn three() -> Instance {
    Instance::new("3g".parse().unwrap())
}

fn changed(change: impl FnOnce(&mut Case)) -> Diagnosis {
    let mut case = Case::healthy();
    change(&mut case);
    case.diagnose()
}

fn failed(ret: NvmlReturn, change: impl FnOnce(&mut MachineFacts)) -> Diagnosis {
    let error: Error = crate::port::NvmlFailure::new("nvmlInit_v2", ret).into();
    let mut machine = MachineFacts::default();
    change(&mut machine);
    diagnose(Err(&error), &machine)
}

fn unwell(health: MpsHealth) -> Diagnosis {
    let mut case = with_mps(25.0);
    let daemon = case.snapshot.gpus[0].mps.as_mut().unwrap();
    daemon.alive = false;
    daemon.health = Some(health);
    case.snapshot.gpus[0].mode = SharingMode::Degraded;
    case.diagnose()
}

fn daemon(directory: &str, ours: bool, cgroup: &str) -> DaemonProcess {
    DaemonProcess {
        pid: Pid::new(77),
        uid: Some(0),
        directory: Some(directory.into()),
        ours,
        cgroup: Some(cgroup.to_owned()),
    }
}

fn pipe(directory: bool, listens: bool) -> PipeDirectory {
    let path = "/tmp/nvidia-mps".into();
    PipeDirectory { path, directory, uid: 1000, socket: true, listens }
}

fn client(variables: &[(&str, &str)]) -> Diagnosis {
    let node = node();
    apply(&node, mps(90.0));
    let gpu = simulator(&node).gpus().unwrap()[0].clone();
    let spec = ProcessSpec::new("train").doing(ProcessKind::MpsClient).with_environment(variables);
    simulator(&node).busy(&gpu, spec).unwrap();
    Case::of(&node).diagnose()
}

fn spec_file(there: bool) -> SpecFile {
    SpecFile { path: "/etc/gpushare/node.yaml".into(), there }
}

/// A diagnosis in which that check finds something.
fn provoke(id: &str) -> Diagnosis {
    match id {
        "library-missing" => failed(NvmlReturn::LIBRARY_NOT_FOUND, |machine| {
            machine.library = Some(Library::default());
        }),
        "driver-not-loaded" => failed(NvmlReturn::DRIVER_NOT_LOADED, |machine| {
            machine.nouveau = true;
            machine.pci_gpus = Some(2);
        }),
        "driver-mismatch" => failed(NvmlReturn::LIB_RM_VERSION_MISMATCH, |machine| {
            machine.module = Some(Some("570.1".to_owned()));
            machine.library =
                Some(Library { path: "/usr/lib/x".into(), version: Some("580.1".to_owned()) });
        }),
        "driver-fails" => failed(NvmlReturn::NO_PERMISSION, |_| {}),
        "no-gpu" => changed(|case| {
            case.snapshot.gpus.clear();
            case.machine.listed = Some(0);
        }),
        "device-node-missing" => changed(|case| case.machine.nodes.clear()),
        "device-node-wrong" => changed(|case| {
            case.machine.nodes[0].minor = 7;
            case.machine.nodes[1].device = false;
        }),
        "device-node-closed" => changed(|case| case.machine.nodes[0].mode = 0o600),
        "capability-node-missing" => {
            let mut case = with_mig(vec![three(), three()]);
            case.machine.nodes.retain(|node| !node.path.starts_with("/dev/nvidia-caps"));
            case.diagnose()
        }
        "persistence-off" => changed(|case| case.machine.persistenced = false),
        "tool-missing" => changed(|case| case.snapshot.abilities.mps = false),
        "toolkit-missing" => {
            changed(|case| case.machine.containers.engines.push("docker".to_owned()))
        }
        "docker-runtime-missing" => changed(|case| {
            case.machine.containers.engines.push("docker".to_owned());
            case.machine.containers.toolkit.push("/usr/bin/nvidia-ctk".into());
        }),
        "cdi-spec-missing" => changed(|case| {
            case.machine.containers.engines.push("podman".to_owned());
            case.machine.containers.toolkit.push("/usr/bin/nvidia-ctk".into());
        }),
        "cdi-spec-stale" => changed(|case| {
            let there = case.snapshot.gpus[0].uuid.to_string();
            let uuids = vec![there, "MIG-0592d622-20bf-7ecf-264d-0fa1bfef88d3".to_owned()];
            case.machine.containers.cdi.push(CdiSpec { path: "/etc/cdi/n.yaml".into(), uuids });
        }),
        "share-spec-stale" => changed(|case| {
            let there = case.snapshot.gpus[0].uuid.to_string();
            let uuids = vec!["MIG-0592d622-20bf-7ecf-264d-0fa1bfef88d3".to_owned(), there];
            case.machine.containers.shares.push(CdiSpec { path: "/run/n.yaml".into(), uuids });
        }),
        "gpu-lost" => {
            let node = node();
            let gpu = simulator(&node).gpus().unwrap()[0].clone();
            simulator(&node).lose(&gpu, Loss::Lost).unwrap();
            Case::of(&node).diagnose()
        }
        "change-unfinished" => {
            changed(|case| case.snapshot.gpus[0].unsettled = Some("x.jsonl".to_owned()))
        }
        "mode-pending" => changed(|case| {
            case.snapshot.gpus[0].mig.as_mut().unwrap().pending = true;
            case.snapshot.gpus[0].mode = SharingMode::Pending;
        }),
        "mode-closed" => compute_mode(ComputeMode::Prohibited),
        "exclusive-left-behind" => compute_mode(ComputeMode::ExclusiveProcess),
        "mode-drift" => {
            let node = node();
            apply(&node, Want::Exclusive);
            let gpu = simulator(&node).gpus().unwrap()[0].clone();
            let mut nvml = node.ports().nvml.open().unwrap();
            nvml.set_compute_mode(&gpu, ComputeMode::Default).unwrap();
            Case::of(&node).diagnose()
        }
        "record-stale" => {
            let node = node();
            apply(&node, Want::Exclusive);
            simulator(&node).reboot().unwrap();
            Case::of(&node).diagnose()
        }
        "sharing-not-stored" => {
            let mut case = with_mps(25.0);
            case.machine.stored_spec = Some(spec_file(false));
            case.diagnose()
        }
        "instance-without-compute" => with_mig(vec![three().with_compute(Vec::new())]).diagnose(),
        "daemon-dead" => unwell(MpsHealth::Gone),
        "daemon-frozen" => unwell(MpsHealth::Frozen),
        "daemon-strange" => unwell(MpsHealth::Unknown),
        "daemon-closed" => unwell(MpsHealth::Answers),
        "daemon-drift" => {
            let node = node();
            apply(&node, mps(25.0));
            let gpu = simulator(&node).gpus().unwrap()[0].clone();
            let set = Command::SetDefaultThreadPercentage(ThreadPercentage::FULL);
            simulator(&node).tell_mps_daemon(&gpu.into(), &set).unwrap();
            Case::of(&node).diagnose()
        }
        "hazard-in-force" => with_mps(40.0).diagnose(),
        "declared-percentage-corrupts" => client(&[("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "40")]),
        "foreign-daemon" => {
            let node = node();
            let gpu = simulator(&node).gpus().unwrap()[0].clone();
            let server = ProcessSpec::new("x").running("nvidia-cuda-mps-server");
            simulator(&node).busy(&gpu, server).unwrap();
            Case::of(&node).diagnose()
        }
        "daemon-dies-with-its-group" => changed(|case| {
            let group = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0";
            case.machine.daemons.push(daemon("/run/gpushare/mps/x", true, group));
        }),
        "default-directory-in-use" => {
            changed(|case| case.machine.default_pipe = Some(pipe(true, true)))
        }
        "default-directory-left" => {
            changed(|case| case.machine.default_pipe = Some(pipe(true, false)))
        }
        "default-directory-strange" => {
            changed(|case| case.machine.default_pipe = Some(pipe(false, false)))
        }
        "environment-for-all" => changed(|case| {
            let variable = ("CUDA_MPS_PIPE_DIRECTORY".to_owned(), "/x".to_owned());
            case.machine.variables.push(variable);
        }),
        "daemon-directory-left" => changed(|case| {
            case.machine.directories.push(MpsDirectory {
                path: "/run/gpushare/mps/MIG-gone".into(),
                device: "MIG-gone".to_owned(),
                listens: true,
            });
        }),
        other => panic!("nothing provokes {other}"),
    }
}

fn compute_mode(mode: ComputeMode) -> Diagnosis {
    let node = node();
    let gpu = simulator(&node).gpus().unwrap()[0].clone();
    node.ports().nvml.open().unwrap().set_compute_mode(&gpu, mode).unwrap();
    Case::of(&node).diagnose()
}

/// Each check is in one of the three lists.
#[track_caller]
fn expect_complete(diagnosis: &Diagnosis) {
    let found = diagnosis.findings.iter().map(|finding| &finding.id);
    let unseen = diagnosis.unseen.iter().flat_map(|unseen| &unseen.checks);
    let named: BTreeSet<&str> =
        found.clone().chain(unseen.clone()).chain(&diagnosis.checked).map(String::as_str).collect();
    assert_eq!(named, check_ids().collect());
    let open: BTreeSet<_> = found.chain(unseen).collect();
    assert!(diagnosis.checked.iter().all(|id| !open.contains(id)));
    let text = serde_json::to_string(diagnosis).unwrap();
    assert_eq!(Diagnosis::from_json(&text).unwrap(), *diagnosis);
}

#[test]
fn every_check_finds_what_it_is_for() {
    for id in check_ids() {
        let diagnosis = provoke(id);
        expect_complete(&diagnosis);
        let mut found = diagnosis.findings_of(id).peekable();
        assert!(found.peek().is_some(), "{id}: {diagnosis}");
        for finding in found {
            assert!(!finding.summary.is_empty() && !finding.evidence.is_empty(), "{finding}");
            assert!(!finding.mend.is_empty() && !finding.source.is_empty(), "{finding}");
            let text = diagnosis.to_string();
            assert!(text.contains(&finding.mend) && text.contains(id), "{text}");
        }
        assert!(diagnosis.findings.is_sorted_by_key(|finding| finding.severity));
        let mended = diagnosis.findings.iter().all(|f| f.severity == Severity::Notice);
        assert_eq!(diagnosis.needs_mending(), !mended);
    }
}

/// What a check is for provokes that check alone, or with it what cannot be otherwise.
#[test]
fn nothing_else_is_found_beside_it() {
    for id in check_ids() {
        let diagnosis = provoke(id);
        let mut others: BTreeSet<_> = diagnosis.findings.iter().map(|f| f.id.as_str()).collect();
        others.remove(id);
        assert!(others.is_empty(), "{id}: {others:?}");
    }
}

#[test]
fn ids_are_stable_words() {
    let ids: Vec<_> = check_ids().collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for id in ids {
        assert!(id.split('-').all(|word| !word.is_empty()), "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
    }
}

#[test]
fn a_healthy_node_passes_every_check_in_every_mode() {
    let wants = [
        None,
        Some(Want::Exclusive),
        Some(Want::TimeSliced(TimeSlicing::default().with_interval(Interval::Long))),
        Some(mps(25.0)),
        Some(mps(100.0)),
        Some(Want::Mig(Some(vec![three(), three()]))),
    ];
    for want in wants {
        let node = node();
        if let Some(want) = want.clone() {
            apply(&node, want);
        }
        let diagnosis = node.doctor();
        assert_eq!(diagnosis.findings, [], "{want:?}");
        assert_eq!(diagnosis.unseen, [], "{want:?}");
        assert!(diagnosis.simulated && !diagnosis.needs_mending());
        expect_complete(&diagnosis);
        // With all that may be there besides, and as it should be.
        let mut case = Case::of(&node);
        let gpus = case.snapshot.gpus.iter();
        let uuids = gpus.flat_map(|gpu| {
            let devices = gpu.mig_devices.iter().map(|device| device.uuid.to_string());
            devices.chain([gpu.uuid.to_string()])
        });
        let uuids: Vec<_> = uuids.collect();
        let spec = |path: &str| CdiSpec { path: path.into(), uuids: uuids.clone() };
        case.machine.containers.cdi.push(spec("/etc/cdi/nvidia.yaml"));
        case.machine.containers.shares.push(spec("/var/run/cdi/ours.yaml"));
        case.machine.stored_spec = Some(spec_file(true));
        let diagnosis = case.diagnose();
        assert_eq!((diagnosis.findings, diagnosis.unseen), (vec![], vec![]), "{want:?}");
    }
}

#[test]
fn without_a_driver_nothing_about_gpus_has_passed() {
    for ret in (1..=30).chain([999]).map(NvmlReturn) {
        let diagnosis = failed(ret, |_| {});
        expect_complete(&diagnosis);
        assert_eq!(diagnosis.findings.len(), 1, "{ret:?}: {diagnosis}");
        assert!(diagnosis.needs_mending());
        for check in CHECKS.iter().filter(|check| !matches!(check.look, Look::Machine(_))) {
            assert!(!diagnosis.checked.iter().any(|id| id == check.id), "{}", check.id);
        }
    }
}

#[test]
fn what_is_hidden_has_not_passed() {
    let pid = Pid::new(77);
    let mut case = with_mig(vec![three()]);
    case.machine.containers.engines = vec!["docker".to_owned(), "podman".to_owned()];
    case.machine.containers.toolkit.push("/usr/bin/nvidia-ctk".into());
    case.machine.daemons.push(DaemonProcess {
        pid,
        uid: None,
        directory: None,
        ours: false,
        cgroup: None,
    });
    for (part, checks) in [
        (Part::MigMinors, &["capability-node-missing"][..]),
        (Part::Docker, &["docker-runtime-missing"]),
        (Part::Cdi, &["cdi-spec-missing", "cdi-spec-stale", "share-spec-stale"]),
        (Part::Environment, &["declared-percentage-corrupts", "environment-for-all"]),
        (
            Part::DefaultPipe,
            &["default-directory-in-use", "default-directory-left", "default-directory-strange"],
        ),
        (Part::Sockets, &["default-directory-in-use", "default-directory-left"]),
        (Part::Daemon(pid), &["foreign-daemon", "daemon-dies-with-its-group"]),
        (Part::Directories, &["daemon-directory-left"]),
        (Part::StoredSpec, &["sharing-not-stored"]),
    ] {
        let mut machine = case.machine.clone();
        machine.hide(part.clone(), "root");
        let diagnosis = diagnose(Ok(&case.snapshot), &machine);
        expect_complete(&diagnosis);
        for id in checks {
            assert!(!diagnosis.checked.iter().any(|checked| checked == id), "{part:?} {id}");
            let unseen = diagnosis.unseen.iter().find(|u| u.checks.iter().any(|c| c == id));
            assert!(unseen.is_some_and(|unseen| unseen.needed == "root"), "{part:?} {id}");
        }
    }
}

#[test]
fn a_client_whose_environment_is_hidden_is_said() {
    let node = node();
    apply(&node, mps(90.0));
    let gpu = simulator(&node).gpus().unwrap()[0].clone();
    let hidden = ProcessSpec::new("train").doing(ProcessKind::MpsClient);
    simulator(&node).busy(&gpu, hidden).unwrap();
    let diagnosis = node.doctor();
    let unseen = &diagnosis.unseen[0];
    assert_eq!(unseen.checks, ["declared-percentage-corrupts"]);
    expect_complete(&diagnosis);
}

#[test]
fn only_what_changes_results_is_a_declared_percentage_to_mend() {
    let id = "declared-percentage-corrupts";
    let found = |value: &str| {
        let diagnosis = client(&[("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", value), ("SECRET", "x")]);
        assert!(!diagnosis.to_string().contains("SECRET"));
        diagnosis.findings_of(id).count()
    };
    for (value, count) in [
        ("40", 1),
        ("33.3", 1),
        ("89", 1),
        ("25", 0),
        ("100", 0),
        ("90", 0),
        ("0", 0),
        ("-40", 0),
        ("forty", 0),
        ("", 0),
        ("NaN", 0),
    ] {
        assert_eq!(found(value), count, "{value}");
    }
    // Without MPS the variable does nothing.
    let node = node();
    let gpu = simulator(&node).gpus().unwrap()[0].clone();
    let told = [("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "40")];
    simulator(&node).busy(&gpu, ProcessSpec::new("x").with_environment(&told)).unwrap();
    assert_eq!(node.doctor().findings, []);
}

#[test]
fn what_every_login_is_told_is_judged_for_each_gpu() {
    let diagnosis = changed(|case| {
        let variable = ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE".to_owned(), "33".to_owned());
        case.machine.variables.push(variable);
    });
    assert_eq!(diagnosis.findings_of("declared-percentage-corrupts").count(), 2);
    assert_eq!(diagnosis.findings_of("environment-for-all").count(), 1);
}

#[test]
fn a_group_says_who_ends_its_daemon() {
    let ended = |group: &str, ours: bool| {
        let diagnosis = changed(|case| {
            case.machine.daemons.push(daemon("/x", ours, group));
        });
        diagnosis.findings_of("daemon-dies-with-its-group").count() == 1
    };
    for (group, ours, others) in [
        ("/", false, false),
        ("", false, false),
        ("/init.scope", false, false),
        ("/system.slice/run-r123.scope", false, false),
        ("/system.slice/nvidia-mps.service", true, false),
        ("/system.slice/gpushare-prolog.service", true, false),
        ("/user.slice/user-1000.slice/session-3.scope", true, true),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", true, true),
        ("/slurm/uid_1000/job_12/step_0", true, true),
        ("/slurm_node1/uid_1000/job_12/step_batch", true, true),
        ("/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", true, true),
        ("/docker/0123", true, true),
        ("/system.slice/docker-0123.scope", true, true),
        ("/system.slice/docker.service", true, false),
        ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope", true, true),
        ("/machine.slice/libpod-1.scope/container", true, true),
    ] {
        assert_eq!(ended(group, true), ours, "{group}");
        assert_eq!(ended(group, false), others, "{group}");
    }
}

#[test]
fn records_and_their_commands_lead_back() {
    let cases = [
        (Parameters::Exclusive, "exclusive -i 0"),
        (
            Parameters::TimeSliced(TimeSlicing::default()),
            "time-slice --replicas 4 --interval default -i 0",
        ),
        (Parameters::Mig, "apply SPEC, with the spec that it had"),
    ];
    for (parameters, mend) in cases {
        let diagnosis = changed(|case| {
            let mut epoch = case.snapshot.epoch.clone();
            epoch.boot_id = "another".to_owned();
            let prior = crate::snapshot::Prior::default();
            let record = crate::snapshot::Record::new(epoch, parameters.clone(), prior);
            case.snapshot.gpus[0].record = Some(record);
        });
        let finding = diagnosis.findings_of("record-stale").next().unwrap();
        let stored = "gpushare restore where it was stored for the next boot, else gpushare";
        assert_eq!(finding.mend, format!("{stored} {mend}"));
    }
}

#[test]
fn only_the_gpus_that_were_asked_about_are_looked_at() {
    let mut case = Case::healthy();
    for gpu in &mut case.snapshot.gpus {
        gpu.unsettled = Some("x.jsonl".to_owned());
    }
    let uuid = case.snapshot.gpus[1].uuid.clone();
    // The specification names a GPU that is there and was not asked about.
    let other = case.snapshot.gpus[0].uuid.to_string();
    case.machine.containers.cdi.push(CdiSpec { path: "/x".into(), uuids: vec![other] });
    let diagnosis = diagnose_gpus(&case.snapshot, &case.machine, std::slice::from_ref(&uuid));
    let found: Vec<_> =
        diagnosis.findings.iter().map(|f| (f.id.as_str(), f.gpu.as_ref())).collect();
    assert_eq!(found, [("change-unfinished", Some(&uuid))]);
    expect_complete(&diagnosis);
}

#[test]
fn instances_that_are_hidden_are_said() {
    let mut case = with_mig(vec![three()]);
    for gpu in &mut case.snapshot.gpus {
        gpu.visibility = Visibility::Partial { missing: vec!["mig/config".to_owned()] };
    }
    let diagnosis = case.diagnose();
    assert_eq!(diagnosis.unseen.len(), 2);
    assert_eq!(diagnosis.unseen[0].needed, "mig/config");
    expect_complete(&diagnosis);
}

#[test]
fn nothing_of_others_reaches_a_terminal_as_it_is() {
    let diagnosis = changed(|case| {
        case.machine.variables.push(("CUDA_MPS_PIPE_DIRECTORY".to_owned(), "\x1b[2J\n".to_owned()));
        case.machine.daemons.push(daemon("/x\x1b[31m\n", false, "/docker/\x1b"));
    });
    let text = diagnosis.to_string();
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(
        text.matches("    seen    ").count(),
        diagnosis.findings.iter().map(|f| f.evidence.len()).sum::<usize>()
    );
}

/// Whatever else is so: who manages a GPU, whether a spec is stored, whether that could be seen.
#[test]
fn only_what_gpushare_set_and_nothing_would_bring_back_is_not_stored() {
    let id = "sharing-not-stored";
    let node = node();
    let spec = Spec::new().gpu([Selector::Index(GpuIndex::new(1))], Want::Exclusive);
    node.apply(&spec, &ApplyOptions::new()).unwrap();
    let managed = Case::of(&node);
    simulator(&node).reboot().unwrap();
    let rebooted = Case::of(&node);
    let uuid = managed.snapshot.gpus[1].uuid.clone();
    for (case, is_managed) in [(&managed, true), (&rebooted, false), (&Case::healthy(), false)] {
        for stored in [None, Some(spec_file(true)), Some(spec_file(false))] {
            for hidden in [false, true] {
                let mut machine = case.machine.clone();
                machine.stored_spec.clone_from(&stored);
                if hidden {
                    machine.hide(Part::StoredSpec, "root");
                }
                let diagnosis = diagnose(Ok(&case.snapshot), &machine);
                expect_complete(&diagnosis);
                let lost = stored == Some(spec_file(false));
                let found: Vec<_> = diagnosis.findings_of(id).collect();
                assert_eq!(found.len(), usize::from(is_managed && lost && !hidden), "{diagnosis}");
                assert_eq!(diagnosis.unseen.len(), usize::from(is_managed && hidden));
                for finding in found {
                    assert_eq!((finding.severity, &finding.gpu), (Severity::Notice, &None));
                    assert_eq!(finding.evidence.len(), 2, "{finding}");
                    assert!(finding.evidence[0].contains("/etc/gpushare/node.yaml"), "{finding}");
                    assert!(finding.evidence[1].contains(uuid.as_str()), "{finding}");
                    let mend = "gpushare persist && systemctl enable gpushare-restore.service";
                    assert_eq!(finding.mend, mend);
                }
                // The other GPU is nobody's.
                let other = std::slice::from_ref(&case.snapshot.gpus[0].uuid);
                let diagnosis = diagnose_gpus(&case.snapshot, &machine, other);
                assert!(diagnosis.checked.iter().any(|checked| checked == id), "{diagnosis}");
            }
        }
    }
}

/// A GPU that no spec has a word for cannot be stored, and another finding says what it is.
#[test]
fn what_cannot_be_stored_is_not_asked_to_be() {
    for mode in [SharingMode::Lost, SharingMode::Pending, SharingMode::Closed, SharingMode::Foreign]
    {
        let mut case = with_mps(25.0);
        case.machine.stored_spec = Some(spec_file(false));
        case.snapshot.gpus[0].mode = mode;
        let diagnosis = case.diagnose();
        let finding = diagnosis.findings_of("sharing-not-stored").next().unwrap();
        assert_eq!(finding.evidence.len(), 2, "{mode}: {finding}");
        case.snapshot.gpus[1].mode = mode;
        assert_eq!(case.diagnose().findings_of("sharing-not-stored").count(), 0, "{mode}");
    }
}

#[test]
fn our_specifications_are_none_of_nvidias() {
    let provoked = |share: bool, id: &str| {
        let diagnosis = changed(|case| {
            case.machine.containers.engines = vec!["docker".to_owned(), "podman".to_owned()];
            case.machine.containers.toolkit.push("/usr/bin/nvidia-ctk".into());
            let uuids = vec![case.snapshot.gpus[0].uuid.to_string()];
            let spec = CdiSpec { path: "/etc/cdi/x.yaml".into(), uuids };
            let containers = &mut case.machine.containers;
            if share { &mut containers.shares } else { &mut containers.cdi }.push(spec);
        });
        assert_eq!(diagnosis.findings_of("cdi-spec-stale").count(), 0);
        assert_eq!(diagnosis.findings_of("share-spec-stale").count(), 0);
        diagnosis.findings_of(id).count()
    };
    for id in ["cdi-spec-missing", "docker-runtime-missing"] {
        assert_eq!((provoked(true, id), provoked(false, id)), (1, 0), "{id}");
    }
}

/// Each list has its own check, and each file its own finding.
#[test]
fn a_stale_specification_is_whose_it_is() {
    let gone = "MIG-0592d622-20bf-7ecf-264d-0fa1bfef88d3";
    for (share, id, mend) in [
        (true, "share-spec-stale", "gpushare recover"),
        (false, "cdi-spec-stale", "nvidia-ctk cdi generate --output=/b b.yaml"),
    ] {
        let diagnosis = changed(|case| {
            let there = case.snapshot.gpus[0].uuid.to_string();
            let spec = |path: &str, uuid: &str| CdiSpec {
                path: path.into(),
                uuids: vec![there.clone(), uuid.to_owned(), there.to_lowercase()],
            };
            let specs =
                vec![spec("/a.yaml", &there), spec("/b b.yaml", gone), spec("/c.yaml", gone)];
            let containers = &mut case.machine.containers;
            *if share { &mut containers.shares } else { &mut containers.cdi } = specs;
        });
        assert!(diagnosis.findings.iter().all(|finding| finding.id == id), "{diagnosis}");
        assert_eq!(diagnosis.findings.len(), 2);
        let finding = &diagnosis.findings[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.summary.contains("/b b.yaml") && finding.mend.starts_with(mend));
        assert_eq!(finding.evidence, [format!("{gone} is in it and not on this node")]);
        assert_eq!(finding.mend.contains("rm '/b b.yaml'"), share, "{finding}");
    }
}

/// What is hidden may be there.
#[test]
fn a_mig_device_is_not_said_to_be_gone_by_who_cannot_see_all() {
    let mut case = with_mig(vec![three()]);
    let visibility = Visibility::Partial { missing: vec!["mig/config".to_owned()] };
    case.snapshot.gpus[0].visibility = visibility;
    for (uuid, count) in [
        ("MIG-0592d622-20bf-7ecf-264d-0fa1bfef88d3", 0),
        ("GPU-0592d622-20bf-7ecf-264d-0fa1bfef88d3", 1),
    ] {
        let spec = CdiSpec { path: "/x".into(), uuids: vec![uuid.to_owned()] };
        case.machine.containers.shares = vec![spec.clone()];
        case.machine.containers.cdi = vec![spec];
        let diagnosis = case.diagnose();
        for id in ["share-spec-stale", "cdi-spec-stale"] {
            assert_eq!(diagnosis.findings_of(id).count(), count, "{diagnosis}");
            let unseen = &diagnosis.unseen[0].checks;
            assert_eq!(unseen.iter().any(|check| check == id), count == 0, "{diagnosis}");
        }
        expect_complete(&diagnosis);
    }
}
