//! How a file of ours is written: whole or not at all, and never through a link that somebody else
//! has laid.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Puts a file with these bytes at `path`. It is made beside it under a name that nobody can
/// foresee, brought to the disk and renamed; what lay at `path` before, a link included, is
/// replaced and not followed. The process's umask decides who may read it.
///
/// # Errors
/// The folder cannot be written to, or what lies at `path` is neither a file nor a link. What lay
/// there is then still there.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no name"))?;
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_symlink()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is something that is no file",
        ));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{:032x}", rand::random::<u128>()));
    let beside = folder.join(beside);
    let written = write_new(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.inspect_err(|_| {
        // Nothing is left of it; where it was never made, there is nothing to remove.
        let _ = fs::remove_file(&beside);
    })
}

fn write_new(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    // `create_new` alone follows no link; the flag says so once more.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_at_the_name_is_replaced_and_none_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("theirs"), "precious").unwrap();
        for name in ["ready", "ready.new", ".ready.new", "ready.tmp"] {
            symlink(at("theirs"), at(name)).unwrap();
        }
        replace_file(&at("ready"), b"one").unwrap();
        replace_file(&at("ready"), b"two").unwrap();
        assert_eq!(fs::read_to_string(at("theirs")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(at("ready")).unwrap(), "two");
        assert!(fs::symlink_metadata(at("ready")).unwrap().is_file());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            5,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_is_no_file_stays_and_a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["folder", "socket", "folder/..", "nowhere/ready"] {
            assert!(replace_file(&at(name), b"x").is_err(), "{name}");
        }
        assert!(replace_file(Path::new("/dev/null"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
