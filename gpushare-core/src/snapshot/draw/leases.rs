//! Who leases what, in words.

use super::page::{Page, Role};
use crate::snapshot::{GpuSnapshot, Share};
use crate::terminal::printable;

/// Who has a share, and on what terms; none for one that is free.
pub(crate) fn leased(share: &Share) -> Option<String> {
    let holder = share.holder.as_ref()?;
    let mut line = holder.to_string();
    if let Some(lease) = &share.lease {
        if let Some(pid) = lease.for_pid.filter(|pid| *pid != holder.pid) {
            line.push_str(&format!(" for pid {pid}"));
        }
        if let Some(percentage) = lease.terms.thread_percentage {
            line.push_str(&format!(", {percentage} % of the threads declared"));
        }
        if let Some(limit) = lease.terms.pinned_memory_limit {
            line.push_str(&format!(", {limit} declared"));
        }
        if lease.inherited {
            line.push_str(", inherited: who took it is gone or has let go");
        }
    }
    Some(line)
}

/// A lease of a share that is no more.
pub(crate) fn void(share: &Share) -> String {
    let by = leased(share).unwrap_or_default();
    format!("void lease of {}: {by}: the share is no more, and its holder has nothing", share.id)
}

/// That no new leases are given, and why.
pub(crate) fn cordoned(why: Option<&str>) -> Option<String> {
    Some(match why? {
        "" => "cordoned".to_owned(),
        why => format!("cordoned: {}", printable(why)),
    })
}

/// The leases of a device: a line for each share that somebody has.
pub(super) fn of_device<'a>(
    gpu: &'a GpuSnapshot,
    device: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let shares = gpu.shares.iter().filter(move |share| share.id.device() == device);
    shares.filter(|share| share.is_leased()).filter_map(|share| {
        let by = leased(share)?;
        Some(match share.id.number() {
            Some(number) => format!("share ::{number} leased by {by}"),
            None => format!("leased by {by}"),
        })
    })
}

/// The leases of a whole GPU, and whether new ones are given.
pub(super) fn of_gpu(page: &mut Page, gpu: &GpuSnapshot) {
    if let Some(text) = cordoned(gpu.cordoned.as_deref()) {
        page.line(Role::Alarm, &format!("  {text}; no new leases"));
    }
    for line in of_device(gpu, gpu.uuid.as_str()) {
        page.line(Role::Busy, &format!("  {line}"));
    }
}
