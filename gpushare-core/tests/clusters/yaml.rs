//! YAML as Go's libraries read it, as strictly as can be: what another reader could take for something
//! else fails the test.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Every document of a text.
#[track_caller]
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut parser = Parser::new_from_str(text);
    let (mut open, mut documents): (Vec<Open>, Vec<Value>) = (Vec::new(), Vec::new());
    while let Some(event) = parser.next_event() {
        let (event, _) = event.unwrap_or_else(|error| panic!("{error}:\n{text}"));
        let value = match event {
            Event::Scalar(scalar, style, 0, None) => {
                if let Some(Open::Map(_, key @ None)) = open.last_mut() {
                    *key = Some(scalar.into_owned());
                    continue;
                }
                match style {
                    ScalarStyle::Plain => plain(&scalar),
                    _ => Value::String(scalar.into_owned()),
                }
            }
            Event::SequenceStart(0, None) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(0, None) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().unwrap() {
                Open::List(items) => Value::Array(items),
                Open::Map(fields, _) => Value::Object(fields),
            },
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::MappingStart(..) => {
                panic!("an anchor, an alias or a tag:\n{text}")
            }
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(fields, key)) => {
                let key = key.take().unwrap();
                assert!(
                    fields.insert(key.clone(), value).is_none(),
                    "{key:?} stands twice:\n{text}"
                );
            }
        }
    }
    documents
}

/// The one document of a text.
#[track_caller]
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> T {
    let mut documents = documents(text);
    assert_eq!(documents.len(), 1, "{text}");
    let document = documents.remove(0);
    serde_json::from_value(document).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// A scalar without quotes.
#[track_caller]
fn plain(text: &str) -> Value {
    match text {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Some(number) = text.parse::<u64>().ok().filter(|number| number.to_string() == text) {
        return number.into();
    }
    // YAML 1.1 has other truths, nothings and numbers (0x1F, 1_000, 12:30, .5, 0o7, 1e3).
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ""];
    let odd = words.contains(&text.to_ascii_lowercase().as_str())
        || text.starts_with(|c: char| "+-.".contains(c))
        || (text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_hexdigit() || "_:.xo+-".contains(c)));
    assert!(!odd, "{text:?} is not the same to everybody");
    Value::String(text.to_owned())
}
