//! A client that follows what one vendor answers never spends another vendor's token on it.

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    tool::free_port,
    vendor::{Need, Vendor},
    wire::Reply,
};

struct Stage {
    _issuer: Issuer,
    acme: Vendor,
    pay: Vendor,
    sidecar: Sidecar,
}

impl Stage {
    /// Two vendors with a credential each; `more` are lines of the first upstream.
    async fn set(more: &str) -> Self {
        Self::behind(PORTS, more).await
    }

    /// The same behind other `ports`.
    async fn behind(ports: &str, more: &str) -> Self {
        let tokens = Tokens::default();
        let ends = vec![
            Endpoint::new("/acme", "acme", "s3cret-acme"),
            Endpoint::new("/pay", "pay", "s3cret-pay"),
        ];
        let issuer = Issuer::start(&tokens, ends).await;
        let acme = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        let pay = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        let text = ports.to_owned()
            + &plain("pay", &format!("{}/pay", issuer.url()), &pay.url())
            + &plain("acme", &format!("{}/acme", issuer.url()), &acme.url())
            + more;
        let sidecar = Sidecar::with_files(&text, &[]).await;
        Self {
            _issuer: issuer,
            acme,
            pay,
            sidecar,
        }
    }

    async fn removed(&self) -> f64 {
        self.sidecar
            .metric("cupbearer_redirects_removed_total{upstream=\"acme\"}")
            .await
    }
}

/// A client that follows, its body too.
fn follower() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_is_sent_on_to_another_upstream_ends_where_it_was() {
    let stage = Stage::set("").await;
    let port = stage.sidecar.addr().port();
    let to = [
        format!("http://127.0.0.1:{port}/pay/steal"),
        format!("http://localhost:{port}/pay/steal"),
        format!("http://pay.localhost:{port}/steal"),
        format!("//127.0.0.1:{port}/pay/steal"),
    ];
    for location in &to {
        stage
            .acme
            .script(Reply::new(307, "gone on").with("Location", location));
        let answer = follower()
            .post(stage.sidecar.url("/acme/a/b"))
            .body("all my money")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().get("location")),
            (307, None),
            "{location}"
        );
    }
    assert_eq!(stage.pay.counts().requests, 0);
    assert_eq!(stage.removed().await, 4.0);
}

/// A name that a vendor has led to this host: where browsers are denied it is refused as no name of
/// ours; where they are allowed any name may be one.
#[tokio::test(flavor = "multi_thread")]
async fn where_browsers_are_allowed_no_name_leads_a_post_to_another_upstream() {
    for (browser, ends, removed) in [("deny", 403, 0.0), ("allow", 307, 1.0)] {
        let stage = Stage::behind(
            &PORTS.replace("[proxy]\n", &format!("[proxy]\nbrowser = \"{browser}\"\n")),
            "",
        )
        .await;
        let own = stage.sidecar.addr();
        let follower = reqwest::Client::builder()
            .no_proxy()
            .resolve("rebound.test", own)
            .build()
            .unwrap();
        stage.acme.script(Reply::new(307, "gone on").with(
            "Location",
            &format!("http://rebound.test:{}/pay/steal", own.port()),
        ));
        let answer = follower
            .post(stage.sidecar.url("/acme/a"))
            .body("all my money")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().get("location")),
            (ends, None),
            "{browser}"
        );
        assert_eq!(
            (stage.pay.counts().requests, stage.removed().await),
            (0, removed),
            "{browser}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_to_another_upstream_and_the_admin_port_are_led_to_by_no_answer() {
    let admin = free_port();
    let ports = PORTS.replace(
        "[admin]\nlisten = \"127.0.0.1:0\"",
        &format!("[admin]\nlisten = \"127.0.0.1:{admin}\""),
    );
    let stage = Stage::behind(&ports, "").await;
    assert_eq!(stage.sidecar.admin_addr().port(), admin);
    let port = stage.sidecar.addr().port();
    for (location, stays) in [
        (format!("ws://127.0.0.1:{port}/pay/x"), false),
        (format!("http://127.0.0.1:{admin}/api/reload"), false),
        (format!("//localhost:{admin}/"), false),
        (format!("WS://127.0.0.1:{port}/acme/x"), true),
        (format!("http://api.test:{admin}/x"), true),
    ] {
        stage
            .acme
            .script(Reply::new(302, "").with("Location", &location));
        assert_eq!(
            stage
                .sidecar
                .get("/acme/x")
                .await
                .headers()
                .contains_key("location"),
            stays,
            "{location}"
        );
    }
    assert_eq!(stage.removed().await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendors_own_path_that_is_called_as_another_upstream_leads_back_to_the_vendor() {
    let stage = Stage::set("").await;
    for (location, path) in [
        ("/pay/17", "/pay/17"),
        ("../../pay/18", "/pay/18"),
        ("\\pay\\19", "/pay/19"),
    ] {
        stage
            .acme
            .script(Reply::new(307, "gone on").with("Location", location));
        let answer = follower()
            .post(stage.sidecar.url("/acme/a/b"))
            .body("my order")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.url().path()),
            (200, format!("/acme{path}").as_str()),
            "{location}"
        );
        assert_eq!(stage.acme.last().path(), path);
    }
    assert_eq!(stage.pay.counts().requests, 0);
    assert_eq!(stage.removed().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_that_leads_is_held_to_it_and_interim_answers_too() {
    let stage = Stage::set("rewrite_location = false\n").await;
    let interim = vec![(
        103,
        vec![("Link".to_owned(), "</pay/x>; rel=preload".to_owned())],
    )];
    let reply = Reply {
        interim,
        ..Reply::new(200, "hi")
    };
    let reply = reply
        .with("Content-Location", "/pay/x")
        .with("Refresh", "0; url=/pay/x")
        .with("Link", "</pay/x>; rel=next, <y>; rel=prev");
    stage.acme.script(reply.with("Location", "/pay/x"));
    let answer = RawClient::exchange(
        stage.sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    )
    .await;
    let text = String::from_utf8(answer).unwrap();
    assert!(
        !text.contains("/pay")
            && text.contains("<y>; rel=prev")
            && text.starts_with("HTTP/1.1 103"),
        "{text}"
    );
    assert_eq!(stage.removed().await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_forwarded_request_is_answered_is_judged_by_the_other_upstreams_own_url() {
    let stage = Stage::set("").await;
    let url = stage.acme.url();
    for (location, stays) in [
        (stage.pay.url() + "/steal", false),
        (format!("{url}/fine"), true),
        ("https://elsewhere.test/x".into(), true),
    ] {
        stage
            .acme
            .script(Reply::new(302, "").with("Location", &location));
        let host = url.trim_start_matches("http://");
        let request = format!("GET {url}/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = RawClient::ask(stage.sidecar.addr(), request.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (302, stays.then_some(location.as_str())),
            "{location}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_the_same_credential_or_one_that_is_named_may_be_led_to() {
    let stage = Stage::set("redirects_to = [\"pay\"]\n").await;
    stage.acme.script(Reply::new(307, "").with(
        "Location",
        &format!("http://localhost:{}/pay/x", stage.sidecar.addr().port()),
    ));
    let answer = follower()
        .post(stage.sidecar.url("/acme/x"))
        .body("hi")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), stage.pay.counts().requests),
        (200, 1)
    );
    assert_eq!(stage.removed().await, 0.0);
    let same = format!(
        "[upstreams.twin]\nurl = \"{}\"\ncredential = \"acme\"\n{}",
        stage.pay.url(),
        open("none", &stage.pay.url())
    );
    let stage = Stage::set(&same).await;
    for to in ["/twin/x", "/none/x", "/acme/x"] {
        let location = format!("http://127.0.0.1:{}{to}", stage.sidecar.addr().port());
        stage
            .acme
            .script(Reply::new(307, "").with("Location", &location));
        assert!(
            stage
                .sidecar
                .get("/acme/x")
                .await
                .headers()
                .contains_key("location"),
            "{to}"
        );
    }
}

#[test]
fn a_name_in_redirects_to_that_is_no_upstream_is_an_error_with_the_nearest_one() {
    let text = open("pay", "https://pay.test")
        + &open("acme", "https://acme.test")
        + "redirects_to = [\"pai\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let (_, problems) = cupbearer::config::load(&file, &cupbearer::config::LoadOptions::default());
    let told = format!("{:?}", problems.list());
    assert!(
        told.contains("upstreams.acme.redirects_to[0]") && told.contains("pay"),
        "{told}"
    );
}
