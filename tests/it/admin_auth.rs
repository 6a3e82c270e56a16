//! `promises.md#admin-port`: who may change something at the admin port: over TCP, with a token,
//! over a Unix socket.

use std::{os::unix::fs::PermissionsExt, path::Path};

use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::{
    daemon::{Done, Setup, cli, refused},
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    wait::until,
};

const UNIX: &str = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"unix:admin.sock\"\n";
const TOKEN: &str = "a-long-admin-token";

/// An issuer and the stanza of credential `acme`; nothing is sent to its upstream.
async fn party() -> (Issuer, String) {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let text = plain("acme", &format!("{}/token", issuer.url()), &issuer.url());
    (issuer, text)
}

/// `[admin]` of [`PORTS`], with this besides.
fn with_admin(lines: &str, rest: &str) -> String {
    PORTS.replace("[reload]", &format!("{lines}\n[reload]")) + rest
}

fn over(socket: &Path) -> reqwest::Client {
    reqwest::Client::builder()
        .unix_socket(socket)
        .build()
        .unwrap()
}

/// Status and body of a request over a Unix socket.
async fn say(socket: &Path, method: Method, path: &str, token: Option<&str>) -> (u16, String) {
    let request = over(socket)
        .request(method, format!("http://localhost{path}"))
        .header("content-type", "application/json");
    let answer = token
        .into_iter()
        .fold(request, reqwest::RequestBuilder::bearer_auth)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A command with the configuration of this program.
async fn command(sidecar: &Sidecar, args: &[&str]) -> Done {
    let file = sidecar.path("cupbearer.toml").display().to_string();
    cli(&[args, &["--config", &file]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_wanted_for_what_changes_or_shows_something_and_never_for_health_and_metrics() {
    let (_issuer, text) = party().await;
    let text = with_admin("auth = [{ file = \"one\" }, { file = \"two\" }]", &text);
    let sidecar = Sidecar::with_files(&text, &[("one", TOKEN), ("two", "the-other-token")]).await;
    let ask = async |method: Method, path: &str, token: Option<&str>| {
        let request = sidecar
            .client
            .request(method, format!("http://{}{path}", sidecar.admin_addr()))
            .header("content-type", "application/json");
        let answer = token
            .into_iter()
            .fold(request, reqwest::RequestBuilder::bearer_auth)
            .send()
            .await
            .unwrap();
        let wanted = answer
            .headers()
            .get("www-authenticate")
            .map(|v| v.to_str().unwrap().to_owned());
        (answer.status().as_u16(), wanted)
    };
    let refused = (401, Some("Bearer".to_owned()));
    let guarded = [
        (Method::POST, "/api/credentials/acme/refresh", 202),
        (Method::POST, "/api/credentials/acme/unlatch", 202),
        (Method::POST, "/api/reload", 200),
        (Method::GET, "/api/status", 200),
        (Method::GET, "/", 200),
    ];
    for (method, path, good) in guarded {
        assert_eq!(ask(method.clone(), path, None).await, refused, "{path}");
        assert_eq!(
            ask(method.clone(), path, Some("a-long-admin-toke")).await,
            refused,
            "{path}"
        );
        assert_eq!(
            ask(method.clone(), path, Some(TOKEN)).await.0,
            good,
            "{path}"
        );
        assert_eq!(
            ask(method, path, Some("the-other-token")).await.0,
            good,
            "{path}"
        );
    }
    for path in [
        "/metrics",
        "/livez",
        "/readyz/acme",
        "/page/page.js",
        "/page/page.css",
    ] {
        assert!(
            [200, 503].contains(&ask(Method::GET, path, None).await.0),
            "{path}"
        );
    }
    // The secret is read when it is used: a new one counts at once, and that there is none any more
    // when it has been gone for two seconds.
    sidecar.rewrite("one", "another-admin-token");
    assert_eq!(ask(Method::GET, "/api/status", Some(TOKEN)).await.0, 401);
    assert_eq!(
        ask(Method::GET, "/api/status", Some("another-admin-token"))
            .await
            .0,
        200
    );
    std::fs::remove_file(sidecar.path("one")).unwrap();
    until("401", async || {
        ask(Method::GET, "/api/status", Some("another-admin-token"))
            .await
            .0
            == 401
    })
    .await;
    assert_eq!(
        ask(Method::GET, "/api/status", Some("the-other-token"))
            .await
            .0,
        200
    );
    std::fs::remove_file(sidecar.path("two")).unwrap();
    until("nobody is let in by a file that is not there", async || {
        ask(Method::GET, "/api/status", Some("the-other-token"))
            .await
            .0
            == 503
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token_and_says_nothing_before() {
    let (_issuer, text) = party().await;
    let sidecar = Sidecar::with_files(
        &with_admin("auth = { file = \"token\" }", &text),
        &[("token", TOKEN)],
    )
    .await;
    let answer = sidecar.admin("/").await;
    assert_eq!(
        (
            answer.status(),
            answer.headers()["www-authenticate"].to_str().unwrap()
        ),
        (StatusCode::UNAUTHORIZED, "Bearer")
    );
    assert!(
        answer.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'")
    );
    let page = answer.text().await.unwrap();
    assert!(
        page.contains("id=\"ask\"") && page.contains("type=\"password\""),
        "{page}"
    );
    assert!(!page.contains("acme") && !page.contains(TOKEN), "{page}");
    let wrong = sidecar
        .client
        .get(format!("http://{}/", sidecar.admin_addr()))
        .bearer_auth("no")
        .send()
        .await
        .unwrap();
    assert!(
        wrong
            .text()
            .await
            .unwrap()
            .contains("This is not the token.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_and_probe_know_the_token_and_say_what_is_missing() {
    let (issuer, text) = party().await;
    let ports = PORTS.replace(
        "[admin]\nlisten = \"127.0.0.1:0\"",
        &format!(
            "[admin]\nlisten = \"127.0.0.1:{}\"",
            crate::support::tool::free_port()
        ),
    );
    let text = ports.replace("[reload]", "auth = { file = \"token\" }\n[reload]") + &text;
    let sidecar = Sidecar::with_files(&text, &[("token", TOKEN)]).await;
    sidecar
        .until_metric(
            "cupbearer_token_sendable{credential=\"acme\",token=\"access\"}",
            1.0,
        )
        .await;
    for args in [
        &["ctl", "status"][..],
        &["ctl", "reload"],
        &["probe", "live"],
        &["probe", "ready", "acme"],
    ] {
        assert_eq!(command(&sidecar, args).await.code, 0, "{args:?}");
    }
    until("the refresh", async || {
        command(&sidecar, &["ctl", "refresh", "acme"]).await.code == 0
            && issuer.calls("/token") == 2
    })
    .await;
    std::fs::write(sidecar.path("token"), "").unwrap();
    let without = command(&sidecar, &["ctl", "status"]).await;
    assert!(
        without.code == 1 && without.stderr.contains("admin.auth"),
        "{without:?}"
    );
    assert_eq!(
        command(&sidecar, &["probe", "ready"]).await.code,
        0,
        "health is for everybody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket_our_own_user_needs_no_token_and_no_other_user_gets_in() {
    let (issuer, text) = party().await;
    let sidecar = Sidecar::with_files(&format!("{UNIX}{text}"), &[]).await;
    let socket = sidecar.path("admin.sock");
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        sidecar.app.admin().to_string(),
        format!("unix:{}", socket.display())
    );
    until("a token", async || {
        say(&socket, Method::GET, "/readyz/acme", None).await.0 == 200
    })
    .await;
    let status = say(&socket, Method::GET, "/api/status", None).await;
    assert!(status.0 == 200 && status.1.contains("acme"), "{status:?}");
    let asked = say(&socket, Method::POST, "/api/credentials/acme/refresh", None).await;
    let answer: Value = serde_json::from_str(&asked.1).unwrap();
    assert!(
        asked.0 == 202
            && answer["at"]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .is_ok(),
        "{asked:?}"
    );
    until("the refresh", async || issuer.calls("/token") == 2).await;
    for args in [
        &["ctl", "status"][..],
        &["ctl", "unlatch", "acme"],
        &["ctl", "reload"],
        &["probe", "live"],
        &["probe", "ready"],
    ] {
        let done = command(&sidecar, args).await;
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
    }
    // A rebound name cannot reach a socket, but the rule is one.
    let foreign = over(&socket)
        .get("http://evil.example/api/status")
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), 403);
    // Its file goes with it.
    assert!(sidecar.app.stop().await);
    until("the socket's file is gone", async || !socket.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket_users_that_are_not_listed_get_health_and_metrics_and_nothing_else() {
    let (_issuer, text) = party().await;
    let stranger = rustix::process::geteuid().as_raw() + 4242;
    for (auth, refusal) in [("", 403), ("auth = { file = \"token\" }\n", 401)] {
        let ports = format!("{UNIX}uids = [{stranger}]\n{auth}");
        let sidecar = Sidecar::with_files(&format!("{ports}{text}"), &[("token", TOKEN)]).await;
        let socket = sidecar.path("admin.sock");
        assert_eq!(
            std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
            0o666
        );
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/api/status"),
            (Method::POST, "/api/reload"),
        ] {
            assert_eq!(
                say(&socket, method.clone(), path, None).await.0,
                refusal,
                "{path} {auth}"
            );
            let shown = say(&socket, method, path, Some(TOKEN)).await.0;
            assert_eq!(
                shown,
                if auth.is_empty() { 403 } else { 200 },
                "{path} {auth}"
            );
        }
        for path in ["/livez", "/metrics"] {
            assert_eq!(say(&socket, Method::GET, path, None).await.0, 200, "{path}");
        }
        let done = command(&sidecar, &["ctl", "status"]).await;
        assert_eq!(done.code, i32::from(auth.is_empty()), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_at_the_same_socket_ends_and_a_dead_ones_socket_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"unix:{}\"\n",
            folder.path().join(name).display()
        )
    };
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("a.sock")).unwrap());
    let first = Sidecar::with_files(&at("a.sock"), &[]).await;
    assert_eq!(
        say(&folder.path().join("a.sock"), Method::GET, "/livez", None)
            .await
            .0,
        200
    );
    // Neither another program's socket, nor what a link points to, nor a file is touched.
    std::os::unix::fs::symlink(
        folder.path().join("a.sock"),
        folder.path().join("link.sock"),
    )
    .unwrap();
    std::fs::write(folder.path().join("file.sock"), "precious").unwrap();
    for name in ["a.sock", "link.sock", "file.sock"] {
        let done = refused(Setup {
            whole: Some(&at(name)),
            ..Setup::default()
        })
        .await;
        assert!(
            done.code == 1 && done.stderr.contains("admin.listen") && done.stderr.contains(name),
            "{done:?}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(folder.path().join("file.sock")).unwrap(),
        "precious"
    );
    assert_eq!(
        say(&folder.path().join("a.sock"), Method::GET, "/livez", None)
            .await
            .0,
        200
    );
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_for_who_guesses_and_for_nobody_else() {
    let (_issuer, text) = party().await;
    let sidecar = Sidecar::with_files(
        &with_admin("auth = { file = \"token\" }", &text),
        &[("token", TOKEN)],
    )
    .await;
    let url = format!("http://{}/api/status", sidecar.admin_addr());
    let begun = std::time::Instant::now();
    let guesses = futures_util::future::join_all(
        (0..25).map(|n| sidecar.client.get(&url).bearer_auth(n).send()),
    );
    let right = async {
        let begun = std::time::Instant::now();
        assert_eq!(
            sidecar
                .client
                .get(&url)
                .bearer_auth(TOKEN)
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        begun.elapsed()
    };
    let (guesses, right) = tokio::join!(guesses, right);
    assert!(
        guesses
            .into_iter()
            .all(|answer| answer.unwrap().status() == 401)
    );
    assert!(
        begun.elapsed().as_millis() >= 25 * 20 && right < begun.elapsed() / 2,
        "{right:?} of {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_adds_never_makes_a_started_program_unready() {
    let (issuer, text) = party().await;
    let sidecar = Sidecar::with_files(&format!("{PORTS}{text}"), &[]).await;
    issuer.wait(1).await;
    // Nobody has asked for readiness yet, and the second credential's issuer never answers.
    until("ready", async || sidecar.app.is_started()).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = plain(
        "other",
        &format!("http://{}/token", silent.local_addr().unwrap()),
        &issuer.url(),
    );
    sidecar.rewrite("cupbearer.toml", &format!("{PORTS}{text}{second}"));
    until("the second credential", async || {
        sidecar.status().await["credentials"]
            .as_array()
            .unwrap()
            .len()
            == 2
    })
    .await;
    assert_eq!(sidecar.admin("/readyz/other").await.status(), 503);
    assert_eq!(sidecar.admin("/readyz").await.status(), 200);
}
