//! A small file system of a test's own.

use std::{path::Path, process::Command};

pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Why there may be none.
    pub(crate) const LACKING: &str = "mounting a tmpfs needs root";

    /// None where this user may not mount.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let place = tempfile::tempdir().ok()?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(place))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn resize(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
