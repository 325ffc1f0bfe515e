//! What fuzzers feed: a function for each kind of text that comes from outside, which says what holds of
//! whatever is made of it.
//!
//! No part of the crate as it is used: it is compiled for tests, and with `--cfg fuzzing`, which `cargo fuzz`
//! sets. The targets are in `fuzz/` of the repository, and so is what they were fed.

mod imports;
mod journals;
mod leases;
mod policy;
mod recover;
mod replies;
mod specs;
#[cfg(test)]
mod tests;
mod visible;
mod wire;
mod words;

use crate::error::{Error, ErrorCode};
use crate::terminal::printable;

/// A kind of text that comes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its target, of its corpus and of its dictionary.
    pub name: &'static str,
    /// Feeds it. It panics where something does not hold.
    pub feed: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "imports", feed: imports::feed },
    Target { name: "journals", feed: journals::feed },
    Target { name: "leases", feed: leases::feed },
    Target { name: "policy", feed: policy::feed },
    Target { name: "recover", feed: recover::feed },
    Target { name: "replies", feed: replies::feed },
    Target { name: "specs", feed: specs::feed },
    Target { name: "visible", feed: visible::feed },
    Target { name: "wire", feed: wire::feed },
    Target { name: "words", feed: words::feed },
];

/// Feeds the target of that name.
///
/// # Panics
/// Where something does not hold, and for a name that is none.
pub fn feed(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
    (target.feed)(data);
}

/// The longest text of an error about a text, however long that is.
const LONGEST_ERROR: usize = 4096;

/// What holds of every error about a text: one of the codes that are documented for it, on one line that a
/// terminal shows as it is, and no longer than somebody reads.
fn expect_error(error: &Error, codes: &[ErrorCode]) {
    assert!(codes.contains(&error.code()), "{error:?}");
    assert!(!error.message().is_empty());
    for text in [error.to_string(), format!("{error:#}")] {
        expect_shown(&text);
        assert!(text.len() <= LONGEST_ERROR, "an error of {} bytes", text.len());
    }
    assert!(error.to_document().to_string().len() <= 4 * LONGEST_ERROR);
}

/// A line that a terminal shows as it is.
fn expect_shown(line: &str) {
    assert!(!line.contains(char::is_control), "{line:?}");
    assert_eq!(printable(line), line);
}

/// The first byte, which chooses, and the rest.
fn chosen(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}
