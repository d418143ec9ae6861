//! Who may be connected, and who goes when there are too many.
//!
//! A new connection is always taken at once. When all places are taken somebody who is not being answered
//! leaves for it: first who has never sent a whole request and had time to, then who has been idle for
//! longest, then who has been sending a body for long, and at last who came just before. When everyone is
//! being answered, or too many come from one address, the new one gets one of a few extra places, where
//! probes are answered and all else is refused: what a connection will ask for is known only when it has. Who
//! holds an extra place holds it for seconds.
//!
//! Invariant: a connection is counted exactly while its [`Place`] exists and has not been told to leave.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::listener::Peer;

/// Places beyond the limit, for probes.
pub(crate) const EXTRA_MAX: usize = 64;
/// How long an extra place may be held: a probe is a packet, and so is its answer.
pub(crate) const EXTRA_LIFE: Duration = Duration::from_secs(5);
/// Who has not sent a whole request in this time goes before those who have.
const HEAD_GRACE: Duration = Duration::from_secs(2);
/// Who has just come is about to ask: nobody goes sooner than this.
const FRESH_GRACE: Duration = Duration::from_millis(250);
/// Who has been sending a body for so long goes, if everyone else is being answered.
const BODY_GRACE: Duration = Duration::from_secs(10);
/// Bits of an IPv6 address that its owner cannot choose at will.
const IPV6_PREFIX_BITS: u32 = 64;

/// A machine, as far as addresses can tell. Not there for those that are not counted: this machine itself,
/// which may also be a proxy in front, and Unix sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Neighbour(IpAddr);

impl Neighbour {
    pub(crate) fn of(peer: Peer) -> Option<Self> {
        match peer.0? {
            address if address.is_loopback() => None,
            address @ IpAddr::V4(_) => Some(Self(address)),
            IpAddr::V6(address) => {
                let mask = u128::MAX << (u128::BITS - IPV6_PREFIX_BITS);
                Some(Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))))
            }
        }
    }
}

/// Why a connection has an extra place only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crowd {
    /// All places are taken by connections that are being answered.
    Everyone,
    /// Too many come from its address.
    Address,
}

/// What a connection does that is not being answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// It has not sent a whole request.
    Silent,
    /// It has been answered, and keeps the connection.
    Idle,
    /// It sends a body.
    Sending,
}

/// Limits of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) per_address_max: Option<usize>,
}

/// All connections.
pub(crate) struct Places {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Numbers given out, to connections and to their places in queues.
    numbers: u64,
    seats: HashMap<u64, Seat>,
    /// Connections that are not extra, and those that are.
    taken: usize,
    extra: usize,
    by_address: HashMap<Neighbour, usize>,
    /// By the number they got when they began to wait: the first has waited for longest.
    silent: Queue,
    idle: Queue,
    sending: Queue,
    silent_extra: Queue,
}

type Queue = BTreeMap<u64, (u64, Instant)>;

/// A connection.
struct Seat {
    leave: Arc<Notify>,
    neighbour: Option<Neighbour>,
    extra: Option<Crowd>,
    waiting: Option<(Waiting, u64)>,
}

/// The place of a connection. Dropping it gives it back.
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    leave: Arc<Notify>,
}

impl Places {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; `None` if even the extra ones are taken by those who are being answered.
    pub(crate) fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let neighbour = Neighbour::of(peer);
        let now = Instant::now();
        let mut state = self.state();
        let crowd = match () {
            () if state.is_address_full(neighbour, self.limits) => Some(Crowd::Address),
            () if state.taken < self.limits.connections_max || state.make_room(now) => None,
            () => Some(Crowd::Everyone),
        };
        if crowd.is_some() && state.extra >= EXTRA_MAX && !state.make_extra_room() {
            return None;
        }
        let leave = Arc::new(Notify::new());
        let id = state.number();
        state.seats.insert(id, Seat { leave: Arc::clone(&leave), neighbour, extra: crowd, waiting: None });
        state.count(neighbour, crowd);
        state.wait(id, Waiting::Silent, now);
        drop(state);
        Some(Place { places: Arc::clone(self), id, leave })
    }

    /// Asks somebody who is not being answered to leave, if there is anybody.
    pub(crate) fn make_room(&self) -> bool {
        self.state().make_room(Instant::now())
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn is_address_full(&self, neighbour: Option<Neighbour>, limits: Limits) -> bool {
        let taken = neighbour.and_then(|neighbour| self.by_address.get(&neighbour)).copied().unwrap_or(0);
        limits.per_address_max.is_some_and(|most| taken >= most)
    }

    fn count(&mut self, neighbour: Option<Neighbour>, extra: Option<Crowd>) {
        if extra.is_some() {
            self.extra += 1;
            return;
        }
        self.taken += 1;
        if let Some(neighbour) = neighbour {
            *self.by_address.entry(neighbour).or_default() += 1;
        }
    }

    fn queue(&mut self, waiting: Waiting, extra: Option<Crowd>) -> &mut Queue {
        match (waiting, extra) {
            (Waiting::Silent, Some(_)) => &mut self.silent_extra,
            (Waiting::Silent, None) => &mut self.silent,
            (Waiting::Idle, _) => &mut self.idle,
            (Waiting::Sending, _) => &mut self.sending,
        }
    }

    fn wait(&mut self, id: u64, waiting: Waiting, now: Instant) {
        self.busy(id);
        let number = self.number();
        let Some(seat) = self.seats.get_mut(&id) else { return };
        seat.waiting = Some((waiting, number));
        let extra = seat.extra;
        // An extra one that has been answered is about to end by itself.
        if extra.is_none() || waiting == Waiting::Silent {
            self.queue(waiting, extra).insert(number, (id, now));
        }
    }

    fn busy(&mut self, id: u64) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let (waiting, extra) = (seat.waiting.take(), seat.extra);
        if let Some((waiting, number)) = waiting {
            self.queue(waiting, extra).remove(&number);
        }
    }

    fn leave(&mut self, id: u64) -> Option<Seat> {
        self.busy(id);
        let seat = self.seats.remove(&id)?;
        if seat.extra.is_some() {
            self.extra -= 1;
            return Some(seat);
        }
        self.taken -= 1;
        if let Some(neighbour) = seat.neighbour
            && let Some(count) = self.by_address.get_mut(&neighbour)
        {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&neighbour);
            }
        }
        Some(seat)
    }

    fn make_room(&mut self, now: Instant) -> bool {
        let first = |queue: &Queue, patience: Duration| {
            let (_, &(id, since)) = queue.first_key_value()?;
            (now.saturating_duration_since(since) >= patience).then_some(id)
        };
        let who = first(&self.silent, HEAD_GRACE)
            .or_else(|| first(&self.idle, Duration::ZERO))
            .or_else(|| first(&self.sending, BODY_GRACE))
            .or_else(|| first(&self.silent, FRESH_GRACE));
        self.send_away(who)
    }

    fn make_extra_room(&mut self) -> bool {
        let who = self.silent_extra.first_key_value().map(|(_, &(id, _))| id);
        self.send_away(who)
    }

    fn send_away(&mut self, who: Option<u64>) -> bool {
        let Some(seat) = who.and_then(|id| self.leave(id)) else { return false };
        seat.leave.notify_one();
        true
    }
}

impl Place {
    /// The connection is not being answered any more.
    pub(crate) fn wait(&self, waiting: Waiting) {
        self.places.state().wait(self.id, waiting, Instant::now());
    }

    /// It is being answered: nobody is sent away in the middle of that.
    pub(crate) fn busy(&self) {
        self.places.state().busy(self.id);
    }

    /// A request is there. An extra place becomes one like all others if there is one by now; else the reason
    /// why not.
    pub(crate) fn claim(&self) -> Option<Crowd> {
        let mut state = self.places.state();
        state.busy(self.id);
        let limits = self.places.limits;
        let seat = state.seats.get(&self.id)?;
        let (neighbour, crowd) = (seat.neighbour, seat.extra?);
        if state.is_address_full(neighbour, limits) || state.taken >= limits.connections_max {
            return Some(crowd);
        }
        state.extra -= 1;
        state.count(neighbour, None);
        if let Some(seat) = state.seats.get_mut(&self.id) {
            seat.extra = None;
        }
        None
    }

    /// Whether this is an extra place.
    pub(crate) fn is_extra(&self) -> bool {
        self.places.state().seats.get(&self.id).is_some_and(|seat| seat.extra.is_some())
    }

    /// Resolves when the connection has to go.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer(Some(address.parse().unwrap()))
    }

    fn places(connections_max: usize, per_address_max: Option<usize>) -> Arc<Places> {
        Places::new(Limits { connections_max, per_address_max })
    }

    /// Whether a connection has been told to leave.
    fn must_leave(place: &Place) -> bool {
        !place.places.state().seats.contains_key(&place.id)
    }

    #[test]
    fn who_is_not_being_answered_makes_room() {
        let places = places(3, None);
        let admit = || places.admit(peer("127.0.0.1")).unwrap();
        let (busy, idle, silent) = (admit(), admit(), admit());
        busy.busy();
        idle.busy();
        idle.wait(Waiting::Idle);
        let fourth = admit();
        assert!(must_leave(&idle) && !must_leave(&silent) && !fourth.is_extra());
        assert!(admit().is_extra() && !must_leave(&silent), "who came just now is about to ask");
        assert!(places.state().make_room(Instant::now() + FRESH_GRACE));
        assert!(must_leave(&silent) && !must_leave(&fourth), "the one who has waited for longest");
        let fifth = admit();
        for place in [&fourth, &fifth] {
            place.busy();
        }
        assert_eq!((admit().claim(), busy.is_extra()), (Some(Crowd::Everyone), false));
        fourth.wait(Waiting::Sending);
        assert!(admit().is_extra(), "a body that has just begun");
        let late = Instant::now() + BODY_GRACE;
        assert!(places.state().make_room(late) && must_leave(&fourth));
        assert!(!places.state().make_room(late), "nobody is left to go");
        assert_eq!(admit().claim(), None);
    }

    #[test]
    fn silence_goes_before_idleness_once_it_had_time() {
        let places = places(2, None);
        let admit = || places.admit(peer("127.0.0.1")).unwrap();
        let (silent, idle) = (admit(), admit());
        idle.busy();
        idle.wait(Waiting::Idle);
        assert!(places.state().make_room(Instant::now() + HEAD_GRACE));
        assert!(must_leave(&silent) && !must_leave(&idle));
    }

    #[test]
    fn extra_places_are_few_and_short() {
        let places = places(1, None);
        let admit = || places.admit(peer("127.0.0.1"));
        let busy = admit().unwrap();
        busy.busy();
        let extra: Vec<Place> = (0..EXTRA_MAX).map(|_| admit().unwrap()).collect();
        assert!(extra.iter().all(Place::is_extra));
        let probe = admit().unwrap();
        assert!(must_leave(&extra[0]) && !must_leave(&extra[1]));
        for place in extra.iter().chain([&probe]) {
            assert_eq!(place.claim().is_some(), !must_leave(place));
        }
        assert!(admit().is_none(), "all of them are being answered");
        drop(busy);
        assert_eq!(probe.claim(), None, "a place has become free");
        drop((extra, probe));
        let state = places.state();
        assert_eq!((state.taken, state.extra, state.seats.len()), (0, 0, 0));
        assert!(state.silent_extra.is_empty() && state.silent.is_empty());
    }

    #[test]
    fn addresses_have_their_share() {
        let places = places(10, Some(2));
        for (first, second, third, expected) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1", Some(Crowd::Address)),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2", None),
            ("2001:db8::1", "2001:db8::2", "2001:db8::3", Some(Crowd::Address)),
            ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::3", None),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", None),
        ] {
            let admit = |address| places.admit(peer(address)).unwrap();
            let places = (admit(first), admit(second), admit(third));
            assert_eq!(places.2.claim(), expected, "{first} {second} {third}");
        }
        let unix: Vec<Place> = (0..3).map(|_| places.admit(Peer(None)).unwrap()).collect();
        assert!(unix.iter().all(|place| place.claim().is_none()));
        drop(unix);
        assert!(places.state().by_address.is_empty());
    }
}
