//! Which writes go into which commit, and which commits may be under way at once.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::{Outcomes, Pending};
use crate::{store::TaskWrite, task::TaskId};

/// A commit takes no more requests once it holds so many writes: bounds what a commit takes, in time and memory.
const GROUP: usize = 2_048;

/// The same for their bytes. Only a single request may be larger than that.
const GROUP_BYTES: usize = 16 << 20;

/// How many writes of a group are whose.
type Caller = (usize, oneshot::Sender<Outcomes>);

/// Writes that go to the store as one batch.
#[derive(Default)]
pub(super) struct Group {
    pub(super) writes: Vec<TaskWrite>,
    pub(super) callers: Vec<Caller>,
    bytes: usize,
}

impl Group {
    /// Takes a request, or gives it back if there is no room for it.
    fn take(&mut self, mut request: Pending) -> Option<Pending> {
        let bytes = request.writes.iter().map(TaskWrite::bytes).sum::<usize>();
        if !self.callers.is_empty() && (self.writes.len() >= GROUP || self.bytes + bytes > GROUP_BYTES) {
            return Some(request);
        }
        self.bytes += bytes;
        self.callers.push((request.writes.len(), request.done));
        self.writes.append(&mut request.writes);
        None
    }

    fn touches(&self) -> impl Iterator<Item = TaskId> {
        self.writes.iter().flat_map(touches)
    }
}

/// The tasks that a write changes or goes by: with two of them in the store at once, either could come first.
fn touches(write: &TaskWrite) -> impl Iterator<Item = TaskId> {
    let (copied, children) = match write {
        TaskWrite::Insert { journal: Some(copy), .. } => (Some(copy.from), &[][..]),
        TaskWrite::Append { children, .. } => (None, &children[..]),
        _ => (None, &[][..]),
    };
    let parent = write.image().and_then(|task| task.parent_id);
    let children = children.iter().map(|child| child.task.id);
    [Some(write.id()), parent, copied].into_iter().flatten().chain(children)
}

/// Makes groups of what arrives, in the order of arrival, and lets as many be under way at once as the store takes: each for other tasks, so that all writes
/// of one task reach the store in order.
pub(super) struct Groups {
    most: usize,
    next: Group,
    /// What has no room in the next group, or goes by a task of one under way. Nobody passes it.
    left: Option<Pending>,
    under_way: usize,
    /// The tasks of those under way; not kept where there is only ever one.
    busy: HashSet<TaskId>,
}

impl Groups {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), next: Group::default(), left: None, under_way: 0, busy: HashSet::new() }
    }

    /// Whether a request can be taken. What cannot be committed now had better wait where its sender is held back.
    pub(super) fn has_room(&self) -> bool {
        self.left.is_none() && self.under_way < self.most
    }

    pub(super) fn take(&mut self, request: Pending) {
        let waits = request.writes.iter().flat_map(touches).any(|task| self.busy.contains(&task));
        self.left = if waits { Some(request) } else { self.next.take(request) };
    }

    /// Takes what was left, where there is room for it by now.
    fn take_left(&mut self) {
        if let Some(request) = self.left.take() {
            self.take(request);
        }
    }

    /// The group that is to be committed now, if there is one.
    pub(super) fn begin(&mut self) -> Option<Group> {
        let writes = self.next.writes.len();
        // A commit costs much, however small it is: beside another one it must be worth it.
        let worth = self.under_way == 0 || self.left.is_some() || 2 * writes >= self.busy.len();
        if self.next.callers.is_empty() || self.under_way == self.most || !worth {
            return None;
        }
        self.under_way += 1;
        let group = std::mem::take(&mut self.next);
        if self.most > 1 {
            self.busy.extend(group.touches());
        }
        self.take_left();
        Some(group)
    }

    /// A group was committed, or was not.
    pub(super) fn end(&mut self, group: &Group) {
        self.under_way -= 1;
        if self.most > 1 {
            for task in group.touches() {
                self.busy.remove(&task);
            }
        }
        self.take_left();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.left.is_none() && self.next.callers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::{Payload, clock::Timestamp, task::Signal};

    /// A request that tells a task something of so many bytes, under a number.
    fn told(task: u8, number: usize, bytes: usize) -> Pending {
        let payload = Payload::of(&"x".repeat(bytes)).unwrap();
        let signal = Signal { name: number.to_string(), payload, at: Timestamp::from_millis(0) };
        let write = TaskWrite::Signal { task: TaskId::from_bytes([task; 16]), signal, key: None };
        Pending { writes: vec![write], done: oneshot::channel().0 }
    }

    fn number(write: &TaskWrite) -> usize {
        match write {
            TaskWrite::Signal { signal, .. } => signal.name.parse().unwrap(),
            _ => panic!("no signal"),
        }
    }

    #[test]
    fn a_group_is_bounded_by_bytes_too_and_loses_nothing() {
        let sizes = [&[1 << 20; 40][..], &[2 * GROUP_BYTES, 10, 10, 10]].concat();
        let mut groups = Groups::new(1);
        let mut found = Vec::new();
        let mut arriving = sizes.into_iter().peekable();
        while arriving.peek().is_some() || !groups.is_idle() {
            while groups.has_room()
                && let Some(bytes) = arriving.next()
            {
                groups.take(told(1, 0, bytes));
            }
            let group = groups.begin().unwrap();
            assert_eq!(group.writes.len(), group.callers.len());
            let bytes: usize = group.writes.iter().map(TaskWrite::bytes).sum();
            assert!(bytes <= GROUP_BYTES || group.writes.len() == 1, "{bytes} bytes in one commit");
            found.push(group.writes.len());
            groups.end(&group);
        }
        assert_eq!(found, [15, 15, 10, 1, 3]);
    }

    proptest! {
        /// Whatever arrives and whichever commit ends first: no task is in two groups under way, each one's writes come in order, and all come.
        #[test]
        fn groups_under_way_share_no_task(
            most in 1..5_usize,
            tasks in proptest::collection::vec(0..6_u8, 0..120),
            draws in proptest::collection::vec(any::<u8>(), 1..60),
        ) {
            let mut arriving: VecDeque<_> = tasks.iter().copied().enumerate().collect();
            let mut draws = draws.into_iter().cycle();
            let (mut groups, mut under_way, mut seen) = (Groups::new(most), Vec::<Group>::new(), vec![Vec::new(); 6]);
            loop {
                let arrive = draws.next().unwrap() % 8 + u8::from(under_way.is_empty());
                for _ in 0..arrive {
                    if groups.has_room() && let Some((number, task)) = arriving.pop_front() {
                        groups.take(told(task, number, 1));
                    }
                }
                while let Some(group) = groups.begin() {
                    for task in group.touches() {
                        prop_assert!(under_way.iter().all(|other| other.touches().all(|busy| busy != task)));
                    }
                    for write in &group.writes {
                        seen[usize::from(write.id().as_bytes()[0])].push(number(write));
                    }
                    under_way.push(group);
                    prop_assert!(under_way.len() <= most);
                }
                if !under_way.is_empty() {
                    let which = usize::from(draws.next().unwrap()) % under_way.len();
                    groups.end(&under_way.swap_remove(which));
                } else if arriving.is_empty() {
                    break;
                }
            }
            prop_assert!(groups.is_idle() && groups.busy.is_empty());
            for (task, numbers) in seen.iter().enumerate() {
                let sent = (0..tasks.len()).filter(|number| usize::from(tasks[*number]) == task);
                prop_assert!(sent.eq(numbers.iter().copied()), "{}: {:?}", task, numbers);
            }
        }
    }
}
