use gpushare_core::id::{GpuUuid, ProfileIndex};
use gpushare_core::mig::Placement;
use gpushare_core::port::Nvml;

fn create(nvml: &mut dyn Nvml, gpu: &GpuUuid) {
    let _ = nvml.create_gpu_instance(gpu, ProfileIndex::new(0), Placement::new(0, 1));
}

fn main() {}
