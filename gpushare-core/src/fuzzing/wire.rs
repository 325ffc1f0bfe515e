//! What an MPS daemon sends over its socket, record by record.

use super::expect_shown;
use crate::backend::mps::fuzzing::{MOST_ANSWER, MOST_RECORDS, exchange};

pub(super) fn feed(mut data: &[u8]) {
    // A record: its length in two bytes, and as much of it as there is.
    let mut records: Vec<&[u8]> = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (record, rest) = rest.split_at(length);
        records.push(record);
        data = rest;
    }
    match exchange(&records) {
        Ok(texts) => {
            assert!(texts.len() <= MOST_RECORDS);
            assert!(texts.iter().map(String::len).sum::<usize>() <= 3 * MOST_ANSWER);
            // The greeting, each text, and the end. An empty record is none.
            records.retain(|record| !record.is_empty());
            assert!(records.len() >= texts.len() + 2);
            assert!(records[0] == b"OUTBHELL\0");
            for (record, text) in records[1..].iter().zip(&texts) {
                let said = record.strip_prefix(&[0; 4]).expect("a record of text");
                let said = said.strip_suffix(b"\0").unwrap_or(said);
                assert_eq!(String::from_utf8_lossy(said), *text);
            }
        }
        Err(why) => {
            expect_shown(&why);
            assert!(why.len() <= 600, "{} bytes: {why}", why.len());
        }
    }
}
