//! Profile names: `1g.18gb`, `1c.3g.71gb`, `1g.10gb+me`, `3g`.
//!
//! A name is what people write and NVIDIA prints; it drifts with the driver (`1g.23gb` and
//! `1g.24gb` are one profile of a GB200). The key is the [profile id](crate::id::ProfileId),
//! which a name is resolved to on a given GPU, before anything is touched.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::terminal::Quoted;

/// What sets a variant of a profile apart: the media engines and graphics that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Attribute {
    /// The plain profile.
    #[default]
    Plain,
    /// `+me`: with the media engines that only one instance can have.
    MediaEngines,
    /// `+me.all`: with all media engines of the GPU.
    AllMediaEngines,
    /// `+gfx`: with graphics.
    Graphics,
    /// `-me`: without media engines.
    NoMediaEngines,
}

impl Attribute {
    const SUFFIXES: [(Self, &str); 4] = [
        (Self::AllMediaEngines, "+me.all"),
        (Self::MediaEngines, "+me"),
        (Self::Graphics, "+gfx"),
        (Self::NoMediaEngines, "-me"),
    ];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::MediaEngines => "+me",
            Self::AllMediaEngines => "+me.all",
            Self::Graphics => "+gfx",
            Self::NoMediaEngines => "-me",
        }
    }
}

/// The name of a profile, taken apart.
///
/// ```
/// use gpushare_core::mig::ProfileName;
///
/// let name: ProfileName = "MIG 1c.3g.71gb".parse()?;
/// assert_eq!((name.compute, name.slices, name.gigabytes), (Some(1), 3, Some(71)));
/// assert_eq!(name.to_string(), "1c.3g.71gb");
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProfileName {
    /// Compute slices of a compute instance (`1c.`); none in the name of a whole GPU instance.
    pub compute: Option<u8>,
    /// Compute slices of the GPU instance (`3g`).
    pub slices: u8,
    /// The rounded gigabytes that NVIDIA puts in the name (`.71gb`); none in the short form.
    pub gigabytes: Option<u16>,
    /// The variant.
    pub attribute: Attribute,
}

impl ProfileName {
    /// The short form of a GPU-instance profile with that many slices: `3g`.
    pub const fn short(slices: u8) -> Self {
        Self { compute: None, slices, gigabytes: None, attribute: Attribute::Plain }
    }

    /// The name of the GPU instance without its compute instance; a compute instance as large
    /// as its GPU instance (`7c.7g.141gb`) is the GPU instance itself.
    #[must_use]
    pub const fn gpu_instance(self) -> Self {
        Self { compute: None, ..self }
    }

    /// The name of a compute instance of that many slices in this GPU instance.
    #[must_use]
    pub const fn with_compute(self, slices: u8) -> Self {
        let compute = if slices == self.slices { None } else { Some(slices) };
        Self { compute, ..self }
    }
}

impl FromStr for ProfileName {
    type Err = Error;

    /// Takes NVIDIA's spelling, with or without `MIG ` before it.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let text = text.strip_prefix("MIG ").unwrap_or(text);
            let (body, attribute) = Attribute::SUFFIXES
                .iter()
                .find_map(|&(attribute, suffix)| Some((text.strip_suffix(suffix)?, attribute)))
                .unwrap_or((text, Attribute::Plain));
            let mut parts = body.split('.').peekable();
            let compute = match parts.peek()?.strip_suffix('c') {
                Some(slices) => {
                    parts.next();
                    Some(number(slices, 16)? as u8)
                }
                None => None,
            };
            let slices = number(parts.next()?.strip_suffix('g')?, 16)? as u8;
            let gigabytes = match parts.next() {
                Some(part) => Some(number_or_zero(part.strip_suffix("gb")?, 9_999)?),
                None => None,
            };
            parts.next().is_none().then_some(())?;
            if compute.is_some_and(|compute| compute > slices) {
                return None;
            }
            let name = Self { compute, slices, gigabytes, attribute };
            Some(compute.map_or(name, |compute| name.with_compute(compute)))
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} is not a profile name such as 1g.10gb, 3g, 1c.3g.40gb or 1g.10gb+me",
                    Quoted(text)
                ),
            )
        })
    }
}

fn number(digits: &str, most: u16) -> Option<u16> {
    number_or_zero(digits, most).filter(|&number| number > 0)
}

/// Whole numbers without sign or leading zeros; Thor's profiles have `0gb`.
fn number_or_zero(digits: &str, most: u16) -> Option<u16> {
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|&number| plain && number <= most)
}

impl TryFrom<String> for ProfileName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        // Padding must apply to the whole name: status and plan print columns of them.
        let mut name = String::with_capacity(16);
        if let Some(compute) = self.compute {
            write!(name, "{compute}c.")?;
        }
        write!(name, "{}g", self.slices)?;
        if let Some(gigabytes) = self.gigabytes {
            write!(name, ".{gigabytes}gb")?;
        }
        name.push_str(self.attribute.suffix());
        f.pad(&name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_forms_and_variants() {
        for name in [
            "1g",
            "3g",
            "1g+me",
            "1c.3g",
            "1c.3g.71gb",
            "2g.48gb+me.all",
            "1g.0gb+gfx",
            "1g.24gb-me",
        ] {
            assert_eq!(name.parse::<ProfileName>().unwrap().to_string(), name);
        }
        assert_eq!("7c.7g.141gb".parse::<ProfileName>().unwrap().to_string(), "7g.141gb");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "g",
            "1",
            "1g.",
            "1gb",
            "1g.18",
            "1g.18gb+",
            "1g.18gb+xx",
            "0g",
            "01g",
            "+1g",
            "4c.3g",
            "1c",
            "1c.",
            "1g.18gb.1",
            "1g.18gb +me",
            "1G.18GB",
            "17g",
            "MIG",
            "MIG MIG 1g",
            "1g.-1gb",
        ] {
            assert!(text.parse::<ProfileName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(
            compute in proptest::option::of(1u8..=16), slices in 1u8..=16,
            gigabytes in proptest::option::of(0u16..=9_999), attribute in 0usize..5,
        ) {
            let attribute = [Attribute::Plain, Attribute::MediaEngines, Attribute::AllMediaEngines,
                Attribute::Graphics, Attribute::NoMediaEngines][attribute];
            let compute = compute.filter(|&compute| compute < slices);
            let name = ProfileName { compute, slices, gigabytes, attribute };
            prop_assert_eq!(name.to_string().parse::<ProfileName>().unwrap(), name);
        }

        #[test]
        fn any_text_is_refused_or_read_in_one_way(text in "\\PC{0,20}") {
            if let Ok(name) = text.parse::<ProfileName>() {
                prop_assert_eq!(name.to_string().parse::<ProfileName>().unwrap(), name);
            }
        }
    }
}
