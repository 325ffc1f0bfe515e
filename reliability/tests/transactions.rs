//! A part of the walk through what may go wrong, small enough for every change; and whether it would see it.

use gpushare_reliability::transactions::{self, Budget, Planted};

#[test]
fn whatever_goes_wrong_it_is_old_or_new() {
    // The same for every change: who looks for more gives the command another seed.
    let seed = 1;
    let budget = Budget { one_in: 12, of_each_pair: 12, transitions_one_in: 7, planted: None };
    match transactions::check(seed, budget, &|_| {}) {
        Ok(figures) => {
            assert!(figures.faulted > 20_000, "{figures}");
            assert!(figures.beside > 100 && figures.recoveries > 500, "{figures}");
            assert!(figures.begun > 5_000 && figures.around > 100, "{figures}");
        }
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn what_is_planted_is_found() {
    for planted in [Planted::JournalNotSynced, Planted::NothingUndone] {
        let planted = Some(planted);
        let budget = Budget { one_in: 20, of_each_pair: 0, transitions_one_in: 1, planted };
        let broken = transactions::check(1, budget, &|_| {}).unwrap_err().to_string();
        assert!(broken.contains("a third state"), "{planted:?}: {broken}");
        // Both in a death.
        let died =
            ["is the last", "the process is killed"].iter().any(|said| broken.contains(said));
        assert!(died, "{planted:?}: {broken}");
    }
}
