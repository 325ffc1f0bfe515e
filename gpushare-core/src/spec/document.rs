//! The tree between a spec and its text: every value and every key with its line.
//!
//! YAML, JSON and serde all give this tree, and [`read`](super::read) alone decides what it means,
//! so a rule holds in every form. Keys keep their order and their duplicates: what is written
//! twice must be refused, not merged.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
pub(crate) use crate::terminal::Quoted;

/// How many lists and maps may stand in one another.
pub(super) const DEPTH: usize = 64;
/// How many bytes a spec may have.
pub(super) const SIZE: usize = 1 << 20;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// The line, counted from 1; none where there is no text.
    pub(crate) line: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) line: Option<usize>,
}

impl Node {
    pub(crate) const fn new(value: Value, line: Option<usize>) -> Self {
        Self { value, line }
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::new(Value::Text(text.into()), None)
    }

    pub(crate) fn integer(number: impl Into<i128>) -> Self {
        Self::new(Value::Integer(number.into()), None)
    }

    pub(crate) fn boolean(value: bool) -> Self {
        Self::new(Value::Bool(value), None)
    }

    pub(crate) fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Self)>) -> Self {
        let entries = entries.into_iter();
        let keyed = entries.map(|(key, node)| (Key { text: key.to_owned(), line: None }, node));
        Self::new(Value::Map(keyed.collect()), None)
    }

    pub(crate) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::new(Value::List(items.into_iter().collect()), None)
    }
}

impl fmt::Display for Value {
    /// What an error says that it found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Text(text) => write!(f, "{}", Quoted(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

/// INVALID_ARGUMENT, with the place before it: `spec line 7, gpus[0].mig: …`.
pub(crate) fn refuse(line: Option<usize>, key: &str, why: impl fmt::Display) -> Error {
    let place = match (line, key) {
        (Some(line), "") => format!("spec line {line}"),
        (Some(line), key) => format!("spec line {line}, {key}"),
        (None, "") => "spec".to_owned(),
        (None, key) => format!("spec, {key}"),
    };
    Error::new(ErrorCode::InvalidArgument, format!("{place}: {why}"))
}

pub(super) fn too_deep(line: Option<usize>) -> Error {
    refuse(line, "", format_args!("more than {DEPTH} lists and maps in one another"))
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            // Most formats have no 128-bit integers, and no value of a spec needs one.
            Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_u64(number),
                (_, Ok(number)) => serializer.serialize_i64(number),
                _ => serializer.serialize_i128(*number),
            },
            Value::Number(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items),
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, node) in entries {
                    map.serialize_entry(&key.text, node)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Level(0).deserialize(deserializer)
    }
}

/// Reads a node that stands in so many lists and maps.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.0 < DEPTH { Ok(Self(self.0 + 1)) } else { Err(E::custom(too_deep(None))) }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a spec")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::new(Value::Null, None))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
        self.deserialize(inner)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::new(Value::Bool(value), None))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::integer(number))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Node, E> {
        Ok(Node::integer(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::new(Value::Number(number), None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::text(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let inside = self.deeper()?;
        let mut items = Vec::new();
        while let Some(node) = list.next_element_seed(inside)? {
            items.push(node);
        }
        Ok(Node::list(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let inside = self.deeper()?;
        let mut entries = Vec::new();
        while let Some(text) = map.next_key::<String>()? {
            entries.push((Key { text, line: None }, map.next_value_seed(inside)?));
        }
        Ok(Node::new(Value::Map(entries), None))
    }
}
