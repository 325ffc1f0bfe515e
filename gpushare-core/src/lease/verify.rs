//! Whether a process is inside its lease: judged by what driver and daemon say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::Lease;
use crate::mode::Verdict;
use crate::mps::Attachment;
use crate::snapshot::{GpuProcess, GpuSnapshot, Snapshot};

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

impl Lease {
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
        let snapshot = self.node.snapshot()?;
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
        let attachment = self.node.verify_mps(pid)?;
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
