//! What is in force is a spec that leads back to it after a boot: for every layout, on every generation.

use gpushare_core::mig::Placement;
use gpushare_core::plan::state::GpuState;
use gpushare_core::spec::{Instance, Selector, Spec, Want};
use gpushare_core::{ApplyOptions, Node};

/// Every set of instances that stand beside each other.
fn layouts(node: &Node) -> Vec<Vec<Instance>> {
    let snapshot = node.snapshot().unwrap();
    let geometry = &snapshot.gpus[0].mig.as_ref().unwrap().geometry;
    let places: Vec<(Placement, Instance)> = geometry
        .profiles()
        .iter()
        .flat_map(|profile| {
            let instance = move |place: &Placement| Instance::new(profile.name).at(place.start);
            profile.placements.iter().map(move |place| (*place, instance(place)))
        })
        .collect();
    let mut all = vec![(0, Vec::new(), 0_u16)];
    let mut next = 0;
    while next < all.len() {
        let (from, layout, taken) = all[next].clone();
        for (number, (place, instance)) in places.iter().enumerate().skip(from) {
            let mask = place.mask();
            if taken & mask == 0 {
                let mut layout: Vec<Instance> = layout.clone();
                layout.push(instance.clone());
                all.push((number + 1, layout, taken | mask));
            }
        }
        next += 1;
    }
    all.into_iter().map(|(_, layout, _)| layout).collect()
}

#[test]
fn every_layout_comes_back_from_the_spec_in_force() {
    for (fleet, at_least) in [("1xA30-24GB", 10), ("1xH100-80GB", 723)] {
        let node = Node::builder().sim(fleet).open().unwrap();
        let options = ApplyOptions::new().allow_reset(true);
        let mut seen = 0;
        for mut layout in layouts(&node) {
            // A name for each third, and none for the others.
            for (number, instance) in layout.iter_mut().enumerate().step_by(3) {
                instance.name = Some(format!("name-{number}"));
            }
            let spec = Spec::new().gpu([Selector::All], Want::Mig(Some(layout.clone())));
            // More of a profile, or of what media engines there are, than the card has.
            if node.plan(&spec).is_err() {
                continue;
            }
            node.apply(&spec, &options).unwrap();
            let before = node.snapshot().unwrap();
            let (in_force, unsayable) = node.spec_in_force().unwrap();
            assert!(unsayable.is_empty(), "{unsayable:?}");
            node.simulator().unwrap().reboot().unwrap();
            node.apply(&in_force, &options).unwrap();
            let after = node.snapshot().unwrap();
            let shape = |snapshot: &gpushare_core::Snapshot| {
                let gpu = &snapshot.gpus[0];
                let names: Vec<_> = gpu
                    .mig_devices
                    .iter()
                    .map(|device| (device.start, device.name.clone()))
                    .collect();
                let state = GpuState::of(gpu);
                (state.mig, state.gpu_instances, state.compute_mode, names)
            };
            assert_eq!(shape(&after), shape(&before), "{in_force}");
            assert_eq!(node.spec_in_force().unwrap().0, in_force);
            seen += 1;
        }
        assert!(seen >= at_least, "{fleet}: {seen}");
    }
}

#[test]
fn what_nobody_manages_is_not_in_force() {
    let node = Node::builder().sim("2xH100-80GB,1xT4").open().unwrap();
    assert_eq!(node.spec_in_force().unwrap(), (Spec::new(), Vec::new()));
    let spec = Spec::new().gpu(["1".parse().unwrap()], Want::Exclusive);
    node.apply(&spec, &ApplyOptions::new()).unwrap();
    let (in_force, _) = node.spec_in_force().unwrap();
    assert_eq!(in_force.gpus.len(), 1);
    assert_eq!(in_force.gpus[0].want, Want::Exclusive);
    let uuid = node.snapshot().unwrap().gpus[1].uuid.to_string();
    assert_eq!(in_force.gpus[0].select, [Selector::Uuid(uuid)]);
    // A record of another life is no management.
    node.simulator().unwrap().reboot().unwrap();
    assert_eq!(node.spec_in_force().unwrap().0, Spec::new());
}
