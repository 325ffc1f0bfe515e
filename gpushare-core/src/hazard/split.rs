//! Equal parts of a GPU or MIG device for MPS clients, without a hazard.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::{
    HazardName, LEAST_LIMIT, MINIMUM_SM, MpsTarget, hopper, limits, most_clients, of_percentage,
    sm_count, whole_percentages,
};
use crate::id::GpuUuid;
use crate::snapshot::{Driver, GpuSnapshot, Snapshot};
use crate::terminal::{count, printable};
use crate::units::{Bytes, ThreadPercentage};

/// The schema that a serialised split names.
pub const SPLIT_SCHEMA: &str = "gpushare.split/v1";

/// Equal parts of a GPU or MIG device: what each client is to get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Split {
    /// [`SPLIT_SCHEMA`].
    pub schema: String,
    /// Whether the GPU is simulated.
    pub simulated: bool,
    /// The GPU.
    pub gpu: GpuUuid,
    /// Whether a MIG device of it is split.
    pub mig_device: bool,
    /// How many parts.
    pub parts: u32,
    /// The thread percentage of each.
    pub thread_percentage: ThreadPercentage,
    /// The multiprocessors of each.
    pub sm_count: u32,
    /// The multiprocessors of the device.
    pub sm_total: u32,
    /// Multiprocessors that no part has.
    pub sm_left_over: u32,
    /// How many of these are left over because percentages and the driver round down.
    pub sm_left_over_by_rounding: u32,
    /// How many of these are left over because a larger percentage would make wrong results.
    pub sm_left_over_by_unsafe_bands: u32,
    /// What is left over, in percent of the device, to one decimal.
    pub lost_percent: f64,
    /// The memory of each, in whole MiB; none where the device's is not known, or the driver's daemon
    /// has no memory limits.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// What 100 / parts would have been, where it would make wrong results.
    pub plain: Option<PlainShare>,
}

/// What 100 / parts would have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlainShare {
    /// The whole percentage.
    pub thread_percentage: ThreadPercentage,
    /// The multiprocessors of each part.
    pub sm_count: u32,
    /// Its hazard.
    pub hazard: HazardName,
    /// What would happen.
    pub message: String,
}

/// The percentage and SMs of each of that many parts: the largest whole percentage up to 100 / parts
/// that has no hazard. Where the driver's minimum makes that none, the smallest above it that still
/// leaves every part its own SMs.
fn share(target: &MpsTarget, total: u32, parts: u32) -> Option<(ThreadPercentage, u32)> {
    let fits = |percentage: ThreadPercentage| {
        let sms = sm_count(percentage, total);
        let clean = of_percentage(target, percentage).next().is_none();
        (clean && sms.checked_mul(parts)? <= total).then_some((percentage, sms))
    };
    let most = plain(parts);
    let below = whole_percentages().rev().filter(|percentage| *percentage <= most).find_map(fits);
    below.or_else(|| whole_percentages().filter(|percentage| *percentage > most).find_map(fits))
}

/// 100 / parts in whole percent, at least 1.
fn plain(parts: u32) -> ThreadPercentage {
    let whole = (100 / parts.max(1)).max(1);
    ThreadPercentage::new(whole.into()).unwrap_or(ThreadPercentage::FULL)
}

/// Whether each part's memory is enough for a client.
fn memory_suffices(target: &MpsTarget, parts: u32) -> bool {
    parts == 1
        || target.memory.is_none_or(|memory| memory.get() / u64::from(parts) >= LEAST_LIMIT.get())
}

/// Splits a GPU or MIG device into equal parts without a hazard. Whole percentages only: what lies between
/// them was not measured.
///
/// # Errors
/// INVALID_ARGUMENT for 0 parts or more than the daemon takes clients; UNSUPPORTED where the SM count
/// is not known, on a card before compute capability 7.0, and where no partial percentage is known to
/// be right (unmeasured Hopper cards and MIG devices of Hopper cards); INSUFFICIENT for
/// more parts than there are times 8 SMs or GiB of memory, with the most that fit.
pub fn split(target: &MpsTarget, driver: &Driver, parts: u32) -> Result<Split> {
    split_target(target, driver, parts).map_err(|error| error.of_gpu(&target.gpu))
}

/// Splits GPUs of a snapshot, each into so many parts: the one answer that they all have.
///
/// # Errors
/// As [`split`], of the first GPU that has one; INVALID_ARGUMENT where the GPUs differ, NOT_FOUND where
/// there are none.
pub fn split_gpus<'a>(
    snapshot: &Snapshot,
    gpus: impl IntoIterator<Item = &'a GpuSnapshot>,
    parts: u32,
) -> Result<Split> {
    let mut answer = None;
    for gpu in gpus {
        let split = split(&MpsTarget::of_gpu(gpu), &snapshot.driver, parts)?;
        let split = split.simulated(snapshot.simulated);
        match &answer {
            None => answer = Some(split),
            Some(there) if (Split { gpu: there.gpu.clone(), ..split }) == *there => {}
            Some(_) => {
                return Err(Error::new(
                    ErrorCode::InvalidArgument,
                    "the GPUs of this node differ: say which one to split",
                ));
            }
        }
    }
    answer.ok_or_else(|| Error::new(ErrorCode::NotFound, "this node has no GPU"))
}

fn split_target(target: &MpsTarget, driver: &Driver, parts: u32) -> Result<Split> {
    let noun = target.noun();
    let most = most_clients(target, driver);
    if parts == 0 || parts > most {
        // What the device itself has room for may be less.
        let total = target.sm_count.filter(|&total| total > 0 && parts > most);
        let fit = total.map(|total| most_parts(target, total, most));
        let fit =
            fit.filter(|_| total.is_some_and(|total| expect_divisible(target, total, 2).is_ok()));
        let room =
            fit.map_or(String::new(), |fit| format!("; at most {fit} parts fit on this {noun}"));
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!(
                "{}: an MPS daemon serves from 1 to {most} clients here{room}",
                count(parts, "part")
            ),
        )
        .with_fits(fit.map(|fit| fit.to_string()).into_iter().collect()));
    }
    let Some(total) = target.sm_count.filter(|&total| total > 0) else {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "a split into {}: the driver does not say how many SMs the {noun} has, so nothing can be said of its parts",
                count(parts, "part")
            ),
        ));
    };
    if parts > 1 {
        expect_divisible(target, total, parts)?;
    }
    let found = share(target, total, parts).filter(|_| memory_suffices(target, parts));
    let Some((thread_percentage, each)) = found else {
        return Err(too_many(target, total, parts));
    };
    let left_over = total - each * parts;
    let plain = plain(parts);
    let plain_each = sm_count(plain, total);
    let by_unsafe_bands = (plain_each.saturating_sub(each) * parts).min(left_over);
    let hazard = of_percentage(target, plain).find(|name| *name == HazardName::HopperPartialSm);
    let limited = !limits::without_memory_limits(driver) || parts == 1;
    Ok(Split {
        schema: SPLIT_SCHEMA.to_owned(),
        simulated: false,
        gpu: target.gpu.clone(),
        mig_device: target.mig_device,
        parts,
        thread_percentage,
        sm_count: each,
        sm_total: total,
        sm_left_over: left_over,
        sm_left_over_by_rounding: left_over - by_unsafe_bands,
        sm_left_over_by_unsafe_bands: by_unsafe_bands,
        lost_percent: (f64::from(left_over) * 1000.0 / f64::from(total)).round() / 10.0,
        memory: target
            .memory
            .filter(|_| limited)
            .map(|memory| Bytes::from_mebibytes((memory.get() >> 20) / u64::from(parts))),
        plain: hazard.map(|hazard| PlainShare {
            thread_percentage: plain,
            sm_count: plain_each,
            hazard,
            message: hopper::message(hazard, target, plain),
        }),
    })
}

/// Refuses a device of which no part is known to be right.
fn expect_divisible(target: &MpsTarget, total: u32, parts: u32) -> Result<()> {
    if limits::before_limits(target) {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "a split into {}: MPS limits the threads of its clients from compute capability 7.0 (Volta) on, and this card is older; share it by time slicing",
                count(parts, "part")
            ),
        ));
    }
    let mut partial = whole_percentages().filter(|other| *other < ThreadPercentage::FULL);
    if partial
        .all(|other| of_percentage(target, other).any(|name| name == HazardName::HopperUnmeasured))
    {
        let why = hopper::message(HazardName::HopperUnmeasured, target, plain(parts));
        let instead = if target.mig_device {
            "use a MIG device for each tenant, without a percentage"
        } else {
            "share it without a percentage, or by MIG"
        };
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!("a split of {total} SMs into {parts} parts: {why}; {instead}"),
        )
        .with_safe(vec!["100".to_owned()]));
    }
    Ok(())
}

/// The most parts that fit, up to that many.
fn most_parts(target: &MpsTarget, total: u32, up_to: u32) -> u32 {
    let fits =
        |parts: &u32| memory_suffices(target, *parts) && share(target, total, *parts).is_some();
    // One part always fits: it is the device.
    (1..=up_to).rev().find(fits).unwrap_or(1)
}

fn too_many(target: &MpsTarget, total: u32, parts: u32) -> Error {
    let most = most_parts(target, total, parts.saturating_sub(1));
    let memory = target.memory.map_or(String::new(), |memory| format!(" and {memory} of memory"));
    Error::new(
        ErrorCode::Insufficient,
        format!(
            "{parts} parts: the {} has {total} SMs{memory}, and each part takes at least {MINIMUM_SM} SMs and {LEAST_LIMIT}; at most {most} fit",
            target.noun()
        ),
    )
    .with_fits(vec![most.to_string()])
}

impl Split {
    /// The same, said of a simulated GPU.
    #[must_use]
    pub fn simulated(self, simulated: bool) -> Self {
        Self { simulated, ..self }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        let of = if self.mig_device { "a MIG device of GPU" } else { "GPU" };
        writeln!(f, "{} of {of} {}", count(self.parts, "part"), self.gpu)?;
        writeln!(f, "  thread percentage  {} % each", self.thread_percentage)?;
        write!(f, "  SMs                {} of {} each", self.sm_count, self.sm_total)?;
        if self.sm_left_over > 0 {
            write!(f, "; {} left over ({} %)", self.sm_left_over, self.lost_percent)?;
            let causes = [
                (self.sm_left_over_by_rounding, "by rounding"),
                (self.sm_left_over_by_unsafe_bands, "to keep results right"),
            ];
            let causes = causes.iter().filter(|(count, _)| *count > 0);
            let causes: Vec<_> = causes.map(|(count, why)| format!("{count} {why}")).collect();
            write!(f, ": {}", causes.join(", "))?;
        }
        writeln!(f)?;
        match self.memory {
            Some(memory) => writeln!(f, "  memory             {memory} each")?,
            None => writeln!(
                f,
                "  memory             not limited: its size is not known, or the driver has no limits"
            )?,
        }
        if let Some(plain) = &self.plain {
            writeln!(
                f,
                "  not {} % (100 / {}): {}",
                plain.thread_percentage,
                self.parts,
                printable(&plain.message)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hazard::tests::{card, measured, slice};
    use crate::hazard::{expect_possible, of_mps_on};
    use crate::parameters::MpsConfig;

    fn driver() -> Driver {
        Driver { version: "590.44.01".to_owned(), cuda: Some("13.1".to_owned()) }
    }

    fn targets(sms: u32) -> Vec<MpsTarget> {
        let capabilities = [(6, 1), (7, 0), (8, 0), (9, 0), (10, 0), (12, 0)];
        let mut targets: Vec<_> = capabilities.map(|found| card(sms, found)).into();
        targets.extend([slice(sms, (8, 0)), slice(sms, (9, 0)), slice(sms, (10, 0))]);
        targets.push(MpsTarget { compute_capability: None, ..card(sms, (8, 0)) });
        targets
            .push(MpsTarget { memory: Some(Bytes::new((15 << 30) + 4711)), ..card(sms, (7, 5)) });
        targets
    }

    fn expect_right(target: &MpsTarget, split: &Split) {
        let parts = split.parts;
        let config = MpsConfig {
            thread_percentage: split.thread_percentage,
            pinned_memory_limit: split.memory,
            max_clients: std::num::NonZeroU32::new(parts),
            ..MpsConfig::default()
        };
        // The percentage and the memory do no harm; a bypass is not of their making.
        let hazards = of_mps_on(target, &config);
        let own: Vec<_> = hazards.iter().filter(|h| h.name != HazardName::BypassPossible).collect();
        assert!(own.is_empty(), "{target:?} {split:?} {own:?}");
        if !limits::before_limits(target) {
            expect_possible(target, &driver(), &config).unwrap();
        }
        assert_eq!(split.sm_count, sm_count(split.thread_percentage, split.sm_total));
        assert_eq!(split.sm_count * parts + split.sm_left_over, split.sm_total, "{split:?}");
        let causes = split.sm_left_over_by_rounding + split.sm_left_over_by_unsafe_bands;
        assert_eq!(causes, split.sm_left_over);
        let memory = split.memory.unwrap().get();
        assert!(memory * u64::from(parts) <= target.memory.unwrap().get());
        // No larger whole percentage up to 100 / n is safe and fits.
        for larger in whole_percentages().filter(|other| *other > split.thread_percentage) {
            let within = larger.get() * f64::from(parts) <= 100.0;
            let fits = sm_count(larger, split.sm_total) * parts <= split.sm_total;
            let safe = of_percentage(target, larger).next().is_none();
            assert!(!(within && fits && safe), "{split:?}: {larger}");
        }
        let plain = split.plain.is_some();
        assert_eq!(plain, split.sm_left_over_by_unsafe_bands > 0, "{split:?}");
        assert!(!plain || target.sm_count == Some(132), "{split:?}");
    }

    #[test]
    fn every_split_of_every_card_is_safe_fits_and_is_the_largest() {
        let mut seen = std::collections::BTreeMap::new();
        for sms in 8..=300 {
            for target in targets(sms) {
                for parts in 0..=61 {
                    let outcome = match split(&target, &driver(), parts) {
                        Ok(split) => {
                            expect_right(&target, &split);
                            "split"
                        }
                        Err(error) => {
                            expect_refusal(&target, parts, &error);
                            error.code().name()
                        }
                    };
                    *seen.entry(outcome).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(
            seen.keys().copied().collect::<Vec<_>>(),
            ["INSUFFICIENT", "INVALID_ARGUMENT", "UNSUPPORTED", "split"]
        );
    }

    fn expect_refusal(target: &MpsTarget, parts: u32, error: &Error) {
        let total = target.sm_count.unwrap();
        assert_eq!(error.gpu(), Some(&target.gpu));
        let most = most_clients(target, &driver());
        let outside = parts == 0 || parts > most;
        assert_eq!(error.code() == ErrorCode::InvalidArgument, outside, "{parts} {error}");
        assert!(parts != 1, "one part always fits: {error}");
        match error.code() {
            ErrorCode::InvalidArgument if parts > most && !error.fits().is_empty() => {
                let fits: u32 = error.fits()[0].parse().unwrap();
                assert!(fits <= most && error.message().contains(&format!("at most {fits} parts")));
                assert!(split(target, &driver(), fits).is_ok(), "{error}");
                assert!(fits == most || split(target, &driver(), fits + 1).is_err(), "{error}");
            }
            ErrorCode::InvalidArgument | ErrorCode::Unsupported => {}
            ErrorCode::Insufficient => {
                let fits: u32 = error.fits()[0].parse().unwrap();
                assert!(fits < parts);
                assert!(split(target, &driver(), fits).is_ok(), "{error}");
                assert!(split(target, &driver(), fits + 1).is_err(), "{error}");
                // Nothing is refused that has its SMs and memory, but where a whole percentage is too coarse.
                let memory = target.memory.unwrap().get() >> 30;
                let room = parts * MINIMUM_SM <= total && u64::from(parts) <= memory;
                assert!(!room || total > 200, "{parts} of {target:?}: {error}");
            }
            _ => panic!("{error}"),
        }
    }

    #[test]
    fn an_h200_is_split_as_measured() {
        let found: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 8, 16]
            .map(|parts| {
                let split = split(&measured(), &driver(), parts).unwrap();
                (parts, split.thread_percentage.get(), split.sm_count, split.plain.is_some())
            })
            .into();
        assert_eq!(
            found,
            [
                (1, 100.0, 132, false),
                (2, 50.0, 66, false),
                (3, 27.0, 34, true),
                (4, 25.0, 32, false),
                (5, 13.0, 16, true),
                (6, 13.0, 16, true),
                (7, 13.0, 16, true),
                (8, 12.0, 14, false),
                (16, 7.0, 8, false),
            ]
        );
    }

    #[test]
    fn what_a_split_costs_is_said() {
        let three = split(&measured(), &driver(), 3).unwrap();
        assert_eq!(
            (three.sm_left_over, three.sm_left_over_by_rounding, three.lost_percent),
            (30, 6, 22.7)
        );
        let text = three.to_string();
        for part in ["27 %", "34 of 132", "30 left over (22.7 %)", "47GiB", "not 33 %", "42 of 132"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("SIMULATED"));
        assert!(three.simulated(true).to_string().starts_with("SIMULATED\n"));
    }

    #[test]
    fn nothing_is_said_of_parts_of_an_unknown_whole() {
        for sm_count in [None, Some(0)] {
            let target = MpsTarget { sm_count, ..measured() };
            let error = split(&target, &driver(), 2).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unsupported);
        }
        let target = MpsTarget { memory: None, ..measured() };
        assert_eq!(split(&target, &driver(), 2).unwrap().memory, None);
        let mut old = driver();
        old.version = "470.256.02".to_owned();
        assert_eq!(split(&measured(), &old, 2).unwrap().memory, None);
    }
}
