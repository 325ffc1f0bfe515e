//! A plan: the steps from a snapshot to a spec, with what they need.

pub mod step;

pub use step::Step;
