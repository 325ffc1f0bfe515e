//! The rules that hold of every spec, read from a text or built in Rust.

use super::document::{Quoted, refuse};
use super::{Entry, Instance, Selector, Sharing, Spec, Want};
use crate::error::{Error, ErrorCode, Result};
use crate::mig::ProfileName;
use crate::parameters::{Access, MpsConfig, TimeSlicing};
use crate::units::Bytes;

/// The most instances of one entry. NVIDIA's largest layout has 12.
pub(super) const MOST_INSTANCES: usize = 64;
/// The most replicas of `time_sliced`.
pub(super) const MOST_REPLICAS: u32 = 1024;
/// The last slot of the largest geometry that the planner takes.
pub(super) const MOST_START: u8 = 15;

impl Spec {
    /// Checks what the types leave open, as reading a spec does and planning relies on.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the entry: `all` twice, more than 64 instances, compute instances
    /// that are larger together than their GPU instance, a name that is used twice.
    pub fn check(&self) -> Result<()> {
        let mut all: Option<&Entry> = None;
        for (i, entry) in self.gpus.iter().enumerate() {
            let at = |why: String| {
                let key = &entry.location.key;
                let key = if key.is_empty() { format!("gpus[{i}]") } else { key.clone() };
                refuse(entry.location.line, &key, why)
            };
            selectors(&entry.select).map_err(at)?;
            if entry.select.contains(&Selector::All) {
                if let Some(first) = all.replace(entry) {
                    let line = first.location.line;
                    let first = line.map(|line| format!(" (the first is on line {line})"));
                    let first = first.unwrap_or_default();
                    return Err(at(format!("selects all, and an entry before it does too{first}")));
                }
            }
            match &entry.want {
                Want::Exclusive | Want::Mig(None) => {}
                Want::TimeSliced(slicing) => replicas(slicing).map_err(at)?,
                Want::Mps(config) => mps(config).map_err(at)?,
                Want::Mig(Some(list)) if list.len() > MOST_INSTANCES => {
                    return Err(at(too_many_instances()));
                }
                Want::Mig(Some(list)) => instances(i, list)?,
            }
        }
        Ok(())
    }
}

fn selectors(select: &[Selector]) -> Result<(), String> {
    if select.is_empty() {
        return Err("select is empty: it would select no GPU".to_owned());
    }
    if select.len() > 1 && select.contains(&Selector::All) {
        return Err("all stands alone: it is every GPU that no other entry selects".to_owned());
    }
    let plain = |error: Error| error.message().to_owned();
    select.iter().try_for_each(|selector| match selector {
        Selector::Uuid(uuid) if uuid_prefix(uuid) => Ok(()),
        Selector::Uuid(uuid) => {
            Err(format!("{} is not the beginning of a GPU's uuid", Quoted(uuid)))
        }
        Selector::Model(pattern) => model(pattern).map_err(plain),
        _ => Ok(()),
    })
}

fn instances(entry: usize, list: &[Instance]) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for (i, instance) in list.iter().enumerate() {
        let checked = fits(instance).and_then(|()| match instance.name.as_deref() {
            Some(name) if names.contains(&name) => {
                Err(format!("the name {} belongs to an instance before it", Quoted(name)))
            }
            Some(text) => {
                names.push(text);
                name(text).map_err(|error| error.message().to_owned())
            }
            None => Ok(()),
        });
        checked.map_err(|why| {
            let place = &instance.location;
            match place.key.as_str() {
                "" => refuse(place.line, &format!("gpus[{entry}].mig.instances[{i}]"), why),
                key => refuse(place.line, key, why),
            }
        })?;
    }
    Ok(())
}

fn fits(instance: &Instance) -> Result<(), String> {
    let Instance { profile, start, compute, sharing, .. } = instance;
    whole_profile(*profile)?;
    if start.is_some_and(|start| start > MOST_START) {
        return Err(format!("a start is at most {MOST_START}"));
    }
    if let Some(compute) = compute {
        let slices: u32 = compute.iter().copied().map(u32::from).sum();
        if compute.contains(&0) || slices > u32::from(profile.slices) {
            return Err(format!(
                "compute instances of {slices} slices together in {profile}, which has {}",
                profile.slices
            ));
        }
        if compute.is_empty() && sharing.is_some() {
            return Err("there is no compute instance to share".to_owned());
        }
    }
    match sharing {
        Some(Sharing::Mps(config)) => mps(config),
        Some(Sharing::TimeSliced(slicing)) => replicas(slicing),
        None => Ok(()),
    }
}

fn replicas(slicing: &TimeSlicing) -> Result<(), String> {
    match slicing.replicas.get() {
        1..=MOST_REPLICAS => Ok(()),
        many => Err(format!("{many} replicas; at most {MOST_REPLICAS}")),
    }
}

fn mps(config: &MpsConfig) -> Result<(), String> {
    let checked = config.pinned_memory_limit.map_or(Ok(()), limit).and(match &config.access {
        Access::User(name) | Access::Group(name) => account(name),
        Access::Caller | Access::Any => Ok(()),
    });
    checked.map_err(|error| error.message().to_owned())
}

pub(super) fn too_many_instances() -> String {
    format!("more than {MOST_INSTANCES} instances")
}

/// A GPU instance's profile names no compute instance.
pub(super) fn whole_profile(name: ProfileName) -> Result<(), String> {
    match name.compute {
        None => Ok(()),
        Some(slices) => Err(format!(
            "{name} is a compute instance; write profile: {} and compute: [{slices}c]",
            name.gpu_instance()
        )),
    }
}

/// Whether a text is a GPU's uuid or the beginning of one, with at least one digit.
pub(super) fn uuid_prefix(text: &str) -> bool {
    text.parse::<crate::id::GpuUuid>().is_ok()
}

fn invalid(why: String) -> Result<()> {
    Err(Error::new(ErrorCode::InvalidArgument, why))
}

/// A limit of nothing would let no client start.
pub(super) fn limit(bytes: Bytes) -> Result<()> {
    match bytes.get() {
        0 => invalid("a memory limit must be above 0; leave it out for none".to_owned()),
        _ => Ok(()),
    }
}

/// A pattern that could match a model.
pub(super) fn model(pattern: &str) -> Result<()> {
    if pattern.is_empty() || pattern.len() > 96 || pattern.chars().any(char::is_control) {
        return invalid(format!("{} is not a model such as \"H100*\"", Quoted(pattern)));
    }
    Ok(())
}

/// A name that status prints in a column and programs pass on: letters, digits, `.`, `_`, `-`.
pub(super) fn name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) {
        return invalid(format!(
            "{} is not a name: 1 to 63 letters, digits, dots, hyphens and underscores",
            Quoted(name)
        ));
    }
    Ok(())
}

/// The name or number of a user or group. Whether there is one is for the system to say.
pub(super) fn account(name: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || c == ':' || c == '/';
    if name.is_empty() || name.len() > 256 || name.contains(bad) {
        return invalid(format!("{} is not the name or number of a user or group", Quoted(name)));
    }
    Ok(())
}
