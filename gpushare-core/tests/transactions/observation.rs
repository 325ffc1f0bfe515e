//! Every state that can be observed, and which of several counts.

use gpushare_core::backend::sim::{Loss, ProcessSpec};
use gpushare_core::mode::{ComputeMode, SharingMode};
use gpushare_core::{ApplyOptions, Snapshot};

use crate::scenario::{World, spec};

fn seen(world: &World) -> (SharingMode, String) {
    let snapshot = world.snapshot();
    // What a snapshot says it says in every language.
    let text = serde_json::to_string(&snapshot).unwrap();
    let back: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(back, snapshot);
    assert_eq!(back.digest(), snapshot.digest());
    (snapshot.gpus[0].mode, snapshot.gpus[0].reason.clone())
}

#[test]
fn modes_and_their_reasons() {
    let world = World::new("1xH100-80GB");
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    let (mode, reason) = seen(&world);
    assert_eq!(mode, SharingMode::TimeSliced);
    assert!(reason.contains("not managed"), "{reason}");
    assert_eq!(world.snapshot().gpus[0].time_sliced.as_ref().unwrap().replicas, None);

    let mut nvml = world.node.ports().nvml.open().unwrap();
    nvml.set_compute_mode(&gpu, ComputeMode::Prohibited).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Closed);
    world.apply(&spec("time_sliced", r#"{"replicas": 3}"#)).unwrap();
    assert_eq!(world.snapshot().gpus[0].shares.len(), 3);
    nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess).unwrap();
    let (mode, reason) = seen(&world);
    assert_eq!(mode, SharingMode::Exclusive);
    assert!(reason.contains("gpushare did not do"), "{reason}");

    world.apply(&spec("mps", r#"{"max_clients": 5}"#)).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Mps);
    assert_eq!(world.snapshot().gpus[0].shares.len(), 5);
    world.simulator.kill_mps_daemon(&gpu).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Degraded);
    // Apply starts it again.
    world.apply(&spec("mps", r#"{"max_clients": 5}"#)).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Mps);

    world.apply(&spec("exclusive", "")).unwrap();
    world.simulator.busy(&gpu, ProcessSpec::new("nvidia-cuda-mps-server")).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Foreign);
    let error = world
        .node
        .apply(&spec("time_sliced", "{}").parse().unwrap(), &ApplyOptions::new().allow_evict(true));
    assert_eq!(error.unwrap_err().code(), gpushare_core::ErrorCode::Busy);
}

#[test]
fn a_gpu_instance_without_compute_instance_is_seen_and_planned_for() {
    let world = World::new("1xH100-80GB");
    world.apply(&spec("mig", r#"{"instances": {"3g": 1, "2g": 1}}"#)).unwrap();
    let snapshot = world.snapshot();
    let gpu = &snapshot.gpus[0];
    let gi = gpu.mig.as_ref().unwrap().gpu_instances[0].clone();
    let mut nvml = world.node.ports().nvml.open().unwrap();
    nvml.destroy_compute_instance(&gpu.uuid, gi.id, gi.compute_instances[0].id).unwrap();
    let (mode, reason) = seen(&world);
    assert_eq!(mode, SharingMode::Mig);
    assert!(reason.contains("without a compute instance"), "{reason}");
    assert_eq!(world.snapshot().gpus[0].mig_devices.len(), 1);
    // Only the compute instance is missing, so only it is created.
    let plan = world
        .node
        .plan(&spec("mig", r#"{"instances": {"3g": 1, "2g": 1}}"#).parse().unwrap())
        .unwrap();
    assert_eq!(plan.step_count(), 1, "{plan}");
}

#[test]
fn a_pending_change_is_seen_and_can_be_called_off() {
    let world = World::new("1xA100-80GB");
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    let mut rules = world.simulator.rules().unwrap();
    rules.mode_change_stays_pending = true;
    world.simulator.set_rules(rules).unwrap();
    let mut nvml = world.node.ports().nvml.open().unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
    drop(nvml);
    assert_eq!(seen(&world).0, SharingMode::Pending);
    // Calling it off needs no reset.
    world.node.apply(&spec("exclusive", "").parse().unwrap(), &ApplyOptions::new()).unwrap();
    assert_eq!(seen(&world).0, SharingMode::Exclusive);
}

#[test]
fn a_reboot_loses_what_no_driver_keeps() {
    for (fleet, keeps) in [("1xH100-80GB", false), ("1xA100-80GB", true)] {
        let world = World::new(fleet);
        world.apply(&spec("mig", r#"{"instances": {"3g": 1}}"#)).unwrap();
        world.simulator.reboot().unwrap();
        let (mode, reason) = seen(&world);
        let expected = if keeps { SharingMode::Mig } else { SharingMode::TimeSliced };
        assert_eq!(mode, expected, "{fleet}");
        assert!(reason.contains("earlier boot"), "{reason}");
        let snapshot = world.snapshot();
        assert!(snapshot.gpus[0].mig_devices.is_empty());
        assert!(snapshot.gpus[0].record.is_some(), "what was asked for is still known");
        // Parameters of the earlier life count no more.
        world.apply(&spec("time_sliced", r#"{"replicas": 2}"#)).unwrap();
        world.simulator.reboot().unwrap();
        assert_eq!(world.snapshot().gpus[0].time_sliced.as_ref().unwrap().replicas, None);
    }
}

#[test]
fn a_gpu_that_vanished_is_lost() {
    for loss in [Loss::Lost, Loss::Gone] {
        let world = World::new("2xH100-80GB");
        let gpus = world.simulator.gpus().unwrap();
        world.apply(&spec("exclusive", "")).unwrap();
        world.simulator.lose(&gpus[0], loss).unwrap();
        let snapshot = world.snapshot();
        assert_eq!(snapshot.gpu(&gpus[0]).unwrap().mode, SharingMode::Lost);
        assert_eq!(snapshot.gpu(&gpus[1]).unwrap().mode, SharingMode::Exclusive);
        // `all` means those that answer.
        world.apply(&spec("time_sliced", "{}")).unwrap();
        let error = world
            .apply(&crate::scenario::entry(&format!("\"{}\"", gpus[0]), "exclusive", ""))
            .unwrap_err();
        assert_eq!(error.code(), gpushare_core::ErrorCode::NotFound, "{error:?}");
    }
}

#[test]
fn a_record_that_is_none_holds_up_whoever_would_write_it_and_nobody_else() {
    let world = World::new("2xH100-80GB");
    world.apply(&spec("exclusive", "")).unwrap();
    let gpus = world.simulator.gpus().unwrap();
    let (store, name) = (&world.node.ports().store, format!("records/{}.json", gpus[0]));
    let good = store.read(&name).unwrap().unwrap();
    let of_the_other = store.read(&format!("records/{}.json", gpus[1])).unwrap();
    store.replace("records/notes.json", b"not of a GPU").unwrap();
    let mut bad = vec![Vec::new(), b"{}".to_vec(), good[..good.len() / 2].to_vec()];
    bad.push(String::from_utf8(good.clone()).unwrap().replace("record/v1", "record/v9").into());
    // A copy of another GPU's.
    bad.extend(of_the_other);
    for content in bad {
        store.replace(&name, &content).unwrap();
        let snapshot = world.snapshot();
        assert_eq!(snapshot.gpus.len(), 2);
        assert_eq!(
            (snapshot.gpus[0].mode, &snapshot.gpus[0].record),
            (SharingMode::Exclusive, &None)
        );
        let reason = &snapshot.gpus[0].reason;
        assert!(reason.contains("not managed") && reason.contains(&name), "{reason}");
        assert!(!snapshot.gpus[1].reason.contains("cannot be read"));

        let error = world.apply(&spec("time_sliced", r#"{"replicas": 2}"#)).unwrap_err();
        assert_eq!(error.code(), gpushare_core::ErrorCode::InvalidState, "{error}");
        assert_eq!(error.outcome(), gpushare_core::Outcome::Untouched);
        assert!(error.message().contains(&name) && error.message().contains("remove"), "{error}");
        assert_eq!(store.read(&name).unwrap().unwrap(), content);
        assert!(store.list("journal").unwrap().is_empty());
        assert_eq!(world.snapshot(), snapshot);
    }
    store.remove(&name).unwrap();
    world.apply(&spec("time_sliced", r#"{"replicas": 2}"#)).unwrap();
    assert_eq!(world.snapshot().gpus[0].shares.len(), 2);
}
