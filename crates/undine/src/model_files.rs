//! What is told of a model's files while a server runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use undine_server::FileCheck;
use undine_weights::Checkpoint;

/// Fails once a file was written to or cut short. A file that another has replaced by name is told once and
/// is no failure: the one in use lives on.
pub fn check(checkpoint: &Arc<Checkpoint>) -> FileCheck {
    let (checkpoint, told) = (Arc::clone(checkpoint), AtomicBool::new(false));
    Arc::new(move || {
        checkpoint.check_files().map_err(|error| error.to_string())?;
        if !told.load(Ordering::Relaxed)
            && let Some(path) = checkpoint.replaced_files().next()
        {
            told.store(true, Ordering::Relaxed);
            tracing::warn!(
                "{}: another file stands here now, or none; this server goes on with the one it opened until it is started anew",
                path.display()
            );
        }
        Ok(())
    })
}
