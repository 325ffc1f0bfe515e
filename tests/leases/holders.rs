//! Who holds a share: children, forked children, those that closed it, and slots that were removed.

use std::fs;

use gpushare_core::backend::sim::{ProcessSpec, Target};
use gpushare_core::id::{Pid, ShareId};
use gpushare_core::lease::{LeaseRequest, SHARES_VARIABLE};
use gpushare_core::snapshot::Share;
use gpushare_core::{ErrorCode, Lease};

use crate::{EXCLUSIVE, Fleet, SLICED, eventually};

fn share(fleet: &Fleet, id: &str) -> Share {
    let list = fleet.leases();
    let mut all = list.gpus.into_iter().flat_map(|gpu| gpu.shares);
    all.find(|share| share.id.to_string() == id).unwrap()
}

fn code(result: gpushare_core::Result<Lease>) -> ErrorCode {
    match result {
        Err(error) => error.code(),
        Ok(lease) => panic!("{} is leased", lease.shares().next().unwrap()),
    }
}

fn end(pid: u32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn a_child_that_inherited_a_lease_is_named_and_keeps_it() {
    let fleet = Fleet::new("1xH100-80GB", EXCLUSIVE);
    for _ in 0..5 {
        let mut leaser = fleet.leaser(&["inherit", "0"]);
        let said = leaser.says();
        let id = said["share"].as_str().unwrap();
        let child = u32::try_from(said["child"].as_u64().unwrap()).unwrap();
        let held = share(&fleet, id);
        assert_eq!(held.holder.unwrap().pid.get(), leaser.child.id());
        assert!(!held.lease.unwrap().inherited);
        leaser.kill();
        let held = share(&fleet, id);
        let (holder, lease) = (held.holder.unwrap(), held.lease.unwrap());
        assert!(lease.inherited);
        assert_eq!(holder.pid.get(), child);
        assert!(lease.name.is_some(), "what its parent noted counts");
        let error = fleet.lease().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Busy);
        assert_eq!(error.holders()[0].pid.get(), child, "{error}");
        end(child);
        eventually("the share comes free", || fleet.free() == 1);
    }
}

#[test]
fn whoever_has_a_copy_is_named_when_its_taker_lets_go_and_lives_on() {
    let fleet = Fleet::new("1xH100-80GB", EXCLUSIVE);
    for _ in 0..3 {
        let lease = fleet.lease_soon();
        let id = lease.shares().next().unwrap().to_string();
        // Another test's children have none of it: the copy is close-on-exec but where it is put.
        let copy = lease.duplicate(0).unwrap();
        assert_eq!(lease.duplicate(1).unwrap_err().code(), ErrorCode::InvalidArgument);
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("20").stdin(copy).spawn().unwrap();
        drop(sleep);
        let held = share(&fleet, &id);
        assert_eq!(held.holder.unwrap().pid.get(), std::process::id());
        assert!(!held.lease.unwrap().inherited);
        lease.release().unwrap();
        eventually("the child alone has it", || {
            let held = share(&fleet, &id);
            held.holder.is_some_and(|holder| holder.pid.get() == child.id())
        });
        let lease = share(&fleet, &id).lease.unwrap();
        assert!(lease.inherited && lease.name.is_some());
        assert_eq!(fleet.lease().unwrap_err().holders()[0].pid.get(), child.id());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // What it noted then says nothing of the next lease.
    let lease = fleet.lease_soon();
    let held = share(&fleet, &lease.shares().next().unwrap().to_string());
    assert!(!held.lease.unwrap().inherited);
}

#[test]
fn a_forked_child_gives_up_what_was_not_asked_for() {
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    let mut leaser = fleet.leaser(&["forked", "0"]);
    let said = leaser.says();
    assert_eq!(said["errors"], serde_json::json!(["INVALID_STATE", "OK"]), "{said}");
    let id = |number: usize| said["shares"][number].as_str().unwrap().to_owned();
    assert!(!share(&fleet, &id(0)).is_leased());
    assert!(share(&fleet, &id(1)).is_leased());
    assert_eq!(leaser.end(), "");
    assert_eq!(fleet.free(), 4);
}

#[test]
fn a_child_that_was_handed_nothing_holds_nothing() {
    // The descriptor is close-on-exec: a child that was forked by somebody else's code loses it when it
    // becomes another program.
    let fleet = Fleet::new("1xH100-80GB", EXCLUSIVE);
    let lease = fleet.lease_soon();
    let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
    lease.release().unwrap();
    // Other tests of this process may be starting a child: it has it until it is another program.
    eventually("the share comes free", || fleet.free() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_removed_from_under_a_holder_is_not_given_twice() {
    type Remove = fn(&Fleet);
    let ways: [(&str, Remove); 4] = [
        ("the slots", |fleet| {
            for name in fleet.names("slots") {
                fs::remove_file(fleet.folder("slots").join(name)).unwrap();
            }
        }),
        ("their folder", |fleet| fs::remove_dir_all(fleet.folder("slots")).unwrap()),
        ("all that lies beside", |fleet| {
            for name in ["slots", "leases", "queue"] {
                fs::remove_dir_all(fleet.folder(name)).unwrap();
            }
        }),
        ("the state of this run", |fleet| fs::remove_dir_all(fleet.run()).unwrap()),
    ];
    for (what, remove) in ways {
        let fleet = Fleet::new("1xH100-80GB", SLICED);
        let mut holders: Vec<_> = (0..3).map(|_| fleet.leaser(&["take", "0", "0"])).collect();
        let mut taken: Vec<String> = holders
            .iter_mut()
            .map(|holder| holder.says()["share"].as_str().unwrap().to_owned())
            .collect();
        let mut inherits = fleet.leaser(&["inherit", "0"]);
        let said = inherits.says();
        taken.push(said["share"].as_str().unwrap().to_owned());
        inherits.kill();
        remove(&fleet);
        for _ in 0..3 {
            // The child of the one that was killed counts, too.
            assert_eq!(code(fleet.lease()), ErrorCode::Busy, "{what}");
            fleet.leases();
        }
        // An apply that keeps these shares makes no slots for them either.
        fleet.apply(SLICED);
        assert_eq!(code(fleet.lease()), ErrorCode::Busy, "{what}");
        let first = taken.remove(0);
        holders.remove(0).end();
        let again = fleet.lease_soon();
        assert_eq!(again.shares().next().unwrap().to_string(), first, "{what}");
        assert_eq!(code(fleet.lease()), ErrorCode::Busy, "{what}");
        drop(again);
        holders.into_iter().for_each(|holder| assert_eq!(holder.end(), ""));
        end(u32::try_from(said["child"].as_u64().unwrap()).unwrap());
        eventually(what, || {
            let all: Vec<_> = (0..4).map(|_| fleet.lease()).collect();
            all.iter().all(Result::is_ok)
        });
    }
}

#[test]
fn a_state_directory_behind_a_link_is_the_same() {
    let mut fleet = Fleet::new("1xH100-80GB", EXCLUSIVE);
    let link = fleet.state.with_file_name("link");
    std::os::unix::fs::symlink(fleet.state.parent().unwrap(), &link).unwrap();
    fleet.state = link.join("state");
    let mut leaser = fleet.leaser(&["inherit", "0"]);
    let said = leaser.says();
    leaser.kill();
    let held = share(&fleet, said["share"].as_str().unwrap());
    assert_eq!(held.holder.map(|holder| u64::from(holder.pid.get())), said["child"].as_u64());
    fs::remove_dir_all(fleet.folder("slots")).unwrap();
    assert_eq!(code(fleet.lease()), ErrorCode::Busy);
    end(u32::try_from(said["child"].as_u64().unwrap()).unwrap());
}

#[test]
fn a_share_is_not_given_again_while_somebody_of_its_last_lease_is_on_it() {
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    let node = fleet.node();
    let simulator = node.simulator().unwrap();
    let gpu = simulator.gpus().unwrap().remove(0);
    let mut leaser = fleet.leaser(&["take", "0", "0"]);
    let id: ShareId = leaser.says()["share"].as_str().unwrap().parse().unwrap();
    let named = vec![(SHARES_VARIABLE.to_owned(), id.to_string())];
    let on_gpu = |environment: Option<Vec<(String, String)>>, uid: u32| -> Pid {
        let mut spec = ProcessSpec::new("python");
        spec.environment = environment;
        spec.uid = uid;
        simulator.busy(Target::Gpu(gpu.clone()), spec).unwrap()
    };
    // One that closed the descriptor and computes on.
    let child = on_gpu(Some(named), 1000);
    leaser.kill();
    assert_eq!(fleet.free(), 4);
    let request = LeaseRequest::share(id.clone());
    let error = node.lease(&request).unwrap_err();
    assert_eq!((error.code(), error.holders()[0].pid), (ErrorCode::Busy, child), "{error}");
    let others: Vec<Lease> = (0..3).map(|_| fleet.lease_soon()).collect();
    assert!(others.iter().flat_map(Lease::shares).all(|share| *share != id));
    assert_eq!(code(fleet.lease()), ErrorCode::Busy);
    simulator.idle(child).unwrap();
    drop(node.lease(&request).unwrap());
    // A stranger with another share's name is in nobody's way.
    let stranger = vec![(SHARES_VARIABLE.to_owned(), "GPU-of-somebody-else::0".to_owned())];
    let stranger = on_gpu(Some(stranger), 1000);
    let mut leaser = fleet.leaser(&["take", "0", "0"]);
    leaser.says();
    leaser.kill();
    drop(node.lease(&request).unwrap());
    simulator.idle(stranger).unwrap();
    drop(others);

    // A whole GPU: whoever is there.
    fleet.apply(EXCLUSIVE);
    let mut leaser = fleet.leaser(&["take", "0", "0"]);
    leaser.says();
    let child = on_gpu(None, 1000);
    leaser.kill();
    let error = fleet.lease().unwrap_err();
    assert_eq!((error.code(), error.holders()[0].pid), (ErrorCode::Busy, child), "{error}");
    // Who waits has it as soon as the other is gone.
    let waiter = fleet.leaser(&["take", "0", "10000"]);
    std::thread::sleep(std::time::Duration::from_millis(250));
    simulator.idle(child).unwrap();
    let mut waiter = waiter;
    assert!(waiter.says()["share"].is_string());
}
