//! After a transition that failed there is a handle again, of what the GPU is then.

use gpushare_core::gpu::{AnyGpu, Layout};
use gpushare_core::{ErrorCode, Node};

#[test]
fn compiles_and_runs() -> gpushare_core::Result<()> {
    let node = Node::builder().sim("H100-80GB").open()?;
    let AnyGpu::TimeSliced(gpu) = node.gpu("0")? else { panic!() };
    let failed = gpu.into_mig(Layout::of(["7g", "7g"])?).unwrap_err();
    assert_eq!(failed.error().code(), ErrorCode::Insufficient);
    let Some(AnyGpu::TimeSliced(gpu)) = failed.into_gpu() else { panic!() };
    let gpu = gpu.into_exclusive()?;
    // `?` turns a failed transition into its error.
    let result = (|| -> gpushare_core::Result<_> { Ok(gpu.into_mig(Layout::of(["9g"])?)?) })();
    assert_eq!(result.unwrap_err().code(), ErrorCode::InvalidArgument);
    Ok(())
}
