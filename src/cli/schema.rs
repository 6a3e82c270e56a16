//! `cupbearer schema`: the JSON Schema of the configuration, for editors.

use crate::config;

/// The schema as text.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", config::schema())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_describes_every_table() {
        let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
        for table in [
            "proxy",
            "admin",
            "metrics",
            "log",
            "state",
            "reload",
            "intercept",
            "credentials",
            "upstreams",
            "upstream_defaults",
        ] {
            assert!(schema["properties"][table].is_object(), "{table}");
        }
    }
}
