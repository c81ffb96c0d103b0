//! Asks a server over HTTP, past everything under test.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::PATIENCE;

/// What the server answers, or why it does not.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<String, String> {
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // In this version an answer ends where the connection does.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n")?;
        write!(stream, "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange().map_err(|error| format!("{method} {path}: {error}"))?;
    let good = answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if good { Ok(answer) } else { Err(format!("{method} {path}: {answer}")) }
}
