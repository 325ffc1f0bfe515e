//! The C ABI of gpushare. Its documentation for C is `include/gpushare.h`, made from here.
//!
//! Nothing is decided here: each function checks what C cannot promise, calls `gpushare-core`,
//! and says in C what came of it.
//!
//! What C lends for the length of a call is `Option<&T>`, what it gives up is `Option<Box<T>>`, and
//! where it wants an answer is `Option<&mut MaybeUninit<T>>`: the same pointers, NULL included. Structs
//! that grow and strings come as raw pointers; [`structs`] and [`text`] alone read them.

// Types have their C names. What a pointer must be is said once, at the top of the header.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod apply;
mod call;
mod cordon;
mod doctor;
mod error;
mod event;
mod export;
mod fork;
mod gpu_info;
mod hook;
mod lease;
mod log;
mod mode;
mod mps;
mod node;
mod options;
mod plan;
mod request;
mod resolve;
mod share;
mod status;
mod structs;
mod text;
mod version;

pub use apply::*;
pub use cordon::*;
pub use doctor::*;
pub use error::*;
pub use event::*;
pub use export::*;
pub use gpu_info::*;
pub use hook::*;
pub use lease::*;
pub use log::*;
pub use mode::*;
pub use mps::*;
pub use node::*;
pub use options::*;
pub use plan::*;
pub use request::*;
pub use resolve::*;
pub use share::*;
pub use status::*;
pub use structs::*;
pub use text::*;
pub use version::*;
