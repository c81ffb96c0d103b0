//! The rules of a task's life, pure: no clock, no IO, no randomness. Every backend and the simulator run under these.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    payload::Payload,
    task::{
        Event, EventKind, JournalMark, MAX_DELAY, NodeId, Progress, Revision, Task, TaskError, TaskId, TaskRequest,
        TaskState, Wait, WaitReason,
    },
};

/// A task whose execution is cut short so often without getting anywhere is given up with code `crash_loop`.
pub const MAX_RECOVERIES: u32 = 25;

/// What is to happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A node takes it for execution.
    Claim {
        /// The node.
        node: NodeId,
    },
    /// The agent says how far it is.
    Report(Progress),
    /// The agent is done.
    Complete {
        /// Its output.
        output: Payload,
    },
    /// The attempt ended in an error.
    Fail {
        /// The error.
        error: TaskError,
        /// `None` for a fault that another attempt would meet again, else the least delay before the next.
        retry: Option<Duration>,
        /// 64 random bits for the jitter.
        random: u64,
    },
    /// Somebody wants it to end.
    Cancel,
    /// Its deadline has passed.
    Expire,
    /// Its execution was cut short by the end of its process, or its lease was lost.
    Recover {
        /// Entries that its journal holds.
        journal: u64,
    },
    /// All it can do is wait: for a signal, a child, or the moment given.
    Suspend {
        /// For what, as events tell it.
        reason: WaitReason,
        /// The next timer, if there is one.
        until: Option<Timestamp>,
    },
    /// It cannot go on before somebody has decided: the code does not fit the journal, or nobody knows whether an effect has happened.
    Halt {
        /// For what.
        reason: WaitReason,
        /// About what.
        error: TaskError,
    },
    /// What it was halted for is decided, and it goes on.
    Resume,
    /// What it was halted for is decided, and it is given up.
    Abandon {
        /// Why.
        error: TaskError,
    },
    /// It starts from the top with another input and an empty journal, by its own wish.
    Continue {
        /// The next input.
        input: Payload,
    },
    /// A dead letter starts again.
    Requeue {
        /// Another input: the journal of the old one is archived.
        input: Option<Payload>,
        /// Another deadline; without one a deadline that has passed is dropped.
        deadline: Option<Timestamp>,
    },
    /// A dead letter is given up for good.
    Discard,
    /// Its worker gives it back unfinished, in an orderly shutdown; not counted as a recovery.
    Release,
}

/// What a command makes of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The task afterwards.
    pub task: Task,
    /// What to append to its events.
    pub events: Vec<Event>,
}

/// Why a command does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The task has ended.
    Finished,
    /// The command does not fit the task's state.
    NotNow,
}

/// A new task of `request`, routed to version `version` of `agent`.
#[must_use]
pub fn create(id: TaskId, agent: Arc<str>, version: Arc<str>, request: TaskRequest, now: Timestamp) -> Transition {
    let created = EventKind::Created { agent: agent.to_string() };
    let task = Task {
        id,
        agent,
        agent_version: version,
        state: TaskState::Created,
        priority: request.priority,
        tenant: request.tenant,
        labels: request.labels,
        input: request.input,
        output: None,
        error: None,
        attempt: 0,
        retry: request.retry,
        recoveries: 0,
        progress: None,
        created_at: now,
        started_at: None,
        finished_at: None,
        deadline: request.deadline,
        parent_id: request.parent_id,
        detached: request.detached,
        wait: None,
        due_at: now,
        wakes: 0,
        journal: JournalMark::default(),
        webhook: request.webhook,
        discarded: false,
        revision: Revision::default(),
        node: None,
    };
    let mut step = Transition { task, events: Vec::with_capacity(4) };
    step.append(created, now);
    step
}

/// Applies `command` to `task` at `now`.
///
/// Each end, grant and loss of the right to execute raises the epoch, so that whoever held it before can write nothing more.
pub fn apply(task: &Task, command: Command, now: Timestamp) -> Result<Transition, Refused> {
    let mut step = Transition { task: task.clone(), events: Vec::new() };
    step.apply(command, now)?;
    Ok(step)
}

impl Transition {
    /// Applies one more command on top.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<(), Refused> {
        use TaskState::{Assigned, Cancelled, Completed, Created, Running, Waiting};
        if matches!(command, Command::Requeue { .. } | Command::Discard) {
            return self.decide(command, now);
        }
        let task = &mut self.task;
        if task.state.is_terminal() {
            return Err(Refused::Finished);
        }
        let executing = matches!(task.state, Assigned | Running);
        match command {
            Command::Claim { node } => {
                if executing || task.due_at > now {
                    return Err(Refused::NotNow);
                }
                task.revision.epoch += 1;
                // A recovered or suspended task goes on with its attempt; a fresh one and one after a failed attempt begin the next.
                if task.wait == Some(Wait::Retry) || task.attempt == 0 {
                    task.attempt += 1;
                    task.journal.attempt_epoch = task.revision.epoch;
                }
                task.state = Running;
                task.wait = None;
                task.started_at = Some(now);
                task.node = Some(node.clone());
                let (epoch, attempt) = (task.revision.epoch, task.attempt);
                self.append(EventKind::Assigned { node, epoch }, now);
                self.append(EventKind::Running { attempt }, now);
            }
            Command::Report(progress) => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                task.progress = Some(progress.clone());
                self.append(EventKind::Progress(progress), now);
            }
            Command::Complete { output } => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                task.output = Some(output);
                task.error = None;
                self.end(Completed, EventKind::Completed {}, now);
            }
            Command::Fail { error, retry, random } => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                match retry {
                    Some(least) if task.attempt < task.retry.max_attempts => {
                        task.state = Waiting;
                        task.wait = Some(Wait::Retry);
                        task.due_at = now.plus(task.retry.delay(task.attempt, random).max(least.min(MAX_DELAY)));
                        task.node = None;
                        task.revision.epoch += 1;
                        task.error = Some(error.clone());
                        let (attempt, due_at) = (task.attempt, task.due_at);
                        self.append(EventKind::Retrying { attempt, error, due_at }, now);
                    }
                    _ => self.fail(error, now),
                }
            }
            Command::Cancel => {
                task.error = None;
                self.end(Cancelled, EventKind::Cancelled {}, now);
            }
            Command::Expire => {
                self.fail(TaskError::new("deadline_exceeded", "the task's deadline has passed"), now);
            }
            Command::Recover { journal } => {
                if !executing {
                    return Err(Refused::NotNow);
                }
                task.recoveries = if journal > task.journal.length { 1 } else { task.recoveries + 1 };
                task.journal.length = journal.max(task.journal.length);
                if task.recoveries >= MAX_RECOVERIES {
                    let message =
                        format!("its execution was cut short {MAX_RECOVERIES} times without getting anywhere");
                    self.fail(TaskError::new("crash_loop", message), now);
                } else {
                    self.give_back(now);
                }
            }
            Command::Release => {
                if !executing {
                    return Err(Refused::NotNow);
                }
                self.give_back(now);
            }
            Command::Suspend { reason, until } => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                task.wait = Some(Wait::Event);
                task.due_at = until.unwrap_or(Timestamp::NEVER);
                self.leave(Waiting, EventKind::Waiting { reason, until, error: None }, now);
            }
            Command::Halt { reason, error } => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                task.wait = Some(Wait::Decision);
                task.due_at = Timestamp::NEVER;
                task.error = Some(error.clone());
                self.leave(Waiting, EventKind::Waiting { reason, until: None, error: Some(error) }, now);
            }
            Command::Resume => {
                if task.wait != Some(Wait::Decision) {
                    return Err(Refused::NotNow);
                }
                task.wait = Some(Wait::Event);
                task.due_at = now;
                task.error = None;
                self.leave(Waiting, EventKind::Resolved {}, now);
            }
            Command::Abandon { error } => {
                if task.wait != Some(Wait::Decision) {
                    return Err(Refused::NotNow);
                }
                self.fail(error, now);
            }
            Command::Continue { input } => {
                if task.state != Running {
                    return Err(Refused::NotNow);
                }
                self.begin_anew(Some(input), now);
                self.leave(Created, EventKind::Continued {}, now);
            }
            Command::Requeue { .. } | Command::Discard => return Err(Refused::NotNow),
        }
        Ok(())
    }

    /// What becomes of a dead letter.
    fn decide(&mut self, command: Command, now: Timestamp) -> Result<(), Refused> {
        if !self.task.is_dead_letter() {
            return Err(Refused::NotNow);
        }
        if let Command::Requeue { input, deadline } = command {
            let new_input = input.is_some();
            self.begin_anew(input, now);
            let task = &mut self.task;
            task.started_at = None;
            task.finished_at = None;
            task.deadline = deadline.or(task.deadline.filter(|at| *at > now));
            self.leave(TaskState::Created, EventKind::Requeued { new_input }, now);
        } else {
            self.task.discarded = true;
            self.task.revision.epoch += 1;
            self.append(EventKind::Discarded {}, now);
        }
        Ok(())
    }

    /// Back to the first attempt; another input begins another journal.
    fn begin_anew(&mut self, input: Option<Payload>, now: Timestamp) {
        let task = &mut self.task;
        if let Some(input) = input {
            task.input = input;
            task.journal = JournalMark { era: task.journal.era + 1, ..JournalMark::default() };
        }
        (task.attempt, task.recoveries) = (0, 0);
        (task.error, task.progress, task.output) = (None, None, None);
        task.due_at = now;
    }

    fn give_back(&mut self, now: Timestamp) {
        let recoveries = self.task.recoveries;
        self.leave(TaskState::Created, EventKind::Recovered { recoveries }, now);
    }

    /// Whoever held it holds it no more.
    fn leave(&mut self, state: TaskState, event: EventKind, now: Timestamp) {
        self.task.state = state;
        self.task.node = None;
        self.task.revision.epoch += 1;
        self.append(event, now);
    }

    fn fail(&mut self, error: TaskError, now: Timestamp) {
        self.task.error = Some(error.clone());
        self.end(TaskState::Failed, EventKind::Failed { error }, now);
    }

    fn end(&mut self, state: TaskState, event: EventKind, now: Timestamp) {
        self.task.finished_at = Some(now);
        self.task.wait = None;
        self.leave(state, event, now);
    }

    fn append(&mut self, kind: EventKind, at: Timestamp) {
        self.task.revision.seq += 1;
        self.events.push(Event { seq: self.task.revision.seq, task_id: self.task.id, at, kind });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{RetryPolicy, Summary, TaskId};

    fn task() -> Transition {
        let request =
            TaskRequest::new("a", Payload::null()).retry(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() });
        create(TaskId::from_bytes([7; 16]), "a".into(), "1.0.0".into(), request, Timestamp::from_millis(0))
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Claim { node: NodeId::new("n") }),
            Just(Command::Report(Progress { fraction: Some(0.5), message: String::new() })),
            Just(Command::Complete { output: Payload::null() }),
            (any::<bool>(), any::<u64>()).prop_map(|(temporary, random)| Command::Fail {
                error: TaskError::new("e", "m"),
                retry: temporary.then_some(Duration::ZERO),
                random,
            }),
            Just(Command::Cancel),
            Just(Command::Expire),
            (0u64..8).prop_map(|journal| Command::Recover { journal }),
            Just(Command::Release),
            prop::option::of((0i64..90_000).prop_map(Timestamp::from_millis))
                .prop_map(|until| Command::Suspend { reason: WaitReason::Timer, until }),
            Just(Command::Halt { reason: WaitReason::NonDeterminism, error: TaskError::new("non_determinism", "m") }),
            Just(Command::Resume),
            Just(Command::Abandon { error: TaskError::new("given_up", "m") }),
            Just(Command::Continue { input: Payload::null() }),
            (any::<bool>(), prop::option::of((0i64..90_000).prop_map(Timestamp::from_millis)))
                .prop_map(|(new, deadline)| Command::Requeue { input: new.then(Payload::null), deadline }),
            Just(Command::Discard),
        ]
    }

    proptest! {
        #[test]
        fn the_rules_hold_for_any_history(commands in prop::collection::vec((command(), 0i64..60_000), 0..60)) {
            let mut now = 0;
            let mut step = task();
            let mut seen = step.events.len();
            for (command, pause) in commands {
                now += pause;
                let before = step.task.clone();
                let claims = matches!(command, Command::Claim { .. });
                let decides = matches!(command, Command::Requeue { .. } | Command::Discard);
                match step.apply(command.clone(), Timestamp::from_millis(now)) {
                    Err(refused) => {
                        prop_assert_eq!(&step.task, &before, "a refused command changes nothing");
                        prop_assert_eq!(refused == Refused::Finished, before.state.is_terminal() && !decides);
                    }
                    Ok(()) => {
                        let after = &step.task;
                        prop_assert!(decides == before.state.is_terminal(), "what has ended stays ended unless it is a dead letter");
                        prop_assert!(!decides || before.is_dead_letter());
                        prop_assert_eq!(after.wait.is_some(), after.state == TaskState::Waiting);
                        prop_assert!(after.journal.era >= before.journal.era);
                        prop_assert!(after.attempt <= after.retry.max_attempts);
                        prop_assert!(after.recoveries <= MAX_RECOVERIES);
                        prop_assert!(after.node.is_some() == (after.state == TaskState::Running));
                        prop_assert!(after.finished_at.is_some() == after.state.is_terminal());
                        prop_assert!(!claims || before.due_at.as_millis() <= now, "nothing runs before it is due");
                        let keeps = matches!(command, Command::Report(_));
                        prop_assert_eq!(after.revision.epoch, before.revision.epoch + u64::from(!keeps), "every change of hands raises the epoch");
                        prop_assert!(step.events.len() > seen);
                        seen = step.events.len();
                    }
                }
            }
            let numbers: Vec<_> = step.events.iter().map(|event| event.seq).collect();
            prop_assert_eq!(numbers, (1..=step.task.revision.seq).collect::<Vec<_>>(), "events are numbered without gaps");
            // A generation ends once; a requeue begins the next.
            let generations = step.events.split(|event| matches!(event.kind, EventKind::Requeued { .. }));
            let ends: Vec<_> = generations.map(|events| events.iter().filter(|event| event.kind.is_terminal()).count()).collect();
            let (last, others) = ends.split_last().unwrap();
            prop_assert!(others.iter().all(|ends| *ends == 1), "one terminal event a generation");
            prop_assert_eq!(*last, usize::from(step.task.state.is_terminal()));
            prop_assert_eq!(Summary::of(&step.events).unwrap(), Summary::from(&step.task), "the fold of the events is the state");
        }
    }

    #[test]
    fn attempts_count_errors_and_recoveries_do_not() {
        let node = NodeId::new("n");
        let mut step = task();
        let at = |s: i64| Timestamp::from_millis(s * 60_000);
        for minute in 0..3 {
            step.apply(Command::Claim { node: node.clone() }, at(minute * 2)).unwrap();
            step.apply(Command::Recover { journal: 0 }, at(minute * 2)).unwrap();
            step.apply(Command::Claim { node: node.clone() }, at(minute * 2)).unwrap();
            assert_eq!(i64::from(step.task.attempt), minute + 1);
            let retry = Some(Duration::ZERO);
            step.apply(Command::Fail { error: TaskError::new("e", "m"), retry, random: 1 }, at(minute * 2)).unwrap();
        }
        assert_eq!((step.task.state, step.task.attempt, step.task.recoveries), (TaskState::Failed, 3, 3));
    }
}
