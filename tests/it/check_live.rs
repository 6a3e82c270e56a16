//! `check --live`: each token once, past the guard, and the answer in words that name the key to
//! change.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    certs::Authority,
    daemon::{Daemon, Done, cli, cli_of},
    endpoint::{Auth, Endpoint},
    issuer::Issuer,
    tokens::Tokens,
    wait::until,
    wire::Reply,
};

/// A folder with a configuration in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("c.toml", text);
        place
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    async fn live(&self, more: &[&str]) -> Done {
        let file = self.0.path().join("c.toml").display().to_string();
        let done = cli_of(
            &self.0.path().join("home"),
            &[&["check", "--live", "--config", &file], more].concat(),
        )
        .await;
        assert_eq!(done.stderr, "", "{done:?}");
        done
    }
}

async fn issuer(endpoint: Endpoint) -> Issuer {
    Issuer::start(&Tokens::default(), vec![endpoint]).await
}

/// A credential of the issuer's one client, and what else its tables hold.
fn acme(issuer: &Issuer, settings: &str, secret: &str) -> String {
    let url = issuer.url();
    format!(
        "[credentials.acme]\nsettings = {{ token_url = \"{url}/token\"{settings} }}\nsecrets = {{ client_id = \"acme\", client_secret = {secret:?} }}\n\
         [upstreams.acme]\nurl = \"http://127.0.0.1:9\"\ncredential = \"acme\"\n"
    )
}

fn has(done: &Done, parts: &[&str]) {
    for part in parts {
        assert!(done.stdout.contains(part), "{part:?} in {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_is_got_once_and_told_with_its_time_and_life() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let lazy = "[credentials.acme.tokens.access.lifetime]\nrefresh = \"lazy\"\n";
    let place = Place::new(&format!("{}{lazy}", acme(&issuer, "", "s3cret")));
    let done = place.live(&[]).await;
    assert_eq!((done.code, issuer.calls("/token")), (0, 1), "{done:?}");
    has(
        &done,
        &[
            "live: credential acme, token access: obtained after ",
            " ms, lives 1h, renewed after about ",
        ],
    );
    let done = place.live(&["--format", "json"]).await;
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    let token = &told["tokens"][0];
    assert_eq!(
        (&token["outcome"], &token["life"], issuer.calls("/token")),
        (&json!("ok"), &json!(3600), 2),
        "{told}"
    );
    assert!(
        told["problems"].is_array() && token["took_ms"].is_u64(),
        "{told}"
    );
    let secret = issuer
        .tokens()
        .all("access")
        .into_iter()
        .find(|token| done.stdout.contains(token.as_str()));
    assert!(
        secret.is_none() && !done.stdout.contains("s3cret"),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_basic_encodes_otherwise_leads_to_basic_raw() {
    let secret = "a+b/c=d%e";
    let issuer = issuer(Endpoint {
        auth: Auth::BasicRaw,
        ..Endpoint::new("/token", "acme", secret)
    })
    .await;
    let done = Place::new(&acme(&issuer, ", client_auth = \"basic\"", secret))
        .live(&[])
        .await;
    assert_eq!(done.code, 3, "{done:?}");
    has(
        &done,
        &[
            "refused (status 401)",
            "invalid_client",
            "try credentials.acme.settings.client_auth = \"basic_raw\"",
        ],
    );
    assert!(!done.stdout.contains(secret), "{done:?}");
    let done = Place::new(&acme(&issuer, ", client_auth = \"basic_raw\"", secret))
        .live(&[])
        .await;
    assert_eq!(done.code, 0, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_explained_by_the_key_to_change() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let code = |status, error| Reply::json(status, &json!({ "error": error }));
    let cases: Vec<(Reply, &[&str])> = vec![
        (
            code(400, "invalid_scope"),
            &[
                "does not grant \"orders\"",
                "credentials.acme.settings.scope",
            ],
        ),
        (
            code(404, "not_found"),
            &[
                "check the path in credentials.acme.settings.token_url (http://127.0.0.1:",
                "/token)",
            ],
        ),
        // What a stranger writes into a description chooses no hint.
        (
            Reply::json(
                404,
                &json!({ "error": "not_found", "error_description": "no invalid_scope here" }),
            ),
            &["check the path in credentials.acme.settings.token_url"],
        ),
        (
            code(400, "unauthorized_client"),
            &["must allow this client the grant client_credentials"],
        ),
        (
            code(400, "invalid_request"),
            &[
                "a parameter is missing",
                "credentials.acme.tokens.access.params",
            ],
        ),
        (
            Reply::new(301, "").with("Location", "https://else.example/"),
            &["a redirect, which is never followed", "settings.token_url"],
        ),
        (
            Reply::new(200, "<html>").with("Content-Type", "text/html"),
            &["the answer is not JSON", "a web page answers there"],
        ),
        (
            Reply::json(200, &json!({ "jwt": "x" })),
            &[
                "no token at /access_token",
                "credentials.acme.tokens.access.response",
            ],
        ),
        (Reply::new(503, ""), &["the vendor's own trouble"]),
    ];
    for (n, (reply, parts)) in cases.into_iter().enumerate() {
        issuer.script(reply);
        let done = Place::new(&acme(&issuer, ", scope = \"orders\"", "s3cret"))
            .live(&[])
            .await;
        assert_eq!((done.code, issuer.calls("/token")), (3, n + 1), "{done:?}");
        has(&done, parts);
    }
    issuer.script(Reply::json(200, &json!({ "access_token": "t0ken" })));
    let done = Place::new(&acme(&issuer, "", "s3cret")).live(&[]).await;
    assert_eq!(done.code, 0);
    has(
        &done,
        &[
            "lives 5m",
            "does not say how long the token lives",
            "lifetime.default",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_explained_by_the_check_that_failed() {
    let ca = Authority::new("vendor's own");
    let tls = Authority::server(&ca.localhost(&[]), &["http/1.1"]);
    let issuer = Issuer::with_tls(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret")],
        Some(tls),
    )
    .await;
    let done = Place::new(&acme(&issuer, "", "s3cret")).live(&[]).await;
    assert_eq!(done.code, 3, "{done:?}");
    has(
        &done,
        &[
            "TLS: certificate has an unknown issuer (\"CN=vendor's own",
            "credentials.acme.tokens.access.tls.ca_file",
        ],
    );
    issuer.down().await;
    let done = Place::new(&acme(&issuer, "", "s3cret")).live(&[]).await;
    assert_eq!(done.code, 3, "{done:?}");
    has(&done, &["connection refused", "nothing listens there"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_of_the_state_folder_is_respected() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let place = Place::new(&format!(
        "[state]\ndir = \"state\"\n{}",
        acme(&issuer, "", "wrong")
    ));
    assert_eq!(place.live(&[]).await.code, 3);
    let again = place.live(&[]).await;
    assert_eq!((again.code, issuer.calls("/token")), (3, 1), "{again:?}");
    has(&again, &["nothing was sent: the guard remembers"]);
    // The running program counts there, too, and does not try what the check was refused for.
    let dir = place.0.path().join("state").display().to_string();
    let mut daemon = Daemon::start(&format!(
        "[state]\ndir = \"{dir}\"\n{}",
        acme(&issuer, "", "wrong")
    ))
    .await;
    until("what the check counted", async || {
        daemon
            .admin("/metrics")
            .await
            .1
            .contains("cupbearer_credential_rejections{credential=\"acme\"} 1\n")
    })
    .await;
    assert_eq!(issuer.calls("/token"), 1);
    daemon.stop().await;
    place.write(
        "c.toml",
        &format!("[state]\ndir = \"state\"\n{}", acme(&issuer, "", "s3cret")),
    );
    assert_eq!(
        place.live(&[]).await.code,
        0,
        "another secret has a count of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_in_a_loop_is_one_wrong_attempt_also_without_a_state_folder() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let place = Place::new(&acme(&issuer, "", "wrong"));
    for n in 0..5 {
        let done = place.live(&[]).await;
        assert_eq!((done.code, issuer.calls("/token")), (3, 1), "{n}: {done:?}");
        let own = place.0.path().join("home/cupbearer").display().to_string();
        has(
            &done,
            &[
                "this counts: 1 refused so far, of 2 for each secret, in ",
                &own,
                "the next check knows of it, `cupbearer run` does not",
            ],
        );
        if n > 0 {
            has(
                &done,
                &[
                    "not tried again yet",
                    "nothing was sent: the guard remembers",
                    "--force tries once",
                ],
            );
        }
    }
    // A person may insist; that counts where it may, and what comes after it is kept to.
    let forced = place.live(&["--force"]).await;
    assert_eq!((forced.code, issuer.calls("/token")), (3, 2), "{forced:?}");
    assert_eq!((place.live(&[]).await.code, issuer.calls("/token")), (3, 2));
    place.write("c.toml", &acme(&issuer, "", "s3cret"));
    assert_eq!(
        (place.live(&[]).await.code, issuer.calls("/token")),
        (0, 3),
        "another secret has a count of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_locks_out_is_left_alone_where_nothing_would_remember_it_unless_forced() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let locks = format!(
        "{}[credentials.acme.guard]\nhold = \"until_secret_changes\"\n",
        acme(&issuer, "", "wrong")
    );
    let place = Place::new(&locks);
    place.write("home", "in the way");
    let left = place.live(&[]).await;
    assert_eq!((left.code, issuer.calls("/token")), (0, 0), "{left:?}");
    has(
        &left,
        &[
            "credential acme: skipped: this vendor locks out",
            "home/cupbearer cannot be made",
            "set [state] dir, or --force",
        ],
    );
    let forced = place.live(&["--force"]).await;
    assert_eq!((forced.code, issuer.calls("/token")), (3, 1), "{forced:?}");
    has(
        &forced,
        &["neither the next check nor `cupbearer run` knows of it"],
    );
    assert!(!forced.stdout.contains("unlatch"), "{forced:?}");
    // A `[state]` that cannot be used is no reason to count elsewhere what the running program
    // counts there.
    std::fs::remove_file(place.0.path().join("home")).unwrap();
    place.write("c.toml", &format!("[state]\ndir = \"c.toml\"\n{locks}"));
    let left = place.live(&[]).await;
    assert_eq!((left.code, issuer.calls("/token")), (0, 1), "{left:?}");
    has(&left, &["skipped: this vendor locks out", "[state]: "]);
    place.write("c.toml", &format!("[state]\ndir = \"state\"\n{locks}"));
    has(
        &place.live(&[]).await,
        &[
            "this counts: 1 refused so far, of 2",
            "`cupbearer ctl unlatch acme` allows one more attempt",
        ],
    );
    place.write("c.toml", &locks);
    has(
        &place.live(&[]).await,
        &["this counts: 1 refused so far, of 2", "home/cupbearer"],
    );
    assert_eq!(
        issuer.calls("/token"),
        3,
        "this user's own record does not know of it, and keeps it from now on"
    );
    assert_eq!((place.live(&[]).await.code, issuer.calls("/token")), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_s_life_is_held_against_the_margin_and_a_bare_403_is_explained() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    issuer.change("/token", |e| e.life = Duration::from_secs(900));
    let place = Place::new(&format!(
        "{}[credentials.acme.tokens.access.lifetime]\nrefresh_before = \"20m\"\n",
        acme(&issuer, "", "s3cret")
    ));
    has(
        &place.live(&[]).await,
        &["refresh_before (20m) is as long as this token's life (15m)"],
    );
    issuer.always(Some(Reply::new(403, "<html>Forbidden</html>").into()));
    has(
        &place.live(&[]).await,
        &["status 403", "often a firewall's, or a list of addresses"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_running_program_needs_is_left_alone_unless_forced() {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    issuer.change("/token", |e| e.life = Duration::from_secs(900));
    let replaces = "[credentials.acme.tokens.access.lifetime]\nrotation = \"replaces\"\n\
        [credentials.lean]\nprofile = \"lean_customer\"\nsecrets = { client_id = \"c\", client_secret = \"d\" }\n\
        [credentials.key]\nprofile = \"static\"\nsecrets = { key = \"k\" }\ninject = { headers = { X-Key = \"{{ secrets.key }}\" } }\n";
    let place = Place::new(&format!("{}{replaces}", acme(&issuer, "", "s3cret")));
    let done = place.live(&[]).await;
    assert_eq!((done.code, issuer.seen().len()), (0, 0), "{done:?}");
    has(
        &done,
        &[
            "credential acme: skipped: a new access token ends the one",
            "credential lean: skipped: each request names its own customer_id",
            "credential key: skipped: nothing to get",
        ],
    );
    let forced = place.live(&["--force", "--credential", "acme"]).await;
    assert_eq!((forced.code, issuer.calls("/token")), (0, 1), "{forced:?}");
    has(&forced, &["lives 15m"]);
    assert!(!forced.stdout.contains("lean: "), "{forced:?}");
    let file = place.0.path().join("c.toml").display().to_string();
    let nobody = cli(&[
        "check",
        "--live",
        "--credential",
        "nobody",
        "--config",
        &file,
    ])
    .await;
    assert!(
        nobody.code == 1 && nobody.stderr.contains("no credential \"nobody\""),
        "{nobody:?}"
    );
    let alone = cli(&["check", "--force", "--config", &file]).await;
    assert_eq!(alone.code, 2, "{alone:?}");
}

async fn counts(daemon: &Daemon, refused: usize) {
    let line = format!("cupbearer_credential_rejections{{credential=\"acme\"}} {refused}\n");
    until("what is counted", async || {
        daemon.admin("/metrics").await.1.contains(&line)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_an_account_are_counted_together_with_the_running_program_and_nothing_is_sent_without_a_record()
 {
    let issuer = issuer(Endpoint::new("/token", "acme", "s3cret")).await;
    let locks = |secret: &str| {
        format!(
            "{}[credentials.acme.guard]\naccount_rejections = 2\n",
            acme(&issuer, "", secret)
        )
    };
    let place = Place::new(&locks("wrong"));
    place.write("home", "in the way");
    let left = place.live(&[]).await;
    assert_eq!((left.code, issuer.calls("/token")), (0, 0), "{left:?}");
    has(
        &left,
        &[
            "credential acme: skipped: this vendor locks out",
            "home/cupbearer cannot be made",
            "set [state] dir, or --force",
        ],
    );
    let forced = place.live(&["--force"]).await;
    assert_eq!((forced.code, issuer.calls("/token")), (3, 1), "{forced:?}");
    // With the program's own record: its refusal is the first, the check's the second, whatever the
    // secrets.
    let dir = place.0.path().join("state").display().to_string();
    let state = format!("[state]\ndir = \"{dir}\"\n");
    let mut daemon = Daemon::start(&format!("{state}{}", locks("wrong"))).await;
    counts(&daemon, 1).await;
    assert_eq!(issuer.calls("/token"), 2);
    place.write("c.toml", &format!("{state}{}", locks("another")));
    let second = place.live(&[]).await;
    assert_eq!((second.code, issuer.calls("/token")), (3, 3), "{second:?}");
    for secret in ["a third", "s3cret", "wrong"] {
        place.write("c.toml", &format!("{state}{}", locks(secret)));
        let held = place.live(&[]).await;
        assert_eq!(
            (held.code, issuer.calls("/token")),
            (3, 3),
            "{secret}: {held:?}"
        );
        has(&held, &["nothing was sent: the guard remembers"]);
    }
    daemon.stop().await;
    // The program likewise, started with yet another secret.
    let mut daemon = Daemon::start(&format!("{state}{}", locks("a fourth"))).await;
    counts(&daemon, 2).await;
    assert_eq!(issuer.calls("/token"), 3);
    daemon.stop().await;
}
