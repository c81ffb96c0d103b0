//! Room ahead of the write-ahead log.
//!
//! A commit that lengthens a file waits for the file's new length and blocks as well as for its data, several times as long as one that finds
//! them there. So the log's file is lengthened beside the commits, with zeros: a frame of zeros has no page number and no valid checksum, and
//! where the first such frame stands, the log ends (<https://www.sqlite.org/fileformat2.html#walformat>).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::Instant};

use super::{
    config::PAGE_BYTES,
    error::{Fault, Result},
    upkeep::HARD_PAGES,
};
use crate::sqlite::writer::Writer;

/// A page of the log with what precedes it.
pub(super) const FRAME_BYTES: u64 = PAGE_BYTES + 24;

/// The log is given as much room as it is long, within these bounds.
const ROOM: std::ops::RangeInclusive<u64> = 1_024 * FRAME_BYTES..=4_096 * FRAME_BYTES;

/// What is added at a time: commits wait while it is written.
const PIECE: u64 = 256 * FRAME_BYTES;

/// No attempt sooner than this after a failed one, which most likely means a full disk.
const TRUCE: Duration = Duration::from_secs(60);

/// Keeps room ahead of one log.
pub(super) struct Ahead {
    file: PathBuf,
    truce: Option<Instant>,
}

impl Ahead {
    /// Of the log in `file`.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, truce: None }
    }

    /// Makes room if there is little left ahead of a log of so many pages.
    pub(super) async fn keep(&mut self, writer: &Writer, pages: u64) {
        if self.truce.is_some_and(|end| Instant::now() < end) {
            return;
        }
        let log = pages * FRAME_BYTES;
        let room = log.clamp(*ROOM.start(), *ROOM.end());
        let limit = HARD_PAGES * PAGE_BYTES;
        self.truce = match self.lengthen(writer, (log + room / 2).min(limit), (log + room).min(limit)).await {
            Ok(()) => None,
            Err(fault) if fault.is_closed() => None,
            Err(fault) => {
                let error = sutazai_core::Error::from(fault).report();
                tracing::debug!(%error, "no room could be made ahead of the write-ahead log; commits do without");
                Some(Instant::now() + TRUCE)
            }
        };
    }

    /// Lengthens the file to `enough` bytes if it has fewer than `least`.
    async fn lengthen(&self, writer: &Writer, least: u64, enough: u64) -> Result<()> {
        let mut length = tokio::fs::metadata(&self.file).await.map_err(Fault::Path)?.len();
        if length >= least {
            return Ok(());
        }
        while length < enough {
            let mut lease = writer.lease().await?;
            // The log of processes that share the file is whose who may write.
            lease.begin().await?;
            let file = self.file.clone();
            let written = spawn_blocking(move || add(&file, enough)).await;
            lease.roll_back().await;
            drop(lease);
            let (file, now) = written.map_err(|error| Fault::Path(error.into()))?.map_err(Fault::Path)?;
            length = now;
            // Nobody has to wait for this, but whoever commits meanwhile.
            spawn_blocking(move || file.sync_data())
                .await
                .map_err(|error| Fault::Path(error.into()))?
                .map_err(Fault::Path)?;
        }
        Ok(())
    }
}

/// Adds a piece, or what `enough` lacks, and says how long the file is then. What could be added in part only is taken back.
fn add(path: &Path, enough: u64) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let piece = enough.saturating_sub(length).min(PIECE);
    if let Err(error) = io::copy(&mut io::repeat(0).take(piece), &mut file) {
        file.set_len(length)?;
        return Err(error);
    }
    Ok((file, length + piece))
}
