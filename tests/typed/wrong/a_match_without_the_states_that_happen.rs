use gpushare_core::gpu::AnyGpu;

fn mode(gpu: &AnyGpu) -> &'static str {
    match gpu {
        AnyGpu::Exclusive(_) => "exclusive",
        AnyGpu::TimeSliced(_) => "time_sliced",
        AnyGpu::Mps(_) => "mps",
        AnyGpu::Mig(_) => "mig",
    }
}

fn main() {}
