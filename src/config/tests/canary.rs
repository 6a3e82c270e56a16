//! No message repeats what could be a secret, wherever it was written and whatever is wrong with
//! it.

use serde_json::{Map, Value};

use super::*;

const CANARY: &str = "c4n4rYhunter2";

/// What people write where something else belongs.
const DRESSES: [&str; 14] = [
    "CANARY",
    "https://user:CANARY@api.example:99999/",
    "https://CANARY@api.example/",
    "user:CANARY@api.example",
    "CANARY://api.example",
    "https://api.example/?key=CANARY",
    "https://api example/CANARY",
    "localhost:CANARY",
    "127.0.0.1:CANARY",
    "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\n",
    "{{ 'CANARY' | upperr }}",
    "{{ 'CANARY' + 1 }}",
    "{{ 'CANARY ",
    "^(CANARY",
];

/// Any tree as TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            format!(
                "{{ {} }}",
                table
                    .iter()
                    .map(|(key, value)| format!("{key:?} = {}", toml(value)))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(toml).collect::<Vec<_>>().join(", ")
        ),
        other => other.to_string(),
    }
}

fn file(tree: &Map<String, Value>) -> String {
    tree.iter()
        .map(|(key, value)| format!("{key} = {}", toml(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Pointers to every value that is no table.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(table) => table.iter().for_each(|(key, value)| {
            leaves(value, &format!("{at}/{}", key.replace('/', "~1")), found);
        }),
        Value::Array(items) if !items.is_empty() => {
            found.push(at.to_owned());
            items
                .iter()
                .enumerate()
                .for_each(|(i, value)| leaves(value, &format!("{at}/{i}"), found));
        }
        _ => found.push(at.to_owned()),
    }
}

/// The example with every key in force.
fn example() -> Value {
    let text = example::uncommented();
    read_layers::<File>(&text, &BTreeMap::new(), &mut Problems::default())
        .unwrap()
        .value
}

/// Paths that are shown, as they lead to files that are not secret, and that are needed to find
/// them.
fn is_path(pointer: &str) -> bool {
    ["_file", "/dir", "/profile/file", "/profile"]
        .iter()
        .any(|end| pointer.ends_with(end))
}

#[test]
fn nothing_that_could_be_a_secret_is_repeated_whatever_is_wrong_with_it() {
    let whole = example();
    let mut all = Vec::new();
    leaves(&whole, "", &mut all);
    assert!(all.len() > 80, "{all:?}");
    let mut told = 0;
    for (i, pointer) in all.iter().enumerate() {
        // Every dress where a URL, a template or a pattern is read; of the others each place has
        // three.
        let read = ["url", "params", "headers", "key", "pattern", "listen"]
            .iter()
            .any(|key| pointer.contains(key));
        let dresses = DRESSES
            .iter()
            .enumerate()
            .filter(|(n, _)| read || *n < 2 || (n + i) % DRESSES.len() == 0);
        for (n, dress) in dresses {
            let text = Value::String(dress.replace("CANARY", CANARY));
            let table =
                |key: &str| Value::Object([(key.to_owned(), text.clone())].into_iter().collect());
            let mut values = vec![text.clone()];
            if n == 0 {
                values.extend([
                    Value::Array(vec![text.clone()]),
                    table("file"),
                    table("env"),
                ]);
            }
            for value in values {
                let mut tree = whole.clone();
                *tree.pointer_mut(pointer).unwrap() = value;
                let Value::Object(tree) = tree else {
                    unreachable!()
                };
                let (_, problems) =
                    load_text(&file(&tree), Path::new("/nowhere"), &LoadOptions::default());
                told += problems.list().len();
                let path = is_path(pointer) && !dress.contains("BEGIN");
                let shown = problems.list().iter().find(|problem| {
                    let problem = Problem {
                        key: String::new(),
                        ..(*problem).clone()
                    };
                    problem.to_string().contains(CANARY) && !path
                });
                assert!(shown.is_none(), "{pointer} = {dress}: {shown:#?}");
            }
        }
    }
    assert!(told > 1000, "{told}");
}

#[test]
fn a_text_that_is_no_toml_is_told_by_its_place() {
    for wrong in [
        "k = CANARY",
        "k = \"CANARY",
        "CANARY",
        "k = 'CANARY' x",
        "k = { a = CANARY }",
        "[k\nx = 'CANARY'",
        "k = \"\"\"CANARY",
        "k = 1CANARY",
        "k = \"\\CANARY\"",
    ] {
        let text = format!("[credentials.a]\n{}\n", wrong.replace("CANARY", CANARY));
        let found = mistakes(&text);
        assert!(
            found
                .iter()
                .all(|problem| !problem.to_string().contains(CANARY)),
            "{wrong}: {found:#?}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, &text).unwrap();
        let found = mistakes(&format!(
            "[credentials.a]\nprofile = {{ file = {path:?} }}\n"
        ));
        assert!(
            !found.is_empty()
                && found
                    .iter()
                    .all(|problem| !problem.to_string().contains(CANARY)),
            "{wrong}: {found:#?}"
        );
    }
}

#[test]
fn a_variable_is_named_only_where_it_is_surely_one() {
    let text = |name: &str| format!("proxy.client_auth = {{ env = {name:?} }}\n");
    assert!(
        mistake(&text("PROXY_PASS"), "proxy.client_auth")
            .what
            .contains("PROXY_PASS")
    );
    for secret in [CANARY, "JBSWY3DPEHPK3PXP", "AKIA_x", "_A", "A__B"] {
        assert!(
            !mistake(&text(secret), "proxy.client_auth")
                .to_string()
                .contains(secret)
        );
    }
}

/// Mistypes one character of the example somewhere, 400 times.
#[test]
fn a_slip_of_one_character_never_ends_in_a_panic_and_always_in_a_key_and_a_hint() {
    let text: Vec<char> = example::uncommented().chars().collect();
    let keys = [
        'x', '"', '=', '[', ']', '{', '}', '.', ',', ' ', '\n', '#', '\'', '0', '-', '\\', 'é',
        '\u{0}', '\u{202e}', '|', '%',
    ];
    // A fixed walk through places and characters: every run tries the same.
    let mut state: usize = 9;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..400 {
        let (at, key, how) = (next(text.len()), keys[next(keys.len())], next(3));
        let mut slipped = text.clone();
        match how {
            0 => slipped[at] = key,
            1 => slipped.insert(at, key),
            _ => _ = slipped.remove(at),
        }
        let slipped: String = slipped.into_iter().collect();
        let (config, problems) =
            load_text(&slipped, Path::new("/nowhere"), &LoadOptions::default());
        assert_eq!(config.is_none(), problems.fatal());
        for problem in problems.list() {
            let placed = !problem.key.is_empty() || problem.what.contains("line ");
            assert!(
                placed && problem.hint.as_ref().is_some_and(|hint| !hint.is_empty()),
                "{problem:#?}"
            );
        }
    }
}
