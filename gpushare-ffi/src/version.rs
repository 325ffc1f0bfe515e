//! Which gpushare this is.

use std::ffi::{CStr, c_char};

/// The major version of this header.
pub const GPUSHARE_VERSION_MAJOR: u32 = 0;
/// The minor version of this header.
pub const GPUSHARE_VERSION_MINOR: u32 = 1;
/// The patch version of this header.
pub const GPUSHARE_VERSION_PATCH: u32 = 0;
/// The ABI of this header: the number in `libgpushare.so.N`, and the version's major number.
pub const GPUSHARE_ABI_VERSION: u32 = 0;

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        // The package's version has no NUL in it.
        Err(_) => c"",
    };

/// The version of the library that is loaded, as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The ABI of the library that is loaded. It works with a header of the same GPUSHARE_ABI_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_abi_version() -> u32 {
    GPUSHARE_ABI_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_macros_are_the_packages_version() {
        let macros = [GPUSHARE_VERSION_MAJOR, GPUSHARE_VERSION_MINOR, GPUSHARE_VERSION_PATCH];
        let package = [
            env!("CARGO_PKG_VERSION_MAJOR"),
            env!("CARGO_PKG_VERSION_MINOR"),
            env!("CARGO_PKG_VERSION_PATCH"),
        ];
        assert_eq!(macros.map(|number| number.to_string()), package);
        assert_eq!(GPUSHARE_ABI_VERSION, GPUSHARE_VERSION_MAJOR);
        assert_eq!(VERSION.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}
