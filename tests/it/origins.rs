//! Where secrets and tokens go, and what vendors learn besides: one origin each, and nothing of where we run.

use serde_json::json;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Raw, Vendor},
    wire::Reply,
};

/// A sidecar before a strict issuer and vendor, and a stranger to whom nothing must go.
async fn parties() -> (Issuer, Vendor, Raw, Sidecar) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "acme", "s3cret-acme")]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let sidecar = Sidecar::start(&plain("acme", &format!("{}/token", issuer.url()), &vendor.url())).await;
    (issuer, vendor, Raw::start().await, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_t10_no_redirect_of_a_token_endpoint_is_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (tokens, stranger) = (Tokens::default(), Raw::start().await);
        let issuer = Issuer::start(&tokens, vec![]).await;
        issuer.always(Some(Reply::new(status, "").with("Location", &format!("{}/token", stranger.url())).into()));
        let vendor = Vendor::start(&tokens, vec![]).await;
        let sidecar = Sidecar::start(&plain("acme", &format!("{}/token", issuer.url()), &vendor.url())).await;
        let (refused, body) = sidecar.refusal("/acme/x").await;
        assert_eq!((refused, &body["code"]), (502, &json!("token_misconfigured")), "{status}");
        assert!(stranger.is_silent().await && vendor.counts().requests == 0, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_of_a_vendor_is_followed_and_a_foreign_one_passes_as_it_is() {
    let (_issuer, vendor, stranger, sidecar) = parties().await;
    let there = format!("{}/else", stranger.url());
    vendor.script(Reply::new(307, "").with("Location", &there));
    let answer = sidecar.get("/acme/x").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (307, &*there));
    assert!(stranger.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r17_a_token_goes_to_no_origin_a_caller_names() {
    let (_issuer, vendor, stranger, sidecar) = parties().await;
    let foreign = stranger.url();
    let authority = foreign.trim_start_matches("http://").to_owned();
    let own = vendor.url();
    let own = own.trim_start_matches("http://");
    let tries = [
        format!("GET {foreign}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"),
        format!("GET {foreign}/acme/x HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n"),
        format!("GET http://{own}@{authority}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"),
        format!("GET http://{own}.{authority}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"),
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("GET //{authority}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"),
    ];
    for bytes in &tries {
        let answer = RawClient::ask(sidecar.addr(), bytes.as_bytes()).await;
        assert!((400..500).contains(&answer.status), "{bytes}: {}", answer.head);
    }
    assert!(stranger.is_silent().await);
    assert_eq!(vendor.counts().requests, 0);
    // A Host that names a stranger changes nothing of where a path leads.
    let bytes = format!(
        "GET /acme/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: {authority}\r\nForwarded: host={authority}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(RawClient::ask(sidecar.addr(), bytes.as_bytes()).await.status, 200);
    assert_eq!(vendor.last().header("host"), Some(own));
    assert!(stranger.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn h7_a_vendor_learns_nothing_but_what_the_caller_sent_and_its_token() {
    let (issuer, vendor, _stranger, sidecar) = parties().await;
    let answer = RawClient::ask(sidecar.addr(), b"GET /acme/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Mine: 1\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    let mut names: Vec<String> = vendor.last().headers.iter().map(|(n, _)| n.to_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["authorization", "host", "x-mine"]);
    let ours = &issuer.seen()[0].request;
    let allowed = ["host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"];
    for (name, value) in &ours.headers {
        assert!(allowed.contains(&name.to_lowercase().as_str()), "{name}: {value}");
    }
    assert!(ours.header("user-agent").is_none_or(|agent| agent.starts_with("cupbearer")), "{:?}", ours.headers);
}
