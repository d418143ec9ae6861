//! Where requests are prepared: parsed, rendered, tokenized, their forms compiled. That is work on threads of
//! its own, with places that are few, because the cores belong to the engine.
//!
//! Places are apart by what the work may take ([`Lane`]), so that none of it waits for work that takes longer
//! by nature, and no tenant has all of one kind. Work ends soon after its client has left; its place goes
//! with it to its very end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use undine_core::TenantId;
use undine_text::Cancel;

use crate::places::{Place, Places};
use crate::wire::error::{ApiError, ApiResult};

/// Bodies up to so many bytes are small: they take milliseconds.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// Requests with small bodies at once, and those of one tenant.
const SMALL_MAX: [usize; 2] = [4, 3];
/// Requests with larger bodies at once, behind everything else on the machine, and those of one tenant.
const LARGE_MAX: [usize; 2] = [2, 1];
/// Most KiB of larger bodies: tokenizing a slice takes some 250 bytes of memory for each byte of text.
const LARGE_KIB_MAX: u32 = 16 << 10;
/// Requests at once whose forms are compiled, or that bring a template, and those of one tenant.
const PROGRAMS_MAX: [usize; 2] = [3, 2];
/// How long such work counts as quick.
const QUICK: Duration = Duration::from_millis(150);
/// Works at once that take longer, and those of one tenant. More of them keep the places of the quick, until
/// somebody waits for these.
const SLOW_PROGRAMS_MAX: [usize; 2] = [4, 2];
/// If nothing small was finished for so long while somebody waits, nothing is answered.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Stack of the threads for work that comes after the rest, as large as that of the others.
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
    small: Places,
    large: Places,
    /// In KiB; those who have a place wait here in turn.
    large_bytes: Arc<Semaphore>,
    programs: Places,
    slow_programs: Places,
    /// Requests that wait for a place among the small ones.
    waiting: AtomicUsize,
    /// When one of them last got on.
    progress: Mutex<Instant>,
}

impl Preparing {
    pub(crate) fn new() -> Self {
        let places = |[all, each]: [usize; 2]| Places::new(all, each);
        Self {
            small: places(SMALL_MAX),
            large: places(LARGE_MAX),
            large_bytes: Arc::new(Semaphore::new(LARGE_KIB_MAX as usize)),
            programs: places(PROGRAMS_MAX),
            slow_programs: places(SLOW_PROGRAMS_MAX),
            waiting: AtomicUsize::new(0),
            progress: Mutex::new(Instant::now()),
        }
    }

    /// Runs work where it does not delay other connections. It is told when its client has left.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        tenant: TenantId,
        lane: Lane,
        work: impl FnOnce(&Cancel) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let cancel = Cancel::default();
        let _guard = CancelOnDrop(cancel.clone());
        match lane {
            Lane::Body(bytes) if bytes <= SMALL_BYTES_MAX => {
                let place = self.small_place(tenant).await;
                let result = blocking(move || (work(&cancel), drop(place)).0).await;
                self.got_on();
                result
            }
            Lane::Body(bytes) => {
                // A body larger than all there is goes alone.
                let kib = u32::try_from(bytes / 1024).map_or(LARGE_KIB_MAX, |kib| kib.min(LARGE_KIB_MAX));
                let places = (self.large.get(tenant).await, self.bytes(kib).await);
                blocking(move || (apart(work, &cancel), drop(places)).0).await
            }
            Lane::Program => {
                let place = Arc::new(Mutex::new(self.programs.get(tenant).await));
                let held = Arc::clone(&place);
                let cancel_slow = cancel.clone();
                let running = blocking(move || (apart(work, &cancel), drop(held)).0);
                let mut running = std::pin::pin!(running);
                loop {
                    tokio::select! {
                        result = &mut running => return result,
                        () = tokio::time::sleep(QUICK) => {}
                    }
                    if self.set_apart(tenant, &place) {
                        drop(place);
                        return running.await;
                    }
                    if self.programs.has_waiting() {
                        cancel_slow.cancel();
                        return Err(ApiError::too_many_programs());
                    }
                }
            }
        }
    }

    /// Exchanges the place of work that turns out to be slow; says whether there was one to have.
    fn set_apart(&self, tenant: TenantId, place: &Mutex<Place>) -> bool {
        let Some(slow) = self.slow_programs.try_get(tenant) else { return false };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = slow;
        true
    }

    async fn bytes(&self, kib: u32) -> OwnedSemaphorePermit {
        let all = Arc::clone(&self.large_bytes).acquire_many_owned(kib).await;
        all.expect("the semaphore is never closed")
    }

    async fn small_place(&self, tenant: TenantId) -> Place {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.got_on();
        }
        let _waiting = Waiting(&self.waiting);
        self.small.get(tenant).await
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> ApiResult<T> + Send + 'static) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(panicked()))
}

/// Does work on a thread that comes after everything else on the machine.
fn apart<T: Send>(work: impl FnOnce(&Cancel) -> ApiResult<T> + Send, cancel: &Cancel) -> ApiResult<T> {
    match undine_text::in_background("undine-prepare", STACK_BYTES, || work(cancel)) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(panicked()),
        Err(error) => Err(ApiError::no_thread(&error)),
    }
}

fn panicked() -> ApiError {
    ApiError::internal("preparing the request failed; the reason is on the server's standard error")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);
    const C: TenantId = TenantId(3);
    const LANES: [Lane; 3] = [Lane::Body(1), Lane::Body(SMALL_BYTES_MAX + 1), Lane::Program];

    type Held = (JoinHandle<ApiResult<()>>, mpsc::Sender<()>);

    /// Work that is busy until it is told to end, or nobody wants it.
    fn held(preparing: &Arc<Preparing>, tenant: TenantId, lane: Lane) -> Held {
        let (release, released) = mpsc::channel::<()>();
        let preparing = Arc::clone(preparing);
        let work = move |cancel: &Cancel| {
            let is_held = || matches!(released.try_recv(), Err(mpsc::TryRecvError::Empty));
            while is_held() && !cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        (tokio::spawn(async move { preparing.run(tenant, lane, work).await }), release)
    }

    async fn release(holders: Vec<Held>) {
        for (task, release) in holders {
            drop(release);
            drop(task.await.unwrap());
        }
    }

    #[tokio::test]
    async fn lanes_and_tenants_do_not_wait_for_each_other() {
        let preparing = Arc::new(Preparing::new());
        for full in LANES {
            let holders: Vec<_> = (0..8).map(|_| held(&preparing, A, full)).collect();
            yield_now().await;
            for lane in LANES {
                preparing.run(B, lane, |_| Ok(())).await.unwrap();
            }
            for other in LANES.into_iter().filter(|lane| *lane != full) {
                preparing.run(A, other, |_| Ok(())).await.unwrap();
            }
            release(holders).await;
        }
    }

    #[tokio::test]
    async fn work_is_told_when_nobody_wants_it() {
        let preparing = Arc::new(Preparing::new());
        for lane in LANES {
            let (began, has_begun) = tokio::sync::oneshot::channel();
            let (ended, has_ended) = tokio::sync::oneshot::channel();
            let work = move |cancel: &Cancel| {
                let _ = began.send(());
                while !cancel.is_cancelled() {
                    std::thread::yield_now();
                }
                let _ = ended.send(());
                Ok(())
            };
            let other = Arc::clone(&preparing);
            let task = tokio::spawn(async move { other.run(A, lane, work).await });
            has_begun.await.unwrap();
            task.abort();
            has_ended.await.unwrap();
        }
    }

    #[tokio::test]
    async fn slow_programs_leave_room_for_quick_ones() {
        let preparing = Arc::new(Preparing::new());
        let all = SLOW_PROGRAMS_MAX[1] + PROGRAMS_MAX[1];
        let holders: Vec<_> = (0..all).map(|_| held(&preparing, A, Lane::Program)).collect();
        // Once some are known to be slow all of them run, and none is in the way of anybody.
        while preparing.programs.has_waiting() || preparing.slow_programs.try_get(A).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Others have places, and a quick one of the same tenant gets that of a slow one.
        preparing.run(B, Lane::Program, |_| Ok(())).await.unwrap();
        preparing.run(A, Lane::Program, |_| Ok(())).await.unwrap();
        let mut refused = 0;
        for (task, release) in holders {
            drop(release);
            refused += usize::from(task.await.unwrap().is_err_and(|error| error.status.as_u16() == 503));
        }
        assert!((1..=PROGRAMS_MAX[1]).contains(&refused), "{refused}");
    }

    #[tokio::test]
    async fn who_waits_for_long_makes_the_server_unwell() {
        let preparing = Arc::new(Preparing::new());
        assert_eq!(preparing.stuck(), None);
        let holders: Vec<_> = [A, A, B, B, C].map(|tenant| held(&preparing, tenant, Lane::Body(1))).into();
        while preparing.waiting.load(Ordering::Acquire) != 1 {
            yield_now().await;
        }
        assert_eq!(preparing.stuck(), None, "nobody has waited for long");
        let long_ago = Instant::now().checked_sub(STUCK_AFTER + Duration::from_secs(1));
        *preparing.progress.lock().unwrap() = long_ago.unwrap();
        assert!(preparing.stuck().is_some());
        release(holders).await;
        assert_eq!(preparing.stuck(), None);
    }
}
