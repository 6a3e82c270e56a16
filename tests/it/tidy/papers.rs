//! What documents say of the tree is true of it: the table of tests, what make can do, and the
//! parts of the page of promises that comments name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{is_test, root, rust_files};

#[test]
fn make_help_says_a_word_of_every_target() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let is_target = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        line.contains(':') && !name.is_empty() && name.chars().all(|c| matches!(c, 'a'..='z' | '-'))
    };
    let silent: Vec<_> = makefile
        .lines()
        .filter(is_target)
        .filter(|line| !line.contains(" ## "))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
    let shown = Command::new("make")
        .args(["--no-print-directory", "help"])
        .current_dir(root())
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for target in makefile.lines().filter(is_target) {
        let target = target.split(':').next().unwrap();
        assert!(
            shown
                .lines()
                .any(|l| l.starts_with(&format!("make {target} "))),
            "{target}"
        );
    }
}

/// Files that people read, and that name others.
const PAPERS: &[&str] = &[
    "README.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "tests/README.md",
    "deploy/README.md",
    "deploy/prometheus/README.md",
    "deploy/kubernetes/README.md",
    "src/promises.md",
    "src/lib.rs",
];

#[test]
fn every_file_that_a_document_names_is_there() {
    let mut missing = Vec::new();
    for paper in PAPERS {
        let text = fs::read_to_string(root().join(paper)).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|word| {
            ["src/", "tests/", "benches/", "deploy/", ".ci/", ".github/"]
                .iter()
                .any(|folder| word.starts_with(folder))
                && !word.contains(char::is_whitespace)
                && !word.contains("NAME")
        });
        missing.extend(
            named
                .map(|word| word.split('#').next().unwrap_or_default())
                .filter(|path| !root().join(path).exists())
                .map(|path| format!("{paper}: {path}")),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Every file of ours that is text, but for what is made (`Cargo.lock`) and the licence.
fn texts() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if ["target", ".git", "Cargo.lock", "LICENSE"].contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found
}

#[test]
fn nothing_cites_a_paper_that_is_not_here() {
    // Written apart, so that this list is none of them.
    let papers = [
        "CON TRACT",
        "DES IGN",
        "RELIA BILITY",
        "PING ORA",
        "PERFOR MANCE",
    ];
    let papers = papers.map(|paper| paper.replace(' ', ""));
    let mut cited = Vec::new();
    for file in texts() {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        cited.extend(
            papers
                .iter()
                .filter(|paper| text.contains(paper.as_str()))
                .map(|paper| format!("{}: {paper}", file.display())),
        );
    }
    assert!(cited.is_empty(), "{}", cited.join("\n"));
}

#[test]
fn no_page_of_the_documentation_needs_the_one_above_it() {
    let same = regex::Regex::new(r"(?m)^\s*//[/!] The same( (for|from|in|with|as)\b|[,;.]).*$");
    let bare = regex::Regex::new(r"/// # Errors\n\s*/// \[`\w+`\]\.?\n\s*(pub|async|fn|#)");
    let (same, bare) = (same.unwrap(), bare.unwrap());
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().filter(|f| !is_test(f)) {
        let text = fs::read_to_string(&file).unwrap();
        for found in same.find_iter(&text).chain(bare.find_iter(&text)) {
            wrong.push(format!("{}: {}", file.display(), found.as_str().trim()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The anchor that rustdoc gives a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// What follows `promises.md#`, `promises#` or, on the page itself, `(#`.
fn cited<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(before).map(move |(at, _)| {
        let rest = &text[at + before.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn every_part_of_the_promises_that_is_named_somewhere_is_there() {
    let page = fs::read_to_string(root().join("src/promises.md")).unwrap();
    let parts: BTreeSet<String> = page
        .lines()
        .filter_map(|l| l.strip_prefix("## "))
        .map(anchor)
        .collect();
    let mut missing: Vec<String> = cited(&page, "](#")
        .filter(|part| !parts.contains(*part))
        .map(|part| format!("src/promises.md: {part}"))
        .collect();
    for file in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(&file).unwrap();
        for before in ["promises.md#", "promises#"] {
            missing.extend(
                cited(&text, before)
                    .filter(|part| !part.is_empty() && !parts.contains(*part))
                    .map(|part| format!("{}: {part}", file.display())),
            );
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// How many rows `tests/README.md` has under each letter.
const ROWS: &[(char, u32)] = &[
    ('R', 36),
    ('T', 15),
    ('V', 15),
    ('C', 7),
    ('S', 11),
    ('P', 12),
    ('A', 16),
    ('M', 5),
    ('H', 8),
    ('L', 7),
];
/// Rows that no test has in its name: what holds them, or why they do not apply, stands in the
/// table.
const TOLD: &[&str] = &["R18", "T13", "S5", "S10", "P4", "P12", "A14", "L6", "L7"];

/// The rows in a test's name: `R10` and `V3` of `r10_v3_insufficient_scope…`.
fn rows(name: &str) -> impl Iterator<Item = String> {
    let is_row = |part: &&str| {
        part.len() > 1
            && part.starts_with(|c: char| c.is_ascii_lowercase())
            && part[1..].parse::<u32>().is_ok()
    };
    name.split('_').take_while(is_row).map(str::to_uppercase)
}

/// Names of functions that stand under `#[test]` or `#[tokio::test]`.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in ["src", "tests"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text
            .match_indices("test]\n")
            .chain(text.match_indices("test("))
        {
            let function = text[at..]
                .lines()
                .skip(1)
                .find(|l| !l.trim_start().starts_with("#["))
                .unwrap_or("");
            let name = function
                .trim_start()
                .trim_start_matches("async ")
                .strip_prefix("fn ");
            found.extend(name.and_then(|n| n.split('(').next()).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_row_says_what_it_is_and_has_its_tests_in_the_table_or_a_reason() {
    let (table, tests) = (
        fs::read_to_string(root().join("tests/README.md")).unwrap(),
        tests(),
    );
    let all: Vec<String> = ROWS
        .iter()
        .flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")))
        .filter(|r| r != "R19")
        .collect();
    for row in &all {
        let begins = format!("| {row} | ");
        let mut lines = table.lines().filter_map(|l| l.strip_prefix(&begins));
        let line = lines.next().unwrap_or_else(|| panic!("{row} has no line"));
        assert!(lines.next().is_none(), "{row} has two lines");
        let sentence = line.split(" | ").next().unwrap();
        assert!(
            sentence.len() > 30 && sentence.ends_with('.'),
            "{row} does not say what it is: {sentence}"
        );
        let held: Vec<&String> = tests
            .iter()
            .filter(|name| rows(name).any(|r| r == *row))
            .collect();
        assert_eq!(
            held.is_empty(),
            TOLD.contains(&row.as_str()),
            "{row}: {held:?}"
        );
        let missing: Vec<_> = held
            .into_iter()
            .filter(|name| !line.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{row} does not name {missing:?}");
        let named = line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| rows(name).next().is_some());
        let gone: Vec<_> = named.filter(|name| !tests.contains(*name)).collect();
        assert!(gone.is_empty(), "{row} names {gone:?}, which is no test");
    }
    let strange: Vec<_> = tests
        .iter()
        .filter(|name| rows(name).any(|r| !all.contains(&r)))
        .collect();
    assert!(strange.is_empty(), "no row is meant by {strange:?}");
}
