//! Where requests are prepared: parsed, rendered, tokenized, their forms compiled. That is work on threads of its own, with
//! places that are few, because the cores belong to the engine.
//!
//! Places are apart by what the work may take ([`Lane`]), so that none of it waits for work that takes longer by nature. Work
//! ends soon after its client has left; its place goes with it to its very end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use undine_text::Cancel;

use crate::wire::error::{ApiError, ApiResult};

/// Bodies up to so many bytes are small: they take milliseconds.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// Requests with small bodies at once.
const SMALL_MAX: usize = 4;
/// Requests with larger bodies at once, behind everything else on the machine.
const LARGE_MAX: usize = 2;
/// Most KiB of larger bodies: tokenizing takes some 150 bytes of memory for each byte of text.
const LARGE_KIB_MAX: u32 = 16 << 10;
/// Requests at once whose forms are compiled, or that bring a template.
const PROGRAMS_MAX: usize = 2;
/// How long such work counts as quick.
const QUICK: Duration = Duration::from_millis(150);
/// Works at once that take longer. There is no queue for more: they would wait for seconds.
const SLOW_PROGRAMS_MAX: usize = 2;
/// If nothing small was finished for so long while somebody waits, nothing is answered.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Stack of the threads for large bodies, as large as that of the others.
const STACK_BYTES: usize = 2 << 20;

/// What work may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Work on a body of so many bytes.
    Body(usize),
    /// Work on what a request programs: a form of the answer, a template.
    Program,
}

/// All places.
pub(crate) struct Preparing {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// In KiB.
    large_bytes: Arc<Semaphore>,
    programs: Arc<Semaphore>,
    slow_programs: Arc<Semaphore>,
    /// Requests that wait for a place among the small ones.
    waiting: AtomicUsize,
    /// When one of them last got on.
    progress: Mutex<Instant>,
}

/// What a piece of work holds until it ends.
type Place = Arc<Mutex<Vec<OwnedSemaphorePermit>>>;

impl Preparing {
    pub(crate) fn new() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            small: places(SMALL_MAX),
            large: places(LARGE_MAX),
            large_bytes: places(LARGE_KIB_MAX as usize),
            programs: places(PROGRAMS_MAX),
            slow_programs: places(SLOW_PROGRAMS_MAX),
            waiting: AtomicUsize::new(0),
            progress: Mutex::new(Instant::now()),
        }
    }

    /// Runs work where it does not delay other connections. It is told when its client has left.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Cancel) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let cancel = Cancel::default();
        let _guard = CancelOnDrop(cancel.clone());
        match lane {
            Lane::Body(bytes) if bytes <= SMALL_BYTES_MAX => {
                let place = self.small_place().await;
                let result = blocking(move || (work(&cancel), drop(place)).0).await;
                self.got_on();
                result
            }
            Lane::Body(bytes) => {
                // A body larger than all there is goes alone.
                let kib = u32::try_from(bytes / 1024).map_or(LARGE_KIB_MAX, |kib| kib.min(LARGE_KIB_MAX));
                let places = (many(&self.large_bytes, kib).await, many(&self.large, 1).await);
                let apart = move || undine_text::in_background("undine-large", STACK_BYTES, || work(&cancel));
                blocking(move || match (apart(), drop(places)).0 {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(panicked()),
                    Err(error) => Err(ApiError::no_thread(&error)),
                })
                .await
            }
            Lane::Program => {
                let place = Arc::new(Mutex::new(vec![many(&self.programs, 1).await]));
                let held = Arc::clone(&place);
                let cancel_slow = cancel.clone();
                let running = blocking(move || (work(&cancel), drop(held)).0);
                let mut running = std::pin::pin!(running);
                tokio::select! {
                    result = &mut running => result,
                    () = tokio::time::sleep(QUICK) => {
                        if !self.set_apart(&place) {
                            cancel_slow.cancel();
                            return Err(ApiError::too_many_programs());
                        }
                        drop(place);
                        running.await
                    }
                }
            }
        }
    }

    /// Exchanges the place of work that turns out to be slow; says whether there was one to have.
    fn set_apart(&self, place: &Place) -> bool {
        let Ok(slow) = Arc::clone(&self.slow_programs).try_acquire_owned() else { return false };
        let mut held = place.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
        held.push(slow);
        true
    }

    async fn small_place(&self) -> OwnedSemaphorePermit {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.got_on();
        }
        let _waiting = Waiting(&self.waiting);
        many(&self.small, 1).await
    }

    fn got_on(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Why nothing can be answered, if so.
    pub(crate) fn stuck(&self) -> Option<String> {
        let since = self.progress.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let waiting = self.waiting.load(Ordering::Acquire);
        (waiting > 0 && since > STUCK_AFTER).then(|| {
            format!("{waiting} requests wait to be prepared, and none has been for {} s", since.as_secs())
        })
    }
}

/// Tells work that its client has left, when the request's future is dropped.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Counts a request that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn many(places: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_many_owned(count).await.expect("the semaphore is never closed")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> ApiResult<T> + Send + 'static) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> ApiError {
    ApiError::internal("preparing the request failed; the reason is on the server's standard error")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that is busy until it is told to end.
    fn held(
        preparing: &Arc<Preparing>,
        lane: Lane,
    ) -> (tokio::task::JoinHandle<ApiResult<()>>, mpsc::Sender<()>) {
        let (release, released) = mpsc::channel::<()>();
        let preparing = Arc::clone(preparing);
        let work = move |_: &Cancel| {
            drop(released.recv());
            Ok(())
        };
        (tokio::spawn(async move { preparing.run(lane, work).await }), release)
    }

    #[tokio::test]
    async fn lanes_do_not_wait_for_each_other() {
        let preparing = Arc::new(Preparing::new());
        let lanes = [Lane::Body(1), Lane::Body(SMALL_BYTES_MAX + 1), Lane::Program];
        for full in lanes {
            let holders: Vec<_> = (0..8).map(|_| held(&preparing, full)).collect();
            tokio::task::yield_now().await;
            for other in lanes.into_iter().filter(|lane| *lane != full) {
                preparing.run(other, |_| Ok(())).await.unwrap();
            }
            for (task, release) in holders {
                drop(release);
                drop(task.await.unwrap());
            }
        }
    }

    #[tokio::test]
    async fn work_is_told_when_nobody_wants_it() {
        let preparing = Arc::new(Preparing::new());
        for lane in [Lane::Body(1), Lane::Body(SMALL_BYTES_MAX + 1), Lane::Program] {
            let (began, has_begun) = tokio::sync::oneshot::channel();
            let (ended, has_ended) = tokio::sync::oneshot::channel();
            let work = move |cancel: &Cancel| {
                drop(began.send(()));
                while !cancel.is_cancelled() {
                    std::thread::yield_now();
                }
                drop(ended.send(()));
                Ok(())
            };
            let other = Arc::clone(&preparing);
            let task = tokio::spawn(async move { other.run(lane, work).await });
            has_begun.await.unwrap();
            task.abort();
            has_ended.await.unwrap();
        }
    }

    #[tokio::test]
    async fn slow_programs_leave_room_for_quick_ones() {
        let preparing = Arc::new(Preparing::new());
        // As many as may be slow, and two that are refused when they turn out to be.
        let holders: Vec<_> =
            (0..PROGRAMS_MAX + SLOW_PROGRAMS_MAX).map(|_| held(&preparing, Lane::Program)).collect();
        let mut refused = 0;
        let mut kept = Vec::new();
        for (task, release) in holders {
            if kept.len() < SLOW_PROGRAMS_MAX {
                kept.push((task, release));
            } else {
                assert_eq!(task.await.unwrap().unwrap_err().status.as_u16(), 503);
                refused += 1;
                drop(release);
            }
        }
        assert_eq!(refused, PROGRAMS_MAX);
        preparing.run(Lane::Program, |_| Ok(())).await.unwrap();
        for (task, release) in kept {
            drop(release);
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn who_waits_for_long_makes_the_server_unwell() {
        let preparing = Arc::new(Preparing::new());
        assert_eq!(preparing.stuck(), None);
        let holders: Vec<_> = (0..SMALL_MAX + 1).map(|_| held(&preparing, Lane::Body(1))).collect();
        while preparing.waiting.load(Ordering::Acquire) == 0 || preparing.small.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(preparing.stuck(), None, "nobody has waited for long");
        let long_ago = Instant::now().checked_sub(STUCK_AFTER + Duration::from_secs(1));
        *preparing.progress.lock().unwrap() = long_ago.unwrap();
        assert!(preparing.stuck().is_some());
        for (task, release) in holders {
            drop(release);
            task.await.unwrap().unwrap();
        }
        assert_eq!(preparing.stuck(), None);
    }
}
