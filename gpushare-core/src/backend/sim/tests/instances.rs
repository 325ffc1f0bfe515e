//! GPU instances and compute instances.

use std::collections::BTreeSet;

use super::*;
use crate::id::{ComputeInstanceId, GpuInstanceId};
use crate::port::ProfileAnswer;
use state::NodeState;

/// Counts the layouts that can be reached from an empty GPU, the empty one included.
fn layouts(fleet: &str, profiles: &[u32]) -> usize {
    let mut node = NodeState::new(fleet.parse().unwrap()).unwrap();
    let gpu = node.gpus[0].uuid.clone();
    node.set_mig_mode(&gpu, true).unwrap();
    let mut seen = BTreeSet::from([Vec::new()]);
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        for &profile in profiles {
            let profile = ProfileId::new(profile);
            for placement in node.placements(&gpu, profile).unwrap() {
                let mut next = node.clone();
                if next.create_gpu_instance(&gpu, profile, Some(placement)).is_err() {
                    continue;
                }
                let instances = &next.gpus[0].instances;
                let mut layout: Vec<_> =
                    instances.iter().map(|gi| (gi.placement.start, gi.profile)).collect();
                layout.sort_unstable();
                if seen.insert(layout) {
                    open.push(next);
                }
            }
        }
    }
    seen.len()
}

#[test]
fn the_seven_slice_family_has_its_723_layouts() {
    for product in PRODUCTS.iter().filter(|product| product.slots == 8) {
        assert_eq!(layouts(product.name, &[19, 15, 14, 9, 5, 0]), 723, "{}", product.name);
    }
    assert_eq!(layouts("A100-40GB", &[19, 14, 9, 5, 0]), 298);
}

#[test]
fn only_one_instance_has_the_media_engines() {
    for (product, plain, media) in [("H100-80GB", 19, 20), ("A30-24GB", 14, 21)] {
        let (_, nvml, gpu) = mig_node(product);
        let media = ProfileId::new(media);
        nvml.create_gpu_instance_anywhere(&gpu, media).unwrap();
        assert_eq!(nvml.remaining_capacity(&gpu, media).unwrap(), 0);
        let second = nvml.create_gpu_instance_anywhere(&gpu, media);
        assert_eq!(refused(second), NvmlReturn::INSUFFICIENT_RESOURCES);
        nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(plain)).unwrap();
    }
    // Who takes all of them leaves room for those that need none.
    let (_, nvml, gpu) = mig_node("RTX-PRO-6000");
    nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(65)).unwrap();
    let plain = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(14));
    assert_eq!(refused(plain), NvmlReturn::INSUFFICIENT_RESOURCES);
    for _ in 0..3 {
        nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(67)).unwrap();
    }
}

#[test]
fn a_placement_is_legal_and_free_or_refused() {
    let (_, mut nvml, gpu) = mig_node("H100-80GB");
    let half = ProfileId::new(9);
    let gi = nvml.create_gpu_instance(&gpu, half, Placement::new(4, 4)).unwrap();
    assert_eq!((gi.id.get(), gi.placement), (1, Placement::new(4, 4)));
    for (profile, start, size, ret) in [
        (9, 4, 4, NvmlReturn::INSUFFICIENT_RESOURCES),
        (19, 5, 1, NvmlReturn::INSUFFICIENT_RESOURCES),
        (0, 0, 8, NvmlReturn::INSUFFICIENT_RESOURCES),
        (9, 2, 4, NvmlReturn::INVALID_ARGUMENT),
        (9, 0, 3, NvmlReturn::INVALID_ARGUMENT),
        (19, 7, 1, NvmlReturn::INVALID_ARGUMENT),
        (14, 200, 200, NvmlReturn::INVALID_ARGUMENT),
        (47, 0, 3, NvmlReturn::NOT_SUPPORTED),
        (1234, 0, 1, NvmlReturn::INVALID_ARGUMENT),
    ] {
        let answer =
            nvml.create_gpu_instance(&gpu, ProfileId::new(profile), Placement::new(start, size));
        assert_eq!(refused(answer), ret, "{profile} at {start}:{size}");
    }
    assert_eq!(nvml.gpu_instance(&gpu, gi.id).unwrap(), gi);
}

#[test]
fn automatic_placement_takes_the_order_that_was_seen_on_an_h100() {
    let (simulator, nvml, gpu) = mig_node("H100-80GB");
    rule(&simulator, |rules| rules.id_follows_start = true);
    let made: Vec<_> = (0..7)
        .map(|_| nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(19)).unwrap())
        .map(|gi| (gi.id.get(), gi.placement.start))
        .collect();
    assert_eq!(made, [(13, 6), (11, 4), (12, 5), (7, 0), (8, 1), (9, 2), (10, 3)]);
}

#[test]
fn ids_are_reused_lowest_first_or_follow_the_start() {
    let one = ProfileId::new(19);
    let (simulator, mut nvml, gpu) = mig_node("H100-80GB");
    let mut at = |start| nvml.create_gpu_instance(&gpu, one, Placement::new(start, 1)).unwrap();
    let ids: Vec<_> = [5, 0, 3].map(|start| at(start).id.get()).to_vec();
    assert_eq!(ids, [7, 8, 9]);
    nvml.destroy_gpu_instance(&gpu, GpuInstanceId::new(8)).unwrap();
    let again = nvml.create_gpu_instance(&gpu, one, Placement::new(6, 1)).unwrap();
    assert_eq!(again.id.get(), 8);

    rule(&simulator, |rules| rules.id_follows_start = true);
    // 8 is taken by the instance at 6, made under the other rule: the id of start 1 is not free.
    let clash = nvml.create_gpu_instance(&gpu, one, Placement::new(1, 1));
    assert_eq!(refused(clash), NvmlReturn::INSUFFICIENT_RESOURCES);
    let fourth = nvml.create_gpu_instance(&gpu, one, Placement::new(4, 1)).unwrap();
    assert_eq!(fourth.id.get(), 11);
}

#[test]
fn ids_tell_the_size_on_every_card() {
    for by_start in [false, true] {
        for product in PRODUCTS.iter().filter(|product| product.has_mig()) {
            let (simulator, mut nvml, gpu) = mig_node(product.name);
            rule(&simulator, |rules| rules.id_follows_start = by_start);
            for profile in product.profiles {
                for placement in profile.placements() {
                    let gi = nvml.create_gpu_instance(&gpu, profile.id, placement).unwrap();
                    let parts = u32::from(product.slots / placement.size);
                    assert!((parts - 1..2 * parts - 1).contains(&gi.id.get()), "{gi:?}");
                    nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_compute_instance_made_again_has_its_old_uuid_or_a_new_one() {
    for same in [true, false] {
        let (simulator, mut nvml, gpu) = mig_node("2xH100-80GB");
        rule(&simulator, |rules| rules.same_uuid = same);
        let mut uuids = BTreeSet::new();
        let mut make = |start: u8| {
            let placement = Placement::new(start, 4);
            let gi = nvml.create_gpu_instance(&gpu, ProfileId::new(9), placement).unwrap();
            let profile = ComputeProfileId::new(2);
            let ci = nvml.create_compute_instance(&gpu, gi.id, profile, None).unwrap();
            nvml.destroy_compute_instance(&gpu, gi.id, ci.id).unwrap();
            nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
            uuids.insert(ci.uuid.clone());
            ci.uuid
        };
        let (first, second, elsewhere) = (make(0), make(0), make(4));
        assert_eq!(first == second, same);
        assert_ne!(first, elsewhere);
        assert_eq!(uuids.len(), if same { 2 } else { 3 });
    }
}

#[test]
fn a_creation_may_find_no_room_and_a_destruction_someone_unseen() {
    let (simulator, mut nvml, gpu) = mig_node("H100-80GB");
    rule(&simulator, |rules| {
        rules.insufficient_at_create = Some(2);
        rules.in_use_at_destroy = Some(1);
    });
    let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(0)).unwrap();
    let full = ComputeProfileId::new(4);
    let ci = nvml.create_compute_instance(&gpu, gi.id, full, None);
    assert_eq!(refused(ci), NvmlReturn::INSUFFICIENT_RESOURCES);
    nvml.create_compute_instance(&gpu, gi.id, full, None).unwrap();
    let ci = ComputeInstanceId::new(0);
    let destroyed = nvml.destroy_compute_instance(&gpu, gi.id, ci);
    assert_eq!(refused(destroyed), NvmlReturn::IN_USE);
    nvml.destroy_compute_instance(&gpu, gi.id, ci).unwrap();
    nvml.destroy_gpu_instance(&gpu, gi.id).unwrap();
}

#[test]
fn capacity_with_mig_off_is_that_of_the_empty_card() {
    for product in PRODUCTS.iter().filter(|product| product.has_mig()) {
        let (_, nvml, gpu) = node(product.name);
        for profile in product.profiles {
            let capacity = nvml.remaining_capacity(&gpu, profile.id).unwrap();
            assert_eq!(capacity, u32::from(profile.max_instances), "{}", profile.name);
        }
    }
    let (_, nvml, gpu) = node("H200");
    let capacity = |id| nvml.remaining_capacity(&gpu, ProfileId::new(id));
    assert_eq!(refused(capacity(6)), NvmlReturn::NOT_SUPPORTED);
    assert_eq!(refused(capacity(1)), NvmlReturn::INVALID_ARGUMENT);
}

#[test]
fn compute_instances_stand_in_the_slices_of_their_gpu_instance() {
    let (_, mut nvml, gpu) = mig_node("H100-80GB");
    let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(9)).unwrap().id;
    let [one, two, three] = [0, 1, 2].map(ComputeProfileId::new);
    let mut make = |profile, start: Option<u8>, size| {
        nvml.create_compute_instance(&gpu, gi, profile, start.map(|s| Placement::new(s, size)))
    };
    for start in [1, 3] {
        assert_eq!(refused(make(two, Some(start), 2)), NvmlReturn::INVALID_ARGUMENT);
    }
    assert_eq!(refused(make(one, Some(0), 2)), NvmlReturn::INVALID_ARGUMENT);
    assert_eq!(refused(make(ComputeProfileId::new(4), None, 7)), NvmlReturn::NOT_SUPPORTED);
    let a = make(one, Some(2), 1).unwrap();
    let b = make(two, None, 2).unwrap();
    assert_eq!((a.id.get(), b.id.get()), (0, 1));
    assert_eq!((a.placement, b.placement), (Placement::new(2, 1), Placement::new(0, 2)));
    assert_eq!(refused(make(one, None, 1)), NvmlReturn::INSUFFICIENT_RESOURCES);
    assert_eq!(refused(make(three, None, 3)), NvmlReturn::INSUFFICIENT_RESOURCES);
    nvml.destroy_compute_instance(&gpu, gi, a.id).unwrap();
    assert_eq!(nvml.compute_remaining_capacity(&gpu, gi, one).unwrap(), 1);
    let c = nvml.create_compute_instance(&gpu, gi, one, None).unwrap();
    assert_eq!(c.id, a.id, "the id is used again");
    let sms: Vec<_> = nvml.mig_devices(&gpu).unwrap().iter().map(|d| d.sm_count).collect();
    assert_eq!(sms, [32, 16]);
    let unknown = nvml.destroy_compute_instance(&gpu, gi, ComputeInstanceId::new(9));
    assert_eq!(refused(unknown), NvmlReturn::NOT_FOUND);
    let unknown = nvml.compute_profiles(&gpu, GpuInstanceId::new(9));
    assert_eq!(refused(unknown), NvmlReturn::NOT_FOUND);
}

#[test]
fn the_compute_instances_of_an_a100_are_as_listed() {
    let (_, nvml, gpu) = mig_node("A100-40GB");
    for (profile, listed) in [
        (19, &[(0, 1, 14)][..]),
        (14, &[(0, 2, 14), (1, 1, 28)]),
        (9, &[(0, 3, 14), (1, 1, 28), (2, 1, 42)]),
        (5, &[(0, 4, 14), (1, 2, 28), (3, 1, 56)]),
        (0, &[(0, 7, 14), (1, 3, 28), (2, 2, 42), (3, 1, 56), (4, 1, 98)]),
    ] {
        let mut session = nvml.simulator.open().unwrap();
        let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(profile)).unwrap();
        let profiles = nvml.raw_compute_profiles(&gpu, gi.id).unwrap();
        let found: Vec<_> =
            profiles.iter().map(|p| (p.profile.id.get(), p.max_instances, p.sm_count)).collect();
        assert_eq!(found, listed, "in profile {profile}");
        session.destroy_gpu_instance(&gpu, gi.id).unwrap();
    }
}

#[test]
fn profile_queries_answer_as_the_measured_driver_does() {
    let (_, mut nvml, gpu) = node("H200");
    let answers: Vec<_> =
        (0..19).map(|index| nvml.profile(&gpu, ProfileIndex::new(index)).unwrap()).collect();
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            ProfileAnswer::Profile(profile) => assert_eq!(profile.index.get() as usize, index),
            ProfileAnswer::NotOnThisGpu => assert!(matches!(index, 5 | 6 | 8 | 10..=16), "{index}"),
            ProfileAnswer::End => assert!(index >= 17),
        }
    }
    for foreign in [32, 35, 38, 47, 48] {
        assert_eq!(nvml.placements(&gpu, ProfileId::new(foreign)).unwrap(), []);
    }
    for unknown in [1, 2, 3] {
        let placements = nvml.placements(&gpu, ProfileId::new(unknown));
        assert_eq!(refused(placements), NvmlReturn::INVALID_ARGUMENT);
    }
    let one = ProfileId::new(19);
    let off = nvml.placements(&gpu, one).unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
    assert_eq!(nvml.placements(&gpu, one).unwrap(), off);
}

#[test]
fn an_ordinary_user_sees_mig_devices_and_nothing_else_of_mig() {
    let (simulator, mut nvml, gpu) = mig_node("H100-80GB");
    let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(0)).unwrap();
    let full = ComputeProfileId::new(4);
    let ci = nvml.create_compute_instance(&gpu, gi.id, full, None).unwrap();
    simulator.act_as(1000).unwrap();
    let ProfileAnswer::Profile(profile) = nvml.profile(&gpu, ProfileIndex::new(4)).unwrap() else {
        panic!("an H100 has a profile of seven slices")
    };
    nvml.placements(&gpu, profile.id).unwrap();
    assert_eq!(nvml.mig_devices(&gpu).unwrap()[0].uuid, ci.uuid);
    let denied = [
        refused(nvml.gpu_instances(&gpu, &profile)),
        refused(nvml.create_gpu_instance(&gpu, profile.id, Placement::new(0, 8))),
        refused(nvml.destroy_gpu_instance(&gpu, gi.id)),
        refused(nvml.compute_profiles(&gpu, gi.id)),
        refused(nvml.compute_instances(&gpu, gi.id, full)),
        refused(nvml.create_compute_instance(&gpu, gi.id, full, None)),
        refused(nvml.destroy_compute_instance(&gpu, gi.id, ci.id)),
        refused(nvml.set_mig_mode(&gpu, false)),
        refused(nvml.processes(&gpu, ContextKind::Compute)),
    ];
    assert_eq!(denied, [NvmlReturn::NO_PERMISSION; 9]);
    simulator.act_as(0).unwrap();
    assert_eq!(nvml.gpu_instances(&gpu, &profile).unwrap(), [gi]);
}

#[test]
fn with_mig_off_there_are_no_instances_to_ask_for() {
    let (_, mut nvml, gpu) = node("H100-80GB");
    let profile = Product::by_name("H100-80GB").unwrap().profiles[0].to_profile();
    let refusals = [
        refused(nvml.gpu_instances(&gpu, &profile)),
        refused(nvml.create_gpu_instance(&gpu, profile.id, Placement::new(0, 1))),
        refused(nvml.destroy_gpu_instance(&gpu, GpuInstanceId::new(0))),
        refused(nvml.compute_profiles(&gpu, GpuInstanceId::new(0))),
    ];
    assert_eq!(refusals, [NvmlReturn::NOT_SUPPORTED; 4]);
}
