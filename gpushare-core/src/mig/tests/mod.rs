//! Tests of the planner against references that are written another way.
//!
//! - [`geometries`]: what some GPUs report.
//! - [`world`]: all layouts of a GPU, and the best way between them by looking at each.
//! - [`transitions`]: every transition of a GPU, with one full compute instance in each GPU instance.
//! - [`reference`]: the best way by definition, with compute instances and fixed starts.
//! - [`random`]: random requests against it, and the order of actions.
//! - [`examples`]: errors and single cases.

mod examples;
mod geometries;
mod random;
mod reference;
mod transitions;
mod world;
