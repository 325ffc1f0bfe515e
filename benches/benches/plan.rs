//! Planning: from a snapshot to a plan with its digest, which is what `gpushare plan` does when
//! the GPUs have been observed.
//!
//! Each GPU is an H100 with four GPU instances, of which one `2g.20gb` becomes two `1g.10gb`.

use divan::{Bencher, black_box};
use gpushare_core::plan::plan;
use gpushare_core::{ApplyOptions, Node, Snapshot, Spec};

fn main() {
    divan::main();
}

const FOUR: &str = r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#;
const FIVE: &str = r#"{"3g.40gb": 1, "1g.10gb": 4}"#;

fn layout(instances: &str) -> Spec {
    let text = format!(
        r#"{{"version": "gpushare/v1", "gpus": [
            {{"select": "all", "mode": "mig", "mig": {{"instances": {instances}}}}}]}}"#
    );
    text.parse().expect("a spec")
}

fn observed(gpus: usize) -> Snapshot {
    let node = Node::builder().sim(format!("{gpus}xH100-80GB")).open().expect("a fleet");
    node.apply(&layout(FOUR), &ApplyOptions::new()).expect("it fits");
    node.snapshot().expect("a simulated node")
}

#[divan::bench(args = [1, 8], sample_count = 1_000, sample_size = 10)]
fn one_becomes_two(bencher: Bencher<'_, '_>, gpus: usize) {
    let (snapshot, wanted) = (observed(gpus), layout(FIVE));
    let planned = plan(&snapshot, &wanted).expect("it fits");
    assert_eq!(planned.step_count(), 6 * gpus, "2 destructions and 4 creations each");
    bencher.bench_local(|| plan(black_box(&snapshot), black_box(&wanted)));
}

#[divan::bench(args = [1, 8], sample_count = 1_000, sample_size = 10)]
fn nothing_to_do(bencher: Bencher<'_, '_>, gpus: usize) {
    let (snapshot, wanted) = (observed(gpus), layout(FOUR));
    assert!(plan(&snapshot, &wanted).expect("it is there").noop);
    bencher.bench_local(|| plan(black_box(&snapshot), black_box(&wanted)));
}
