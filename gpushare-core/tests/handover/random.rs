//! Layouts that stand on a GPU, by chance: each goes out and comes back.

use gpushare_core::backend::sim::{PRODUCTS, Product};
use gpushare_core::mig::geometry::Engines;
use proptest::prelude::*;

use crate::node::Place;

/// A layout that fits, out of random numbers: which profile where, and how it is cut.
fn layout(product: &Product, dice: &[(usize, usize, u8)]) -> Vec<String> {
    let mut taken = 0u16;
    let mut engines = Engines::default();
    let mut counts = vec![0; product.profiles.len()];
    let mut layout = Vec::new();
    for &(which, start, cut) in dice {
        let position = which % product.profiles.len();
        let profile = &product.profiles[position];
        let placements: Vec<_> = profile.placements().collect();
        let placement = placements[start % placements.len()];
        let with = engines.plus(profile.engines);
        let fits = placement.mask() & taken == 0
            && counts[position] < profile.max_instances
            && with.within(product.engines());
        if !fits {
            continue;
        }
        taken |= placement.mask();
        engines = with;
        counts[position] += 1;
        let (name, start, slices) = (profile.name, placement.start, profile.name.slices);
        // Whole, or in parts of one slice, as many as the number says.
        let compute = match cut % (slices + 1) {
            0 => String::new(),
            parts => format!(", compute: [{}]", vec!["1c"; parts.into()].join(", ")),
        };
        layout.push(format!("{{profile: {name}, start: {start}{compute}}}"));
    }
    layout
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 1_000 }))]

    #[test]
    fn what_stands_on_a_gpu_goes_out_and_comes_back(
        model in 0usize..13,
        dice in proptest::collection::vec((0usize..64, 0usize..64, 0u8..16), 0..12),
        other in proptest::collection::vec((0usize..64, 0usize..64, 0u8..16), 0..6),
    ) {
        let product = PRODUCTS.iter().filter(|product| product.has_mig()).nth(model).unwrap();
        let fleet = format!("2x{}", product.name);
        let place = Place::new(&fleet);
        for (gpu, dice) in [(0, &dice), (1, &other)] {
            let layout = layout(product, dice).join(", ");
            place.apply_text(&format!(
                "version: gpushare/v1\ngpus: [{{select: {gpu}, mode: mig, mig: {{instances: [{layout}]}}}}]"
            ));
        }
        let text = place.export().text;
        place.goes_round(&fleet, &text, Some("current"));
    }

    /// A file with a piece put in or left out is read or refused, and what is read can be planned.
    #[test]
    fn a_file_with_a_mistake_is_read_or_refused(
        which in 0usize..4,
        at in 0usize..2_000,
        gone in 0usize..40,
        piece in prop_oneof![
            "\\PC{0,12}",
            "[\\[\\]{}:,&*\"'<>|!#~\n -]{0,6}",
            "&a|\\*a|<<: |1c\\.|\\+me|-|0x|: -1|\n  |\t|null|all|\u{0}|\u{feff}",
        ],
    ) {
        const CONFIG: &str = include_str!("../../../examples/mig-parted.yaml");
        const CHECKPOINT: &str = r#"{"Version": "v1", "MigState": {"Devices": [{"UUID":
            "GPU-0e181955-8d4f-785c-8e47-9702e69bba3a", "MigMode": 1, "GpuInstances": [{"ProfileID": 2,
            "Placement": {"Start": 4, "Size": 4}, "ComputeInstances": [{"ProfileID": 2, "EngProfileID": 0}]}]}]}}"#;
        let (text, config) =
            [(CONFIG, Some("notebooks")), (CONFIG, Some("whole")), (CONFIG, None), (CHECKPOINT, None)][which];
        let start = at % text.len();
        let end = (start + gone).min(text.len());
        let text = format!("{}{piece}{}", &text[..start], &text[end..]);
        let place = Place::new("2xA100-40GB,1xH100-80GB");
        match place.import(&text, config) {
            Ok(imported) => {
                let printed: gpushare_core::Spec = imported.spec.to_string().parse().unwrap();
                prop_assert_eq!(&printed, &imported.spec);
                let planned = place.node.plan(&printed);
                prop_assert!(planned.is_ok(), "{:?} of {}", planned, text);
            }
            Err(error) => prop_assert!(!error.message().is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let snapshot = Place::new("1xT4").snapshot();
        let kind = gpushare_core::import::Kind::MigParted;
        prop_assert!(gpushare_core::import::import(&bytes, kind, &Default::default(), &snapshot).is_err());
    }
}
