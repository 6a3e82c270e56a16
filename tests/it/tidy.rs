//! The house rules a compiler does not hold: who may import whom, how long a file may be, and what
//! must not be there.

mod papers;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may import whom; the same table stands in `src/lib.rs`.
const MAY_TOUCH: &[(&str, &[&str])] = &[
    ("hash", &[]),
    ("lock", &[]),
    ("net", &[]),
    ("clock", &[]),
    ("phase", &[]),
    ("files", &["clock", "hash", "lock"]),
    ("document", &["hash", "lock"]),
    ("redact", &["hash"]),
    ("secret", &["files", "hash", "lock"]),
    ("token", &["clock", "lock", "hash", "tls"]),
    ("state", &["clock", "token", "lock", "hash"]),
    ("client_auth", &["secret"]),
    ("tls", &["files"]),
    ("route", &["hash", "net"]),
    ("upstream", &["document", "route", "tls"]),
    ("telemetry", &["clock", "token", "lock"]),
    ("logging", &["lock"]),
    ("hardening", &[]),
    ("systemd", &[]),
    (
        "profile",
        &[
            "clock",
            "secret",
            "document",
            "token",
            "tls",
            "hash",
            "net",
            "client_auth",
            "lock",
        ],
    ),
    (
        "oauth",
        &[
            "clock",
            "token",
            "secret",
            "profile",
            "tls",
            "telemetry",
            "hash",
            "lock",
            "net",
            "client_auth",
        ],
    ),
    (
        "credential",
        &[
            "clock",
            "files",
            "token",
            "oauth",
            "profile",
            "redact",
            "secret",
            "telemetry",
            "hash",
            "lock",
        ],
    ),
    (
        "config",
        &[
            "profile", "route", "upstream", "secret", "document", "tls", "token", "net", "hash",
        ],
    ),
    (
        "snapshot",
        &[
            "config",
            "credential",
            "oauth",
            "route",
            "upstream",
            "tls",
            "document",
        ],
    ),
    (
        "reload",
        &[
            "config",
            "credential",
            "files",
            "snapshot",
            "document",
            "telemetry",
            "clock",
            "lock",
        ],
    ),
    ("listen", &["logging", "lock", "phase"]),
    (
        "proxy",
        &[
            "clock",
            "files",
            "snapshot",
            "credential",
            "config",
            "upstream",
            "route",
            "token",
            "telemetry",
            "tls",
            "listen",
            "profile",
            "redact",
            "secret",
            "logging",
            "lock",
            "net",
        ],
    ),
    (
        "admin",
        &[
            "clock",
            "snapshot",
            "credential",
            "config",
            "files",
            "document",
            "secret",
            "token",
            "telemetry",
            "reload",
            "phase",
            "lock",
            "net",
        ],
    ),
];

/// The files of a room, lower ones first: each may import those before it. Names stand without
/// `.rs`, a `mod.rs` as its folder, that of the room itself as the room.
const ORDER_IN_ROOM: &[(&str, &[&str])] = &[
    (
        "token",
        &[
            "doubling",
            "window",
            "failure",
            "model",
            "schedule",
            "policy",
            "busy",
            "pause",
            "refusals",
            "renewal",
            "guard/decision",
            "guard/leave",
            "guard/count",
            "guard/budget",
            "guard/record",
            "guard/account",
            "guard/pair",
            "guard/counts",
            "guard",
            "queue",
            "ledger",
            "memory",
            "fetch",
            "share",
            "slot",
            "keeper/backoff",
            "keeper/handle",
            "keeper/waiters",
            "keeper/task",
            "keeper/attempt",
            "keeper/sleep",
            "keeper/step",
            "keeper",
            "store",
            "token",
        ],
    ),
    (
        "files",
        &[
            "identity", "settle", "read", "watch", "value", "write", "files",
        ],
    ),
    (
        "document",
        &[
            "problem",
            "key",
            "duration",
            "scalar",
            "secret_ref",
            "schema",
            "source",
            "read",
            "layers",
            "document",
        ],
    ),
    ("redact", &["spelling", "view", "redact"]),
    (
        "secret",
        &["value", "source", "read", "shown", "watch", "secret"],
    ),
    (
        "client_auth",
        &[
            "method",
            "body",
            "basic",
            "basic_raw",
            "private_key_jwt",
            "client_secret_jwt",
            "none",
            "client_auth",
        ],
    ),
    ("tls", &["flaw", "fault", "pem", "verifier", "tls"]),
    ("route", &["path", "route"]),
    ("telemetry", &["repeats", "traffic", "telemetry", "events"]),
    ("logging", &["once_per_minute", "text", "logging"]),
    (
        "oauth",
        &[
            "json",
            "coding",
            "scrubber",
            "response",
            "request",
            "classify",
            "issued",
            "assertion",
            "transport_error",
            "client",
            "guard_key",
            "call",
            "testing",
            "oauth",
        ],
    ),
    ("reload", &["config_reading", "start_settings", "reload"]),
];

/// Libraries that are known in one room only.
const ONE_ROOM: &[(&str, &[&str])] = &[
    ("prometheus::", &["telemetry", "app"]),
    ("figment::", &["document"]),
    ("reqwest::", &["oauth", "cli"]),
    ("pingora_", &["proxy", "listen", "logging"]),
    ("minijinja::", &["profile"]),
    ("axum::", &["admin", "cli"]),
    ("moka::", &["credential", "proxy"]),
    ("jsonwebtoken::", &["oauth", "profile"]),
];

const LONGEST: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(under: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let dir = root().join(under);
    if dir.exists() {
        walk(&dir, &mut found);
    }
    found
}

/// The room a source file belongs to: `token` for `src/token/guard.rs` and `src/token.rs`.
fn room(file: &Path) -> String {
    let relative = file.strip_prefix(root().join("src")).unwrap();
    relative
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The code of a file: no comments, nothing from `#[cfg(test)]` on.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod").next().unwrap().to_owned();
    text.lines()
        .map(|l| l.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Unit tests in a file of their own.
fn is_test(file: &Path) -> bool {
    file.file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .ends_with("tests")
        || file.components().any(|c| c.as_os_str() == "tests")
}

/// Our own rooms that a file names, in `use crate::…` (nested or not) and in paths.
fn touched(code: &str, rooms: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut top = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ if depth == 1 => top.push(c),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            found.extend(
                top.split(',')
                    .map(|part| part.trim().split("::").next().unwrap_or("").to_owned()),
            );
        } else {
            found.insert(
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("")
                    .to_owned(),
            );
        }
    }
    found.retain(|name| rooms.contains(&name.as_str()));
    found
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let rooms: Vec<&str> = MAY_TOUCH
        .iter()
        .map(|(room, _)| *room)
        .chain(["app", "cli"])
        .collect();
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let room = room(&file);
        let Some((_, allowed)) = MAY_TOUCH.iter().find(|(name, _)| *name == room) else {
            assert!(
                ["app", "cli", "lib", "main"].contains(&room.as_str()),
                "{} has no line in the table",
                file.display()
            );
            continue;
        };
        for other in touched(&code(&file), &rooms) {
            if other != room && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} imports crate::{other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The module of a room's file, as a path below the crate: `token::guard::count`, `token`.
fn module(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root().join("src")).unwrap();
    let mut parts: Vec<String> = relative
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// What a file in `module` names of the crate, as paths below the crate: each leaf of a `use`, and
/// each path in the code that begins with `crate`, `super` or `self`.
fn named(code: &str, module: &[String]) -> Vec<Vec<String>> {
    /// Reads the path (or tree of paths) at the beginning of `text`; gives what comes after it.
    fn read<'t>(text: &'t str, path: &[String], found: &mut Vec<Vec<String>>) -> &'t str {
        let mut text = text.trim_start();
        if let Some(list) = text.strip_prefix('{') {
            text = list;
            loop {
                text = text.trim_start().trim_start_matches(',').trim_start();
                if let Some(rest) = text.strip_prefix('}') {
                    return rest;
                }
                let before = text.len();
                text = read(text, path, found);
                text = text
                    .split_once([',', '}'])
                    .map_or("", |(to, _)| &text[to.len()..]);
                assert!(text.len() < before, "a list that does not end");
            }
        }
        let end = text
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        let mut path = path.to_vec();
        path.extend((end > 0).then(|| text[..end].to_owned()));
        match text[end..].strip_prefix("::") {
            Some(rest) => read(rest, &path, found),
            None => {
                found.push(path);
                &text[end..]
            }
        }
    }
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            // What may be seen from where (`pub(in …)`) is no import.
            let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c))
                && !before.ends_with("(in ");
            if begins {
                read(&code[at..], &[], &mut found);
            }
        }
    }
    for path in &mut found {
        let mut from = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            _ => module.to_vec(),
        };
        while let Some(first) = path.first() {
            match first.as_str() {
                "super" => drop(from.pop()),
                "crate" | "self" => {}
                _ => break,
            }
            path.remove(0);
        }
        from.append(path);
        *path = from;
    }
    found
}

#[test]
fn a_file_imports_only_files_of_its_room_that_stand_before_it() {
    let mut wrong = Vec::new();
    for (room_name, order) in ORDER_IN_ROOM {
        let short = |module: &[String]| match module {
            [room] => room.clone(),
            [_, below @ ..] => below.join("/"),
            [] => String::new(),
        };
        let files: Vec<(PathBuf, Vec<String>)> = rust_files("src")
            .into_iter()
            .filter(|file| room(file) == *room_name && !is_test(file))
            .map(|file| (module(&file), file))
            .map(|(module, file)| (file, module))
            .collect();
        let listed: BTreeSet<String> = order.iter().map(|&name| name.to_owned()).collect();
        let there: BTreeSet<String> = files.iter().map(|(_, module)| short(module)).collect();
        assert_eq!(listed, there, "the files of {room_name}");
        let place = |module: &[String]| order.iter().position(|name| *name == short(module));
        for (file, module) in &files {
            for path in named(&code(file), module) {
                if path.first().is_none_or(|first| first != room_name) {
                    continue;
                }
                // The longest beginning that is a file; what remains are its items.
                let target = (1..=path.len()).rev().find_map(|n| place(&path[..n]));
                if path != *module && target != place(module) && target > place(module) {
                    wrong.push(format!("{} imports {}", file.display(), path.join("::")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_file_names_is_found_in_lists_and_in_code() {
    let module = ["token", "guard", "count"].map(str::to_owned);
    let code = "use super::{decision::{Denial, GuardDecision}, leave::Leave};\n\
        use crate::{clock::BootInstant, token::doubling::doubled};\n\
        fn f() -> super::super::model::Token { self::g(crate::token::slot::h()) }";
    let mut found: Vec<String> = named(code, &module).iter().map(|p| p.join("::")).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "clock::BootInstant",
            "token::doubling::doubled",
            "token::guard::count::g",
            "token::guard::decision::Denial",
            "token::guard::decision::GuardDecision",
            "token::guard::leave::Leave",
            "token::model::Token",
            "token::slot::h",
        ]
    );
}

#[test]
fn a_library_is_known_in_its_rooms_only() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let (room, code) = (room(&file), code(&file));
        for (library, rooms) in ONE_ROOM {
            if code.contains(library) && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{} names {library}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_its_first_reader_can_hold() {
    let files = ["src", "tests", "benches"].into_iter().flat_map(rust_files);
    let long: Vec<String> = files
        .map(|f| (fs::read_to_string(&f).unwrap().lines().count(), f))
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, f)| format!("{lines} lines: {}", f.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_file_begins_with_its_charter() {
    let without: Vec<_> = rust_files("src")
        .into_iter()
        .filter(|f| !fs::read_to_string(f).unwrap().starts_with("//! "))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn no_vendor_is_named_in_rust_code() {
    let vendors = [
        "mypos",
        "optoro",
        "optiturn",
        "worldline",
        "sqr-group",
        "leantech",
    ];
    let mut wrong = Vec::new();
    // The demo and the example of a configuration name built-in profiles as a user does.
    let exempt = |f: &Path| f.to_str().unwrap().contains("/demo/") || is_test(f);
    for file in rust_files("src").into_iter().filter(|f| !exempt(f)) {
        let code = code(&file).to_lowercase();
        wrong.extend(
            vendors
                .iter()
                .filter(|v| code.contains(**v))
                .map(|v| format!("{} names {v}", file.display())),
        );
    }
    // Embedding a file by its name is not knowing the vendor.
    wrong.retain(|w| !w.contains("profile/catalogue.rs"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_architecture_page_has_the_same_table() {
    let page = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for (room, allowed) in MAY_TOUCH {
        let row = page
            .lines()
            .find(|l| l.starts_with(&format!("//! | [`{room}`]")))
            .unwrap_or_else(|| panic!("no row for {room}"));
        let last = row
            .trim_end_matches('|')
            .trim_end()
            .rsplit('|')
            .next()
            .unwrap()
            .trim();
        let named: BTreeSet<&str> = last.split(", ").filter(|n| *n != "–").collect();
        assert_eq!(named, allowed.iter().copied().collect(), "{room}");
    }
    for file in rust_files("src") {
        let room = room(&file);
        assert!(
            ["lib", "main"].contains(&room.as_str()) || page.contains(&format!("[`{room}`]")),
            "{room} is not on the page"
        );
    }
}

#[test]
fn nothing_is_left_open_in_the_tree() {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["#[ign", "ore"].concat(),
    ];
    let mut left = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(&file).unwrap();
        left.extend(
            marks
                .iter()
                .filter(|m| text.contains(m.as_str()))
                .map(|m| format!("{}: {m}", file.display())),
        );
    }
    assert!(left.is_empty(), "{}", left.join("\n"));
}
