//! Real containers, of podman 4 and runc, that get devices by name from CDI files.
//!
//! Root alone can start them as these tests do. Where that is not possible they are skipped aloud.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

mod changes;
mod engine;
mod hooks;
mod leases;
mod node;
#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../cli/place.rs"]
mod place;
mod podman;
mod seen;
mod shares;
