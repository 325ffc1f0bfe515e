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
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 600 }))]

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
}
