//! Walks the tree of a spec and knows where it stands, so that every refusal says so.

use std::fmt;
use std::ops::RangeInclusive;

use super::Location;
use super::document::{Key, Node, Quoted, Value, refuse};
use crate::error::{Error, Result};

/// A value and the path of keys to it.
pub(crate) struct At<'d> {
    pub(crate) node: &'d Node,
    pub(crate) key: String,
}

impl<'d> At<'d> {
    pub(crate) const fn root(node: &'d Node) -> Self {
        Self { node, key: String::new() }
    }

    /// An error about this value.
    pub(crate) fn refuse(&self, why: impl fmt::Display) -> Error {
        refuse(self.node.line, &self.key, why)
    }

    /// An error that says what should stand here.
    pub(crate) fn wants(&self, what: impl fmt::Display) -> Error {
        self.refuse(format_args!("wants {what}, not {}", self.node.value))
    }

    /// The same error of the vocabulary, said of this place.
    pub(crate) fn place<T>(&self, parsed: Result<T>) -> Result<T> {
        parsed.map_err(|error| self.refuse(error.message()))
    }

    pub(crate) fn location(&self) -> Location {
        Location { key: self.key.clone(), line: self.node.line }
    }

    pub(crate) fn text(&self, what: impl fmt::Display) -> Result<&'d str> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wants(what)),
        }
    }

    /// A whole number within those bounds.
    pub(crate) fn whole(&self, bounds: RangeInclusive<u32>) -> Result<u32> {
        let number = match self.node.value {
            Value::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        };
        number.filter(|number| bounds.contains(number)).ok_or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            match *most {
                u32::MAX => self.wants(format_args!("a whole number, {least} or more")),
                most => self.wants(format_args!("a whole number from {least} to {most}")),
            }
        })
    }

    /// The items of a list.
    pub(crate) fn items(&self, list: &'d [Node]) -> impl Iterator<Item = At<'d>> {
        let path = self.key.clone();
        list.iter().enumerate().map(move |(i, node)| At { node, key: format!("{path}[{i}]") })
    }

    /// What a key of this value holds.
    pub(crate) fn child(&self, key: &str, node: &'d Node) -> Self {
        Self { node, key: join(&self.key, key) }
    }

    /// A map that may have these keys and no others.
    pub(crate) fn fields(self, known: &'static [&'static str]) -> Result<Fields<'d>> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.wants(format_args!("a map with {}", listed(known))));
        };
        for (key, _) in named(entries) {
            if !known.contains(&key.text.as_str()) {
                let found = Quoted(&key.text);
                let why = match nearest(&key.text, known) {
                    Some(near) => format!("unknown key {found}; did you mean {near}?"),
                    None => format!("unknown key {found}; known are {}", listed(known)),
                };
                return Err(refuse(key.line, &self.key, why));
            }
        }
        refuse_twice(&self, entries)?;
        Ok(Fields { at: self, entries })
    }
}

/// The entries of a map whose keys mean something: `x-…` keys are the user's own.
pub(super) fn named(entries: &[(Key, Node)]) -> impl Iterator<Item = &(Key, Node)> {
    entries.iter().filter(|(key, _)| !key.text.starts_with("x-"))
}

/// Refuses a key that stands twice.
fn refuse_twice(at: &At<'_>, entries: &[(Key, Node)]) -> Result<()> {
    // Known keys are few, so that a map that got here has at most that many before its first twin.
    let mut seen: Vec<&Key> = Vec::new();
    for (key, _) in named(entries) {
        if let Some(first) = seen.iter().find(|first| first.text == key.text) {
            return Err(twice(at, &key.text, key.line, first.line));
        }
        seen.push(key);
    }
    Ok(())
}

pub(crate) fn twice(at: &At<'_>, key: &str, line: Option<usize>, first: Option<usize>) -> Error {
    let key = Quoted(key);
    let why = match first {
        Some(first) => format!("key {key} stands twice, first on line {first}"),
        None => format!("key {key} stands twice"),
    };
    refuse(line, &at.key, why)
}

/// A map whose keys are all known and stand once.
pub(crate) struct Fields<'d> {
    pub(crate) at: At<'d>,
    entries: &'d [(Key, Node)],
}

impl<'d> Fields<'d> {
    pub(crate) fn get(&self, name: &str) -> Option<At<'d>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        Some(self.at.child(name, node))
    }

    pub(crate) fn need(&self, name: &str) -> Result<At<'d>> {
        self.get(name).ok_or_else(|| self.at.refuse(format_args!("key \"{name}\" is missing")))
    }

    /// The line on which a key stands.
    pub(crate) fn line(&self, name: &str) -> Option<usize> {
        self.entries.iter().find(|(key, _)| key.text == name)?.0.line
    }

    /// The one key of a map that must have one.
    pub(crate) fn only(&self) -> Option<&'d str> {
        let mut names = named(self.entries).map(|(key, _)| key.text.as_str());
        names.next().filter(|_| names.next().is_none())
    }
}

/// `gpus[0].mig`.
fn join(path: &str, key: &str) -> String {
    let key = word(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A key as it is, and in quotes where it is more than one word, or a long one.
pub(crate) fn word(key: &str) -> String {
    const LONGEST: usize = 60;
    let word = key.len() <= LONGEST
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if word { key.to_owned() } else { Quoted(key).to_string() }
}

fn listed(words: &[&str]) -> String {
    words.join(", ")
}

/// The known key that a misspelt one is nearest to: two typing errors away at most.
fn nearest<'k>(found: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if found.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let found = plain(found);
    let scored = known.iter().map(|&key| (distance(&found, &plain(key)), key));
    scored.filter(|&(score, key)| score <= 2 && score * 2 < key.len()).min().map(|(_, key)| key)
}

/// How many letters must be changed, put in or taken out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, &y) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_find_the_one_that_was_meant() {
        let known = ["thread_percentage", "max_clients", "mps", "mig"];
        for (found, meant) in [
            ("thread-percentage", Some("thread_percentage")),
            ("threadPercentage", Some("thread_percentage")),
            ("max_client", Some("max_clients")),
            ("mpss", Some("mps")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, &known), meant, "{found}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
