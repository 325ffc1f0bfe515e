//! Resolving `CUDA_VISIBLE_DEVICES` when the GPUs have been observed.

use divan::{Bencher, black_box};
use gpushare_core::visible::resolve;
use gpushare_core::{ApplyOptions, Node, Snapshot, Spec};

fn main() {
    divan::main();
}

fn whole() -> Snapshot {
    let node = Node::builder().sim("8xH200-141GB").open().expect("a fleet");
    node.snapshot().expect("a simulated node")
}

#[divan::bench(sample_count = 1_000, sample_size = 10)]
fn eight_gpus_by_index(bencher: Bencher<'_, '_>) {
    let (snapshot, string) = (whole(), "7,6,5,4,3,2,1,0");
    assert_eq!(resolve(&snapshot, Some(string)).devices.len(), 8);
    bencher.bench_local(|| resolve(black_box(&snapshot), black_box(Some(string))));
}

#[divan::bench(sample_count = 1_000, sample_size = 10)]
fn eight_gpus_by_uuid(bencher: Bencher<'_, '_>) {
    let snapshot = whole();
    let uuids: Vec<_> = snapshot.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    let string = uuids.join(",");
    assert_eq!(resolve(&snapshot, Some(&string)).devices.len(), 8);
    bencher.bench_local(|| resolve(black_box(&snapshot), black_box(Some(&string))));
}

#[divan::bench(sample_count = 1_000, sample_size = 10)]
fn the_last_of_56_mig_devices(bencher: Bencher<'_, '_>) {
    let node = Node::builder().sim("8xH100-80GB").open().expect("a fleet");
    let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
        {"select": "all", "mode": "mig", "mig": {"instances": {"1g.10gb": 7}}}]}"#
        .parse()
        .expect("a spec");
    node.apply(&spec, &ApplyOptions::new()).expect("it fits");
    let snapshot = node.snapshot().expect("a simulated node");
    let last = snapshot.gpus[7].mig_devices[6].uuid.as_str();
    assert_eq!(resolve(&snapshot, Some(last)).devices[0].uuid, last);
    bencher.bench_local(|| resolve(black_box(&snapshot), black_box(Some(last))));
}
