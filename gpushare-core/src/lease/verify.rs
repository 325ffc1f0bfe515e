//! Whether a process is inside its lease: judged by what driver and daemon say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::{Grant, Lease};
use crate::mode::Verdict;
use crate::mps::Attachment;
use crate::observe::Scope;
use crate::snapshot::{GpuProcess, GpuSnapshot, Snapshot};
use crate::units::Bytes;

/// Whether a process is inside its lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verification {
    /// Whether it is: attached, not attached, or unknown, which never passes.
    pub verdict: Verdict,
    /// Why, in words.
    pub reasons: Vec<String>,
    /// What the MPS daemon says of it, where its share is one's.
    pub attachment: Option<Attachment>,
}

impl Verification {
    fn new(verdict: Verdict, reason: String) -> Self {
        Self { verdict, reasons: vec![reason], attachment: None }
    }
}

/// A device as a process's own CUDA shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its uuid, of a MIG device that one's own (`cuDeviceGetUuid_v2`), without `GPU-` or `MIG-`.
    pub uuid: String,
    /// Its multiprocessors: of an MPS client, those that it is given.
    pub sm_count: u32,
    /// Its memory, which no limit of MPS makes less.
    pub memory: Bytes,
}

impl Lease {
    /// Whether this process is inside the lease, by what its own CUDA shows it: `seen` is that, none
    /// where CUDA has not begun. The driver and the daemon are asked as well, and a no of theirs counts.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_inside(&self, seen: Option<&[CudaDevice]>) -> Result<Verification> {
        let outside = self.verify(self.node.ports().processes.own_pid())?;
        Ok(inside(self.grants(), outside, seen))
    }

    /// Whether a process is inside this lease: on its devices and on no other, and where they are an MPS
    /// daemon's, as a client of that daemon. One that has no CUDA context yet is `unknown`.
    ///
    /// # Errors
    /// NOT_FOUND when there is no such process; INVALID_STATE when the lease was released; as
    /// [`Node::snapshot`](crate::Node::snapshot).
    pub fn verify(&self, pid: Pid) -> Result<Verification> {
        self.held.with(|_| ())?;
        let processes = &self.node.ports().processes;
        if processes.facts(pid).is_none() {
            return Err(Error::new(ErrorCode::NotFound, format!("there is no process {pid}")));
        }
        let mut observer = self.node.observer()?;
        let snapshot = observer.snapshot(&Scope::all())?;
        let seen = look(&snapshot, pid);
        if seen.is_empty() {
            let hidden = snapshot.gpus.iter().any(|gpu| gpu.processes_hidden);
            let why = if hidden {
                "the driver does not show who is on the GPUs"
            } else {
                "it has no CUDA context yet"
            };
            return Ok(Verification::new(Verdict::Unknown, why.to_owned()));
        }
        let leased: Vec<&str> = self.shares().map(|share| share.device()).collect();
        for (gpu, device) in &seen {
            match device {
                Some(device) if leased.contains(&device.as_str()) => {}
                Some(device) => {
                    let why = format!("it has a context on {device}, which is not of its lease");
                    return Ok(Verification::new(Verdict::NotAttached, why));
                }
                None => {
                    let why = format!(
                        "it is on a MIG device of {gpu}, and the driver does not say which"
                    );
                    return Ok(Verification::new(Verdict::Unknown, why));
                }
            }
        }
        if self.grants().iter().all(|grant| !grant.is_mps()) {
            let why = "it is on the devices of its lease and on no other".to_owned();
            return Ok(Verification::new(Verdict::Attached, why));
        }
        let attachment = observer.verify_mps(pid)?;
        let domain = attachment.domain.as_ref().map(|domain| domain.as_str().to_owned());
        let elsewhere = domain.as_deref().is_some_and(|domain| !leased.contains(&domain));
        if elsewhere {
            let why = format!("it is a client of the MPS daemon of {}", domain.unwrap_or_default());
            return Ok(Verification::new(Verdict::NotAttached, why));
        }
        Ok(Verification {
            verdict: attachment.verdict,
            reasons: attachment.reasons.clone(),
            attachment: Some(attachment),
        })
    }
}

/// The devices on which a process has contexts; none for a MIG device that the driver does not name.
fn look(snapshot: &Snapshot, pid: Pid) -> Vec<(String, Option<String>)> {
    let on = |gpu: &GpuSnapshot, process: &GpuProcess| {
        if gpu.mig.as_ref().is_none_or(|mig| !mig.enabled) {
            return Some(gpu.uuid.to_string());
        }
        let instance = process.gi.zip(process.ci)?;
        let device = gpu.mig_devices.iter().find(|device| (device.gi, device.ci) == instance)?;
        Some(device.uuid.to_string())
    };
    let gpus = snapshot.gpus.iter().flat_map(|gpu| {
        let there = gpu.processes.iter().filter(|process| process.holder.pid == pid);
        there.map(move |process| (gpu.uuid.to_string(), on(gpu, process)))
    });
    gpus.collect()
}

/// The uuid of a share's device as CUDA says it.
fn digits(grant: &Grant) -> &str {
    let device = grant.share.device();
    device.split_once('-').map_or(device, |(_, digits)| digits)
}

/// What is known from the outside, with what CUDA shows the process.
fn inside(grants: &[Grant], outside: Verification, seen: Option<&[CudaDevice]>) -> Verification {
    let Some(seen) = seen.filter(|seen| !seen.is_empty()) else {
        let why = match seen {
            None => "CUDA has not begun in this process",
            Some(_) => "CUDA shows this process no device",
        };
        if outside.verdict == Verdict::NotAttached {
            return outside;
        }
        return Verification::new(Verdict::Unknown, why.to_owned());
    };
    let mut says = Vec::new();
    for device in seen {
        let uuid = &device.uuid;
        // Shares of one device differ in their limits by what was declared alone: the widest counts.
        let own: Vec<_> = grants.iter().filter(|g| digits(g).eq_ignore_ascii_case(uuid)).collect();
        if own.is_empty() {
            let why = format!("CUDA shows it the device {uuid}, which is not of its lease");
            return Verification { reasons: vec![why], verdict: Verdict::NotAttached, ..outside };
        }
        let count = device.sm_count;
        let most = own.iter().map(|grant| grant.sm_count).max().flatten();
        if let Some(most) = most.filter(|most| count > *most) {
            let why = format!("CUDA gives it {count} SMs of {uuid}, and its lease {most}");
            return Verification { reasons: vec![why], verdict: Verdict::NotAttached, ..outside };
        }
        says.push(format!("CUDA gives it {count} SMs of {uuid}, which is of its lease"));
    }
    // A process that missed its daemon sees the same device: only the daemon's word counts there.
    let verdict = match outside.verdict {
        Verdict::Unknown if grants.iter().all(|grant| !grant.is_mps()) => Verdict::Attached,
        verdict => verdict,
    };
    says.extend(outside.reasons);
    Verification { verdict, reasons: says, attachment: outside.attachment }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::lease::LeaseRequest;
    use crate::node::Node;

    const VERDICTS: [Verdict; 3] = [Verdict::Attached, Verdict::NotAttached, Verdict::Unknown];

    #[test]
    fn what_cuda_shows_never_turns_a_no_into_a_yes() {
        let node = Node::builder().sim("2xH100-80GB").open().unwrap();
        let lease = node.lease(&LeaseRequest::gpu("0")).unwrap();
        let whole = lease.grants()[0].clone();
        let mut client = whole.clone();
        client.variables.insert("CUDA_MPS_PIPE_DIRECTORY".to_owned(), "/x".to_owned());
        client.sm_count = Some(32);
        let device = |uuid: &str, sm_count: u32| CudaDevice {
            uuid: uuid.to_owned(),
            sm_count,
            memory: Bytes::new(1),
        };
        let own = digits(&whole).to_uppercase();
        let other = "11111111-2222-3333-4444-555555555555";
        let shown = [
            None,
            Some(vec![]),
            Some(vec![device(&own, 32)]),
            Some(vec![device(&own, 33)]),
            Some(vec![device(&own, 9999)]),
            Some(vec![device(other, 1)]),
            Some(vec![device(&own, 32), device(other, 1)]),
        ];
        for grant in [&whole, &client] {
            for outside in VERDICTS {
                for seen in &shown {
                    let from = Verification::new(outside, "outside".to_owned());
                    let found = inside(std::slice::from_ref(grant), from, seen.as_deref());
                    let most = grant.sm_count.unwrap();
                    let strange = |d: &CudaDevice| d.uuid == other || d.sm_count > most;
                    let expected = match (outside, seen.as_deref()) {
                        (Verdict::NotAttached, _) => Verdict::NotAttached,
                        (_, None | Some([])) => Verdict::Unknown,
                        (_, Some(seen)) if seen.iter().any(strange) => Verdict::NotAttached,
                        (Verdict::Unknown, _) if !grant.is_mps() => Verdict::Attached,
                        (outside, _) => outside,
                    };
                    assert_eq!(found.verdict, expected, "{outside} {seen:?}");
                    assert!(!found.reasons.is_empty());
                }
            }
        }
    }
}
