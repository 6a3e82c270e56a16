//! The test servers themselves: strict where they must be, or every test above them would prove
//! nothing.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::assertion::Assertion;
use crate::support::certs::{Authority, Leaf, signer, thumbprint};
use crate::support::endpoint::{Auth, Endpoint, Format, Scope};
use crate::support::issuer::Issuer;
use crate::support::raw::{RawAnswer, RawClient};
use crate::support::tally::sha256;
use crate::support::tokens::{Standing, Tokens};
use crate::support::vendor::{Need, Raw, Vendor};
use crate::support::wire::{Answer, Body, Gate, Reply, Step};

const FORM: &str = "application/x-www-form-urlencoded";
const RIGHT: &str = "grant_type=client_credentials&client_id=app&client_secret=s3cret";

async fn post(url: &str, path: &str, content_type: &str, more: &str, body: &str) -> RawAnswer {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    RawClient::ask(addr(url), request.as_bytes()).await
}

fn addr(url: &str) -> std::net::SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_issuer_gives_a_token_to_the_right_request_and_to_no_other() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "app", "s3cret")]).await;
    let url = issuer.url();
    let ok = post(&url, "/token", FORM, "", RIGHT).await;
    assert_eq!(ok.status, 200, "{}", ok.text());
    let token = ok.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(tokens.standing(&token, "access"), Standing::Alive);
    assert_eq!(ok.json()["expires_in"], 3600);
    for (content_type, more, body, status) in [
        (
            FORM,
            "",
            "grant_type=client_credentials&client_id=app&client_secret=wrong",
            401,
        ),
        (
            FORM,
            "",
            "grant_type=client_credentials&client_id=app&client_secret=s3cret&audience=x",
            400,
        ),
        (
            FORM,
            "",
            "grant_type=client_credentials&client_id=app&client_secret=s3cret&scope=",
            400,
        ),
        (
            FORM,
            "",
            "grant_type=password&client_id=app&client_secret=s3cret",
            400,
        ),
        (
            FORM,
            "Authorization: Basic YXBwOnMzY3JldA==\r\n",
            RIGHT,
            401,
        ),
        ("application/json", "", RIGHT, 415),
    ] {
        assert_eq!(
            post(&url, "/token", content_type, more, body).await.status,
            status,
            "{body}"
        );
    }
    assert_eq!(issuer.calls("/token"), 7);
    assert_eq!(issuer.refusals().len(), 6);
    assert!(
        issuer.seen()[0]
            .request
            .raw_head
            .starts_with(b"POST /token HTTP/1.1\r\nHost: x\r\n")
    );
}

#[tokio::test]
async fn basic_is_form_encoded_and_basic_raw_is_not() {
    let tokens = Tokens::default();
    let mut strict = Endpoint::new("/strict", "app", "a+b%:/= &\"");
    strict.auth = Auth::Basic;
    let raw = Endpoint {
        path: "/raw".into(),
        auth: Auth::BasicRaw,
        ..strict.clone()
    };
    let issuer = Issuer::start(&tokens, vec![strict, raw]).await;
    let header = |text: &str| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        format!("Authorization: Basic {text}\r\n")
    };
    let (encoded, plain) = (
        header("app:a%2Bb%25%3A%2F%3D+%26%22"),
        header("app:a+b%:/= &\""),
    );
    let body = "grant_type=client_credentials";
    let ask = async |path, header: &str| post(&issuer.url(), path, FORM, header, body).await.status;
    assert_eq!(
        [ask("/strict", &encoded).await, ask("/strict", &plain).await],
        [200, 401]
    );
    assert_eq!(
        [ask("/raw", &encoded).await, ask("/raw", &plain).await],
        [401, 200]
    );
}

#[tokio::test]
async fn a_session_needs_a_living_partner_token_and_three_wrong_attempts_lock_it() {
    let tokens = Tokens::default();
    let mut partner = Endpoint::new("/oauth/token", "app", "s3cret");
    partner.name = "partner".into();
    let mut session = Endpoint::new("/session", "cli", "sec");
    session.name = "session".into();
    session.field = "session";
    session.format = Format::Json;
    session.grant = None;
    session.bearer = Some("partner".into());
    session.lock_after = Some(3);
    session.problem_details = true;
    let issuer = Issuer::start(&tokens, vec![partner, session]).await;
    let url = issuer.url();
    let right = json!({ "client_id": "cli", "client_secret": "sec" }).to_string();
    let wrong = json!({ "client_id": "cli", "client_secret": "no" }).to_string();
    assert_eq!(
        post(&url, "/session", "application/json", "", &right)
            .await
            .status,
        401
    );
    let token = post(&url, "/oauth/token", FORM, "", RIGHT).await.json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let made = post(&url, "/session", "application/json", &bearer, &right).await;
    assert_eq!(
        tokens.standing(made.json()["session"].as_str().unwrap(), "session"),
        Standing::Alive
    );
    for _ in 0..3 {
        assert_eq!(
            post(&url, "/session", "application/json", &bearer, &wrong)
                .await
                .status,
            401
        );
    }
    let locked = post(&url, "/session", "application/json", &bearer, &right).await;
    assert_eq!(
        (locked.status, &locked.json()["detail"]),
        (401, &json!("locked"))
    );
    tokens.revoke(&token);
    issuer.change("/session", |e| e.wrong = 0);
    assert_eq!(
        post(&url, "/session", "application/json", &bearer, &right)
            .await
            .json()["detail"],
        "the partner token is Revoked"
    );
}

fn assertion(
    alg: Algorithm,
    key: &EncodingKey,
    change: impl FnOnce(&mut Header, &mut Value),
) -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let mut header = Header::new(alg);
    header.kid = Some("KEY".into());
    let mut claims = json!({ "iss": "app", "sub": "app", "aud": "realm", "iat": now, "exp": now + 60, "jti": uuid::Uuid::new_v4().to_string() });
    change(&mut header, &mut claims);
    encode(&header, &claims, key).unwrap()
}

#[test]
fn an_assertion_is_checked_for_signature_audience_life_key_id_and_single_use() {
    let (pair, other) = (signer(Algorithm::ES256), signer(Algorithm::ES256));
    let key = EncodingKey::from_ec_pem(pair.key.as_bytes()).unwrap();
    let rules = Assertion::new(Algorithm::ES256, &pair.public, "realm").with_kid("KEY");
    let jwt = assertion(Algorithm::ES256, &key, |_, _| {});
    assert_eq!(rules.check(&jwt, "app"), Ok(()));
    assert_eq!(rules.check(&jwt, "app"), Err("jti was used before".into()));
    let stranger = EncodingKey::from_ec_pem(other.key.as_bytes()).unwrap();
    let refused = |jwt: &str| rules.check(jwt, "app").is_err();
    assert!(refused(&assertion(Algorithm::ES256, &stranger, |_, _| {})));
    assert!(refused(&assertion(
        Algorithm::ES256,
        &key,
        |_, c| c["aud"] = json!("elsewhere")
    )));
    assert!(refused(&assertion(
        Algorithm::ES256,
        &key,
        |_, c| c["aud"] = json!(["realm"])
    )));
    assert!(refused(&assertion(
        Algorithm::ES256,
        &key,
        |_, c| c["exp"] = json!(c["iat"].as_u64().unwrap() + 61)
    )));
    assert!(refused(&assertion(
        Algorithm::ES256,
        &key,
        |_, c| c["sub"] = json!("other")
    )));
    assert!(refused(
        &assertion(Algorithm::ES256, &key, |h, _| h.kid = None)
    ));
    assert_eq!(rules.accepted(), 1);
}

#[test]
fn every_kind_of_key_signs_what_its_public_half_verifies() {
    for alg in [
        Algorithm::RS256,
        Algorithm::PS256,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ] {
        let pair = signer(alg);
        let key = match alg {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pair.key.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pair.key.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pair.key.as_bytes()),
        };
        let rules = Assertion::new(alg, &pair.public, "realm");
        assert_eq!(
            rules.check(&assertion(alg, &key.unwrap(), |_, _| {}), "app"),
            Ok(()),
            "{alg:?}"
        );
        assert_eq!(thumbprint(&pair).len(), 40);
    }
}

#[tokio::test]
async fn the_vendor_knows_a_token_is_over_and_echoes_what_it_received() {
    let tokens = Tokens::default();
    tokens.add("alive", "access", "app", "", Duration::from_mins(1));
    tokens.add("over", "access", "app", "", Duration::ZERO);
    let needs = vec![
        Need::Bearer("access"),
        Need::Exact("X-Partner-Id", "p".into()),
    ];
    let vendor = Vendor::start(&tokens, needs).await;
    let ask = async |token: &str| {
        post(
            &vendor.url(),
            "/a%2Fb?x=1",
            "text/plain",
            &format!("Authorization: Bearer {token}\r\nX-Partner-Id: p\r\n"),
            "hello",
        )
        .await
    };
    let echo = ask("alive").await;
    assert_eq!(
        (echo.status, &echo.json()["target"]),
        (200, &json!("/a%2Fb?x=1"))
    );
    assert_eq!(echo.json()["sha256"], json!(sha256(b"hello")));
    let over = ask("over").await;
    assert_eq!(
        (over.status, over.header("WWW-Authenticate")),
        (401, Some("Bearer error=\"invalid_token\""))
    );
    tokens.revoke_all("access");
    assert_eq!(ask("alive").await.json()["standing"], "Revoked");
    let counts = vendor.counts();
    assert_eq!(
        (
            counts.requests,
            counts.answered,
            counts.expired,
            counts.revoked
        ),
        (3, 1, 1, 1)
    );
}

#[tokio::test]
async fn scripts_come_first_in_order_and_a_gate_holds_an_answer_back() {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![]).await;
    let gate = Gate::shut();
    vendor.script(Reply::new(503, "wait").with("Retry-After", "1"));
    vendor.script(Reply::new(200, "held").behind(&gate));
    vendor.script(Answer::Raw(vec![Step::Bytes(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
    )]));
    vendor.script(Reply {
        body: Body::Long(200_000),
        chunked: true,
        trailers: vec![("X-Sum".into(), "9".into())],
        ..Reply::new(200, "")
    });
    let ask = async || post(&vendor.url(), "/", "text/plain", "", "").await;
    assert_eq!(ask().await.status, 503);
    let (held, ()) = tokio::join!(ask(), async {
        vendor.wait(2).await;
        gate.open();
    });
    assert_eq!(held.text(), "held");
    let cut = ask().await;
    assert_eq!((cut.complete, cut.text().as_str()), (false, "half"));
    let long = ask().await;
    assert_eq!(
        (long.complete, long.body.len(), long.trailers),
        (true, 200_000, vec!["X-Sum: 9".to_owned()])
    );
}

#[tokio::test]
async fn a_server_that_is_down_refuses_connections_and_comes_back_at_the_same_address() {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "app", "s3cret")],
    )
    .await;
    let url = issuer.url();
    issuer.down().await;
    assert!(tokio::net::TcpStream::connect(addr(&url)).await.is_err());
    issuer.up().await;
    assert_eq!(post(&url, "/token", FORM, "", RIGHT).await.status, 200);
    issuer.wait(1).await;
}

#[tokio::test]
async fn a_raw_socket_hands_out_the_very_bytes() {
    let raw = Raw::start().await;
    let url = raw.url();
    let (exchange, ()) = tokio::join!(
        RawClient::exchange(addr(&url), b"GET / HTTP/1.1\r\nx: y\r\n\r\n"),
        async {
            let (mut tcp, bytes) = raw.accept_until(b"\r\n\r\n").await;
            assert_eq!(bytes, b"GET / HTTP/1.1\r\nx: y\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut tcp, b"anything")
                .await
                .unwrap();
        }
    );
    assert_eq!(exchange, b"anything");
    assert!(raw.is_silent().await);
}

fn client(authority: &Authority) -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([ca])
}

#[tokio::test]
async fn tls_speaks_http2_where_both_want_it_and_bad_certificates_are_bad() {
    let authority = Authority::new("test authority");
    let tokens = Tokens::default();
    let https = async |leaf| {
        Vendor::with_tls(
            &tokens,
            vec![],
            Some(Authority::server(&leaf, &["h2", "http/1.1"])),
        )
        .await
    };
    let good = https(authority.localhost(&["vendor.test"])).await;
    good.script(Reply {
        trailers: vec![("grpc-status".into(), "0".into())],
        ..Reply::new(200, "over h2")
    });
    let answer = client(&authority)
        .build()
        .unwrap()
        .get(good.url())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.version(), answer.text().await.unwrap().as_str()),
        (reqwest::Version::HTTP_2, "over h2")
    );
    assert_eq!(good.last().version, 2);
    let old = client(&authority)
        .http1_only()
        .build()
        .unwrap()
        .get(good.url())
        .send()
        .await
        .unwrap();
    assert_eq!(old.version(), reqwest::Version::HTTP_11);
    for leaf in [
        authority.leaf(&["localhost"], Leaf::Expired),
        authority.leaf(&["other.test"], Leaf::Server),
        Authority::new("another").localhost(&[]),
    ] {
        let bad = https(leaf).await;
        assert!(
            client(&authority)
                .build()
                .unwrap()
                .get(bad.url())
                .send()
                .await
                .unwrap_err()
                .is_connect()
        );
    }
    let mutual = Vendor::with_tls(
        &tokens,
        vec![],
        Some(authority.mutual(&authority.localhost(&[]), &["http/1.1"])),
    )
    .await;
    assert!(
        client(&authority)
            .build()
            .unwrap()
            .get(mutual.url())
            .send()
            .await
            .is_err()
    );
    let pair = authority.leaf(&["client"], Leaf::Client);
    let identity =
        reqwest::Identity::from_pem(format!("{}{}", pair.cert, pair.key).as_bytes()).unwrap();
    assert!(
        client(&authority)
            .identity(identity)
            .build()
            .unwrap()
            .get(mutual.url())
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
}

#[tokio::test]
async fn a_web_socket_comes_back_as_it_went() {
    use futures_util::{SinkExt, StreamExt};
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(vendor.url().replace("http", "ws"))
        .await
        .unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(
        socket
            .next()
            .await
            .unwrap()
            .unwrap()
            .into_text()
            .unwrap()
            .as_str(),
        "hello"
    );
}

#[tokio::test]
async fn a_scope_is_compulsory_where_the_document_says_so() {
    let mut endpoint = Endpoint::new("/token", "app", "s3cret");
    endpoint.scope = Scope::ApiOrCustomer;
    endpoint.jwt = true;
    endpoint.life = Duration::from_millis(1);
    endpoint.says = Some(json!(300));
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let ask = async |scope: &str| {
        post(
            &issuer.url(),
            "/token",
            FORM,
            "",
            &format!("{RIGHT}{scope}"),
        )
        .await
    };
    assert_eq!(
        [
            ask("").await.status,
            ask("&scope=customer.").await.status,
            ask("&scope=other").await.status
        ],
        [400, 400, 400]
    );
    let made = ask("&scope=customer.7").await.json();
    assert_eq!(
        (&made["scope"], &made["expires_in"]),
        (&json!("customer.7"), &json!(300))
    );
    assert_eq!(made["access_token"].as_str().unwrap().split('.').count(), 3);
    issuer.change("/token", |e| e.secrets = vec!["next".into()]);
    assert_eq!(ask("&scope=api").await.status, 401);
}
