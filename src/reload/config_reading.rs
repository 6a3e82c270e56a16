//! One reading of a configuration with all the files that it names.

use std::path::{Path, PathBuf};

use crate::{
    config::{self, Config, Sight},
    document::Problems,
    files::{self, Marks},
};

/// No configuration, profile or certificate is larger, in bytes.
const LIMIT: usize = 16 * 1024 * 1024;
/// How often it is read again where files change, or others are named, meanwhile.
const TRIES: usize = 5;

/// What was read, and what lay where while it was.
pub(super) struct ConfigReading {
    pub config: Option<Config>,
    pub problems: Problems,
    pub marks: Marks,
}

/// Loads `file` with all it names; `None`: the files change faster than they can be read. `known`
/// are the files that what runs was read from. What lies there is the same before and after, so
/// that the marks are those of the very bytes the configuration was made of.
pub(super) fn read_config(
    file: &Path,
    known: Vec<PathBuf>,
    sight: &Sight,
) -> Option<ConfigReading> {
    let mut named = known;
    for _ in 0..TRIES {
        let before = files::read(&named, LIMIT).ok()?;
        let (config, problems) = match before.get(file) {
            // To read a pipe could take for ever.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Other => {
                let mut problems = Problems::default();
                problems.problem(
                    "",
                    format!("{}: {error}", file.display()),
                    "a reload reads a regular file of at most 16 MiB",
                );
                (None, problems)
            }
            _ => config::load(file, sight),
        };
        let needed = config.as_ref().map_or_else(|| named.clone(), watched_files);
        let marks = read_marks(&needed)?;
        if marks == before.marks() {
            return Some(ConfigReading {
                config,
                problems,
                marks,
            });
        }
        named = needed;
    }
    None
}

/// What lies at these paths now; `None`: it changes faster than it can be read.
pub(super) fn read_marks(files: &[PathBuf]) -> Option<Marks> {
    Some(files::read(files, LIMIT).ok()?.marks())
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
    let mut files: Vec<PathBuf> = config.files.iter().chain(tls).cloned().collect();
    files.sort();
    files.dedup();
    files
}
