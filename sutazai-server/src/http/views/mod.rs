//! What goes over the wire, as types: written straight from what the house holds, described for OpenAPI.

mod agent;
mod submit;
mod task;

pub(super) use self::{
    agent::{AgentList, AgentView, Availability},
    submit::{BatchItem, BatchReply, SubmitBatch, SubmitOne, SubmitTask},
    task::{EventView, JobAccepted, JobView, TaskList, TaskView},
};
