//! A TCP proxy on the loopback that cuts, stalls, delays and refuses.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{PATIENCE, ports};

/// The most that is read at once.
const CHUNK: usize = 16 * 1024;
/// How many chunks are on their way in each direction; who sends more waits, as on any network.
const ON_THE_WAY: usize = 64;

/// What the network does at the moment.
#[derive(Clone, Copy, Default)]
struct Weather {
    /// Connections of an earlier number are cut.
    cuts: u64,
    refuses: bool,
    stalls: bool,
    delay: Duration,
    ended: bool,
}

/// A proxy in front of a server. It has a thread of its own, so that neither a paused clock nor a blocked runtime changes what it does.
/// It ends when dropped, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    refuses: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards what arrives on a free port of the loopback to `target`, at once and untouched until told otherwise.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = ports::listen();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (weather, seen) = watch::channel(Weather::default());
        let refuses = Arc::new((Mutex::new(false), Condvar::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = Arc::clone(&refuses);
        let run = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            accept(listener, address, target, seen, &done).await;
        };
        let thread = thread::Builder::new().name("proxy".into()).spawn(move || runtime.block_on(run)).unwrap();
        Self { address, weather, refuses, thread: Some(thread) }
    }

    /// `127.0.0.1:PORT`, the same for the proxy's whole life.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection there is, on both sides. Nothing more is forwarded on them once this returns. New ones are taken.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Whether new connections are refused, as where no server listens; those there are stay. In force once this returns.
    pub fn refuse(&self, refuses: bool) {
        self.weather.send_modify(|weather| weather.refuses = refuses);
        let (state, changed) = &*self.refuses;
        let waited = changed.wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| *state != refuses).unwrap();
        assert!(!waited.1.timed_out(), "the port {} was taken meanwhile", self.address);
    }

    /// Whether connections are open and silent. Nothing is forwarded once this returns, neither data nor ends; what arrives meanwhile is forwarded
    /// afterwards.
    pub fn stall(&self, stalls: bool) {
        self.weather.send_modify(|weather| weather.stalls = stalls);
    }

    /// How much later than it was sent everything arrives, in each direction, from now on. It does not limit the amount.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.send_modify(|weather| weather.ended = true);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Takes connections until the proxy ends, while it does not refuse them.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    refuses: &(Mutex<bool>, Condvar),
) {
    let mut listener = Some(listener);
    loop {
        let now = *weather.borrow_and_update();
        if now.ended {
            return;
        }
        if now.refuses {
            if let Some(listener) = listener.take() {
                // A child that is being started holds a copy of it, and closing would end only this one.
                let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
            }
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        *refuses.0.lock().unwrap() = listener.is_none();
        refuses.1.notify_all();
        let taken = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                // The port may be free again in a moment.
                None if !now.refuses => {
                    sleep(Duration::from_millis(10)).await;
                    None
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = taken => if let Some((client, _)) = taken {
                tokio::spawn(connection(client, target, weather.clone()));
            },
            _ = weather.changed() => {}
        }
    }
}

/// Forwards in both directions until both have ended, or one has failed, or the connection is cut.
async fn connection(mut client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let own = weather.borrow().cuts;
    let mut cut = weather.clone();
    let forward = async {
        let mut server = TcpStream::connect(target).await?;
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let whole = {
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            tokio::select! {
                whole = async {
                    tokio::try_join!(
                        direction(from_client, to_server, weather.clone(), own),
                        direction(from_server, to_client, weather.clone(), own),
                    )
                } => whole.map(|_| ()),
                _ = cut.wait_for(|weather| weather.cuts != own || weather.ended) => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        if whole.is_err() {
            let _ = server.set_zero_linger();
        }
        whole
    };
    if forward.await.is_err() {
        let _ = client.set_zero_linger();
    }
}

/// Forwards one direction to its end.
async fn direction(
    mut from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    weather: watch::Receiver<Weather>,
    own: u64,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let delays = weather.clone();
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let length = from.read_buf(&mut chunk).await?;
            let due = Instant::now() + delays.borrow().delay;
            if sender.send((due, chunk)).await.is_err() || length == 0 {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                match pass(&to, &weather, own, |to| to.try_write(rest)).await? {
                    Some(written) => rest = &rest[written..],
                    None => to.writable().await?,
                }
            }
        }
        pass(&to, &weather, own, |_| Ok(0)).await?;
        Ok(to)
    };
    let ((), mut to) = tokio::try_join!(read, write)?;
    tokio::io::AsyncWriteExt::shutdown(&mut to).await
}

/// Does `what` as soon as the weather allows it, or nothing if it would have to wait for the socket. Looking and doing are one step for whoever
/// changes the weather: they wait for the reader's lock.
async fn pass<'a, 'b>(
    to: &'a WriteHalf<'b>,
    weather: &watch::Receiver<Weather>,
    own: u64,
    what: impl Fn(&'a WriteHalf<'b>) -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let mut weather = weather.clone();
    let now = weather.wait_for(|weather| !weather.stalls || weather.cuts != own).await.map_err(io::Error::other)?;
    if now.cuts != own {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    match what(to) {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
