//! The rules that no record has: MIG, unequal GPUs, and what is said of it.

use super::*;

#[track_caller]
fn expect(
    snapshot: &Snapshot,
    string: Option<&str>,
    outcome: VisibleOutcome,
    devices: &[&str],
    flags: &[FlagName],
) -> Resolution {
    let resolution = resolve(snapshot, string);
    assert_eq!(resolution.outcome, outcome, "{string:?}: {resolution:#?}");
    assert_eq!(uuids(&resolution), devices, "{string:?}");
    let found: Vec<_> = resolution.flags.iter().map(|flag| flag.name).collect();
    assert_eq!(found, flags, "{string:?}");
    assert_eq!(resolution.certain, flags.is_empty());
    resolution
}

use FlagName as F;
use VisibleOutcome::{Devices, InvalidDevice, NoDevice, Unknown};

fn standings(resolution: &Resolution) -> Vec<Standing> {
    resolution.entries.iter().map(|entry| entry.standing).collect()
}

#[test]
fn whole_gpus_by_the_facts_of_the_first_day() {
    let two = node(&[A, B]);
    for (string, outcome, devices) in [
        (None, Devices, &[A, B][..]),
        (Some("0,1"), Devices, &[A, B]),
        (Some("1,0"), Devices, &[B, A]),
        (Some("2,0"), NoDevice, &[]),
        (Some("0,2,1"), Devices, &[A]),
        (Some("0,-1,1"), Devices, &[A]),
        (Some("0,0"), InvalidDevice, &[]),
        (Some(&format!("{B},{B}")), InvalidDevice, &[]),
        (Some(""), NoDevice, &[]),
        (Some("GPU-b"), Devices, &[B]),
        (Some(" +1gpu"), Devices, &[B]),
    ] {
        let resolution = expect(&two, string, outcome, devices, &[]);
        let code = match outcome {
            Devices => 0,
            InvalidDevice => 101,
            _ => 100,
        };
        assert_eq!(resolution.cu_init, Some(code));
    }
    expect(&node(&[]), None, NoDevice, &[], &[]);
}

#[test]
fn a_device_comes_with_its_facts() {
    let mut snapshot = node(&[A, B]);
    cut(&mut snapshot.gpus[1], 2);
    let mig = snapshot.gpus[1].mig_devices[1].uuid.clone();
    let resolution = expect(&snapshot, Some(mig.as_str()), Devices, &[mig.as_str()], &[F::MigUuid]);
    assert_eq!(
        resolution.devices[0],
        VisibleDevice {
            ordinal: 0,
            kind: VisibleKind::MigDevice,
            uuid: mig.to_string(),
            index: Some(GpuIndex::new(1)),
            model: "H200".to_owned(),
            profile: Some("1g.18gb".parse().unwrap()),
            memory: Some(Bytes::from_mebibytes(16_384)),
            sm_count: Some(16),
            mode: SharingMode::Mig,
            parent: Some(B.parse().unwrap()),
        }
    );
    let resolution = resolve(&snapshot, Some(A));
    let device = &resolution.devices[0];
    assert_eq!((device.kind, device.sm_count), (VisibleKind::Gpu, Some(132)));
    assert_eq!((&device.parent, &device.profile), (&None, &None));
    assert_eq!(resolution.entries[0].ordinal, Some(0));
}

#[test]
fn the_whole_of_a_gpu_with_mig_on_is_never_handed_out() {
    for devices in [0, 2] {
        let mut snapshot = node(&[A, B, C]);
        cut(&mut snapshot.gpus[1], devices);
        for string in [B.to_owned(), "GPU-bbbb1".to_owned(), format!("{A},{B}"), format!("{B},{A}")]
        {
            let mut flags = vec![F::MigParent];
            if string.starts_with(A) {
                flags.insert(0, F::BesideMig);
            } else if string.ends_with(A) {
                flags.push(F::BesideMig);
            }
            let resolution = expect(&snapshot, Some(&string), Unknown, &[], &flags);
            assert!(resolution.cu_init.is_none() && !resolution.shows_devices());
            assert!(resolution.entries.iter().any(|entry| entry.names == Named::MigParent));
            assert!(resolution.entries.iter().all(|entry| entry.standing == Standing::Unknown));
        }
        // Before it all ways to count agree, from it on they do not.
        expect(&snapshot, Some("0"), Devices, &[A], &[F::BesideMig]);
        expect(&snapshot, Some("1"), Unknown, &[], &[F::MigParent]);
        expect(&snapshot, Some("2"), Unknown, &[], &[F::MigParent]);
        expect(&snapshot, Some("3"), NoDevice, &[], &[]);
        expect(&snapshot, Some(C), Devices, &[C], &[F::BesideMig]);
    }
}

#[test]
fn mig_devices_by_name() {
    let mut snapshot = node(&[A, B]);
    cut(&mut snapshot.gpus[0], 2);
    cut(&mut snapshot.gpus[1], 1);
    let name = |gpu: usize, device: usize| snapshot.gpus[gpu].mig_devices[device].uuid.to_string();
    let (first, second, third) = (name(0, 0), name(0, 1), name(1, 0));
    let string = |parts: &[&str]| parts.join(",");

    expect(&snapshot, None, Devices, &[&first], &[F::UnsetWithMig]);
    let flags = [F::MigUuid, F::SeveralMigDevices];
    let both = expect(&snapshot, Some(&string(&[&third, &second])), Devices, &[&third], &flags);
    assert_eq!(standings(&both), [Standing::Counts, Standing::NotShown]);
    assert_eq!(both.entries[1].ordinal, None);

    let repeated = string(&[&second, &second]);
    let flags = [F::MigUuid, F::MigRepeated];
    expect(&snapshot, Some(&repeated), InvalidDevice, &[], &flags);

    let old = format!("MIG-{A}/8/0");
    expect(&snapshot, Some(&old), Devices, &[&second], &[F::MigOldForm]);
    for wrong in ["/9/0", "/8/1", "/8", "/8/0/0", "/+8/0", "/8/", "//"] {
        let string = format!("MIG-{A}{wrong}");
        assert_eq!(resolve(&snapshot, Some(&string)).outcome, NoDevice, "{string}");
    }
    // Repeated in another form.
    let flags = [F::MigOldForm, F::MigUuid, F::MigRepeated];
    expect(&snapshot, Some(&string(&[&old, &second])), InvalidDevice, &[], &flags);

    // The digits of a MIG device, and not as it is documented.
    for odd in ["MIG-aaaa0001", &second[..39], &second.replace("MIG-", "GPU-")] {
        expect(&snapshot, Some(odd), Unknown, &[], &[F::MigPrefix]);
    }
    for several in ["MIG-aaaa", "GPU-aaaa0"] {
        expect(&snapshot, Some(several), NoDevice, &[], &[F::Ambiguous]);
    }
    expect(&snapshot, Some("MIG-aaaa1111"), Unknown, &[], &[F::MigParent]);
    expect(&snapshot, Some("MIG-ffff"), NoDevice, &[], &[F::MigUuid]);
    expect(&node(&[A]), Some("MIG-ffff"), NoDevice, &[], &[]);

    // MIG off on one of them: no whole GPU beside a MIG device.
    let mut mixed = node(&[A, B]);
    cut(&mut mixed.gpus[1], 1);
    expect(&mixed, None, Devices, &[&third], &[F::UnsetWithMig]);
    cut(&mut mixed.gpus[1], 0);
    expect(&mixed, None, Devices, &[A], &[F::UnsetWithMig]);
}

#[test]
fn numbers_of_unequal_gpus_are_known_by_pci_address_alone() {
    let mut snapshot = node(&[A, B]);
    snapshot.gpus[1].model = "L4".to_owned();
    expect(&snapshot, None, Devices, &[A, B], &[F::UnequalGpus]);
    expect(&snapshot, Some("1"), Devices, &[B], &[F::UnequalGpus]);
    expect(&snapshot, Some(&format!("{B},{A}")), Devices, &[B, A], &[]);
    expect(&snapshot, Some("2"), NoDevice, &[], &[]);
    let by_bus = ResolveOptions::new().device_order("PCI_BUS_ID".parse().unwrap());
    assert!(resolve_with(&snapshot, Some("1"), by_bus).certain);
    assert!(resolve_with(&snapshot, None, by_bus).certain);
    assert!("pci_bus_id".parse::<DeviceOrder>().is_err());
}

#[test]
fn values_that_cuda_does_not_read() {
    let two = node(&[A, B]);
    let long = |length: usize| "1,0,".to_owned() + &"7".repeat(length - 4);
    expect(&two, Some(&long(2_049)), Devices, &[B, A], &[]);
    for length in [2_050, 2_999] {
        expect(&two, Some(&long(length)), Unknown, &[], &[F::Long]);
    }
    let unread = expect(&two, Some(&long(3_000)), Devices, &[A, B], &[]);
    assert!(unread.reason.is_some() && unread.entries.is_empty());

    let other = ResolveOptions::new().device_order(DeviceOrder::Other);
    for string in [None, Some(""), Some("0")] {
        let refused = resolve_with(&two, string, other);
        assert_eq!((refused.outcome, refused.cu_init), (InvalidDevice, Some(101)));
    }
}

#[test]
fn doubts_about_a_gpu_are_said_where_it_is_named() {
    let mut snapshot = node(&[A, B, C]);
    snapshot.gpus[1].mode = SharingMode::Closed;
    snapshot.gpus[1].compute_mode = Some(ComputeMode::Prohibited);
    snapshot.gpus[2].mode = SharingMode::Lost;
    expect(&snapshot, Some("0"), Devices, &[A], &[]);
    expect(&snapshot, Some(B), Devices, &[B], &[F::Closed]);
    expect(&snapshot, None, Devices, &[A, B, C], &[F::Closed, F::Lost]);
    // Of a GPU that is on record alone the driver shows nothing.
    snapshot.gpus[2].index = None;
    expect(&snapshot, Some("2"), NoDevice, &[], &[]);
    expect(&snapshot, Some(C), NoDevice, &[], &[]);

    let mut served = node(&[A, B]);
    served.gpus[1].mode = SharingMode::Mps;
    expect(&served, Some("0"), Devices, &[A], &[F::MpsIndex]);
    expect(&served, Some(A), Devices, &[A], &[]);
}

#[test]
fn what_people_read() {
    let text = resolve(&node(&[A, B]), Some("1,x\n,0")).to_string();
    assert_eq!(
        text,
        "CUDA_VISIBLE_DEVICES=\"1,x\\n,0\": 1 device
  CUDA  device                                    GPU  model  profile    GiB  SMs
  0     GPU-bbbb1111-0000-0000-0000-00000000000b  1    H200   -        140.4  132
  \"x\\n\": is no number, as the first entry is; the list ends here
  \"0\": stands after the end of the list
"
    );
    let long = resolve(&node(&[A]), Some(&"7,".repeat(1_000))).to_string();
    assert!(long.len() < 4_000 && long.contains("… and 985 more entries"), "{long}");
}
