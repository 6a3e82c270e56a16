//! The profile language (CONTRACT 2.1): a vendor is data. `catalogue` holds the built-in ones,
//! `layers` lays a chain of `extends` and a user's overrides over each other, `merge` makes the
//! model of it, `template` renders its strings, `trial` renders each once at load.

mod answer;
pub mod catalogue;
mod filters;
mod graph;
mod layers;
pub mod merge;
pub mod model;
mod names;
mod present;
mod read;
pub mod table;
pub mod template;
mod token;
mod trial;
mod values;

pub use layers::ProfileFiles;
pub use merge::Base;
pub use model::{Profile, TokenSpec};
pub use read::lists_of_one;
pub use template::{RenderError, Scope, Template};
pub use token::judge_url;
