//! The codes of problem documents, as data: what each means and what to do. `/docs/errors` shows this table.

use serde::Serialize;

/// One code.
#[derive(Debug, Serialize)]
pub(super) struct Code {
    /// Stable, `snake_case`.
    pub(super) code: &'static str,
    /// The statuses it comes with.
    pub(super) statuses: &'static [u16],
    /// The kind of problem, for people.
    pub(super) title: &'static str,
    /// What it means and what to do.
    pub(super) help: &'static str,
}

const fn code(code: &'static str, statuses: &'static [u16], title: &'static str, help: &'static str) -> Code {
    Code { code, statuses, title, help }
}

/// Every code this server gives, by name.
pub(super) const CODES: &[Code] = &[
    code(
        "agent_not_found",
        &[404, 422],
        "No such agent",
        "404 for an address, 422 for a body that names it. `GET /api/v1/agents` lists the agents.",
    ),
    code(
        "agent_required",
        &[422],
        "No agent named or found",
        "Name an `agent` or a `capability`, or say in `input.text` what is to be done.",
    ),
    code(
        "answer_invalid",
        &[502],
        "Answer does not fit",
        "The model's answer is not JSON that fits the schema, or its tool calls do not fit their tools, even after it was asked to mend it; `errors` \
         says where. Ask a more capable model, or for something simpler.",
    ),
    code(
        "body_too_large",
        &[413],
        "Request body too large",
        "Send less at once: split a batch, or hand large data over as files that the agent reads.",
    ),
    code(
        "budget_exceeded",
        &[429],
        "Budget exceeded",
        "The call may take more than is left of a budget; `detail` says whose, of what, how much and until when. Ask for less, come back after `Retry-After` \
         if waiting helps, or have the limit raised.",
    ),
    code(
        "budget_unavailable",
        &[503],
        "Budget unknown",
        "What is left of a budget cannot be found out, since the store does not answer. No model is asked meanwhile. Come back after `Retry-After`.",
    ),
    code("cancelled", &[409], "Cancelled", "The work was cancelled while the request waited for it."),
    code(
        "capability_not_found",
        &[422],
        "No agent with this capability",
        "`GET /api/v1/agents` shows what the agents can do.",
    ),
    code("conflict", &[409], "Conflict", "The request contradicts what is already there. Read it again, then decide."),
    code(
        "context_length_exceeded",
        &[400],
        "Prompt too long",
        "The prompt leaves no room for an answer in the model's context. Say less, or ask a model with more.",
    ),
    code(
        "dead_letter_not_found",
        &[404],
        "No such dead letter",
        "The task did not fail, or was requeued or discarded already. `GET /api/v1/dead-letters` lists those that can be decided about.",
    ),
    code(
        "engine_broken",
        &[503],
        "Engine stopped",
        "A part of the engine has stopped, which the server's log explains. Start it again; every acknowledged task goes on.",
    ),
    code(
        "entry_not_found",
        &[404],
        "No such entry",
        "The journal's entry is none whose outcome is unknown. The `error` of the waiting task names the one to resolve.",
    ),
    code(
        "full",
        &[503],
        "No room",
        "A bounded queue, pool or disk is full. Come back after `Retry-After`, or make room.",
    ),
    code(
        "host_not_allowed",
        &[421],
        "Host not allowed",
        "The `Host` header names neither this machine's loopback nor an allowed host: a page elsewhere may be trying to \
         reach this server through your browser (DNS rebinding). Add the name to the allowed hosts if it is yours.",
    ),
    code(
        "idempotency_conflict",
        &[409],
        "Idempotency key used with another request",
        "The key belongs to an earlier request with another body. Use a new key for a new request.",
    ),
    code(
        "internal",
        &[500],
        "Internal error",
        "A fault of this program. The server's log has more under the request id.",
    ),
    code("invalid", &[422], "Invalid request", "The request is well-formed but wrong; `errors` names the fields."),
    code(
        "invalid_input",
        &[422],
        "Input does not fit the agent",
        "`errors` names the fields; the agent's `input_schema` says what it takes.",
    ),
    code("job_not_found", &[404], "No such job", "The id is unknown, or the job is another agent's."),
    code(
        "lease_lost",
        &[503],
        "Lease lost",
        "This process could not reach the store in time, or others took over what it executed. It joins again by itself; ask another process, \
         or come back after `Retry-After`.",
    ),
    code(
        "malformed_json",
        &[400],
        "Malformed JSON",
        "The body is not one JSON document in UTF-8; `detail` says where.",
    ),
    code("method_not_allowed", &[405], "Method not allowed", "The `Allow` header lists the methods of this address."),
    code(
        "model_damaged",
        &[503],
        "Model damaged",
        "A file of a model that the request needs is not what it should be. `models rm NAME` and `models pull NAME` bring it back.",
    ),
    code(
        "model_malformed",
        &[502],
        "Answer not understood",
        "A model's tool call has arguments that are no JSON object. Ask again, or ask a model that is better at tools.",
    ),
    code(
        "model_not_found",
        &[404, 503],
        "Model not configured",
        "The request names or needs a model that this server has not. `models list` shows the models, `models pull NAME` gets one.",
    ),
    code(
        "model_timeout",
        &[504],
        "Model too slow",
        "The model said nothing for too long, the caller's deadline came first, or the answer was not read. Ask for less, read what comes, or raise `model_silence_ms`.",
    ),
    code(
        "model_unauthorised",
        &[502],
        "Model server refuses the key",
        "The server of the model does not take this server's key. Its operator sets it with SUTAZAI_OPENAI_API_KEY.",
    ),
    code(
        "model_unavailable",
        &[503],
        "Model not ready",
        "A model that the request needs is not on disk or does not answer; `detail` says what to do.",
    ),
    code(
        "model_unsupported",
        &[503],
        "Model cannot be run",
        "The file of a model that the request needs is sound, but its kind cannot run here.",
    ),
    code(
        "not_a_dead_letter",
        &[409],
        "Not a dead letter",
        "The task did not fail, or was requeued or discarded already. `GET /api/v1/dead-letters` lists those that can be decided about.",
    ),
    code(
        "not_a_webhook_dead_letter",
        &[409],
        "Not a dead letter of a webhook",
        "The task has no webhook, or it was not given up, or was requeued or discarded already. `GET /api/v1/webhooks/dead-letters` lists those that can be \
         decided about.",
    ),
    code(
        "nothing_to_resolve",
        &[409],
        "Nothing to resolve",
        "The task waits for no decision. Its `task.waiting` events say what it waits for.",
    ),
    code(
        "origin_not_allowed",
        &[403],
        "Origin not allowed",
        "A page of another origin may not change anything here. Send the request from this server's own pages or from a program.",
    ),
    code(
        "out_of_memory",
        &[503],
        "Model too large",
        "The model needs more memory than there is for models. Use a smaller one, or a shorter context.",
    ),
    code(
        "queue_full",
        &[429],
        "Too many wait",
        "So many tasks are queued, or so many requests wait for a model, that no more are taken. Come back after `Retry-After`.",
    ),
    code("request_timeout", &[408], "Request took too long", "The body did not arrive in time. Send it again."),
    code("route_not_found", &[404], "No such address", "`/docs` lists the addresses of this server."),
    code(
        "schedule_exists",
        &[409],
        "Schedule exists",
        "There is a schedule of this name already. Change it with PUT, or choose another name.",
    ),
    code("schedule_not_found", &[404], "No such schedule", "`GET /api/v1/schedules` lists the schedules."),
    code(
        "schema_unsupported",
        &[400],
        "Schema not supported",
        "The model cannot be bound to this JSON schema, or its answer or a tool's arguments cannot be checked against it; `message` says which part of it \
         is the matter.",
    ),
    code("shutting_down", &[503], "Shutting down", "The server takes no new work. Come back after `Retry-After`."),
    code("stale", &[409], "Changed meanwhile", "Somebody else changed it first. Read it again, then decide."),
    code(
        "store_busy",
        &[503, 504],
        "Store busy",
        "Another process holds the database, or every reading connection is busy. Come back after `Retry-After`.",
    ),
    code("store_closed", &[503], "Store closed", "The server is about to end. Come back after `Retry-After`."),
    code(
        "store_denied",
        &[503],
        "Store refuses the user",
        "The database does not let this server's user do what it needs; the server's log says what. Grant it that.",
    ),
    code(
        "store_full",
        &[503],
        "Disk full",
        "The disk takes no more; nothing that is stored is lost. Free some space and the store goes on by itself.",
    ),
    code(
        "store_missing",
        &[503],
        "Store not there",
        "The database that the server was told to use does not exist. Create it, or name another.",
    ),
    code(
        "store_timeout",
        &[504],
        "Store too slow",
        "The database did not finish a statement in time. The change may still be made: read before you repeat it, or repeat it under the same key.",
    ),
    code(
        "store_unavailable",
        &[503],
        "Store unavailable",
        "The database cannot be read or written; the server's log says whether it is the path, the permissions or the disk.",
    ),
    code(
        "task_cancelled",
        &[424],
        "Task cancelled",
        "An agent was asked as a model, and somebody cancelled its task. The header `x-sutazai-task-id` names it.",
    ),
    code(
        "task_failed",
        &[424],
        "Task failed",
        "An agent was asked as a model, and its task failed. The header `x-sutazai-task-id` names it; requeue it, or ask again.",
    ),
    code("task_finished", &[409], "Task has ended", "What has ended stays as it is; `GET` shows its outcome."),
    code(
        "task_not_found",
        &[404],
        "No such task",
        "The id is unknown or not a task's id. `GET /api/v1/tasks` lists tasks.",
    ),
    code(
        "timeout",
        &[504],
        "Timed out",
        "The answer took too long. The work may still be done: read before you repeat it.",
    ),
    code(
        "tool_loop",
        &[502],
        "Tool calls go round in circles",
        "The model makes the same tool calls again and again, although they have the same results. Give it what it does not find, or ask another model.",
    ),
    code(
        "unavailable",
        &[503],
        "Unavailable",
        "A part the request needs does not answer; `/ready` says which. Come back after `Retry-After`.",
    ),
    code(
        "unsupported",
        &[422],
        "Not supported",
        "The backend in use cannot do that; its capabilities say what it can.",
    ),
    code("unsupported_media_type", &[415], "Not JSON", "Send `Content-Type: application/json`."),
    code(
        "webhook_secret_missing",
        &[422],
        "Webhooks cannot be signed",
        "The operator has set no `SUTAZAI_WEBHOOK_SECRET`, and nothing is sent unsigned.",
    ),
    code(
        "webhook_target_refused",
        &[422],
        "Target of a webhook refused",
        "A target is an `http` or `https` URL without user and password. Private and loopback addresses are for the operator to allow, with \
         `SUTAZAI_WEBHOOK_ALLOW_PRIVATE=true`.",
    ),
];

/// The entry of `code`.
pub(super) fn find(code: &str) -> Option<&'static Code> {
    CODES.binary_search_by(|entry| entry.code.cmp(code)).ok().map(|index| &CODES[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_are_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(CODES.iter().all(|entry| !entry.statuses.is_empty()));
    }
}
