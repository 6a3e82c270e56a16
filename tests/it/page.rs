//! The status page, as a browser shows it and as the wire carries it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    tool::{Tool, root, skip},
    vendor::{Need, Vendor},
    wire::Reply,
};

const MARKUP: &str =
    "<script>window.hacked=1</script><img src=x onerror=\"window.hacked=2\"> no such client";

/// Two credentials: `acme` is well, `beta` is latched, and its vendor speaks markup.
struct Scene {
    sidecar: Sidecar,
    good: Issuer,
    bad: Issuer,
    _vendor: Vendor,
}

impl Scene {
    async fn start() -> Self {
        let tokens = Tokens::default();
        let mut short = Endpoint::new("/token", "acme", "s3cret-acme");
        short.life = Duration::from_mins(2);
        let good = Issuer::start(&tokens, vec![short]).await;
        let bad = Issuer::start(&tokens, vec![Endpoint::new("/token", "beta", "right")]).await;
        bad.script(Reply::json(
            401,
            &json!({ "error": "invalid_client", "error_description": MARKUP }),
        ));
        let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        let beta = plain("beta", &format!("{}/token", bad.url()), &vendor.url())
            .replace("\"s3cret-beta\"", "{ file = \"beta.secret\" }")
            .replace("[upstreams", "guard = { max_rejections = 1 }\n[upstreams");
        let text = format!(
            "{PORTS}{}{beta}",
            plain("acme", &format!("{}/token", good.url()), &vendor.url())
        );
        let sidecar = Sidecar::with_files(&text, &[("beta.secret", "wrong")]).await;
        sidecar
            .until_metric("cupbearer_credential_latched{credential=\"beta\"}", 1.0)
            .await;
        for status in [200, 200, 503, 404] {
            vendor.script(Reply::new(status, ""));
            sidecar.get("/acme/x").await;
        }
        sidecar.get("/beta/x").await;
        Self {
            sidecar,
            good,
            bad,
            _vendor: vendor,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_live_and_its_buttons_work() {
    let tools =
        Tool::on_path("chromium", "chromium").and_then(|browser| Ok((browser, Tool::node_js()?)));
    let (browser, node) = match tools {
        Ok(tools) => tools,
        Err(why) => return skip("a_browser_shows_the_page_live_and_its_buttons_work", &why),
    };
    let scene = Scene::start().await;
    let sidecar = &scene.sidecar;
    let shots = root().join("target/page");
    std::fs::create_dir_all(&shots).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let given = json!({
        "url": format!("http://{}/", sidecar.admin_addr()),
        "shots": shots,
        "profile": profile.path(),
        "chromium": browser.program(),
        "secret": { "file": sidecar.path("beta.secret"), "right": "right" },
        "config": sidecar.path("cupbearer.toml"),
    });
    let (before, beta_before) = (scene.good.calls("/token"), scene.bad.calls("/token"));
    let script = root().join("tests/tools/page.mjs").display().to_string();
    let browsing = node
        .args([script, given.to_string()])
        .run(Duration::from_secs(110));
    let url = sidecar.url("/acme/y");
    let traffic = async {
        loop {
            sidecar.client.get(&url).send().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (code, out, err) =
        tokio::select! { done = browsing => done, () = traffic => unreachable!() };
    assert_eq!(code, 0, "{out}\n{err}");
    let saw: Value = serde_json::from_str(out.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {out}\n{err}"));
    assert_eq!(saw["complaints"], json!([]), "{saw:#}");

    // In words, with what the vendor said as text, and what to do.
    for part in [
        "latched: the secret was refused",
        "<script>window.hacked=1</script>",
        "status 401",
        "Put the right secret in its place",
    ] {
        assert!(
            saw["beta"].as_str().unwrap().contains(part),
            "{part}: {saw:#}"
        );
    }
    assert_eq!(
        (&saw["script_ran"], &saw["title"]),
        (
            &json!(false),
            &json!("cupbearer: 1 credential needs attention")
        )
    );
    assert_ne!(saw["light"], saw["dark"]);
    assert!(saw["acme_row"].as_str().unwrap().contains("200"), "{saw:#}");
    // One press, one call; beta: once for the unlatch, and once for the new secret, unless that was
    // there before the first call was made.
    assert_eq!(scene.good.calls("/token"), before + 1);
    assert!(
        (1..=2).contains(&(scene.bad.calls("/token") - beta_before)),
        "{}",
        scene.bad.calls("/token")
    );
    assert_eq!(
        (&saw["stops"][0], &saw["focus"]),
        (&json!("Skip to the credentials"), &json!("Refresh acme"))
    );
    assert!(
        saw["told_refresh"]
            .as_str()
            .unwrap()
            .contains("acme: a new token is asked for"),
        "{saw:#}"
    );
    assert!(
        saw["asked"].as_str().unwrap().contains("lock the account"),
        "{saw:#}"
    );
    assert!(
        saw["told_beta"]
            .as_str()
            .unwrap()
            .contains("beta access: token in use"),
        "{saw:#}"
    );
    assert!(
        saw["well"]
            .as_str()
            .unwrap()
            .contains("All tokens are well"),
        "{saw:#}"
    );
    assert!(
        saw["refused"]
            .as_str()
            .unwrap()
            .contains("upstreams.acme.nonsense"),
        "{saw:#}"
    );
    assert_eq!(saw["landmarks"].as_array().unwrap().len(), 7, "{saw:#}");
    // Nothing from elsewhere; and without scripts the state is there, but no button that would do
    // nothing.
    assert_eq!(saw["hosts"], json!([sidecar.admin_addr().to_string()]));
    assert!(
        saw["plain"].as_str().unwrap().contains("token in use"),
        "{saw:#}"
    );
    assert_eq!(saw["plain_buttons"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_asked_for_the_token_and_keeps_it_in_the_page_alone() {
    let tools =
        Tool::on_path("chromium", "chromium").and_then(|browser| Ok((browser, Tool::node_js()?)));
    let (browser, node) = match tools {
        Ok(tools) => tools,
        Err(why) => {
            return skip(
                "a_browser_is_asked_for_the_token_and_keeps_it_in_the_page_alone",
                &why,
            );
        }
    };
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let text = PORTS.replace("[reload]", "auth = { file = \"token\" }\n[reload]")
        + &plain("acme", &format!("{}/token", issuer.url()), &issuer.url());
    let sidecar = Sidecar::with_files(&text, &[("token", "a-long-admin-token")]).await;
    sidecar
        .until_metric(
            "cupbearer_token_sendable{credential=\"acme\",token=\"access\"}",
            1.0,
        )
        .await;
    let shots = root().join("target/page");
    std::fs::create_dir_all(&shots).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let given = json!({
        "url": format!("http://{}/", sidecar.admin_addr()),
        "shots": shots,
        "profile": profile.path(),
        "chromium": browser.program(),
        "token": "a-long-admin-token",
    });
    let script = root()
        .join("tests/tools/page-token.mjs")
        .display()
        .to_string();
    let (code, out, err) = node
        .args([script, given.to_string()])
        .run(Duration::from_secs(110))
        .await;
    assert_eq!(code, 0, "{out}\n{err}");
    let saw: Value = serde_json::from_str(out.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {out}\n{err}"));
    assert_eq!(
        (&saw["complaints"], &saw["status"], &saw["field"]),
        (&json!([]), &json!(401), &json!("")),
        "{saw:#}"
    );
    assert!(
        saw["asks"].as_str().unwrap().contains("The admin token")
            && saw["shows"].as_str().unwrap().contains("token in use"),
        "{saw:#}"
    );
    assert!(
        !saw["kept"].as_str().unwrap().contains("a-long-admin-token"),
        "{saw:#}"
    );
    assert!(
        saw["again"].as_str().unwrap().contains("The admin token"),
        "a page that is loaded anew asks anew: {saw:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_the_page_carries_its_policy_and_escapes_what_vendors_say() {
    let scene = Scene::start().await;
    let sidecar = &scene.sidecar;
    for path in ["/", "/page/page.css", "/page/page.js", "/page/icon.svg"] {
        let answer = sidecar.admin(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map_or("", |v| v.to_str().unwrap())
                .to_owned()
        };
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"),
            "{policy}"
        );
        assert_eq!(
            (header("x-content-type-options"), header("cache-control")),
            ("nosniff".into(), "no-store".into()),
            "{path}"
        );
        assert_eq!(header("access-control-allow-origin"), "");
    }
    let page = sidecar.admin("/").await.text().await.unwrap();
    assert!(
        page.contains("&lt;script&gt;window.hacked=1&lt;/script&gt;")
            && !page.contains("<script>window"),
        "{page}"
    );
    assert!(
        !page.contains("onerror=\"") && !page.contains(" style="),
        "{page}"
    );
    // The same texts are in the JSON as they are, which no browser takes for a page.
    let status = sidecar.admin("/api/status").await;
    assert_eq!(status.headers()["content-type"], "application/json");
    assert_eq!(status.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_the_page_answers_to_its_own_names_only_and_to_reading_only() {
    let scene = Scene::start().await;
    let client = &scene.sidecar.client;
    let url = format!("http://{}/", scene.sidecar.admin_addr());
    for host in ["evil.example", "127.0.0.1.evil.example", ""] {
        assert_eq!(
            client
                .get(&url)
                .header("host", host)
                .send()
                .await
                .unwrap()
                .status(),
            403,
            "{host}"
        );
    }
    for method in [
        http::Method::POST,
        http::Method::PUT,
        http::Method::DELETE,
        http::Method::OPTIONS,
        http::Method::TRACE,
    ] {
        let answer = client
            .request(method.clone(), &url)
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        assert!(
            answer
                .headers()
                .keys()
                .all(|name| !name.as_str().starts_with("access-control-")),
            "{method}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_everything_that_is_promised() {
    let scene = Scene::start().await;
    let status = scene.sidecar.status().await;
    assert_eq!(status["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime"].is_u64() && status["now"].is_string());
    assert_eq!(
        (
            &status["config"]["generation"],
            &status["config"]["last_reload"],
            &status["ready"]
        ),
        (&json!(1), &Value::Null, &json!(true))
    );
    assert_eq!(status["config"]["listen"], json!(scene.sidecar.app.proxy()));
    let acme = &status["upstreams"][0];
    assert_eq!(
        (&acme["answers"], &acme["last_codes"]),
        (
            &json!({ "200": 2, "404": 1, "503": 1 }),
            &json!([404, 503, 200, 200])
        )
    );
    assert_eq!(
        status["upstreams"][1]["refusals"],
        json!({ "token_rejected": 1 })
    );
    let (good, bad) = (
        scene.sidecar.token("acme", "access").await,
        scene.sidecar.token("beta", "access").await,
    );
    assert_eq!(
        (&good["state"], &good["generation"], &good["last_failure"]),
        (&json!("ok"), &json!(1), &Value::Null)
    );
    assert_eq!(
        (
            &bad["state"],
            &bad["rejections"],
            &bad["last_failure"]["class"]
        ),
        (&json!("latched"), &json!(1), &json!("rejected"))
    );
    assert_eq!(
        (&bad["last_failure"]["status"], &bad["fingerprint"]),
        (&json!(401), &Value::Null)
    );
    let secrets = ["s3cret-acme", "wrong"];
    assert!(
        secrets
            .iter()
            .all(|secret| !status.to_string().contains(secret))
    );
}
