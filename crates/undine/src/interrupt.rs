//! Ctrl-C: the first one stops the answer, a second one before it has stopped ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{EXIT_INTERRUPTED, Error};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C. Call once.
pub fn install() -> Result<(), Error> {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED.into());
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Error::refused(format!("cannot catch Ctrl-C: {error}")))
}

/// Whether Ctrl-C has been pressed since the last answer began.
pub fn is_requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Forgets an earlier Ctrl-C; call before an answer begins.
pub fn rearm() -> &'static AtomicBool {
    INTERRUPTED.store(false, Ordering::Relaxed);
    &INTERRUPTED
}
