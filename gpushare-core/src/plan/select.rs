//! Which GPUs a selector means on a node.

use crate::error::{Error, ErrorCode, Result};
use crate::mode::SharingMode;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::spec::{Entry, Selector, Spec};
use crate::terminal::Quoted;

/// The GPUs, by position in the snapshot, that each entry of a spec selects.
///
/// # Errors
/// NOT_FOUND for an index, uuid or address that is not there; INVALID_ARGUMENT for a uuid prefix
/// that several GPUs share, and for a GPU that two entries select.
pub fn entries(snapshot: &Snapshot, spec: &Spec) -> Result<Vec<Vec<usize>>> {
    let mut owner: Vec<Option<usize>> = vec![None; snapshot.gpus.len()];
    let is_all = |entry: &Entry| entry.select.contains(&Selector::All);
    for (number, entry) in spec.gpus.iter().enumerate().filter(|(_, entry)| !is_all(entry)) {
        for selector in &entry.select {
            let selected = one(snapshot, selector)
                .map_err(|error| error.context(format!("{}.select", place(entry))))?;
            for position in selected {
                let Some(slot) = owner.get_mut(position) else { continue };
                match *slot {
                    Some(other) if other != number => {
                        let gpu = &snapshot.gpus[position];
                        let other = spec.gpus.get(other).map(place).unwrap_or_default();
                        return Err(Error::new(
                            ErrorCode::InvalidArgument,
                            format!(
                                "GPU {} is selected by {other} and again by {}; select each GPU once",
                                name(gpu),
                                place(entry)
                            ),
                        )
                        .of_gpu(&gpu.uuid));
                    }
                    _ => *slot = Some(number),
                }
            }
        }
    }
    let mut all = spec.gpus.iter().enumerate().filter(|(_, entry)| is_all(entry));
    if let Some((number, _)) = all.next() {
        if let Some((_, second)) = all.next() {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{}: `all` is selected a second time", place(second)),
            ));
        }
        for (slot, gpu) in owner.iter_mut().zip(&snapshot.gpus) {
            if slot.is_none() && gpu.mode != SharingMode::Lost {
                *slot = Some(number);
            }
        }
    }
    Ok((0..spec.gpus.len())
        .map(|number| {
            owner.iter().enumerate().filter(|(_, o)| **o == Some(number)).map(|(p, _)| p).collect()
        })
        .collect())
}

/// The GPUs that one selector means, by position in the snapshot; [`Selector::All`] means every GPU that answers.
///
/// # Errors
/// NOT_FOUND and INVALID_ARGUMENT as [`entries`].
pub fn one(snapshot: &Snapshot, selector: &Selector) -> Result<Vec<usize>> {
    let matching = |matches: &dyn Fn(&GpuSnapshot) -> bool| -> Vec<usize> {
        let gpus = snapshot.gpus.iter().enumerate();
        gpus.filter(|(_, gpu)| matches(gpu)).map(|(position, _)| position).collect()
    };
    let missing = |what: String| {
        let known: Vec<_> = snapshot.gpus.iter().map(name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::new(
            ErrorCode::NotFound,
            format!("there is no GPU {what}; this node has {known}"),
        ))
    };
    match selector {
        Selector::All => Ok(matching(&|gpu| gpu.mode != SharingMode::Lost)),
        Selector::Index(index) => {
            let found = matching(&|gpu| gpu.index == Some(*index));
            if found.is_empty() { missing(format!("with index {index}")) } else { Ok(found) }
        }
        Selector::Uuid(prefix) => {
            let exact = matching(&|gpu| gpu.uuid.as_str().eq_ignore_ascii_case(prefix));
            if !exact.is_empty() {
                return Ok(exact);
            }
            let starts = |gpu: &GpuSnapshot| {
                let head = gpu.uuid.as_str().get(..prefix.len());
                head.is_some_and(|head| head.eq_ignore_ascii_case(prefix))
            };
            let found = matching(&starts);
            match found.len() {
                0 => missing(format!("with uuid {prefix}")),
                1 => Ok(found),
                n => Err(Error::new(
                    ErrorCode::InvalidArgument,
                    format!("{n} GPUs have a uuid that begins with {prefix}; write more of it"),
                )),
            }
        }
        Selector::Pci { address, optional } => {
            let found = matching(&|gpu| gpu.pci == Some(*address));
            if found.is_empty() && !optional { missing(format!("at {address}")) } else { Ok(found) }
        }
        Selector::Model(pattern) => Ok(matching(&|gpu| glob(pattern, &gpu.model))),
        Selector::DeviceId(id) => Ok(matching(&|gpu| gpu.device_id == Some(*id))),
    }
}

/// Parses a selector as the command line takes it: an index, `all`, a uuid or prefix, a PCI address.
///
/// # Errors
/// INVALID_ARGUMENT for anything else.
pub fn parse(text: &str) -> Result<Selector> {
    if text == "all" {
        return Ok(Selector::All);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(index) = text.parse() {
            return Ok(Selector::Index(crate::id::GpuIndex::new(index)));
        }
    }
    if text.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("GPU-")) && text.len() > 4 {
        return Ok(Selector::Uuid(text.to_owned()));
    }
    if let Ok(address) = text.parse() {
        return Ok(Selector::Pci { address, optional: false });
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{} names no GPU: give an index, a uuid or the beginning of one, a PCI address, or all",
            Quoted(text)
        ),
    ))
}

/// How messages name a GPU: `0 (GPU-…)`.
pub fn name(gpu: &GpuSnapshot) -> String {
    match gpu.index {
        Some(index) => format!("{index} ({})", gpu.uuid),
        None => gpu.uuid.to_string(),
    }
}

fn place(entry: &Entry) -> String {
    match entry.location.to_string() {
        empty if empty.is_empty() => "the spec".to_owned(),
        place => place,
    }
}

/// Matches a pattern with `*`, case ignored.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    // The position after the last `*`, and where in the text it has matched up to.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("H100*", "H100 80GB HBM3", true),
            ("h100*", "H100 80GB HBM3", true),
            ("*", "", true),
            ("H100", "H100 80GB HBM3", false),
            ("*80GB*", "A100-SXM4-80GB", true),
            ("A*0*0*B", "A100-SXM4-80GB", true),
            ("A*1*1*B", "A100-SXM4-80GB", false),
            ("", "A", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
