//! The profile language ([Profiles](crate::promises#profiles)): a vendor is data. `catalogue` holds
//! the built-in ones, `layers` lays a chain of `extends` and a user's overrides over each other,
//! `assembly` makes the model of it with one file for each table, `template` renders its strings,
//! `dry_run` renders each once at load.

mod assembly;
mod assertion;
mod builder;
pub mod catalogue;
mod dry_run;
mod errors;
pub mod file;
mod filters;
mod graph;
mod guard;
mod inject;
mod layers;
mod lifetime;
pub mod model;
mod names;
mod params;
mod partition;
mod response;
pub mod template;
mod text;
mod token;

pub use assembly::{CredentialInputs, build};
pub use file::{CredentialTable, ProfileRef};
pub use layers::ProfileFiles;
pub use model::{Profile, TokenSpec};
pub use template::{RenderError, Scope, Template};
pub use text::parse_token_url;
