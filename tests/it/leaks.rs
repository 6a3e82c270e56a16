//! Secrets and tokens stay inside: in every scenario, at trace level, in both log formats, nothing
//! of them is seen anywhere.

use std::{fmt::Debug, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cupbearer::{
    config::{self, LoadOptions},
    secret::Secret,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    certs::{self, Authority},
    daemon::{Daemon, Setup, cli, refused},
    issuer::{Issuer, PATIENCE},
    tally::hex,
    tokens::Tokens,
    tool::dead_port,
    vendor::Vendor,
    wait::{Asking, until},
    wire::{Answer, Reply, Step},
};

/// Letters and digits, so that no encoding for URLs, JSON or shells hides them; around them what
/// must be encoded.
const SECRET_CORE: &str = "S3cr7tQwZxKvJpLm";
pub const SECRET: &str = "a+/S3cr7tQwZxKvJpLm %&=\\end";
const TOKEN_CORE: &str = "T0k8nHgFdYbNcVrU";
pub const TOKEN: &str = "ey.T0k8nHgFdYbNcVrU-_~+/=";
const QUERY_CORE: &str = "Qu9rYmNbVcXzLkJh";

/// Whoever finds one of these has found (a part of) `core`.
fn spellings(core: &str) -> Vec<String> {
    let mut all: Vec<String> = core
        .as_bytes()
        .windows(9)
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    all.push(core.chars().rev().collect());
    all.extend([hex(core.as_bytes()), hex(core.as_bytes()).to_uppercase()]);
    // Base64 of a longer text that holds it: three alignments, without the characters that depend
    // on the neighbours.
    for shift in 0..3 {
        let text = STANDARD.encode(format!("{}{core}", "x".repeat(shift)));
        all.push(text[4..text.len() - 4].to_owned());
    }
    all
}

/// Every needle that occurs in `text`.
fn found(text: &str, needles: &[String]) -> Vec<String> {
    let lower = text.to_lowercase();
    needles
        .iter()
        .filter(|n| text.contains(*n) || lower.contains(&n.to_lowercase()))
        .cloned()
        .collect()
}

pub fn needles() -> Vec<String> {
    [SECRET_CORE, TOKEN_CORE]
        .into_iter()
        .flat_map(spellings)
        .collect()
}

pub fn clean(what: &str, text: &str, needles: &[String]) {
    let leaks = found(text, needles);
    assert!(leaks.is_empty(), "{what} shows {leaks:?}:\n{text}");
}

#[test]
fn the_search_finds_a_marker_however_it_is_written() {
    for (core, marker) in [(SECRET_CORE, SECRET), (TOKEN_CORE, TOKEN)] {
        let form: String = form_urlencoded::byte_serialize(marker.as_bytes()).collect();
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let (mut ways, needles) = (
            vec![
                marker.to_owned(),
                form,
                json!([marker]).to_string(),
                format!("{marker:?}"),
            ],
            spellings(core),
        );
        ways.extend([
            hex(marker.as_bytes()),
            marker.chars().rev().collect(),
            marker.to_uppercase(),
            core[..9].to_owned(),
        ]);
        ways.extend((0..3).map(|n| STANDARD.encode(format!("{}{marker}", "c".repeat(n)))));
        ways.extend((0..3).map(|n| url.encode(format!("{}:{marker}", "c".repeat(n)))));
        for way in ways {
            assert!(
                !found(&format!("a log line {way} of any kind"), &needles).is_empty(),
                "{way}"
            );
        }
    }
    assert!(found("nothing is here", &needles()).is_empty());
}

/// A daemon at trace level with `text`, once for each log format.
async fn watched<F: AsyncFn(&mut Daemon)>(
    text: &str,
    files: &[(&str, &str)],
    more: &[String],
    act: F,
) {
    let needles: Vec<String> = needles().into_iter().chain(more.iter().cloned()).collect();
    for format in ["text", "json"] {
        let whole = format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\naccess_log = true\ndrain = \"1s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [reload]\ninterval = \"50ms\"\n[log]\nlevel = \"trace\"\nformat = \"{format}\"\n{text}"
        );
        let env = [
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "full"),
            ("LEAKS_SECRET", SECRET),
        ];
        let mut daemon = Daemon::with(Setup {
            whole: Some(&whole),
            files,
            env: &env,
            ..Setup::default()
        })
        .await;
        act(&mut daemon).await;
        for path in [
            "/metrics",
            "/api/status",
            "/readyz",
            "/livez",
            "/readyz/a",
            "/nothing",
        ] {
            clean(path, &daemon.admin(path).await.1, &needles);
        }
        clean(
            "the ready file",
            &std::fs::read_to_string(daemon.path("ready.json")).unwrap(),
            &needles,
        );
        daemon.stop().await;
        let log = daemon.stderr.text();
        assert!(log.contains("stopping"), "the log is alive: {log}");
        clean("stderr", &log, &needles);
        assert_eq!(daemon.stdout.text(), "");
    }
}

/// Every call is refused by us, and the refusal tells nothing.
async fn refuses(daemon: &Daemon, path: &str) -> Value {
    let (status, body) = daemon.get(path).await;
    clean("a refusal", &body, &needles());
    let body: Value =
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{status} {e}: {body}"));
    assert!(
        body["type"]
            .as_str()
            .unwrap()
            .starts_with("urn:cupbearer:error:"),
        "{status} {body}"
    );
    body
}

/// An issuer that answers this to everything.
async fn issuer(answer: impl Into<Answer>) -> Issuer {
    let issuer = Issuer::start(&Tokens::default(), vec![]).await;
    issuer.always(Some(answer.into()));
    issuer
}

fn granted() -> Reply {
    Reply::json(
        200,
        &json!({ "access_token": TOKEN, "session": TOKEN, "token_type": "Bearer", "expires_in": 3600 }),
    )
}

/// A vendor that takes every token and echoes none.
async fn api() -> Vendor {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    vendor.always(Some(Reply::new(200, "fine").into()));
    vendor
}

/// Credential and upstream `name`; `settings` and `more` as TOML.
fn stanza(name: &str, token_url: &str, api: &str, settings: &str, more: &str) -> String {
    format!(
        "[upstreams.{name}]\nurl = \"{api}\"\ncredential = \"{name}\"\n[credentials.{name}]\nsettings = {{ token_url = \"{token_url}\"{settings} }}\n\
         secrets = {{ client_id = \"id\", client_secret = '{SECRET}' }}\n{more}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn h1_success_shows_nothing_in_any_form_of_token_request() {
    let (issuer, vendor) = (issuer(granted()).await, api().await);
    let (token_url, to) = (format!("{}/token", issuer.url()), vendor.url());
    let key = certs::signer(jsonwebtoken::Algorithm::ES256);
    let mut text = stanza("a", &token_url, &to, "", "");
    text += &stanza("basic", &token_url, &to, ", client_auth = \"basic\"", "");
    text += &stanza("raw", &token_url, &to, ", client_auth = \"basic_raw\"", "");
    text += &stanza(
        "json",
        &token_url,
        &to,
        "",
        "[credentials.json.tokens.access]\nformat = \"json\"",
    );
    text += &stanza(
        "get",
        &token_url,
        &to,
        "",
        "[credentials.get.tokens.access]\nformat = \"query\"\nmethod = \"GET\"",
    );
    text += &stanza(
        "hmac",
        &token_url,
        &to,
        ", client_auth = \"client_secret_jwt\"",
        "[credentials.hmac.tokens.access.assertion]\nalg = \"HS256\"",
    );
    text += &stanza(
        "jwt",
        &token_url,
        &to,
        ", client_auth = \"private_key_jwt\"",
        "[credentials.jwt.tokens.access.assertion]\nalg = \"ES256\"",
    )
    .replace(
        &format!("client_secret = '{SECRET}'"),
        "private_key = { file = \"key.pem\" }",
    );
    text += &stanza(
        "query",
        &token_url,
        &to,
        "",
        "[credentials.query.inject]\nquery = { key = \"{{ token }}\" }\ncookies = { sid = \"{{ token }}\" }",
    );
    text += &stanza("env", &token_url, &to, "", "")
        .replace(&format!("'{SECRET}'"), "{ env = \"LEAKS_SECRET\" }");
    let chain = format!(
        "[upstreams.chain]\nurl = \"{to}\"\ncredential = \"chain\"\n[credentials.chain]\nprofile = \"mypos\"\n\
         settings = {{ base = \"{}\", partner_id = \"p\", application_id = \"a\" }}\n\
         secrets = {{ client_id = \"c\", client_secret = '{SECRET}', merchant_client_id = \"m\", merchant_client_secret = '{SECRET}' }}\n",
        issuer.url()
    );
    text += &chain;
    let lines = key
        .key
        .lines()
        .filter(|l| !l.starts_with("-----"))
        .map(|l| l[l.len() / 2..].to_owned())
        .collect::<Vec<_>>();
    watched(&text, &[("key.pem", &key.key)], &lines, async |daemon| {
        for name in [
            "a", "basic", "raw", "json", "get", "hmac", "jwt", "query", "env", "chain",
        ] {
            let (status, body) = daemon.get(&format!("/{name}/x?q={QUERY_CORE}")).await;
            assert_eq!((status, &*body), (200, "fine"), "{name}");
        }
        assert!(
            found(
                &vendor
                    .last()
                    .headers
                    .iter()
                    .map(|(_, v)| &**v)
                    .collect::<String>(),
                &needles()
            )
            .len()
                > 3,
            "tokens were sent"
        );
        daemon.stderr.until("/chain/x").await;
        clean(
            "the access log",
            &daemon.stderr.text(),
            &spellings(QUERY_CORE),
        );
    })
    .await;
    let assertions: Vec<String> = issuer
        .seen()
        .iter()
        .map(|s| s.request.text())
        .filter(|t| t.contains("client_assertion="))
        .collect();
    assert!(
        assertions.len() >= 4 && assertions.iter().all(|a| found(a, &needles()).is_empty()),
        "assertions hold no secret"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_echoes_our_secret_in_its_refusal_finds_no_ear() {
    let basic = STANDARD.encode(format!("id:{SECRET}"));
    let form: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let told = format!(
        "unknown secret {SECRET}, form {form}, basic {basic}, hex {}",
        hex(SECRET.as_bytes())
    );
    let answers = [
        Reply::json(
            401,
            &json!({ "error": "invalid_client", "error_description": told }),
        ),
        Reply::json(
            400,
            &json!({ "error": SECRET, "error_description": SECRET }),
        ),
        Reply::new(403, told.clone())
            .with("X-Told", &form)
            .with("WWW-Authenticate", &format!("Basic realm=\"{form}\"")),
        Reply::new(500, told.clone()),
        Reply::new(200, format!("<html>{told}</html>")),
        Reply::new(302, "").with("Location", &format!("/again?secret={form}")),
    ];
    for answer in answers {
        let (issuer, vendor) = (issuer(answer).await, api().await);
        let token_url = format!("{}/token", issuer.url());
        let text = stanza("a", &token_url, &vendor.url(), "", "")
            + &stanza(
                "basic",
                &token_url,
                &vendor.url(),
                ", client_auth = \"basic\"",
                "",
            )
            + "[upstream_defaults]\ntimeouts = { token = \"100ms\" }\n";
        watched(&text, &[], &[], async |daemon| {
            refuses(daemon, "/a/x").await;
            refuses(daemon, "/basic/x").await;
        })
        .await;
        assert_eq!(vendor.counts().requests, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_token_that_would_forge_headers_is_no_token() {
    for token in [
        format!("{TOKEN}\r\nX-Forged: 1"),
        format!("{TOKEN}\0"),
        format!("{TOKEN}é"),
        format!("{TOKEN}{}", "x".repeat(20_000)),
    ] {
        let (issuer, vendor) = (
            issuer(Reply::json(200, &json!({ "access_token": token }))).await,
            api().await,
        );
        let text = stanza(
            "a",
            &format!("{}/token", issuer.url()),
            &vendor.url(),
            "",
            "",
        );
        watched(&text, &[], &[], async |daemon| {
            assert_eq!(refuses(daemon, "/a/x").await["code"], "token_misconfigured");
        })
        .await;
        assert_eq!(vendor.counts().requests, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v12_a_replay_and_a_vendor_that_tells_our_token_back_show_nothing_of_our_own() {
    let (issuer, vendor) = (issuer(granted()).await, api().await);
    vendor.always(Some(
        Reply::new(401, TOKEN)
            .with(
                "WWW-Authenticate",
                &format!("Bearer error=\"invalid_token\", error_description=\"{TOKEN}\""),
            )
            .into(),
    ));
    let text = stanza(
        "a",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
        "",
        "",
    );
    watched(&text, &[], &[], async |daemon| {
        daemon.until_status("\"state\":\"ok\"").await;
        assert_eq!(daemon.get("/a/x").await.0, 401);
        issuer.always(Some(
            Reply::json(400, &json!({ "error": "invalid_request", "error_description": format!("{TOKEN} {SECRET}") })).into(),
        ));
        let mut asking = Asking::default();
        let refreshed = async {
            while !daemon.admin("/api/status").await.1.contains("\"class\":\"config\"") {
                if !asking.is_due() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                let refresh = daemon.client.post(format!("http://{}/api/credentials/a/refresh", daemon.admin));
                assert_eq!(refresh.header("content-type", "application/json").send().await.unwrap().status(), 202);
            }
        };
        timeout(PATIENCE, refreshed).await.expect("a refused refresh");
        issuer.always(Some(granted().into()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h3_network_and_tls_failures_name_no_url_with_a_secret_in_it() {
    let authority = Authority::new("nobody trusts it");
    let tls = Authority::server(&authority.localhost(&[]), &["http/1.1"]);
    let (vendor, dark) = (
        Vendor::with_tls(&Tokens::default(), vec![], Some(tls)).await,
        format!("http://127.0.0.1:{}", dead_port()),
    );
    let cut = issuer(Answer::Raw(vec![
        Step::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec()),
        Step::Reset,
    ]))
    .await;
    let good = issuer(granted()).await;
    let query = |name: &str| {
        format!(
            "[credentials.{name}.tokens.access]\nformat = \"query\"\n[credentials.{name}.inject]\nquery = {{ key = \"{{{{ token }}}}\" }}"
        )
    };
    let mut text = "[upstream_defaults]\ntimeouts = { token = \"100ms\" }\n".to_owned();
    for (name, url, api) in [
        ("a", dark.clone(), dark.clone()),
        ("tls", format!("{}/token", vendor.url()), dark.clone()),
        ("cut", format!("{}/token", cut.url()), dark.clone()),
        ("gone", format!("{}/token", good.url()), dark.clone()),
        ("api", format!("{}/token", good.url()), vendor.url()),
    ] {
        text += &stanza(name, &url, &api, "", &query(name));
    }
    watched(&text, &[], &[], async |daemon| {
        until("three failures", async || {
            let status: Value = serde_json::from_str(&daemon.admin("/api/status").await.1).unwrap();
            let failed = |c: &&Value| !c["tokens"][0]["last_failure"].is_null();
            status["credentials"]
                .as_array()
                .unwrap()
                .iter()
                .filter(failed)
                .count()
                == 3
        })
        .await;
        for (path, code) in [
            ("a", "token_unavailable"),
            ("tls", "token_unavailable"),
            ("cut", "token_unavailable"),
            ("gone", "upstream_unreachable"),
            ("api", "upstream_tls"),
        ] {
            // Also one that is asked again just then.
            let mut said = Value::Null;
            until(code, async || {
                said = refuses(daemon, &format!("/{path}/x?q={QUERY_CORE}")).await["code"].take();
                said != "token_timeout"
            })
            .await;
            assert_eq!(said, code, "{path}");
        }
        daemon.stderr.until("/api/x").await;
        clean("the log", &daemon.stderr.text(), &spellings(QUERY_CORE));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_file_that_cannot_be_used_is_named_and_not_quoted() {
    let (issuer, vendor) = (issuer(granted()).await, api().await);
    let json = format!("{{\"other\": \"{SECRET_CORE}\", \"list\": [\"{SECRET_CORE}\"], }}");
    let files = [
        ("bad.json", &*json),
        ("good.json", "{\"list\": [\"S3cr7tQwZxKvJpLm\"]}"),
        ("key", SECRET),
        ("empty", "\n"),
    ];
    let mut text = "[upstream_defaults]\ntimeouts = { token = \"100ms\" }\n".to_owned();
    for (name, source) in [
        ("a", "file = \"bad.json\", json_key = \"/x\""),
        ("b", "file = \"good.json\", json_key = \"/list\""),
        ("c", "file = \"empty\""),
    ] {
        text += &stanza(
            name,
            &format!("{}/token", issuer.url()),
            &vendor.url(),
            "",
            "",
        )
        .replace(&format!("'{SECRET}'"), &format!("{{ {source} }}"));
    }
    let key = stanza(
        "d",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
        ", client_auth = \"private_key_jwt\"",
        "[credentials.d.tokens.access.assertion]\nalg = \"RS256\"",
    );
    text += &key.replace(
        &format!("client_secret = '{SECRET}'"),
        "private_key = { file = \"key\" }",
    );
    watched(&text, &files, &[], async |daemon| {
        for name in ["a", "b", "c"] {
            assert_eq!(
                refuses(daemon, &format!("/{name}/x")).await["code"],
                "secret_unreadable",
                "{name}"
            );
        }
        refuses(daemon, "/d/x").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_reported_without_the_secrets_in_it() {
    let head = "[upstreams.a]\nurl = \"https://vendor.example\"\ncredential = \"a\"\n[credentials.a]\nsettings = { token_url = \"https://t.example/\" }\n";
    let with = |secrets: &str| {
        format!("{head}secrets = {{ client_id = \"id\", client_secret = {secrets} }}\n")
    };
    let wrong = [
        with(&format!("['{SECRET}']")),
        with(&format!("{{ fiel = '{SECRET}' }}")),
        with(&format!(
            "{{ env = \"X\", file = \"y\", value = '{SECRET}' }}"
        )),
        with(&format!("'{SECRET}\n")),
        with(&format!("\"{SECRET_CORE}\\q\"")),
        with(&format!("'{SECRET}' '{SECRET}'")),
        format!("{head}secrets = '{SECRET}'\n"),
        format!("{head}secrets = {{ client_id = \"id\", client_secrte = '{SECRET}' }}\n"),
        format!("{head}client_secret = '{SECRET}'\nsecrets = {{ client_id = \"id\" }}\n"),
        format!("[proxy]\nclient_auth = [['{SECRET}']]\n"),
        format!("[proxy]\nclient_auth = {{ secret = '{SECRET}' }}\n"),
        format!(
            "{}[credentials.a.tokens.access]\nurl = \"https://id:{SECRET_CORE}@t.example/\"\n",
            with("\"x\"")
        ),
        format!(
            "[upstreams.a]\nurl = \"https://id:{SECRET_CORE}@vendor.example/\"\ncredential = \"none\"\n"
        ),
        format!(
            "{}[credentials.a.inject.headers]\nAuthorization = \"{{{{ secrets.client_secret }}}} {{{{ nope }}}}\"\n",
            with(&format!("'{SECRET}'"))
        ),
    ];
    for text in &wrong {
        let done = refused(Setup {
            whole: Some(text),
            env: &[("RUST_LOG", "trace")],
            ..Setup::default()
        })
        .await;
        assert_eq!((done.code, &*done.stdout), (78, ""), "{text}: {done:?}");
        clean(text, &done.stderr, &needles());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        for format in ["text", "json"] {
            let done = cli(&[
                "check",
                "--format",
                format,
                "--config",
                file.to_str().unwrap(),
            ])
            .await;
            assert_eq!(done.code, 78, "{text}");
            clean(text, &(done.stdout + &done.stderr), &needles());
        }
    }
    let over = [("CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRTE", SECRET)];
    let done = refused(Setup {
        whole: Some(&with("\"x\"")),
        env: &over,
        ..Setup::default()
    })
    .await;
    assert!(
        done.code == 78 && found(&done.stderr, &needles()).is_empty(),
        "{done:?}"
    );
}

#[test]
fn h2_the_debug_form_of_what_holds_secrets_shows_none() {
    let text = format!(
        "[proxy]\nclient_auth = '{SECRET}'\n{}",
        stanza("a", "https://t.example/", "https://v.example", "", "")
    );
    let options = LoadOptions {
        env: [("X".to_owned(), SECRET.to_owned())].into(),
        ..LoadOptions::default()
    };
    let (config, problems) = config::load_text(&text, std::path::Path::new("."), &options);
    let config = config.unwrap_or_else(|| panic!("{problems:?}"));
    let values = config.credentials["a"].secrets.read().unwrap();
    let all: [&dyn Debug; 5] = [
        &config,
        &problems,
        &options,
        &values,
        &Secret::new(SECRET.into()),
    ];
    for it in all {
        clean("Debug", &format!("{it:?} {it:#?}"), &needles());
    }
    assert_eq!(values.0["client_secret"].expose(), SECRET);
}
