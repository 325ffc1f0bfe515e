//! Words: names of profiles, sizes, addresses, uuids and all else that is read from one word.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use super::{chosen, expect_shown};
use crate::backend::sim::Fleet;
use crate::error::{Error, ErrorCode};
use crate::export;
use crate::hazard::HazardName;
use crate::id::{GpuUuid, MigUuid, PciAddress, PciDeviceId, ShareId};
use crate::import;
use crate::mig::ProfileName;
use crate::mode::{ComputeMode, Interval, Mode, Priority, SharingMode};
use crate::mps::MpsDomain;
use crate::spec::Selector;
use crate::units::{Bytes, ThreadPercentage};
use crate::visible::DeviceOrder;

pub(super) fn feed(data: &[u8]) {
    let (kind, rest) = chosen(data);
    let text = String::from_utf8_lossy(rest);
    match kind % 20 {
        0 => profile(&text),
        1 => size(&text),
        2 => address(&text),
        3 => same::<PciDeviceId>(&text, |text| format!("0x{}", text[2..].to_ascii_uppercase())),
        4 => same::<GpuUuid>(&text, str::to_owned),
        5 => same::<MigUuid>(&text, str::to_owned),
        6 => same::<ShareId>(&text, str::to_owned),
        7 => same::<MpsDomain>(&text, str::to_owned),
        8 => same::<Mode>(&text, str::to_owned),
        9 => same::<SharingMode>(&text, str::to_owned),
        10 => same::<Interval>(&text, str::to_owned),
        11 => same::<Priority>(&text, str::to_owned),
        12 => same::<ComputeMode>(&text, str::to_owned),
        13 => same::<export::Kind>(&text, str::to_owned),
        14 => same::<import::Kind>(&text, str::to_owned),
        15 => same::<Fleet>(&text, |text| {
            text.parse::<Fleet>().map(|fleet| fleet.to_string()).unwrap_or_default()
        }),
        16 => selector(&text),
        17 => percentage(rest),
        18 => arguments(&text),
        _ => {
            let _ = text.parse::<DeviceOrder>().map_err(|error| refused(&error));
            let _ = HazardName::ALL.iter().find(|name| name.as_str() == text);
        }
    }
}

fn refused(error: &Error) {
    // What was asked for stands in the message, as long as it is: it is somebody's own argument. A text
    // that is longer than a word has been cut by who reads a file.
    expect_shown(&error.to_string());
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.message().len() <= LONGEST, "{} bytes", error.message().len());
}

/// The longest error about one word.
const LONGEST: usize = 1024;

/// What is read is printed in one way, which reads back; a text that is written otherwise is told by `plain`.
fn same<T>(text: &str, plain: impl Fn(&str) -> String)
where
    T: FromStr<Err = Error> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            expect_shown(&printed);
            assert_eq!(printed, plain(text), "{text:?}");
            assert_eq!(printed.parse::<T>().ok().as_ref(), Some(&value), "{text:?}");
        }
        Err(error) => refused(&error),
    }
}

/// `[MIG ][Nc.]Ng[.NNNgb][variant]`, where a compute instance that fills its GPU instance is left out.
fn profile(text: &str) {
    same::<ProfileName>(text, |text| {
        let plain = text.strip_prefix("MIG ").unwrap_or(text);
        match plain.split_once("c.") {
            Some((compute, rest)) if rest.split_once('g').is_some_and(|(g, _)| g == compute) => {
                rest.to_owned()
            }
            _ => plain.to_owned(),
        }
    });
    if let Ok(name) = text.parse::<ProfileName>() {
        assert!((1..=16).contains(&name.slices));
        assert!(name.compute.is_none_or(|compute| (1..name.slices).contains(&compute)));
        assert!(name.gigabytes.is_none_or(|gigabytes| gigabytes <= 9_999));
    }
}

/// A whole number and a unit, in powers of 1024.
fn size(text: &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let powers = ["", "K", "M", "G", "T"];
    let power = powers.iter().rposition(|letter| unit.starts_with(letter)).unwrap_or_default();
    let rest = unit.strip_prefix(powers[power]).unwrap_or(unit);
    let known = if power == 0 { unit.is_empty() } else { ["", "B", "i", "iB"].contains(&rest) };
    // Digits without an end are too large.
    let bytes = number.parse::<u128>().ok().filter(|_| known);
    let bytes = bytes.and_then(|number| number.checked_mul(1 << (10 * power)));
    let expected = bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(Bytes::new);
    let parsed = text.parse::<Bytes>().map_err(|error| refused(&error)).ok();
    assert_eq!(parsed, expected, "{text:?}");
    let with_unit = Bytes::parse_with_unit(text).map_err(|error| refused(&error)).ok();
    assert_eq!(with_unit, expected.filter(|_| power > 0), "{text:?}");
    if let Some(bytes) = parsed.filter(|bytes| bytes.get() % 1024 == 0 && bytes.get() > 0) {
        assert_eq!(bytes.to_string().parse::<Bytes>().ok(), Some(bytes));
    }
}

fn address(text: &str) {
    let number = |text: &str| u32::from_str_radix(text, 16).unwrap_or_default();
    same::<PciAddress>(text, |text| {
        let (rest, function) = text.rsplit_once('.').unwrap_or_default();
        let mut parts = rest.rsplit(':').map(number).chain([0]);
        let mut next = || parts.next().unwrap_or_default();
        let (device, bus, domain) = (next(), next(), next());
        format!("{domain:04x}:{bus:02x}:{device:02x}.{:x}", number(function))
    });
}

fn selector(text: &str) {
    match text.parse::<Selector>() {
        // One that is printed is read as the same, in a spec.
        Ok(selector) => {
            let spec = crate::Spec::new().gpu([selector], crate::spec::Want::Exclusive);
            assert_eq!(spec.to_string().parse::<crate::Spec>().ok(), Some(spec), "{text:?}");
        }
        Err(error) => refused(&error),
    }
}

fn percentage(bytes: &[u8]) {
    let mut word = [0; 8];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let number = f64::from_le_bytes(word);
    let inside = number > 0.0 && number <= 100.0;
    match ThreadPercentage::new(number) {
        Ok(percentage) => {
            assert!(inside && percentage.get() == number);
            let printed = percentage.to_string();
            assert_eq!(printed.parse::<f64>().ok(), Some(number));
        }
        Err(error) => {
            assert!(!inside);
            refused(&error);
        }
    }
}

/// What commands take: GPU instances to create and to destroy.
fn arguments(text: &str) {
    match crate::cli::fuzzing::new_instance(text) {
        Ok((printed, start)) => {
            assert!(start.is_none_or(|start| start <= 15));
            expect_shown(&printed);
        }
        Err(error) => refused(&error),
    }
    let _ = crate::cli::fuzzing::doomed(text).map_err(|error| refused(&error));
}
