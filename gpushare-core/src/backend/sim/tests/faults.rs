//! Faults at any call.

use std::time::Duration;

use super::*;
use crate::port::Ports;

fn faulty(fleet: &str) -> (Simulator, Ports, Ports, Faults) {
    let simulator = Simulator::new(fleet.parse().unwrap()).unwrap();
    let plain = simulator.ports_in_memory();
    let (ports, faults) = Faults::wrap(plain.clone());
    (simulator, plain, ports, faults)
}

/// One call of every method that can fail; the name of each that did.
fn call_everything(ports: &Ports, nvml: &mut dyn Nvml, gpu: &GpuUuid) -> Vec<&'static str> {
    use crate::mode::Priority;
    use crate::mps::{Command, MpsDomain, MpsSettings};
    use crate::parameters::Access;
    use crate::port::Signal;
    let id = crate::id::GpuInstanceId::new(0);
    let ci = crate::id::ComputeInstanceId::new(0);
    let profile = Product::by_name("H100-80GB").unwrap().profiles[0].to_profile();
    let mut failed = Vec::new();
    macro_rules! calls {
        ($($port:ident.$method:ident($($arg:expr),*);)*) => {$(
            if $port.$method($($arg),*).is_err() { failed.push(stringify!($method)) }
        )*};
    }
    calls! {
        nvml.driver();
        nvml.device_count();
        nvml.device(0);
        nvml.minor_number(gpu);
        nvml.pci_info(gpu);
        nvml.name(gpu);
        nvml.memory_total(gpu);
        nvml.compute_capability(gpu);
        nvml.core_count(gpu);
        nvml.compute_mode(gpu);
        nvml.set_compute_mode(gpu, ComputeMode::Prohibited);
        nvml.mig_mode(gpu);
        nvml.set_mig_mode(gpu, true);
        nvml.profile(gpu, ProfileIndex::new(0));
        nvml.placements(gpu, ProfileId::new(19));
        nvml.create_gpu_instance(gpu, ProfileId::new(0), Placement::new(0, 8));
        nvml.gpu_instances(gpu, &profile);
        nvml.compute_profiles(gpu, id);
        nvml.create_compute_instance(gpu, id, ComputeProfileId::new(4), None);
        nvml.compute_instances(gpu, id, ComputeProfileId::new(4));
        nvml.mig_devices(gpu);
        nvml.processes(gpu, ContextKind::Compute);
        nvml.destroy_compute_instance(gpu, id, ci);
        nvml.destroy_gpu_instance(gpu, id);
        nvml.set_mig_mode(gpu, false);
    }
    let domain: MpsDomain = gpu.clone().into();
    let Ports { mps, policy, reset, processes, store, clock, .. } = ports;
    calls! {
        mps.dialect();
        mps.probe(&domain);
        mps.expect_startable(&domain, &Access::Any);
        mps.start(&domain, &Access::Any, &MpsSettings::UNLIMITED);
        mps.command(&domain, &Command::Servers);
        mps.command(&domain, &Command::SetDefaultPriority(Priority::BelowNormal));
        mps.admit(&domain, true);
        mps.domains();
        mps.foreign();
        mps.stop(&domain);
        policy.interval(gpu);
        policy.set_interval(gpu, Interval::Long);
        reset.reset(gpu);
        processes.signal(Pid::new(state::FIRST_PID), 100, Signal::Kill);
        store.append("log", b"0123456789");
        store.replace("a", b"1");
        store.read("a");
        store.list("folder");
        store.rename("a", "b");
        store.remove("b");
        store.try_lock("lock");
        clock.boot_id();
    }
    failed
}

use crate::id::Pid;

#[test]
fn every_call_is_counted_and_none_but_the_named_one_fails() {
    let mut total = None;
    for number in 1.. {
        let (simulator, _, ports, faults) = faulty("H100-80GB");
        let gpu = &simulator.gpus().unwrap()[0];
        let mut nvml = ports.nvml.open().unwrap();
        // The first run is without a fault. A reset with NVML open always fails.
        if number > 1 {
            faults.at(number, Fault::Fail(Failure::default()));
        }
        let failed = call_everything(&ports, &mut *nvml, gpu);
        let calls = faults.calls();
        let Some((count, base)) = &total else {
            assert!(calls.iter().map(|call| call.number).eq(1..=calls.len()));
            assert_eq!(calls.len(), 1 + 25 + 22);
            assert_eq!(calls.iter().filter(|call| call.mutating).count(), 7 + 11);
            assert_eq!(failed, ["reset"]);
            total = Some((calls.len(), failed));
            continue;
        };
        if number > *count {
            break;
        }
        let name = match calls[number - 1].name {
            "mps.get" | "mps.set" => "command",
            name => name.split_once('.').unwrap().1,
        };
        assert!(failed.contains(&name), "{name} at {number}");
        assert!(failed.len() >= base.len());
    }
}

#[test]
fn nothing_takes_effect_after_a_death() {
    let (simulator, plain, ports, faults) = faulty("H100-80GB");
    let gpu = &simulator.gpus().unwrap()[0];
    let mut nvml = ports.nvml.open().unwrap();
    let lock = ports.store.try_lock("gpu").unwrap().unwrap();
    assert!(plain.store.try_lock("gpu").unwrap().is_none());
    let before = simulator.inner.backing.read().unwrap();
    faults.die();
    assert!(faults.is_dead());
    let failed = call_everything(&ports, &mut *nvml, gpu);
    assert_eq!(failed.len(), 25 + 22);
    assert!(ports.nvml.open().is_err());
    assert_eq!(simulator.inner.backing.read().unwrap(), before);
    assert!(plain.store.read("a").unwrap().is_none());
    // What it held is free: its lock, and its NVML session, which a reset would trip over.
    assert!(plain.store.try_lock("gpu").unwrap().is_some());
    plain.reset.reset(gpu).unwrap();
    drop(lock);
    faults.revive();
    assert!(faults.calls().is_empty());
    ports.nvml.open().unwrap();
}

#[test]
fn a_lock_of_the_dead_does_not_free_that_of_the_living() {
    let (_, plain, ports, faults) = faulty("T4");
    let dead = ports.store.try_lock("gpu").unwrap().unwrap();
    faults.die();
    let living = plain.store.try_lock("gpu").unwrap().unwrap();
    drop(dead);
    assert!(plain.store.try_lock("gpu").unwrap().is_none());
    drop(living);
    assert!(plain.store.try_lock("gpu").unwrap().is_some());
}

#[test]
fn a_death_is_before_after_or_amid_its_call() {
    for (death, created, log) in [
        (Death::Before, false, &b"old"[..]),
        (Death::After, true, b"old0123456789"),
        (Death::Torn(0), false, b"old"),
        (Death::Torn(50), false, b"old01234"),
        (Death::Torn(100), false, b"old0123456789"),
    ] {
        let (_, plain, ports, faults) = faulty("T4");
        plain.store.replace("log", b"old").unwrap();
        faults.next(Fault::Die(death));
        assert!(ports.store.replace("new", b"x").is_err());
        assert_eq!(plain.store.read("new").unwrap().is_some(), created);
        faults.revive();
        faults.next(Fault::Die(death));
        assert!(ports.store.append("log", b"0123456789").is_err());
        assert_eq!(plain.store.read("log").unwrap().unwrap(), log, "{death:?}");
    }
}

#[test]
fn a_call_fails_before_or_after_its_effect_or_hangs() {
    let (simulator, _, ports, faults) = faulty("H100-80GB");
    let gpu = &simulator.gpus().unwrap()[0];
    let mut nvml = ports.nvml.open().unwrap();
    let failure = Failure { nvml: NvmlReturn::TIMEOUT, code: ErrorCode::Timeout };
    faults.on("nvml.set_mig_mode", 2, Fault::Fail(failure));
    nvml.set_mig_mode(gpu, true).unwrap();
    let failed = nvml.set_mig_mode(gpu, false).unwrap_err();
    assert_eq!((failed.call, failed.ret), ("nvml.set_mig_mode", NvmlReturn::TIMEOUT));
    assert!(nvml.mig_mode(gpu).unwrap().current);
    faults.next(Fault::FailAfter(failure));
    nvml.set_mig_mode(gpu, false).unwrap_err();
    assert!(!nvml.mig_mode(gpu).unwrap().current);
    faults.next(Fault::FailAfter(failure));
    assert_eq!(ports.store.replace("a", b"1").unwrap_err().code(), ErrorCode::Timeout);
    assert!(ports.store.read("a").unwrap().is_some());
    faults.next(Fault::Hang(Duration::from_secs(40)));
    let before = ports.clock.now();
    nvml.set_mig_mode(gpu, true).unwrap();
    assert_eq!(ports.clock.now() - before, Duration::from_secs(40));
    faults.next(Fault::Fail(failure));
    faults.clear();
    nvml.mig_mode(gpu).unwrap();
}
