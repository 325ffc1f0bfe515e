//! Strings of C, in and out.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use gpushare_core::{Error, ErrorCode, Result};

use crate::call::given;

/// Text that C gave, or none for NULL.
///
/// # Safety
/// It is NULL or ends in NUL, and stays as it is while this is used.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller says so.
    let text = unsafe { CStr::from_ptr(pointer) };
    match text.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{what} is not UTF-8 from byte {} on", error.valid_up_to()),
        )
        .with_source(error)),
    }
}

/// Text that C had to give.
///
/// # Safety
/// As of [`text`].
pub(crate) unsafe fn needed_text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the caller says so.
    let text = unsafe { text(pointer, what) }?;
    given(text, what)
}

/// A path that C gave: any bytes, as paths are.
///
/// # Safety
/// As of [`text`].
pub(crate) unsafe fn path(pointer: *const c_char) -> Option<PathBuf> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    let path = unsafe { CStr::from_ptr(pointer) };
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// Text as C holds it. A NUL within it, which no text of ours has, is replaced.
pub(crate) fn nul_terminated(text: impl Into<String>) -> CString {
    let text = text.into();
    CString::new(text).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).replace('\0', "\u{fffd}");
        CString::new(text).unwrap_or_default()
    })
}

/// Text that is the caller's from now on.
pub(crate) fn give(text: String) -> *mut c_char {
    nul_terminated(text).into_raw()
}

/// Frees a string that the library gave to the caller: every `char *` that a function wrote or
/// returned without `const`. Does nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: `give` made it.
        drop(unsafe { CString::from_raw(string) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_and_says_where() {
        // SAFETY: they end in NUL.
        let read =
            |bytes: &CStr| unsafe { text(bytes.as_ptr(), "gpu") }.map(|t| t.map(str::to_owned));
        assert_eq!(read(c"GPU-1").unwrap().as_deref(), Some("GPU-1"));
        let error = read(c"ab\xff").unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message().contains("gpu is not UTF-8 from byte 2"));
        // SAFETY: NULL is allowed.
        assert!(unsafe { text(std::ptr::null(), "gpu") }.unwrap().is_none());
        assert_eq!(nul_terminated("a\0b").to_str().unwrap(), "a\u{fffd}b");
    }
}
