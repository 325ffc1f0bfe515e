//! The modes as numbers.

use std::ffi::{CStr, c_char};

use gpushare_core::mode::SharingMode;

/// How a GPU is shared. Numbers are never changed and never reused; a newer library may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum gpushare_mode {
    /// A mode that this library has no number for.
    Unknown = 0,
    /// One process at a time: compute mode EXCLUSIVE_PROCESS.
    Exclusive = 1,
    /// Several processes take turns: compute mode DEFAULT.
    TimeSliced = 2,
    /// Several processes run at once through an MPS daemon of gpushare's.
    Mps = 3,
    /// It is cut into MIG instances.
    Mig = 4,
    /// Compute mode PROHIBITED: nobody can use it.
    Closed = 5,
    /// A change of MIG mode waits for a reset.
    Pending = 6,
    /// An MPS daemon that is not gpushare's serves it.
    Foreign = 7,
    /// gpushare's MPS daemon is recorded, and dead.
    Degraded = 8,
    /// It does not answer, or is no longer there.
    Lost = 9,
}

pub(crate) const fn number(mode: SharingMode) -> u32 {
    let mode = match mode {
        SharingMode::Exclusive => gpushare_mode::Exclusive,
        SharingMode::TimeSliced => gpushare_mode::TimeSliced,
        SharingMode::Mps => gpushare_mode::Mps,
        SharingMode::Mig => gpushare_mode::Mig,
        SharingMode::Closed => gpushare_mode::Closed,
        SharingMode::Pending => gpushare_mode::Pending,
        SharingMode::Foreign => gpushare_mode::Foreign,
        SharingMode::Degraded => gpushare_mode::Degraded,
        SharingMode::Lost => gpushare_mode::Lost,
        // The enum may grow; the test below finds a mode that has no number here.
        _ => gpushare_mode::Unknown,
    };
    mode as u32
}

/// The word for a mode: "mig", "time_sliced". Never NULL: a number that is no mode is "unknown".
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_mode_name(mode: u32) -> *const c_char {
    name(mode).as_ptr()
}

const fn name(mode: u32) -> &'static CStr {
    match mode {
        1 => c"exclusive",
        2 => c"time_sliced",
        3 => c"mps",
        4 => c"mig",
        5 => c"closed",
        6 => c"pending",
        7 => c"foreign",
        8 => c"degraded",
        9 => c"lost",
        _ => c"unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_its_number_and_word() {
        for &mode in SharingMode::ALL {
            assert_eq!(name(number(mode)).to_str().unwrap(), mode.as_str());
        }
        assert_eq!(name(0), c"unknown");
        assert_eq!(name(SharingMode::ALL.len() as u32 + 1), c"unknown");
    }
}
