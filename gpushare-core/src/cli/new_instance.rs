//! A GPU instance to create, as people name it: by name or by nvidia-smi's id, with a start or without.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorCode};
use crate::id::ProfileId;
use crate::mig::{Geometry, ProfileName};
use crate::terminal::Quoted;

/// The last slot of the largest geometry that the planner takes.
const LAST_SLOT: u8 = 15;

/// A GPU instance to create: `3g.40gb`, `3g`, `9`, and `3g.40gb@4`, `3g.40gb:4` or `9:4` at a slot.
///
/// The forms with a number and with a colon are those of `nvidia-smi mig -cgi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewInstance {
    pub(super) profile: Named,
    pub(super) start: Option<u8>,
}

/// A profile by its name, or by the id that `nvidia-smi mig -lgip` and `mig profiles` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Name(ProfileName),
    Id(ProfileId),
}

impl Named {
    /// The name of the profile on a GPU. Whether the GPU has a profile of that name is for the plan to say.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an id that the GPU does not have, with those that it has.
    pub(super) fn on(self, geometry: &Geometry) -> Result<ProfileName, Error> {
        let id = match self {
            Self::Name(name) => return Ok(name),
            Self::Id(id) => id,
        };
        geometry.by_id(id).map(|profile| profile.name).ok_or_else(|| {
            let profiles = geometry.profiles().iter();
            let known: Vec<_> =
                profiles.map(|profile| format!("{} ({})", profile.id, profile.name)).collect();
            Error::new(
                ErrorCode::InvalidArgument,
                format!("this GPU has no profile with the id {id}; it has {}", known.join(", ")),
            )
            .with_fits(known)
        })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => write!(f, "profile {id}"),
        }
    }
}

impl FromStr for NewInstance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (profile, start) = match text.split_once(['@', ':']) {
            None => (text, None),
            Some((profile, start)) => {
                let number = start.parse().ok().filter(|&slot| digits(start) && slot <= LAST_SLOT);
                let Some(number) = number else {
                    let start = Quoted(start);
                    return refuse(format!("{start} is no slot: write for example 3g.40gb@4"));
                };
                (profile, Some(number))
            }
        };
        if digits(profile) {
            return match profile.parse() {
                Ok(id) => Ok(Self { profile: Named::Id(ProfileId::new(id)), start }),
                Err(_) => {
                    refuse(format!("{} is too large for the id of a profile", Quoted(profile)))
                }
            };
        }
        let profile: ProfileName = profile.parse()?;
        if let Some(slices) = profile.compute {
            return refuse(format!(
                "{profile} is a compute instance, and GPU instances are created here; for a {} that is cut into {slices}c, apply a spec",
                profile.gpu_instance()
            ));
        }
        Ok(Self { profile: Named::Name(profile), start })
    }
}

fn refuse<T>(why: String) -> Result<T, Error> {
    Err(Error::new(ErrorCode::InvalidArgument, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_named_by_profile_and_slot() {
        let name = |text: &str| Named::Name(text.parse().unwrap());
        let id = |number| Named::Id(ProfileId::new(number));
        for (text, profile, start) in [
            ("3g.40gb@4", name("3g.40gb"), Some(4)),
            ("3g.40gb:4", name("3g.40gb"), Some(4)),
            ("MIG 3g.40gb:0", name("3g.40gb"), Some(0)),
            ("1g+me", name("1g+me"), None),
            ("1g.24gb+me.all:3", name("1g.24gb+me.all"), Some(3)),
            ("1g.24gb-me", name("1g.24gb-me"), None),
            ("19", id(19), None),
            ("0", id(0), None),
            ("9:4", id(9), Some(4)),
            ("9@15", id(9), Some(15)),
        ] {
            assert_eq!(
                text.parse::<NewInstance>().unwrap(),
                NewInstance { profile, start },
                "{text}"
            );
        }
        for text in [
            "",
            "3g@",
            "3g@x",
            "3g@-1",
            "3g@+1",
            "3g@16",
            "3g@256",
            "@4",
            "1c.3g.40gb",
            "3g:",
            ":4",
            "9:",
            "9:x",
            "9:16",
            "-9",
            "+9",
            "9 ",
            " 9",
            "9:4:4",
            "9@4:4",
            "4294967296",
            "9.5",
        ] {
            assert!(text.parse::<NewInstance>().is_err(), "{text}");
        }
    }
}
