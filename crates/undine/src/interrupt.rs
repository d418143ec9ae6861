//! Ctrl-C: the first one stops the answer, a second one before it has stopped ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::error::{EXIT_INTERRUPTED, Error};
use crate::progress;
use crate::shown::say;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// While it is set, Ctrl-C prints it and ends the program.
static FAREWELL: Mutex<Option<String>> = Mutex::new(None);

/// Takes over Ctrl-C; once is enough.
pub fn install() -> Result<(), Error> {
    static INSTALLED: Once = Once::new();
    let handler = || {
        let farewell = FAREWELL.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if farewell.is_some() || INTERRUPTED.swap(true, Ordering::Relaxed) {
            progress::clear();
            farewell.iter().for_each(|farewell| say!("{farewell}"));
            std::process::exit(EXIT_INTERRUPTED.into());
        }
    };
    let mut installed = Ok(());
    INSTALLED.call_once(|| installed = ctrlc::set_handler(handler));
    installed.map_err(|error| Error::refused(format!("cannot catch Ctrl-C: {error}")))
}

/// Does something that loses nothing if the process ends: Ctrl-C ends it at once, with this line.
pub fn end_at_once<T>(farewell: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    install()?;
    let set = |text: Option<String>| *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = text;
    set(Some(farewell.to_owned()));
    let result = work();
    set(None);
    result
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
