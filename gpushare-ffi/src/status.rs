//! What functions return.

use std::ffi::{CStr, c_char};

use gpushare_core::ErrorCode;

/// What became of a call. Numbers are never changed and never reused.
///
/// It is an `int32_t`, in C and in C++, and so is what functions return: a newer library can return what an
/// older header does not know.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum gpushare_status {
    /// It worked.
    Ok = 0,
    /// Something asked for makes no sense as written: a spec, a name, a size, an option.
    InvalidArgument = 1,
    /// No driver, no GPU, or none of that name.
    NotFound = 2,
    /// This GPU or this driver cannot do it.
    Unsupported = 3,
    /// The caller may not; the error names what is missing.
    PermissionDenied = 4,
    /// Somebody uses what would have to go; the error names them.
    Busy = 5,
    /// It does not fit; the error says what would.
    Insufficient = 6,
    /// Only a reset of the GPU leads there, and none was allowed.
    ResetRequired = 7,
    /// The GPU is no longer as it was when the plan was made.
    Stale = 8,
    /// Another gpushare process is changing the GPU.
    Locked = 9,
    /// The object cannot do that in the state it is in.
    InvalidState = 10,
    /// It would work and do harm; allowed only by name.
    Hazard = 11,
    /// It took longer than the caller wanted to wait.
    Timeout = 12,
    /// The driver refused or failed.
    Driver = 13,
    /// The MPS daemon refused or failed.
    Mps = 14,
    /// A file, directory or process of the system refused or failed.
    Io = 15,
    /// The caller asked to stop.
    Interrupted = 16,
    /// A defect of gpushare.
    Panic = 17,
    /// An unfinished change lies in the way and a person has to decide.
    RecoveryRequired = 18,
}

/// The name of a status: "OK", "BUSY". Never NULL: a number that is no status is "UNKNOWN".
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_status_name(status: i32) -> *const c_char {
    name(status).as_ptr()
}

fn name(status: i32) -> &'static CStr {
    use ErrorCode as Code;
    if status == gpushare_status::Ok as i32 {
        return c"OK";
    }
    match Code::from_number(status) {
        Some(Code::InvalidArgument) => c"INVALID_ARGUMENT",
        Some(Code::NotFound) => c"NOT_FOUND",
        Some(Code::Unsupported) => c"UNSUPPORTED",
        Some(Code::PermissionDenied) => c"PERMISSION_DENIED",
        Some(Code::Busy) => c"BUSY",
        Some(Code::Insufficient) => c"INSUFFICIENT",
        Some(Code::ResetRequired) => c"RESET_REQUIRED",
        Some(Code::Stale) => c"STALE",
        Some(Code::Locked) => c"LOCKED",
        Some(Code::InvalidState) => c"INVALID_STATE",
        Some(Code::Hazard) => c"HAZARD",
        Some(Code::Timeout) => c"TIMEOUT",
        Some(Code::Driver) => c"DRIVER",
        Some(Code::Mps) => c"MPS",
        Some(Code::Io) => c"IO",
        Some(Code::Interrupted) => c"INTERRUPTED",
        Some(Code::Panic) => c"PANIC",
        Some(Code::RecoveryRequired) => c"RECOVERY_REQUIRED",
        // The enum may grow; the test below finds a code that has no name here.
        Some(_) | None => c"UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name() {
        for &code in ErrorCode::ALL {
            assert_eq!(name(code.number()).to_str().unwrap(), code.name());
        }
        assert_eq!(name(0), c"OK");
        for number in [-1, ErrorCode::ALL.len() as i32 + 1, i32::MIN, i32::MAX] {
            assert_eq!(name(number), c"UNKNOWN", "{number}");
        }
    }
}
