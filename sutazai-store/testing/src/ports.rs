//! Ports of the loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range from which systems take the ports of outgoing connections: one of those could otherwise sit on a server's port just
/// when the server starts again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A listener on a free port, which stays free for a server that starts again.
pub(crate) fn listen() -> TcpListener {
    (0..1_000)
        .find_map(|_| TcpListener::bind(address(fastrand::u16(RANGE))).ok())
        .unwrap_or_else(|| panic!("no free port in {RANGE:?}"))
}

/// A port that was free a moment ago.
pub(crate) fn free() -> u16 {
    listen().local_addr().unwrap().port()
}

/// `127.0.0.1:PORT`.
pub(crate) fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
