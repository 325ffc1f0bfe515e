//! Python that runs within a call: progress functions, hooks, log handlers, and classes of the package's own.
//!
//! Before 3.14 CPython ends a daemon thread by pthread_exit(3) as soon as it wants the GIL of an interpreter
//! that ends. That unwinds through whatever native frames there are, which would drop what is Python's
//! without the GIL. So nothing is called back once the interpreter ends, the end waits for what is called
//! already, and what is not finished by then hangs, as all threads do from 3.14 on.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gpushare_core::{Error, ErrorCode, Result};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// How long the end of the interpreter waits for callbacks. One that takes longer is left where it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the interpreter ends.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How many callbacks run, in all threads.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How many callbacks of this thread run, one within the other.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Whether it is this thread that ends the interpreter: it alone may still call Python.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A callback that runs, until it is dropped.
struct Running;

impl Running {
    /// None when the interpreter ends.
    fn enter() -> Option<Self> {
        // Counted before it is asked: either the end sees it, or it sees the end.
        RUNNING.fetch_add(1, Ordering::SeqCst);
        DEPTH.set(DEPTH.get() + 1);
        let running = Self;
        (!ENDING.load(Ordering::SeqCst) || ENDS.get()).then_some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// So deep may callbacks be in one another: each takes native stack, of which a thread has little.
const MOST_DEPTH: usize = 16;

/// Refuses what calls back where callbacks are in one another without an end.
pub(crate) fn expect_shallow() -> Result<()> {
    if DEPTH.get() <= MOST_DEPTH {
        return Ok(());
    }
    let why = format!(
        "more than {MOST_DEPTH} progress functions and hooks are called from within one another; call this from outside of them"
    );
    Err(Error::new(ErrorCode::InvalidState, why))
}

/// Calls Python from within a call that has let it go; None when the interpreter ends.
pub(crate) fn within<R>(body: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let _running = Running::enter()?;
    finished(|| Python::try_attach(body))
}

/// Runs what is Python's own, and hangs the thread where the interpreter's end would unwind it: also in what
/// is no function of the caller's, such as an import, a class or a file that lets the GIL go.
pub(crate) fn finished<R>(body: impl FnOnce() -> R) -> R {
    let unfinished = Unfinished;
    let answer = body();
    std::mem::forget(unfinished);
    answer
}

/// Hangs the thread where pthread_exit(3) unwinds it. What it drops would be dropped without the GIL.
struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// Calls a function of Python's with keywords. Nothing that is dropped is above it on the stack.
pub(crate) fn call_with<'py, A>(
    function: &Bound<'py, PyAny>,
    arguments: A,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    PyErr: From<A::Error>,
{
    let arguments = arguments.into_pyobject(function.py())?;
    finished(|| function.call(&arguments, keywords))
}

/// The same without keywords.
pub(crate) fn call<'py, A>(
    function: &Bound<'py, PyAny>,
    arguments: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    PyErr: From<A::Error>,
{
    call_with(function, arguments, None)
}

/// The same of a method.
pub(crate) fn call_method<'py, A>(
    object: &Bound<'py, PyAny>,
    name: &str,
    arguments: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    PyErr: From<A::Error>,
{
    call(&object.getattr(name)?, arguments)
}

/// At exit: calls nobody back any more, and waits for who is called already.
#[pyfunction]
pub(crate) fn _end(py: Python<'_>) {
    ENDS.set(true);
    ENDING.store(true, Ordering::SeqCst);
    let own = DEPTH.get();
    py.detach(|| {
        let late = Instant::now() + PATIENCE;
        while RUNNING.load(Ordering::SeqCst) > own && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// In a forked child: the other threads' callbacks are gone.
pub(crate) fn forked() {
    RUNNING.store(DEPTH.get(), Ordering::SeqCst);
}
