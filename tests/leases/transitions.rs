//! Leases while the GPUs change.

use std::io::Write as _;

use serde_json::Value;

use crate::{Fleet, Leaser, SLICED};

#[test]
fn what_changes_is_not_leased_and_what_is_leased_does_not_change() {
    let fleet = Fleet::new("2xH100-80GB", SLICED);
    let flips: Vec<Leaser> =
        ["1001", "77003"].iter().map(|seed| fleet.leaser(&["flip", "5", seed])).collect();
    let tenants: Vec<Leaser> = (0..6_u32)
        .map(|number| fleet.leaser(&["tenant", "5", &(number * 7919 + 13).to_string()]))
        .collect();
    let read = |leaser: Leaser| -> Value {
        let text = leaser.end();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    };
    let tenants: Vec<Value> = tenants.into_iter().map(read).collect();
    let flips: Vec<Value> = flips.into_iter().map(read).collect();
    let _ = writeln!(std::io::stderr(), "{tenants:?} {flips:?}");
    let sum =
        |all: &[Value], key: &str| all.iter().filter_map(|one| one[key].as_u64()).sum::<u64>();
    // However slow the machine is.
    assert!(sum(&flips, "applied") > 2 && sum(&tenants, "leased") > 10, "{flips:?} {tenants:?}");
    assert_eq!(sum(&tenants, "void"), 0, "{tenants:?}");
    assert_eq!(sum(&tenants, "wrong"), 0, "{tenants:?}");
    assert!(fleet.leases().void.is_empty());
}
