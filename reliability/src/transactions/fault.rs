//! What may go wrong at a call.

use std::time::Duration;

use gpushare_core::ErrorCode;
use gpushare_core::backend::sim::{CallRecord, Death, Failure, Fault};
use gpushare_core::port::NvmlReturn;

/// What any call of the driver may answer when it did not do as told.
const ANY: [NvmlReturn; 3] = [NvmlReturn::UNKNOWN, NvmlReturn::TIMEOUT, NvmlReturn::NO_PERMISSION];

/// What a call of the driver answers beside that.
fn of_driver(name: &str) -> &'static [NvmlReturn] {
    if name.starts_with("nvml.create") {
        return &[
            NvmlReturn::INSUFFICIENT_RESOURCES,
            NvmlReturn::INVALID_ARGUMENT,
            NvmlReturn::GPU_IS_LOST,
        ];
    }
    if name.starts_with("nvml.destroy") || name.starts_with("nvml.set") {
        return &[NvmlReturn::IN_USE, NvmlReturn::NOT_FOUND, NvmlReturn::GPU_IS_LOST];
    }
    &[]
}

fn failures(name: &str) -> Vec<Failure> {
    let failure = |nvml, code| Failure { nvml, code };
    if name.starts_with("nvml.") {
        let answers = ANY.iter().chain(of_driver(name));
        return answers.map(|&nvml| failure(nvml, ErrorCode::Io)).collect();
    }
    let codes: &[ErrorCode] = match name.split('.').next() {
        Some("mps") => &[ErrorCode::Mps, ErrorCode::Timeout, ErrorCode::Io],
        // Who may not read one of our files may not read it at any time.
        Some("store") if name != "store.read" => &[ErrorCode::Io, ErrorCode::PermissionDenied],
        _ => &[ErrorCode::Io],
    };
    codes.iter().map(|&code| failure(NvmlReturn::UNKNOWN, code)).collect()
}

/// Everything that may go wrong at this call.
pub(super) fn faults(call: &CallRecord) -> Vec<Fault> {
    let mut faults = vec![Fault::Die(Death::After), Fault::Hang(Duration::from_secs(3600))];
    faults.extend(failures(call.name).into_iter().map(Fault::Fail));
    if call.mutating {
        faults.push(Fault::Die(Death::Before));
        faults.extend(failures(call.name).into_iter().map(Fault::FailAfter));
    }
    if call.name == "store.append" {
        faults.extend([0, 1, 40, 99].map(|percent| Fault::Die(Death::Torn(percent))));
    }
    faults
}

/// The call by its name and its number among those of its name.
pub(super) fn nth(calls: &[CallRecord], call: &CallRecord) -> usize {
    calls.iter().take(call.number).filter(|other| other.name == call.name).count()
}
