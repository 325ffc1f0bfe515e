//! Faults at any call of any port, and the death of a process there.

mod decorators;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Error, ErrorCode};
use crate::port::{Clock, LockGuard, Nvml, NvmlFailure, NvmlReturn, Ports};
use decorators::Faulty;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails and has no effect.
    Fail(Failure),
    /// It takes effect and fails.
    FailAfter(Failure),
    /// It takes effect after that time on the clock.
    Hang(Duration),
    /// The process dies there.
    Die(Death),
}

/// What a call that fails answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it is a call of NVML.
    pub nvml: NvmlReturn,
    /// Where it is a call of another port.
    pub code: ErrorCode,
}

impl Default for Failure {
    /// UNKNOWN from NVML, IO from any other port.
    fn default() -> Self {
        Self { nvml: NvmlReturn::UNKNOWN, code: ErrorCode::Io }
    }
}

/// Where in a call a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Death {
    /// Before the call takes effect.
    Before,
    /// After it took effect.
    After,
    /// In the middle of an append, of which that percentage of the bytes is left. At any other call
    /// it is as [`Before`](Self::Before), since no other call of a store can be left half done.
    Torn(u8),
}

/// A call that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallRecord {
    /// Its number, counted from 1 since the ports were wrapped or revived.
    pub number: usize,
    /// The port and the method: `nvml.set_mig_mode`, `store.append`.
    pub name: &'static str,
    /// Whether it changes hardware, processes or files. Taking a lock does not count as that.
    pub mutating: bool,
}

/// The switch of ports that fail on demand.
///
/// Every call that can fail is counted, over all ports together. A call whose number was named
/// beforehand fails, hangs, or is the one at which the process dies: from then on every call fails
/// and has no effect, its locks are released and its NVML sessions closed, as the kernel would do.
/// What was done before stays. The undecorated ports then show what the next process finds.
///
/// ```
/// use gpushare_core::backend::sim::{Death, Fault, Faults, Simulator};
///
/// let simulator = Simulator::new("H100-80GB".parse()?)?;
/// let (ports, faults) = Faults::wrap(simulator.ports_in_memory());
/// faults.at(2, Fault::Die(Death::After));
/// ports.store.replace("record", b"old")?;
/// assert!(ports.store.replace("record", b"new").is_err());
/// assert!(ports.store.read("record").is_err());
/// faults.revive();
/// assert_eq!(ports.store.read("record")?.as_deref(), Some(&b"new"[..]));
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<CallRecord>,
    at: BTreeMap<usize, Fault>,
    on: Vec<(String, usize, Fault)>,
    dead: bool,
    next_lock: u64,
    locks: BTreeMap<u64, Box<dyn LockGuard>>,
    sessions: Vec<Weak<Session>>,
}

/// An NVML session, and nothing once its process is dead.
type Session = Mutex<Option<Box<dyn Nvml>>>;

impl Faults {
    /// Ports that do as those do until a fault is set, and the switch for it.
    pub fn wrap(ports: Ports) -> (Ports, Self) {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { state, clock: ports.clock.clone() });
        (Faulty::wrap(ports, &shared), Self { shared })
    }

    /// Sets what happens at the call with that number; 1 is the first.
    pub fn at(&self, number: usize, fault: Fault) {
        self.state().at.insert(number, fault);
    }

    /// Sets what happens at the next call.
    pub fn next(&self, fault: Fault) {
        let mut state = self.state();
        let number = state.calls.len() + 1;
        state.at.insert(number, fault);
    }

    /// Sets what happens at a call of that name: 1 is the next of them.
    pub fn on(&self, name: &str, nth: usize, fault: Fault) {
        self.state().on.push((name.to_owned(), nth, fault));
    }

    /// Forgets the faults that were set and have not struck.
    pub fn clear(&self) {
        let mut state = self.state();
        state.at.clear();
        state.on.clear();
    }

    /// How many of the faults that were set have not struck yet.
    pub fn pending(&self) -> usize {
        let state = self.state();
        state.at.len() + state.on.len()
    }

    /// The calls that were made so far by the living process.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.state().calls.clone()
    }

    /// Whether the process is dead.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Lets the process die now, between two calls.
    pub fn die(&self) {
        self.shared.die();
    }

    /// Begins the life of the next process: calls work, are counted anew, and no fault is set.
    pub fn revive(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.at.clear();
        state.on.clear();
        state.dead = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

/// What a port's call fails with.
trait Refusal {
    fn injected(call: CallRecord, failure: Failure) -> Self;
    fn dead(name: &'static str) -> Self;
}

impl Refusal for NvmlFailure {
    fn injected(call: CallRecord, failure: Failure) -> Self {
        let detail = Some(format!("a fault was set at call {}", call.number));
        Self { call: call.name, ret: failure.nvml, detail }
    }

    fn dead(name: &'static str) -> Self {
        let detail = Some("the process is dead".to_owned());
        Self { call: name, ret: NvmlReturn::UNINITIALIZED, detail }
    }
}

impl Refusal for Error {
    fn injected(call: CallRecord, failure: Failure) -> Self {
        let why = format!("a fault was set at call {}, {}", call.number, call.name);
        Self::new(failure.code, why)
    }

    fn dead(name: &'static str) -> Self {
        Self::new(ErrorCode::Io, format!("the process is dead and {name} has no effect"))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what happens at it; nothing when the process is dead.
    fn begin(&self, name: &'static str, mutating: bool) -> Option<(CallRecord, Option<Fault>)> {
        let mut state = self.state();
        if state.dead {
            return None;
        }
        let number = state.calls.len() + 1;
        let call = CallRecord { number, name, mutating };
        state.calls.push(call);
        for (_, nth, _) in state.on.iter_mut().filter(|(wanted, ..)| wanted == name) {
            *nth = nth.saturating_sub(1);
        }
        let due = state.on.iter().position(|(wanted, nth, _)| wanted == name && *nth == 0);
        let named = due.map(|due| state.on.remove(due).2);
        Some((call, state.at.remove(&number).or(named)))
    }

    /// Makes a call, or does what was set for it instead. `torn` is what an append leaves of itself.
    fn call<R, E: Refusal>(
        &self,
        name: &'static str,
        mutating: bool,
        torn: impl FnOnce(u8),
        call: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let Some((record, fault)) = self.begin(name, mutating) else {
            return Err(E::dead(name));
        };
        match fault {
            None => call(),
            Some(Fault::Fail(failure)) => Err(E::injected(record, failure)),
            Some(Fault::FailAfter(failure)) => {
                drop(call()?);
                Err(E::injected(record, failure))
            }
            Some(Fault::Hang(time)) => {
                self.clock.sleep(time);
                call()
            }
            Some(Fault::Die(death)) => {
                match death {
                    Death::Before => {}
                    Death::After => drop(call()),
                    Death::Torn(percent) => torn(percent),
                }
                self.die();
                Err(E::dead(name))
            }
        }
    }

    /// The kernel takes back what the process held. Dropping a lock may call the store, so nothing
    /// is dropped while the state is locked.
    fn die(&self) {
        let (locks, sessions) = {
            let mut state = self.state();
            state.dead = true;
            (std::mem::take(&mut state.locks), std::mem::take(&mut state.sessions))
        };
        for session in sessions.iter().filter_map(Weak::upgrade) {
            let closed = session.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(closed);
        }
        drop(locks);
    }
}

impl fmt::Display for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} ({})", self.number, self.name)
    }
}
