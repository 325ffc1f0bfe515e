//! Through all modes and back, each handle consumed by the next.

use gpushare_core::Node;
use gpushare_core::gpu::{AnyGpu, Gpu, Layout, TimeSliced};
use gpushare_core::parameters::{MpsConfig, TimeSlicing};

fn time_sliced(gpu: AnyGpu) -> Gpu<TimeSliced> {
    match gpu {
        AnyGpu::TimeSliced(gpu) => gpu,
        other => panic!("{other:?}"),
    }
}

#[test]
fn compiles_and_runs() -> gpushare_core::Result<()> {
    let node = Node::builder().sim("H100-80GB").open()?;
    let gpu = time_sliced(node.gpu("0")?);
    assert_eq!(gpu.replicas()?, None);
    let gpu = gpu.into_exclusive()?.into_mps(MpsConfig::default())?;
    assert!(gpu.config()?.is_some());
    let gpu = gpu.into_mig(Layout::of(["3g", "1g"])?)?;
    assert_eq!((gpu.devices()?.len(), gpu.gpu_instances()?.len()), (2, 2));
    let gpu = gpu.set_layout(Layout::empty())?.into_time_sliced(TimeSlicing::default())?;
    assert_eq!(gpu.replicas()?, Some(4));
    Ok(())
}
