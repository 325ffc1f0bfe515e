//! What C hands in, as types whose few methods do all the unsafe work of this crate.
//!
//! Each is a bare pointer in the ABI. The contract of `nvml.h`, which every caller in C vouches
//! for, is what makes them sound: a pointer is null, or valid for what the function does with it.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::fmt::Write as _;

use gpushare_core::port::{NvmlFailure, NvmlReturn};

/// What a function answers beside what it writes.
pub(crate) type Answer<T = ()> = Result<T, Refusal>;

/// A return code that is not SUCCESS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) NvmlReturn);

impl From<NvmlReturn> for Refusal {
    fn from(ret: NvmlReturn) -> Self {
        Self(ret)
    }
}

impl From<NvmlFailure> for Refusal {
    fn from(failure: NvmlFailure) -> Self {
        Self(failure.ret)
    }
}

pub(crate) const INVALID: Refusal = Refusal(NvmlReturn::INVALID_ARGUMENT);

/// A handle that NVML gave out: never looked behind, only compared.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(*mut c_void);

impl Handle {
    pub(crate) fn from_number(number: usize) -> Self {
        Self(std::ptr::without_provenance_mut(number))
    }

    pub(crate) fn number(self) -> usize {
        self.0.addr()
    }

    pub(crate) fn pointer<T>(self) -> *mut T {
        self.0.cast()
    }
}

/// Where one value goes.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(crate) fn set(&self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so by nvml.h's contract valid for writing one value of this type.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

impl Out<c_uint> {
    /// What stands there before: a count that goes in and out, or the version of a struct.
    pub(crate) fn get(&self) -> Answer<c_uint> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so by nvml.h's contract an initialised number.
        Ok(unsafe { self.0.read() })
    }
}

/// A struct that says its own size and version in its first word.
#[repr(transparent)]
pub(crate) struct Versioned(*mut c_uint);

impl Versioned {
    /// The word that says size and version.
    pub(crate) fn word(&self) -> Answer<c_uint> {
        Out(self.0).get()
    }

    /// Writes the struct, if the caller has one of that version there.
    pub(crate) fn set<T>(&self, version: c_uint, value: T) -> Answer {
        if self.word()? != struct_version::<T>(version) {
            return Err(NvmlReturn::ARGUMENT_VERSION_MISMATCH.into());
        }
        Out(self.0.cast::<T>()).set(value)
    }
}

/// The version word of a struct, as `nvml.h`'s macro makes it.
pub(crate) const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}

/// One value that comes in.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn get(&self) -> Answer<T> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so by nvml.h's contract an initialised value of this type.
        Ok(unsafe { self.0.read() })
    }
}

/// A text that comes in.
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn get(&self) -> Answer<&str> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so by nvml.h's contract a text that ends in a NUL.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| INVALID)
    }
}

/// Where several values go: an array, or a text.
#[repr(transparent)]
pub(crate) struct Many<T>(*mut T);

impl<T: Copy> Many<T> {
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Writes them one after another. The caller's array has room for `capacity` of them.
    pub(crate) fn fill(&self, capacity: c_uint, values: &[T]) -> Answer {
        if self.0.is_null() {
            return Err(INVALID);
        }
        if values.len() > capacity as usize {
            return Err(NvmlReturn::INSUFFICIENT_SIZE.into());
        }
        // SAFETY: not null, so by nvml.h's contract valid for writing `capacity` values, and ours
        // are no more than that; the two can't overlap, as ours are in our own memory.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
        Ok(())
    }
}

impl Many<c_char> {
    pub(crate) fn text(&self, capacity: c_uint, text: &str) -> Answer {
        let bytes: Vec<c_char> = text.bytes().chain([0]).map(|b| b as c_char).collect();
        self.fill(capacity, &bytes)
    }
}

/// A text in an array of fixed size, cut where it does not fit.
pub(crate) fn fixed<const N: usize>(text: impl std::fmt::Display) -> [c_char; N] {
    let mut written = String::with_capacity(N);
    // Writing to a string cannot fail.
    let _ = write!(written, "{text}");
    let mut array = [0; N];
    for (to, from) in array.iter_mut().take(N - 1).zip(written.bytes()) {
        *to = from as c_char;
    }
    array
}

/// Defines functions of NVML: exported under their names, counted, one at a time, and with no
/// panic that crosses into C. The block sees the open session; without one it is UNINITIALIZED.
macro_rules! nvml {
    ($(fn $name:ident($session:ident $(, $argument:ident: $of:ty)* $(,)?) $body:block)*) => {$(
        // SAFETY: no other function of that name is in this library, and the process that loads
        // it asked for NVML's names.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $of),*) -> u32 {
            $crate::session::call(stringify!($name), |$session: &mut $crate::session::Session| $body)
        }
    )*};
}
pub(crate) use nvml;
