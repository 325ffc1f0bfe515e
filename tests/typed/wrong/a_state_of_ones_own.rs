use gpushare_core::gpu::State;
use gpushare_core::mode::Mode;

#[derive(Debug)]
struct Mine;

impl State for Mine {
    const MODE: Mode = Mode::Mig;
}

fn main() {}
