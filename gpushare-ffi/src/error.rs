//! Errors as C sees them.

use std::ffi::{CString, c_char};
use std::ptr;

use gpushare_core::{Error, Outcome};

use crate::call::sure;
use crate::text::{give, nul_terminated};

/// What an error left behind on the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum gpushare_outcome {
    /// Nothing was changed.
    Untouched = 0,
    /// Something was changed and is back as it was.
    RolledBack = 1,
    /// It is not known: gpushare_node_recover() settles it.
    Indeterminate = 2,
}

/// Why a call failed. The caller's, until gpushare_error_free(). One thread at a time.
///
/// A call that fails writes one where its last argument points, unless that is NULL; a call that
/// succeeds writes NULL there. Neither looks at what stood there before: an error that is not freed before
/// its pointer is used for the next call is lost, and leaks.
#[derive(Debug)]
pub struct gpushare_error {
    pub(crate) error: Error,
    simulated: Option<bool>,
    message: CString,
}

impl gpushare_error {
    pub(crate) fn new(error: Error, simulated: Option<bool>) -> Self {
        let message = nul_terminated(error.to_string());
        Self { error, simulated, message }
    }
}

/// Its status: a gpushare_status, the same that the call returned. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_code(err: Option<&gpushare_error>) -> i32 {
    err.map_or(0, |err| err.error.code().number())
}

/// What was asked, of which GPU, what stood in the way and what to do: one line for people, UTF-8.
///
/// The error's own: it is valid until gpushare_error_free(). NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_message(err: Option<&gpushare_error>) -> *const c_char {
    err.map_or(ptr::null(), |err| err.message.as_ptr())
}

/// What it left behind on the hardware: a gpushare_outcome. UNTOUCHED for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_outcome(err: Option<&gpushare_error>) -> i32 {
    err.map_or(gpushare_outcome::Untouched, |err| outcome(err.error.outcome())) as i32
}

/// The same in C.
pub(crate) const fn outcome(outcome: Outcome) -> gpushare_outcome {
    match outcome {
        Outcome::Untouched => gpushare_outcome::Untouched,
        Outcome::RolledBack => gpushare_outcome::RolledBack,
        // What is new and unknown here is due to be settled, too.
        _ => gpushare_outcome::Indeterminate,
    }
}

/// What NVML returned, an nvmlReturn_t, where a call of the driver failed; -1 for every other error
/// and for NULL. Which call that was is in gpushare_error_to_json().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_nvml_return(err: Option<&gpushare_error>) -> i32 {
    let call = err.and_then(|err| err.error.driver_call());
    call.map_or(-1, |call| i32::try_from(call.nvml_return).unwrap_or(i32::MAX))
}

/// The number of the system's error, an errno, where the system gave one: ENOSPC, EACCES; 0 for every
/// other error and for NULL. Which file it is about is in gpushare_error_to_json().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_os_error(err: Option<&gpushare_error>) -> i32 {
    err.and_then(|err| err.error.os_error()).unwrap_or(0)
}

/// Everything that is known of it: a document of schema `gpushare.error/v1`, with who is in the way
/// (`holders`), what is missing (`needs`), what would fit (`fits`), which values do no harm (`safe`).
///
/// The caller's, to be freed with gpushare_string_free(). NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_to_json(err: Option<&gpushare_error>) -> *mut c_char {
    let Some(err) = err else { return ptr::null_mut() };
    sure(ptr::null_mut(), || {
        let mut document = err.error.to_document();
        if let Some(fields) = document.as_object_mut() {
            fields.insert("simulated".to_owned(), err.simulated.into());
        }
        give(document.to_string())
    })
}

/// Frees an error, and with it its message. Does nothing for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_error_free(err: Option<Box<gpushare_error>>) {
    drop(err);
}
