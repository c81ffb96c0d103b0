//! What a process holds in memory.

use std::{fmt::Display, fs, io};

/// Bytes of memory that the process `id` (a number, or `self`) has in use.
pub fn resident(id: impl Display) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS in /proc/PID/status"))
}
