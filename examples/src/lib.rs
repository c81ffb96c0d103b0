//! One lesson a file, in the order to read them. Each runs from the root of the workspace with `cargo run --example NAME`.
//!
//! | lesson | what it shows |
//! | --- | --- |
//! | `hello` | ten lines to a running agent |
//! | `typed_agent` | an agent with Rust types for input and output: what is refused, where, and why |
//! | `schema_agent` | an agent with JSON schemas and no Rust type |
//! | `events_and_progress` | follow a task while it works |
//! | `retries_and_deadlines` | temporary and permanent faults, retry policy, deadline |
//! | `agents_calling_agents` | an agent that asks other agents, and what a cancel does |
//! | `batch_submit` | many tasks in one commit, idempotency keys, priorities, labels |
//! | `durable` | one line more and tasks survive the end of the process |
//! | `durable_approval` | steps, another agent, a person's approval with a time limit, and a restart in between |
//! | `custom_store_or_model` | a model of your own behind the trait |
//! | `chat_local` | an in-process model, streamed (needs `models pull smollm2:135m`) |
//! | `ask_documents` | questions over a folder of documents, with citations (needs both embedded models) |

/// The code in the guides, compiled and run as tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/guides/replay.md")]
    pub struct Replay;
}
