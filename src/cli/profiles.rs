//! `profiles`: the built-in ones, listed or printed.

use std::fmt::Write as _;

use super::{Exit, complain, say};
use crate::{
    document::known,
    profile::catalogue::{self, ProfileDescription, SecretDescription, SettingDescription},
};

/// `cupbearer profiles [NAME]`.
pub fn profiles(name: Option<&str>) -> Exit {
    let Some(name) = name else {
        return say(&list_profiles());
    };
    if let Some(found) = catalogue::describe(name) {
        return say(&print_profile(found));
    }
    let hint = known(name, catalogue::all().iter().map(|(name, _)| *name));
    complain(format_args!(
        "cupbearer: there is no built-in profile {name:?}: {hint}; `cupbearer profiles` says what each is for"
    ));
    Exit::Failed
}

/// A line for each: its name, then what it is for.
fn list_profiles() -> String {
    let all: Vec<&ProfileDescription> = catalogue::all()
        .iter()
        .filter_map(|(name, _)| catalogue::describe(name))
        .collect();
    let wide = all.iter().map(|d| d.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for d in all {
        // The first sentence is enough to choose by.
        let doc = d
            .doc
            .split_once(". ")
            .map_or(&*d.doc, |(first, _)| first)
            .trim_end_matches('.');
        let _ = writeln!(out, "{:wide$}  {doc}", d.name);
    }
    out
}

/// The profile as TOML; what a user has to know, inherited parts included, stands in comments
/// before it.
fn print_profile(d: &ProfileDescription) -> String {
    let mut out = format!("# Profile {}\n# {}\n", d.name, d.doc);
    if !d.source.is_empty() {
        let _ = writeln!(out, "# Source: {}", d.source);
    }
    write_section(
        &mut out,
        "Settings",
        d.settings.iter().map(|s| (&*s.name, describe_setting(s))),
    );
    write_section(
        &mut out,
        "Secrets",
        d.secrets.iter().map(|s| (&*s.name, describe_secret(s))),
    );
    let _ = writeln!(
        out,
        "#\n# In your configuration:\n#   [credentials.NAME]\n#   profile = {:?}",
        d.name
    );
    let required = d
        .settings
        .iter()
        .filter(|s| s.required)
        .map(|s| format!("{} = \"…\"", s.name));
    write_pairs(&mut out, "settings", &required.collect::<Vec<_>>());
    let needed = d.secrets.iter().filter(|s| !s.optional && s.name != "*");
    let needed = needed.map(|s| {
        if s.public {
            format!("{} = \"…\"", s.name)
        } else {
            format!("{} = {{ file = \"…\" }}", s.name)
        }
    });
    write_pairs(&mut out, "secrets", &needed.collect::<Vec<_>>());
    let _ = write!(out, "\n{}", d.toml);
    out
}

fn write_section<'a>(
    out: &mut String,
    title: &str,
    lines: impl Iterator<Item = (&'a str, String)>,
) {
    let lines: Vec<_> = lines.collect();
    let wide = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    if wide > 0 {
        let _ = writeln!(out, "#\n# {title}");
    }
    for (name, text) in lines {
        let _ = writeln!(out, "#   {name:wide$}  {text}");
    }
}

fn write_pairs(out: &mut String, key: &str, pairs: &[String]) {
    if !pairs.is_empty() {
        let _ = writeln!(out, "#   {key} = {{ {} }}", pairs.join(", "));
    }
}

fn describe_setting(s: &SettingDescription) -> String {
    let standing = match &s.default {
        _ if s.required => "required".to_owned(),
        Some(default) if !default.is_empty() => format!("default {default}"),
        _ => "optional".to_owned(),
    };
    let pattern = s
        .pattern
        .as_ref()
        .map(|p| format!(", fits {p}"))
        .unwrap_or_default();
    format!("{} ({standing}{pattern})", s.help)
}

fn describe_secret(s: &SecretDescription) -> String {
    let standing = if s.optional { "optional" } else { "required" };
    let public = if s.public { ", public" } else { "" };
    format!("{} ({standing}{public})", s.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_printed_as_toml_with_what_it_wants() {
        for (name, source) in catalogue::all() {
            let found = catalogue::describe(name).unwrap();
            let text = print_profile(found);
            assert!(
                text.parse::<toml::Table>().is_ok() && text.ends_with(source),
                "{text}"
            );
            for part in found
                .settings
                .iter()
                .map(|s| &s.name)
                .chain(found.secrets.iter().map(|s| &s.name))
            {
                assert!(text.contains(&format!("#   {part}")), "{part} in {text}");
            }
        }
    }
}
