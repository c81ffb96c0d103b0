//! What names resolve to, and whether that may be called.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    error::Error as StdError,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sutazai_core::Result;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::target::{NOT_PUBLIC_NAME, Policy, name_of, refused};

/// Names that are looked up at once: each takes a thread, for as long as the system's resolver pleases.
const LOOKUPS: usize = 32;

/// How long a submit waits for names. One that is not resolved then is admitted: it is checked when it is called.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long what was found out about a name is good enough for another submit.
const FRESH: Duration = Duration::from_secs(30);

/// Names about which something is remembered.
const REMEMBERED: usize = 1_024;

/// Resolves names to allowed addresses alone. A connection goes to what this returns, so that nothing can change between check and call.
pub(super) struct Guarded {
    /// What is allowed.
    pub(super) policy: Policy,
    /// Who knows the names.
    pub(super) names: Arc<dyn Resolve>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, resolving) = (self.policy, self.names.resolve(name));
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            let allowed: Vec<_> = found.iter().copied().filter(|address| policy.is_allowed(address.ip())).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(Private.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The names that this machine knows.
pub(super) struct System {
    lookups: Arc<Semaphore>,
}

impl Default for System {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = Arc::clone(&self.lookups);
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            let found = tokio::task::spawn_blocking(move || {
                // Whoever asked may be gone; the thread is taken until there is an answer, and so is the permit.
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs()
            });
            Ok(Box::new(found.await??) as Addrs)
        })
    }
}

/// A name has no address that may be called. Which it has is not said: whoever submits tasks need not know this network's names.
#[derive(Debug)]
pub(super) struct Private;

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name has no public address")
    }
}

impl StdError for Private {}

/// Says of names, before a task has them, which have private addresses only.
#[derive(Default)]
pub(super) struct Verdicts(Mutex<HashMap<String, (Instant, bool)>>);

impl Verdicts {
    /// Those of `names` that resolve to addresses that may not be called, to these alone. A name that does not resolve in time, or at all, is not among
    /// them.
    pub(super) async fn private(&self, names: BTreeSet<String>, resolver: &Arc<dyn Resolve>) -> PrivateNames {
        let deadline = Instant::now() + PATIENCE;
        let looks: Vec<_> = names.into_iter().map(|name| self.look(name, Arc::clone(resolver), deadline)).collect();
        let found = stream::iter(looks).buffer_unordered(LOOKUPS).filter_map(std::future::ready);
        PrivateNames(found.collect().await)
    }

    /// The name if it is private.
    async fn look(&self, name: String, resolver: Arc<dyn Resolve>, deadline: Instant) -> Option<String> {
        if let Some(is_private) = self.known(&name) {
            return Some(name).filter(|_| is_private);
        }
        let resolving = resolver.resolve(name.parse().ok()?);
        let is_private = match timeout_at(deadline, resolving).await.ok()? {
            Ok(_) => false,
            Err(error) if error.is::<Private>() => true,
            Err(_) => return None,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name.clone(), (Instant::now(), is_private));
        Some(name).filter(|_| is_private)
    }

    fn known(&self, name: &str) -> Option<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, is_private)| *is_private)
    }
}

/// Names that no webhook may have.
pub(crate) struct PrivateNames(HashSet<String>);

impl PrivateNames {
    /// # Errors
    ///
    /// `Invalid` with code `webhook_target_refused` if the URL has one of these names.
    pub(crate) fn check(&self, url: &str) -> Result<()> {
        match name_of(url) {
            Some(name) if self.0.contains(&name) => Err(refused(NOT_PUBLIC_NAME)),
            _ => Ok(()),
        }
    }
}
