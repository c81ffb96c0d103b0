//! What an agent can reach while it works on a task.
/// ctx
#[derive(Clone)]
pub struct Context;
