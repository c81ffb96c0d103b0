//! What the agents of a simulation do: programs drawn by the seed, and what they must come to.

use std::time::Duration;

use fastrand::Rng;

/// One thing that an agent does.
#[derive(Debug)]
pub enum Op {
    /// An effect: a step of this name, so many milliseconds long, that fails in the first so many attempts of its task; the code goes on if `caught`.
    Step {
        name: u32,
        work: u64,
        fails: u32,
        caught: bool,
        kind: Kind,
    },
    /// So many steps of one name.
    Repeat {
        name: u32,
        times: u32,
    },
    Sleep {
        ms: u64,
    },
    /// The next signal of the one name.
    Wait {
        limit: Option<u64>,
    },
    /// Another task, by program, and its output.
    Call {
        program: usize,
    },
    /// Another task whose output is awaited after the next operation, or never where it is detached.
    Spawn {
        program: usize,
        detached: bool,
    },
    Join(Vec<Vec<Op>>),
    Race(Vec<Vec<Op>>),
    /// A drawn number and the time, and a step that compares them with what they were.
    Draw {
        name: u32,
    },
    Progress,
    Patched,
    /// An error that every attempt meets.
    Fail,
    /// The task starts again as another program.
    Continue {
        program: usize,
    },
}

/// How a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Keyed,
    Destructive,
    /// Tried again by itself: fails once each time its code runs.
    Retried,
}

/// What an agent is to do for one task.
#[derive(Debug)]
pub struct Program {
    pub agent: &'static str,
    pub ops: Vec<Op>,
    /// What it gives if it completes; none where that depends on who is faster.
    pub output: Option<u64>,
    /// Whether it may end in the errors that are part of the plan.
    pub may_fail: bool,
    /// Signals that it may wait for.
    pub waits: u32,
    /// Attempts that its request allows.
    pub attempts: u32,
    /// How many attempts some step of it fails in.
    pub fails: u32,
}

/// The agents of a simulation.
pub const AGENTS: [&str; 4] = ["work", "pure", "limited", "rated"];

/// What an effect gives.
pub fn value(name: u32, occurrence: u32) -> u64 {
    u64::from(name) * 1_000 + u64::from(occurrence) + 1
}

/// What comes of one result after another.
pub fn fold(acc: u64, value: u64) -> u64 {
    (acc ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// Draws programs, those without calls first, so that what they call is known.
pub struct Author<'r> {
    rng: &'r mut Rng,
    programs: Vec<Program>,
    names: u32,
}

/// What is known of a program while it is written.
struct Draft {
    output: Option<u64>,
    may_fail: bool,
    waits: u32,
    attempts: u32,
    fails: u32,
    /// Operations that it may still get.
    budget: u32,
}

/// How many programs of each depth of calls there are.
const LEVELS: [usize; 3] = [14, 8, 6];

impl<'r> Author<'r> {
    pub fn write(rng: &'r mut Rng) -> Vec<Program> {
        let mut author = Self { rng, programs: Vec::new(), names: 0 };
        for count in LEVELS {
            let callable = author.programs.len();
            for _ in 0..count {
                let program = author.program(callable);
                author.programs.push(program);
            }
        }
        author.programs
    }

    fn program(&mut self, callable: usize) -> Program {
        let attempts = self.rng.u32(1..=4);
        let mut draft = Draft { output: Some(0), may_fail: false, waits: 0, attempts, fails: 0, budget: 8 };
        let agent = match self.rng.u32(0..20) {
            0..11 => AGENTS[0],
            11..16 => AGENTS[1],
            16..19 => AGENTS[2],
            _ => AGENTS[3],
        };
        let mut ops = self.ops(&mut draft, callable, true);
        if agent == "pure" {
            // What has no effects may still have a journal.
            ops.retain(|op| !matches!(op, Op::Step { kind: Kind::Destructive, .. }));
            draft.output = None;
            if self.rng.bool() {
                ops.clear();
                draft = Draft { output: Some(0), may_fail: false, waits: 0, ..draft };
            }
        }
        let Draft { output, may_fail, waits, fails, .. } = draft;
        Program { agent, ops, output, may_fail, waits, attempts, fails }
    }

    fn ops(&mut self, draft: &mut Draft, callable: usize, trunk: bool) -> Vec<Op> {
        let count = self.rng.usize(1..=if trunk { 5 } else { 2 });
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(left) = draft.budget.checked_sub(1) else { break };
            draft.budget = left;
            let op = self.op(draft, callable, trunk);
            let last = matches!(op, Op::Fail | Op::Continue { .. });
            ops.push(op);
            if last {
                break;
            }
        }
        ops
    }

    fn name(&mut self) -> u32 {
        self.names += 1;
        self.names
    }

    fn op(&mut self, draft: &mut Draft, callable: usize, trunk: bool) -> Op {
        match self.rng.u32(0..100) {
            0..34 => self.step(draft),
            34..40 => {
                let (name, times) = (self.name(), self.rng.u32(2..=4));
                (0..times).for_each(|n| add(draft, value(name, n)));
                Op::Repeat { name, times }
            }
            40..50 => Op::Sleep { ms: self.milliseconds() },
            50..58 => {
                let limit = (self.rng.u32(0..3) == 0).then(|| self.rng.u64(50..2_000));
                // Signals are told apart by their number; after a limit, and beside other branches, nobody knows which one it is.
                if limit.is_some() || !trunk {
                    draft.output = None;
                }
                add(draft, u64::from(draft.waits) + 1);
                draft.waits += 1;
                Op::Wait { limit }
            }
            58..72 if callable > 0 => {
                let program = self.rng.usize(0..callable);
                if self.rng.u32(0..6) == 0 {
                    return Op::Spawn { program, detached: true };
                }
                let called = &self.programs[program];
                draft.may_fail |= called.may_fail;
                match called.output {
                    Some(output) => add(draft, output),
                    None => draft.output = None,
                }
                if self.rng.bool() { Op::Call { program } } else { Op::Spawn { program, detached: false } }
            }
            72..80 if trunk => {
                let branches = (0..self.rng.usize(2..=3)).map(|_| {
                    let outer = draft.output.replace(0);
                    let ops = self.ops(draft, callable, false);
                    let inner = std::mem::replace(&mut draft.output, outer);
                    match inner {
                        Some(inner) => add(draft, inner),
                        None => draft.output = None,
                    }
                    ops
                });
                Op::Join(branches.collect())
            }
            80..85 if trunk => {
                let branches = (0..self.rng.usize(2..=3)).map(|_| self.ops(draft, callable, false)).collect();
                draft.output = None;
                Op::Race(branches)
            }
            85..90 => Op::Draw { name: self.name() },
            90..93 => Op::Progress,
            93..95 if trunk => Op::Patched,
            95 if trunk => {
                draft.may_fail = true;
                Op::Fail
            }
            96..98 if trunk && callable > 0 => {
                let program = self.rng.usize(0..callable);
                let next = &self.programs[program];
                draft.may_fail |= next.may_fail || next.fails >= draft.attempts;
                draft.fails = draft.fails.max(next.fails);
                draft.waits += next.waits;
                draft.output = None; // the next one's
                Op::Continue { program }
            }
            _ => self.step(draft),
        }
    }

    fn step(&mut self, draft: &mut Draft) -> Op {
        let name = self.name();
        let fails = if self.rng.u32(0..6) == 0 { self.rng.u32(1..=3) } else { 0 };
        let caught = fails > 0 && self.rng.u32(0..3) == 0;
        let kind = match self.rng.u32(0..12) {
            0..6 => Kind::Plain,
            6..9 => Kind::Keyed,
            9 => Kind::Destructive,
            _ => Kind::Retried,
        };
        if caught {
            draft.output = None; // another failure later makes it succeed in the next attempt
        } else {
            draft.may_fail |= fails >= draft.attempts;
            draft.fails = draft.fails.max(fails);
        }
        if kind == Kind::Destructive {
            draft.may_fail = true; // somebody may decide that it failed
            draft.output = None;
        }
        add(draft, value(name, 0));
        Op::Step { name, work: self.milliseconds(), fails, caught, kind }
    }

    /// Mostly nothing, at times long enough for a lease to lapse.
    fn milliseconds(&mut self) -> u64 {
        match self.rng.u32(0..20) {
            0..8 => 0,
            8..14 => self.rng.u64(1..20),
            14..19 => self.rng.u64(20..500),
            _ => self.rng.u64(500..2_500),
        }
    }
}

fn add(draft: &mut Draft, value: u64) {
    draft.output = draft.output.map(|acc| fold(acc, value));
}

/// Milliseconds as a duration.
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
