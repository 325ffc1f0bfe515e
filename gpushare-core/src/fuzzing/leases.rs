//! What lies beside the slots of leases: notes, and the names of files.

use super::{chosen, expect_shown};
use crate::backend::slots::fuzzing;
use crate::id::ShareId;
use crate::port::Note;
use crate::state::slot;

pub(super) fn feed(data: &[u8]) {
    let (kind, rest) = chosen(data);
    match kind % 2 {
        0 => note(rest),
        _ => name(&String::from_utf8_lossy(rest).replace(['/', '\0'], "")),
    }
}

fn note(content: &[u8]) {
    let share = ShareId::whole("GPU-8f3b98ec-0635-dff0-ff24-353df283557b");
    let read = |content: &[u8]| {
        slot::parse(Note { share: share.clone(), author: 1000, content: content.to_vec() })
    };
    let Some(noted) = read(content) else { return };
    assert_eq!((&noted.share, noted.author), (&share, 1000));
    assert!(noted.note.name.len() <= 100);
    let written = serde_json::to_vec(&noted.note).expect("a note is JSON");
    assert_eq!(read(&written).as_ref(), Some(&noted));
    // As long as it is, it fits where notes are.
    assert!(written.len() <= 4096, "{} bytes", written.len());
    // Filled up with blanks, as on disk.
    assert_eq!(read(&[&written[..], b"      "].concat()).as_ref(), Some(&noted));
}

/// A name that a file beside the slots may have.
fn name(name: &str) {
    if let Some(share) = fuzzing::share_of(name) {
        // One share has one slot.
        assert_eq!(fuzzing::slot_of(&share), name);
        expect_shown(&share.to_string());
        assert!(share.to_string().len() <= 128);
    }
    if fuzzing::is_ticket(name) {
        assert!(!fuzzing::is_abandoned(name));
    }
    let _ = fuzzing::is_abandoned(name);
}
