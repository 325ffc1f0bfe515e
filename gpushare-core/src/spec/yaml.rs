//! A spec written in YAML 1.2: one document, without anchors, aliases and tags.
//!
//! Anchors are refused because an alias can stand for any amount of text (ten lines become
//! gigabytes) and hides in one place what another place changes. The files of others may have them:
//! there they are written out, up to a limit.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::document::{DEPTH, Key, Node, SIZE, Value, refuse, too_deep};
use super::tree::Aliases;
use crate::error::Result;

/// A list or map whose end has not come yet, with its anchor, 0 for none.
enum Open {
    List(Vec<Node>, usize, usize),
    /// The pairs that are complete, and the key whose value comes next.
    Map(Vec<(Key, Node)>, Option<Key>, usize, usize),
}

/// The values that anchors name, where these are taken.
struct Anchors {
    taken: Aliases,
    named: HashMap<usize, Node>,
    /// What aliases stand for already, in bytes.
    written_out: usize,
}

/// The tree of a YAML text.
pub(super) fn parse(text: &str, aliases: Aliases) -> Result<Node> {
    let mut open: Vec<Open> = Vec::new();
    let mut anchors = Anchors { taken: aliases, named: HashMap::new(), written_out: 0 };
    let mut document = None;
    let mut documents = 0;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let why = format!("not valid YAML: {}", error.info());
            refuse(Some(error.marker().line().max(1)), "", why)
        })?;
        let line = span.start.line().max(1);
        let plain = |anchor: usize, tagged: bool| match (anchor, tagged, aliases) {
            (_, true, Aliases::WrittenOut) | (0, true, _) => {
                Err(refuse(Some(line), "", "tags (!…) are not allowed"))
            }
            (0, false, _) | (_, _, Aliases::WrittenOut) => Ok(()),
            _ => Err(refuse(Some(line), "", "anchors (&…) are not allowed")),
        };
        let (node, anchor) = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(refuse(Some(line), "", "wants one YAML document, not several"));
                }
                continue;
            }
            Event::Alias(anchor) => {
                let node = anchors.stands_for(anchor, line)?;
                if let (Some(Open::Map(_, key @ None, ..)), Value::Text(text)) =
                    (open.last_mut(), &node.value)
                {
                    *key = Some(Key { text: text.clone(), line: Some(line) });
                    continue;
                }
                no_key_yet(&open, line)?;
                (node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                plain(anchor, tag.is_some())?;
                let value = match style {
                    ScalarStyle::Plain => scalar(&text),
                    _ => Value::Text(text.to_string()),
                };
                if let Some(Open::Map(_, key @ None, ..)) = open.last_mut() {
                    anchors.name(anchor, &Node::new(value, Some(line)))?;
                    *key = Some(Key { text: text.into_owned(), line: Some(line) });
                    continue;
                }
                (Node::new(value, Some(line)), anchor)
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag)
                if open.len() == DEPTH =>
            {
                plain(anchor, tag.is_some())?;
                return Err(too_deep(Some(line)));
            }
            Event::SequenceStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                no_key_yet(&open, line)?;
                open.push(Open::List(Vec::new(), line, anchor));
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                no_key_yet(&open, line)?;
                open.push(Open::Map(Vec::new(), None, line, anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items, line, anchor)) => {
                    (Node::new(Value::List(items), Some(line)), anchor)
                }
                Some(Open::Map(entries, _, line, anchor)) => {
                    let entries = match aliases {
                        Aliases::Refused => entries,
                        Aliases::WrittenOut => merged(entries)?,
                    };
                    (Node::new(Value::Map(entries), Some(line)), anchor)
                }
                None => {
                    return Err(refuse(Some(line), "", "not valid YAML: an end without a start"));
                }
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
        };
        anchors.name(anchor, &node)?;
        match open.last_mut() {
            None => document = Some(node),
            Some(Open::List(items, ..)) => items.push(node),
            Some(Open::Map(entries, key, ..)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => return Err(refuse(node.line, "", "a key must be one word or text")),
            },
        }
    }
    Ok(document.unwrap_or(Node::new(Value::Null, Some(1))))
}

impl Anchors {
    /// Remembers what an anchor names.
    fn name(&mut self, anchor: usize, node: &Node) -> Result<()> {
        if anchor != 0 && self.taken == Aliases::WrittenOut {
            // It is kept a second time; anchors within anchors would keep it again and again.
            self.write_out(node, node.line.unwrap_or(1))?;
            self.named.insert(anchor, node.clone());
        }
        Ok(())
    }

    /// What an alias stands for. What is inside its own anchor has no end yet, and stands for nothing.
    fn stands_for(&mut self, anchor: usize, line: usize) -> Result<Node> {
        if self.taken == Aliases::Refused {
            let why = "aliases (*…) are not allowed; quote the value if it is text";
            return Err(refuse(Some(line), "", why));
        }
        let Some(node) = self.named.get(&anchor) else {
            return Err(refuse(Some(line), "", "an alias (*…) stands inside its own anchor"));
        };
        let node = node.clone();
        self.write_out(&node, line)?;
        Ok(node)
    }

    /// Counts what is written out again: more than a whole file may have is too much.
    fn write_out(&mut self, node: &Node, line: usize) -> Result<()> {
        self.written_out = self.written_out.saturating_add(weight(node));
        if self.written_out > SIZE {
            let why = format_args!("aliases (*…) stand for more than {SIZE} bytes (1 MiB)");
            return Err(refuse(Some(line), "", why));
        }
        Ok(())
    }
}

/// A map with what its `<<` brings: keys that it has itself count first, then those of maps
/// that stand further to the front (YAML's merge key, yaml.org/type/merge).
fn merged(entries: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>> {
    if entries.iter().all(|(key, _)| key.text != MERGE) {
        return Ok(entries);
    }
    let (merges, mut entries): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, _)| key.text == MERGE);
    let mut there: HashSet<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
    for (key, node) in merges {
        let maps = match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        for map in maps {
            let Value::Map(brought) = map.value else {
                return Err(refuse(key.line, "", "<< takes a map, or a list of maps"));
            };
            entries.extend(brought.into_iter().filter(|(key, _)| there.insert(key.text.clone())));
        }
    }
    Ok(entries)
}

/// The key that brings in the keys of another map.
const MERGE: &str = "<<";

/// About the bytes that a value takes, in a file and here.
fn weight(node: &Node) -> usize {
    const EACH: usize = 16;
    EACH + match &node.value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.iter().map(weight).sum(),
        Value::Map(entries) => {
            entries.iter().map(|(key, node)| EACH + key.text.len() + weight(node)).sum()
        }
        _ => 0,
    }
}

/// Refuses a list or map where a key is due.
fn no_key_yet(open: &[Open], line: usize) -> Result<()> {
    match open.last() {
        Some(Open::Map(_, None, ..)) => {
            Err(refuse(Some(line), "", "a key must be one word or text, not a list or map"))
        }
        _ => Ok(()),
    }
}

/// What a plain scalar is in the core schema of YAML 1.2 (section 10.3.2): `yes` and `3:4` are text.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Number(f64::NAN),
        _ => {}
    }
    let radix = |digits: &str, radix: u32| {
        (digits.bytes().all(|byte| char::from(byte).is_digit(radix)))
            .then(|| i128::from_str_radix(digits, radix).ok())?
    };
    let other = text.strip_prefix("0x").map(|digits| (digits, 16));
    let other = other.or(text.strip_prefix("0o").map(|digits| (digits, 8)));
    if let Some(number) = other.and_then(|(digits, base)| radix(digits, base)) {
        return Value::Integer(number);
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(number) = radix(unsigned, 10) {
        return Value::Integer(if negative { -number } else { number });
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Value::Number(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    // Rust also reads `inf` and `nan`, which are text here.
    let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match unsigned.parse::<f64>() {
        Ok(number) if numeric => Value::Number(if negative { -number } else { number }),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written_out(text: &str) -> Result<Node> {
        parse(text, Aliases::WrittenOut)
    }

    /// The same without lines.
    fn json(node: &Node) -> String {
        serde_json::to_string(node).unwrap()
    }

    #[test]
    fn aliases_are_written_out_where_they_are_taken() {
        for (text, meaning) in [
            ("a: &x 1\nb: *x", r#"{"a":1,"b":1}"#),
            (
                "a: &x [1, {c: 2}]\nb: [*x, *x]",
                r#"{"a":[1,{"c":2}],"b":[[1,{"c":2}],[1,{"c":2}]]}"#,
            ),
            ("a: &x key\n*x : 1", r#"{"a":"key","key":1}"#),
            ("a: &x 1\nb: &x 2\nc: *x", r#"{"a":1,"b":2,"c":2}"#),
            ("a: &x {c: 1, d: 2}\nb: {<<: *x, c: 3}", r#"{"a":{"c":1,"d":2},"b":{"c":3,"d":2}}"#),
            (
                "a: &x {c: 1}\nb: &y {c: 2, d: 2}\ne: {<<: [*x, *y]}",
                r#"{"a":{"c":1},"b":{"c":2,"d":2},"e":{"c":1,"d":2}}"#,
            ),
        ] {
            assert_eq!(json(&written_out(text).unwrap()), meaning, "{text}");
            assert!(parse(text, Aliases::Refused).is_err(), "{text}");
        }
        for text in ["a: *x", "a: &x [*x]", "a: {<<: 1}", "a: !!str 1", "a: &x !!str 1"] {
            assert!(written_out(text).is_err(), "{text}");
        }
    }

    #[test]
    fn aliases_cannot_stand_for_more_than_a_file() {
        let doubled = |levels: usize| {
            let mut text = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
            for level in 1..levels {
                let below = format!("*l{}, ", level - 1).repeat(9);
                text.push_str(&format!("l{level}: &l{level} [{below}]\n"));
            }
            text
        };
        assert!(written_out(&doubled(3)).is_ok());
        for levels in [9, 20] {
            let error = written_out(&doubled(levels)).unwrap_err().to_string();
            assert!(error.contains("stand for more than"), "{error}");
        }
        // Anchors alone keep what they name, each once more.
        let nested = format!("{}{}{}", "&a [".repeat(60), "x, ".repeat(40_000), "]".repeat(60));
        assert!(written_out(&nested).unwrap_err().to_string().contains("stand for more than"));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("10", Value::Integer(10)),
            ("-7", Value::Integer(-7)),
            ("+7", Value::Integer(7)),
            ("010", Value::Integer(10)),
            ("0o17", Value::Integer(15)),
            ("0x233010DE", Value::Integer(0x2330_10DE)),
            ("33.5", Value::Number(33.5)),
            (".5", Value::Number(0.5)),
            ("1e2", Value::Number(100.0)),
            ("-.inf", Value::Number(f64::NEG_INFINITY)),
        ] {
            assert_eq!(scalar(text), value, "{text:?}");
        }
        for text in [
            "yes",
            "on",
            "0000:3b:00.0",
            "3g.40gb",
            "inf",
            "nan",
            "1_000",
            "0x",
            "0x-1",
            "+-5",
            "1.2.3",
            ".",
            "-",
            "e5",
        ] {
            assert_eq!(scalar(text), Value::Text(text.to_owned()), "{text:?}");
        }
    }
}
