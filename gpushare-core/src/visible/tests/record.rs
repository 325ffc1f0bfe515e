//! The resolver against what real CUDA answered, string by string. `tests/gpu/visible.py` writes the
//! records, and says there how a string names GPUs whose uuids no record has.

use std::fmt::Write as _;

use super::*;

const RECORDS: [(&str, &str); 2] = [
    ("h200-x1", include_str!("../../../data/h200-x1-visible.tsv")),
    ("h200-x2", include_str!("../../../data/h200-x2-visible.tsv")),
];

/// A machine like the one that was asked.
struct Asked {
    uuids: Vec<String>,
    rows: Vec<Row>,
}

/// What CUDA answered to one string.
struct Row {
    order: Option<String>,
    string: Option<String>,
    cu_init: u32,
    places: Vec<usize>,
}

impl Asked {
    fn read(record: &str) -> Self {
        let header = |word: &str| -> Vec<&str> {
            let lines = record.lines().filter_map(|line| line.strip_prefix("# "));
            lines.filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
        };
        let common: usize = header("common")[0].parse().unwrap();
        let digits: Vec<_> = header("digits").iter().map(|line| line[1..].trim()).collect();
        assert_eq!(header("gpus")[0].parse(), Ok(digits.len()));
        let rows = record.lines().filter(|line| !line.starts_with('#')).skip(1).map(row).collect();
        Self { uuids: like(common, &digits), rows }
    }

    /// The string that CUDA got, had the machine been this one.
    fn expand(&self, string: &str) -> String {
        let mut out = String::new();
        let mut rest = string;
        while let Some((before, after)) = rest.split_once('{') {
            let (inner, after) = after.split_once('}').unwrap();
            out.push_str(before);
            if inner == "!" {
                let begins = |digit: &char| self.uuids.iter().any(|uuid| uuid.starts_with(*digit));
                out.push("fedcba".chars().find(|digit| !begins(digit)).unwrap());
            } else if let Some((text, times)) = inner.rsplit_once('*') {
                out.push_str(&text.repeat(times.parse().unwrap()));
            } else if let Some((gpu, length)) = inner.split_once(':') {
                let uuid = &self.uuids[gpu.parse::<usize>().unwrap()];
                let beginning = &uuid[..length.trim_end_matches('u').parse().unwrap()];
                match length.ends_with('u') {
                    true => out.push_str(&beginning.to_uppercase()),
                    false => out.push_str(beginning),
                }
            } else {
                write!(out, "GPU-{}", self.uuids[inner.parse::<usize>().unwrap()]).unwrap();
            }
            rest = after;
        }
        out + rest
    }
}

/// Uuids that begin with these digits and then a letter, and of which two have that much in common.
fn like(common: usize, digits: &[&str]) -> Vec<String> {
    let mut uuids: Vec<String> = Vec::new();
    for (letter, digits) in ["ab", "ba", "ca", "db"].iter().zip(digits) {
        let begun = uuids.first().map_or("", |first| &first[..common]);
        let begin = if digits.len() < begun.len() { begun } else { digits };
        let plain: String =
            begin.chars().filter(|c| *c != '-').chain(letter.chars().cycle()).take(32).collect();
        let parts = [&plain[..8], &plain[8..12], &plain[12..16], &plain[16..20], &plain[20..]];
        uuids.push(parts.join("-"));
    }
    for (uuid, digits) in uuids.iter().zip(digits) {
        assert!(uuid.trim_start_matches(|c: char| c.is_ascii_digit()).len() + digits.len() == 36);
        assert!(uuid.starts_with(digits), "{uuid} {digits}");
    }
    if let [first, second] = &uuids[..] {
        let same = first.bytes().zip(second.bytes()).take_while(|(a, b)| a == b).count();
        assert_eq!(same, common);
    }
    uuids
}

fn row(line: &str) -> Row {
    let columns: Vec<_> = line.split('\t').collect();
    let [order, string, cu_init, count, places] = columns[..] else { panic!("{line}") };
    let places: Vec<usize> =
        places.split(',').filter(|place| *place != "-").map(|p| p.parse().unwrap()).collect();
    // Without devices cuDeviceGetCount is an error: CUDA is not initialised.
    assert_eq!(count.parse().unwrap_or(0), places.len(), "{line}");
    Row {
        order: (order != "-").then(|| serde_json::from_str(order).unwrap()),
        string: serde_json::from_str(string).unwrap(),
        cu_init: cu_init.parse().unwrap(),
        places,
    }
}

#[test]
fn every_string_is_read_as_cuda_read_it() {
    let mut wrong = String::new();
    let mut strings = 0;
    for (name, record) in RECORDS {
        let asked = Asked::read(record);
        let uuids: Vec<_> = asked.uuids.iter().map(|uuid| format!("GPU-{uuid}")).collect();
        let snapshot = node(&uuids.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &asked.rows {
            let string = row.string.as_deref().map(|string| asked.expand(string));
            let order =
                row.order.as_deref().map(|order| order.parse().unwrap_or(DeviceOrder::Other));
            let options = ResolveOptions::new().device_order(order.unwrap_or_default());
            let found = resolve_with(&snapshot, string.as_deref(), options);
            let expected: Vec<_> = row.places.iter().map(|place| uuids[*place].as_str()).collect();
            if found.cu_init != Some(row.cu_init) || self::uuids(&found) != expected {
                writeln!(
                    wrong,
                    "{name} {:?}: cuInit {:?} and {:?}, while CUDA has {} and {:?}",
                    row.string,
                    found.cu_init,
                    self::uuids(&found),
                    row.cu_init,
                    row.places
                )
                .unwrap();
            }
            // On such a machine nothing is left to guess.
            assert!(found.certain, "{:?}: {:?}", row.string, found.flags);
            strings += usize::from(row.string.is_some());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(strings > 600, "{strings}");
}
