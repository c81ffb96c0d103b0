//! The rules of a task's life, pure: no clock, no IO, no randomness. Every backend and the simulator run under these.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    payload::Payload,
    task::{Event, EventKind, MAX_DELAY, NodeId, Progress, Revision, Task, TaskError, TaskId, TaskRequest, TaskState},
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
    /// Its execution was cut short by the end of its process.
    Recover,
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
        due_at: now,
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
                // A recovered task goes on with its attempt; a fresh one and one after a failed attempt begin the next.
                if task.state == Waiting || task.attempt == 0 {
                    task.attempt += 1;
                }
                task.state = Running;
                task.started_at = Some(now);
                task.node = Some(node.clone());
                task.revision.epoch += 1;
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
            Command::Recover | Command::Release => {
                if !executing {
                    return Err(Refused::NotNow);
                }
                task.recoveries += u32::from(command == Command::Recover);
                if command == Command::Recover && task.recoveries >= MAX_RECOVERIES {
                    let message = format!("its execution was cut short {MAX_RECOVERIES} times without an outcome");
                    self.fail(TaskError::new("crash_loop", message), now);
                } else {
                    task.state = Created;
                    task.node = None;
                    task.revision.epoch += 1;
                    let recoveries = task.recoveries;
                    self.append(EventKind::Recovered { recoveries }, now);
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: TaskError, now: Timestamp) {
        self.task.error = Some(error.clone());
        self.end(TaskState::Failed, EventKind::Failed { error }, now);
    }

    fn end(&mut self, state: TaskState, event: EventKind, now: Timestamp) {
        self.task.state = state;
        self.task.finished_at = Some(now);
        self.task.node = None;
        self.task.revision.epoch += 1;
        self.append(event, now);
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
    use crate::task::{RetryPolicy, TaskId};

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
            Just(Command::Recover),
            Just(Command::Release),
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
                match step.apply(command.clone(), Timestamp::from_millis(now)) {
                    Err(refused) => {
                        prop_assert_eq!(&step.task, &before, "a refused command changes nothing");
                        prop_assert_eq!(refused == Refused::Finished, before.state.is_terminal());
                    }
                    Ok(()) => {
                        let after = &step.task;
                        prop_assert!(!before.state.is_terminal(), "what has ended stays ended");
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
            let ends = step.events.iter().filter(|event| event.kind.is_terminal()).count();
            prop_assert_eq!(ends, usize::from(step.task.state.is_terminal()), "one terminal event");
        }
    }

    #[test]
    fn attempts_count_errors_and_recoveries_do_not() {
        let node = NodeId::new("n");
        let mut step = task();
        let at = |s: i64| Timestamp::from_millis(s * 60_000);
        for minute in 0..3 {
            step.apply(Command::Claim { node: node.clone() }, at(minute * 2)).unwrap();
            step.apply(Command::Recover, at(minute * 2)).unwrap();
            step.apply(Command::Claim { node: node.clone() }, at(minute * 2)).unwrap();
            assert_eq!(i64::from(step.task.attempt), minute + 1);
            let retry = Some(Duration::ZERO);
            step.apply(Command::Fail { error: TaskError::new("e", "m"), retry, random: 1 }, at(minute * 2)).unwrap();
        }
        assert_eq!((step.task.state, step.task.attempt, step.task.recoveries), (TaskState::Failed, 3, 3));
    }
}
