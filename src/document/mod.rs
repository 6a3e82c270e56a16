//! Documents that people write: TOML with the environment laid over it, read against the JSON
//! Schema of a type. One reader notes every mistake at its key, and takes out what is wrong.

pub mod duration;
mod key;
mod layers;
mod problem;
mod read;
mod scalar;
mod schema;
mod secret_ref;
mod source;

pub use duration::{DurationOrOff, DurationSchema, DurationText, parse_duration};
pub use key::{KeyPart, KeyPath, quoted, write_parts};
pub use layers::{Overrides, Tree, parse_toml, read_layers, sound_part};
pub use problem::{
    Mistake, Problem, Problems, Severity, known, nearest, one_of, shown_path, why_unread,
};
pub use read::{UNKNOWN, clean, kind_of, read};
pub use scalar::ScalarText;
pub use schema::{OneOrMore, SchemaNode, schema_of};
pub use secret_ref::{SECRET_FORMS, SecretRef, SecretRefs};
pub use source::SourceText;
