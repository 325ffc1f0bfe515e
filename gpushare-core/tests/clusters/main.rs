//! Hand-over to container engines and schedulers: what they would read, held against strict models of
//! what they take.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cdi;
mod docker;
mod gres;
mod kubernetes;
mod nodes;
mod shell;
mod yaml;
