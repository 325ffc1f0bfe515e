//! Nodes, handles, plans and errors are sent to other threads.

use gpushare_core::gpu::{AnyGpu, Gpu, Mig};
use gpushare_core::observe::Observer;
use gpushare_core::{Error, Node, Plan, Report, Snapshot, Spec};

fn sends<T: Send + 'static>() {}
fn shares<T: Send + Sync + Clone + 'static>() {}

#[test]
fn compiles_and_runs() {
    shares::<Node>();
    shares::<Snapshot>();
    shares::<Spec>();
    shares::<Plan>();
    shares::<Report>();
    shares::<Error>();
    sends::<Gpu<Mig>>();
    sends::<AnyGpu>();
    sends::<Observer>();
}
