//! Files that somebody is still writing: configuration, profiles, certificates and secrets count
//! when they are whole, for every reader.

use std::{
    fs::{self, File},
    io::Write,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
};

const APPLIED: &str = "cupbearer_config_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "cupbearer_config_reloads_total{outcome=\"refused\"}";
/// Longer than many polls, shorter than the rest that a writer must take.
const PAUSE: Duration = Duration::from_millis(1200);

struct Scene {
    issuer: Issuer,
    vendor: Vendor,
}

impl Scene {
    async fn new() -> Self {
        let tokens = Tokens::default();
        let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "acme", "old")]).await;
        Self {
            issuer,
            vendor: Vendor::start(&tokens, vec![Need::Bearer("access")]).await,
        }
    }

    fn acme(&self, secret: &str) -> String {
        plain(
            "acme",
            &format!("{}/token", self.issuer.url()),
            &self.vendor.url(),
        )
        .replace("\"s3cret-acme\"", secret)
    }

    fn upstream(&self, name: &str) -> String {
        format!(
            "[upstreams.{name}]\nurl = \"{}\"\ncredential = \"acme\"\n",
            self.vendor.url()
        )
    }
}

/// Asks again and again, as long as the pause lasts.
async fn meanwhile(mut ask: impl AsyncFnMut()) {
    let over = tokio::time::sleep(PAUSE);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            () = ask() => {}
        }
    }
}

async fn reload(sidecar: &Sidecar) -> (u16, Value) {
    let request = sidecar
        .client
        .post(format!("http://{}/api/reload", sidecar.app.admin()));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_written_in_place_takes_no_route_away_while_its_writer_pauses() {
    let scene = Scene::new().await;
    let first = format!("{PORTS}{}", scene.acme("\"old\""));
    let sidecar = Sidecar::with_files(&format!("{first}{}", scene.upstream("beta")), &[]).await;
    let serves = async || {
        assert_eq!(
            (
                sidecar.status_of("/acme/x").await,
                sidecar.status_of("/beta/x").await
            ),
            (200, 200)
        );
    };
    serves().await;
    let mut file = File::create(sidecar.path("cupbearer.toml")).unwrap();
    meanwhile(serves).await;
    file.write_all(first.as_bytes()).unwrap();
    meanwhile(serves).await;
    file.write_all(format!("{}{}", scene.upstream("beta"), scene.upstream("gamma")).as_bytes())
        .unwrap();
    sidecar.until_metric(APPLIED, 1.0).await;
    serves().await;
    assert_eq!(sidecar.status_of("/gamma/x").await, 200);
    assert_eq!(
        (sidecar.metric(APPLIED).await, sidecar.metric(REFUSED).await),
        (1.0, 0.0),
        "none of what was seen in between"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_without_an_upstream_is_refused_while_upstreams_run() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::start(&scene.acme("\"old\"")).await;
    for empty in ["", PORTS] {
        sidecar.rewrite("cupbearer.toml", empty);
        let (status, answer) = reload(&sidecar).await;
        assert_eq!(
            (status, &answer["problems"][0]["key"]),
            (422, &json!("upstreams")),
            "{answer:#}"
        );
        assert_eq!(sidecar.status_of("/acme/x").await, 200);
    }
    // Also one that was cut off and stays so.
    drop(File::create(sidecar.path("cupbearer.toml")).unwrap());
    assert_eq!(reload(&sidecar).await.0, 422);
    assert_eq!(
        (
            sidecar.status_of("/acme/x").await,
            sidecar.metric(APPLIED).await
        ),
        (200, 0.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_hand_waits_for_a_writer_to_rest_and_says_so_of_one_that_does_not() {
    let scene = Scene::new().await;
    let text = format!("{PORTS}{}", scene.acme("\"old\"")).replace("\"50ms\"", "\"off\"");
    let sidecar = Sidecar::with_files(&text, &[]).await;
    let mut file = File::create(sidecar.path("cupbearer.toml")).unwrap();
    file.write_all(format!("# another one\n{text}").as_bytes())
        .unwrap();
    let write = async {
        tokio::time::sleep(PAUSE).await;
        file.write_all(scene.upstream("beta").as_bytes()).unwrap();
    };
    let ((status, answer), ()) = tokio::join!(reload(&sidecar), write);
    assert_eq!(
        (status, &answer["outcome"]),
        (200, &json!("applied")),
        "{answer:#}"
    );
    assert_eq!(sidecar.status_of("/beta/x").await, 200);

    file.write_all(b"# more\n").unwrap();
    let restless = async {
        loop {
            tokio::time::sleep(PAUSE / 8).await;
            file.write_all(b"# and more\n").unwrap();
        }
    };
    let (status, answer) = tokio::select! {
        () = restless => unreachable!("it never rests"),
        answer = reload(&sidecar) => answer,
    };
    assert!(
        status == 422
            && answer["problems"][0]["what"]
                .as_str()
                .unwrap()
                .contains("is being written"),
        "{answer:#}"
    );
    assert_eq!(reload(&sidecar).await.0, 200, "now it does");
}

/// Asks for one refresh by hand, and waits for the token that it brings.
async fn refresh(sidecar: &Sidecar, generation: u64) {
    assert_eq!(
        sidecar.post_admin("/api/credentials/acme/refresh").await,
        202
    );
    until("a new token", async || {
        sidecar.token("acme", "access").await["generation"]
            .as_u64()
            .unwrap()
            >= generation
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_call_in_a_writer_s_pause_is_made_with_the_last_whole_secret() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::with_files(
        &format!("{PORTS}{}", scene.acme("{ file = \"secret\" }")),
        &[("secret", "old")],
    )
    .await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    scene.issuer.change("/token", |e| {
        e.secrets = vec!["old".into(), "new-secret".into()];
    });
    let mut generation = 1;
    let mut file = File::create(sidecar.path("secret")).unwrap();
    for part in ["", "new-", "secret"] {
        file.write_all(part.as_bytes()).unwrap();
        generation += 1;
        refresh(&sidecar, generation).await;
        assert_eq!(
            sidecar.token("acme", "access").await["last_failure"],
            Value::Null,
            "{part:?}"
        );
    }
    sidecar
        .until_metric("cupbearer_secret_changes_total{credential=\"acme\"}", 1.0)
        .await;
    refresh(&sidecar, generation + 1).await;
    assert_eq!(
        scene.issuer.refusals(),
        [""; 0],
        "half a secret is a wrong attempt"
    );
    let last = scene.issuer.seen().last().unwrap().request.body.clone();
    assert!(String::from_utf8_lossy(&last).contains("new-secret"));
    // A replaced one is used by the very next call.
    scene
        .issuer
        .change("/token", |e| e.secrets = vec!["newest".into()]);
    sidecar.rewrite("secret", "newest");
    refresh(&sidecar, generation + 2).await;
    assert_eq!(scene.issuer.refusals(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_profile_and_half_a_list_of_certificates_are_waited_for() {
    let scene = Scene::new().await;
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let profile = format!(
        "extends = \"oauth2\"\n[tokens.access]\nurl = \"{}/token\"\n",
        scene.issuer.url()
    );
    let more = "headers = { X-More = \"yes\" }\n";
    let text = format!(
        "{PORTS}[credentials.acme]\nprofile = {{ file = \"own.toml\" }}\nsecrets = {{ client_id = \"acme\", client_secret = \"old\" }}\n\
         settings = {{ token_url = \"http://127.0.0.1:1/\" }}\ntokens.access.tls = {{ ca_file = \"ca.pem\" }}\n{}",
        scene.upstream("acme")
    );
    let sidecar = Sidecar::with_files(
        &text,
        &[
            ("own.toml", &format!("{profile}{more}")),
            ("ca.pem", &ours.pem),
        ],
    )
    .await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let files = [
        ("own.toml", profile.clone(), "# and more\n"),
        (
            "ca.pem",
            ours.pem.clone() + &other.pem[..400],
            &other.pem[400..],
        ),
    ];
    for ((name, half, rest), applied) in files.into_iter().zip([1.0, 2.0]) {
        let mut file = File::create(sidecar.path(name)).unwrap();
        meanwhile(async || assert_eq!(sidecar.status_of("/acme/x").await, 200)).await;
        file.write_all(half.as_bytes()).unwrap();
        meanwhile(async || assert_eq!(sidecar.status_of("/acme/x").await, 200)).await;
        assert_eq!(
            (sidecar.metric(APPLIED).await, sidecar.metric(REFUSED).await),
            (applied - 1.0, 0.0),
            "{name}"
        );
        file.write_all(rest.as_bytes()).unwrap();
        sidecar.until_metric(APPLIED, applied).await;
    }
    assert_eq!(
        (sidecar.metric(APPLIED).await, sidecar.metric(REFUSED).await),
        (2.0, 0.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_a_watched_file_is_told_and_nobody_hangs_on_it() {
    let scene = Scene::new().await;
    let authority = Authority::new("ours");
    let safe = "[upstreams.safe]\nurl = \"https://vendor.example\"\ncredential = \"acme\"\ntls = { ca_file = \"ca.pem\" }\n";
    let text = format!("{PORTS}{}{safe}", scene.acme("{ file = \"secret\" }"));
    let sidecar =
        Sidecar::with_files(&text, &[("ca.pem", &authority.pem), ("secret", "wrong")]).await;
    sidecar.until_state("acme", "access", "held").await;
    for (n, name) in [(1.0, "ca.pem"), (2.0, "cupbearer.toml")] {
        let fifo = sidecar.path("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        fs::rename(fifo, sidecar.path(name)).unwrap();
        sidecar.until_metric(REFUSED, n).await;
    }
    sidecar.rewrite("secret", "old");
    sidecar.until_get("/acme/x", 200).await;
    sidecar.rewrite("cupbearer.toml", &text);
    sidecar.rewrite("ca.pem", &authority.pem);
    until("all is as it was", async || {
        sidecar.status().await["config"]["last_reload"]["outcome"] == "unchanged"
    })
    .await;
}
