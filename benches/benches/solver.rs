//! The MIG planner: all 55,594 transitions of the 7-slice family, and single ones.
//!
//! `all_transitions` goes from every layout but the empty one to every other multiset of profiles.
//! `one_transition` takes the same transitions one by one in a scattered order, so its median is
//! that of a transition.

use std::cell::Cell;

use divan::{Bencher, black_box};
use gpushare_benches::{layouts, multisets, seven_slices, wanted};
use gpushare_core::mig::Geometry;
use gpushare_core::mig::order::order;
use gpushare_core::mig::solve::{CurrentInstance, WantedInstance, solve};

fn main() {
    divan::main();
}

type Transition = (Vec<CurrentInstance>, Vec<WantedInstance>);

fn transitions() -> (Geometry, Vec<Transition>) {
    let geometry = seven_slices().expect("a table that gpushare takes");
    let layouts = layouts(&geometry);
    let multisets = multisets(&layouts);
    let mut transitions = Vec::new();
    for layout in layouts.iter().filter(|layout| !layout.is_empty()) {
        let own = wanted(layout);
        let others = multisets.iter().filter(|&other| *other != own);
        transitions.extend(others.map(|other| (layout.clone(), other.clone())));
    }
    assert_eq!((layouts.len(), multisets.len(), transitions.len()), (723, 78, 55_594));
    (geometry, transitions)
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn all_transitions(bencher: Bencher<'_, '_>) {
    let (geometry, transitions) = transitions();
    bencher.bench_local(|| {
        for (current, wanted) in &transitions {
            black_box(solve(&geometry, black_box(current), black_box(wanted))).expect("it fits");
        }
    });
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn all_transitions_in_order(bencher: Bencher<'_, '_>) {
    let (geometry, transitions) = transitions();
    bencher.bench_local(|| {
        for (current, wanted) in &transitions {
            let solution = solve(&geometry, current, wanted).expect("it fits");
            black_box(order(&geometry, current, wanted, &solution)).expect("its own solution");
        }
    });
}

#[divan::bench(sample_count = 55_594, sample_size = 1)]
fn one_transition(bencher: Bencher<'_, '_>) {
    let (geometry, transitions) = transitions();
    let next = Cell::new(0);
    bencher.bench_local(|| {
        // Coprime to the number of transitions: every one comes up once.
        next.set((next.get() + 20_011) % transitions.len());
        let (current, wanted) = &transitions[next.get()];
        black_box(solve(&geometry, black_box(current), black_box(wanted)))
    });
}
