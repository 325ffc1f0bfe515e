//! MIG mode, compute mode, interval and MPS, and what survives a reset, a reload and a reboot.

use super::*;
use crate::mps::MpsSettings;
use crate::parameters::Access;
use crate::port::Ports;

const OFF: MigMode = MigMode { current: false, pending: false };
const ON: MigMode = MigMode { current: true, pending: true };

#[test]
fn hopper_and_later_change_mig_mode_at_once() {
    for stays_pending in [false, true] {
        for product in PRODUCTS.iter().filter(|product| product.compute_capability.0 >= 9) {
            let (simulator, mut nvml, gpu) = node(product.name);
            rule(&simulator, |rules| rules.mode_change_stays_pending = stays_pending);
            assert_eq!(nvml.mig_mode(&gpu).unwrap(), OFF);
            assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
            assert_eq!(nvml.mig_mode(&gpu).unwrap(), ON);
            assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), Activation::Active);
            assert_eq!(nvml.mig_mode(&gpu).unwrap(), OFF);
        }
    }
}

#[test]
fn ampere_changes_mig_mode_within_the_call_or_at_a_reset() {
    for product in ["A30-24GB", "A100-40GB", "A100-80GB"] {
        let (simulator, mut nvml, gpu) = node(product);
        assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
        rule(&simulator, |rules| rules.mode_change_stays_pending = true);
        let waits = Activation::Pending(NvmlReturn::RESET_REQUIRED);
        assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), waits);
        assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: true, pending: false });
        // Asking for what is there takes the wait back.
        assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
        assert_eq!(nvml.mig_mode(&gpu).unwrap(), ON);
        nvml.set_mig_mode(&gpu, false).unwrap();
        drop(nvml);
        simulator.reset(&gpu).unwrap();
        assert_eq!(simulator.open().unwrap().mig_mode(&gpu).unwrap(), OFF);
    }
}

#[test]
fn a_gpu_in_use_keeps_its_mig_mode_and_the_change_waits() {
    for product in ["A100-40GB", "H100-80GB"] {
        for spec in [ProcessSpec::new("seen"), ProcessSpec::new("unseen").invisible()] {
            let (simulator, mut nvml, gpu) = node(product);
            let pid = simulator.busy(&gpu, spec).unwrap();
            let waits = Activation::Pending(NvmlReturn::IN_USE);
            assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), waits);
            assert_eq!(nvml.mig_mode(&gpu).unwrap(), MigMode { current: false, pending: true });
            simulator.idle(pid).unwrap();
            assert_eq!(nvml.set_mig_mode(&gpu, true).unwrap(), Activation::Active);
        }
    }
}

#[test]
fn instances_keep_mig_on_or_go_with_it() {
    for product in ["A100-40GB", "H100-80GB"] {
        let (simulator, mut nvml, gpu) = mig_node(product);
        let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(19)).unwrap();
        let waits = Activation::Pending(NvmlReturn::IN_USE);
        assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), waits);
        nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
        assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), Activation::Active);

        rule(&simulator, |rules| rules.disable_removes_instances = true);
        nvml.set_mig_mode(&gpu, true).unwrap();
        let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(19)).unwrap();
        let ci = nvml.create_compute_instance(&gpu, gi.id, ComputeProfileId::new(0), None).unwrap();
        let pid = simulator.busy(&ci.uuid, ProcessSpec::new("tenant")).unwrap();
        assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), waits);
        simulator.idle(pid).unwrap();
        assert_eq!(nvml.set_mig_mode(&gpu, false).unwrap(), Activation::Active);
        nvml.set_mig_mode(&gpu, true).unwrap();
        assert!(nvml.mig_devices(&gpu).unwrap().is_empty());
    }
}

#[test]
fn with_mig_on_the_parent_has_no_compute_mode() {
    let (_, mut nvml, gpu) = node("H100-80GB");
    nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess).unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
    assert_eq!(refused(nvml.compute_mode(&gpu)), NvmlReturn::NOT_SUPPORTED);
    let set = nvml.set_compute_mode(&gpu, ComputeMode::Default);
    assert_eq!(refused(set), NvmlReturn::NOT_SUPPORTED);
    nvml.set_mig_mode(&gpu, false).unwrap();
    assert_eq!(nvml.compute_mode(&gpu).unwrap(), ComputeMode::Default);
}

#[test]
fn cards_without_mig_have_none_of_it() {
    for product in PRODUCTS.iter().filter(|product| !product.has_mig()) {
        let (_, mut nvml, gpu) = node(product.name);
        assert_eq!(refused(nvml.mig_mode(&gpu)), NvmlReturn::NOT_SUPPORTED);
        assert_eq!(refused(nvml.set_mig_mode(&gpu, true)), NvmlReturn::NOT_SUPPORTED);
        assert_eq!(refused(nvml.placements(&gpu, ProfileId::new(19))), NvmlReturn::NOT_SUPPORTED);
        assert!(nvml.mig_devices(&gpu).unwrap().is_empty());
        assert_eq!(nvml.max_mig_devices(&gpu).unwrap(), 0);
    }
}

/// Everything that a driver may lose, set to something that it did not begin with.
fn set_everything(simulator: &Simulator, ports: &Ports) {
    let mut nvml = simulator.open().unwrap();
    for gpu in simulator.gpus().unwrap() {
        nvml.set_compute_mode(&gpu, ComputeMode::Prohibited).unwrap();
        ports.policy.set_interval(&gpu, Interval::Long).unwrap();
        ports.mps.start(&gpu.clone().into(), &Access::Any, &MpsSettings::UNLIMITED).unwrap();
    }
}

#[test]
fn what_a_reload_and_a_reboot_leave() {
    for reboot in [false, true] {
        let simulator = Simulator::new("2xA100-40GB,2xH100-80GB".parse().unwrap()).unwrap();
        let ports = simulator.ports_in_memory();
        let (boot, load) = (ports.clock.boot_id().unwrap(), ports.clock.driver_load());
        set_everything(&simulator, &ports);
        let gpus = simulator.gpus().unwrap();
        {
            let mut nvml = simulator.open().unwrap();
            for gpu in [&gpus[1], &gpus[3]] {
                nvml.set_mig_mode(gpu, true).unwrap();
                nvml.create_gpu_instance_anywhere(gpu, ProfileId::new(0)).unwrap();
            }
            // A change that waits is in force after the driver is loaded again.
            rule(&simulator, |rules| rules.mode_change_stays_pending = true);
            nvml.set_mig_mode(&gpus[0], true).unwrap();
        }
        if reboot {
            simulator.reboot().unwrap()
        } else {
            simulator.reload().unwrap()
        }
        assert_eq!(ports.clock.boot_id().unwrap() != boot, reboot);
        assert_ne!(ports.clock.driver_load(), load);
        let mut nvml = simulator.open().unwrap();
        for (gpu, mode) in gpus.iter().zip([ON, ON, OFF, OFF]) {
            assert_eq!(nvml.mig_mode(gpu).unwrap(), mode);
            assert!(nvml.mig_devices(gpu).unwrap().is_empty());
            assert_eq!(ports.policy.interval(gpu).unwrap(), Interval::Default);
            assert_eq!(ports.mps.probe(&gpu.clone().into()).unwrap(), None);
            nvml.set_mig_mode(gpu, false).unwrap();
        }
        assert_eq!(nvml.compute_mode(&gpus[2]).unwrap(), ComputeMode::Default);
    }
}

#[test]
fn a_session_does_not_outlive_its_driver() {
    let (simulator, mut nvml, gpu) = node("T4");
    assert_eq!(simulator.reload().unwrap_err().code(), ErrorCode::Busy);
    simulator.reboot().unwrap();
    assert_eq!(refused(nvml.name(&gpu)), NvmlReturn::UNINITIALIZED);
    let set = nvml.set_compute_mode(&gpu, ComputeMode::Prohibited);
    assert_eq!(refused(set), NvmlReturn::UNINITIALIZED);
    // It does not count as open either.
    simulator.reload().unwrap();
}

#[test]
fn a_reset_needs_the_gpu_free_and_clears_it() {
    for clears in [true, false] {
        let (simulator, mut nvml, gpu) = node("2xH100-80GB");
        let ports = simulator.ports_in_memory();
        rule(&simulator, |rules| rules.reset_clears_compute_mode = clears);
        nvml.set_compute_mode(&gpu, ComputeMode::Prohibited).unwrap();
        ports.policy.set_interval(&gpu, Interval::Short).unwrap();
        assert_eq!(ports.reset.reset(&gpu).unwrap_err().code(), ErrorCode::Busy);
        drop(nvml);
        ports.reset.reset(&gpu).unwrap();
        let mode = if clears { ComputeMode::Default } else { ComputeMode::Prohibited };
        let mut nvml = simulator.open().unwrap();
        assert_eq!(nvml.compute_mode(&gpu).unwrap(), mode);
        assert_eq!(ports.policy.interval(&gpu).unwrap(), Interval::Short);
        nvml.set_mig_mode(&gpu, true).unwrap();
        nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(0)).unwrap();
        drop(nvml);
        let pid = simulator.busy(&gpu, ProcessSpec::new("unseen").invisible()).unwrap();
        let busy = ports.reset.reset(&gpu).unwrap_err();
        assert_eq!((busy.code(), busy.holders().len()), (ErrorCode::Busy, 0));
        simulator.idle(pid).unwrap();
        ports.reset.reset(&gpu).unwrap();
        let mut nvml = simulator.open().unwrap();
        assert_eq!(nvml.mig_mode(&gpu).unwrap(), ON);
        assert!(nvml.mig_devices(&gpu).unwrap().is_empty());
    }
}

#[test]
fn a_lost_gpu_answers_after_a_reset_and_one_that_is_gone_after_a_reboot() {
    let (simulator, mut nvml, gpu) = node("3xH100-80GB");
    let gpus = simulator.gpus().unwrap();
    simulator.lose(&gpu, Loss::Lost).unwrap();
    assert_eq!(nvml.device_count().unwrap(), 3);
    assert_eq!(refused(nvml.device(0)), NvmlReturn::GPU_IS_LOST);
    assert_eq!(refused(nvml.mig_mode(&gpu)), NvmlReturn::GPU_IS_LOST);
    simulator.lose(&gpus[1], Loss::Gone).unwrap();
    assert_eq!(nvml.device_count().unwrap(), 2);
    assert_eq!(nvml.device(1).unwrap(), gpus[2]);
    assert_eq!(refused(nvml.name(&gpus[1])), NvmlReturn::NOT_FOUND);
    drop(nvml);
    simulator.reset(&gpu).unwrap();
    assert_eq!(simulator.reset(&gpus[1]).unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(simulator.open().unwrap().device(0).unwrap(), gpu);
    simulator.reboot().unwrap();
    assert_eq!(simulator.open().unwrap().device(1).unwrap(), gpus[1]);
}

#[test]
fn the_interval_is_where_the_card_has_it() {
    for on_volta in [true, false] {
        for product in PRODUCTS {
            let simulator = Simulator::new(product.name.parse().unwrap()).unwrap();
            rule(&simulator, |rules| rules.interval_on_volta = on_volta);
            let ports = simulator.ports_in_memory();
            let gpu = &simulator.gpus().unwrap()[0];
            let has = match product.name {
                "P100" => false,
                "V100" => on_volta,
                _ => true,
            };
            let set = ports.policy.set_interval(gpu, Interval::Medium);
            assert_eq!(set.is_ok(), has, "{}", product.name);
            match ports.policy.interval(gpu) {
                Ok(interval) => assert_eq!((has, interval), (true, Interval::Medium)),
                Err(error) => assert_eq!((has, error.code()), (false, ErrorCode::Unsupported)),
            }
        }
    }
}

#[test]
fn a_node_can_lack_the_tools() {
    let simulator = Simulator::new("H100-80GB".parse().unwrap()).unwrap();
    let ports = simulator.ports_in_memory();
    let gpu = &simulator.gpus().unwrap()[0];
    assert!(ports.mps.able() && ports.policy.able() && ports.reset.able());
    rule(&simulator, |rules| {
        (rules.mps_able, rules.interval_able, rules.reset_able) = (false, false, false);
    });
    assert!(!ports.mps.able() && !ports.policy.able() && !ports.reset.able());
    for error in [
        ports.mps.start(&gpu.clone().into(), &Access::Any, &MpsSettings::UNLIMITED).unwrap_err(),
        ports.policy.interval(gpu).unwrap_err(),
        ports.policy.set_interval(gpu, Interval::Long).unwrap_err(),
        ports.reset.reset(gpu).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::Unsupported);
    }
}

#[test]
fn minor_numbers_may_move_with_mig() {
    for moves in [false, true] {
        let (simulator, mut nvml, gpu) = node("2xH100-80GB");
        rule(&simulator, |rules| rules.minor_follows_mig = moves);
        let other = nvml.device(1).unwrap();
        let before = nvml.minor_number(&gpu).unwrap();
        assert_ne!(before, nvml.minor_number(&other).unwrap());
        nvml.set_mig_mode(&gpu, true).unwrap();
        assert_eq!(nvml.minor_number(&gpu).unwrap() != before, moves);
        assert_ne!(nvml.minor_number(&gpu).unwrap(), nvml.minor_number(&other).unwrap());
    }
}

#[test]
fn changes_take_their_time_and_reads_none() {
    let (simulator, mut nvml, gpu) = node("H100-80GB");
    let ports = simulator.ports_in_memory();
    rule(&simulator, |rules| rules.latency_ms = 250);
    let start = (ports.clock.now(), ports.clock.unix_time());
    nvml.mig_mode(&gpu).unwrap();
    ports.policy.interval(&gpu).unwrap();
    assert_eq!(ports.clock.now(), start.0);
    nvml.set_mig_mode(&gpu, true).unwrap();
    nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(0)).unwrap();
    ports.policy.set_interval(&gpu, Interval::Long).unwrap();
    ports.policy.set_interval(&gpu, Interval::Short).unwrap();
    assert_eq!((ports.clock.now() - start.0).as_millis(), 1000);
    assert_eq!(ports.clock.unix_time(), start.1 + 1);
}
