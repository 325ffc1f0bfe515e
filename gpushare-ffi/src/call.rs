//! The border: what every call of C goes through.
//!
//! It empties the caller's error, runs the body with the node's log, and turns errors and panics into
//! a status.

use std::any::Any;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use gpushare_core::log::of_call;
use gpushare_core::{Error, ErrorCode, Outcome, Result};

use crate::error::gpushare_error;
use crate::node::State;
use crate::status::gpushare_status;

/// Where an error goes.
pub(crate) type ErrorOut<'a> = Option<&'a mut MaybeUninit<*mut gpushare_error>>;

/// A call of C.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    name: &'static str,
    node: Option<&'a State>,
    changes: bool,
}

impl<'a> Call<'a> {
    /// The call of that function.
    pub(crate) const fn named(name: &'static str) -> Self {
        Self { name, node: None, changes: false }
    }

    /// Of that node: its log hears of it, and errors say whether it is simulated.
    pub(crate) const fn of(self, node: Option<&'a State>) -> Self {
        Self { node, ..self }
    }

    /// It may change hardware: after a panic nobody knows what it left.
    pub(crate) const fn changes(self) -> Self {
        Self { changes: true, ..self }
    }

    /// Runs it.
    pub(crate) fn run(self, err: ErrorOut<'_>, body: impl FnOnce() -> Result<()>) -> i32 {
        let err = err.map(|err| err.write(ptr::null_mut()));
        let caught = catch_unwind(AssertUnwindSafe(|| {
            plant(self.name);
            of_call(self.node.and_then(State::log), body)
        }));
        let error = match caught {
            Ok(Ok(())) => return gpushare_status::Ok as i32,
            Ok(Err(error)) => error,
            Err(payload) => self.panicked(payload),
        };
        let code = error.code().number();
        if let Some(err) = err {
            let simulated = self.node.map(State::is_simulated);
            // Making text of it is our own code, too.
            let made =
                catch_unwind(AssertUnwindSafe(|| Box::new(gpushare_error::new(error, simulated))));
            *err = made.map_or(ptr::null_mut(), Box::into_raw);
        }
        code
    }

    fn panicked(self, payload: Box<dyn Any + Send>) -> Error {
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "it did not say why".to_owned());
        // A payload may itself panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        let outcome = if self.changes { Outcome::Indeterminate } else { Outcome::Untouched };
        let name = self.name;
        Error::new(ErrorCode::Panic, format!("{name} panicked, a defect of gpushare: {said}"))
            .with_outcome(outcome)
    }
}

/// Runs what cannot fail, and answers that much if it panics all the same.
pub(crate) fn sure<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// What C had to give.
pub(crate) fn given<T>(argument: Option<T>, what: &str) -> Result<T> {
    argument.ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, format!("{what} is NULL, and must not be"))
    })
}

/// Where an answer goes: nothing stands there until there is one.
pub(crate) fn answer<'a, T>(
    place: Option<&'a mut MaybeUninit<T>>,
    nothing: T,
    what: &str,
) -> Result<&'a mut T> {
    given(place, what).map(|place| place.write(nothing))
}

/// Panics in the function that `GPUSHARE_TEST_PANIC` names: in builds for tests alone.
#[cfg(debug_assertions)]
fn plant(name: &str) {
    static PLANTED: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var_os("GPUSHARE_TEST_PANIC"));
    assert!(planted.as_deref() != Some(name.as_ref()), "planted by a test");
}

#[cfg(not(debug_assertions))]
const fn plant(_: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(call: Call<'_>, body: impl FnOnce() -> Result<()>) -> (i32, Option<gpushare_error>) {
        let mut place = MaybeUninit::new(ptr::dangling_mut());
        let status = call.run(Some(&mut place), body);
        // SAFETY: `run` has written it.
        let pointer = unsafe { place.assume_init() };
        // SAFETY: it is NULL or a box that is ours now.
        let error = (!pointer.is_null()).then(|| *unsafe { Box::from_raw(pointer) });
        (status, error)
    }

    #[test]
    fn a_panic_is_an_error_that_says_what_it_may_have_left() {
        for (call, outcome) in [
            (Call::named("f"), Outcome::Untouched),
            (Call::named("f").changes(), Outcome::Indeterminate),
        ] {
            let (status, error) = run(call, || panic!("at {}", 3));
            let error = error.unwrap();
            assert_eq!(status, ErrorCode::Panic.number());
            assert_eq!(error.error.outcome(), outcome);
            assert!(error.error.message().contains("at 3"));
        }
        // Nobody wants the error.
        let status = Call::named("f").run(None, || std::panic::panic_any(7));
        assert_eq!(status, ErrorCode::Panic.number());
        assert_eq!(sure(5, || panic!("here")), 5);
    }

    #[test]
    fn success_leaves_no_error_behind() {
        let (status, error) = run(Call::named("f"), || Ok(()));
        assert!(status == 0 && error.is_none());
    }
}
