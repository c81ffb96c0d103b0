//! Load at a rate that does not wait for answers: an open loop.
//!
//! Each request has its moment, and what it took counts from there, whenever it could be sent: a server that falls behind does not slow down who asks it,
//! and its delay shows. Every connection has a thread of its own, since what is measured is less than the timers of an asynchronous runtime tell apart.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

/// Kept-alive connections. One whose answer is late lets its next request wait, as a client with so many connections would.
const LANES: u32 = 64;

/// The time in which all of them connect.
const HEAD: Duration = Duration::from_millis(200);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// `HOST:PORT`.
    pub address: &'a str,
    /// Where JSON is posted to.
    pub path: &'a str,
    /// Requests a second.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
    /// What every answer holds.
    pub expected: &'a str,
}

impl Load<'_> {
    /// How many requests that is.
    #[must_use]
    pub fn requests(&self) -> u32 {
        (f64::from(self.rate) * self.time.as_secs_f64()) as u32
    }

    /// Milliseconds that each answer took, in no order. `body` makes the body of each request. What could not be sent in twice the time is left out.
    /// Blocks. An answer that is not 200, or not the expected one, is an error.
    pub fn run(&self, body: impl Fn() -> String + Sync) -> Result<Vec<f64>, String> {
        let requests = self.requests();
        let began = Instant::now() + HEAD;
        let ends = began + 2 * self.time;
        let moment = |number: u32| began + Duration::from_secs_f64(f64::from(number) / f64::from(self.rate));
        let lane = |first: u32| -> io::Result<Vec<f64>> {
            let mut lane = Lane::connect(self.address)?;
            let numbers = (first..requests).step_by(LANES as usize).take_while(|_| Instant::now() < ends);
            numbers.map(|number| lane.ask(self, &body(), moment(number))).collect()
        };
        let lane = &lane;
        let lanes: Vec<io::Result<Vec<f64>>> = thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|first| scope.spawn(move || lane(first))).collect();
            let panicked = |_| Err(io::Error::other("a thread of the load panicked"));
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(panicked)).collect()
        });
        let lanes: io::Result<Vec<_>> = lanes.into_iter().collect();
        Ok(lanes.map_err(|error| format!("{}{}: {error}", self.address, self.path))?.concat())
    }
}

/// A connection.
struct Lane {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Lane {
    fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Milliseconds from `moment` to the end of the answer.
    fn ask(&mut self, load: &Load<'_>, body: &str, moment: Instant) -> io::Result<f64> {
        let Load { address, path, expected, .. } = load;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        wait_until(moment);
        self.stream.write_all(request.as_bytes())?;
        self.answer.clear();
        let mut piece = [0; 16 << 10];
        while length(&self.answer)?.is_none_or(|length| self.answer.len() < length) {
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Err(io::Error::other("the connection was closed before the answer was there"));
            }
            self.answer.extend_from_slice(&piece[..read]);
        }
        let took = moment.elapsed();
        let answer = String::from_utf8_lossy(&self.answer);
        if !answer.contains(expected) {
            return Err(io::Error::other(format!("another answer than the expected one: {answer:.300}")));
        }
        Ok(took.as_secs_f64() * 1e3)
    }
}

/// Returns at that moment, to some 50 µs.
fn wait_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// The length of the whole answer of which this is the beginning, once its head is there.
fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&answer[..head]);
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    };
    match (text.split(' ').nth(1), text.lines().find_map(field)) {
        (Some("200"), Some(body)) => Ok(Some(head + 4 + body)),
        _ => Err(io::Error::other(format!("no answer of status 200 and known length: {text:.300}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream;

    #[test]
    fn every_request_is_answered_and_timed() {
        let address = upstream::start().unwrap().to_string();
        let time = Duration::from_millis(500);
        let load =
            Load { address: &address, path: "/v1/chat/completions", rate: 200, time, expected: upstream::ANSWER };
        let times = load.run(|| "{}".to_owned()).unwrap();
        assert_eq!(times.len(), 100);
        assert!(times.iter().all(|time| *time > 0.0));
        assert!(Load { expected: "another", ..load }.run(|| "{}".to_owned()).is_err());
        assert!(load.run(|| "no JSON".to_owned()).unwrap_err().contains("400"));
    }

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").unwrap(), Some(43));
        length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err();
        length(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").unwrap_err();
    }
}
