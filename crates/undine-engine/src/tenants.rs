//! Whose turn it is: for each tenant that has sequences a queue, and a credit of rows.
//!
//! After every step each tenant is given an equal part of the step's rows and has paid for its own. Whoever
//! has most credit comes first in the next one, and of equals the one whose last turn is longest ago. Credits
//! and debts end at the rows of one step: nobody saves up more than the next step, and nobody pays for longer
//! than it takes to compute one.
//!
//! So a tenant that has work and no turn gains credit with every step, until it has as much as can be had and
//! nobody who had a turn since comes before it: every tenant's turn comes. One that is alone has every turn,
//! and no number here matters.
//!
//! Invariant: a tenant has a place here exactly as long as it has a sequence, waiting or running. Of those
//! who have left only the last turns are kept, and of the latest only: who goes and comes back after every
//! answer is no newcomer.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use undine_core::{RequestId, TenantId};

use crate::sequence::Sequence;

/// Tenants whose last turns are kept after they have left.
const LEFT_MAX: usize = 1024;
/// How many times the whole queue may be exceeded by tenants who have less than their share of it.
const QUEUE_OVERFLOW: usize = 2;

/// A tenant's place in [`Tenants`], as long as it has a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TenantIndex(u32);

/// The tenants and their queues.
pub(crate) struct Tenants {
    /// Places that are free have no tenant.
    places: Vec<Option<Tenant>>,
    free: Vec<TenantIndex>,
    names: HashMap<TenantId, TenantIndex>,
    /// Sequences in all queues.
    waiting: usize,
    /// Most credit, and most debt: the rows of a step.
    credit_max: i64,
    /// Turns so far.
    turns: u64,
    /// Last turns of those who have left, the latest last.
    left: VecDeque<(TenantId, u64)>,
}

/// One of them.
struct Tenant {
    name: TenantId,
    /// Preempted sequences in the order in which they began, then those that have not begun by priority and
    /// arrival.
    queue: VecDeque<Sequence>,
    running: u32,
    /// Rows that the others have had more of, or it.
    credit: i64,
    /// When its last turn was; 0 before the first.
    last_turn: u64,
    /// From which place in the order of beginning on its running sequences may still have rows in this step.
    next: Option<u64>,
    /// Whether nothing yet keeps the first of its queue from beginning in this step.
    may_begin: bool,
}

impl Tenant {
    /// Whether the first of its queue may still begin in this step.
    fn waits(&self) -> bool {
        self.may_begin && !self.queue.is_empty()
    }
}

/// What there is room for when turns are given out.
#[derive(Clone, Copy)]
pub(crate) enum Room {
    /// Running sequences only.
    Rows,
    /// So many that begin, too.
    Seats(u32),
}

impl Tenants {
    /// None; a step has so many rows.
    pub fn new(rows: u32) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            waiting: 0,
            credit_max: rows.into(),
            turns: 0,
            left: VecDeque::new(),
        }
    }

    /// Sequences in all queues.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether a tenant may queue one more: while the queue has room, and beyond that as long as it has less
    /// than its share. So nobody fills the queue for all.
    pub fn has_room(&self, name: TenantId, limit: usize) -> bool {
        if self.waiting < limit {
            return true;
        }
        let own = self.names.get(&name).map_or(0, |&index| self.tenant(index).queue.len());
        let queues = self.tenants().filter(|tenant| !tenant.queue.is_empty()).count();
        let others = queues - usize::from(own > 0);
        others > 0 && own < (limit / (others + 1)).max(1) && self.waiting < QUEUE_OVERFLOW * limit
    }

    /// Puts a sequence in its tenant's queue.
    pub fn enqueue(&mut self, sequence: Sequence) {
        let queue = &mut self.tenant_mut(sequence.tenant).queue;
        let place = queue.partition_point(|other| other.order() < sequence.order());
        queue.insert(place, sequence);
        self.waiting += 1;
    }

    /// The first of a queue.
    pub fn front_mut(&mut self, index: TenantIndex) -> Option<&mut Sequence> {
        self.tenant_mut(index).queue.front_mut()
    }

    /// The first of a queue.
    pub fn front(&self, index: TenantIndex) -> Option<&Sequence> {
        self.tenant(index).queue.front()
    }

    /// The first of every queue.
    pub fn fronts(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.places.iter_mut().flatten().filter_map(|tenant| tenant.queue.front_mut())
    }

    /// Takes the first of a queue, which begins to run.
    pub fn begin_front(&mut self, index: TenantIndex) -> Sequence {
        let tenant = self.tenant_mut(index);
        let sequence = tenant.queue.pop_front().expect("the caller has looked at the front");
        tenant.running += 1;
        self.waiting -= 1;
        sequence
    }

    /// A sequence has stopped running, whether it goes back to the queue or not. In the first case it is
    /// there already.
    pub fn stopped(&mut self, index: TenantIndex) {
        self.tenant_mut(index).running -= 1;
        self.forget_if_gone(index);
    }

    /// Takes a sequence out of its queue. Returns whether it was in one.
    pub fn remove(&mut self, id: RequestId) -> bool {
        for place in 0..self.places.len() {
            let Some(tenant) = &mut self.places[place] else { continue };
            let Some(at) = tenant.queue.iter().position(|sequence| sequence.id == id) else { continue };
            tenant.queue.remove(at);
            self.waiting -= 1;
            self.forget_if_gone(TenantIndex(place as u32));
            return true;
        }
        false
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        self.places.clear();
        self.free.clear();
        self.names.clear();
        self.left.clear();
        self.waiting = 0;
    }

    /// A new step begins.
    pub fn begin_step(&mut self) {
        for tenant in self.places.iter_mut().flatten() {
            (tenant.next, tenant.may_begin) = (None, true);
        }
    }

    /// A running sequence of this tenant needs more than one row.
    pub fn needs_rows(&mut self, index: TenantIndex) {
        self.tenant_mut(index).next = Some(0);
    }

    /// Whose turn it is: one who can still have something in this step. The last seats are for those who have
    /// none.
    pub fn turn(&self, room: Room) -> Option<TenantIndex> {
        let seatless = self.tenants().filter(|tenant| tenant.waits() && tenant.running == 0).count();
        let can = |tenant: &Tenant| {
            let begins = match room {
                Room::Rows => false,
                Room::Seats(seats) => tenant.waits() && (tenant.running == 0 || seats as usize > seatless),
            };
            tenant.next.is_some() || begins
        };
        let places = self.places.iter().zip(0..).filter_map(|(place, index)| Some((place.as_ref()?, index)));
        let able = places.filter(|(tenant, _)| can(tenant));
        let first =
            able.max_by_key(|(tenant, index)| (tenant.credit, Reverse(tenant.last_turn), Reverse(*index)));
        first.map(|(_, index)| TenantIndex(index))
    }

    /// It has had rows in its turn.
    pub fn had_turn(&mut self, index: TenantIndex) {
        self.turns += 1;
        self.tenant_mut(index).last_turn = self.turns;
    }

    /// From which place in the order of beginning on its running sequences have not been looked at in this
    /// step.
    pub fn next_running(&self, index: TenantIndex) -> Option<u64> {
        self.tenant(index).next
    }

    /// Those of its running sequences before this place have been looked at; all of them, if there is none.
    pub fn looked_at(&mut self, index: TenantIndex, next: Option<u64>) {
        self.tenant_mut(index).next = next;
    }

    /// The first of its queue cannot begin in this step.
    pub fn cannot_begin(&mut self, index: TenantIndex) {
        self.tenant_mut(index).may_begin = false;
    }

    /// It has had so many rows.
    pub fn charge(&mut self, index: TenantIndex, rows: u32) {
        let debt_max = -self.credit_max;
        let tenant = self.tenant_mut(index);
        tenant.credit = debt_max.max(tenant.credit - i64::from(rows));
    }

    /// A step of so many rows has been written.
    pub fn end_step(&mut self, rows: u32) {
        let count = self.names.len() as u32;
        if count == 0 || rows == 0 {
            return;
        }
        // Rounded, each is given the same all the same, and the limits keep the sum from drifting.
        let part = i64::from((rows / count).max(1));
        for tenant in self.places.iter_mut().flatten() {
            tenant.credit = (tenant.credit + part).clamp(-self.credit_max, self.credit_max);
        }
    }

    /// Whether who waits may wait for the other: for itself, or for one who comes first.
    pub fn comes_before(&self, other: TenantIndex, waiting: TenantIndex) -> bool {
        other == waiting || self.tenant(other).credit >= self.tenant(waiting).credit
    }

    /// When no seat is free: who waits without any, and the tenant with most of them, if that has at least
    /// two and no more credit.
    pub fn to_give_up_a_seat(&self) -> Option<(TenantIndex, TenantIndex)> {
        let places =
            || self.places.iter().zip(0..).filter_map(|(place, index)| Some((place.as_ref()?, index)));
        let seatless = places().filter(|(tenant, _)| tenant.running == 0 && !tenant.queue.is_empty());
        let (first, seatless) = seatless
            .max_by_key(|(tenant, index)| (tenant.credit, Reverse(tenant.last_turn), Reverse(*index)))?;
        let (most, index) = places().max_by_key(|(tenant, _)| (tenant.running, Reverse(tenant.credit)))?;
        let gives = most.running > 1 && first.credit >= most.credit;
        gives.then_some((TenantIndex(seatless), TenantIndex(index)))
    }

    /// The place of a tenant; the caller puts a sequence in its queue.
    pub fn place(&mut self, name: TenantId) -> TenantIndex {
        if let Some(&index) = self.names.get(&name) {
            return index;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            TenantIndex(self.places.len() as u32 - 1)
        });
        self.places[index.0 as usize] = Some(Tenant {
            name,
            queue: VecDeque::new(),
            running: 0,
            credit: 0,
            last_turn: self.turn_of_left(name),
            next: None,
            may_begin: false,
        });
        self.names.insert(name, index);
        index
    }

    fn forget_if_gone(&mut self, index: TenantIndex) {
        let place = &mut self.places[index.0 as usize];
        if let Some(tenant) = place.take_if(|tenant| tenant.running == 0 && tenant.queue.is_empty()) {
            self.names.remove(&tenant.name);
            self.free.push(index);
            if self.left.len() == LEFT_MAX {
                self.left.pop_front();
            }
            self.left.push_back((tenant.name, tenant.last_turn));
        }
    }

    /// The last turn of a tenant that comes back, which is then no longer among those who have left; 0 of one
    /// that is new.
    fn turn_of_left(&mut self, name: TenantId) -> u64 {
        let at = self.left.iter().rposition(|&(left, _)| left == name);
        at.and_then(|at| self.left.remove(at)).map_or(0, |(_, turn)| turn)
    }

    fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.places.iter().flatten()
    }

    fn tenant(&self, index: TenantIndex) -> &Tenant {
        self.places[index.0 as usize].as_ref().expect("who has a sequence is known")
    }

    fn tenant_mut(&mut self, index: TenantIndex) -> &mut Tenant {
        self.places[index.0 as usize].as_mut().expect("who has a sequence is known")
    }

    /// Panics unless the queues are in order and exactly those are known who have sequences; `running` names
    /// the tenant of each that runs.
    pub fn check_integrity(&self, running: impl Iterator<Item = TenantIndex>) {
        let mut seats = vec![0u32; self.places.len()];
        running.for_each(|index| seats[index.0 as usize] += 1);
        let mut waiting = 0;
        for (place, &seats) in self.places.iter().zip(&seats) {
            let Some(tenant) = place else {
                assert_eq!(seats, 0, "a tenant that runs is not known");
                continue;
            };
            assert_eq!(tenant.running, seats, "seats of {:?}", tenant.name);
            assert!(seats > 0 || !tenant.queue.is_empty(), "{:?} has nothing here", tenant.name);
            assert!(
                tenant.queue.iter().is_sorted_by(|a, b| a.order() < b.order()),
                "a queue is out of order"
            );
            assert!(tenant.queue.iter().all(|sequence| sequence.origin.tenant == tenant.name));
            assert!(
                tenant.credit.abs() <= self.credit_max,
                "{:?} has {} rows of credit",
                tenant.name,
                tenant.credit
            );
            waiting += tenant.queue.len();
        }
        assert_eq!(waiting, self.waiting, "sequences in all queues");
        assert_eq!(self.names.len() + self.free.len(), self.places.len(), "a place of a tenant is lost");
    }
}
