//! Places that all requests share, given out so that no tenant keeps them from another one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use undine_core::TenantId;

/// A number of places to wait for. Whoever holds fewest of them comes first, and of equals the one that has
/// waited longest.
#[derive(Clone)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

struct Taken {
    free: usize,
    /// Most that one tenant holds.
    each_max: usize,
    /// Places of those who hold any.
    held: HashMap<TenantId, usize>,
    /// In order of arrival. There are as many as connections let there be.
    waiting: VecDeque<(TenantId, oneshot::Sender<Place>)>,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    places: Places,
    tenant: TenantId,
}

impl Places {
    /// So many, of which one tenant can hold at most `each_max`.
    pub(crate) fn new(count: usize, each_max: usize) -> Self {
        let (held, waiting) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Taken { free: count, each_max, held, waiting })))
    }

    /// Waits for a place.
    pub(crate) async fn get(&self, tenant: TenantId) -> Place {
        let (sender, receiver) = oneshot::channel();
        self.taken().waiting.push_back((tenant, sender));
        self.hand_out();
        receiver.await.expect("whoever waits is in the list until a place is sent")
    }

    /// A place, if there is one now for which nobody waits.
    pub(crate) fn try_get(&self, tenant: TenantId) -> Option<Place> {
        let taken = &mut *self.taken();
        let held = taken.held.get(&tenant).copied().unwrap_or(0);
        if taken.free == 0 || held >= taken.each_max || !taken.waiting.is_empty() {
            return None;
        }
        taken.free -= 1;
        *taken.held.entry(tenant).or_default() += 1;
        Some(Place { places: self.clone(), tenant })
    }

    /// Whether somebody waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.taken().waiting.iter().any(|(_, sender)| !sender.is_closed())
    }

    fn hand_out(&self) {
        while let Some((tenant, sender)) = self.next() {
            // One that has left meanwhile drops its place here, which hands it to the next.
            drop(sender.send(Place { places: self.clone(), tenant }));
        }
    }

    /// Takes a place for the next in turn.
    fn next(&self) -> Option<(TenantId, oneshot::Sender<Place>)> {
        let taken = &mut *self.taken();
        taken.waiting.retain(|(_, sender)| !sender.is_closed());
        if taken.free == 0 {
            return None;
        }
        let held = |tenant: &TenantId| taken.held.get(tenant).copied().unwrap_or(0);
        let waiting = taken.waiting.iter().zip(0..).map(|((tenant, _), at)| (held(tenant), at));
        let (_, at) = waiting.filter(|&(held, _)| held < taken.each_max).min()?;
        let (tenant, sender) = taken.waiting.remove(at)?;
        taken.free -= 1;
        *taken.held.entry(tenant).or_default() += 1;
        Some((tenant, sender))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let taken = &mut *self.places.taken();
            taken.free += 1;
            give_back(&mut taken.held, self.tenant, 1);
        }
        self.places.hand_out();
    }
}

/// An amount of something, of which each tenant may hold as much as it leaves to others: a newcomer always
/// finds some.
#[derive(Clone)]
pub(crate) struct Amount(Arc<Mutex<Held>>);

struct Held {
    free: usize,
    held: HashMap<TenantId, usize>,
}

/// A part of it, until it is dropped.
pub(crate) struct Part {
    amount: Amount,
    tenant: TenantId,
    size: usize,
}

impl Amount {
    pub(crate) fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new(Held { free: size, held: HashMap::new() })))
    }

    /// A part of this size; `None` if it is not to be had now.
    pub(crate) fn take(&self, tenant: TenantId, size: usize) -> Option<Part> {
        let held = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.held.get(&tenant).copied().unwrap_or(0);
        let left = held.free.checked_sub(size)?;
        if own + size > left {
            return None;
        }
        held.free = left;
        *held.held.entry(tenant).or_default() += size;
        Some(Part { amount: self.clone(), tenant, size })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let held = &mut *self.amount.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.free += self.size;
        give_back(&mut held.held, self.tenant, self.size);
    }
}

/// Who holds nothing is forgotten.
fn give_back(held: &mut HashMap<TenantId, usize>, tenant: TenantId, size: usize) {
    if let Some(own) = held.get_mut(&tenant) {
        *own -= size;
        if *own == 0 {
            held.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);

    type Asked<'a> = Pin<Box<dyn Future<Output = Place> + 'a>>;

    fn ask(places: &Places, tenant: TenantId) -> Asked<'_> {
        Box::pin(places.get(tenant))
    }

    fn ready(future: &mut Asked<'_>) -> Option<Place> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn whoever_holds_fewest_places_comes_first() {
        let places = Places::new(2, 2);
        let mut asked = [A, A, A, A, B, B].map(|tenant| ask(&places, tenant));
        // Each asks when it is first polled.
        let mut got: Vec<Option<Place>> = asked.iter_mut().map(ready).collect();
        let who = |got: &[Option<Place>]| got.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(who(&got), [true, true, false, false, false, false]);
        let mut release = |at: usize, got: &mut Vec<Option<Place>>| {
            got[at] = None;
            for (place, future) in got.iter_mut().zip(&mut asked).skip(2) {
                if place.is_none()
                    && let Some(new) = ready(future)
                {
                    *place = Some(new);
                }
            }
        };
        release(0, &mut got);
        assert_eq!(who(&got), [false, true, false, false, true, false], "B has none yet");
        release(1, &mut got);
        assert_eq!(who(&got), [false, false, true, false, true, false], "now A has none");
    }

    #[test]
    fn one_tenant_cannot_hold_all_places() {
        let places = Places::new(4, 2);
        let mut asked = [A, A, A, B].map(|tenant| ask(&places, tenant));
        let got: Vec<Option<Place>> = asked.iter_mut().map(ready).collect();
        assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, true]);
    }

    #[test]
    fn a_place_that_nobody_waits_for_any_more_goes_to_the_next() {
        let places = Places::new(1, 1);
        let held = ready(&mut ask(&places, A)).unwrap();
        let (mut left, mut next) = (ask(&places, B), ask(&places, A));
        assert!(ready(&mut left).is_none() && ready(&mut next).is_none());
        drop(left);
        drop(held);
        assert!(ready(&mut next).is_some());
        assert_eq!(places.taken().waiting.len(), 0);
        assert!(places.taken().held.is_empty());
    }

    #[test]
    fn something_is_always_left_for_a_newcomer() {
        let amount = Amount::new(100);
        assert!(amount.take(A, 51).is_none(), "more than it would leave");
        let half = amount.take(A, 50).unwrap();
        assert!(amount.take(A, 1).is_none());
        let quarter = amount.take(B, 25).unwrap();
        assert!(amount.take(B, 1).is_none());
        drop(half);
        assert!(amount.take(A, 37).is_some());
        drop(quarter);
        assert!(amount.take(A, usize::MAX).is_none());
        assert!(amount.0.lock().unwrap().held.is_empty());
    }
}
