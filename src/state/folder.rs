//! The folder: who may use it, one lock for all changes, files that are old or new but never half.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;

use super::trouble::Trouble;

/// Much more than ten thousand partitions need.
const LARGEST: u64 = 16 * 1024 * 1024;
/// How often, and how far apart, the lock is tried for: 2 s in all.
const TRIES: u32 = 400;
const TRY_AGAIN: Duration = Duration::from_millis(5);
const BESIDE: &str = "new";

/// A folder of our own.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// Whoever it belongs to: the superuser writes in his name.
    on_behalf: bool,
    /// A disk that takes no more, for tests.
    #[cfg(test)]
    pub sick: std::sync::atomic::AtomicBool,
    /// On which threads it was looked at, for tests.
    #[cfg(test)]
    pub lookers: std::sync::Mutex<Vec<std::thread::ThreadId>>,
}

/// The folder, locked for a change.
pub(super) struct Locked<'a> {
    folder: &'a Folder,
    /// Opened before anything is written: want of file descriptors is noticed while nothing has
    /// happened yet.
    dir: File,
    _lock: File,
}

impl Folder {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            on_behalf: false,
            #[cfg(test)]
            sick: false.into(),
            #[cfg(test)]
            lookers: std::sync::Mutex::default(),
        }
    }

    /// A folder in the name of its owner, for the superuser: files that are made belong to
    /// the folder's owner, and a folder that is not there is not made.
    pub fn on_behalf(dir: PathBuf) -> Self {
        Self {
            on_behalf: rustix::process::geteuid().is_root(),
            ..Self::new(dir)
        }
    }

    /// Sees that the folder is there and that nobody else may write into it; makes it where it is
    /// `new`.
    ///
    /// # Errors
    /// Not there, not a folder, somebody else's, or writable for others.
    pub fn check(&self, new: bool) -> Result<(), Trouble> {
        let meta = match std::fs::metadata(&self.dir) {
            Err(error) if new && !self.on_behalf && error.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.dir);
                made.and_then(|()| std::fs::metadata(&self.dir))
                    .map_err(io_at("make the folder", &self.dir))?
            }
            other => other.map_err(io_at("use the folder", &self.dir))?,
        };
        self.judge(&meta)?;
        if meta.mode() & 0o077 != 0 {
            std::fs::set_permissions(&self.dir, PermissionsExt::from_mode(0o700))
                .map_err(io_at("close to others", &self.dir))?;
        }
        Ok(())
    }

    /// Looks whether the folder may be used, and changes nothing.
    ///
    /// # Errors
    /// It is not there, not a folder, somebody else's, or writable for others.
    pub fn look(&self) -> Result<(), Trouble> {
        self.judge(&std::fs::metadata(&self.dir).map_err(io_at("use the folder", &self.dir))?)
    }

    fn judge(&self, meta: &Metadata) -> Result<(), Trouble> {
        let wrong = |why: &str| {
            Err(Trouble::Folder {
                dir: self.dir.clone(),
                why: why.to_owned(),
            })
        };
        let us = rustix::process::geteuid().as_raw();
        if !meta.is_dir() {
            return wrong("is not a folder");
        }
        if meta.uid() != us && !self.on_behalf {
            return wrong(&format!(
                "belongs to user {}, not to us (user {us}): name a folder in it, which is then made",
                meta.uid()
            ));
        }
        if meta.mode() & 0o022 != 0 {
            return wrong("others may write into it: chmod 700");
        }
        Ok(())
    }

    /// When a file in it last came or went. Not for an async task: a folder of a server that is
    /// gone lets nobody go.
    pub fn changed(&self) -> Option<SystemTime> {
        #[cfg(test)]
        self.lookers
            .lock()
            .unwrap()
            .push(std::thread::current().id());
        std::fs::metadata(&self.dir)
            .and_then(|meta| meta.modified())
            .ok()
    }

    /// Waits for its turn, at most 2 s. Not for an async task.
    ///
    /// # Errors
    /// The lock's file cannot be opened, or another process stands still while it holds it.
    pub fn lock(&self) -> Result<Locked<'_>, Trouble> {
        let path = self.dir.join("lock");
        let open = || {
            let dir = File::open(&self.dir).map_err(io_at("open", &self.dir))?;
            let file = self
                .make(OpenOptions::new().write(true).create(true), &path)
                .map_err(io_at("open", &path))?;
            Ok((dir, file))
        };
        let (mut dir, mut file) = open()?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    return Ok(Locked {
                        folder: self,
                        dir,
                        _lock: file,
                    });
                }
                // It was removed while we waited: whoever comes now locks the one that is there.
                Ok(()) => {
                    (dir, file) = open()?;
                    continue;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io_at("lock", &path)(error)),
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "this thread is one for work that blocks"
            )]
            std::thread::sleep(TRY_AGAIN);
        }
        Err(Trouble::Locked(path))
    }

    /// The whole file; `None` where it is not there. Needs no lock: files are replaced whole.
    ///
    /// # Errors
    /// It cannot be read, is not a file or larger than 16 MiB.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let path = self.dir.join(name);
        let file = match open_own(OpenOptions::new().read(true), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("open", &path))?,
        };
        let mut bytes = Vec::new();
        let is_file = file.metadata().map_err(io_at("read", &path))?.is_file();
        if is_file {
            file.take(LARGEST + 1)
                .read_to_end(&mut bytes)
                .map_err(io_at("read", &path))?;
        }
        if !is_file || bytes.len() as u64 > LARGEST {
            return Err(self.damaged(name, "damaged: it is not a file of ours".to_owned()));
        }
        Ok(Some(bytes))
    }

    /// Opens a file of ours to be written; one that is made belongs to the folder's owner.
    fn make(&self, options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        let file = open_own(options, path)?;
        if self.on_behalf {
            let owner = std::fs::metadata(&self.dir)?;
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(file)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// When a file was last written; `None` where that cannot be told.
    pub fn written(&self, name: &str) -> Option<SystemTime> {
        std::fs::symlink_metadata(self.dir.join(name))
            .and_then(|meta| meta.modified())
            .ok()
    }

    pub fn damaged(&self, name: &str, why: String) -> Trouble {
        Trouble::Damaged {
            file: self.dir.join(name),
            why,
        }
    }

    /// Whether the process that made this owner's file still lives. A shared lock, so that two who
    /// look do not see each other. Where it cannot be told (no file descriptors are left), it does:
    /// its attempts may still be under way, and its file is not ours to remove.
    pub fn is_alive(&self, owner: &str) -> bool {
        let path = self.dir.join(owner_file(owner));
        match open_own(OpenOptions::new().read(true), &path) {
            Ok(file) => file.try_lock_shared().is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

impl Locked<'_> {
    /// Replaces a file. It is on disk for good after [`Locked::sync`].
    ///
    /// # Errors
    /// The disk is full, read-only, gone. The old file is then still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Trouble> {
        let (path, beside) = (self.folder.dir.join(name), self.folder.dir.join(BESIDE));
        let written = (|| {
            // What a killed process left.
            remove(&beside)?;
            let mut file = self
                .folder
                .make(OpenOptions::new().write(true).create_new(true), &beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        })();
        written.map_err(|error| {
            let _ = remove(&beside); // It takes room on a disk that may be full.
            io_at("write", &path)(error)
        })
    }

    /// Keeps a file of a newer release under another name, for when that release runs again.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn keep_aside(&self, name: &str, version: u32) -> Result<(), Trouble> {
        let from = self.folder.dir.join(name);
        std::fs::rename(&from, self.folder.dir.join(format!("{name}.v{version}")))
            .map_err(io_at("keep aside", &from))
    }

    /// Brings renames to the disk.
    ///
    /// # Errors
    /// The disk says so.
    pub fn sync(&self) -> Result<(), Trouble> {
        #[cfg(test)]
        if self.folder.sick.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io_at("write", &self.folder.dir)(io::Error::other(
                "it is sick",
            )));
        }
        self.dir
            .sync_all()
            .map_err(io_at("write", &self.folder.dir))
    }

    /// Makes the file that shows, as long as it is held, that its owner lives.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn own(&self, owner: &str) -> Result<File, Trouble> {
        let path = self.folder.dir.join(owner_file(owner));
        let made = self
            .folder
            .make(OpenOptions::new().write(true).create_new(true), &path)
            .and_then(|file| file.lock().map(|()| file));
        made.map_err(io_at("write", &path))
    }

    /// Names of all files, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, Trouble> {
        let dir = &self.folder.dir;
        let all = std::fs::read_dir(dir)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(io_at("read", dir))?;
        let mut names: Vec<String> = all
            .into_iter()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes what nobody needs any more; that it stays does no harm.
    pub fn sweep(&self, name: &str) {
        let _ = remove(&self.folder.dir.join(name));
    }

    /// Removes the files of owners that are gone: their attempts know it by that.
    pub fn sweep_owners(&self, names: &[String]) {
        for name in names {
            if name
                .strip_prefix(OWNER)
                .is_some_and(|owner| !self.folder.is_alive(owner))
            {
                self.sweep(name);
            }
        }
    }
}

const OWNER: &str = "owner-";

fn owner_file(owner: &str) -> String {
    // An owner's name comes from a file: it must not lead out of the folder.
    format!(
        "{OWNER}{}",
        owner
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect::<String>()
    )
}

/// Opens a file that is private when it is made. No symbolic link is followed, and no pipe is
/// waited for.
fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
}

/// Is this the file that has that name now?
fn is_at(file: &File, path: &Path) -> bool {
    let same = |(ours, there): (Metadata, Metadata)| {
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    };
    file.metadata()
        .ok()
        .zip(std::fs::symlink_metadata(path).ok())
        .is_some_and(same)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Trouble {
    let path = path.to_owned();
    move |error| Trouble::Io { what, path, error }
}
