use gpushare_core::gpu::{Exclusive, Gpu, Layout, Mig};

fn twice(gpu: Gpu<Exclusive>) {
    let cut = gpu.into_mig(Layout::empty()).unwrap();
    let _ = Gpu::<Mig>::into_mig(cut, Layout::empty());
}

fn main() {}
