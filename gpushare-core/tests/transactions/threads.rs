//! Threads that share a node in memory: its simulated time passes in no time at all, and whoever waits
//! for another thread must give it real time.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use gpushare_core::apply::{Event, Source};
use gpushare_core::lease::LeaseRequest;
use gpushare_core::plan::Request;
use gpushare_core::port::LockGuard;
use gpushare_core::{ApplyOptions, ErrorCode, Node, Spec};

const FLEET: &str = "1xH100-80GB,1xH200-141GB,1xL40S";
/// More than a thread that was not scheduled for a while is late.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long others hold what is waited for.
const A_WHILE: Duration = Duration::from_millis(150);

fn spec(mode: &str) -> Spec {
    let text =
        format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": 2, "mode": {mode}}}]}}"#);
    text.parse().unwrap()
}

/// A node whose L40S has two replicas, which have no slots yet: who leases makes them, under the
/// GPU's lock.
fn node() -> Node {
    let node = Node::builder().sim(FLEET).open().unwrap();
    node.apply(&two_replicas(), &ApplyOptions::new()).unwrap();
    node
}

fn two_replicas() -> Spec {
    spec(r#""time_sliced", "time_sliced": {"replicas": 2}"#)
}

fn lock_of_the_last(node: &Node) -> Box<dyn LockGuard> {
    let gpu = node.select("2").unwrap().remove(0);
    node.ports().store.try_lock(&format!("lock/{gpu}.lock")).unwrap().unwrap()
}

#[test]
fn all_who_wait_for_a_share_are_served() {
    let node = node();
    // The first to come find the lock taken, as they do while another changes the GPU.
    let lock = lock_of_the_last(&node);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let request = LeaseRequest::gpu("2").timeout(Some(PATIENCE));
                        let lease = node.lease(&request).unwrap();
                        thread::yield_now();
                        lease.release().unwrap();
                    }
                })
            })
            .collect();
        thread::sleep(A_WHILE);
        // What hardware takes passes for all of them, and is nobody's waiting.
        node.ports().clock.sleep(PATIENCE * 100);
        thread::sleep(A_WHILE);
        assert!(threads.iter().all(|thread| !thread.is_finished()));
        drop(lock);
    });
    assert!(node.ports().slots.held().unwrap().is_empty());
    assert!(node.ports().slots.queue().unwrap().is_empty());
}

#[test]
fn who_changes_a_gpu_that_another_changes_comes_after_it() {
    let node = node();
    thread::scope(|scope| {
        for number in 0..6 {
            let node = &node;
            scope.spawn(move || {
                let options = ApplyOptions::new().timeout(Some(PATIENCE));
                let wanted = if number % 2 == 0 { spec(r#""exclusive""#) } else { two_replicas() };
                for _ in 0..3 {
                    node.apply(&wanted, &options).unwrap();
                }
            });
        }
    });
    let waits = ApplyOptions::new().timeout(Some(A_WHILE));
    node.apply(&two_replicas(), &waits).unwrap();
    let _lock = lock_of_the_last(&node);
    let begun = Instant::now();
    let error = node.apply(&spec(r#""exclusive""#), &waits).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout, "{error}");
    assert!(begun.elapsed() >= A_WHILE, "it waited as long as it was told to");
}

#[test]
fn a_tenant_that_is_another_thread_has_time_to_leave() {
    let node = node();
    let lease = node.lease(&LeaseRequest::gpu("2")).unwrap();
    let request = Request::Apply(spec(r#""exclusive""#));
    thread::scope(|scope| {
        let mut tenant = Some(lease);
        let mut asked = 0;
        let report = node.apply_with(
            Source::Request(&request),
            &ApplyOptions::new().drain(PATIENCE),
            |event| {
                if let Event::Draining { holders } = event {
                    assert_eq!(holders.len(), 1);
                    asked += 1;
                    if let Some(lease) = tenant.take() {
                        scope.spawn(|| {
                            thread::sleep(A_WHILE);
                            lease.release().unwrap();
                        });
                    }
                }
                ControlFlow::Continue(())
            },
        );
        report.unwrap();
        // Every 100 ms, and a slow machine is asked no more often.
        assert!((1..=100).contains(&asked), "{asked}");
    });
}
