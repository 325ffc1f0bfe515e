use gpushare_core::gpu::{Gpu, Mig};

fn replicas(gpu: &Gpu<Mig>) -> Option<u32> {
    gpu.replicas().unwrap()
}

fn main() {}
