//! `cupbearer check`: every problem and lint of a configuration at once.

pub mod explain;
mod guard_memory;
pub mod live;

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::json;

use self::live::LiveOptions;
use super::{Exit, ReportFormat};
use crate::{
    config::{self, LoadOptions},
    document::{Problem, Problems, Severity},
    state,
};

/// Checks `file` and reports on `out`: as text for people, or as a JSON array of `{ severity, key,
/// file, what, hint }`. With `live` the tokens of a configuration that is right are got, too; the
/// JSON is then an object of `problems` and `tokens`.
///
/// # Errors
/// Only those of `out`.
pub fn check(
    file: &Path,
    options: &LoadOptions,
    strict: bool,
    live: Option<&LiveOptions>,
    format: ReportFormat,
    out: &mut dyn Write,
) -> io::Result<Exit> {
    let (config, mut problems) = config::load(file, options);
    if let Some(trouble) = config
        .as_ref()
        .and_then(|config| state::unusable(config.state.as_deref()?))
        .filter(|_| !options.no_secrets)
    {
        let hint = "run this check as the user that cupbearer runs as; where that folder is a volume's own, name a folder in it";
        problems.add(Problem {
            severity: Severity::Lint,
            key: "state.dir".to_owned(),
            file: Some(file.to_owned()),
            what: format!("the guard cannot remember: {trouble}"),
            hint: Some(hint.to_owned()),
        });
    }
    let all = || problems.list().iter().map(problem_json).collect::<Vec<_>>();
    if format == ReportFormat::Text {
        write_text(file, &problems, out)?;
    }
    let had = match (live, config) {
        (Some(live), Some(config)) if !problems.fatal() => {
            match live::check_live(file, &config, (options, live), &all(), format, out)? {
                Some(had) => had,
                None => return Ok(Exit::Failed),
            }
        }
        _ => {
            if format == ReportFormat::Json {
                writeln!(
                    out,
                    "{:#}",
                    if live.is_some() {
                        json!({ "problems": all(), "tokens": [] })
                    } else {
                        all().into()
                    }
                )?;
            }
            true
        }
    };
    let wrong = problems.fatal() || (strict && !problems.list().is_empty());
    Ok(match (wrong, had) {
        (true, _) => Exit::Config,
        (false, false) => Exit::NoToken,
        (false, true) => Exit::Done,
    })
}

fn write_text(file: &Path, problems: &Problems, out: &mut dyn Write) -> io::Result<()> {
    for problem in problems.list() {
        writeln!(out, "{problem}")?;
    }
    let lints = problems
        .list()
        .iter()
        .filter(|problem| problem.severity == Severity::Lint)
        .count();
    let errors = problems.list().len() - lints;
    writeln!(
        out,
        "{}: {}, {}",
        file.display(),
        count_words(errors, "error"),
        count_words(lints, "lint")
    )
}

fn count_words(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

fn problem_json(problem: &Problem) -> serde_json::Value {
    let Problem {
        severity,
        key,
        file,
        what,
        hint,
    } = problem;
    let severity = match severity {
        Severity::Problem => "error",
        Severity::Lint => "lint",
    };
    json!({ "severity": severity, "key": key, "file": file, "what": what, "hint": hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, strict: bool, format: ReportFormat) -> (Exit, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let exit = check(
            &file,
            &LoadOptions::default(),
            strict,
            None,
            format,
            &mut out,
        )
        .unwrap();
        (exit, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_wrong_configuration_is_told_with_key_file_and_hint() {
        let (exit, out) = run("[proxy]\nlisen = 1\ndrain = 1\n", false, ReportFormat::Text);
        assert_eq!(exit, Exit::Config);
        for part in [
            "error: proxy.lisen: is not a known key",
            "did you mean \"listen\"?",
            "proxy.drain",
            "c.toml: 2 errors, 0 lints",
        ] {
            assert!(out.contains(part), "{part} in {out}");
        }
    }

    #[test]
    fn lints_fail_only_where_that_was_asked_for() {
        let text = "[proxy]\nclient_auth = \"hunter2\"\n";
        assert_eq!(run(text, false, ReportFormat::Text).0, Exit::Done);
        let (exit, out) = run(text, true, ReportFormat::Text);
        assert!(
            exit == Exit::Config
                && out.contains("lint: proxy.client_auth")
                && !out.contains("hunter2"),
            "{out}"
        );
    }

    #[test]
    fn a_folder_in_which_the_guard_cannot_remember_is_told_unless_secrets_are_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let text = |dir: &str| format!("[state]\ndir = \"{}/{dir}\"\n", folder.path().display());
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        for dir in ["open", "file"] {
            let (exit, out) = run(&text(dir), true, ReportFormat::Text);
            assert!(
                exit == Exit::Config
                    && out.contains("lint: state.dir: the guard cannot remember: "),
                "{out}"
            );
        }
        let readable = folder.path().join("readable");
        std::fs::create_dir(&readable).unwrap();
        std::fs::set_permissions(
            &readable,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        assert_eq!(
            run(&text("readable"), true, ReportFormat::Text).0,
            Exit::Done,
            "`run` closes it to others"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&readable).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o755, "a check changes nothing");
        assert_eq!(
            run(&text("not-there-yet"), true, ReportFormat::Text).0,
            Exit::Done
        );
        let elsewhere = LoadOptions {
            no_secrets: true,
            ..LoadOptions::default()
        };
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text("open")).unwrap();
        assert_eq!(
            check(
                &file,
                &elsewhere,
                true,
                None,
                ReportFormat::Text,
                &mut Vec::new()
            )
            .unwrap(),
            Exit::Done
        );
    }

    #[test]
    fn a_machine_gets_an_array() {
        let (exit, out) = run("[proxy]\nlisen = 1\n", false, ReportFormat::Json);
        let all: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (exit, &all[0]["severity"], &all[0]["key"]),
            (Exit::Config, &json!("error"), &json!("proxy.lisen"))
        );
        assert_eq!(
            run("", true, ReportFormat::Json),
            (Exit::Done, "[]\n".to_owned())
        );
    }
}
