//! Helper processes of this program: it starts itself, with an argument that no person types.

use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use undine_text::template::BUDGET;
use undine_text::{Helpers, Program, Urgency};

use crate::error::Error;

/// The first argument of a helper.
const ARGUMENT: &str = "__helper";

/// A rendering that takes longer comes after the other work of the machine: most take a millisecond.
const SLOW_AFTER: Duration = Duration::from_millis(50);

/// Whether this process is a helper.
pub fn is_one() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == OsStr::new(ARGUMENT))
}

/// The helpers in which chat templates run; `None` on a system without any.
pub fn for_templates() -> Result<Option<Arc<Helpers>>, Error> {
    static HELPERS: OnceLock<Option<Arc<Helpers>>> = OnceLock::new();
    if cfg!(not(unix)) {
        return Ok(None);
    }
    if let Some(helpers) = HELPERS.get() {
        return Ok(helpers.clone());
    }
    let unknown =
        |error| Error::refused(format!("where this program is, to start a helper process: {error}"));
    let path = std::env::current_exe().map_err(unknown)?;
    let program = Program { path, arguments: vec![ARGUMENT.into()] };
    let helpers =
        || Some(Arc::new(Helpers::new(program, Urgency::Normal { slow_after: SLOW_AFTER }, BUDGET)));
    Ok(HELPERS.get_or_init(helpers).clone())
}

/// Starts a helper that will be needed soon, while other things are done. Whoever needs it tells if that
/// failed.
pub fn warm() {
    if let Ok(Some(helpers)) = for_templates() {
        drop(helpers.warm());
    }
}
