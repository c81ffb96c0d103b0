//! A place where a server runs, is ended, and is started again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::binary::Server;

/// Where the servers that take submits are at the moment.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<Vec<Option<String>>>>);

impl Addresses {
    /// One of those that run, by any number.
    pub(crate) fn any(&self, number: u64) -> Option<String> {
        let addresses = self.0.lock().unwrap();
        let up: Vec<_> = addresses.iter().flatten().collect();
        let place = usize::try_from(number).unwrap().checked_rem(up.len())?;
        Some(up[place].clone())
    }
}

/// A data directory and a server on it.
pub(crate) struct Site {
    data: PathBuf,
    arguments: Vec<String>,
    listed: Option<(Addresses, usize)>,
    server: Server,
}

impl Site {
    /// Starts a server; with `addresses`, it is one of those that take submits.
    pub(crate) fn start(data: &Path, arguments: &[&str], addresses: Option<&Addresses>) -> Self {
        let server = Server::start_with(data, arguments);
        let listed = addresses.map(|addresses| {
            let mut all = addresses.0.lock().unwrap();
            all.push(Some(server.url()));
            (addresses.clone(), all.len() - 1)
        });
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { data: data.to_owned(), arguments, listed, server }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Ends it as a power cut would, and starts it again on a port of its own.
    pub(crate) fn kill_and_start(&mut self) {
        // Nobody may ask this port any more: the next one that gets it is another test's.
        self.list(None);
        self.server.kill();
        self.server.assert_sound();
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.server = Server::start_with(&self.data, &arguments);
        self.list(Some(self.server.url()));
    }

    fn list(&self, url: Option<String>) {
        if let Some((addresses, place)) = &self.listed {
            addresses.0.lock().unwrap()[*place] = url;
        }
    }
}
