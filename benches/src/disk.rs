//! Where benches put what they measure: a real disk, how fast it is, and how much room it has.

use std::{
    env,
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::TempDir;

use crate::stats::median;

/// Writes that [`fsync`] measures.
const WRITES: usize = 500;

/// `SUTAZAI_BENCH_DIR`, else `target`. A memory file system would make the figures lies.
pub fn base() -> io::Result<PathBuf> {
    if let Some(base) = env::var_os("SUTAZAI_BENCH_DIR") {
        return Ok(base.into());
    }
    let here = env::current_exe()?;
    Ok(here.ancestors().nth(3).unwrap_or(Path::new(".")).to_owned())
}

/// An empty directory below [`base`].
pub fn directory() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("bench-").tempdir_in(base()?)
}

/// Bytes that may still be written below `path`.
pub fn free(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Milliseconds of one fdatasync of 4 KiB in a file of that directory: the median.
pub fn fsync(directory: &Path) -> io::Result<f64> {
    let mut file = File::create(directory.join("fsync"))?;
    // Within a file of its final length, as the logs of databases mostly are: no metadata to write.
    file.set_len(4 << 20)?;
    file.write_all(&vec![1; 4 << 20])?;
    file.sync_all()?;
    file.rewind()?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let began = Instant::now();
        file.write_all(&[2; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}
