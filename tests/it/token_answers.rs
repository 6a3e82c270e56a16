//! What a token endpoint's answer still says where it is absurd, old, packed, or shown by a server
//! of its own making.

use std::{
    io::Write as _,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;

use crate::support::{
    certs::{Authority, Leaf, signer},
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::Reply,
};

const HERE: &str = "credential=\"acme\",token=\"access\"";

fn unix_now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

/// An issuer that always answers so, a vendor that takes whatever token there is, and a sidecar
/// between them.
async fn answering(reply: Reply) -> (Issuer, Vendor, Sidecar) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    issuer.always(Some(reply.into()));
    let vendor = Vendor::start(&tokens, vec![]).await;
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
    ))
    .await;
    sidecar.until_idle("acme").await;
    (issuer, vendor, sidecar)
}

/// Seconds from when it was had until it is over, as the status tells.
async fn life(sidecar: &Sidecar) -> i64 {
    until("a token", async || {
        sidecar.token("acme", "access").await["expires_at"].is_string()
    })
    .await;
    let token = sidecar.token("acme", "access").await;
    let at = |name: &str| {
        token[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name} in {token}"))
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    at("expires_at").as_second() - at("obtained_at").as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_handed_out_an_hour_late_lives_to_its_end_by_the_vendors_clock() {
    // How far the vendor's clock is from ours, in seconds; the token's iat and exp by it; and what
    // is left.
    for (ahead, iat, exp, left) in [
        (0, -3540, 60, 60),
        (600, -3540, 60, 60),
        (-600, -3540, 60, 60),
        (600, 0, 3600, 3600),
        (-600, 0, 3600, 3600),
    ] {
        for unit in [1, 1000] {
            let now = unix_now() + ahead;
            let claims =
                json!({ "iat": (now + iat) * unit, "exp": (now + exp) * unit }).to_string();
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
            let date = httpdate::fmt_http_date(
                UNIX_EPOCH + std::time::Duration::from_secs(now.unsigned_abs()),
            );
            let reply = Reply::json(200, &json!({ "access_token": token, "expires_in": 3600 }))
                .with("Date", &date);
            let (_issuer, _vendor, sidecar) = answering(reply).await;
            let told = life(&sidecar).await;
            assert!(
                (left - 2..=left + 2).contains(&told),
                "{ahead} {iat} {exp} {unit}: {told} s"
            );
            assert_eq!(
                sidecar
                    .metric(&format!(
                        "cupbearer_token_lifetime_implausible_total{{{HERE}}}"
                    ))
                    .await,
                0.0
            );
            assert_eq!(sidecar.status_of("/acme/x").await, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_member_costs_no_token_and_no_refusal() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for odd in ["1e999", "-1e999", &"9".repeat(500), "\"\\ud800\"", &deep] {
        let body = format!("{{\"odd\":{odd},\"access_token\":\"tok-1\",\"expires_in\":3600}}");
        let (_issuer, _vendor, sidecar) =
            answering(Reply::new(200, body).with("Content-Type", "application/json")).await;
        assert_eq!(
            (life(&sidecar).await, sidecar.status_of("/acme/x").await),
            (3600, 200),
            "{}",
            &odd[..odd.len().min(20)]
        );
        let refusal = format!("{{\"error\":\"invalid_client\",\"odd\":{odd}}}");
        let (_issuer, _vendor, sidecar) = answering(Reply::new(400, refusal)).await;
        assert_eq!(sidecar.refusal("/acme/x").await.1["code"], "token_rejected");
    }
    let life_of_its_own = Reply::new(200, "{\"access_token\":\"tok-1\",\"expires_in\":1e999}");
    let (_issuer, _vendor, sidecar) = answering(life_of_its_own).await;
    assert_eq!(
        (life(&sidecar).await, sidecar.status_of("/acme/x").await),
        (300, 200)
    );
    assert_eq!(
        sidecar
            .metric(&format!(
                "cupbearer_token_lifetime_implausible_total{{{HERE}}}"
            ))
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coding_is_undone_in_every_spelling_and_an_unknown_one_is_named() {
    for coding in ["GZIP", "x-gzip", "gzip, identity"] {
        let granted = Reply::new(200, gzip("{\"access_token\":\"tok-1\",\"expires_in\":60}"))
            .with("Content-Encoding", coding);
        let (_issuer, _vendor, sidecar) = answering(granted).await;
        assert_eq!(
            (life(&sidecar).await, sidecar.status_of("/acme/x").await),
            (60, 200),
            "{coding}"
        );
        let refused = Reply::new(400, gzip("{\"error\":\"invalid_client\"}"))
            .with("Content-Encoding", coding);
        let (_issuer, _vendor, sidecar) = answering(refused).await;
        assert_eq!(
            sidecar.refusal("/acme/x").await.1["code"],
            "token_rejected",
            "{coding}"
        );
    }
    let (_issuer, _vendor, sidecar) =
        answering(Reply::new(200, "packed").with("Content-Encoding", "zstd")).await;
    let why = sidecar.token("acme", "access").await["last_failure"].clone();
    assert!(
        why["class"] == "retry"
            && why["error"]
                .as_str()
                .unwrap()
                .contains("content coding \"zstd\""),
        "{why}"
    );
}

/// As `openssl req -x509 -addext subjectAltName=DNS:localhost` makes it: its own issuer, CA:TRUE.
fn openssl() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "self made");
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    (
        cert.pem(),
        Arc::new(
            config
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap(),
        ),
    )
}

/// A sidecar whose token comes from this TLS server, trusted by `ca.pem`.
async fn over(tls: Arc<ServerConfig>, ca: &str) -> (Issuer, Vendor, Sidecar) {
    let tokens = Tokens::default();
    let issuer = Issuer::with_tls(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
        Some(tls),
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let stanza = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let text = format!(
        "{PORTS}{stanza}timeouts = {{ token = \"500ms\" }}\n[credentials.acme.tokens.access]\ntls = {{ ca_file = \"ca.pem\", ca_only = true }}\n"
    );
    let sidecar = Sidecar::with_files(&text, &[("ca.pem", ca)]).await;
    (issuer, vendor, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_servers_own_is_taken_from_ca_file_with_a_byte_order_mark_in_front() {
    let (pem, tls) = openssl();
    let windows = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
    let key = signer(jsonwebtoken::Algorithm::RS256).key;
    for ca in [pem.clone(), windows, format!("{key}{pem}")] {
        let (_issuer, _vendor, sidecar) = over(tls.clone(), &ca).await;
        sidecar.until_get("/acme/x", 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_said_in_the_refusal_and_the_status() {
    let (ours, other) = (Authority::new("ours"), Authority::new("Corp \"CA\""));
    let h1 = &["http/1.1"][..];
    for (tls, says) in [
        (
            Authority::server(&other.localhost(&[]), h1),
            "has an unknown issuer (\"CN=Corp ?CA?",
        ),
        (openssl().1, "is self-signed (\"CN=self made\")"),
        (
            Authority::server(&ours.leaf(&["localhost"], Leaf::Expired), h1),
            "has expired (on 2020-01-01T00:00:00Z)",
        ),
        (
            Authority::server(&ours.leaf(&["other.test"], Leaf::Server), h1),
            "is for another name (asked for \"localhost\", it names \"other.test\")",
        ),
        (
            Authority::server(&ours.leaf(&["localhost"], Leaf::Client), h1),
            "is not for servers",
        ),
    ] {
        let (issuer, _vendor, sidecar) = over(tls, &ours.pem).await;
        sidecar.until_metric("cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}", 1.0).await;
        let failure = sidecar.token("acme", "access").await["last_failure"].clone();
        assert!(
            failure["error"].as_str().unwrap().contains(says),
            "{failure} should say {says}"
        );
        let (status, problem) = sidecar.refusal("/acme/x").await;
        assert!(matches!(status, 503 | 504), "{problem}");
        if status == 503 {
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.starts_with("the token endpoint cannot be trusted: its certificate ")
                    && detail.contains(says),
                "{detail}"
            );
        }
        assert_eq!(issuer.seen().len(), 0, "a secret was sent to a stranger");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_in_front_of_any_file_is_dropped_and_so_is_white_space_around_a_secret() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let text = format!(
        "\u{feff}{PORTS}[credentials.acme]\nprofile = {{ file = \"own.toml\" }}\nsettings = {{ token_url = \"{}/token\" }}\n\
         secrets = {{ client_id = {{ file = \"id.json\", json_key = \"/id\" }}, client_secret = {{ file = \"secret\" }} }}\n\
         [upstreams.acme]\nurl = \"{}\"\ncredential = \"acme\"\n",
        issuer.url(),
        vendor.url()
    );
    let files = [
        ("own.toml", "\u{feff}extends = \"oauth2\"\n"),
        ("id.json", "\u{feff}{\"id\": \" acme\\n\"}"),
        ("secret", "\u{feff}\r\n  s3cret-acme\t\r\n\r\n\n"),
    ];
    let sidecar = Sidecar::with_files(&text, &files).await;
    sidecar.until_get("/acme/x", 200).await;
    assert_eq!(issuer.refusals(), Vec::<String>::new());
}
