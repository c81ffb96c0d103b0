//! What goes over the wire, as types: written straight from what the house holds, described for OpenAPI.

mod agent;
mod change;
mod dead_letter;
mod event;
mod journal;
mod node;
mod schedule;
mod submit;
mod task;
mod webhook;

pub(super) use self::{
    agent::{AgentList, AgentView, Availability},
    change::{ForkTask, RequeueMany, RequeueTask, Requeued, ResolveEntry, Signalled},
    dead_letter::{Attempt, Attempts, DeadLetterList, DeadLetterView},
    event::{EventView, FeedEvent, FeedEventView, FeedList},
    journal::{CassetteView, EntryView, JournalView, ReplayView},
    node::{NodeList, NodeView},
    schedule::{PutSchedule, ScheduleList, ScheduleView},
    submit::{BatchItem, BatchReply, SubmitBatch, SubmitOne, SubmitTask},
    task::{JobAccepted, JobView, TaskList, TaskView},
    webhook::{WebhookLetter, WebhookLetterList},
};
