//! What one MPS control daemon serves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::id::{GpuUuid, MigUuid};
use crate::terminal::Quoted;

/// What one MPS control daemon serves: one GPU or one MIG device.
///
/// A daemon over several devices is not supported: an error of one client ends the clients on every
/// device of the daemon (NVIDIA's MPS guide), and a limit names devices by numbers that the
/// daemon gives anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum MpsDomain {
    /// A whole GPU.
    Gpu(GpuUuid),
    /// A MIG device.
    MigDevice(MigUuid),
}

impl MpsDomain {
    /// The uuid of the device.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Gpu(uuid) => uuid.as_str(),
            Self::MigDevice(uuid) => uuid.as_str(),
        }
    }
}

impl fmt::Display for MpsDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for MpsDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match (text.parse(), text.parse()) {
            (Ok(gpu), _) => Ok(Self::Gpu(gpu)),
            (_, Ok(device)) => Ok(Self::MigDevice(device)),
            _ => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{} is the uuid of no GPU and of no MIG device", Quoted(text)),
            )),
        }
    }
}

impl TryFrom<String> for MpsDomain {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<MpsDomain> for String {
    fn from(domain: MpsDomain) -> Self {
        domain.as_str().to_owned()
    }
}

impl From<GpuUuid> for MpsDomain {
    fn from(uuid: GpuUuid) -> Self {
        Self::Gpu(uuid)
    }
}

impl From<&GpuUuid> for MpsDomain {
    fn from(uuid: &GpuUuid) -> Self {
        Self::Gpu(uuid.clone())
    }
}

impl From<&MigUuid> for MpsDomain {
    fn from(uuid: &MigUuid) -> Self {
        Self::MigDevice(uuid.clone())
    }
}

impl From<MigUuid> for MpsDomain {
    fn from(uuid: MigUuid) -> Self {
        Self::MigDevice(uuid)
    }
}
