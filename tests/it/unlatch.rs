//! `promises.md#by-hand`: one attempt more, let through by a person, with and without a running
//! program.

use std::path::Path;

use crate::support::{
    daemon::{Done, cli},
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
};

/// An issuer, and a configuration whose secret it refuses: latched after one attempt, until
/// somebody does something.
async fn locked_out(more: &str) -> (Issuer, String) {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "right")],
    )
    .await;
    let text = plain("acme", &format!("{}/token", issuer.url()), &issuer.url());
    (
        issuer,
        format!(
            "{text}[credentials.acme.guard]\nmax_rejections = 1\nhold = \"until_secret_changes\"\n{more}"
        ),
    )
}

async fn unlatch(name: &str, file: &Path) -> Done {
    cli(&["unlatch", name, "--config", &file.display().to_string()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_running_program_the_state_folder_is_written_and_one_attempt_may_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (issuer, text) = locked_out("").await;
    let text = format!("{PORTS}[state]\ndir = \"{}\"\n{text}", state.display());
    let file = folder.path().join("c.toml");
    std::fs::write(&file, &text).unwrap();
    let early = unlatch("acme", &file).await;
    assert!(
        early.code == 0 && early.stderr.contains("is not there yet") && !state.exists(),
        "{early:?}"
    );

    for (run, expected) in [(1, "latched"), (2, "latched")] {
        let sidecar = Sidecar::with_files(&text, &[]).await;
        sidecar.until_state("acme", "access", expected).await;
        assert!(sidecar.app.stop().await, "run {run}");
    }
    assert_eq!(issuer.calls("/token"), 1, "a restart makes no attempt more");
    let typo = unlatch("amce", &file).await;
    assert!(
        typo.code == 1 && typo.stdout.is_empty() && typo.stderr.contains("did you mean \"acme\""),
        "{typo:?}"
    );
    let done = unlatch("acme", &file).await;
    assert!(done.code == 0 && done.stderr.is_empty(), "{done:?}");
    assert!(
        done.stdout
            .starts_with("acme: one attempt may be made from 20"),
        "30 s after the refused one: {done:?}"
    );
    // It holds its attempt back for these 30 s, and is latched no more.
    let sidecar = Sidecar::with_files(&text, &[]).await;
    sidecar.until_state("acme", "access", "held").await;
    assert_eq!(issuer.calls("/token"), 1);
    let secrets = format!("{done:?}");
    assert!(!secrets.contains("s3cret-acme"), "{secrets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_folder_there_is_nothing_on_disk_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (_issuer, text) = locked_out("").await;
    let file = folder.path().join("c.toml");
    std::fs::write(&file, format!("{PORTS}{text}")).unwrap();
    let done = unlatch("acme", &file).await;
    assert!(done.code == 1 && done.stdout.is_empty(), "{done:?}");
    assert!(
        done.stderr.contains("without [state]")
            && done.stderr.contains("`cupbearer ctl unlatch acme`"),
        "{done:?}"
    );
    std::fs::write(&file, "[nonsense]\n").unwrap();
    assert_eq!(unlatch("acme", &file).await.code, 78);
    // A folder that cannot be used is no reason to say that something was done.
    let odd = folder.path().join("state");
    std::fs::write(&odd, "no folder").unwrap();
    std::fs::write(
        &file,
        format!("{PORTS}[state]\ndir = \"{}\"\n{text}", odd.display()),
    )
    .unwrap();
    let done = unlatch("acme", &file).await;
    assert!(
        done.code == 1 && done.stdout.is_empty() && !done.stderr.is_empty(),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_vendor_locks_accounts_a_tcp_port_without_a_token_unlatches_nobody() {
    let (issuer, text) = locked_out("account_rejections = 2\n").await;
    let state = "[state]\ndir = \"state\"\n";
    let open = Sidecar::with_files(&format!("{PORTS}{state}{text}"), &[]).await;
    open.until_state("acme", "access", "latched").await;
    let url = |sidecar: &Sidecar| {
        format!(
            "http://{}/api/credentials/acme/unlatch",
            sidecar.admin_addr()
        )
    };
    let json = ("content-type", "application/json");
    for _ in 0..20 {
        let answer = open
            .client
            .post(url(&open))
            .header(json.0, json.1)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403);
        assert!(answer.text().await.unwrap().contains("set [admin] auth"));
    }
    open.until_state("acme", "access", "latched").await;
    assert_eq!(issuer.calls("/token"), 1);
    let (issuer, text) = locked_out("account_rejections = 2\n").await;
    let ports = PORTS.replace("[reload]", "auth = { file = \"token\" }\n[reload]");
    let shut = Sidecar::with_files(
        &format!("{ports}{state}{text}"),
        &[("token", "a-long-admin-token")],
    )
    .await;
    shut.until_metric("cupbearer_credential_latched{credential=\"acme\"}", 1.0)
        .await;
    let answer = shut
        .client
        .post(url(&shut))
        .header(json.0, json.1)
        .bearer_auth("a-long-admin-token")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    let said: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let at = said["at"]
        .as_str()
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
    let away = at.as_second() - jiff::Timestamp::now().as_second();
    assert!(
        (20..=31).contains(&away),
        "30 s after the refused attempt, {away} s from now"
    );
    assert_eq!(issuer.calls("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_name_for_an_account_that_the_vendor_locks_unlatches_it_over_an_open_port() {
    let (issuer, strict) = locked_out("account_rejections = 2\n").await;
    let other_vendor = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "other", "right")],
    )
    .await;
    let token = |issuer: &Issuer| format!("{}/token", issuer.url());
    // The same client of the same vendor, and another client of it: its id may be the same one
    // tomorrow.
    let alias = plain("alias", &token(&issuer), &issuer.url())
        .replace("client_id = \"alias\"", "client_id = \"acme\"");
    let neighbour = plain("neighbour", &token(&issuer), &issuer.url());
    let other = plain("other", &token(&other_vendor), &other_vendor.url());
    let sidecar = Sidecar::with_files(
        &format!("{PORTS}[state]\ndir = \"state\"\n{strict}{alias}{neighbour}{other}"),
        &[],
    )
    .await;
    sidecar.until_state("acme", "access", "latched").await;
    for name in ["acme", "alias", "neighbour"] {
        let url = format!(
            "http://{}/api/credentials/{name}/unlatch",
            sidecar.admin_addr()
        );
        let answer = sidecar
            .client
            .post(url)
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{name}");
        let why = answer.text().await.unwrap();
        assert!(
            why.contains("credentials.acme") && why.contains("set [admin] auth"),
            "{name}: {why}"
        );
    }
    assert_eq!(
        sidecar.post_admin("/api/credentials/other/unlatch").await,
        202,
        "another vendor's accounts are others"
    );
    sidecar.until_state("acme", "access", "latched").await;
}
