//! Units: bytes, percentages, slots.
//!
//! Every quantity has its own type, so that mebibytes are never taken for bytes
//! and a slot is never taken for a slice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::terminal::Quoted;

/// An amount of memory in bytes.
///
/// Parsed from a whole number and `K`, `M`, `G` or `T`, with an optional `i` and an
/// optional `B`, always in powers of 1024; printed in the largest unit that divides it.
/// A bare integer is bytes in files; [`Bytes::parse_with_unit`] refuses it, as the
/// command line does.
///
/// ```
/// use gpushare_core::units::Bytes;
///
/// assert_eq!("4GiB".parse::<Bytes>()?, Bytes::new(4 << 30));
/// assert_eq!("4G".parse::<Bytes>()?.to_string(), "4GiB");
/// assert!("1.5G".parse::<Bytes>().is_err());
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// That many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many mebibytes, the unit of NVML's profile tables.
    pub const fn from_mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// The amount in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Parses a size that must name its unit, as on the command line.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for anything but a whole number followed by a unit.
    pub fn parse_with_unit(text: &str) -> Result<Self, Error> {
        Self::parse(text, true)
    }

    fn parse(text: &str, unit_needed: bool) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "size {}: {why}; write a whole number and K, M, G or T, for example 4GiB",
                    Quoted(text)
                ),
            )
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(refuse("no whole number at its start"));
        }
        let shift = match unit {
            "" if unit_needed => return Err(refuse("it names no unit")),
            "" => 0,
            "K" | "KB" | "Ki" | "KiB" => 10,
            "M" | "MB" | "Mi" | "MiB" => 20,
            "G" | "GB" | "Gi" | "GiB" => 30,
            "T" | "TB" | "Ti" | "TiB" => 40,
            _ if unit.starts_with('.') => return Err(refuse("a fraction")),
            _ => return Err(refuse("unknown unit")),
        };
        let number: u64 = number.parse().map_err(|_| refuse("too large"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| refuse("too large"))
    }
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, false)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in units {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// The share of a GPU's threads that an MPS client may use: above 0, at most 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct ThreadPercentage(f64);

impl ThreadPercentage {
    /// All threads: no limit.
    pub const FULL: Self = Self(100.0);

    /// That percentage.
    ///
    /// # Errors
    /// INVALID_ARGUMENT outside (0, 100]: the MPS daemon would ignore it without a word.
    pub fn new(percent: f64) -> Result<Self, Error> {
        if percent > 0.0 && percent <= 100.0 {
            Ok(Self(percent))
        } else {
            Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("thread percentage {percent}: must be above 0 and at most 100"),
            ))
        }
    }

    /// The percentage as a number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

// The constructor refuses NaN, so equality is total.
impl Eq for ThreadPercentage {}

impl TryFrom<f64> for ThreadPercentage {
    type Error = Error;

    fn try_from(percent: f64) -> Result<Self, Error> {
        Self::new(percent)
    }
}

impl From<ThreadPercentage> for f64 {
    fn from(percentage: ThreadPercentage) -> Self {
        percentage.0
    }
}

impl fmt::Display for ThreadPercentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_in_every_spelling() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1K", 1 << 10),
            ("1KiB", 1 << 10),
            ("512MB", 512 << 20),
            ("512Mi", 512 << 20),
            ("4G", 4 << 30),
            ("2TiB", 2 << 40),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes::new(bytes), "{text}");
        }
    }

    #[test]
    fn what_the_mps_daemon_would_misread_is_refused() {
        for text in [
            "1.5G",
            "-1",
            "",
            "G",
            "4X",
            "4g",
            "abc",
            "1 G",
            "+1G",
            "18446744073709551616",
            "99999999T",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert!(Bytes::parse_with_unit("4096").is_err());
        assert_eq!(Bytes::parse_with_unit("4M").unwrap(), Bytes::from_mebibytes(4));
    }

    #[test]
    fn printing_and_parsing_agree() {
        for bytes in [0, 1, 1023, 1 << 10, 3 << 20, (1 << 30) + (1 << 20), 5 << 40, u64::MAX] {
            let printed = Bytes::new(bytes).to_string();
            let text =
                printed.strip_suffix('B').filter(|t| t.ends_with(|c: char| c.is_ascii_digit()));
            assert_eq!(text.unwrap_or(&printed).parse::<Bytes>().unwrap(), Bytes::new(bytes));
        }
    }

    #[test]
    fn percentages_outside_the_range_are_refused() {
        for bad in [0.0, -5.0, 100.0001, 101.0, f64::NAN, f64::INFINITY] {
            assert!(ThreadPercentage::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ThreadPercentage::new(33.3).unwrap().get(), 33.3);
    }
}
