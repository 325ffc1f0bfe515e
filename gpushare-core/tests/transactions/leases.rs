//! Leases: who gets what, what it gives, and what plans make of it.

use std::num::NonZeroU32;
use std::time::Duration;

use gpushare_core::apply::{Event, Source};
use gpushare_core::backend::sim::{Failure, Fault, Faults, ProcessSpec, Target};
use gpushare_core::hazard::HazardName;
use gpushare_core::id::ShareId;
use gpushare_core::lease::LeaseRequest;
use gpushare_core::plan::Request;
use gpushare_core::{ApplyOptions, ErrorCode, Lease, Node, Outcome, Spec};

fn node(fleet: &str, spec: &str) -> Node {
    let node = Node::builder().sim(fleet).open().unwrap();
    apply(&node, spec).unwrap();
    node
}

fn spec(gpus: &str) -> Spec {
    format!(r#"{{"version": "gpushare/v1", "gpus": [{gpus}]}}"#).parse().unwrap()
}

fn apply(node: &Node, gpus: &str) -> gpushare_core::Result<gpushare_core::Report> {
    let options = ApplyOptions::new()
        .allow_reset(true)
        .allow_hazard(HazardName::BypassPossible)
        .allow_hazard(HazardName::HopperPartialSm);
    node.apply(&spec(gpus), &options)
}

const SLICED: &str = r#"{"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 4}}"#;
const SHARED: &str = r#"{"select": 0, "mode": "mps", "mps": {"max_clients": 4}}"#;
const CUT: &str =
    r#"{"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 2}}}"#;

fn code(result: gpushare_core::Result<Lease>) -> ErrorCode {
    result.unwrap_err().code()
}

#[test]
fn four_replicas_are_four_leases_and_no_fifth() {
    let node = node("1xH100-80GB", SLICED);
    let mut leases: Vec<Lease> =
        (0..4).map(|_| node.lease(&LeaseRequest::gpu("0")).unwrap()).collect();
    let mut ids: Vec<ShareId> = leases.iter().flat_map(|lease| lease.shares().cloned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    let error = node.lease(&LeaseRequest::gpu("0")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy);
    assert_eq!(error.holders().len(), 1, "all of them are this process");
    let given = leases.pop().unwrap();
    let id = given.shares().next().unwrap().clone();
    given.release().unwrap();
    let again = node.lease(&LeaseRequest::gpu("0")).unwrap();
    assert_eq!(again.shares().next(), Some(&id));
    drop(leases);
    let count = NonZeroU32::new(3).unwrap();
    let three = node.lease(&LeaseRequest::gpu("0").count(count)).unwrap();
    assert_eq!(
        three.variables()["CUDA_VISIBLE_DEVICES"],
        node.snapshot().unwrap().gpus[0].uuid.as_str()
    );
    assert_eq!(code(node.lease(&LeaseRequest::gpu("0").count(count))), ErrorCode::Busy);
    let list = node.leases().unwrap();
    assert_eq!(list.gpus[0].shares.iter().filter(|share| share.is_leased()).count(), 4);
}

#[test]
fn a_plan_does_not_take_what_is_leased() {
    let node = node("1xH100-80GB", CUT);
    let lease = node.lease(&LeaseRequest::mig("1g.10gb".parse().unwrap())).unwrap();
    let mine = lease.grants()[0].mig_device.clone().unwrap();
    assert_eq!(lease.variables()["CUDA_VISIBLE_DEVICES"], mine.as_str());
    assert!(lease.grants()[0].device_nodes.iter().all(|node| node.missing.is_none()));
    assert_eq!(lease.grants()[0].device_nodes.len(), 6);
    // Another layout is planned around it.
    apply(
        &node,
        r#"{"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 1}}}"#,
    )
    .unwrap();
    let snapshot = node.snapshot().unwrap();
    assert!(snapshot.gpus[0].mig_devices.iter().any(|device| device.uuid == mine));
    lease.check().unwrap();
    // One that cannot keep it needs its holder gone.
    let error = apply(&node, SLICED).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy);
    assert_eq!(error.holders().len(), 1);
    assert!(error.holders()[0].protected.is_some(), "it is this process");
    lease.release().unwrap();
    apply(&node, SLICED).unwrap();
    // The shares of the other modes are no more.
    let gone = LeaseRequest::share(ShareId::whole(mine.as_str()));
    assert_eq!(code(node.lease(&gone)), ErrorCode::NotFound);
}

#[test]
fn fewer_replicas_wait_for_the_leases_of_those_that_go() {
    let node = node("1xH100-80GB", SLICED);
    let uuid = node.snapshot().unwrap().gpus[0].uuid.clone();
    let last = node.lease(&LeaseRequest::share(ShareId::part(uuid.as_str(), 3))).unwrap();
    let two = r#"{"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 2}}"#;
    assert_eq!(apply(&node, two).unwrap_err().code(), ErrorCode::Busy);
    let first = node.lease(&LeaseRequest::share(ShareId::part(uuid.as_str(), 0))).unwrap();
    last.release().unwrap();
    apply(&node, two).unwrap();
    first.check().unwrap();
    assert_eq!(node.leases().unwrap().gpus[0].shares.len(), 2);
}

#[test]
fn what_another_tool_destroyed_makes_the_lease_void() {
    let node = node("1xH100-80GB", CUT);
    let lease = node.lease(&LeaseRequest::mig("3g.40gb".parse().unwrap())).unwrap();
    let device = node.snapshot().unwrap().gpus[0]
        .mig_devices
        .iter()
        .find(|device| Some(&device.uuid) == lease.grants()[0].mig_device.as_ref())
        .cloned()
        .unwrap();
    let gpu = node.simulator().unwrap().gpus().unwrap().remove(0);
    let mut nvml = node.ports().nvml.open().unwrap();
    nvml.destroy_compute_instance(&gpu, device.gi, device.ci).unwrap();
    drop(nvml);
    assert_eq!(lease.check().unwrap_err().code(), ErrorCode::InvalidState);
    let list = node.leases().unwrap();
    assert_eq!(list.void.len(), 1);
    assert!(list.to_string().contains("void"), "{list}");
}

#[test]
fn whoever_lists_leases_stands_in_nobodys_way() {
    let first = node("1xH100-80GB", SLICED);
    first.leases().unwrap();
    let (ports, faults) = Faults::wrap(first.ports().clone());
    let node = Node::with_ports(ports, true);
    let locks = || faults.calls().iter().filter(|call| call.name == "store.try_lock").count();
    let lease = node.lease(&LeaseRequest::gpu("0")).unwrap();
    let before = locks();
    assert_eq!(node.leases().unwrap().gpus[0].shares.len(), 4);
    assert_eq!(locks(), before, "an apply would find its GPU locked");
    // Only what is nobody's is worth a lock.
    first.ports().slots.note(&ShareId::whole("GPU-of-another-time"), b"{}").unwrap();
    node.leases().unwrap();
    assert_eq!(locks(), before + 1);
    node.leases().unwrap();
    assert_eq!(locks(), before + 1);
    drop(lease);
}

#[test]
fn what_is_to_be_made_waits_for_another_who_changes_the_gpu() {
    let empty = r#"{"select": 0, "mode": "mig", "mig": {"instances": {}}}"#;
    let node = node("1xH100-80GB", empty);
    let one = r#"{"select": 0, "mode": "mig", "mig": {"instances": {"1g.10gb": 1}}}"#;
    let (begun, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let applier = node.clone();
        scope.spawn(move || {
            let request = Request::Apply(spec(one));
            let slowly = |event: &Event| {
                if matches!(event, Event::Step { .. }) {
                    let _ = begun.send(());
                    std::thread::sleep(Duration::from_millis(150));
                }
                std::ops::ControlFlow::Continue(())
            };
            applier.apply_with(Source::Request(&request), &ApplyOptions::new(), slowly).unwrap();
        });
        wait.recv().unwrap();
        let request = LeaseRequest::mig("2g.20gb".parse().unwrap()).create(true);
        // Nobody knows what room there will be: neither is it said that there is none.
        let at_once = code(node.lease(&request));
        assert!(matches!(at_once, ErrorCode::Locked | ErrorCode::Busy), "{at_once:?}");
        let lease = node.lease(&request.timeout(Some(Duration::from_secs(20)))).unwrap();
        drop(lease);
    });
    assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices.len(), 2);
}

#[test]
fn limits_need_mps_and_stay_within_what_the_daemon_gives() {
    let node = node("2xH100-80GB", SHARED);
    let part = |percent: f64| LeaseRequest::gpu("0").thread_percentage(percent.try_into().unwrap());
    assert_eq!(
        code(node.lease(&LeaseRequest::gpu("1").thread_percentage(25.0.try_into().unwrap()))),
        ErrorCode::Unsupported
    );
    let half = node.lease(&part(50.0)).unwrap();
    assert_eq!(half.variables()["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "50");
    let grant = &half.grants()[0];
    assert!(grant.is_mps());
    assert!(grant.enforced.iter().all(|bound| bound.by.is_some()));
    assert!(grant.declared.iter().any(|bound| bound.what == "threads"));
    assert_eq!(grant.sm_count, Some(66));
    let quarter = node.lease(&part(25.0)).unwrap();
    // 75 % are promised.
    assert_eq!(code(node.lease(&part(50.0))), ErrorCode::Busy);
    assert_eq!(code(node.lease(&part(40.0))), ErrorCode::Hazard);
    drop(quarter);
    let memory = LeaseRequest::gpu("0").pinned_memory_limit("60GiB".parse().unwrap());
    let large = node.lease(&memory).unwrap();
    let uuid = node.snapshot().unwrap().gpus[0].uuid.clone();
    assert_eq!(large.variables()["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], format!("{uuid}=61440M"));
    assert_eq!(code(node.lease(&memory)), ErrorCode::Busy);
}

#[test]
fn the_smallest_device_that_is_enough_is_taken() {
    let node = node("1xH100-80GB", CUT);
    let small = node.lease(&LeaseRequest::any_mig()).unwrap();
    assert_eq!(small.grants()[0].profile.unwrap().to_string(), "1g.10gb");
    let enough = LeaseRequest::any_mig().min_memory("20GiB".parse().unwrap());
    let large = node.lease(&enough).unwrap();
    assert_eq!(large.grants()[0].profile.unwrap().to_string(), "3g.40gb");
    assert_eq!(code(node.lease(&enough)), ErrorCode::Busy);
    let huge = LeaseRequest::any_mig().min_memory("90GiB".parse().unwrap());
    assert_eq!(code(node.lease(&huge)), ErrorCode::Insufficient);
    assert_eq!(code(node.lease(&LeaseRequest::gpu("0"))), ErrorCode::InvalidState);
}

#[test]
fn a_device_is_made_and_given_back() {
    let node = node(
        "1xH100-80GB",
        r#"{"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1}}}"#,
    );
    let request = LeaseRequest::mig("1g.10gb".parse().unwrap());
    assert_eq!(code(node.lease(&request)), ErrorCode::Insufficient);
    let made = node.lease(&request.clone().create(true).give_back(true)).unwrap();
    assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices.len(), 2);
    made.release().unwrap();
    assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices.len(), 1);
    let two = NonZeroU32::new(2).unwrap();
    let both = request.clone().count(two).create(true).give_back(true);
    let both = node.lease(&both).unwrap();
    assert_eq!(both.shares().count(), 2);
    assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices.len(), 3);
    both.release().unwrap();
    assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices.len(), 1);
    let large = LeaseRequest::mig("7g.80gb".parse().unwrap()).create(true);
    assert_eq!(code(node.lease(&large)), ErrorCode::Insufficient);
}

#[test]
fn what_somebody_still_has_is_not_given_back_and_is_named() {
    let node = node("1xH100-80GB", r#"{"select": 0, "mode": "mig", "mig": {"instances": {}}}"#);
    let devices = || node.snapshot().unwrap().gpus[0].mig_devices.len();
    let one = LeaseRequest::mig("1g.10gb".parse().unwrap()).create(true).give_back(true);
    for _ in 0..3 {
        let made = node.lease(&one).unwrap();
        let stays = made.grants()[0].mig_device.clone().unwrap();
        let copy = made.duplicate(0).unwrap();
        let error = made.release().unwrap_err();
        assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::Untouched));
        assert!(error.message().contains(stays.as_str()), "{error}");
        assert_eq!(error.holders()[0].pid.get(), std::process::id());
        assert_eq!(node.snapshot().unwrap().gpus[0].mig_devices[0].uuid, stays);
        // The lease is given back: without the copy the share is free.
        drop(copy);
        drop(node.lease(&LeaseRequest::share(ShareId::whole(stays.as_str()))).unwrap());
        apply(&node, r#"{"select": 0, "mode": "mig", "mig": {"instances": {}}}"#).unwrap();
    }
    node.lease(&one).unwrap().release().unwrap();
    assert_eq!(devices(), 0);
}

#[test]
fn the_way_back_of_a_plan_is_that_of_its_apply() {
    let modes = [SLICED, SHARED, CUT, r#"{"select": 0, "mode": "exclusive"}"#];
    for before in modes {
        for after in modes {
            let node = node("2xH100-80GB", before);
            let (plan, back) = node.plan_and_way_back(&spec(after)).unwrap();
            assert_eq!(plan, node.plan(&spec(after)).unwrap());
            assert_eq!(back.gpus.is_empty(), before == after, "{before} {after}");
            let report = plan.apply(&node, ApplyOptions::new().allow_reset(true)).unwrap();
            assert_eq!(report.previous, back);
            node.apply(&back, &ApplyOptions::new().allow_reset(true)).unwrap();
            assert!(node.plan(&spec(before)).unwrap().noop, "{before} {after}");
        }
    }
}

#[test]
fn who_is_there_without_a_lease_is_in_the_way_of_a_whole_device() {
    let node = node("1xH100-80GB", CUT);
    let simulator = node.simulator().unwrap();
    let device = node.snapshot().unwrap().gpus[0]
        .mig_devices
        .iter()
        .find(|d| d.profile.to_string() == "3g.40gb")
        .unwrap()
        .uuid
        .clone();
    let pid = simulator.busy(Target::MigDevice(device), ProcessSpec::new("python")).unwrap();
    let error = node.lease(&LeaseRequest::mig("3g.40gb".parse().unwrap())).unwrap_err();
    assert_eq!((error.code(), error.holders()[0].pid), (ErrorCode::Busy, pid));
}

#[test]
fn cordoned_gpus_give_no_new_leases() {
    let node = node("2xH100-80GB", SLICED);
    let uuid = node.snapshot().unwrap().gpus[0].uuid.clone();
    let before = node.lease(&LeaseRequest::gpu("0")).unwrap();
    node.cordon(&uuid, "drained for a firmware update").unwrap();
    let error = node.lease(&LeaseRequest::gpu("0")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy);
    assert!(error.message().contains("firmware"), "{error}");
    before.check().unwrap();
    assert!(
        node.lease(&LeaseRequest::any())
            .unwrap()
            .shares()
            .all(|share| share.device() != uuid.as_str())
    );
    node.uncordon(&uuid).unwrap();
    node.lease(&LeaseRequest::gpu("0")).unwrap();
}

#[test]
fn who_waits_gets_it_when_it_is_given_back_and_not_before() {
    let node = node("1xH100-80GB", r#"{"select": 0, "mode": "exclusive"}"#);
    let lease = node.lease(&LeaseRequest::any()).unwrap();
    let late = LeaseRequest::any().timeout(Some(Duration::from_millis(120)));
    let begun = std::time::Instant::now();
    assert_eq!(code(node.lease(&late)), ErrorCode::Timeout);
    assert!(begun.elapsed() >= Duration::from_millis(120));
    let stopped = node.lease_with(&LeaseRequest::any().timeout(None), |wait| {
        assert!(!wait.holders.is_empty());
        std::ops::ControlFlow::Break(())
    });
    assert_eq!(code(stopped), ErrorCode::Interrupted);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| node.lease(&LeaseRequest::any().timeout(None)).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished());
        lease.release().unwrap();
        drop(waiter.join().unwrap());
    });
    assert_eq!(node.leases().unwrap().waiting, 0);
}

#[test]
fn visible_bounds_the_choice() {
    let node = node("2xH100-80GB", CUT);
    let gpus = node.snapshot().unwrap().gpus;
    let only = LeaseRequest::any().visible("1");
    assert_eq!(node.lease(&only).unwrap().grants()[0].gpu, gpus[1].uuid);
    let device = &gpus[0].mig_devices[1].uuid;
    let only = LeaseRequest::any_mig().visible(device.as_str());
    assert_eq!(node.lease(&only).unwrap().grants()[0].mig_device.as_ref(), Some(device));
    assert!(node.lease(&LeaseRequest::any().visible("")).is_err());
}

/// What can be asked of slots, each failing in its turn, before it has effect and after.
#[test]
fn whatever_slots_fail_at_an_apply_is_whole_and_holds_nothing() {
    let mut struck = 0;
    for fail in [Fault::Fail(Failure::default()), Fault::FailAfter(Failure::default())] {
        for name in ["slots.try_take", "slots.retire", "slots.prepare", "slots.held", "slots.notes"]
        {
            for nth in 1..=5 {
                let plain = node("1xH100-80GB", CUT);
                // With slots that are there.
                drop(plain.lease(&LeaseRequest::any_mig()).unwrap());
                let before = plain.snapshot().unwrap();
                let (ports, faults) = Faults::wrap(plain.ports().clone());
                let faulty = Node::with_ports(ports, true);
                faults.on(name, nth, fail);
                let calls = |faults: &Faults| {
                    faults.calls().iter().filter(|call| call.name == name).count()
                };
                let applied = apply(&faulty, SLICED);
                let what = format!("{name}, call {nth}, {fail:?}");
                struck += usize::from(calls(&faults) >= nth);
                faults.clear();
                let after = plain.snapshot().unwrap();
                match applied {
                    Ok(_) => assert_eq!(after.gpus[0].shares.len(), 4, "{what}"),
                    Err(_) => assert_eq!(after.gpus[0].mode, before.gpus[0].mode, "{what}"),
                }
                assert!(after.gpus[0].unsettled.is_none(), "{what}");
                assert!(plain.ports().slots.held().unwrap().is_empty(), "{what}");
                apply(&plain, SLICED).unwrap();
                drop(plain.lease(&LeaseRequest::gpu("0")).unwrap());
            }
        }
    }
    assert!(struck >= 10, "{struck}");
}

#[test]
fn a_lease_that_cannot_be_noted_or_queued_holds_nothing() {
    let plain = node("1xH100-80GB", SLICED);
    let names = ["slots.try_take", "slots.prepare", "slots.note", "slots.notes", "slots.queue"];
    for fail in [Fault::Fail(Failure::default()), Fault::FailAfter(Failure::default())] {
        for name in names.into_iter().chain(["slots.join"]) {
            let all: Vec<Lease> = match name {
                "slots.join" => {
                    (0..4).map(|_| plain.lease(&LeaseRequest::gpu("0")).unwrap()).collect()
                }
                _ => Vec::new(),
            };
            let (ports, faults) = Faults::wrap(plain.ports().clone());
            let faulty = Node::with_ports(ports, true);
            faults.on(name, 1, fail);
            let waits = LeaseRequest::gpu("0").timeout(Some(Duration::from_millis(20)));
            let leased = faulty.lease(&waits);
            let called = faults.calls().iter().any(|call| call.name == name);
            // Its slots are there from the second time on; one that fails gives way to another.
            let may_do_without = matches!(name, "slots.prepare" | "slots.try_take");
            assert!(may_do_without || (called && leased.is_err()), "{name}");
            drop((leased, all));
            assert!(plain.ports().slots.held().unwrap().is_empty(), "{name}");
            assert!(plain.ports().slots.queue().unwrap().is_empty(), "{name}");
        }
    }
}

/// Two modes whose shares have the same names: what an old snapshot says of one is not what it gives.
#[test]
fn an_old_snapshot_gives_no_lease_of_what_was() {
    let node = node("1xH100-80GB", SLICED);
    let old = node.snapshot().unwrap();
    apply(&node, SHARED).unwrap();
    let lease = node.lease_in(&old, &LeaseRequest::gpu("0")).unwrap();
    assert!(lease.grants()[0].is_mps());
    drop(lease);
    let old = node.snapshot().unwrap();
    apply(&node, CUT).unwrap();
    assert_eq!(code(node.lease_in(&old, &LeaseRequest::gpu("0"))), ErrorCode::InvalidState);
    assert!(node.lease_in(&old, &LeaseRequest::any()).is_ok());
}

/// Two GPU instances go before others come; after the first of them the caller stops, or dies.
#[test]
fn who_leases_by_an_old_snapshot_gets_no_device_that_was_made_again_since() {
    for dies in [false, true] {
        let simulator = gpushare_core::backend::sim::Simulator::new("1xH100-80GB".parse().unwrap());
        let (ports, faults) = Faults::wrap(simulator.unwrap().ports_in_memory());
        let node = Node::with_ports(ports, true);
        apply(&node, CUT).unwrap();
        let old = node.snapshot().unwrap();
        // By now each has a slot.
        let shares: Vec<ShareId> =
            old.gpus[0].mig_devices.iter().map(|d| ShareId::whole(d.uuid.as_str())).collect();
        for share in &shares {
            node.lease(&LeaseRequest::share(share.clone())).unwrap().release().unwrap();
        }
        let request = Request::Apply(spec(
            r#"{"select": 0, "mode": "mig", "mig": {"instances": {"7g.80gb": 1}}}"#,
        ));
        if dies {
            let death = Fault::Die(gpushare_core::backend::sim::Death::After);
            faults.on("nvml.destroy_gpu_instance", 2, death);
        }
        let mut destroyed = 0;
        let stopped = node.apply_with(Source::Request(&request), &ApplyOptions::new(), |event| {
            destroyed += usize::from(
                matches!(event, Event::Step { what, .. } if what.starts_with("destroy")),
            );
            if destroyed > 4 && !dies {
                return std::ops::ControlFlow::Break(());
            }
            std::ops::ControlFlow::Continue(())
        });
        assert!(stopped.is_err());
        if dies {
            faults.revive();
            node.recover().unwrap();
        }
        let now = node.snapshot().unwrap();
        assert_eq!(now.gpus[0].mig_devices.len(), 3);
        let there = |share: &ShareId| {
            now.gpus[0].mig_devices.iter().any(|device| device.uuid.as_str() == share.device())
        };
        assert!(shares.iter().any(|share| !there(share)), "none was made again");
        for share in shares {
            match node.lease_in(&old, &LeaseRequest::share(share.clone())) {
                Ok(lease) => {
                    assert!(there(&share), "a void lease of {share}, dies: {dies}");
                    lease.check().unwrap();
                }
                Err(error) => assert!(!there(&share), "{error:?}"),
            }
        }
    }
}
