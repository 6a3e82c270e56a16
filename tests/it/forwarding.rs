//! Forwarding: what a client may not bring, what is added, who may call, and what is answered here.

use std::time::Duration;

use crate::support::{
    endpoint::Endpoint,
    http2::Http2,
    issuer::Issuer,
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::{Gate, Reply, Request},
};

async fn ask(sidecar: &Sidecar, line: &str, fields: &str) -> RawAnswer {
    let host = if fields.contains("Host: ") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    RawClient::ask(
        sidecar.addr(),
        format!("{line} HTTP/1.1\r\n{host}{fields}\r\n").as_bytes(),
    )
    .await
}

/// Every value of a field, in whatever way its name is written.
fn values<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    let same = |n: &str| n.to_lowercase().replace('_', "-") == name;
    request
        .headers
        .iter()
        .filter(|(n, _)| same(n))
        .map(|(_, v)| v.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a8_what_a_client_sends_under_an_injected_name_never_arrives() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let needs = vec![
        Need::Bearer("access"),
        Need::Header("X-Session", "access"),
        Need::Query("access_token", "access"),
        Need::Cookie("sid", "access"),
    ];
    let vendor = Vendor::start(&tokens, needs).await;
    let inject = "[credentials.acme.inject]\nheaders = { Authorization = \"Bearer {{ token }}\", X-Session = \"{{ token }}\" }\n\
        query = { access_token = \"{{ token }}\" }\ncookies = { sid = \"{{ token }}\" }\n";
    let sidecar = Sidecar::start(&format!(
        "{}{inject}",
        plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
    ))
    .await;
    let evil = "Authorization: Bearer mine\r\nauthorization: Basic mine\r\nAuthorization_: kept\r\nProxy-Authorization: Basic mine\r\n\
        X-Session: mine\r\nX_Session: mine\r\nx_SESSION: mine\r\nProxy_Authorization: mine\r\n\
        Cookie: a=b; sid=mine; c=d\r\nCookie: sid=mine; e=f\r\nConnection: authorization, x-session, cookie\r\n";
    let target = "GET /acme/x?access_token=mine&q=1&access%5ftoken=mine&%61ccess_token=mine&access_token2=2&access_token";
    assert_eq!(ask(&sidecar, target, evil).await.status, 200);
    let token = tokens.all("access").pop().unwrap();
    let seen = vendor.last();
    assert_eq!(values(&seen, "authorization"), [format!("Bearer {token}")]);
    assert_eq!(values(&seen, "x-session"), [&token]);
    assert_eq!(values(&seen, "authorization-"), ["kept"]);
    assert!(
        values(&seen, "proxy-authorization").is_empty() && values(&seen, "connection").is_empty()
    );
    // Connection named the client's cookies, so they are not for the vendor; ours are.
    assert!(
        values(&seen, "cookie")[0].starts_with(&format!("sid={token}"))
            && !values(&seen, "cookie")[0].contains("mine")
    );
    assert_eq!(
        seen.query(),
        format!("access_token={token}&q=1&access_token2=2")
    );
    let without = evil.replace("Connection: authorization, x-session, cookie\r\n", "");
    assert_eq!(ask(&sidecar, "GET /acme/x", &without).await.status, 200);
    assert_eq!(
        values(&vendor.last(), "cookie"),
        [format!("sid={token}; a=b; c=d; e=f")]
    );
    let h2 = Http2::connect(sidecar.addr()).await;
    let fields = [
        ("authorization", "Bearer mine"),
        ("x_session", "mine"),
        ("cookie", "sid=mine"),
        ("proxy-authorization", "mine"),
    ];
    assert_eq!(
        h2.call(
            http::Method::GET,
            "/acme/x?access_token=mine",
            &fields,
            None,
            None
        )
        .await
        .unwrap()
        .status,
        200
    );
    assert!(!format!("{:?}", vendor.last()).contains("mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_the_clients_own_headers_pass_but_those_for_proxies() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let fields = "Authorization: Bearer own\r\nX_Session: own\r\nCookie: sid=own\r\nProxy-Authorization: Basic own\r\nProxy-Connection: close\r\n";
    assert_eq!(
        ask(&sidecar, "GET /acme/x?access_token=own", fields)
            .await
            .status,
        200
    );
    let seen = vendor.last();
    assert_eq!(
        (
            values(&seen, "authorization"),
            values(&seen, "x-session"),
            values(&seen, "cookie")
        ),
        (vec!["Bearer own"], vec!["own"], vec!["sid=own"])
    );
    assert!(
        values(&seen, "proxy-authorization").is_empty()
            && values(&seen, "proxy-connection").is_empty()
    );
    assert_eq!(seen.query(), "access_token=own");
    let names: Vec<&str> = seen.headers.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        ["Host", "Authorization", "X_Session", "Cookie"],
        "nothing is told of us"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_of_other_sites_and_rebound_names_are_refused_unless_allowed() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let hosts = PORTS.replace("[admin]", "hosts = [\"sidecar.internal\"]\n[admin]");
    let denying =
        Sidecar::with_files(&format!("{hosts}{}", open("acme", &vendor.url())), &[]).await;
    let allow = PORTS.replace("[admin]", "browser = \"allow\"\n[admin]");
    let allowing =
        Sidecar::with_files(&format!("{allow}{}", open("acme", &vendor.url())), &[]).await;
    for (fields, status) in [
        ("Host: 127.0.0.1:14180\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Host: localhost:1\r\n", 200),
        ("Host: x.localhost\r\n", 200),
        ("Host: sidecar.internal\r\n", 200),
        ("Host: SIDECAR.internal:80\r\n", 200),
        ("Host: rebound.evil.test\r\n", 403),
        ("Host: 127.0.0.1.evil.test\r\n", 403),
        ("Host: localhost.evil.test\r\n", 403),
        ("Host: localhost\r\nOrigin: http://localhost\r\n", 200),
        ("Host: localhost\r\nOrigin: http://localhost:1\r\n", 403),
        ("Host: localhost\r\nOrigin: http://evil.test\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        (
            "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.test\r\n",
            403,
        ),
        ("Host: localhost\r\nSec-Fetch-Site: none\r\n", 200),
        ("Host: localhost\r\nSec-Fetch-Site: same-origin\r\n", 200),
        ("Host: localhost\r\nSec-Fetch-Site: same-site\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("Host: localhost\r\nReferer: http://evil.test/\r\n", 403),
        ("Host: localhost\r\nReferer: http://localhost/page\r\n", 200),
    ] {
        let (asked, before) = (
            ask(&denying, "GET /acme/x", fields).await,
            vendor.counts().requests,
        );
        assert_eq!(asked.status, status, "{fields:?}");
        if status == 403 {
            assert_eq!(asked.json()["code"], "forbidden_origin");
            assert!(
                asked.json()["detail"].as_str().unwrap().contains("proxy."),
                "{fields:?}: the key is named"
            );
        }
        assert_eq!(
            ask(&allowing, "GET /acme/x", fields).await.status,
            200,
            "{fields:?}"
        );
        assert_eq!(vendor.counts().requests, before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_prove_themselves_in_either_scheme_and_on_every_kind_of_request() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "client_auth = { file = \"auth\" }\n[admin]");
    let sidecar = Sidecar::with_files(
        &format!("{text}{}", open("acme", &vendor.url())),
        &[("auth", "hush\n")],
    )
    .await;
    let known = format!("127.0.0.1:{}", vendor.port());
    // Basic: "any:hush", "any:wrong".
    for (fields, status) in [
        ("", 407),
        ("Authorization: Bearer hush\r\n", 407),
        ("Proxy-Authorization: Bearer wrong\r\n", 407),
        ("Proxy-Authorization: hush\r\n", 407),
        (
            "Proxy-Authorization: Bearer hush\r\nProxy-Authorization: Bearer hush\r\n",
            407,
        ),
        ("Proxy-Authorization: Basic YW55Ondyb25n\r\n", 407),
        ("Proxy-Authorization: Basic YW55Omh1c2g=\r\n", 200),
        ("Proxy-Authorization: Bearer hush\r\n", 200),
        ("proxy-authorization: bearer hush\r\n", 200),
    ] {
        assert_eq!(
            ask(&sidecar, "GET /acme/x", fields).await.status,
            status,
            "{fields:?}"
        );
        let absolute = format!("Host: {known}\r\n{fields}");
        assert_eq!(
            ask(&sidecar, &format!("GET http://{known}/x"), &absolute)
                .await
                .status,
            status,
            "{fields:?}"
        );
    }
    for line in [
        "CONNECT evil.test:443",
        "TRACE /acme/x",
        "OPTIONS *",
        "GET /none",
        "POST /.cupbearer/token/x",
    ] {
        assert_eq!(
            ask(&sidecar, line, "").await.status,
            407,
            "{line}: nobody learns anything"
        );
    }
    assert!(
        vendor
            .seen()
            .iter()
            .all(|r| values(r, "proxy-authorization").is_empty())
    );
    // A new secret in the file is taken up.
    sidecar.rewrite("auth", "fresh");
    let fresh = async {
        while ask(
            &sidecar,
            "GET /acme/x",
            "Proxy-Authorization: Bearer fresh\r\n",
        )
        .await
        .status
            != 200
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), fresh)
        .await
        .expect("the new secret is read");
    assert_eq!(
        ask(
            &sidecar,
            "GET /acme/x",
            "Proxy-Authorization: Bearer hush\r\n"
        )
        .await
        .status,
        407
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r22_via_tells_of_us_only_where_it_is_set_and_then_finds_circles() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "via = \"cup-1\"\n[admin]");
    let sidecar = Sidecar::with_files(&format!("{text}{}", open("acme", &vendor.url())), &[]).await;
    assert_eq!(
        ask(&sidecar, "GET /acme/x", "Via: 1.0 first\r\n")
            .await
            .status,
        200
    );
    assert_eq!(values(&vendor.last(), "via"), ["1.0 first", "1.1 cup-1"]);
    let h2 = Http2::connect(sidecar.addr()).await;
    assert_eq!(h2.get("/acme/x").await.unwrap().status, 200);
    assert_eq!(values(&vendor.last(), "via"), ["2.0 cup-1"]);
    for via in ["1.1 cup-1", "1.1 a, HTTP/1.1 cup-1 (x), 2 b"] {
        assert_eq!(
            ask(&sidecar, "GET /acme/x", &format!("Via: {via}\r\n"))
                .await
                .status,
            508,
            "{via}"
        );
    }
    assert_eq!(
        ask(&sidecar, "GET /acme/x", "Via: 1.1 cup-11\r\n")
            .await
            .status,
        200
    );
    // Through another sidecar and back again.
    let (back, text) = (
        sidecar.url("/acme"),
        PORTS.replace("[admin]", "via = \"cup-2\"\n[admin]"),
    );
    let second = Sidecar::with_files(&format!("{text}{}", open("round", &back)), &[]).await;
    assert_eq!(ask(&second, "GET /round/x", "").await.status, 200);
    assert_eq!(values(&vendor.last(), "via"), ["1.1 cup-2", "1.1 cup-1"]);
    assert_eq!(
        ask(&second, "GET /round/x", "Via: 1.1 cup-1\r\n")
            .await
            .status,
        508,
        "a vendor's status passes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r23_v12_options_and_trace_never_carry_a_token_further_than_they_may() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (line, fields) in [
        ("OPTIONS *", ""),
        ("OPTIONS *", "Max-Forwards: 5\r\n"),
        ("OPTIONS /acme/x", "Max-Forwards: 0\r\n"),
    ] {
        let answer = ask(&sidecar, line, fields).await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (204, 0),
            "{line} {fields:?}"
        );
        assert!(answer.header("allow").is_some());
    }
    for fields in ["", "Max-Forwards: 0\r\n", "Max-Forwards: 9\r\n"] {
        assert_eq!(ask(&sidecar, "TRACE /acme/x", fields).await.status, 405);
    }
    assert_eq!(vendor.connections(), 0);
    assert_eq!(
        ask(&sidecar, "OPTIONS /acme/x", "Max-Forwards: 7\r\n")
            .await
            .status,
        200
    );
    assert_eq!(values(&vendor.last(), "max-forwards"), ["6"]);
    for method in ["PURGE", "PROPFIND", "PATCH", "M-SEARCH"] {
        assert_eq!(
            ask(&sidecar, &format!("{method} /acme/x"), "").await.status,
            200,
            "{method}"
        );
        assert_eq!(vendor.last().method, method);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_may_take_its_time_between_bytes_but_not_longer_than_it_is_given() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&format!(
        "{}timeouts = {{ read = \"600ms\" }}\n",
        open("acme", &vendor.url())
    ))
    .await;
    let pieces =
        (0..6).map(|_| crate::support::wire::Step::Drip(b"x".to_vec(), Duration::from_millis(200)));
    let head = crate::support::wire::Step::Bytes(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n".to_vec(),
    );
    vendor.script(crate::support::wire::Answer::Raw(
        std::iter::once(head).chain(pieces).collect(),
    ));
    assert_eq!(
        sidecar.get("/acme/slow").await.text().await.unwrap(),
        "xxxxxx"
    );
    let gate = Gate::shut();
    vendor.script(Reply::new(200, "late").behind(&gate));
    let (status, problem) = sidecar.refusal("/acme/silent").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (504, Some("upstream_timeout"))
    );
    gate.open();
    assert_eq!(
        vendor.counts().requests,
        2,
        "a call that timed out is not made again"
    );
}
