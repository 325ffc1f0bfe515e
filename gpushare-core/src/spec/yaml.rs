//! A spec written in YAML 1.2: one document, without anchors, aliases and tags.
//!
//! Anchors are refused because an alias can stand for any amount of text (ten lines become
//! gigabytes) and hides in one place what another place changes.

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::document::{DEPTH, Key, Node, Value, refuse, too_deep};
use crate::error::Result;

/// A list or map whose end has not come yet.
enum Open {
    List(Vec<Node>, usize),
    /// The pairs that are complete, and the key whose value comes next.
    Map(Vec<(Key, Node)>, Option<Key>, usize),
}

/// The tree of a YAML text.
pub(super) fn parse(text: &str) -> Result<Node> {
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    let mut documents = 0;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let why = format!("not valid YAML: {}", error.info());
            refuse(Some(error.marker().line().max(1)), "", why)
        })?;
        let line = span.start.line().max(1);
        let plain = |anchor: usize, tagged: bool| match (anchor, tagged) {
            (0, false) => Ok(()),
            (0, true) => Err(refuse(Some(line), "", "tags (!…) are not allowed")),
            _ => Err(refuse(Some(line), "", "anchors (&…) are not allowed")),
        };
        let node = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(refuse(Some(line), "", "a spec is one YAML document, not several"));
                }
                continue;
            }
            Event::Alias(_) => {
                let why = "aliases (*…) are not allowed; quote the value if it is text";
                return Err(refuse(Some(line), "", why));
            }
            Event::Scalar(text, style, anchor, tag) => {
                plain(anchor, tag.is_some())?;
                if let Some(Open::Map(_, key @ None, _)) = open.last_mut() {
                    *key = Some(Key { text: text.into_owned(), line: Some(line) });
                    continue;
                }
                let value = match style {
                    ScalarStyle::Plain => scalar(&text),
                    _ => Value::Text(text.into_owned()),
                };
                Node::new(value, Some(line))
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
                open.push(Open::List(Vec::new(), line));
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                no_key_yet(&open, line)?;
                open.push(Open::Map(Vec::new(), None, line));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items, line)) => Node::new(Value::List(items), Some(line)),
                Some(Open::Map(entries, _, line)) => Node::new(Value::Map(entries), Some(line)),
                None => {
                    return Err(refuse(Some(line), "", "not valid YAML: an end without a start"));
                }
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
        };
        match open.last_mut() {
            None => document = Some(node),
            Some(Open::List(items, _)) => items.push(node),
            Some(Open::Map(entries, key, _)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => return Err(refuse(node.line, "", "a key must be one word or text")),
            },
        }
    }
    Ok(document.unwrap_or(Node::new(Value::Null, Some(1))))
}

/// Refuses a list or map where a key is due.
fn no_key_yet(open: &[Open], line: usize) -> Result<()> {
    match open.last() {
        Some(Open::Map(_, None, _)) => {
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
