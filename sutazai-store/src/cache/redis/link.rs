//! The one connection to Redis, which all callers share.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, RedisResult, aio::MultiplexedConnection,
};
use tokio::{
    runtime::Handle,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{
    config::is_encrypted,
    error::{Fault, Result},
};

/// Asks Redis, each question in bounded time. A connection is opened when it is needed, by one caller for all, and given up when it fails.
pub(super) struct Link {
    client: Client,
    settings: AsyncConnectionConfig,
    timeout: Duration,
    encrypted: bool,
    current: Mutex<Current>,
}

/// A connection that is being opened, and then is open. Whoever waits for it drives it.
type Opening = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// The newest connection, and how many there were.
#[derive(Default)]
struct Current {
    number: u64,
    opening: Option<(Opening, Instant)>,
}

/// A connection for one question.
struct Lent {
    number: u64,
    opening: Opening,
    /// Whether it was open before the question.
    kept: bool,
}

impl Link {
    /// To the server that `info` describes; opens nothing yet.
    pub(super) fn new(info: ConnectionInfo, timeout: Duration) -> Result<Self> {
        let encrypted = is_encrypted(&info);
        if encrypted {
            // Another provider that the program installed first is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let settings =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        Ok(Self { client: Client::open(info)?, settings, timeout, encrypted, current: Mutex::default() })
    }

    /// The answer to a command that may be given twice.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let lent = self.lend();
        let kept = lent.kept;
        match self.ask_on(lent, command).await {
            // It may have ended long ago, as when the server was restarted; a new one tells how things are now.
            Err(fault) if kept && fault.is_of_end() => self.ask_on(self.lend(), command).await,
            answer => answer,
        }
    }

    async fn ask_on<T: FromRedisValue>(&self, lent: Lent, command: &Cmd) -> Result<T> {
        let answer: RedisResult<T> = match lent.opening.await {
            Ok(mut connection) => command.query_async(&mut connection).await,
            Err(error) => {
                self.give_up(lent.number);
                Err(error)
            }
        };
        let answer = answer.map_err(Fault::from);
        if answer.as_ref().is_err_and(Fault::is_of_connection) {
            self.give_up(lent.number);
        }
        answer
    }

    fn lend(&self) -> Lent {
        let mut current = self.current();
        let now = Instant::now();
        if let Some((opening, until)) = &current.opening {
            let kept = opening.peek().is_some();
            // One that is not done by then was left by all who waited for it.
            if kept || now < *until {
                return Lent { number: current.number, opening: opening.clone(), kept };
            }
        }
        let opening = self.open();
        current.number += 1;
        current.opening = Some((opening.clone(), now + self.timeout));
        Lent { number: current.number, opening, kept: false }
    }

    fn open(&self) -> Opening {
        let (client, settings, limit) = (self.client.clone(), self.settings.clone(), self.timeout);
        if !self.encrypted {
            let opening = async move { client.get_multiplexed_async_connection_with_config(&settings).await };
            return opening.boxed().shared();
        }
        // The driver reads the system's certificates for each connection, which is no work for an async thread.
        let opening = async move {
            let runtime = Handle::current();
            let opening = spawn_blocking(move || {
                runtime.block_on(client.get_multiplexed_async_connection_with_config(&settings))
            });
            match timeout(limit, opening).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => Err(io::Error::other(error).into()),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        };
        opening.boxed().shared()
    }

    /// Leaves this connection to those who still wait for an answer on it. A newer one stays.
    fn give_up(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.opening = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
