//! Secrets: where from, what is believed of their files, never printed.

mod read;
mod shown;
mod source;
mod value;
mod watch;

pub use read::UnreadableSecret;
pub use shown::{CallerSecret, CallerSecrets};
pub use source::{Secrets, Source};
pub use value::{Secret, Values, trim};
pub use watch::{SecretCheck, SecretWatcher};

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        Values(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Secret::new((*v).to_owned())))
                .collect(),
        )
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secrets = Secrets {
            sources: [("k".to_owned(), Source::Value(Secret::new("hunter2".into())))].into(),
            ..Secrets::default()
        };
        assert!(!format!("{secrets:?} {:?}", secrets.read()).contains("hunter2"));
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "***");
    }

    #[test]
    fn digests_differ_where_names_or_values_do_and_never_run_together() {
        let all = [
            values(&[]),
            values(&[("a", "bc")]),
            values(&[("ab", "c")]),
            values(&[("a", "b"), ("c", "")]),
            values(&[("a", "bc"), ("c", "d")]),
        ];
        let digests: BTreeSet<_> = all.iter().map(Values::digest).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(values(&[("a", "bc")]).digest(), all[1].digest());
    }

    #[test]
    fn files_of_a_folder_are_those_of_the_declared_names() {
        let secrets = Secrets {
            sources: [(
                "a".to_owned(),
                Source::Json("/x/a.json".into(), "/k".into()),
            )]
            .into(),
            dir: Some("/d".into()),
            optional: vec![],
            names: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            secrets.paths(),
            [PathBuf::from("/d/b"), PathBuf::from("/x/a.json")]
        );
        assert_eq!(secrets.files(), [Path::new("/d"), Path::new("/x/a.json")]);
    }
}
