//! The other commands, as the real binary answers them: check, profiles, schema, completions, help,
//! ctl, probe, demo.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    daemon::{Daemon, Done, Setup, cli},
    endpoint::Endpoint,
    issuer::Issuer,
    ledger::age,
    sidecar::plain,
    tokens::Tokens,
    tool::{Tool, free_port, root, skip},
    vendor::{Need, Vendor},
};

/// A file that goes with its folder.
fn written(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let name = file.display().to_string();
    (folder, name)
}

async fn check(text: &str, more: &[&str]) -> Done {
    let (_folder, file) = written(text);
    cli(&[&["check", "--config", &file], more].concat()).await
}

const FINE: &str = "[credentials.a]\nsettings = { token_url = \"https://t.example/\" }\nsecrets = { client_id = \"x\", client_secret = { env = \"NOT_SET_ANYWHERE\" } }\n\
    [upstreams.a]\nurl = \"https://v.example\"\ncredential = \"a\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_every_problem_and_lints_fail_where_asked() {
    let wrong = check("[proxy]\nlisen = 1\n[log]\nlevel = \"loud\"\n[upstreams.a]\nurl = \"x\"\ncredential = \"b\"\n", &[]).await;
    assert_eq!((wrong.code, &*wrong.stderr), (78, ""), "{wrong:?}");
    for part in [
        "proxy.lisen",
        "did you mean \"listen\"",
        "log.level",
        "upstreams.a.url",
        "c.toml",
    ] {
        assert!(wrong.stdout.contains(part), "{part} in {}", wrong.stdout);
    }
    let lint = "[proxy]\nclient_auth = \"inline-but-long-enough\"\n";
    let (mild, strict) = (check(lint, &[]).await, check(lint, &["--strict"]).await);
    assert_eq!((mild.code, strict.code), (0, 78));
    assert!(
        mild.stdout.contains("lint: proxy.client_auth") && mild.stdout.contains("0 errors, 1 lint"),
        "{mild:?}"
    );
    let json = check("[proxy]\nlisen = 1\n", &["--format", "json"]).await;
    let all: Value = serde_json::from_str(&json.stdout).unwrap();
    let keys: Vec<&String> = all[0].as_object().unwrap().keys().collect();
    assert_eq!(
        (json.code, keys),
        (
            78,
            ["file", "hint", "key", "severity", "what"]
                .iter()
                .map(|k| (*k).to_owned())
                .collect::<Vec<_>>()
                .iter()
                .collect()
        )
    );
    assert_eq!(check("", &["--format", "json"]).await.stdout.trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_needs_no_secrets_where_told_so() {
    let with = check(FINE, &[]).await;
    assert!(
        with.code == 78 && with.stdout.contains("NOT_SET_ANYWHERE"),
        "{with:?}"
    );
    let without = check(FINE, &["--no-secrets", "--strict"]).await;
    assert_eq!(without.code, 0, "{without:?}");
    let example = root().join("config.example.toml").display().to_string();
    let example = cli(&["check", "--no-secrets", "--config", &example]).await;
    assert_eq!(example.code, 0, "{example:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_listed_and_printed_as_toml_with_what_they_want() {
    let list = cli(&["profiles"]).await;
    let names: Vec<&str> = list
        .stdout
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    let all = [
        "keycloak",
        "keycloak_jwt",
        "lean",
        "lean_customer",
        "mypos",
        "oauth2",
        "optoro",
        "sqr",
        "static",
        "worldline",
        "worldline_jwt",
    ];
    assert_eq!((list.code, names), (0, all.to_vec()), "{list:?}");
    assert!(
        list.stdout
            .lines()
            .all(|l| l.split_whitespace().count() > 3),
        "each says what it is for: {}",
        list.stdout
    );
    for name in all {
        let one = cli(&["profiles", name]).await;
        let table: toml::Table = one.stdout.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(one.code == 0 && table.contains_key("doc"), "{one:?}");
        assert!(
            one.stdout.contains(&format!("#   profile = \"{name}\"")),
            "{}",
            one.stdout
        );
        let raw =
            std::fs::read_to_string(root().join(format!("src/profile/catalogue/{name}.toml")))
                .unwrap();
        assert!(one.stdout.ends_with(&raw), "{name}");
    }
    // What is inherited is told too: the file of the customer profile has neither secrets nor base.
    let lean = cli(&["profiles", "lean_customer"]).await.stdout;
    for part in [
        "# Secrets",
        "#   client_secret",
        "# Settings",
        "#   base",
        "(default https://auth.leantech.me",
        "# Source: https://docs.leantech.me/",
    ] {
        assert!(lean.contains(part), "{part} in {lean}");
    }
    let none = cli(&["profiles", "nobody"]).await;
    assert!(
        none.code == 1 && none.stdout.is_empty() && none.stderr.contains("\"nobody\""),
        "{none:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_takes_the_example_and_refuses_a_typo() {
    let schema = cli(&["schema"]).await;
    let parsed: Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(
        schema.code == 0 && parsed["properties"]["upstreams"].is_object(),
        "{parsed}"
    );
    let script = "import json, sys, tomllib\ntry:\n    import jsonschema\nexcept ImportError:\n    sys.exit(9)\n\
        schema = json.loads(sys.stdin.read())\nvalidator = jsonschema.validators.validator_for(schema)(schema)\n\
        good = tomllib.load(open(sys.argv[1], 'rb'))\nerrors = [e.message for e in validator.iter_errors(good)]\n\
        good['proxy']['lisen'] = 1\nassert not errors, errors\nassert list(validator.iter_errors(good)), 'a typo passes'\n";
    let example = root().join("config.example.toml").display().to_string();
    let python = match Tool::python() {
        Ok(python) => python.args(["-c", script, &*example]).input(&schema.stdout),
        Err(why) => return skip("the_schema_takes_the_example_and_refuses_a_typo", &why),
    };
    let (code, _, told) = python.run(Duration::from_secs(60)).await;
    if code == 9 {
        return skip(
            "the_schema_takes_the_example_and_refuses_a_typo",
            "the Python of the tools has no jsonschema",
        );
    }
    assert_eq!(code, 0, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_scripts_of_their_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let done = cli(&["completions", shell]).await;
        assert!(
            done.code == 0 && done.stdout.contains("cupbearer") && done.stdout.contains("probe"),
            "{done:?}"
        );
        let (_folder, file) = written(&done.stdout);
        // bash is everywhere; the other two are tried where a machine has them.
        let there = std::env::var("PATH")
            .unwrap()
            .split(':')
            .any(|d| Path::new(d).join(shell).exists());
        if let Some(Ok(tool)) = (shell == "bash" || there).then(|| Tool::on_path(shell, shell)) {
            let (code, _, told) = tool.args(["-n", &*file]).run(Duration::from_secs(30)).await;
            assert_eq!((code, &*told), (0, ""), "{shell}");
        }
    }
    assert_eq!(cli(&["completions", "cmd"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_explains_every_command_option_and_exit_code() {
    let help = cli(&["--help"]).await;
    assert_eq!(help.code, 0);
    for part in [
        "CUPBEARER_CONFIG",
        "78",
        "Exit status",
        "cupbearer demo",
        "CUPBEARER_PROXY__DRAIN=5s",
    ] {
        assert!(help.stdout.contains(part), "{part} in {}", help.stdout);
    }
    for command in [
        "run",
        "demo",
        "check",
        "profiles",
        "ctl",
        "unlatch",
        "probe",
        "schema",
        "completions",
    ] {
        assert!(help.stdout.contains(&format!("  {command} ")), "{command}");
        let of = cli(&[command, "--help"]).await;
        assert_eq!(of.code, 0, "{command}");
        let mut lines = of
            .stdout
            .lines()
            .skip_while(|l| !l.starts_with("Usage"))
            .peekable();
        while let Some(line) = lines.next() {
            let entry = line.trim_start();
            let indented = line.starts_with(' ');
            if !indented
                || !(entry.starts_with("--")
                    || entry.starts_with('-')
                    || entry.starts_with('<')
                    || entry.starts_with('['))
            {
                continue;
            }
            // In the long form the explanation stands on the next line.
            let beside = entry
                .split_once("  ")
                .is_some_and(|(_, text)| !text.trim().is_empty())
                || entry.contains(": ");
            let below = lines
                .peek()
                .is_some_and(|next| next.starts_with("          ") && !next.trim().is_empty());
            assert!(
                beside || below,
                "{command} {entry:?} is not explained:\n{}",
                of.stdout
            );
        }
        if ["run", "check", "ctl", "unlatch", "probe"].contains(&command) {
            assert!(
                of.stdout.contains("CUPBEARER_CONFIG")
                    && of.stdout.contains("/etc/cupbearer/config.toml"),
                "{command}"
            );
        }
    }
    assert_eq!(
        cli(&["--version"]).await.stdout,
        format!("cupbearer {}\n", env!("CARGO_PKG_VERSION"))
    );
}

fn config(daemon: &Daemon) -> String {
    daemon.path("cupbearer.toml").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_and_probe_talk_to_the_running_program() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let port = free_port();
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:{port}\"\n{}{}[credentials.other.guard]\nmax_rejections = 1\n[state]\ndir = \"state\"\n",
        plain("acme", &format!("{}/token", issuer.url()), &vendor.url()),
        plain("other", &format!("{}/token", issuer.url()), &vendor.url()),
    );
    let mut daemon = Daemon::with(Setup {
        whole: Some(&text),
        ..Setup::default()
    })
    .await;
    daemon.until_status("\"latched\"").await;
    daemon.until_status("\"ok\"").await;
    let file = config(&daemon);
    let run = async |args: &[&str]| cli(&[args, &["--config", &file]].concat()).await;
    for (args, code) in [
        (&["probe", "live"][..], 0),
        (&["probe", "ready"], 0),
        (&["probe", "ready", "acme"], 0),
        (&["probe", "ready", "other"], 1),
        (&["probe", "ready", "nobody"], 1),
        (&["ctl", "status", "nobody"], 1),
        (&["ctl", "refresh", "nobody"], 1),
    ] {
        let done = run(args).await;
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(
            done.stdout.is_empty() && (done.stderr.is_empty() || code == 1),
            "{args:?}: {done:?}"
        );
    }
    let all: Value = serde_json::from_str(&run(&["ctl", "status"]).await.stdout).unwrap();
    let one: Value = serde_json::from_str(&run(&["ctl", "status", "acme"]).await.stdout).unwrap();
    assert_eq!(
        (
            all["credentials"].as_array().unwrap().len(),
            one["credentials"].as_array().unwrap().len()
        ),
        (2, 1)
    );
    assert_eq!(one["credentials"][0]["name"], "acme");
    // Asked for, it stays latched, and whoever asked is told.
    let latched = run(&["ctl", "refresh", "other"]).await;
    assert_eq!(latched.code, 0, "{latched:?}");
    assert!(
        latched
            .stdout
            .starts_with("other: refresh accepted, for 20"),
        "{latched:?}"
    );
    assert!(
        latched.stderr.contains("other is latched")
            && latched.stderr.contains("`cupbearer ctl unlatch other`"),
        "{latched:?}"
    );
    issuer.change("/token", |e| e.client = "other".into());
    issuer.change("/token", |e| e.secrets = vec!["s3cret-other".into()]);
    // The attempt comes 30 s after the last refusal.
    age(&daemon.path("state"), Duration::from_secs(31));
    let unlatched = run(&["ctl", "unlatch", "other"]).await;
    assert!(
        unlatched.code == 0 && unlatched.stdout.starts_with("other: unlatch accepted"),
        "{unlatched:?}"
    );
    daemon
        .until_status("\"rejections\":0,\"fingerprint\":\"")
        .await;
    // Within a second of the last call they are for a little later.
    let both = |stdout: &str| {
        stdout
            .lines()
            .map(|line| line.split(',').next().unwrap())
            .eq(["acme: refresh accepted", "other: refresh accepted"])
    };
    assert!(both(&run(&["ctl", "refresh"]).await.stdout));
    // What is wrong on disk, the running program does not know: it can be asked all the same.
    for wrong in [
        format!("{text}[upstreams.acme.tls]\nca_fil = 1\n"),
        format!("{text}\nthis is = no TOML = at all\n[upstreams"),
    ] {
        std::fs::write(&file, wrong).unwrap();
        let (status, probe, again) = (
            run(&["ctl", "status", "acme"]).await,
            run(&["probe", "live"]).await,
            run(&["ctl", "refresh"]).await,
        );
        assert_eq!(
            (status.code, probe.code, again.code),
            (0, 0, 0),
            "{status:?} {probe:?} {again:?}"
        );
        assert!(
            status.stdout.contains("\"acme\"")
                && status
                    .stderr
                    .contains("is wrong (`cupbearer check` says how)"),
            "{status:?}"
        );
        assert!(both(&again.stdout), "{again:?}");
        let reload = run(&["ctl", "reload"]).await;
        assert!(
            reload.code == 78 && reload.stderr.contains("the old one goes on"),
            "{reload:?}"
        );
        assert!(
            reload.stderr.contains(&format!("    in {file}")),
            "{reload:?}"
        );
        assert_eq!(run(&["ctl", "status", "acme"]).await.code, 0);
    }
    // What the file says by now about credentials is not what the program runs on.
    std::fs::write(
        &file,
        text.replace("[credentials.other", "[credentials.another")
            .replace("credential = \"other\"", "credential = \"another\""),
    )
    .unwrap();
    let (status, again) = (
        run(&["ctl", "status", "other"]).await,
        run(&["ctl", "refresh"]).await,
    );
    assert!(
        status.code == 0 && status.stdout.contains("\"other\""),
        "{status:?}"
    );
    assert!(again.code == 0 && both(&again.stdout), "{again:?}");
    std::fs::write(&file, &text).unwrap();
    // By the variable instead of the option.
    let mut by_variable = tokio::process::Command::new(crate::support::sidecar::binary());
    let by_variable = by_variable
        .args(["probe", "live"])
        .env("CUPBEARER_CONFIG", &file)
        .status()
        .await
        .unwrap();
    assert!(by_variable.success());
    daemon.stop().await;
    for args in [
        &["ctl", "status"][..],
        &["ctl", "refresh"],
        &["probe", "live"],
        &["probe", "ready"],
    ] {
        let done = run(args).await;
        assert!(
            done.code == 1
                && done.stdout.is_empty()
                && done.stderr.contains(&format!("127.0.0.1:{port}")),
            "{args:?}: {done:?}"
        );
    }
    assert!(Path::new(&file).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_every_promise_and_ends() {
    let begun = Instant::now();
    let done = cli(&["demo", "--once"]).await;
    assert_eq!((done.code, &*done.stderr), (0, ""), "{}", done.stdout);
    // Twelve seconds where nothing else runs; what is asserted is that it ends.
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(done.stdout.matches("[ok]").count(), 7, "{}", done.stdout);
    assert!(
        !done.stdout.contains("BROKEN") && done.stdout.contains("All as promised."),
        "{}",
        done.stdout
    );
    for part in [
        "first call",
        "a thousand calls",
        "two chained tokens",
        "none fails",
        "revoked",
        "issuer is down",
        "latched",
        "cupbearer_token_requests_total",
    ] {
        assert!(done.stdout.contains(part), "{part} in {}", done.stdout);
    }
    assert!(!done.stdout.contains("demo-secret"), "{}", done.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_name_gets_the_nearest_one_as_a_hint() {
    let profiles = cli(&["profiles", "optorro"]).await;
    assert!(
        profiles.code == 1 && profiles.stderr.contains("did you mean \"optoro\"?"),
        "{profiles:?}"
    );
    let nothing_near = cli(&["profiles", "zzz"]).await;
    assert!(
        nothing_near.code == 1 && nothing_near.stderr.contains("known here: keycloak"),
        "{nothing_near:?}"
    );
    let file = check("[credentials.a]\nprofile = \"optorro\"\n", &[]).await;
    assert!(
        file.code == 78 && file.stdout.contains("did you mean \"optoro\"?"),
        "{file:?}"
    );
    let live = check(
        &FINE
            .replace("env = \"NOT_SET_ANYWHERE\"", "file = \"/x\"")
            .replace(".a]", ".billing]")
            .replace("\"a\"", "\"billing\""),
        &["--live", "--credential", "biling"],
    )
    .await;
    assert!(
        live.code == 1 && live.stderr.contains("did you mean \"billing\"?"),
        "{live:?}"
    );
    let command = cli(&["chekc"]).await;
    assert!(
        command.code == 2 && command.stderr.contains("'check'"),
        "{command:?}"
    );
    let word = cli(&["check", "--format", "jsom"]).await;
    assert!(word.code == 2 && word.stderr.contains("'json'"), "{word:?}");
    let daemon = Daemon::start(&plain(
        "billing",
        "http://127.0.0.1:9/token",
        "http://127.0.0.1:9",
    ))
    .await;
    let (_folder, config) = written(&format!("[admin]\nlisten = \"{}\"\n", daemon.admin));
    for verb in ["refresh", "unlatch", "status"] {
        let ctl = cli(&["ctl", verb, "biling", "--config", &config]).await;
        assert!(
            ctl.code == 1 && ctl.stderr.contains("did you mean \"billing\"?"),
            "{ctl:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_could_grow_without_end_changes_nothing_that_runs() {
    let profile = |value: &str| format!("[inject.headers]\nX-Key = \"{value}\"\n");
    let text = "[credentials.a]\nprofile = { file = \"p.toml\" }\n[upstreams.a]\nurl = \"http://127.0.0.1:9\"\ncredential = \"a\"\n";
    let mut daemon = Daemon::with(Setup {
        text,
        files: &[("p.toml", &profile("x"))],
        ..Setup::default()
    })
    .await;
    let set = format!(
        "{{% set a = 'xx' %}}{}{{{{ a }}}}",
        "{% set a = a ~ a %}".repeat(40)
    );
    std::fs::write(daemon.path("new.toml"), profile(&set)).unwrap();
    std::fs::rename(daemon.path("new.toml"), daemon.path("p.toml")).unwrap();
    daemon.stderr.until("is not a template: ").await;
    assert_eq!(daemon.get("/a/x").await.0, 502, "what runs goes on");
    daemon.stop().await;
}
