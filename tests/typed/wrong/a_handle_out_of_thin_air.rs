use gpushare_core::gpu::{Gpu, Mig};
use gpushare_core::id::GpuUuid;
use gpushare_core::Node;

fn forge(node: Node, uuid: GpuUuid) -> Gpu<Mig> {
    Gpu { node, uuid, options: Default::default(), mode: std::marker::PhantomData }
}

fn main() {}
