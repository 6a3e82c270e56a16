//! Toxiproxy between us and token endpoint and vendor: latency, resets, slow closes, silence, cut
//! data.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    tool::{Running, Tool, free_port, skip},
    vendor::{Need, Vendor},
    wait::until,
};

struct Toxiproxy {
    api: String,
    http: reqwest::Client,
    _running: Running,
}

impl Toxiproxy {
    async fn start() -> Result<Self, String> {
        let tool = Tool::go("toxiproxy-server")?;
        let port = free_port();
        let tool = tool.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
        let (running, _) = tool
            .start("Starting Toxiproxy", Duration::from_secs(30))
            .await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let api = format!("http://127.0.0.1:{port}");
        until("toxiproxy answers", async || {
            http.get(format!("{api}/version")).send().await.is_ok()
        })
        .await;
        Ok(Self {
            api,
            http,
            _running: running,
        })
    }

    async fn post(&self, path: &str, body: &Value) {
        let answer = self
            .http
            .post(format!("{}{path}", self.api))
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{path}: {}",
            answer.text().await.unwrap()
        );
    }

    /// A way to `url` that can be poisoned; its own URL.
    async fn to(&self, name: &str, url: &str) -> String {
        let listen = format!("127.0.0.1:{}", free_port());
        self.post("/proxies", &json!({ "name": name, "listen": listen, "upstream": url.trim_start_matches("http://"), "enabled": true }))
            .await;
        format!("http://{listen}")
    }

    async fn poison(&self, name: &str, toxic: &str, stream: &str, attributes: &Value) {
        let body =
            json!({ "name": "toxic", "type": toxic, "stream": stream, "attributes": attributes });
        self.post(&format!("/proxies/{name}/toxics"), &body).await;
    }

    async fn cure(&self, name: &str) {
        let answer = self
            .http
            .delete(format!("{}/proxies/{name}/toxics/toxic", self.api))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_connections_are_told_in_bounded_time_and_heal_without_a_restart() {
    let toxiproxy = match Toxiproxy::start().await {
        Ok(toxiproxy) => toxiproxy,
        Err(reason) => return skip("toxiproxy", &reason),
    };
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let api = toxiproxy.to("api", &vendor.url()).await;
    let token = format!("{}/token", toxiproxy.to("token", &issuer.url()).await);
    let times = "timeouts = { connect = \"1500ms\", read = \"1500ms\", token = \"300ms\" }\n[credentials.acme.tokens.access]\ntimeout = \"1500ms\"\n";
    let config = format!("{}{times}", plain("acme", &token, &api));
    let sidecar = Sidecar::start(&config).await;
    sidecar.until_get("/acme/x", 200).await;

    let mut cases = 0;
    for (toxic, attributes, codes) in [
        (
            "latency",
            json!({ "latency": 300, "jitter": 100 }),
            &["ok"][..],
        ),
        (
            "latency",
            json!({ "latency": 10_000 }),
            &["upstream_timeout"],
        ),
        ("bandwidth", json!({ "rate": 1 }), &["ok"]),
        (
            "slicer",
            json!({ "average_size": 3, "size_variation": 2, "delay": 1000 }),
            &["ok"],
        ),
        ("slow_close", json!({ "delay": 3000 }), &["ok"]),
        ("timeout", json!({ "timeout": 0 }), &["upstream_timeout"]),
        ("timeout", json!({ "timeout": 200 }), &["upstream_protocol"]),
        (
            "reset_peer",
            json!({ "timeout": 0 }),
            &["upstream_protocol", "upstream_unreachable"],
        ),
        (
            "reset_peer",
            json!({ "timeout": 300 }),
            &["ok", "cut", "upstream_protocol"],
        ),
        ("limit_data", json!({ "bytes": 0 }), &["upstream_protocol"]),
        ("limit_data", json!({ "bytes": 40 }), &["upstream_protocol"]),
        (
            "limit_data",
            json!({ "bytes": 150 }),
            &["cut", "upstream_protocol"],
        ),
    ] {
        let what = format!("{toxic} {attributes}");
        toxiproxy
            .poison("api", toxic, "downstream", &attributes)
            .await;
        for _ in 0..2 {
            let asked = Instant::now();
            // Where the vendor's head and the end of its connection come together, the head may not
            // have left us yet.
            let answer = async {
                let answer = sidecar.client.get(sidecar.url("/acme/x")).send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
            };
            let found = match answer.await {
                Ok((status, _)) if status == 200 => "ok".to_owned(),
                Ok((_, body)) => serde_json::from_slice::<Value>(&body).unwrap()["code"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                Err(_) => "cut".to_owned(),
            };
            assert!(codes.contains(&&*found), "{what}: {found}");
            assert!(
                asked.elapsed() < Duration::from_secs(9),
                "{what}: {:?}",
                asked.elapsed()
            );
        }
        toxiproxy.cure("api").await;
        sidecar.until_get("/acme/x", 200).await;
        sidecar.until_idle("acme").await;
        cases += 1;
    }

    // The same at the token endpoint, with a token at hand and without.
    for (toxic, attributes) in [
        ("latency", json!({ "latency": 10_000 })),
        ("timeout", json!({ "timeout": 0 })),
        ("timeout", json!({ "timeout": 200 })),
        ("reset_peer", json!({ "timeout": 0 })),
        ("limit_data", json!({ "bytes": 0 })),
        ("limit_data", json!({ "bytes": 100 })),
    ] {
        let what = format!("{toxic} {attributes}");
        // Each with a program of its own: by hand a credential is refreshed six times a minute at
        // most.
        let warm = Sidecar::start(&config).await;
        warm.until_get("/acme/x", 200).await;
        toxiproxy
            .poison("token", toxic, "downstream", &attributes)
            .await;
        let retries = "cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}";
        let before = warm.metric(retries).await;
        warm.refresh_until("acme", async || warm.metric(retries).await > before)
            .await;
        assert_eq!(
            warm.status_of("/acme/x").await,
            200,
            "{what}: the good token is sent on"
        );
        let cold = Sidecar::start(&config).await;
        until(&what, async || cold.metric(retries).await > 0.0).await;
        let (status, problem) = cold.refusal("/acme/x").await;
        let found = (status, problem["code"].as_str());
        assert!(
            matches!(
                found,
                (503, Some("token_unavailable")) | (504, Some("token_timeout"))
            ),
            "{what}: {problem}"
        );
        toxiproxy.cure("token").await;
        cold.until_get("/acme/x", 200).await;
        warm.refresh_until("acme", async || {
            warm.token("acme", "access").await["last_failure"].is_null()
        })
        .await;
        assert!(cold.app.stop().await && warm.app.stop().await, "{what}");
        cases += 1;
    }
    println!("toxiproxy: {cases} cases");
    assert!(sidecar.app.stop().await);
}
