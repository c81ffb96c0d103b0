//! The model hub, or any server that serves the same paths: resumes with `Range`, tries again when cut off.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, Url, header};
use sutazai_core::{Error, ErrorKind};
use tokio::sync::mpsc;

use super::{UNREACHABLE, on_thread};
use crate::{
    http,
    registry::{
        download::{Failure, Partial, WRONG_DIGEST, Wanted},
        manifest::ManifestFile,
    },
};

/// Tries in a row that bring no byte.
const TRIES: u32 = 3;
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The wait after the first failed try; it doubles.
const BACKOFF: Duration = Duration::from_millis(300);
/// Pieces between the network and the disk.
const QUEUE: usize = 16;

/// Fetches `base`/`path`.
pub(super) async fn fetch(base: &str, path: &str, wanted: Arc<Wanted>, source: &str) -> Result<ManifestFile, Failure> {
    let url = http::parse(base).and_then(|base| {
        base.join(path).map_err(|error| Error::new(ErrorKind::Invalid, "this is no path").about(path).because(error))
    });
    let url = url.map_err(Failure::Source)?;
    let client = http::client(&url, SILENCE).map_err(Failure::Source)?;
    let (mut tries, mut again_from_zero) = (0, true);
    loop {
        let mut partial = open(wanted.clone(), source.to_owned()).await?;
        let before = partial.written();
        if !partial.is_full() {
            let (back, outcome) = download(&client, &url, partial, wanted.bytes).await?;
            partial = back;
            if let Err(stop) = outcome {
                tries = if partial.written() > before { 0 } else { tries + 1 };
                match stop {
                    Stop::Cut(_) if tries < TRIES => {}
                    Stop::Cut(error) | Stop::Refused(error) => return Err(Failure::Source(error)),
                }
                tokio::time::sleep(BACKOFF * 2_u32.pow(tries)).await;
                continue;
            }
        }
        match on_thread(move || partial.finish()).await {
            // What an earlier pull left was wrong, not what this server sent: once more from the first byte.
            Err(failure) if before > 0 && again_from_zero && failure.is_wrong_bytes() => again_from_zero = false,
            outcome => return outcome,
        }
    }
}

/// Why a request brought less than all.
enum Stop {
    /// The server answers, and may give more when it is asked again.
    Cut(Error),
    /// Asking again is of no use: there is no server, or it has no such file.
    Refused(Error),
}

async fn open(wanted: Arc<Wanted>, source: String) -> Result<Partial, Failure> {
    on_thread(move || Partial::open(wanted, &source)).await
}

/// One request: what it brought is in the partial file, whether or not it came to its end.
async fn download(
    client: &Client,
    url: &Url,
    mut partial: Partial,
    bytes: u64,
) -> Result<(Partial, Result<(), Stop>), Failure> {
    let start = partial.written();
    let mut request = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if start > 0 {
        request = request.header(header::RANGE, format!("bytes={start}-"));
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            return Ok((partial, Err(Stop::Refused(unreachable(error).with_code(UNREACHABLE)))));
        }
        Err(error) => return Ok((partial, Err(Stop::Cut(unreachable(error))))),
    };
    match response.status() {
        StatusCode::PARTIAL_CONTENT if begins_at(&response) == Some(start) => {}
        // A page that says why not, most likely: what is there already may be right, and this is not.
        StatusCode::OK if response.content_length().is_some_and(|length| length != bytes) => {
            let found = response.content_length().unwrap_or(0);
            return Ok((partial, Err(Stop::Refused(other_bytes(format!("it has {found} bytes, not {bytes}"))))));
        }
        status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
            // The server knows no ranges, or not this one: what it sends from here on begins at zero.
            partial = on_thread(move || partial.restart().map(|()| partial)).await?;
            if status != StatusCode::OK {
                let error = Error::new(ErrorKind::Unavailable, "the server refuses to resume");
                return Ok((partial, Err(Stop::Cut(error))));
            }
        }
        status => return Ok((partial, Err(refused(status)))),
    }
    receive(response, partial).await
}

async fn receive(response: Response, mut partial: Partial) -> Result<(Partial, Result<(), Stop>), Failure> {
    let (sender, mut pieces) = mpsc::channel::<bytes::Bytes>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            partial.write(&piece)?;
        }
        Ok(partial)
    });
    let mut stream = response.bytes_stream();
    let mut outcome = Ok(());
    while let Some(piece) = stream.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                outcome = Err(Stop::Cut(unreachable(error)));
                break;
            }
        };
        if sender.send(piece).await.is_err() {
            // The writer has ended with an error of its own, which comes below.
            break;
        }
    }
    drop(sender);
    let dead = |error| Failure::Disk(Error::new(ErrorKind::Internal, "a worker thread died").because(error));
    let partial = writer.await.map_err(dead)??;
    if outcome.is_ok() && !partial.is_full() {
        outcome = Err(Stop::Cut(Error::new(ErrorKind::Unavailable, "the connection ended early")));
    }
    Ok((partial, outcome))
}

fn begins_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn other_bytes(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message).with_code(WRONG_DIGEST)
}

fn refused(status: StatusCode) -> Stop {
    let error = Error::new(ErrorKind::Unavailable, format!("the server answers {status}"));
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Stop::Cut(error),
        status if status.is_server_error() => Stop::Cut(error),
        _ => Stop::Refused(error),
    }
}

fn unreachable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the server cannot be reached").because(error.without_url())
}
