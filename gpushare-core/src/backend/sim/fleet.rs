//! The fleet: which cards a simulated node has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::products::{PRODUCTS, Product};
use crate::error::{Error, ErrorCode, Result};
use crate::terminal::Quoted;

/// Which cards a simulated node has, in the order of their NVML index.
///
/// ```
/// use gpushare_core::backend::sim::Fleet;
///
/// let fleet: Fleet = "2xA100-40GB,A30-24GB".parse()?;
/// assert_eq!(fleet.len(), 3);
/// assert_eq!(fleet.to_string(), "2xA100-40GB,1xA30-24GB");
/// assert_eq!(fleet.file_name(), "sim-2xA100-40GB-1xA30-24GB");
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fleet(Vec<(usize, &'static Product)>);

impl Fleet {
    /// The most cards that a node can have.
    pub const LIMIT: usize = 64;

    /// How many cards it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(count, _)| count).sum()
    }

    /// Whether it has none: never, since a fleet is parsed from at least one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of what a node of this fleet keeps in a state directory: `sim-2xA100-40GB-1xA30-24GB`.
    ///
    /// `NAME.json` is the node itself; records, journals and locks are below folders of that name.
    pub fn file_name(&self) -> String {
        format!("sim-{}", self.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    /// The cards, in the order of their NVML index.
    pub fn products(&self) -> impl Iterator<Item = &'static Product> + '_ {
        self.0.iter().flat_map(|&(count, product)| std::iter::repeat_n(product, count))
    }
}

impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        let names = |fleet: &Self| fleet.products().map(|product| product.name).collect::<Vec<_>>();
        names(self) == names(other)
    }
}

impl Eq for Fleet {}

impl FromStr for Fleet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "fleet {}: {why}; write for example 8xH100-80GB or 2xA100-40GB,1xA30-24GB",
                    Quoted(text)
                ),
            ))
        };
        let mut groups = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (count, name) = match part.split_once('x') {
                Some((count, name)) if count.bytes().all(|b| b.is_ascii_digit()) => {
                    match count.parse::<usize>() {
                        Ok(count @ 1..=Self::LIMIT) => (count, name),
                        _ => {
                            return refuse(format!(
                                "{} does not count 1 to {} cards",
                                Quoted(part),
                                Self::LIMIT
                            ));
                        }
                    }
                }
                _ => (1, part),
            };
            let Some(product) = Product::by_name(name) else {
                let names: Vec<_> = PRODUCTS.iter().map(|product| product.name).collect();
                return refuse(format!(
                    "the simulator knows no card {}; it knows {}",
                    Quoted(name),
                    names.join(", ")
                ));
            };
            groups.push((count, product));
        }
        let fleet = Self(groups);
        if fleet.len() > Self::LIMIT {
            return refuse(format!("a node has at most {} cards", Self::LIMIT));
        }
        Ok(fleet)
    }
}

impl TryFrom<String> for Fleet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Fleet> for String {
    fn from(fleet: Fleet) -> Self {
        fleet.to_string()
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (count, product)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{count}x{}", product.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleets_parse_as_they_print() {
        for text in ["8xH100-80GB", "2xA100-40GB,1xA30-24GB", "4xL40S", "64xT4"] {
            assert_eq!(text.parse::<Fleet>().unwrap().to_string(), text);
        }
        for (text, canonical) in [
            ("h100-96gb", "1xGH200-96GB"),
            ("2xH200", "2xH200-141GB"),
            ("B200, RTX-PRO-6000", "1xB200-180GB,1xRTX-PRO-6000-Blackwell-96GB"),
        ] {
            let fleet = text.parse::<Fleet>().unwrap();
            assert_eq!(fleet.to_string(), canonical);
            assert_eq!(canonical.parse::<Fleet>().unwrap(), fleet);
        }
        assert_eq!("1xT4,1xT4".parse::<Fleet>().unwrap(), "2xT4".parse::<Fleet>().unwrap());
    }

    #[test]
    fn what_is_no_fleet_is_refused_by_name() {
        for text in [
            "",
            ",",
            "0xT4",
            "65xT4",
            "64xT4,T4",
            "xT4",
            "2x",
            "-1xT4",
            "2xX1",
            "T4,",
            "99999999999999999999xT4",
        ] {
            let error = text.parse::<Fleet>().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
        }
        let error = "8xH800".parse::<Fleet>().unwrap_err();
        assert!(error.message().contains("H100-80GB") && error.message().contains("L40S"));
    }
}
