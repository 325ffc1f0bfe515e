//! MPS control daemons: what is said to them, over their socket or through NVIDIA's program.

mod control;
mod tool;
mod wire;

pub use control::MpsControl;
