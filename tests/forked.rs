//! A child that is forked in a callback, and comes back from it into its parent's call, does nothing
//! there: whatever the call was about to do, undo or take, and at whichever event.
//!
//! This process plays the child: it does what a forked child does, and goes on. The parent is as one
//! that was killed at that moment; that it goes on is for tests with a real fork (C's and Python's).
//! It gives up every lock of its process: this must be the only test of its binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gpushare_core::apply::{Hooks, Source};
use gpushare_core::backend::sim::{Death, Failure, Fault, Faults};
use gpushare_core::lease::LeaseRequest;
use gpushare_core::log::{self, Level};
use gpushare_core::plan::Request;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Node, Outcome, Result, Spec, fork};

const FLEET: &str = "2xH100-80GB";

/// What is there before, and what is asked for.
const STATES: [(&str, &str); 4] = [
    (
        r#"{"select": "all", "mode": "exclusive"}"#,
        r#"{"select": "all", "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 2}}}"#,
    ),
    (
        r#"{"select": "all", "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 2}}}"#,
        r#"{"select": "all", "mode": "mps", "mps": {}}"#,
    ),
    (
        r#"{"select": "all", "mode": "mps", "mps": {}}"#,
        r#"{"select": "all", "mode": "time_sliced", "time_sliced": {"replicas": 4}}"#,
    ),
    (
        r#"{"select": "all", "mode": "time_sliced", "time_sliced": {"replicas": 4}}"#,
        r#"{"select": "all", "mode": "exclusive"}"#,
    ),
];

/// How often a call tells something, for tests that go through all of them.
const MOST_EVENTS: usize = 400;

fn spec(gpus: &str) -> Spec {
    format!(r#"{{"version": "gpushare/v1", "gpus": [{gpus}]}}"#).parse().unwrap()
}

fn go_on<T>(_: &T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every file below a directory.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut files(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

/// A node whose state is in files, where everything that is done to it can be seen.
struct World {
    folder: tempfile::TempDir,
    node: Node,
}

impl World {
    fn new(before: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node =
            Node::builder().sim(FLEET).state_dir(folder.path().join("state")).open().unwrap();
        node.apply(&spec(before), &ApplyOptions::new()).unwrap();
        Self { folder, node }
    }

    /// The same node, whose ports fail where it is said.
    fn faulty(&self) -> (Node, Faults) {
        let (ports, faults) = Faults::wrap(self.node.ports().clone());
        (Node::with_ports(ports, true), faults)
    }

    /// Makes a call, of which this process is a forked child from the event of that number on. None
    /// where there is no such event.
    fn forked<R>(
        &self,
        at: usize,
        call: impl FnOnce(&mut dyn FnMut() -> ControlFlow<()>) -> Result<R>,
    ) -> Option<Error> {
        let (heard, seen) = (Cell::new(0), Cell::new(None));
        let mut hear = || {
            heard.set(heard.get() + 1);
            if heard.get() == at {
                fork::before();
                fork::after_in_child();
                seen.set(Some(files(self.folder.path())));
            }
            ControlFlow::Continue(())
        };
        let done = call(&mut hear);
        let before = seen.into_inner()?;
        assert_eq!(heard.get(), at, "it was asked again in the child");
        assert!(files(self.folder.path()) == before, "the child went on after event {at}");
        let error = done.err().unwrap_or_else(|| panic!("event {at}: the child has what it asked"));
        assert_eq!(error.code(), ErrorCode::InvalidState, "event {at}: {error}");
        assert_eq!(error.outcome(), Outcome::Untouched, "event {at}: {error}");
        assert!(error.to_string().contains("forked child"), "{error}");
        Some(error)
    }

    /// What the parent left is whole, and leads to one of the two states.
    fn expect_whole(&self, states: [&str; 2]) {
        self.node.recover().unwrap();
        assert_eq!(self.node.ports().store.list("journal").unwrap(), [""; 0]);
        let is_there = |state: &&str| self.node.plan(&spec(state)).unwrap().noop;
        let found = self.node.snapshot().unwrap();
        assert!(states.iter().any(is_there), "{states:?}, and found is\n{found}");
    }
}

/// Does something for each event that a call tells of; it must tell of some.
fn at_each(what: &str, mut at: impl FnMut(usize) -> bool) {
    let told = (1..MOST_EVENTS).take_while(|number| at(*number)).count();
    assert!((1..MOST_EVENTS - 1).contains(&told), "{what}: {told} events");
}

#[test]
fn a_forked_child_does_nothing_of_its_parents_call() {
    apply_at_each_event();
    apply_at_each_event_and_hook();
    apply_at_each_line_of_the_log();
    rolling_back();
    recover();
    lease();
    release();
}

fn apply_at_each_event() {
    for (before, after) in STATES {
        let request = Request::Apply(spec(after));
        at_each(after, |number| {
            let world = World::new(before);
            let forked = world.forked(number, |hear| {
                let source = Source::Request(&request);
                world.node.apply_with(source, &ApplyOptions::new(), |_| hear())
            });
            world.expect_whole([before, after]);
            forked.is_some()
        });
    }
}

/// Hooks may fork, and none is called in the child, whoever forked it.
fn apply_at_each_event_and_hook() {
    let (before, after) = STATES[0];
    let request = Request::Apply(spec(after));
    for failing in [None, Some("pre-mode"), Some("post-apply")] {
        at_each("hooks", |number| {
            let world = World::new(before);
            let (count, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
            let (counted, found) = (count.clone(), seen.clone());
            let folder = world.folder.path().to_owned();
            let hear = move || {
                if counted.fetch_add(1, Ordering::Relaxed) + 1 == number {
                    fork::before();
                    fork::after_in_child();
                    *found.lock().unwrap() = Some(files(&folder));
                }
            };
            let tell = hear.clone();
            let hooks = Hooks::new(move |moment, _| {
                tell();
                match failing {
                    Some(word) if word == moment.as_str() => {
                        Err(Error::new(ErrorCode::Io, "it says no"))
                    }
                    _ => Ok(()),
                }
            });
            let options = ApplyOptions::new().hooks(hooks);
            let done = world.node.apply_with(Source::Request(&request), &options, |_| {
                hear();
                ControlFlow::Continue(())
            });
            let there = seen.lock().unwrap().take();
            let Some(there) = there else { return false };
            assert_eq!(count.load(Ordering::Relaxed), number, "the child called somebody");
            assert!(files(world.folder.path()) == there, "the child went on after call {number}");
            let error = done.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidState, "call {number}: {error}");
            assert_eq!(error.outcome(), Outcome::Untouched, "call {number}: {error}");
            world.expect_whole([before, after]);
            true
        });
    }
}

/// The log's receivers are called in the middle of steps, where no progress is.
fn apply_at_each_line_of_the_log() {
    let (before, after) = STATES[0];
    at_each("log", |number| {
        let world = World::new(before);
        let (count, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let (counted, folder) = (count.clone(), world.folder.path().to_owned());
        let found = seen.clone();
        let log = log::dispatch(Level::INFO, move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == number {
                fork::before();
                fork::after_in_child();
                *found.lock().unwrap() = Some(files(&folder));
            }
        });
        let apply = || world.node.apply(&spec(after), &ApplyOptions::new());
        let done = log::with_default(&log, apply);
        let there = seen.lock().unwrap().take();
        let Some(there) = there else { return false };
        assert!(files(world.folder.path()) == there, "the child went on after line {number}");
        assert_eq!(done.unwrap_err().code(), ErrorCode::InvalidState);
        world.expect_whole([before, after]);
        true
    });
}

fn rolling_back() {
    let (before, after) = STATES[0];
    let request = Request::Apply(spec(after));
    at_each("rolling back", |number| {
        let world = World::new(before);
        let (node, faults) = world.faulty();
        faults.on("nvml.create_compute_instance", 3, Fault::Fail(Failure::default()));
        let forked = world.forked(number, |hear| {
            let source = Source::Request(&request);
            node.apply_with(source, &ApplyOptions::new(), |_| hear())
        });
        world.expect_whole([before, after]);
        forked.is_some()
    });
}

fn recover() {
    let (before, after) = STATES[0];
    at_each("recover", |number| {
        let world = World::new(before);
        let (node, faults) = world.faulty();
        faults.on("nvml.create_compute_instance", 3, Fault::Die(Death::After));
        node.apply(&spec(after), &ApplyOptions::new()).unwrap_err();
        let forked =
            world.forked(number, |hear| world.node.recover_with(&ApplyOptions::new(), |_| hear()));
        world.expect_whole([before, after]);
        forked.is_some()
    });
}

fn lease() {
    let world = World::new(STATES[3].1);
    let request = LeaseRequest::gpu("0").timeout(Some(Duration::from_secs(20)));
    for number in 1..=3 {
        let held = world.node.lease(&LeaseRequest::gpu("0")).unwrap();
        let forked = world.forked(number, |hear| world.node.lease_with(&request, |_| hear()));
        assert!(forked.is_some(), "it did not wait");
        drop(held);
        // The child's copy of the parent's place in the queue is in nobody's way, and neither is its lease.
        world.node.lease_with(&LeaseRequest::gpu("0"), go_on).unwrap().release().unwrap();
    }
}

/// What was created for a lease is its taker's to give back.
fn release() {
    let world = World::new(r#"{"select": "all", "mode": "mig", "mig": {"instances": {}}}"#);
    let profile = "1g.10gb".parse().unwrap();
    let request = LeaseRequest::mig(profile).create(true).give_back(true);
    let lease = world.node.lease(&request).unwrap();
    fork::before();
    fork::after_in_child();
    let before = files(world.folder.path());
    lease.release().unwrap();
    assert!(files(world.folder.path()) == before, "the child gave back what is its parent's");
}
