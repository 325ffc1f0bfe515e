//! The slots of a GPU with MIG on, drawn as a row.
//!
//! ```text
//! |2g.20gb          |1g.10gb* |1g.10gb |........|3g.40gb ...
//!  0        1        2         3        4
//! ```

use super::page::{Page, Role};
use crate::snapshot::{GpuInstance, InstanceRecord, MigStatus, Usage};

/// Cells are as wide as the page has room for, within reason.
const NARROWEST: usize = 4;
const WIDEST: usize = 14;

/// Whether a GPU instance is in use, as far as anybody could see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
    Unknown,
    /// It has no compute instance: nobody can use it.
    Bare,
}

impl State {
    fn of(instance: &GpuInstance) -> Self {
        let mut usages =
            instance.compute_instances.iter().map(|ci| &ci.usage).chain([&instance.usage]);
        if usages.clone().any(|usage| matches!(usage, Usage::Busy(_))) {
            Self::Busy
        } else if instance.compute_instances.is_empty() {
            Self::Bare
        } else if usages.any(Usage::is_busy) {
            Self::Unknown
        } else {
            Self::Idle
        }
    }

    const fn mark(self) -> &'static str {
        match self {
            Self::Idle => "",
            Self::Busy => "*",
            Self::Unknown => "?",
            Self::Bare => "!",
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::Idle => Role::Idle,
            Self::Busy => Role::Busy,
            Self::Unknown => Role::Plain,
            Self::Bare => Role::Alarm,
        }
    }
}

/// Draws the slots with what stands on them, and a ruler below.
pub(super) fn draw(page: &mut Page, mig: &MigStatus, records: &[InstanceRecord], indent: usize) {
    let slots = usize::from(mig.geometry.slots());
    if slots == 0 {
        return;
    }
    let cell = (page.width().saturating_sub(indent + 1) / slots).clamp(NARROWEST, WIDEST);
    // Whoever stands on a slot; the first one where a driver reports two.
    let mut owners: Vec<Option<usize>> = vec![None; slots];
    for (number, instance) in mig.gpu_instances.iter().enumerate() {
        let start = usize::from(instance.placement.start);
        let own = owners.iter_mut().skip(start).take(instance.placement.size.into());
        own.filter(|owner| owner.is_none()).for_each(|owner| *owner = Some(number));
    }
    page.put(Role::Plain, &" ".repeat(indent)).put(Role::Faint, "|");
    for run in owners.chunk_by(|a, b| a.is_some() && a == b) {
        let inner = run.len() * cell - 1;
        let instance =
            run.first().copied().flatten().and_then(|number| mig.gpu_instances.get(number));
        match instance {
            None => page.put(Role::Faint, &".".repeat(inner)),
            Some(instance) => {
                let state = State::of(instance);
                let record = records.iter().find(|record| record.placement == instance.placement);
                let name = record.and_then(|record| record.name.as_deref());
                let label = label(instance, name, state, inner);
                page.put(state.role(), &format!("{label:inner$}"))
            }
        };
        page.put(Role::Faint, "|");
    }
    page.end();
    let ruler: String =
        (0..slots).map(|slot| format!(" {slot:<width$}", width = cell - 1)).collect();
    page.line(Role::Faint, &format!("{:indent$}{}", "", ruler.trim_end()));
}

/// The longest of its labels that fits.
fn label(instance: &GpuInstance, name: Option<&str>, state: State, width: usize) -> String {
    let mark = state.mark();
    let profile = instance.name;
    let short = crate::mig::ProfileName { gigabytes: None, ..profile };
    let whole = matches!(&instance.compute_instances[..], [ci] if ci.slices == profile.slices);
    let compute: Vec<_> =
        instance.compute_instances.iter().map(|ci| format!("{}c", ci.slices)).collect();
    let compute = match (whole, compute.is_empty()) {
        (true, _) => String::new(),
        (false, true) => " no CI".to_owned(),
        (false, false) => format!(" {}", compute.join("+")),
    };
    let named = name.map(|name| format!("{profile}{mark}{compute} {name}"));
    let labels = [
        format!("{profile}{mark}{compute}"),
        format!("{short}{mark}{compute}"),
        format!("{profile}{mark}"),
        format!("{short}{mark}"),
    ];
    let fits = |label: &String| label.chars().count() <= width;
    named.into_iter().chain(labels).find(fits).unwrap_or_else(|| {
        // The mark matters more than the rest of the name.
        let room = width.saturating_sub(mark.len());
        format!("{}{mark}", short.to_string().chars().take(room).collect::<String>())
    })
}
