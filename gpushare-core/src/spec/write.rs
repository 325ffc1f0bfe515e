//! A spec as text: JSON through serde, YAML through Display. Both read back to an equal spec.

use std::fmt::{self, Write as _};
use std::num::NonZeroU32;

use serde::{Serialize, Serializer};

use super::document::{Node, Value};
use super::{Entry, Instance, Selector, Sharing, Spec, VERSION, Want};
use crate::mig::ProfileName;
use crate::parameters::{Access, MpsComputeMode, MpsConfig, TimeSlicing};

/// The tree of a spec. Every parameter is written out, defaults too.
pub(super) fn tree(spec: &Spec) -> Node {
    Node::map([("version", Node::text(VERSION)), ("gpus", Node::list(spec.gpus.iter().map(entry)))])
}

fn entry(entry: &Entry) -> Node {
    let select = match entry.select.as_slice() {
        [one] => selector(one),
        several => Node::list(several.iter().map(selector)),
    };
    let mode = entry.want.mode().as_str();
    let block = match &entry.want {
        Want::Exclusive | Want::Mig(None) => None,
        Want::TimeSliced(slicing) => Some(time_slicing(slicing)),
        Want::Mps(config) => Some(mps(config)),
        Want::Mig(Some(list)) => Some(Node::map([("instances", instances(list))])),
    };
    let fields = [("select", select), ("mode", Node::text(mode))];
    Node::map(fields.into_iter().chain(block.map(|block| (mode, block))))
}

fn selector(selector: &Selector) -> Node {
    match selector {
        Selector::All => Node::text("all"),
        Selector::Index(index) => Node::integer(index.get()),
        Selector::Uuid(uuid) => Node::text(uuid.as_str()),
        Selector::Pci { address, optional: false } => Node::text(address.to_string()),
        Selector::Pci { address, optional: true } => {
            Node::map([("pci", Node::text(address.to_string()))])
        }
        Selector::Model(pattern) => Node::map([("model", Node::text(pattern.as_str()))]),
        Selector::DeviceId(id) => Node::map([("device_id", Node::text(id.to_string()))]),
    }
}

fn time_slicing(slicing: &TimeSlicing) -> Node {
    Node::map([
        ("replicas", Node::integer(slicing.replicas.get())),
        ("interval", Node::text(slicing.interval.as_str())),
    ])
}

fn mps(config: &MpsConfig) -> Node {
    let percentage = Node::new(Value::Number(config.thread_percentage.get()), None);
    let mut fields = vec![("thread_percentage", percentage)];
    // A size without a unit is printed with `B`, which is not a unit that is read.
    let limit = config.pinned_memory_limit.map(|bytes| match bytes.get() % 1024 {
        0 => Node::text(bytes.to_string()),
        _ => Node::integer(bytes.get()),
    });
    fields.extend(limit.map(|limit| ("pinned_memory_limit", limit)));
    let clients = config.max_clients.map(NonZeroU32::get).map(Node::integer);
    fields.extend(clients.map(|clients| ("max_clients", clients)));
    fields.push(("priority", Node::text(config.priority.as_str())));
    let access = match &config.access {
        Access::Caller => Node::text("caller"),
        Access::Any => Node::text("any"),
        Access::User(name) => Node::map([("user", Node::text(name.as_str()))]),
        Access::Group(name) => Node::map([("group", Node::text(name.as_str()))]),
    };
    fields.push(("access", access));
    let compute_mode = match config.compute_mode {
        MpsComputeMode::ExclusiveProcess => "exclusive_process",
        MpsComputeMode::Unchanged => "unchanged",
    };
    fields.push(("compute_mode", Node::text(compute_mode)));
    Node::map(fields)
}

/// `{}`, or a list: a map would lose the order where a program sorts its keys.
fn instances(list: &[Instance]) -> Node {
    if list.is_empty() { Node::map([]) } else { Node::list(list.iter().map(instance)) }
}

fn instance(instance: &Instance) -> Node {
    let mut fields = vec![("profile", Node::text(instance.profile.to_string()))];
    fields.extend(instance.start.map(|start| ("start", Node::integer(start))));
    let compute = instance
        .compute
        .as_ref()
        .map(|compute| Node::list(compute.iter().map(|slices| Node::text(format!("{slices}c")))));
    fields.extend(compute.map(|compute| ("compute", compute)));
    fields.extend(instance.sharing.as_ref().map(|sharing| match sharing {
        Sharing::TimeSliced(slicing) => ("time_sliced", time_slicing(slicing)),
        Sharing::Mps(config) => ("mps", mps(config)),
    }));
    fields.extend(instance.name.as_deref().map(|name| ("name", Node::text(name))));
    Node::map(fields)
}

impl Serialize for Spec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        tree(self).serialize(serializer)
    }
}

impl fmt::Display for Spec {
    /// The spec as YAML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Yaml(&tree(self).value, 0, false).fmt(f)
    }
}

/// A tree as block YAML.
pub(crate) fn yaml_text(node: &Node) -> String {
    Yaml(&node.value, 0, false).to_string()
}

/// A value as block YAML, at that indent; the flag says that its first line has begun (`- `).
struct Yaml<'n>(&'n Value, usize, bool);

impl fmt::Display for Yaml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self(value, indent, begun) = self;
        let mut begun = begun;
        let mut start = |f: &mut fmt::Formatter<'_>| match std::mem::take(&mut begun) {
            true => Ok(()),
            false => write!(f, "{:indent$}", ""),
        };
        match value {
            Value::Map(entries) if !entries.is_empty() => {
                for (key, node) in entries {
                    start(f)?;
                    write!(f, "{}:", Scalar(&key.text))?;
                    match &node.value {
                        nested if is_block(nested) => {
                            write!(f, "\n{}", Yaml(nested, indent + 2, false))?
                        }
                        inline => writeln!(f, " {}", Inline(inline))?,
                    }
                }
                Ok(())
            }
            Value::List(items) if !items.is_empty() => items.iter().try_for_each(|item| {
                start(f)?;
                match &item.value {
                    nested if is_block(nested) => write!(f, "- {}", Yaml(nested, indent + 2, true)),
                    inline => writeln!(f, "- {}", Inline(inline)),
                }
            }),
            inline => {
                start(f)?;
                writeln!(f, "{}", Inline(inline))
            }
        }
    }
}

/// Lists and maps take lines of their own, unless they are empty or hold scalars alone in a list.
fn is_block(value: &Value) -> bool {
    let nested = |node: &Node| matches!(node.value, Value::List(_) | Value::Map(_));
    match value {
        Value::Map(entries) => !entries.is_empty(),
        Value::List(items) => items.iter().any(nested),
        _ => false,
    }
}

/// A value on one line.
struct Inline<'n>(&'n Value);

impl fmt::Display for Inline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => Scalar(text).fmt(f),
            Value::Map(_) => f.write_str("{}"),
            Value::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Inline(&item.value))?;
                }
                f.write_char(']')
            }
        }
    }
}

/// A text that YAML reads as that text: plain where nothing can be mistaken, else quoted.
struct Scalar<'t>(&'t str);

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0;
        if is_plain(text) {
            return f.write_str(text);
        }
        f.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                ' '..='~' => f.write_char(c)?,
                c if c.is_alphanumeric() => f.write_char(c)?,
                c => write!(f, "\\U{:08X}", u32::from(c))?,
            }
        }
        f.write_char('"')
    }
}

/// Words, versions and profile names. Whatever another reader could take for a number, a truth
/// value (YAML 1.1 has `on` and `no`) or nothing is quoted.
fn is_plain(text: &str) -> bool {
    let letters = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
    };
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let size = || text.ends_with("iB") && text.parse::<crate::units::Bytes>().is_ok();
    let profile = || text.parse::<ProfileName>().is_ok();
    let compute = || {
        let digits = text.strip_suffix('c').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    (letters(text) && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text)))
        || (!text.contains(' ') && (profile() || size() || compute()))
}
