//! Looks after the model's files while nothing is computed, when nobody else would see that they have
//! changed.

use std::time::Duration;

use tokio::sync::mpsc::WeakSender;
use undine_core::ExecutorError;

use crate::engine_thread::Command;
use crate::serve::FileCheck;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts a thread that looks until the engine is gone, and makes it give up when a file has changed. A
/// thread of its own, because a file server that does not answer holds up whoever asks.
pub(crate) fn watch(files: FileCheck, engine: WeakSender<Command>) {
    let look = move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let Some(engine) = engine.upgrade() else { return };
            if let Err(changed) = files() {
                // An engine that has ended has seen it itself.
                return drop(engine.blocking_send(Command::GiveUp(ExecutorError(changed))));
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("undine-files".to_owned()).spawn(look) {
        tracing::warn!(
            "no thread to watch the model's files: {error}; changes are seen while answers are computed"
        );
    }
}
