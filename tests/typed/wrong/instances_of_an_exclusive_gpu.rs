use gpushare_core::gpu::{Exclusive, Gpu};

fn devices(gpu: &Gpu<Exclusive>) -> usize {
    gpu.devices().unwrap().len()
}

fn main() {}
