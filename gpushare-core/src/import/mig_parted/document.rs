//! What stands in a config file: every rule of the format, for all of its configs.
//!
//! mig-parted reads the whole file before it looks for the config that was asked for, so a mistake in
//! another config is an error here too. Stricter than it are: profile names, which it lets pass and
//! then creates nothing; device filters, which match nothing when they are misspelt; keys that stand
//! twice; a negative index.

use super::super::Options;
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuIndex, PciDeviceId};
use crate::mig::ProfileName;
use crate::spec::Location;
use crate::spec::tree::{At, Node, Quoted, Value, refuse_key, refuse_twice};

/// A named config: its entries, in order.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) entries: Vec<Entry>,
}

/// What is asked of some GPUs.
#[derive(Debug)]
pub(super) struct Entry {
    /// Models; none for all.
    pub(super) filter: Vec<Filter>,
    pub(super) devices: Devices,
    /// MIG devices; none where MIG is to be off.
    pub(super) mig: Option<Vec<Counted>>,
    pub(super) location: Location,
}

/// A model of GPU, by PCI ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) device: PciDeviceId,
    pub(super) subsystem: Option<PciDeviceId>,
}

/// Which GPUs of those that pass the filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Devices {
    All,
    Indexes(Vec<GpuIndex>),
}

/// So many MIG devices of a profile.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) profile: ProfileName,
    pub(super) count: u32,
    pub(super) location: Location,
}

/// The configs of a file.
pub(super) fn read(root: &Node) -> Result<Vec<Config>> {
    let root = At::root(root).fields(&["version", "mig-configs"])?;
    let version = root.need("version")?;
    if version.text("v1")? != "v1" {
        return Err(version.wants("v1, the one version of config files"));
    }
    let configs = root.need("mig-configs")?;
    let Value::Map(entries) = &configs.node.value else {
        return Err(configs.wants("a map {name: entries}"));
    };
    if entries.is_empty() {
        return Err(configs.refuse("is empty; mig-parted wants one config at least"));
    }
    refuse_twice(&configs, entries)?;
    entries.iter().map(|(key, node)| config(&key.text, &configs.child(&key.text, node))).collect()
}

fn config(name: &str, at: &At<'_>) -> Result<Config> {
    let list = match &at.node.value {
        Value::List(list) if list.is_empty() => {
            return Err(at.refuse("is empty; mig-parted wants one entry at least"));
        }
        Value::List(list) => list,
        _ => return Err(at.wants("a list of entries with devices and mig-enabled")),
    };
    let entries = at.items(list).map(entry).collect::<Result<_>>()?;
    Ok(Config { name: name.to_owned(), entries })
}

fn entry(at: At<'_>) -> Result<Entry> {
    let location = at.location();
    let fields = at.fields(&["device-filter", "devices", "mig-enabled", "mig-devices"])?;
    let filter = fields.get("device-filter").map_or(Ok(Vec::new()), |at| filters(&at))?;
    let devices = devices(&fields.need("devices")?)?;
    let enabled = enabled(&fields.need("mig-enabled")?)?;
    let counted = match fields.get("mig-devices") {
        // In Go an empty value of a map is no map.
        Some(at) if at.node.value == Value::Null => None,
        Some(at) => Some((counts(&at)?, at)),
        None => None,
    };
    let mig = match (enabled, counted) {
        (true, Some((counts, _))) => Some(counts),
        (true, None) => {
            let at = fields.at;
            return Err(at.refuse("mig-devices is missing; write {} for MIG without instances"));
        }
        (false, Some((counts, at))) if !counts.is_empty() => {
            return Err(at.refuse("lists MIG devices, and mig-enabled is false"));
        }
        (false, _) => None,
    };
    Ok(Entry { filter, devices, mig, location })
}

/// `"0x233010DE"`, several of them, or, for a board of that model, `"0x233010DE:0x16C110DE"`. An
/// empty text or list is none.
fn filters(at: &At<'_>) -> Result<Vec<Filter>> {
    match &at.node.value {
        Value::Null => Ok(Vec::new()),
        Value::Text(text) if text.is_empty() => Ok(Vec::new()),
        Value::List(list) => at.items(list).map(|item| filter(&item)).collect(),
        _ => Ok(vec![filter(at)?]),
    }
}

fn filter(at: &At<'_>) -> Result<Filter> {
    const WHAT: &str = "a PCI id of NVIDIA's, device before vendor, such as \"0x233010DE\"";
    const NVIDIA: u32 = 0x10DE;
    let id = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u32::from_str_radix(digits, 16).ok())?.map(PciDeviceId::new)
    };
    let found = match &at.node.value {
        // Unquoted, as YAML's number.
        Value::Integer(number) => {
            let device = u32::try_from(*number).ok().map(PciDeviceId::new);
            device.map(|device| Filter { device, subsystem: None })
        }
        Value::Text(text) => match text.split_once(':') {
            None => id(text).map(|device| Filter { device, subsystem: None }),
            Some((device, subsystem)) => id(device)
                .zip(id(subsystem))
                .map(|(device, subsystem)| Filter { device, subsystem: Some(subsystem) }),
        },
        _ => None,
    };
    // Another vendor's, or the short 0x2330, would match nothing and tell nobody.
    let found = found.filter(|filter| filter.device.get() & 0xFFFF == NVIDIA);
    found.ok_or_else(|| at.wants(WHAT))
}

fn devices(at: &At<'_>) -> Result<Devices> {
    match &at.node.value {
        Value::Text(text) if text == "all" => Ok(Devices::All),
        Value::List(list) => {
            let indexes = at.items(list).map(|item| item.whole(0..=u32::MAX).map(GpuIndex::new));
            indexes.collect::<Result<_>>().map(Devices::Indexes)
        }
        _ => Err(at.wants("all, or a list of indexes such as [0, 1]")),
    }
}

/// `true`, `false`, and what YAML 1.1, which mig-parted reads, calls so too.
fn enabled(at: &At<'_>) -> Result<bool> {
    match &at.node.value {
        Value::Bool(value) => Ok(*value),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => Ok(true),
            "no" | "off" | "n" => Ok(false),
            _ => Err(at.wants("true or false")),
        },
        _ => Err(at.wants("true or false")),
    }
}

fn counts(at: &At<'_>) -> Result<Vec<Counted>> {
    let Value::Map(entries) = &at.node.value else {
        return Err(at.wants("a map {profile: count}"));
    };
    refuse_twice(at, entries)?;
    let counted = entries.iter().map(|(key, node)| {
        let profile = profile(&key.text).ok_or_else(|| {
            let found = Quoted(&key.text);
            let why = format_args!(
                "{found} is no profile: names look like 1g.10gb, 1c.3g.40gb or 1g.10gb+me"
            );
            refuse_key(key, at, why)
        })?;
        let at = at.child(&key.text, node);
        let count = at.whole(0..=u32::MAX)?;
        Ok(Counted { profile, count, location: at.location() })
    });
    counted.collect()
}

/// A name with its gigabytes: mig-parted has no short form.
fn profile(text: &str) -> Option<ProfileName> {
    let name: ProfileName = text.parse().ok()?;
    (name.gigabytes.is_some() && text.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

/// So many of a list as somebody reads, and how many there are more; none where it is empty.
pub(super) fn some(mut all: impl Iterator<Item = String>) -> Option<String> {
    const MOST: usize = 16;
    let shown: Vec<String> = all.by_ref().take(MOST).collect();
    let shown = (!shown.is_empty()).then(|| shown.join(", "))?;
    Some(match all.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    })
}

/// The config that was asked for, or the only one.
pub(super) fn chosen<'c>(configs: &'c [Config], options: &Options) -> Result<&'c Config> {
    let names = || {
        let names = configs.iter().map(|config| Quoted(&config.name).to_string());
        some(names).unwrap_or_default()
    };
    match (&options.config, configs) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("the file has several configs; say which one with --config: {}", names()),
        )),
        (Some(name), _) => configs.iter().find(|config| &config.name == name).ok_or_else(|| {
            let asked = Quoted(name);
            let why = format!("the file has no config {asked}; it has {}", names());
            Error::new(ErrorCode::InvalidArgument, why)
        }),
    }
}
