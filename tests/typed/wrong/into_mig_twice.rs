use gpushare_core::gpu::{Exclusive, Gpu, Layout};

fn twice(gpu: Gpu<Exclusive>) {
    let cut = gpu.into_mig(Layout::empty());
    let again = gpu.into_mig(Layout::empty());
    let _ = (cut, again);
}

fn main() {}
