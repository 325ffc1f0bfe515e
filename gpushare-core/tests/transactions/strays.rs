//! MPS daemons whose devices another tool destroyed.

use gpushare_core::apply::report::ReportOutcome;
use gpushare_core::backend::sim::{Failure, Fault, Loss};
use gpushare_core::id::MigUuid;
use gpushare_core::mode::{MpsHealth, SharingMode};
use gpushare_core::mps::MpsDomain;
use gpushare_core::observe::Scope;
use gpushare_core::snapshot::{MigDevice, MpsStray};
use gpushare_core::{ApplyOptions, ErrorCode};

use crate::scenario::{World, spec};

/// Two MIG devices, each with a daemon.
fn shared() -> World {
    let world = World::new("1xA100-40GB");
    let one = r#"{"profile": "3g", "mps": {}}"#;
    world.apply(&spec("mig", &format!(r#"{{"instances": [{one}, {one}]}}"#))).unwrap();
    world.faults.revive();
    world
}

fn devices(world: &World) -> Vec<MigDevice> {
    world.snapshot().gpus.remove(0).mig_devices
}

/// What `nvidia-smi mig -dci` does.
fn destroy(world: &World, device: &MigDevice) {
    let gpu = world.simulator.gpus().unwrap().remove(0);
    let mut nvml = world.node.ports().nvml.open().unwrap();
    nvml.destroy_compute_instance(&gpu, device.gi, device.ci).unwrap();
    world.faults.revive();
}

fn strays(world: &World) -> Vec<MpsStray> {
    world.snapshot().strays
}

fn domains(world: &World) -> Vec<MpsDomain> {
    world.node.ports().mps.domains().unwrap()
}

fn recover(world: &World) -> (ReportOutcome, Vec<(MpsDomain, bool)>) {
    let report = world.node.recover().unwrap();
    let strays = report.strays.into_iter().map(|stray| (stray.domain, stray.left.is_none()));
    (report.outcome, strays.collect())
}

fn of(uuid: &MigUuid) -> MpsDomain {
    uuid.into()
}

#[test]
fn the_daemon_of_a_destroyed_device_is_seen_and_ended() {
    let world = shared();
    assert_eq!((strays(&world), domains(&world).len()), (vec![], 2));
    let [gone, stays] = <[MigDevice; 2]>::try_from(devices(&world)).unwrap();
    destroy(&world, &gone);
    let seen = strays(&world);
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].domain, seen[0].mps.health), (&of(&gone.uuid), Some(MpsHealth::Answers)));
    assert_eq!((seen[0].mps.pid, seen[0].is_left()), (gone.mps.unwrap().pid, None));
    let text = world.snapshot().to_string();
    assert!(
        text.contains(gone.uuid.as_str()) && text.contains("`gpushare recover` ends it"),
        "{text}"
    );

    // Who did not look at everything does not know.
    let gpus = world.simulator.gpus().unwrap();
    for scope in [Scope::gpus(gpus), Scope::all().unnamed()] {
        assert_eq!(world.node.observer().unwrap().snapshot(&scope).unwrap().strays, []);
    }

    assert_eq!(recover(&world), (ReportOutcome::Recovered, vec![(of(&gone.uuid), true)]));
    assert_eq!((strays(&world), domains(&world)), (vec![], vec![of(&stays.uuid)]));
    assert!(devices(&world)[0].mps.as_ref().unwrap().alive, "the other one serves as before");
    assert_eq!(recover(&world), (ReportOutcome::Unchanged, vec![]));
}

#[test]
fn what_a_dead_daemon_left_is_removed_and_a_silent_one_is_left() {
    for (frozen, ended) in [(false, true), (true, false)] {
        let world = shared();
        let gone = devices(&world).remove(0);
        if frozen {
            world.simulator.freeze_mps_daemon(&gone.uuid, true).unwrap();
        } else {
            world.simulator.kill_mps_daemon(&gone.uuid).unwrap();
        }
        destroy(&world, &gone);
        assert_eq!(strays(&world)[0].is_left().is_none(), ended);
        assert_eq!(recover(&world).1, [(of(&gone.uuid), ended)]);
        assert_eq!(strays(&world).is_empty(), ended);
        let calls = world.faults.calls();
        assert_eq!(calls.iter().any(|call| call.mutating && call.name == "mps.stop"), ended);
    }
}

#[test]
fn nobodys_client_is_ended_with_a_stray() {
    let world = World::new("2xH200-141GB");
    let gpu = world.simulator.gpus().unwrap().remove(1);
    world.apply(&spec("mps", "{}")).unwrap();
    let clients = world.serve(1);
    // Lost, it is still on the node; gone, it is not.
    world.simulator.lose(&gpu, Loss::Lost).unwrap();
    assert_eq!(strays(&world), []);
    world.simulator.lose(&gpu, Loss::Gone).unwrap();
    let seen = strays(&world);
    assert_eq!(seen[0].clients().collect::<Vec<_>>(), clients[1..]);
    assert!(seen[0].is_left().unwrap().contains("1 client:"), "{seen:?}");
    let report = world.node.recover().unwrap();
    assert_eq!(report.outcome, ReportOutcome::Unchanged);
    let text = report.to_string();
    assert!(
        text.contains("was left: it has 1 client") && text.contains("Nothing was changed."),
        "{text}"
    );
    assert_eq!(strays(&world), seen);
    world.simulator.idle(clients[1]).unwrap();
    assert_eq!(recover(&world), (ReportOutcome::Recovered, vec![((&gpu).into(), true)]));
    assert_eq!(strays(&world), []);
    assert!(world.snapshot().gpus[0].mps.as_ref().unwrap().server_of(clients[0]).is_some());
}

#[test]
fn devices_that_nobody_could_look_for_are_not_gone() {
    let world = shared();
    let gpu = world.simulator.gpus().unwrap().remove(0);
    let gone = devices(&world).remove(0);
    destroy(&world, &gone);
    assert_eq!(strays(&world).len(), 1);
    world.simulator.lose(&gpu, Loss::Lost).unwrap();
    assert_eq!(world.snapshot().gpus[0].mode, SharingMode::Lost);
    assert_eq!(strays(&world), []);
    assert_eq!(recover(&world), (ReportOutcome::Unchanged, vec![]));
    assert_eq!(domains(&world).len(), 2);
}

#[test]
fn a_stray_waits_for_who_changes_a_gpu_and_its_end_may_fail() {
    let world = shared();
    let gone = devices(&world).remove(0);
    destroy(&world, &gone);
    let gpu = world.simulator.gpus().unwrap().remove(0);
    let lock = world.node.ports().store.try_lock(&format!("lock/{gpu}.lock")).unwrap().unwrap();
    let at_once = ApplyOptions::new().timeout(Some(std::time::Duration::ZERO));
    let go_on = |_: &gpushare_core::Event| std::ops::ControlFlow::Continue(());
    let error = world.node.recover_with(&at_once, go_on).unwrap_err();
    assert_eq!((error.code(), strays(&world).len()), (ErrorCode::Locked, 1));
    drop(lock);
    world.faults.revive();
    world.faults.on("mps.stop", 1, Fault::Fail(Failure::default()));
    assert_eq!(recover(&world), (ReportOutcome::Unchanged, vec![(of(&gone.uuid), false)]));
    assert_eq!(recover(&world), (ReportOutcome::Recovered, vec![(of(&gone.uuid), true)]));
}
