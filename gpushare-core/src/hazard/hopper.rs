//! Which percentages make wrong half-precision products on Hopper cards.
//!
//! Measured on one H200 (132 SMs, compute capability 9.0, driver 580.159.04, cuBLAS of CUDA 13.0):
//! `data/h200-mps-gemm.tsv` has how many of 66 products were wrong at each percentage. Parts of
//! their output were never written, and CUDA reported no error. An independent report on another
//! H200 names the same bands. Products in fp32 and tf32 were right at every percentage, and so was
//! everything without MPS, at 100 %, and (that report) in MIG devices without a percentage.

use crate::hazard::{HazardName, MpsTarget};
use crate::mps::sm_count;
use crate::units::ThreadPercentage;

/// SM counts, of 132, with which products were wrong. Three bands, each unsafe as a whole: 22 and 70
/// SMs looked clean in our sample, and nobody knows why.
pub(super) const UNSAFE_SM: [(u32, u32); 3] = [(18, 28), (36, 60), (68, 116)];

/// The SM count for which the bands were measured.
const MEASURED_SM: u32 = 132;

/// The hazard of a percentage below 100, if it is one.
pub(super) fn judge(target: &MpsTarget, percentage: ThreadPercentage) -> Option<HazardName> {
    match target.compute_capability {
        Some((9, _)) if !target.mig_device && target.sm_count == Some(MEASURED_SM) => {
            let (low, high) = sm_counts(percentage);
            let touched = UNSAFE_SM.iter().any(|&(from, to)| low <= to && from <= high);
            touched.then_some(HazardName::HopperPartialSm)
        }
        // A card that does not say what it is may be one.
        Some((9, _)) | None => Some(HazardName::HopperUnmeasured),
        Some(_) => None,
    }
}

/// The fewest and the most SMs that a percentage of the measured card may be. Whole percentages
/// were measured; one between two of them is anything from the lower to the upper.
fn sm_counts(percentage: ThreadPercentage) -> (u32, u32) {
    let whole = |percent: f64| {
        ThreadPercentage::new(percent).map_or(0, |percentage| sm_count(percentage, MEASURED_SM))
    };
    (whole(percentage.get().floor().max(1.0)), whole(percentage.get().ceil()))
}

/// What would happen, in words.
pub(super) fn message(
    name: HazardName,
    target: &MpsTarget,
    percentage: ThreadPercentage,
) -> String {
    let bands: Vec<_> = UNSAFE_SM.iter().map(|(from, to)| format!("{from}-{to}")).collect();
    let bands = bands.join(", ");
    let measured = "measured on an H200 with driver 580.159.04 and cuBLAS of CUDA 13.0; an independent report agrees; fp32 and tf32 are right";
    if name == HazardName::HopperPartialSm {
        let sms = match sm_counts(percentage) {
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low} to {high}"),
        };
        return format!(
            "at {percentage} % a client gets {sms} of {MEASURED_SM} SMs: with {bands} of them cuBLAS leaves parts of bf16 and fp16 products unwritten, and CUDA reports no error ({measured})"
        );
    }
    let which = match (target.compute_capability, target.mig_device, target.sm_count) {
        (None, ..) => "the driver does not say whether this is one".to_owned(),
        (_, true, _) => "a percentage inside a MIG device of a Hopper card was not measured (MIG devices without one are right)".to_owned(),
        (.., Some(total)) => format!("this one has {total} SMs and was not measured"),
        (.., None) => "how many SMs this one has is not known".to_owned(),
    };
    format!(
        "Hopper cards with {MEASURED_SM} SMs compute wrong bf16 and fp16 products at many percentages, without an error ({measured}); {which}"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hazard::tests::{measured, percent};

    /// Percentage, SMs, wrong products of half and of full precision.
    fn table() -> Vec<(u32, u32, u32, u32)> {
        let text = include_str!("../../data/h200-mps-gemm.tsv");
        let rows = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        rows.map(|row| {
            let cells: Vec<u32> = row.split('\t').map(|cell| cell.parse().unwrap()).collect();
            (cells[0], cells[1], cells[2] + cells[3], cells[4] + cells[5])
        })
        .collect()
    }

    #[test]
    fn no_percentage_with_a_wrong_product_is_safe() {
        let table = table();
        assert_eq!(
            table.iter().map(|row| row.0).collect::<Vec<_>>(),
            (8..=100).collect::<Vec<_>>()
        );
        for (whole, sms, wrong, wrong_in_full) in table {
            let found = judge(&measured(), percent(whole.into()));
            assert_eq!(sm_count(percent(whole.into()), MEASURED_SM), sms);
            assert!(wrong == 0 || found == Some(HazardName::HopperPartialSm), "{whole} %");
            assert_eq!(wrong_in_full, 0, "the message says that these are right");
        }
    }

    #[test]
    fn each_band_begins_and_ends_with_a_wrong_product_or_is_reported_so() {
        let table = table();
        let wrong = |sms: u32| table.iter().any(|row| row.1 == sms && row.2 > 0);
        for (from, to) in UNSAFE_SM {
            assert!(wrong(from) && wrong(to), "{from}-{to}");
        }
    }

    #[test]
    fn the_bands_are_taken_whole() {
        for whole in 1..=100u32 {
            let wrong = matches!(whole, 14..=22 | 28..=46 | 52..=89);
            let found = judge(&measured(), percent(whole.into()));
            assert_eq!(found.is_some(), wrong, "{whole} %");
        }
    }

    proptest! {
        #[test]
        fn between_two_whole_percentages_both_must_be_safe(p in 0.001..100.0f64) {
            let safe = |p: f64| judge(&measured(), percent(p)).is_none();
            prop_assert_eq!(safe(p), safe(p.floor().max(1.0)) && safe(p.ceil()));
            // Whatever the driver rounds to, it is no count of a band.
            let sms = sm_count(percent(p), MEASURED_SM);
            let banded = UNSAFE_SM.iter().any(|&(from, to)| (from..=to).contains(&sms));
            prop_assert!(!(safe(p) && banded));
        }
    }
}
