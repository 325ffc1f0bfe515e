//! MPS daemons of ours whose devices are gone, for people.

use super::INDENT;
use super::mps::health;
use super::page::{Page, Role};
use crate::mode::MpsHealth;
use crate::snapshot::{MpsStray, Snapshot};

/// Draws the strays of a node, each with what becomes of it.
pub(super) fn strays(page: &mut Page, snapshot: &Snapshot) {
    for stray in &snapshot.strays {
        page.end();
        page.put(Role::Heading, "Stray MPS daemon")
            .put(Role::Plain, "  ")
            .put(Role::Plain, stray.domain.as_str())
            .end();
        for line in lines(stray) {
            page.line(Role::Alarm, &format!("{:INDENT$}{line}", ""));
        }
    }
}

fn lines(stray: &MpsStray) -> [String; 2] {
    let mps = &stray.mps;
    let pid = mps.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let there = format!("this node has no such device any more; the daemon{pid} {}", health(mps));
    let then = match stray.is_left() {
        Some(why) => format!("`gpushare recover` leaves it: {why}"),
        None if mps.health == Some(MpsHealth::Gone) => {
            "`gpushare recover` removes what it left".to_owned()
        }
        None => "`gpushare recover` ends it".to_owned(),
    };
    [there, then]
}
