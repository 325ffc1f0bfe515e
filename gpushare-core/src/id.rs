//! Identifiers, each a type of its own.
//!
//! NVML uses bare integers for everything; two pairs of them are confused in the field
//! all the time, so here they do not mix: a profile *index* (the enum that
//! `nvmlDeviceGetGpuInstanceProfileInfo` takes) and a profile *id* (what placements,
//! listing and creation take), and an NVML device index and a minor number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::terminal::Quoted;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The identifier with that number.
            pub const fn new(number: u32) -> Self {
                Self(number)
            }

            /// The number, as NVML takes it.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// NVML's index of a GPU: PCI bus order on this node, changes when GPUs come and go. Never a CUDA ordinal.
    GpuIndex
}
number! {
    /// The minor number of a GPU's device node: `/dev/nvidiaMINOR`.
    MinorNumber
}
number! {
    /// The id of a GPU instance within its GPU. Reused after a destroy: never a key over time.
    GpuInstanceId
}
number! {
    /// The id of a compute instance within its GPU instance. Reused after a destroy.
    ComputeInstanceId
}
number! {
    /// `NVML_GPU_INSTANCE_PROFILE_*`: the enum that profile queries take. Not a [`ProfileId`].
    ProfileIndex
}
number! {
    /// The id of a GPU-instance profile, which placements, lists and creation take (19 for `1g` on an H100).
    /// Stable over driver versions, unlike the name. Not a [`ProfileIndex`].
    ProfileId
}
number! {
    /// `NVML_COMPUTE_INSTANCE_PROFILE_*`: the enum that compute-instance profile queries take.
    ComputeProfileIndex
}
number! {
    /// The id of a compute-instance profile, which lists and creation take.
    ComputeProfileId
}
number! {
    /// A process id in this process's pid namespace.
    Pid
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $marks:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The prefix that NVML prints before the hexadecimal digits.
            pub const PREFIX: &'static str = $prefix;

            /// The uuid as NVML prints it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let valid = text.len() <= 96
                    && text.strip_prefix($prefix).is_some_and(|rest| {
                        !rest.is_empty()
                            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || $marks.contains(&b))
                    });
                if valid {
                    Ok(Self(text.into()))
                } else {
                    Err(Error::new(
                        ErrorCode::InvalidArgument,
                        format!(
                            "{} is not the uuid of a {}: it starts with {}",
                            Quoted(text), $what, $prefix
                        ),
                    ))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(uuid: $name) -> Self {
                uuid.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

uuid! {
    /// The uuid of a GPU: `GPU-8f3b98ec-0635-dff0-ff24-353df283557b`. The key to a GPU everywhere.
    GpuUuid, "GPU-", b"-", "GPU"
}
uuid! {
    /// The uuid of a MIG device: `MIG-c7885312-…`, or `MIG-GPU-UUID/GI/CI` from drivers before R470.
    MigUuid, "MIG-", b"-/", "MIG device"
}

/// A PCI address: `0000:3b:00.0`.
///
/// NVML prints an eight-digit domain; both forms parse, the short one is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The address with these parts.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Self {
        Self { domain, bus, device, function }
    }
}

impl FromStr for PciAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let mut parts = rest.rsplit(':');
            let hex = |part: &str, digits: usize| {
                (!part.is_empty() && part.len() <= digits && !part.starts_with('+'))
                    .then(|| u32::from_str_radix(part, 16).ok())?
            };
            let device = hex(parts.next()?, 2)?;
            let bus = hex(parts.next()?, 2)?;
            let domain = parts.next().map_or(Some(0), |domain| hex(domain, 8))?;
            parts.next().is_none().then_some(())?;
            Some(Self {
                domain,
                bus: u8::try_from(bus).ok()?,
                device: u8::try_from(device).ok()?,
                function: u8::try_from(hex(function, 1)?).ok()?,
            })
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                format!("{} is not a PCI address such as 0000:3b:00.0", Quoted(text)),
            )
        })
    }
}

impl TryFrom<String> for PciAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// The PCI device id with the vendor in its low half, as NVML gives it: `0x233010DE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciDeviceId(u32);

impl PciDeviceId {
    /// The id as NVML's integer.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// NVML's integer.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for PciDeviceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix("0x")
            .or_else(|| text.strip_prefix("0X"))
            .filter(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidArgument,
                    format!("{} is not a PCI device id such as 0x233010DE", Quoted(text)),
                )
            })
    }
}

impl TryFrom<String> for PciDeviceId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PciDeviceId> for String {
    fn from(id: PciDeviceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for PciDeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

/// The id of a share: a GPU's or MIG device's uuid, and `::N` where there are several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShareId {
    device: Box<str>,
    number: Option<u32>,
}

impl ShareId {
    /// The only share of a device.
    pub fn whole(device: &str) -> Self {
        Self { device: device.into(), number: None }
    }

    /// One of several shares of a device.
    pub fn part(device: &str, number: u32) -> Self {
        Self { device: device.into(), number: Some(number) }
    }

    /// The uuid of the GPU or MIG device that it is a share of.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Which of several shares of its device it is.
    pub const fn number(&self) -> Option<u32> {
        self.number
    }
}

impl FromStr for ShareId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} is not the id of a share: the uuid of a GPU or MIG device, and ::N where there are several, as `gpushare leases` lists them",
                    Quoted(text)
                ),
            )
        };
        let (device, number) = match text.split_once("::") {
            None => (text, None),
            Some((device, number)) => {
                let plain = number.bytes().all(|byte| byte.is_ascii_digit())
                    && (number == "0" || !number.starts_with('0'));
                let number = number.parse().ok().filter(|_| plain);
                (device, Some(number.ok_or_else(refuse)?))
            }
        };
        let known = device.parse::<GpuUuid>().is_ok() || device.parse::<MigUuid>().is_ok();
        if !known {
            return Err(refuse());
        }
        Ok(Self { device: device.into(), number })
    }
}

impl TryFrom<String> for ShareId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ShareId> for String {
    fn from(share: ShareId) -> Self {
        share.to_string()
    }
}

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            None => f.write_str(&self.device),
            Some(number) => write!(f, "{}::{number}", self.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_parse_in_nvmls_form_and_in_the_kernels() {
        let address = PciAddress::new(0, 0x3b, 0, 0);
        for text in ["0000:3b:00.0", "00000000:3B:00.0", "3b:00.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap(), address, "{text}");
        }
        assert_eq!(address.to_string(), "0000:3b:00.0");
        for text in ["", "3b", "3b:00", "1:2:3:4.0", "zz:00.0", "3b:00.+", "123:00.0"] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn uuids_name_what_they_are() {
        assert!("GPU-8f3b98ec-0635-dff0-ff24-353df283557b".parse::<GpuUuid>().is_ok());
        assert!("MIG-GPU-8f3b98ec-0635-dff0-ff24-353df283557b/7/0".parse::<MigUuid>().is_ok());
        for text in ["", "GPU-", "MIG-1", "GPU-../../etc", "GPU-a/b", "gpu-1", "GPU-a b"] {
            assert!(text.parse::<GpuUuid>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_named_by_their_device() {
        for text in ["GPU-1", "GPU-1::0", "MIG-1::12", "MIG-GPU-8f3b98ec/7/0::3"] {
            assert_eq!(text.parse::<ShareId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "GPU-",
            "GPU-1::",
            "GPU-1::x",
            "GPU-1::-1",
            "GPU-1::+1",
            "GPU-1::01",
            "GPU-1::1::2",
            "GPU-../x",
            "1",
            "GPU-1::4294967296",
        ] {
            assert!(text.parse::<ShareId>().is_err(), "{text}");
        }
    }

    #[test]
    fn device_ids_print_as_nvml_does() {
        let id: PciDeviceId = "0x233010de".parse().unwrap();
        assert_eq!(id.to_string(), "0x233010DE");
        assert!("233010DE".parse::<PciDeviceId>().is_err());
    }
}
