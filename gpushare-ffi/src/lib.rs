//! The C ABI of gpushare. Its documentation for C is `include/gpushare.h`, made from here.
//!
//! Nothing is decided here: each function checks what C cannot promise, calls `gpushare-core`,
//! and says in C what came of it.

mod status;
mod version;

pub use status::*;
pub use version::*;
