//! A spec written in JSON.
//!
//! serde_json checks the syntax of the whole text once. Then each value is read on its own, as a
//! slice of that text, so that its offset gives its line and a key that stands twice is seen twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::document::{DEPTH, Key, Node, Value, refuse, too_deep};
use crate::error::{Error, Result};

/// The tree of a JSON text.
pub(super) fn parse(text: &str) -> Result<Node> {
    let lines = Lines::new(text);
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| syntax(&error, error.line()))?;
    lines.node(raw.get(), 0)
}

fn syntax(error: &serde_json::Error, line: usize) -> Error {
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
    refuse(Some(line.max(1)), "", format_args!("not valid JSON: {why}"))
}

/// A text and where its lines end.
struct Lines<'t> {
    text: &'t str,
    ends: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        Self { text, ends: ends.map(|(at, _)| at).collect() }
    }

    /// The line in which a slice of the text begins.
    fn of(&self, part: &str) -> usize {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.ends.partition_point(|&end| end < offset) + 1
    }

    /// The value that a slice of the text holds, in so many lists and maps.
    fn node(&self, raw: &'t str, depth: usize) -> Result<Node> {
        let line = self.of(raw);
        let syntax = |error: serde_json::Error| syntax(&error, line);
        let value = match raw.as_bytes().first() {
            Some(b'{' | b'[') if depth == DEPTH => return Err(too_deep(Some(line))),
            Some(b'{') => {
                let mut source = serde_json::Deserializer::from_str(raw);
                let pairs = source.deserialize_map(Pairs).map_err(syntax)?;
                let entries = pairs.into_iter().map(|(key, value)| {
                    let node = self.node(value.get(), depth + 1)?;
                    let (text, line) = match key {
                        JsonKey::Plain(text) => (text.to_owned(), Some(self.of(text))),
                        JsonKey::Escaped(text) => (text, node.line),
                    };
                    Ok((Key { text, line }, node))
                });
                Value::Map(entries.collect::<Result<_>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(syntax)?;
                let nodes = items.into_iter().map(|item| self.node(item.get(), depth + 1));
                Value::List(nodes.collect::<Result<_>>()?)
            }
            Some(b'"') => Value::Text(serde_json::from_str(raw).map_err(syntax)?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            // Rust reads the nearest number; serde_json, as it is built here, may be one off.
            _ => match (raw.parse(), raw.parse()) {
                (Ok(number), _) => Value::Integer(number),
                (_, Ok(number)) => Value::Number(number),
                _ => return Err(refuse(Some(line), "", "not a JSON number")),
            },
        };
        Ok(Node::new(value, Some(line)))
    }
}

/// A key as it stands in the text, or, where that is not the same, unescaped.
enum JsonKey<'t> {
    Plain(&'t str),
    Escaped(String),
}

struct Pairs;

impl<'t> Visitor<'t> for Pairs {
    type Value = Vec<(JsonKey<'t>, &'t RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            pairs.push((key, map.next_value()?));
        }
        Ok(pairs)
    }
}

struct KeySeed;

impl<'t> DeserializeSeed<'t> for KeySeed {
    type Value = JsonKey<'t>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<JsonKey<'t>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'t> for KeySeed {
    type Value = JsonKey<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'t str) -> Result<JsonKey<'t>, E> {
        Ok(JsonKey::Plain(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonKey<'t>, E> {
        Ok(JsonKey::Escaped(text.to_owned()))
    }
}
