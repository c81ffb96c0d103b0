//! Which of the deliveries in hand begin, wait a little, or are put off: one slow host must not hold up the others.
//!
//! Every host has its own slots, and all together have [`AT_ONCE`]. What finds no slot waits here, where the next free one is a moment away; but a
//! host that turns out to be slow gets few slots and no waiting room: the rest of what is for it is put off in the store, spread over the time that the
//! host would need for it. No clock, no IO.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// Deliveries under way in one process.
pub(super) const AT_ONCE: usize = 64;

/// Those of one host, and of one that is slow.
const OF_HOST: usize = 8;
const OF_SLOW_HOST: u32 = 2;

/// Nothing more is taken from the store while so many wait here.
const WAITING: usize = 64;

/// An attempt that takes longer makes its host a slow one.
const SLOW: Duration = Duration::from_secs(2);

/// Nothing is put off for longer, however much there is for a host.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Hosts that are remembered although nothing of theirs is in hand.
const REMEMBERED: usize = 1_024;

/// What is in hand, by host. Moments are durations since any beginning.
pub(super) struct Hosts<T> {
    hosts: HashMap<String, Host<T>>,
    running: usize,
    waiting: usize,
}

struct Host<T> {
    /// When each of those under way began.
    running: Vec<Duration>,
    waiting: VecDeque<T>,
    /// How long an attempt takes, of late.
    pace: Duration,
    /// The first moment for which nothing is put off yet.
    free_at: Duration,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), running: 0, waiting: 0 }
    }
}

impl<T> Default for Host<T> {
    fn default() -> Self {
        Self { running: Vec::new(), waiting: VecDeque::new(), pace: Duration::ZERO, free_at: Duration::ZERO }
    }
}

impl<T> Host<T> {
    /// How long an attempt takes: one that is under way counts as soon as it takes longer than the last ones.
    fn pace(&self, now: Duration) -> Duration {
        self.running.iter().fold(self.pace, |pace, began| pace.max(now.saturating_sub(*began)))
    }

    fn is_slow(&self, now: Duration) -> bool {
        self.pace(now) > SLOW
    }

    fn has_slot(&self, now: Duration) -> bool {
        self.running.len() < if self.is_slow(now) { OF_SLOW_HOST as usize } else { OF_HOST }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

impl<T> Hosts<T> {
    /// How many more to take from the store.
    pub(super) fn room(&self) -> usize {
        if self.running < AT_ONCE { WAITING.saturating_sub(self.waiting) } else { 0 }
    }

    /// One more for this host.
    pub(super) fn add(&mut self, host: String, item: T) {
        self.hosts.entry(host).or_default().waiting.push_back(item);
        self.waiting += 1;
    }

    /// The next that begins, if there is one, counted as begun now. The host with the fewest under way goes first.
    pub(super) fn begin(&mut self, now: Duration) -> Option<(String, T)> {
        if self.running >= AT_ONCE {
            return None;
        }
        let able = self.hosts.iter_mut().filter(|(_, host)| !host.waiting.is_empty() && host.has_slot(now));
        let (name, host) = able.min_by_key(|(_, host)| host.running.len())?;
        let item = host.waiting.pop_front()?;
        host.running.push(now);
        self.waiting -= 1;
        self.running += 1;
        Some((name.clone(), item))
    }

    /// One that began at `began` has ended; its longest attempt took `took`, if it made one.
    pub(super) fn ended(&mut self, name: &str, began: Duration, took: Option<Duration>) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        let Some(place) = host.running.iter().position(|at| *at == began) else { return };
        host.running.swap_remove(place);
        self.running -= 1;
        if let Some(took) = took {
            // Slow at once, quick again only after a few.
            host.pace = took.max((host.pace + took) / 2);
        }
        if host.is_idle() && host.pace <= SLOW {
            self.hosts.remove(name);
        } else if self.hosts.len() > REMEMBERED {
            self.hosts.retain(|_, host| !host.is_idle());
        }
    }

    /// What waits for slow hosts that have no slot, and for how long to put each off.
    pub(super) fn put_off(&mut self, now: Duration) -> Vec<(T, Duration)> {
        let mut all = Vec::new();
        for host in self.hosts.values_mut() {
            if host.waiting.is_empty() || !host.is_slow(now) || host.has_slot(now) {
                continue;
            }
            let each = host.pace(now) / OF_SLOW_HOST;
            for item in host.waiting.drain(..) {
                host.free_at = host.free_at.max(now) + each;
                let rest = host.free_at.saturating_sub(now);
                host.free_at = host.free_at.min(now + LONGEST_REST);
                all.push((item, rest.min(LONGEST_REST)));
            }
        }
        self.waiting -= all.len();
        all
    }

    /// All that waits, at the end.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.hosts.values_mut().flat_map(|host| host.waiting.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Adds so many for a host, and says for whom those are that begin.
    fn fill(hosts: &mut Hosts<usize>, name: &str, count: usize, now: Duration) -> Vec<String> {
        (0..count).for_each(|n| hosts.add(name.to_owned(), n));
        std::iter::from_fn(|| hosts.begin(now)).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_host_has_its_slots_and_all_together_have_theirs() {
        let mut hosts = Hosts::default();
        assert_eq!(fill(&mut hosts, "a", 20, S).len(), OF_HOST);
        assert_eq!(fill(&mut hosts, "b", 1, S), ["b"], "another host has slots of its own");
        assert_eq!(hosts.room(), WAITING - 12);
        hosts.ended("a", S, Some(S / 100));
        assert_eq!(fill(&mut hosts, "b", 0, S), ["a"], "the next one is at hand");
        for other in 0..20 {
            fill(&mut hosts, &format!("c{other}"), 3, S);
        }
        assert_eq!((hosts.running, hosts.room()), (AT_ONCE, 0));
        assert!(hosts.put_off(S).is_empty(), "nobody is slow");
        let waiting = hosts.waiting;
        assert_eq!((hosts.drain().len(), hosts.waiting), (waiting, 0));
    }

    #[test]
    fn what_is_for_a_slow_host_makes_room_for_others() {
        let mut hosts = Hosts::default();
        assert_eq!(fill(&mut hosts, "slow", WAITING, Duration::ZERO).len(), OF_HOST);
        assert!(hosts.put_off(S).is_empty());
        let rests: Vec<_> = hosts.put_off(4 * S).into_iter().map(|(_, rest)| rest).collect();
        assert_eq!(rests.len(), WAITING - OF_HOST, "its attempts are under way for long: that is enough to know");
        assert_eq!(rests[..3], [2 * S, 4 * S, 6 * S], "as the slots of a slow host come free");
        assert_eq!(rests.last(), Some(&LONGEST_REST));
        assert_eq!(hosts.room(), WAITING);
        assert_eq!(fill(&mut hosts, "quick", 1, 4 * S), ["quick"]);
        for _ in 0..OF_HOST {
            hosts.ended("slow", Duration::ZERO, Some(10 * S));
        }
        assert_eq!(fill(&mut hosts, "slow", 9, 10 * S).len(), OF_SLOW_HOST as usize, "it has few slots from now on");
        assert_eq!(hosts.put_off(10 * S).len(), 7);
        for _ in 0..4 {
            hosts.ended("slow", 10 * S, Some(S / 100));
            assert_eq!(fill(&mut hosts, "slow", 1, 10 * S).len(), 1);
        }
        assert_eq!(fill(&mut hosts, "slow", 9, 10 * S).len(), OF_HOST - 2, "it is quick again");
    }

    #[test]
    fn hosts_without_anything_in_hand_are_forgotten() {
        let mut hosts = Hosts::default();
        for n in 0..3 * REMEMBERED {
            let name = format!("h{n}");
            fill(&mut hosts, &name, 1, S);
            hosts.ended(&name, S, Some(if n % 2 == 0 { S } else { 10 * S }));
            hosts.ended(&name, S, None);
        }
        assert!(hosts.hosts.len() <= REMEMBERED && hosts.running == 0);
    }
}
