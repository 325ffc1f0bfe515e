//! What holds of any string on any node.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Pieces of which strings are made that come near to naming something.
fn strings() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => Just(",".to_owned()),
        3 => "[0-4]",
        1 => "[-+ \t]{0,3}[0-9]{1,24}[a-zA-Z,;]{0,2}",
        2 => prop::sample::select(vec![A, B, C, "GPU-", "GPU-a", "GPU-bbbb", "GPU-bbbb2"])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec![
            "MIG-aaaa0000-1111-1111-1111-111111111111",
            "MIG-aaaa0001-1111-1111-1111-111111111111",
            "MIG-bbbb0000-1111-1111-1111-111111111111",
            "MIG-aaaa",
            "MIG-GPU-aaaa1111-0000-0000-0000-00000000000a/7/0",
            "MIG-GPU-aaaa1111-0000-0000-0000-00000000000a/8/0",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn nodes() -> impl Strategy<Value = Snapshot> {
    let cuts = prop::collection::vec(prop::option::of(0_u32..3), 0..=3);
    let modes = prop::collection::vec(prop::sample::select(SharingMode::ALL.to_vec()), 3);
    (cuts, modes).prop_map(|(cuts, modes)| {
        let mut snapshot = node(&[A, B, C][..cuts.len()]);
        for ((gpu, cuts), mode) in snapshot.gpus.iter_mut().zip(cuts).zip(modes) {
            gpu.mode = mode;
            if let Some(devices) = cuts {
                cut(gpu, devices);
            }
        }
        snapshot
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_of_one_piece(snapshot in nodes(), string in prop::option::of(strings())) {
        let resolution = resolve(&snapshot, string.as_deref());
        prop_assert_eq!(&resolution, &resolve(&snapshot, string.as_deref()));
        let _ = resolution.to_string();

        // Devices, where there are any, each once and numbered.
        prop_assert_eq!(
            resolution.devices.is_empty(),
            resolution.outcome != VisibleOutcome::Devices
        );
        let named: BTreeSet<_> = uuids(&resolution).into_iter().collect();
        prop_assert_eq!(named.len(), resolution.devices.len());
        for (ordinal, device) in (0..).zip(&resolution.devices) {
            prop_assert_eq!(device.ordinal, ordinal);
            let gpu = snapshot.gpus.iter().find(|gpu| gpu.index == device.index).unwrap();
            let on = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
            // No process is said to get the whole of a GPU with MIG on.
            prop_assert_eq!(on, device.kind == VisibleKind::MigDevice);
        }
        let mig = resolution.devices.iter().any(|d| d.kind == VisibleKind::MigDevice);
        prop_assert!(!mig || resolution.devices.len() == 1);

        // The entries are the string's, and those that count are the devices.
        if let Some(string) = string.as_deref().filter(|string| !string.is_empty()) {
            let texts: Vec<_> = resolution.entries.iter().map(|e| e.text.as_str()).collect();
            prop_assert_eq!(texts.join(","), string);
            let counted: Vec<_> =
                resolution.entries.iter().filter(|e| e.ordinal.is_some()).collect();
            prop_assert_eq!(counted.len(), resolution.devices.len());
            for (entry, device) in counted.iter().zip(&resolution.devices) {
                prop_assert_eq!(entry.uuid.as_deref(), Some(device.uuid.as_str()));
                prop_assert_eq!(entry.ordinal, Some(device.ordinal));
            }
        }
        for entry in &resolution.entries {
            prop_assert_eq!(entry.uuid.is_none(), entry.names == Named::Nothing);
            prop_assert_eq!(
                entry.reason.is_none(),
                entry.ordinal.is_some() || entry.standing == Standing::Counts
            );
        }
        prop_assert_eq!(resolution.certain, resolution.flags.is_empty());

        // The document says the same again.
        let document = serde_json::to_string(&resolution).unwrap();
        prop_assert_eq!(serde_json::from_str::<Resolution>(&document).unwrap(), resolution);
    }

    /// What stands after the end changes nothing.
    #[test]
    fn the_end_is_the_end(snapshot in nodes(), string in strings(), more in strings()) {
        let short = resolve(&snapshot, Some(&string));
        if short.entries.iter().any(|entry| entry.standing == Standing::Ends) {
            let long = resolve(&snapshot, Some(&format!("{string},{more}")));
            prop_assert_eq!(long.devices, short.devices);
            prop_assert_eq!(long.outcome, short.outcome);
        }
    }
}
