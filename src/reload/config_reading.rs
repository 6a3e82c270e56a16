//! One reading of a configuration with all the files that it names.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Config, LoadOptions},
    document::{Problems, SourceText},
    files::{self, FileMarks},
};

/// No configuration, profile or certificate is larger, in bytes.
const LIMIT: usize = 16 * 1024 * 1024;
/// How often it is read again where files change meanwhile.
const TRIES: usize = 5;

/// What was read, and what lay where while it was.
pub(super) struct ConfigReading {
    pub config: Option<Config>,
    pub problems: Problems,
    pub marks: FileMarks,
}

/// Loads `file` with all it names; `None`: the files change faster than they can be read. `known`
/// are the files that what runs was read from. The marks are those of the very bytes that the
/// configuration was made of, which it has the digests of. Of certificates they say what lies there
/// now: the snapshot reads these, and they are looked at again when it has.
pub(super) fn read_config(
    file: &Path,
    known: &[PathBuf],
    options: &LoadOptions,
) -> Option<ConfigReading> {
    for _ in 0..TRIES {
        let read = files::read_together(&[file.to_path_buf()], LIMIT).ok()?;
        let source = match read.get(file) {
            // To read a pipe could take for ever.
            Some(Err(error)) if error.kind() == io::ErrorKind::Other => Err((
                format!("{}: {error}", file.display()),
                "a reload reads a regular file of at most 16 MiB",
            )),
            Some(bytes) => SourceText::from_bytes(bytes.as_deref().map(Vec::as_slice)),
            None => return None,
        };
        let (config, problems) = config::load_read(file, source, options);
        let marks = read_marks(
            &config
                .as_ref()
                .map_or_else(|| known.to_vec(), watched_files),
        )?;
        if config
            .as_ref()
            .is_none_or(|config| is_read_from(config, &marks))
        {
            return Some(ConfigReading {
                config,
                problems,
                marks,
            });
        }
    }
    None
}

/// Whether the files that `config` was read from hold the same bytes still.
pub(super) fn is_read_from(config: &Config, marks: &FileMarks) -> bool {
    config
        .files
        .iter()
        .all(|(path, digest)| marks.get(path).is_some_and(|mark| mark.content() == digest))
}

/// What lies at these paths now; `None`: it changes faster than it can be read.
pub(super) fn read_marks(files: &[PathBuf]) -> Option<FileMarks> {
    Some(files::read_together(files, LIMIT).ok()?.marks())
}

/// Every file whose bytes shape the snapshot.
pub(super) fn watched_files(config: &Config) -> Vec<PathBuf> {
    let tokens = config
        .credentials
        .values()
        .flat_map(|c| c.profile.tokens.iter().map(|t| &t.tls));
    let tls = tokens.chain(config.upstreams.iter().map(|u| &u.tls));
    let tls = tls
        .flat_map(|t| [&t.ca_file, &t.client_cert_file, &t.client_key_file])
        .flatten();
    let mut files: Vec<PathBuf> = config.files.keys().chain(tls).cloned().collect();
    files.sort();
    files.dedup();
    files
}
