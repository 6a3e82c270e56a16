//! One consistent read of several files: what was found before must still be so afterwards.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{
    identity::FileIdentity,
    settle::{FileMark, FileMarks},
};

use crate::hash::sha256;

/// How often a read that was overtaken by a change is done again. Each further try needs a further
/// change in between.
const TRIES: usize = 20;

/// The bytes of a file, wiped when they are dropped.
pub type FileBytes = Zeroizing<Vec<u8>>;

/// What several files held at one moment.
pub struct FileContents(BTreeMap<PathBuf, FileContent>);

struct FileContent {
    /// `None`: there is nothing, or nothing we may look at.
    identity: Option<FileIdentity>,
    bytes: io::Result<FileBytes>,
}

/// The files changed faster than they could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the files change faster than they can be read")]
pub struct UnstableFiles;

/// Reads all of `paths`, none of which may be larger than `limit` bytes. All links are resolved
/// first (Kubernetes: `..data` once, in effect), then the resolved files are read, then everything
/// is resolved again: a difference means that the set may be mixed, and it is read anew. What
/// cannot be read is part of the result. For a thread that may block.
///
/// # Errors
/// [`UnstableFiles`]: they changed during each of 20 tries.
pub fn read_together(paths: &[PathBuf], limit: usize) -> Result<FileContents, UnstableFiles> {
    for _ in 0..TRIES {
        let before = identify(paths);
        let read: Vec<io::Result<FileBytes>> = before
            .iter()
            .map(|found| {
                found
                    .as_ref()
                    .map_err(clone_error)
                    .and_then(|id| read_whole(id, limit))
            })
            .collect();
        if is_same(&before, &identify(paths)) {
            let contents = before
                .into_iter()
                .zip(read)
                .map(|(found, bytes)| FileContent {
                    identity: found.ok(),
                    bytes,
                });
            return Ok(FileContents(paths.iter().cloned().zip(contents).collect()));
        }
    }
    Err(UnstableFiles)
}

impl FileContents {
    /// The bytes of one of the paths that were asked for, or why there are none.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&io::Result<FileBytes>> {
        self.0.get(path).map(|content| &content.bytes)
    }

    /// What was found where: for [`super::FileWatcher`], which needs no contents.
    #[must_use]
    pub fn marks(&self) -> FileMarks {
        self.0
            .iter()
            .map(|(path, content)| (path.clone(), content.mark()))
            .collect()
    }
}

impl FileContent {
    fn mark(&self) -> FileMark {
        let content = match &self.bytes {
            Ok(bytes) => sha256(bytes),
            // No text that we would find begins like this.
            Err(error) => sha256(format!("\0unreadable: {:?}", error.kind()).as_bytes()),
        };
        FileMark {
            identity: self.identity.clone(),
            content,
        }
    }
}

type Identities = Vec<io::Result<FileIdentity>>;

fn identify(paths: &[PathBuf]) -> Identities {
    paths.iter().map(|path| FileIdentity::read(path)).collect()
}

fn is_same(before: &Identities, after: &Identities) -> bool {
    before.iter().zip(after).all(|pair| match pair {
        (Ok(before), Ok(after)) => before == after,
        (Err(before), Err(after)) => before.kind() == after.kind(),
        _ => false,
    })
}

fn clone_error(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::new(error.kind(), error.to_string()),
        io::Error::from_raw_os_error,
    )
}

/// The whole content of a resolved path.
fn read_whole(id: &FileIdentity, limit: usize) -> io::Result<FileBytes> {
    let file = open_quietly(id.resolved())?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let too_large = || io::Error::other(format!("it is larger than {} MiB", limit >> 20));
    let size = usize::try_from(meta.size()).unwrap_or(usize::MAX);
    if size > limit {
        return Err(too_large());
    }
    // Reserved in full, so that no growing buffer leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

/// A FIFO without a writer must not hang us, a terminal must not become ours.
fn open_quietly(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
}
