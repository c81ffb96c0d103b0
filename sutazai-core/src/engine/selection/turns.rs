//! Whose turn it is among the sub-queues of one effective priority, and what has to be read to know.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::{
    Asked, Selection,
    lane::{Lane, Place, due_by},
};
use crate::clock::Timestamp;

/// A virtual time that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Start(f64);

impl Eq for Start {}

impl PartialOrd for Start {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Start {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A tenant's turn: when it starts, when its first task was due, and which tenant it is, in order of names. What is not
/// read yet stands at the least it can be, so a turn that is first and has been read is first indeed.
type Turn = Reverse<(Start, Timestamp, usize)>;

/// The sub-queues at the highest effective priority that any has, by tenant.
pub(super) struct Turns {
    level: u8,
    /// The lowest level that is above whatever other sub-queues have: down to there they need not be looked at.
    down_to: u8,
    tenants: BinaryHeap<Turn>,
    /// By tenant, the earliest first.
    lanes: Vec<BinaryHeap<Reverse<(Place, usize)>>>,
}

impl Selection {
    /// Picks all that can be decided by what has been read, and says what must be read to go on.
    pub(super) fn pick(&mut self) -> Vec<Asked> {
        while self.left > 0 {
            let Some(mut turns) = self.turns() else { break };
            if self.take_turns(&mut turns) {
                return self.plan(turns);
            }
        }
        Vec::new()
    }

    /// `None` if nothing is left, or limits hold back all that is.
    fn turns(&mut self) -> Option<Turns> {
        let (mut level, mut below) = (None, None);
        let levels: Vec<Option<u8>> = self.lanes.iter().map(|lane| self.open_level(lane)).collect();
        for &at in levels.iter().filter(|at| at.is_some()) {
            if at > level {
                (level, below) = (at, level);
            } else if at < level {
                below = below.max(at);
            }
        }
        let level = level?;
        let mut lanes: Vec<BinaryHeap<_>> = self.tenants.iter().map(|_| BinaryHeap::new()).collect();
        for (index, lane) in self.lanes.iter().enumerate().filter(|&(index, _)| levels[index] == Some(level)) {
            if let Some(place) = lane.next(self.now) {
                lanes[lane.tenant].push(Reverse((place, index)));
            }
        }
        let mut tenants = BinaryHeap::new();
        for (index, lanes) in lanes.iter().enumerate() {
            if let Some(Reverse(((due_at, _), _))) = lanes.peek() {
                let tenant = &mut self.tenants[index];
                tenant.start = tenant.start.max(self.floor);
                tenants.push(Reverse((Start(tenant.start), *due_at, index)));
            }
        }
        Some(Turns { level, down_to: below.map_or(0, |below| below + 1), tenants, lanes })
    }

    fn open_level(&self, lane: &Lane) -> Option<u8> {
        lane.level(self.now).filter(|_| self.room(lane) > 0)
    }

    /// Picks in turn until the limit of the claim, the end of the level (both `false`), or a task that decides and has
    /// not been read (`true`).
    fn take_turns(&mut self, turns: &mut Turns) -> bool {
        while self.left > 0 {
            let Some(Reverse((start, due_at, tenant))) = turns.tenants.pop() else { return false };
            let lanes = &mut turns.lanes[tenant];
            while lanes.peek().is_some_and(|Reverse((_, lane))| self.room(&self.lanes[*lane]) == 0) {
                lanes.pop();
            }
            let Some(&Reverse(((first, _), lane))) = lanes.peek() else { continue };
            if first != due_at {
                // A limit has closed the sub-queue that the turn was for.
                turns.tenants.push(Reverse((start, first, tenant)));
                continue;
            }
            if self.lanes[lane].first().is_none() {
                turns.tenants.push(Reverse((start, due_at, tenant)));
                return true;
            }
            self.grant(lane);
            lanes.pop();
            if self.lanes[lane].level(self.now).is_some_and(|level| level >= turns.level)
                && let Some(place) = self.lanes[lane].next(self.now)
            {
                lanes.push(Reverse((place, lane)));
            }
            if let Some(Reverse(((next, _), _))) = lanes.peek() {
                turns.tenants.push(Reverse((Start(self.tenants[tenant].start), *next, tenant)));
            }
        }
        false
    }

    /// Plays the turns on as if what has not been read had no end, and asks for what that would take.
    fn plan(&mut self, mut turns: Turns) -> Vec<Asked> {
        let mut wanted: Vec<Option<usize>> = vec![None; self.tenants.len()];
        let mut supply = vec![0; self.tenants.len()];
        let mut order = Vec::new();
        let mut left = self.left;
        while left > 0 {
            let Some(Reverse((start, due_at, tenant))) = turns.tenants.pop() else { break };
            let count = wanted[tenant].get_or_insert_with(|| {
                order.push(tenant);
                supply[tenant] = self.supply(&turns, tenant);
                0
            });
            if *count < supply[tenant] {
                *count += 1;
                left -= 1;
                turns.tenants.push(Reverse((Start(start.0 + self.tenants[tenant].cost), due_at, tenant)));
            }
        }
        let mut planned = vec![0; self.agents.len()];
        let mut asks = Vec::new();
        for tenant in order {
            self.ask(&turns, tenant, wanted[tenant].unwrap_or(0), &mut planned, &mut asks);
        }
        asks
    }

    /// How many tasks a tenant can have at this level, as far as is known.
    fn supply(&self, turns: &Turns, tenant: usize) -> usize {
        let mut known: usize = 0;
        for lane in turns.lanes[tenant].iter().map(|Reverse((_, lane))| &self.lanes[*lane]) {
            if self.room(lane) > 0 {
                let endless = lane.endless(turns.level, self.now);
                let more = if endless { usize::MAX } else { lane.known(turns.level, self.now).len() };
                known = known.saturating_add(more);
            }
        }
        let tenant = &self.tenants[tenant];
        known.min(super::below(tenant.limit, tenant.running))
    }

    /// Asks for the first `wanted` tasks of a tenant, as far as they are not read: in equal parts of its sub-queues that
    /// may have them, and twice as much as before of one that had all it was asked for and has been picked empty.
    fn ask(&mut self, turns: &Turns, tenant: usize, wanted: usize, planned: &mut [usize], asks: &mut Vec<Asked>) {
        let mut line: Vec<(Place, Option<usize>)> = Vec::new();
        for &Reverse((_, index)) in &turns.lanes[tenant] {
            let lane = &self.lanes[index];
            if self.room(lane) > 0 {
                let known = lane.known(turns.level, self.now).take(wanted);
                line.extend(known.map(|task| ((task.due_at, Some(task.id)), None)));
                if lane.endless(turns.level, self.now) {
                    line.push((lane.unread(), Some(index)));
                }
            }
        }
        line.sort_unstable();
        line.truncate(wanted);
        let unread: Vec<(usize, usize)> =
            line.iter().enumerate().filter_map(|(before, &(_, lane))| Some((before, lane?))).collect();
        let missing = wanted - (line.len() - unread.len());
        for &(before, index) in &unread {
            let (room, limits) = (self.room(&self.lanes[index]), self.lanes[index].limits);
            let again = if self.lanes[index].first().is_none() { 2 * self.lanes[index].asked } else { 0 };
            // No more than could be among the first, whatever the others have.
            let share = missing.div_ceil(unread.len()).max(again).min(wanted - before);
            let limit = match limits {
                Some(limits) => share.min(room.saturating_sub(planned[limits.agent])),
                None => share.min(room),
            };
            if let Some(limits) = limits {
                planned[limits.agent] += limit;
            }
            if limit > 0 {
                let lane = &mut self.lanes[index];
                lane.asked = limit;
                let due_by = due_by(lane.priority, turns.down_to, self.now);
                asks.push(Asked { lane: index, due_by, limit, answered: false });
            }
        }
    }
}
