//! What tells one content of a path from another without reading it.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// Some file systems (FAT, ext3, old NFS) know no fraction of a second, the coarsest only every
/// other second.
const COARSE: Duration = Duration::from_secs(2);

/// Where a path leads, and what the file system says about the file that lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIdentity {
    resolved: PathBuf,
    /// The path itself is a link.
    linked: bool,
    device: u64,
    inode: u64,
    /// When the file was made, where the file system tells: inode numbers are used again.
    born: Option<Duration>,
    size: u64,
    /// Seconds and nanoseconds of the last write, as its writer may have set them.
    modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of any kind, as the kernel set them.
    changed: (i64, i64),
}

impl FileIdentity {
    /// Follows every link of `path`.
    ///
    /// # Errors
    /// There is nothing, or nothing we may look at.
    pub fn read(path: &Path) -> io::Result<Self> {
        let resolved = fs::canonicalize(path)?;
        let meta = fs::metadata(&resolved)?;
        let linked = fs::symlink_metadata(path)?.is_symlink();
        Ok(Self::new(resolved, linked, &meta))
    }

    fn new(resolved: PathBuf, linked: bool, meta: &Metadata) -> Self {
        Self {
            resolved,
            linked,
            device: meta.dev(),
            inode: meta.ino(),
            born: meta
                .created()
                .ok()
                .and_then(|born| born.duration_since(UNIX_EPOCH).ok()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The path without links.
    #[must_use]
    pub fn resolved(&self) -> &Path {
        &self.resolved
    }

    /// A link that leads elsewhere brought this file: it was whole before.
    #[must_use]
    pub fn is_elsewhere(&self, before: &Self) -> bool {
        self.resolved != before.resolved
    }

    /// Another file than before.
    #[must_use]
    pub fn replaces(&self, before: &Self) -> bool {
        self.is_elsewhere(before)
            || (self.device, self.inode, self.born) != (before.device, before.inode, before.born)
    }

    /// Who puts files in their place by a link, as Kubernetes mounts its volumes, leads it to what
    /// is whole.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// The file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Something was done to the file after its last write, such as a rename: it is most likely
    /// whole.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.changed > self.modified
    }

    /// The latest moment (Unix epoch) at which it can have been changed. Where the file system
    /// knows whole seconds only, that is up to 2 s after what it says.
    #[must_use]
    pub fn last_changed(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let told = Duration::new(
            u64::try_from(seconds).unwrap_or(0),
            u32::try_from(nanos).unwrap_or(0),
        );
        if nanos == 0 {
            told.saturating_add(COARSE)
        } else {
            told
        }
    }

    /// For tests: a file of this inode, size and times, made when its inode says.
    #[cfg(test)]
    pub(super) fn made_up(
        resolved: &str,
        inode: u64,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    ) -> Self {
        Self {
            resolved: resolved.into(),
            linked: false,
            device: 1,
            inode,
            born: None,
            size,
            modified,
            changed,
        }
    }
}
