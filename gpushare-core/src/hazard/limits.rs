//! What the card or the driver does not take: errors, not hazards.

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::MpsTarget;
use crate::mode::Priority;
use crate::parameters::MpsConfig;
use crate::snapshot::Driver;
use crate::units::{Bytes, ThreadPercentage};

/// The compute capability from which on MPS has limits for its clients (NVIDIA's MPS guide: Volta).
const WITH_LIMITS: (u32, u32) = (7, 0);

/// The driver from which on the daemon has memory limits and priorities (NVIDIA's MPS guide: CUDA 11.5;
/// the daemon of driver 470 has no command for either, that of 535 has).
const DRIVER_WITH_MEMORY_LIMITS: u32 = 495;

const MEBIBYTE: u64 = 1 << 20;

/// The most clients that a daemon takes on one device: 16 before compute capability 7.0; 48 from
/// there on (64 at once on an H200 with driver 580: 48 were served, 16 refused, measured); 60 where
/// the driver supports CUDA 13.1 (NVIDIA's MPS guide). On a MIG device it may be fewer.
pub fn most_clients(target: &MpsTarget, driver: &Driver) -> u32 {
    if before_limits(target) {
        16
    } else if cuda(driver).is_some_and(|version| version >= (13, 1)) {
        60
    } else {
        48
    }
}

fn cuda(driver: &Driver) -> Option<(u32, u32)> {
    let (major, rest) = driver.cuda.as_deref()?.split_once('.')?;
    let minor = rest.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

pub(super) fn before_limits(target: &MpsTarget) -> bool {
    target.compute_capability.is_some_and(|capability| capability < WITH_LIMITS)
}

/// Whether the driver is known to be too old for memory limits and priorities.
pub(super) fn without_memory_limits(driver: &Driver) -> bool {
    let major = driver.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major < DRIVER_WITH_MEMORY_LIMITS)
}

/// Refuses an MPS configuration that the card or the driver does not take.
///
/// # Errors
/// INSUFFICIENT for more clients than the daemon serves and for a memory limit beyond the device's
/// memory; INVALID_ARGUMENT for a memory limit of 0 or of a part of a mebibyte; UNSUPPORTED for a
/// thread percentage, a memory limit or a priority on a card before compute capability 7.0, and for a
/// memory limit or a priority with a driver before 495.
pub fn expect_possible(target: &MpsTarget, driver: &Driver, config: &MpsConfig) -> Result<()> {
    let possible = expect_clients(target, driver, config)
        .and_then(|()| expect_limits_exist(target, driver, config))
        .and_then(|()| expect_memory(target, config));
    possible.map_err(|error| error.of_gpu(&target.gpu))
}

fn expect_clients(target: &MpsTarget, driver: &Driver, config: &MpsConfig) -> Result<()> {
    let most = most_clients(target, driver);
    let Some(asked) = config.max_clients.map(|asked| asked.get()).filter(|&asked| asked > most)
    else {
        return Ok(());
    };
    let why = match most {
        16 => "on a card before compute capability 7.0",
        60 => "from CUDA 13.1 on",
        _ => "with a driver before CUDA 13.1",
    };
    Err(Error::new(
        ErrorCode::Insufficient,
        format!(
            "max_clients {asked}: an MPS daemon serves {most} clients on one device {why}, and refuses the rest; ask for {most} or fewer"
        ),
    )
    .with_fits(vec![format!("max_clients: {most}")]))
}

fn expect_limits_exist(target: &MpsTarget, driver: &Driver, config: &MpsConfig) -> Result<()> {
    let old_card = before_limits(target);
    let old_driver = without_memory_limits(driver);
    let percentage = config.thread_percentage;
    let asked = [
        (percentage < ThreadPercentage::FULL, false, "thread_percentage", "100 %"),
        (config.pinned_memory_limit.is_some(), old_driver, "pinned_memory_limit", "no limit"),
        (config.priority != Priority::Normal, old_driver, "priority", "normal"),
    ];
    for (_, driver_lacks, name, without) in asked.into_iter().filter(|asked| asked.0) {
        let why = if old_card {
            let (major, minor) = target.compute_capability.unwrap_or_default();
            format!(
                "the card has compute capability {major}.{minor}, and MPS has it from 7.0 (Volta) on"
            )
        } else if driver_lacks {
            format!(
                "the MPS daemon of driver {} does not have it; drivers from {DRIVER_WITH_MEMORY_LIMITS} on do",
                driver.version
            )
        } else {
            continue;
        };
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!("{name} cannot be set: {why}; leave it at {without}"),
        ));
    }
    Ok(())
}

fn expect_memory(target: &MpsTarget, config: &MpsConfig) -> Result<()> {
    let Some(limit) = config.pinned_memory_limit else { return Ok(()) };
    let invalid = |why: &str| {
        Err(Error::new(ErrorCode::InvalidArgument, format!("pinned_memory_limit {limit}: {why}")))
    };
    if limit.get() == 0 {
        return invalid("an MPS daemon takes 0 for no limit; leave it out for that");
    }
    if limit.get() % MEBIBYTE != 0 {
        return invalid(
            "not whole MiB, and MPS daemons misread anything finer; ask for whole MiB, for example 4096MiB",
        );
    }
    match target.memory {
        Some(memory) if limit > memory => {
            let most = Bytes::from_mebibytes(memory.get() / MEBIBYTE);
            Err(Error::new(
                ErrorCode::Insufficient,
                format!(
                    "pinned_memory_limit {limit}: the {} has {most}; ask for that or less, or for no limit",
                    target.noun()
                ),
            )
            .with_fits(vec![format!("pinned_memory_limit: {most}")]))
        }
        _ => Ok(()),
    }
}

/// What is possible and may not be what was meant.
pub fn notes(target: &MpsTarget, config: &MpsConfig) -> Vec<String> {
    let asked = config.max_clients.zip(config.pinned_memory_limit).zip(target.memory);
    let Some(((clients, limit), memory)) = asked else { return Vec::new() };
    // In u128 nothing overflows.
    if u128::from(clients.get()) * u128::from(limit.get()) <= u128::from(memory.get()) {
        return Vec::new();
    }
    let each = Bytes::from_mebibytes(memory.get() / u64::from(clients.get()) / MEBIBYTE);
    vec![format!(
        "{clients} clients with up to {limit} each are more than the {memory} of the {}: a client can run out of memory below its limit; {each} each would fit",
        target.noun()
    )]
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::hazard::tests::{card, measured, percent, slice};

    fn driver(version: &str, cuda: Option<&str>) -> Driver {
        Driver { version: version.to_owned(), cuda: cuda.map(str::to_owned) }
    }

    fn code(target: &MpsTarget, driver: &Driver, config: &MpsConfig) -> Option<ErrorCode> {
        expect_possible(target, driver, config).err().map(|error| {
            assert_eq!(error.gpu(), Some(&target.gpu));
            error.code()
        })
    }

    fn clients(count: u32) -> MpsConfig {
        MpsConfig { max_clients: NonZeroU32::new(count), ..MpsConfig::default() }
    }

    fn memory(limit: u64) -> MpsConfig {
        MpsConfig { pinned_memory_limit: Some(Bytes::new(limit)), ..MpsConfig::default() }
    }

    #[test]
    fn clients_beyond_what_the_daemon_serves_are_refused() {
        for (capability, cuda, most) in [
            ((6, 1), Some("13.1"), 16),
            ((7, 0), Some("13.0"), 48),
            ((7, 5), None, 48),
            ((9, 0), Some("12.9"), 48),
            ((9, 0), Some("nonsense"), 48),
            ((9, 0), Some("13.1"), 60),
            ((9, 0), Some("13.10"), 60),
            ((9, 0), Some("13.1.2"), 60),
            ((10, 0), Some("14.0"), 60),
        ] {
            let target = card(132, capability);
            let driver = driver("580.159.04", cuda);
            assert_eq!(most_clients(&target, &driver), most);
            for count in 1..=100 {
                let expected = (count > most).then_some(ErrorCode::Insufficient);
                assert_eq!(code(&target, &driver, &clients(count)), expected, "{count}");
            }
            let error = expect_possible(&target, &driver, &clients(most + 1)).unwrap_err();
            assert_eq!(error.fits(), [format!("max_clients: {most}")]);
        }
    }

    #[test]
    fn limits_need_a_card_and_a_driver_that_have_them() {
        let percentage = MpsConfig { thread_percentage: percent(50.0), ..MpsConfig::default() };
        let priority = MpsConfig { priority: Priority::BelowNormal, ..MpsConfig::default() };
        for capability in [(5, 2), (6, 0), (6, 1), (7, 0), (8, 0), (9, 0), (12, 0)] {
            for version in ["470.256.02", "494.1", "495.29", "535.261.03", "580.159.04", ""] {
                let driver = driver(version, Some("13.0"));
                let old_card = capability < (7, 0);
                let old_driver = matches!(version, "470.256.02" | "494.1");
                let unsupported = |refused: bool| refused.then_some(ErrorCode::Unsupported);
                let target = card(80, capability);
                let found = |config: &MpsConfig| code(&target, &driver, config);
                assert_eq!(found(&MpsConfig::default()), None);
                assert_eq!(found(&percentage), unsupported(old_card));
                assert_eq!(found(&priority), unsupported(old_card || old_driver));
                assert_eq!(found(&memory(4 << 30)), unsupported(old_card || old_driver));
            }
        }
    }

    #[test]
    fn memory_limits_are_whole_mebibytes_of_what_is_there() {
        let driver = driver("580.159.04", Some("13.0"));
        let target = MpsTarget { memory: Some(Bytes::new((8 << 30) + 4096)), ..measured() };
        for (limit, expected) in [
            (0, Some(ErrorCode::InvalidArgument)),
            (1, Some(ErrorCode::InvalidArgument)),
            ((1 << 30) + 1024, Some(ErrorCode::InvalidArgument)),
            (1 << 20, None),
            (8 << 30, None),
            ((8 << 30) + (1 << 20), Some(ErrorCode::Insufficient)),
            (u64::MAX, Some(ErrorCode::InvalidArgument)),
        ] {
            assert_eq!(code(&target, &driver, &memory(limit)), expected, "{limit}");
        }
        let error = expect_possible(&target, &driver, &memory(9 << 30)).unwrap_err();
        assert_eq!(error.fits(), ["pinned_memory_limit: 8GiB"]);
        let unknown = MpsTarget { memory: None, ..measured() };
        assert_eq!(code(&unknown, &driver, &memory(1 << 50)), None);
    }

    #[test]
    fn limits_that_exceed_the_memory_together_are_noted() {
        let target = MpsTarget { memory: Some(Bytes::new(8 << 30)), ..slice(60, (9, 0)) };
        let both = |count, limit| MpsConfig { ..memory(limit) }.with_clients(count);
        assert!(notes(&target, &both(4, 2 << 30)).is_empty());
        let found = notes(&target, &both(5, 2 << 30));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("MIG device") && found[0].contains("1638MiB"), "{found:?}");
        assert_eq!(notes(&target, &both(u32::MAX, u64::MAX)).len(), 1);
        assert!(notes(&target, &memory(2 << 30)).is_empty());
        assert!(notes(&target, &clients(48)).is_empty());
    }

    impl MpsConfig {
        fn with_clients(self, count: u32) -> Self {
            Self { max_clients: NonZeroU32::new(count), ..self }
        }
    }
}
