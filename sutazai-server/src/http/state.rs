//! What every handler can reach.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use secrecy::SecretString;
use sutazai_core::{Orchestrator, store::AnswerCache, task::TaskRequest};
use sutazai_llm::gateway::admission::{Admission, Held};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{keys::Keys, problem::Problem};
use crate::{
    metrics::Metrics,
    webhooks::{Policy, Sender, TIMEOUT, name_of},
};

/// What an operator may set about the HTTP server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How long a body may take to arrive, and an answer to be made. Streams are exempt, and a long poll may wait as long as it asked for.
    pub request_timeout: Duration,
    /// How long a client may read nothing of a model's streamed answer; then the answer is dropped, so that others have the model.
    pub model_silence: Duration,
    /// Names besides those of this machine's loopback that a `Host` header may carry.
    pub allowed_hosts: Vec<String>,
    /// What webhooks are signed with; without it no task may have one.
    pub webhook_secret: Option<SecretString>,
    /// Whether webhooks may call private and loopback addresses.
    pub webhook_allow_private: bool,
    /// Serve what operators ask, and nothing else: the process executes tasks for others that take them in.
    pub operators_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_limit: 10 << 20,
            request_timeout: Duration::from_secs(30),
            model_silence: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            webhook_secret: None,
            webhook_allow_private: false,
            operators_only: false,
        }
    }
}

/// The state behind every route. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    orchestrator: Orchestrator,
    metrics: Arc<Metrics>,
    options: Options,
    started: Instant,
    closing: CancellationToken,
    /// Says which webhooks are admitted; it sends none.
    webhooks: Sender,
    keys: Keys,
    changes: TaskTracker,
    admissions: OnceLock<Vec<Admission>>,
    answers: OnceLock<Arc<dyn AnswerCache>>,
}

impl AppState {
    /// The state of a server over `orchestrator`. `metrics` is the same that observes it.
    #[must_use]
    pub fn new(orchestrator: Orchestrator, metrics: Arc<Metrics>, options: Options) -> Self {
        let policy = Policy { allow_private: options.webhook_allow_private };
        let webhooks = Sender::new(options.webhook_secret.clone(), policy, TIMEOUT);
        Self(Arc::new(Shared {
            orchestrator,
            metrics,
            options,
            started: Instant::now(),
            closing: CancellationToken::new(),
            webhooks,
            keys: Keys::default(),
            changes: TaskTracker::new(),
            admissions: OnceLock::new(),
            answers: OnceLock::new(),
        }))
    }

    /// The same with a server of kept answers, whose state `/ready` tells too.
    #[must_use]
    pub fn with_answers(self, answers: Arc<dyn AnswerCache>) -> Self {
        // Only the first is looked at.
        let _ = self.0.answers.set(answers);
        self
    }

    /// The same with the admissions of its models' backends, which know what is in memory.
    #[must_use]
    pub fn with_admissions(self, admissions: Vec<Admission>) -> Self {
        // Only the first are looked at.
        let _ = self.0.admissions.set(admissions);
        self
    }

    pub(super) fn answers(&self) -> Option<&Arc<dyn AnswerCache>> {
        self.0.answers.get()
    }

    pub(super) fn orchestrator(&self) -> &Orchestrator {
        &self.0.orchestrator
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Cancelled when the server begins to shut down: streams and long polls end then.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Whether a task may have this webhook, if it has one, as far as can be said without resolving a name.
    pub(super) fn admit(&self, webhook: Option<&str>) -> Result<(), Problem> {
        webhook.map_or(Ok(()), |url| Ok(self.0.webhooks.admit(url)?))
    }

    /// Whether a task may have this webhook, if it has one, for what its name resolves to.
    pub(super) async fn admit_name(&self, webhook: Option<&str>) -> Result<(), Problem> {
        match webhook {
            Some(url) => Ok(self.0.webhooks.private_names(name_of(url).into_iter().collect()).await.check(url)?),
            None => Ok(()),
        }
    }

    /// The same for many: those that may not have theirs are refused.
    pub(super) async fn admit_names(&self, requests: &mut [Result<TaskRequest, Problem>]) {
        let hook = |request: &Result<TaskRequest, Problem>| request.as_ref().ok().and_then(|one| one.webhook.clone());
        let names: BTreeSet<_> = requests.iter().filter_map(hook).filter_map(|url| name_of(&url)).collect();
        if names.is_empty() {
            return;
        }
        let private = self.0.webhooks.private_names(names).await;
        for request in requests {
            if let Some(Err(error)) = hook(&*request).map(|url| private.check(&url)) {
                *request = Err(error.into());
            }
        }
    }

    /// Whose turn it is under each idempotency key.
    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Changes under way, some of which nobody waits for any more.
    pub(super) fn changes(&self) -> &TaskTracker {
        &self.0.changes
    }

    /// The models in memory, as far as the admissions know.
    pub(super) fn held(&self) -> Vec<Held> {
        self.0.admissions.get().into_iter().flatten().flat_map(Admission::held).collect()
    }

    /// Begins no change any more whose answer is kept under a key, and returns when those that were begun are noted: to be called before the engine ends.
    pub async fn settle(&self) {
        self.0.keys.close().await;
    }
}
