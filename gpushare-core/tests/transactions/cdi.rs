//! CDI specifications: whatever fails, at whatever call, none promises what is not there.

use std::path::{Path, PathBuf};

use gpushare_core::apply::CdiSpecifications;
use gpushare_core::backend::sim::{Death, Failure, Fault, ProcessSpec, Rules};
use gpushare_core::export::{Cdi, Kind, LeaseHook, Options};
use gpushare_core::{ApplyOptions, ErrorCode, Outcome};

use crate::scenario::{Scenario, World, options, spec};

fn scenarios() -> Vec<Scenario> {
    let mig = |instances: &str| spec("mig", &format!(r#"{{"instances": {instances}}}"#));
    vec![
        Scenario::new("1xH100-80GB", mig(r#"{"3g": 2}"#), mig(r#"{"3g": 1, "1g": 2}"#)),
        Scenario::new("1xH100-80GB", spec("exclusive", ""), mig(r#"{"7g": 1}"#)),
        Scenario::new(
            "1xH100-80GB",
            spec("mps", r#"{"max_clients": 2}"#),
            spec("time_sliced", r#"{"replicas": 3}"#),
        ),
        Scenario::new("1xA100-40GB", mig(r#"{"3g": 2}"#), spec("exclusive", ""))
            .rules(|rules: &mut Rules| rules.mode_change_stays_pending = true),
    ]
}

/// What becomes of the specifications: before the change and by it.
const CHOICES: [(bool, Option<bool>); 4] =
    [(true, None), (false, Some(true)), (true, Some(true)), (true, Some(false))];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        // In memory, where it can be: it is written to some thousand times.
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn keep(&self) -> CdiSpecifications {
        CdiSpecifications::Keep(Cdi::new(self.0.path()))
    }

    /// What a container runtime finds there; what is being written has another ending.
    fn files(&self) -> Vec<PathBuf> {
        files(self.0.path())
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

/// What the specification of the only GPU must be now.
fn expected(world: &World) -> String {
    world.node.export(Kind::Cdi, &Options::default()).unwrap().text
}

#[track_caller]
fn expect_true(world: &World, place: &Place, what: &dyn Fn() -> String) {
    for file in place.files() {
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            expected(world),
            "{} promises what is not there: {}",
            file.display(),
            what()
        );
    }
}

/// A world in the scenario's first state, with a specification or without.
fn start(scenario: &Scenario, place: &Place, kept: bool) -> World {
    let world = scenario.start();
    if kept {
        let spec = scenario.from[0].parse().unwrap();
        let report = world.node.apply(&spec, &options().cdi(place.keep())).unwrap();
        assert_eq!(report.cdi_specifications, place.files(), "nothing else was to do");
        assert_eq!(report.steps, 0);
        assert_eq!(place.files().len(), 1);
    }
    expect_true(&world, place, &|| format!("at the start of {scenario:?}"));
    world.faults.revive();
    world
}

fn choice(place: &Place, chosen: Option<bool>) -> ApplyOptions {
    options().cdi(match chosen {
        None => CdiSpecifications::AsBefore,
        Some(true) => place.keep(),
        Some(false) => CdiSpecifications::Remove,
    })
}

#[test]
fn specifications_are_true_wherever_an_apply_fails_or_ends() {
    let mut runs = 0;
    for scenario in scenarios() {
        for (kept, chosen) in CHOICES {
            let place = Place::new();
            let world = start(&scenario, &place, kept);
            let target = scenario.target();
            let report = world.node.apply(&target, &choice(&place, chosen)).unwrap();
            let calls = world.faults.calls();
            let keeps = chosen.unwrap_or(kept);
            assert_eq!(place.files().len(), usize::from(keeps));
            assert_eq!(report.cdi_specifications, place.files());
            expect_true(&world, &place, &|| format!("after {scenario:?}"));
            for call in &calls {
                let mut faults = vec![Fault::Fail(Failure::default()), Fault::Die(Death::After)];
                if call.mutating {
                    faults.push(Fault::FailAfter(Failure::default()));
                    faults.push(Fault::Die(Death::Before));
                }
                for fault in faults {
                    runs += 1;
                    let what = || {
                        let (name, number) = (&call.name, call.number);
                        format!(
                            "{name} (call {number}), {fault:?}, {kept} {chosen:?}, {scenario:?}"
                        )
                    };
                    let place = Place::new();
                    let world = start(&scenario, &place, kept);
                    world.faults.at(call.number, fault);
                    let result = world.node.apply(&target, &choice(&place, chosen));
                    let died = world.faults.is_dead();
                    world.faults.revive();
                    expect_true(&world, &place, &what);
                    let files = place.files().len();
                    match &result {
                        Ok(_) if !died => assert_eq!(files, usize::from(keeps), "{}", what()),
                        Err(error) if !died && error.outcome() != Outcome::Indeterminate => {
                            assert_eq!(files, usize::from(kept), "{error:?}: {}", what());
                        }
                        _ => {}
                    }
                    world.node.recover().unwrap_or_else(|error| panic!("{error:?}: {}", what()));
                    expect_true(&world, &place, &what);
                    let files = place.files().len();
                    if kept && keeps {
                        assert_eq!(files, 1, "{}", what());
                    }
                    // A file that nobody knows of would be there for good.
                    let noted = world.node.ports().store.list("cdi").unwrap().len();
                    assert!(files <= noted, "{}", what());
                    // And from now on it follows again, or there is none.
                    world.node.apply(&target, &choice(&place, chosen)).unwrap();
                    assert_eq!(place.files().len(), usize::from(keeps), "{}", what());
                    expect_true(&world, &place, &what);
                }
            }
        }
    }
    assert!(runs > 800, "{runs}");
}

#[test]
fn every_change_is_followed_and_a_change_of_others_is_mended() {
    let place = Place::new();
    let world = World::new("2xH100-80GB");
    let follow = |spec: &str| {
        world.node.apply(&spec.parse().unwrap(), &options()).unwrap();
        place.files().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    let first = spec("mig", r#"{"instances": {"3g": 1}}"#);
    world.node.apply(&first.parse().unwrap(), &options().cdi(place.keep())).unwrap();
    assert_eq!(place.files().len(), 2);
    let mut seen = Vec::new();
    for target in [
        spec("mig", r#"{"instances": {"3g": 1, "1g": 1}}"#),
        spec("exclusive", ""),
        spec("mps", r#"{"max_clients": 2}"#),
        spec("time_sliced", r#"{"replicas": 2}"#),
        spec("mig", r#"{"instances": {"1g": 7}}"#),
    ] {
        let files = follow(&target);
        assert_eq!(files.len(), 2, "{target}");
        let snapshot = world.snapshot();
        for gpu in &snapshot.gpus {
            let of_gpu = files.iter().find(|text| text.contains(gpu.uuid.as_str())).unwrap();
            for share in &gpu.shares {
                assert!(of_gpu.contains(&format!("GPUSHARE_SHARES={}", share.id)), "{of_gpu}");
            }
        }
        assert!(!seen.contains(&files));
        seen.push(files);
    }
    // One without shares has no file.
    assert!(follow(&spec("mig", r#"{"instances": {}}"#)).is_empty());
    assert_eq!(follow(&first).len(), 2);

    // Somebody else destroys an instance, and another one removes a file.
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    let before = world.snapshot();
    let instance = &before.gpus[0].mig.as_ref().unwrap().gpu_instances[0];
    let ports = world.node.ports();
    let mut nvml = ports.nvml.open().unwrap();
    nvml.destroy_compute_instance(&gpu, instance.id, instance.compute_instances[0].id).unwrap();
    nvml.destroy_gpu_instance(&gpu, instance.id).unwrap();
    drop(nvml);
    let other =
        place.files().into_iter().find(|path| !path.to_str().unwrap().contains(gpu.as_str()));
    std::fs::remove_file(other.as_ref().unwrap()).unwrap();
    let report = world.node.recover().unwrap();
    assert_eq!(report.cdi_specifications, [other.unwrap()]);
    assert_eq!(place.files(), report.cdi_specifications, "the one of no instance is gone");
    // Once is enough.
    assert!(world.node.recover().unwrap().cdi_specifications.is_empty());
    // An apply that has nothing else to do puts back what is missing.
    std::fs::remove_file(&place.files()[0]).unwrap();
    let second = crate::scenario::entry("1", "mig", r#"{"instances": {"3g": 1}}"#);
    let report = world.node.apply(&second.parse().unwrap(), &options()).unwrap();
    assert_eq!((report.steps, report.cdi_specifications), (0, place.files()));
    // Nothing of it is there after the last.
    let there = place.files();
    let remove = options().cdi(CdiSpecifications::Remove);
    let report = world.node.apply(&first.parse().unwrap(), &remove).unwrap();
    assert!(place.files().is_empty());
    assert_eq!(report.removed_cdi_specifications, there);
    assert!(report.to_string().contains("Removed 1 CDI specification from "), "{report}");
    assert!(world.node.ports().store.list("cdi").unwrap().is_empty());
}

/// Another GPU has the index of one that is gone: two devices of one name would be none.
#[test]
fn one_that_is_gone_takes_its_names_along() {
    let place = Place::new();
    let world = World::new("2xH100-80GB");
    let one = spec("exclusive", "").parse().unwrap();
    world.node.apply(&one, &options().cdi(place.keep())).unwrap();
    let gone = world.simulator.gpus().unwrap()[0].clone();
    world.simulator.lose(&gone, gpushare_core::backend::sim::Loss::Gone).unwrap();
    let rest = crate::scenario::entry("0", "time_sliced", r#"{"replicas": 1}"#).parse().unwrap();
    world.node.apply(&rest, &options()).unwrap();
    let files = place.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(!files[0].to_str().unwrap().contains(gone.as_str()));
    let text = std::fs::read_to_string(&files[0]).unwrap();
    assert!(text.contains("name: gpu0\n"), "{text}");
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused_before_anything_is_touched() {
    let world = World::new("1xH100-80GB");
    let old = world.states();
    let target = spec("mig", r#"{"instances": {"7g": 1}}"#).parse().unwrap();
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("file");
    std::fs::write(&file, "").unwrap();
    let link = here.path().join("link");
    std::os::unix::fs::symlink(here.path(), &link).unwrap();
    let open = here.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&open, mode).unwrap();
    for (place, code) in [
        (Path::new("relative"), ErrorCode::InvalidArgument),
        // Containers of this machine look there.
        (Path::new("/var/run/cdi"), ErrorCode::InvalidArgument),
        (Path::new("/etc/cdi"), ErrorCode::InvalidArgument),
        (Path::new("/var/../run/./cdi/"), ErrorCode::InvalidArgument),
        (&file, ErrorCode::PermissionDenied),
        (&link, ErrorCode::PermissionDenied),
        (&open, ErrorCode::PermissionDenied),
    ] {
        let cdi = CdiSpecifications::Keep(Cdi::new(place));
        let error = world.node.apply(&target, &options().cdi(cdi)).unwrap_err();
        assert_eq!(error.code(), code, "{}: {error}", place.display());
        assert_eq!(error.outcome(), Outcome::Untouched);
        assert!(!error.to_string().contains("state directory"), "{error}");
        assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    }
    // Nor what could be no hook.
    for program in ["gpushare", "", "/a\nb"] {
        let cdi = Cdi::new(here.path().join("new")).lease_hook(LeaseHook::new(program));
        let error = world.node.apply(&target, &options().cdi(CdiSpecifications::Keep(cdi)));
        let error = error.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
        assert_eq!(error.outcome(), Outcome::Untouched);
    }
    assert_eq!(world.states(), old);
    assert!(world.journals().is_empty());
    assert!(world.node.ports().store.list("cdi").unwrap().is_empty());
}

#[test]
fn a_change_that_is_refused_leaves_them_alone() {
    let place = Place::new();
    let world = World::new("1xH100-80GB");
    let first = spec("mig", r#"{"instances": {"3g": 2}}"#).parse().unwrap();
    world.node.apply(&first, &options().cdi(place.keep())).unwrap();
    let before = std::fs::read(&place.files()[0]).unwrap();
    let device = world.snapshot().gpus[0].mig_devices[0].uuid.clone();
    world.simulator.busy(&device, ProcessSpec::new("train")).unwrap();
    let target = spec("exclusive", "").parse().unwrap();
    let refused = world.node.apply(&target, &ApplyOptions::new().cdi(CdiSpecifications::Remove));
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Busy);
    assert_eq!(std::fs::read(&place.files()[0]).unwrap(), before);
}

#[test]
fn another_place_takes_the_place_of_the_first() {
    let (first, second) = (Place::new(), Place::new());
    let world = World::new("2xT4");
    let spec = spec("time_sliced", r#"{"replicas": 2}"#).parse().unwrap();
    world.node.apply(&spec, &options().cdi(first.keep())).unwrap();
    assert_eq!(first.files().len(), 2);
    world.node.apply(&spec, &options().cdi(second.keep())).unwrap();
    assert_eq!((first.files().len(), second.files().len()), (0, 2));
    // A note that somebody spoiled is told of, and what is asked for takes its place.
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    world.node.ports().store.replace(&format!("cdi/{gpu}.json"), b"{}").unwrap();
    let error = world.node.apply(&spec, &options()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidState);
    assert_eq!(error.gpu(), Some(&gpu));
    world.node.apply(&spec, &options().cdi(second.keep())).unwrap();
    world.node.apply(&spec, &options()).unwrap();
}
