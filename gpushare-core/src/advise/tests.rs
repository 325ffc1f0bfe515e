use proptest::prelude::*;

use super::*;
use crate::Node;
use crate::backend::sim::{PRODUCTS, ProcessSpec};
use crate::hazard;
use crate::spec::{Sharing, Want};

fn workload(count: u32) -> Workload {
    Workload::new(NonZeroU32::new(count).unwrap())
}

/// How many processes a spec has room for on the GPUs that it selects, and what it takes of each at most.
fn room(choice: &Choice) -> u32 {
    let spec = choice.spec.as_ref().unwrap();
    let clients = |config: &crate::parameters::MpsConfig| config.max_clients.unwrap().get();
    let of = |want: &Want| match want {
        Want::Exclusive => 1,
        Want::TimeSliced(slicing) => slicing.replicas.get(),
        Want::Mps(config) => clients(config),
        Want::Mig(instances) => {
            let instances = instances.iter().flatten();
            instances
                .map(|instance| match &instance.sharing {
                    Some(Sharing::Mps(config)) => clients(config),
                    _ => 1,
                })
                .sum()
        }
    };
    let entries = spec.gpus.iter();
    entries.map(|entry| of(&entry.want) * u32::try_from(entry.select.len()).unwrap()).sum()
}

/// Everything that must hold of any advice.
fn check(snapshot: &Snapshot, workload: &Workload) -> Advice {
    let advice = advise(snapshot, workload);
    let ways: std::collections::BTreeSet<_> = advice.options.iter().map(|o| o.way).collect();
    assert_eq!(ways.len(), Way::ALL.len());
    assert_eq!(advice.recommended, advice.best().map(|best| best.way));
    assert_eq!(advice.recommended.is_some(), advice.options.iter().any(|option| option.fits));
    for option in &advice.options {
        assert!(!option.reasons.is_empty() && !option.lacks.is_empty());
        assert!(option.figures.iter().all(|figure| figure.machine.contains("measured on H200")));
        if !option.fits {
            assert!(option.why_not.as_ref().is_some_and(|why| !why.is_empty()));
            assert!(option.spec.is_none() && option.needs.is_none() && option.gpus.is_empty());
            continue;
        }
        let spec = option.spec.as_ref().unwrap();
        let plan = plan::plan(snapshot, spec).unwrap();
        assert_eq!(option.needs.as_ref(), Some(&plan.needs));
        assert_eq!(plan.gpus.len(), option.gpus.len());
        assert_eq!(spec.to_string().parse::<Spec>().unwrap(), *spec);
        assert_eq!(room(option), workload.count.get(), "{option:?}");
        for entry in &spec.gpus {
            let Want::Mps(config) = &entry.want else { continue };
            for selector in &entry.select {
                let position = plan::select::one(snapshot, selector).unwrap()[0];
                let gpu = &snapshot.gpus[position];
                assert_eq!(hazard::of_mps(gpu, config), [], "{config:?}");
                let each = config.pinned_memory_limit.or(workload.memory).unwrap_or_default();
                let clients = u64::from(config.max_clients.unwrap().get());
                assert!(each.get() * clients <= gpu.memory.unwrap().get());
            }
        }
        match (workload.isolation, option.way) {
            (Isolation::Strict, Way::Exclusive | Way::Mig) | (Isolation::None, _) => {}
            (Isolation::Limits, Way::Exclusive | Way::Mps | Way::Mig) => {}
            (isolation, way) => panic!("{way:?} does not give {isolation:?}"),
        }
    }
    let text = serde_json::to_string(&advice).unwrap();
    assert_eq!(Advice::from_json(&text).unwrap(), advice);
    assert!(!advice.to_string().is_empty());
    advice
}

fn workloads() -> impl Strategy<Value = Workload> {
    let kernels = prop_oneof![Just(Kernels::Small), Just(Kernels::Large), Just(Kernels::Unknown)];
    let isolation =
        prop_oneof![Just(Isolation::None), Just(Isolation::Limits), Just(Isolation::Strict)];
    let style = prop_oneof![Just(Style::Interactive), Just(Style::Batch), Just(Style::Unknown)];
    let count = prop_oneof![1..10_u32, 1..3000_u32];
    let memory = prop::option::of(prop_oneof![1..40_u64, 1..300_u64]);
    (count, memory, kernels, isolation, style, any::<bool>()).prop_map(
        |(count, gibibytes, kernels, isolation, style, half_precision)| Workload {
            memory: gibibytes.map(|gibibytes| Bytes::new(gibibytes << 30)),
            kernels,
            isolation,
            style,
            half_precision,
            ..workload(count)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_said_to_fit_plans_and_has_room_for_all(
        product in 0..PRODUCTS.len(),
        other in 0..PRODUCTS.len(),
        gpus in 1..4_u32,
        busy in any::<bool>(),
        workload in workloads(),
    ) {
        let (product, other) = (PRODUCTS[product].name, PRODUCTS[other].name);
        let node = Node::builder().sim(format!("{gpus}x{product},1x{other}")).open().unwrap();
        if busy {
            let simulator = node.simulator().unwrap();
            let gpu = simulator.gpus().unwrap()[0].clone();
            simulator.busy(&gpu, ProcessSpec::new("train")).unwrap();
        }
        check(&node.snapshot().unwrap(), &workload);
    }
}

#[test]
fn every_way_is_the_best_for_something() {
    let mut best = std::collections::BTreeSet::new();
    for fleet in ["1xH200-141GB", "2xA30-24GB", "2xT4", "1xA100-40GB"] {
        let snapshot = Node::builder().sim(fleet).open().unwrap().snapshot().unwrap();
        for count in [1, 2, 4, 60, 300] {
            for isolation in [Isolation::None, Isolation::Limits, Isolation::Strict] {
                for kernels in [Kernels::Small, Kernels::Large, Kernels::Unknown] {
                    let workload = Workload { isolation, kernels, ..workload(count) };
                    best.extend(check(&snapshot, &workload).recommended);
                }
            }
        }
    }
    // A daemon on a MIG device always has a hazard, so whatever else fits is better.
    let expected = [Way::Exclusive, Way::TimeSliced, Way::Mps, Way::Mig];
    assert_eq!(best.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn percentages_are_those_of_the_safe_split() {
    let snapshot = Node::builder().sim("1xH200-141GB").open().unwrap().snapshot().unwrap();
    for (count, percentage) in [(2, 47.0), (3, 27.0), (4, 25.0), (5, 13.0), (7, 13.0)] {
        let workload = Workload { isolation: Isolation::Limits, ..workload(count) };
        let advice = check(&snapshot, &workload);
        let spec = advice.option(Way::Mps).unwrap().spec.clone().unwrap();
        let target = hazard::MpsTarget::of_gpu(&snapshot.gpus[0]);
        let split = hazard::split(&target, &snapshot.driver, count).unwrap();
        let Want::Mps(config) = &spec.gpus[0].want else { panic!("{spec}") };
        assert_eq!(config.thread_percentage, split.thread_percentage);
        if count != 2 {
            assert_eq!(config.thread_percentage.get(), percentage, "{count}");
        }
    }
}

/// Where no percentage is known to be right, enforced limits are MIG's.
#[test]
fn an_unmeasured_hopper_card_gets_no_percentage() {
    let node = Node::builder().sim("1xH100-80GB").open().unwrap();
    let mut snapshot = node.snapshot().unwrap();
    snapshot.gpus[0].sm_count = Some(114);
    let limits = Workload { isolation: Isolation::Limits, ..workload(3) };
    let advice = check(&snapshot, &limits);
    assert_eq!(advice.recommended, Some(Way::Mig));
    let why = advice.option(Way::Mps).unwrap().why_not.as_deref().unwrap();
    assert!(why.contains("114 SMs"), "{why}");
}

#[test]
fn mig_takes_the_smallest_profile_that_has_the_memory() {
    for product in PRODUCTS.iter().filter(|product| product.has_mig()) {
        let node = Node::builder().sim(format!("1x{}", product.name)).open().unwrap();
        let snapshot = node.snapshot().unwrap();
        for profile in product.profiles {
            let workload = Workload {
                memory: Some(profile.memory),
                isolation: Isolation::Strict,
                ..workload(1)
            };
            let advice = check(&snapshot, &workload);
            let spec = advice.option(Way::Mig).unwrap().spec.clone().unwrap();
            let Want::Mig(Some(instances)) = &spec.gpus[0].want else { panic!("{spec}") };
            let name = instances[0].profile;
            let taken = product.profiles.iter().find(|other| other.name == name).unwrap();
            let plain =
                |name: crate::mig::ProfileName| name.attribute == crate::mig::Attribute::Plain;
            let smaller = product.profiles.iter().any(|other| {
                plain(other.name) && other.memory >= profile.memory && other.memory < taken.memory
            });
            assert!(taken.memory >= profile.memory && !smaller, "{} {name}", product.name);
        }
    }
}

#[test]
fn a_gpu_that_somebody_elses_daemon_serves_is_not_advised() {
    use crate::backend::sim::ProcessKind;
    let node = Node::builder().sim("1xA100-80GB").open().unwrap();
    let simulator = node.simulator().unwrap();
    let gpu = simulator.gpus().unwrap()[0].clone();
    let daemon = ProcessSpec::new("nvidia-cuda-mps-server").running("nvidia-cuda-mps-server");
    simulator.busy(&gpu, daemon.doing(ProcessKind::Compute)).unwrap();
    let snapshot = node.snapshot().unwrap();
    assert_eq!(snapshot.gpus[0].mode, crate::mode::SharingMode::Foreign);
    let advice = check(&snapshot, &workload(2));
    assert_eq!(advice.recommended, None);
}
