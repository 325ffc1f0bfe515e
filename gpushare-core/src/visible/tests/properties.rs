//! What holds of any string on any node.

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
        expect_of_one_piece(&snapshot, string.as_deref());
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
