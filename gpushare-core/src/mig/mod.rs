//! Multi-Instance GPU as pure values: profile names, geometry, layouts, and the exact planner.
//!
//! Nothing here asks a driver. The geometry comes from the driver of each GPU and is handed in.

pub mod compute;
pub mod fit;
pub mod geometry;
pub mod order;
pub mod profile;
pub mod solve;
#[cfg(test)]
mod tests;

pub use compute::ComputeProfile;
pub use geometry::{Geometry, Placement, Profile};
pub use profile::{Attribute, ProfileName};
