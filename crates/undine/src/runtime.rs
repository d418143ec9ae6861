//! The async runtime of a server or a batch, where the system has room for its threads.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use tokio::runtime::Runtime;

use crate::error::Error;

/// Threads beside those that compute and the runtime's own: the engine's, of masks, of the model's files, and
/// those that prepare requests.
const THREADS_BESIDE: usize = 7;

/// A runtime for connections, beside `computing` threads that compute.
///
/// # Errors
/// If the system does not give as many threads as will be needed: the runtime's own panic then, and some of
/// them wait for ever for the others.
pub fn new(computing: usize) -> Result<Runtime, Error> {
    let own = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = own + computing + THREADS_BESIDE;
    try_out(wanted).map_err(|error| {
        Error::refused(format!(
            "this system does not give the {wanted} threads that are needed ({error}); raise the limit on processes (ulimit -u) or on \
             memory (ulimit -v), or compute with fewer --threads"
        ))
    })?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(own).on_thread_start(undine_text::come_after_computing).enable_all().build()?)
}

/// Starts so many threads at once, and lets them end.
fn try_out(wanted: usize) -> std::io::Result<()> {
    let (gate, wait) = channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let (mut threads, mut refused) = (Vec::with_capacity(wanted), None);
    for _ in 0..wanted {
        let wait = Arc::clone(&wait);
        // Until the gate is gone.
        let stay = move || drop(wait.lock().map(|wait| wait.recv()));
        match Builder::new().name("undine-trial".to_owned()).spawn(stay) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    drop(gate);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    refused.map_or(Ok(()), Err)
}
