use gpushare_core::gpu::{Gpu, Layout, TimeSliced};

fn cut(gpu: Gpu<TimeSliced>) {
    let cut = gpu.into_mig(Layout::empty()).unwrap();
    gpu.replicas().unwrap();
    let _ = cut;
}

fn main() {}
