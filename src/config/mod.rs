//! How the configuration is loaded: what may be written (`file`) becomes what the program runs on
//! (`model`), with every mistake told at once. Defaults < file < environment.

mod admin;
mod credential;
pub mod file;
pub mod lint;
mod listen;
mod model;
mod parse;
mod upstream;

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use self::{
    file::File,
    parse::{ParseContext, read_file},
};
pub use self::{
    file::{Ready, RequestLimits},
    model::{AdminConfig, Config, CredentialConfig, ListenAddress, LogConfig, ProxyConfig},
};
use crate::{
    document::{Mistake, Overrides, Problems, SourceText, read_layers, schema_of, sound_part},
    profile::ProfileFiles,
};

/// How to look at the world while loading; tests hand in their own.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// `CUPBEARER_…__…` overrides and `{ env = … }` secrets are taken from here.
    pub env: BTreeMap<String, String>,
    /// `check --no-secrets`: secrets need not be there.
    pub no_secrets: bool,
}

/// Names only: variables may hold secrets.
impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions")
            .field("env", &self.env.keys())
            .field("no_secrets", &self.no_secrets)
            .finish()
    }
}

/// The JSON Schema of the whole file.
#[must_use]
pub fn schema() -> &'static Value {
    schema_of::<File>()
}

/// Loads `file`. Every problem and lint is in the list; the configuration is there if none of them
/// is fatal.
#[must_use]
pub fn load(file: &Path, options: &LoadOptions) -> (Option<Config>, Problems) {
    load_read(file, SourceText::read(file), options)
}

/// Loads what was read of `file` before: every problem and lint, and the configuration if none of
/// them is fatal.
#[must_use]
pub fn load_read(
    file: &Path,
    source: Result<SourceText, Mistake<String>>,
    options: &LoadOptions,
) -> (Option<Config>, Problems) {
    let source = match source {
        Ok(source) => source,
        Err((what, hint)) => {
            let mut problems = Problems::default();
            problems.problem("", what, hint);
            return (None, Overrides::default().place(problems, Some(file)));
        }
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    let (config, problems) = build(&source.text, folder, Some(file), options);
    let config = config.map(|mut config| {
        config.file = Some(file.to_path_buf());
        config.files.insert(file.to_path_buf(), source.digest);
        config
    });
    (config, problems)
}

/// Where `[admin]` says the running program can be asked, and how, whatever else is wrong with
/// `file`: a mistake on disk must not keep anyone from asking it. Of a text that is no TOML, what
/// stands before the mistake counts. `None`: there is no such file, or that very table is wrong.
#[must_use]
pub fn admin(file: &Path, options: &LoadOptions) -> Option<AdminConfig> {
    let table = written(file, options)?.get_mut("admin").map(Value::take);
    let tree = json!({ "admin": table.unwrap_or_else(|| json!({})) });
    let mut problems = Problems::default();
    let (read, taken) = read_file(tree, &mut problems);
    let context = ParseContext {
        folder: file.parent().unwrap_or(Path::new("")),
        options,
        overrides: &Overrides::default(),
        profiles: &ProfileFiles::default(),
        taken: &taken,
    };
    let admin = admin::parse(read.admin, context, &mut problems);
    (!problems.fatal()).then_some(admin)
}

/// Whether `[log] format` wants JSON, whatever else is wrong with `file`: a mistake is told in the
/// form that its reader understands.
#[must_use]
pub fn wants_json(file: &Path, options: &LoadOptions) -> bool {
    written(file, options).is_some_and(|tree| {
        tree.pointer("/log/format")
            .is_some_and(|format| format == "json")
    })
}

fn written(file: &Path, options: &LoadOptions) -> Option<Value> {
    let text = String::from_utf8_lossy(&std::fs::read(file).ok()?).into_owned();
    let tree = |text: &str| read_layers::<File>(text, &options.env, &mut Problems::default());
    let tree = tree(&text).or_else(|| tree(sound_part(&text)));
    tree.map(|tree| tree.value)
}

/// Loads a text, for tests and the demo; relative paths start from `folder`.
#[must_use]
pub fn load_text(text: &str, folder: &Path, options: &LoadOptions) -> (Option<Config>, Problems) {
    build(text, folder, None, options)
}

fn build(
    text: &str,
    folder: &Path,
    file: Option<&Path>,
    options: &LoadOptions,
) -> (Option<Config>, Problems) {
    let mut problems = Problems::default();
    let Some(tree) = read_layers::<File>(text, &options.env, &mut problems) else {
        return (None, Overrides::default().place(problems, file));
    };
    let (written, taken) = read_file(tree.value, &mut problems);
    let context = ParseContext {
        folder,
        options,
        overrides: &tree.overrides,
        profiles: &ProfileFiles::default(),
        taken: &taken,
    };
    let config = parse::parse(written, context, &mut problems);
    lint::find(&config, &mut problems);
    let config = (!problems.fatal()).then_some(config);
    (config, tree.overrides.place(problems, file))
}

#[cfg(test)]
mod tests;
