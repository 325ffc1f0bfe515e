//! How many multiprocessors a thread percentage is.

use crate::units::ThreadPercentage;

/// The multiprocessors that every client gets, however small its percentage.
pub const MINIMUM_SM: u32 = 8;

/// Multiprocessors that a client sees under a percentage of a device with `total` of them:
/// `max(8, 2 * floor(percentage * total / 200))`, and never more than there are.
///
/// Exact on an H200 (132 SMs, driver 580.159.04, measured) for all 100 whole percentages
/// (`data/h200-percent-to-sms.tsv`) and for 109 between them (`tests/gpu/percent.py`). Other cards
/// were not measured. 100 % is no limit.
pub fn sm_count(percentage: ThreadPercentage, total: u32) -> u32 {
    if percentage == ThreadPercentage::FULL {
        return total;
    }
    sm_share(percentage, total).max(MINIMUM_SM).min(total)
}

/// The same without the minimum.
pub(crate) fn sm_share(percentage: ThreadPercentage, total: u32) -> u32 {
    // In range: the percentage is at most 100.
    2 * (percentage.get() * f64::from(total) / 200.0).floor() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(percent: f64) -> ThreadPercentage {
        ThreadPercentage::new(percent).unwrap()
    }

    #[test]
    fn an_h200_counts_the_same_for_every_whole_percentage() {
        let table = include_str!("../../data/h200-percent-to-sms.tsv");
        let rows = table.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let mut seen = Vec::new();
        for row in rows {
            let (whole, measured) = row.split_once('\t').unwrap();
            let whole: u32 = whole.parse().unwrap();
            assert_eq!(
                sm_count(percent(whole.into()), 132),
                measured.parse::<u32>().unwrap(),
                "{row}"
            );
            seen.push(whole);
        }
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn it_is_even_monotone_and_within_the_device(
            a in 0.01..=100.0f64,
            b in 0.01..=100.0f64,
            total in 8..1000u32,
        ) {
            let (low, high) = (percent(a.min(b)), percent(a.max(b)));
            let (less, more) = (sm_count(low, total), sm_count(high, total));
            prop_assert!(less <= more);
            for (percentage, count) in [(low, less), (high, more)] {
                prop_assert!((MINIMUM_SM..=total).contains(&count));
                prop_assert!(count % 2 == 0 || count == total);
                // Never more than was asked for, but for the minimum.
                let share = percentage.get() * f64::from(total) / 100.0;
                prop_assert!(count == MINIMUM_SM || f64::from(count) <= share + 1e-6);
                prop_assert!(f64::from(count) > share - 2.0 - 1e-6);
            }
        }
    }
}
