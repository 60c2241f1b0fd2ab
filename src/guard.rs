//! Panics in other people's code, made errors: for decoders that meet what strangers wrote.
//!
//! Some libraries answer malformed input with a failed assertion or an index out of bounds. That ends no stage with a
//! backtrace here: the panic is caught where the library is called, its message is not printed, and the caller says
//! which file was at fault. Whatever the library was working on is to be dropped then.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is within [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What a library said when it gave up.
#[derive(Debug, PartialEq)]
pub struct GaveUp(String);

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its decoder gave up: {}", self.0)
    }
}

impl std::error::Error for GaveUp {}

/// Runs `work`, a call into a library. What `work` changes must not be used any more after an error.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, GaveUp> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                usual(panic);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.map_err(|panic| GaveUp(message(panic.as_ref())))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_call_goes_on() {
        assert_eq!(guarded(|| 1), Ok(1));
        let nothing: Vec<u8> = Vec::new();
        let error = guarded(|| nothing[7]).unwrap_err();
        let expected = "its decoder gave up: index out of bounds: the len is 0 but the index is 7";
        assert_eq!(error.to_string(), expected);
        assert!(!GUARDED.get());
        assert_eq!(guarded(|| guarded(|| panic!("within")).is_err() && GUARDED.get()), Ok(true));
    }
}
