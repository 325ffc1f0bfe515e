//! What fuzzers were fed, and more like it, without a fuzzer.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::{TARGETS, Target, feed};

/// Where the fuzzers are; none in the crate as it is published.
fn place() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    if place.is_dir() {
        return Some(place);
    }
    let _ =
        writeln!(std::io::stderr(), "SKIPPED: what fuzzers were fed: it is not in this archive");
    None
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// The texts of a target's corpus, by name.
fn corpus(place: &Path, target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = place.join("corpus").join(target.name);
    let read = |name: String| {
        let content = std::fs::read(folder.join(&name)).unwrap();
        (name, content)
    };
    names(&folder).into_iter().map(read).collect()
}

/// The words of a target's dictionary: `"..."` a line, with `\xNN`, `\\` and `\"`.
fn dictionary(place: &Path, target: &Target) -> Vec<Vec<u8>> {
    let path = place.join("dictionaries").join(target.name);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    let words = words.map(|word| {
        let mut bytes = Vec::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('\\') {
            bytes.extend(before.as_bytes());
            rest = match after.strip_prefix('x') {
                Some(hex) => {
                    bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                    &hex[2..]
                }
                None => {
                    bytes.push(after.as_bytes()[0]);
                    &after[1..]
                }
            };
        }
        bytes.extend(rest.as_bytes());
        bytes
    });
    words.collect()
}

#[test]
fn each_target_has_its_fuzzer_and_its_corpus() {
    let Some(place) = place() else { return };
    let known: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&place.join("corpus")), known);
    let fuzzers = known.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&place.join("fuzz_targets")), fuzzers);
    let manifest = std::fs::read_to_string(place.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        assert!(corpus(&place, target).len() > 3, "{}", target.name);
    }
}

#[test]
fn what_fuzzers_were_fed_holds() {
    let Some(place) = place() else { return };
    for target in TARGETS {
        for (name, content) in corpus(&place, target) {
            let fed = std::panic::catch_unwind(|| (target.feed)(&content));
            assert!(fed.is_ok(), "fuzz/corpus/{}/{name}", target.name);
        }
    }
}

/// An error about a text has as much of it as somebody reads.
#[test]
fn errors_about_long_words_are_short() {
    for kind in 0..20 {
        for text in ["x", "1", "GPU-", "\u{1b}", "1g.", "::"] {
            feed("words", &[&[kind], text.repeat(100_000).as_bytes()].concat());
        }
    }
}

/// What is changed of a text: where, how much goes, and what comes.
type Change = (Index, usize, Piece);

#[derive(Clone, Debug)]
enum Piece {
    Word(Index),
    Bytes(Vec<u8>),
    /// A part of another text.
    Part(Index, Index, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let piece = prop_oneof![
        4 => any::<Index>().prop_map(Piece::Word),
        2 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Piece::Bytes),
        2 => (any::<Index>(), any::<Index>(), 1usize..60).prop_map(|(a, b, c)| Piece::Part(a, b, c)),
    ];
    prop::collection::vec((any::<Index>(), prop_oneof![Just(0usize), 0usize..40], piece), 1..6)
}

/// Every target is fed texts of its corpus that were changed here and there.
fn any_text_is_read_or_refused(name: &str, cases: u32) {
    let Some(place) = place() else { return };
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let texts = corpus(&place, target);
    let mut words = dictionary(&place, target);
    words.push(b"\n".to_vec());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(which in any::<Index>(), changes in changes())| {
        let mut text = which.get(&texts).1.clone();
        for (at, gone, piece) in &changes {
            let at = at.index(text.len() + 1);
            let end = (at + gone).min(text.len());
            let piece = match piece {
                Piece::Word(word) => word.get(&words).clone(),
                Piece::Bytes(bytes) => bytes.clone(),
                Piece::Part(other, from, length) => {
                    let other = &other.get(&texts).1;
                    let from = from.index(other.len() + 1);
                    other[from..(from + length).min(other.len())].to_vec()
                }
            };
            text.splice(at..end, piece);
        }
        feed(name, &text);
    });
}

macro_rules! targets {
    ($($name:ident: $cases:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            any_text_is_read_or_refused(stringify!($name), $cases);
        })*

        #[test]
        fn each_target_is_here() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! {
    imports: 300, journals: 400, leases: 400, policy: 400, recover: 200, replies: 400, specs: 300,
    visible: 300, wire: 400, words: 1000,
}
