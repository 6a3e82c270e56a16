//! Reloads: all or nothing, by polling, by hand and by signal; what did not change does not notice.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Process, Sidecar, binary, plain},
    tokens::Tokens,
    tool::free_port,
    vendor::{Need, Vendor},
    wire::{Gate, Reply},
};

/// No polling: reloads come when a test asks for them.
const BY_HAND: &str = "[proxy]\nlisten = [\"127.0.0.1:0\"]\ndrain = \"2s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[reload]\ninterval = \"off\"\n";

/// An issuer for `acme` and `beta`, and two vendor APIs at different origins.
struct Scene {
    issuer: Issuer,
    a: Vendor,
    b: Vendor,
}

impl Scene {
    async fn new() -> Self {
        let tokens = Tokens::default();
        let endpoint = |name: &str| {
            let mut endpoint = Endpoint::new(&format!("/{name}"), name, &format!("s3cret-{name}"));
            endpoint.name = name.into();
            endpoint
        };
        let issuer = Issuer::start(&tokens, vec![endpoint("acme"), endpoint("beta")]).await;
        let (a, b) = (
            Vendor::start(&tokens, vec![Need::Bearer("acme")]).await,
            Vendor::start(&tokens, vec![Need::Bearer("beta")]).await,
        );
        Self { issuer, a, b }
    }

    fn acme(&self) -> String {
        plain(
            "acme",
            &format!("{}/acme", self.issuer.url()),
            &self.a.url(),
        )
    }

    fn beta(&self) -> String {
        plain(
            "beta",
            &format!("{}/beta", self.issuer.url()),
            &self.b.url(),
        )
    }
}

fn bearer(request: &crate::support::wire::Request) -> String {
    request
        .header("authorization")
        .unwrap_or_default()
        .trim_start_matches("Bearer ")
        .to_owned()
}

async fn post_reload(sidecar: &Sidecar) -> (u16, Value) {
    let request = sidecar
        .client
        .post(format!("http://{}/api/reload", sidecar.admin_addr()));
    let answer = request
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    (
        answer.status().as_u16(),
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter"
)]
async fn reloads(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.metric(&series(outcome)).await as u64
}

fn series(outcome: &str) -> String {
    format!("cupbearer_config_reloads_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_changed_file_is_taken_up_by_itself_and_a_wrong_one_changes_nothing() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::start(&scene.acme()).await;
    assert_eq!(
        (
            sidecar.status_of("/acme/x").await,
            sidecar.status_of("/beta/x").await
        ),
        (200, 404)
    );
    let both = format!("{PORTS}{}{}", scene.acme(), scene.beta());
    sidecar.rewrite("cupbearer.toml", &both);
    sidecar.until_metric(&series("applied"), 1.0).await;
    assert_eq!(
        (
            sidecar.status_of("/acme/x").await,
            sidecar.status_of("/beta/x").await
        ),
        (200, 200)
    );

    for (n, wrong) in [
        format!("{both}[nonsense"),
        both.replace("[proxy]", "[proxy]\nlisen = 1"),
        both.replace("http://", "ftp://"),
        String::from("\u{0}"),
    ]
    .iter()
    .enumerate()
    {
        sidecar.rewrite("cupbearer.toml", wrong);
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        sidecar
            .until_metric(&series("refused"), n as f64 + 1.0)
            .await;
        assert_eq!(
            (
                sidecar.status_of("/acme/x").await,
                sidecar.status_of("/beta/x").await
            ),
            (200, 200)
        );
        let config = sidecar.status().await["config"].clone();
        assert_eq!(
            (&config["generation"], &config["last_reload"]["outcome"]),
            (&json!(2), &json!("refused"))
        );
        assert!(
            !config["last_reload"]["problems"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }
    // Once it is right again, that is said too, though nothing changes.
    sidecar.rewrite("cupbearer.toml", &both);
    sidecar.until_metric(&series("unchanged"), 1.0).await;
    assert_eq!(
        sidecar.status().await["config"]["last_reload"]["outcome"],
        "unchanged"
    );
    assert!(
        sidecar
            .metric("cupbearer_config_last_reload_success_timestamp_seconds")
            .await
            > 1.0e9
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_want_of_a_file_heals_when_the_file_comes() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::start(&scene.acme()).await;
    let profile = format!(
        "[tokens.access]\nurl = \"{}/beta\"\nparams = {{ client_id = \"beta\", client_secret = \"s3cret-beta\" }}\nclient_auth = \"none\"\n",
        scene.issuer.url()
    );
    let beta = format!(
        "[credentials.beta]\nprofile = {{ file = \"beta.toml\" }}\n[upstreams.beta]\nurl = \"{}\"\ncredential = \"beta\"\n",
        scene.b.url()
    );
    sidecar.rewrite("cupbearer.toml", &format!("{PORTS}{}{beta}", scene.acme()));
    sidecar.until_metric(&series("refused"), 1.0).await;
    assert_eq!(sidecar.status_of("/beta/x").await, 404);
    sidecar.rewrite("beta.toml", &profile);
    sidecar.until_metric(&series("applied"), 1.0).await;
    assert_eq!(sidecar.status_of("/beta/x").await, 200);
    // Tried at each poll, told once.
    assert_eq!(reloads(&sidecar, "refused").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_hand_answers_with_its_outcome_or_with_every_problem() {
    let scene = Scene::new().await;
    let text = format!("{BY_HAND}{}", scene.acme());
    let sidecar = Sidecar::with_files(&text, &[]).await;
    assert_eq!(sidecar.status().await["config"]["last_reload"], Value::Null);
    let unchanged =
        json!({ "outcome": "unchanged", "generation": 1, "problems": [], "restart": [] });
    assert_eq!(post_reload(&sidecar).await, (200, unchanged));

    sidecar.rewrite(
        "cupbearer.toml",
        &format!("{text}[proxi]\n[upstreams.x]\nurl = \"nonsense\"\n"),
    );
    let (status, refused) = post_reload(&sidecar).await;
    assert_eq!(
        (status, &refused["outcome"], &refused["generation"]),
        (422, &json!("refused"), &json!(1))
    );
    let keys: Vec<&str> = refused["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["key"].as_str().unwrap())
        .collect();
    for key in ["proxi", "upstreams.x.url", "upstreams.x.credential"] {
        assert!(keys.contains(&key), "{key} in {refused:#}");
    }
    let file = sidecar.path("cupbearer.toml").display().to_string();
    assert!(
        refused["problems"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["file"] == file),
        "{refused:#}"
    );
    assert_eq!(
        sidecar.status().await["config"]["last_reload"]["problems"],
        refused["problems"]
    );

    sidecar.rewrite("cupbearer.toml", &format!("{text}{}", scene.beta()));
    let (status, applied) = post_reload(&sidecar).await;
    assert_eq!(
        (status, &applied["outcome"], &applied["generation"]),
        (200, &json!("applied"), &json!(2))
    );
    for outcome in ["applied", "unchanged", "refused"] {
        assert_eq!(reloads(&sidecar, outcome).await, 1, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_a_reload_is_for_our_own_names_and_pages_only() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::with_files(&format!("{BY_HAND}{}", scene.acme()), &[]).await;
    let url = format!("http://{}/api/reload", sidecar.admin_addr());
    let ours = format!("http://{}", sidecar.admin_addr());
    for (name, value, status) in [
        ("content-type", "text/plain", 415),
        ("content-type", "application/x-www-form-urlencoded", 415),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 403),
        ("origin", &*ours, 200),
    ] {
        let mut headers = http::HeaderMap::new();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/json"),
        );
        headers.insert(http::HeaderName::from_static(name), value.parse().unwrap());
        let answer = sidecar
            .client
            .post(&url)
            .headers(headers)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{name}: {value}");
        assert!(
            answer
                .headers()
                .keys()
                .all(|name| !name.as_str().starts_with("access-control-"))
        );
    }
    assert_eq!(sidecar.client.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(reloads(&sidecar, "unchanged").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_credential_keeps_its_token_and_its_keeper() {
    let scene = Scene::new().await;
    let text = format!("{BY_HAND}{}", scene.acme());
    let sidecar = Sidecar::with_files(&text, &[]).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let token = sidecar.token("acme", "access").await;
    // Others come and go, its own upstream and its lifetime rules change: its requests would be the
    // same, so it goes on.
    let capped = scene.acme().replace(
        "[upstreams",
        "tokens.access.lifetime = { cap = \"30m\" }\n[upstreams",
    );
    for changed in [
        format!("{text}{}", scene.beta()),
        text.clone(),
        format!("{text}timeouts = {{ read = \"9s\" }}\n"),
        format!("{BY_HAND}{capped}"),
        text.replace("drain = \"2s\"", "drain = \"3s\""),
    ] {
        sidecar.rewrite("cupbearer.toml", &changed);
        assert_eq!(
            post_reload(&sidecar).await.1["outcome"],
            "applied",
            "{changed}"
        );
        assert_eq!(sidecar.status_of("/acme/x").await, 200);
        assert_eq!(
            sidecar.token("acme", "access").await["fingerprint"],
            token["fingerprint"]
        );
    }
    assert_eq!(scene.issuer.calls("/acme"), 1);
    // What shapes the request does make a new token.
    let scoped = text.replace("token_url", "scope = \"read\", token_url");
    scene.issuer.change("/acme", |e| {
        e.scope = crate::support::endpoint::Scope::OneOf(vec!["read".into()]);
    });
    sidecar.rewrite("cupbearer.toml", &scoped);
    post_reload(&sidecar).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(scene.issuer.calls("/acme"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_ca_file_reaches_the_keeper_that_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tokens = Tokens::default();
    let tls = Authority::server(&new.localhost(&[]), &["http/1.1"]);
    let issuer = Issuer::with_tls(
        &tokens,
        vec![Endpoint::new("/acme", "acme", "s3cret-acme")],
        Some(tls),
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let acme = plain("acme", &format!("{}/acme", issuer.url()), &vendor.url());
    let text = format!(
        "{PORTS}{acme}[credentials.acme.tokens.access.tls]\nca_file = \"ca.pem\"\nca_only = true\n"
    );
    let sidecar = Sidecar::with_files(&text, &[("ca.pem", &old.pem)]).await;
    sidecar.until_metric("cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}", 1.0).await;
    assert_eq!(issuer.calls("/acme"), 0);
    sidecar.rewrite("ca.pem", &new.pem);
    sidecar.until_metric(&series("applied"), 1.0).await;
    sidecar.until_get("/acme/x", 200).await;
    assert_eq!(issuer.calls("/acme"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_until_it_is_as_it_was() {
    let scene = Scene::new().await;
    let text = format!("{BY_HAND}{}", scene.acme());
    let sidecar = Sidecar::with_files(&text, &[]).await;
    let moved = text.replace(
        "[proxy]",
        "[log]\nformat = \"json\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[proxy]\nworkers = 3",
    );
    sidecar.rewrite("cupbearer.toml", &moved);
    let keys = json!(["proxy.workers", "metrics.listen", "log.format"]);
    assert_eq!(post_reload(&sidecar).await.1["restart"], keys);
    // A later reload that changes something else does not make it forgotten.
    sidecar.rewrite("cupbearer.toml", &format!("{moved}{}", scene.beta()));
    assert_eq!(post_reload(&sidecar).await.1["restart"], keys);
    assert_eq!(
        sidecar.status().await["config"]["last_reload"]["restart"],
        keys
    );
    sidecar.rewrite("cupbearer.toml", &text);
    assert_eq!(post_reload(&sidecar).await.1["restart"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_requests_under_way_finish_as_they_began() {
    let scene = Scene::new().await;
    let sidecar =
        Sidecar::with_files(&format!("{BY_HAND}{}{}", scene.acme(), scene.beta()), &[]).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let gate = Gate::shut();
    let mut held = Reply::new(200, "from the old one");
    held.gate = Some(gate.clone());
    scene.a.script(held);
    let (client, url) = (sidecar.client.clone(), sidecar.url("/acme/slow"));
    let open =
        tokio::spawn(async move { client.get(url).send().await.unwrap().text().await.unwrap() });
    scene.a.wait(2).await;
    sidecar.rewrite("cupbearer.toml", &format!("{BY_HAND}{}", scene.beta()));
    assert_eq!(post_reload(&sidecar).await.1["outcome"], "applied");
    assert_eq!(sidecar.status_of("/acme/x").await, 404);
    gate.open();
    assert_eq!(open.await.unwrap(), "from the old one");
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_token_never_follows_an_upstream_to_another_origin() {
    let scene = Scene::new().await;
    let text = format!("{BY_HAND}{}{}", scene.acme(), scene.beta());
    let sidecar = Sidecar::with_files(&text, &[]).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let old = bearer(&scene.a.last());
    // The upstream moves to the other vendor, with that vendor's credential, and then with none.
    let stanza = |credential: &str| {
        format!(
            "[upstreams.acme]\nurl = \"{}\"\ncredential = \"{credential}\"\n",
            scene.b.url()
        )
    };
    let credentials = |text: &str| text.replace("[upstreams.acme]", "[upstreams.was]");
    for credential in ["beta", "none"] {
        sidecar.rewrite(
            "cupbearer.toml",
            &format!("{}{}", credentials(&text), stanza(credential)),
        );
        assert_eq!(post_reload(&sidecar).await.1["outcome"], "applied");
        let status = sidecar.status_of("/acme/x").await;
        assert_eq!(status, if credential == "beta" { 200 } else { 401 });
    }
    assert!(scene.b.seen().iter().all(|request| bearer(request) != old));
    assert_eq!(bearer(&scene.b.last()), "");
    // Where the same credential is configured for the new origin, it is meant to go there.
    sidecar.rewrite(
        "cupbearer.toml",
        &format!("{}{}", credentials(&text), stanza("acme")),
    );
    post_reload(&sidecar).await;
    sidecar.status_of("/acme/x").await;
    assert!(scene.b.seen().iter().any(|request| bearer(request) == old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_ctl_reload_a_process_and_the_log_says_so() {
    use tokio::io::AsyncBufReadExt as _;
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cupbearer.toml");
    let text = format!("{BY_HAND}{}", scene.acme()).replace(
        "[admin]\nlisten = \"127.0.0.1:0\"",
        &format!("[admin]\nlisten = \"127.0.0.1:{}\"", free_port()),
    );
    std::fs::write(&file, &text).unwrap();
    let mut process = Process::run(&file).await;
    let logged = async |process: &mut Process, words: &str| {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            let read =
                tokio::time::timeout(Duration::from_secs(20), process.log.read_line(&mut line))
                    .await;
            assert!(
                read.expect("a line").unwrap() > 0,
                "the log ended without {words:?}"
            );
        }
        line
    };
    std::fs::write(&file, format!("{text}{}", scene.beta())).unwrap();
    process.signal(rustix::process::Signal::HUP);
    logged(&mut process, "configuration reloaded").await;
    std::fs::write(&file, format!("{text}[nonsense]\n")).unwrap();
    process.signal(rustix::process::Signal::HUP);
    let line = logged(&mut process, "configuration refused, the old one goes on: ").await;
    assert!(
        line.contains("key=\"nonsense\"") && line.contains("hint="),
        "one event, one line: {line}"
    );
    std::fs::write(&file, &text).unwrap();
    let ctl = async || {
        tokio::process::Command::new(binary())
            .args(["ctl", "reload", "--config"])
            .arg(&file)
            .output()
            .await
            .unwrap()
    };
    let output = ctl().await;
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout)
        ),
        (Some(0), "reload: applied\n".into())
    );
    logged(&mut process, "configuration reloaded").await;
    assert_eq!(
        String::from_utf8_lossy(&ctl().await.stdout),
        "reload: unchanged\n"
    );
    assert_eq!(scene.issuer.calls("/acme"), 1);
}
