//! Journals: what recovery finds of a change that was not settled.

use super::{chosen, expect_error};
use crate::backend::sim::MemoryStore;
use crate::error::ErrorCode;
use crate::port::Store as _;
use crate::state::journal::{self, Found, Journal};

const NAME: &str = "1.jsonl";

pub(super) fn feed(data: &[u8]) {
    let (kind, rest) = chosen(data);
    // As it is, or with checksums that add up: they keep a fuzzer out.
    let content = match (kind % 2, std::str::from_utf8(rest)) {
        (1, Ok(text)) => journal::sealed(text.split('\n')).into_bytes(),
        _ => rest.to_vec(),
    };
    let Some(found) = read(&content) else { return };
    assert!(found.header.gpus.iter().enumerate().all(|(position, gpu)| {
        found.begun(position) <= gpu.steps.len()
            && found.created(position).keys().all(|step| *step < gpu.steps.len())
    }));
    // Written again it says the same, and goes on.
    let store = MemoryStore::new();
    Journal::resume(&store, &found).expect("it is written");
    let again = written(&store);
    expect_same(&read(&again).expect("it is read"), &found);
    // A last line that was cut off is as if it had not been written.
    if !found.entries.is_empty() {
        let last = again[..again.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
        let length = again.len() - 1 - last;
        let mut shorter = found.clone();
        shorter.entries.pop();
        let cut = last + 1 + kind % length;
        expect_same(&read(&again[..cut]).expect("it is read without"), &shorter);
        let mut zeros = again.clone();
        zeros[last + 1..=last + 1 + kind % (length - 1).max(1)].fill(0);
        expect_same(&read(&zeros).expect("it is read without"), &shorter);
    }
    // The part about all GPUs is all of it.
    let all: Vec<usize> = (0..found.header.gpus.len()).collect();
    expect_same(&found.only(&all), &found);
    assert!(found.only(&[]).entries.is_empty());
}

fn expect_same(one: &Found, other: &Found) {
    assert_eq!(one.header, other.header);
    assert_eq!(one.entries, other.entries);
}

fn written(store: &MemoryStore) -> Vec<u8> {
    store.files().remove(&format!("journal/{NAME}")).expect("a journal")
}

/// The journal that this is; none where it is refused, with a way out.
fn read(content: &[u8]) -> Option<Found> {
    let store = MemoryStore::new();
    store.replace(&format!("journal/{NAME}"), content).expect("it is in memory");
    // Who only looks is not held up.
    let unsettled = journal::unsettled(&store).expect("it passes over what is none");
    match journal::find(&store) {
        Ok(mut found) => {
            assert_eq!(found.len(), 1);
            let found = found.remove(0);
            assert!(found.header.gpus.iter().all(|gpu| unsettled.contains_key(&gpu.uuid)));
            Some(found)
        }
        Err(error) => {
            expect_error(&error, &[ErrorCode::RecoveryRequired]);
            assert!(error.message().contains(&format!("recover --discard {NAME}")), "{error}");
            assert!(unsettled.is_empty());
            journal::discard(&store, NAME).expect("it is set aside");
            assert!(matches!(journal::find(&store), Ok(found) if found.is_empty()));
            None
        }
    }
}
