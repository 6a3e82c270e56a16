//! Where secrets and tokens go, and what vendors learn besides: one origin each, and nothing of
//! where we run.

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
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
    ))
    .await;
    (issuer, vendor, Raw::start().await, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_t10_no_redirect_of_a_token_endpoint_is_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (tokens, stranger) = (Tokens::default(), Raw::start().await);
        let issuer = Issuer::start(&tokens, vec![]).await;
        issuer.always(Some(
            Reply::new(status, "")
                .with("Location", &format!("{}/token", stranger.url()))
                .into(),
        ));
        let vendor = Vendor::start(&tokens, vec![]).await;
        let sidecar = Sidecar::start(&plain(
            "acme",
            &format!("{}/token", issuer.url()),
            &vendor.url(),
        ))
        .await;
        let (refused, body) = sidecar.refusal("/acme/x").await;
        assert_eq!(
            (refused, &body["code"]),
            (502, &json!("token_misconfigured")),
            "{status}"
        );
        assert!(
            stranger.is_silent().await && vendor.counts().requests == 0,
            "{status}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_of_a_vendor_is_followed_and_a_foreign_one_passes_as_it_is() {
    let (_issuer, vendor, stranger, sidecar) = parties().await;
    let there = format!("{}/else", stranger.url());
    vendor.script(Reply::new(307, "").with("Location", &there));
    let answer = sidecar.get("/acme/x").await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["location"].to_str().unwrap()
        ),
        (307, &*there)
    );
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
        format!(
            "GET http://{own}@{authority}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
        ),
        format!(
            "GET http://{own}.{authority}/x HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
        ),
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("GET //{authority}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"),
    ];
    for bytes in &tries {
        let answer = RawClient::ask(sidecar.addr(), bytes.as_bytes()).await;
        assert!(
            (400..500).contains(&answer.status),
            "{bytes}: {}",
            answer.head
        );
    }
    assert!(stranger.is_silent().await);
    assert_eq!(vendor.counts().requests, 0);
    // A Host that names a stranger changes nothing of where a path leads.
    let bytes = format!(
        "GET /acme/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: {authority}\r\nForwarded: host={authority}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        RawClient::ask(sidecar.addr(), bytes.as_bytes())
            .await
            .status,
        200
    );
    assert_eq!(vendor.last().header("host"), Some(own));
    assert!(stranger.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn h7_a_vendor_learns_nothing_but_what_the_caller_sent_and_its_token() {
    let (issuer, vendor, _stranger, sidecar) = parties().await;
    let answer = RawClient::ask(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Mine: 1\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status, 200);
    let mut names: Vec<String> = vendor
        .last()
        .headers
        .iter()
        .map(|(n, _)| n.to_lowercase())
        .collect();
    names.sort();
    assert_eq!(names, ["authorization", "host", "x-mine"]);
    let ours = &issuer.seen()[0].request;
    let allowed = [
        "host",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "user-agent",
    ];
    for (name, value) in &ours.headers {
        assert!(
            allowed.contains(&name.to_lowercase().as_str()),
            "{name}: {value}"
        );
    }
    assert!(
        ours.header("user-agent")
            .is_none_or(|agent| agent.starts_with("cupbearer")),
        "{:?}",
        ours.headers
    );
}

/// A token in a query parameter or a cookie comes back in what a vendor says of the request; the
/// client must not get it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_never_comes_back_in_a_head_that_repeats_the_request() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![]).await;
    let stanza = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let inject = "headers = { Authorization = \"Bearer {{ token }}\", X-Kind = \"application/json\" }\nquery = { access_token = \"{{ token }}\" }\n\
                  cookies = { sid = \"{{ token }}\" }\n";
    let sidecar = Sidecar::start(&format!("{stanza}[credentials.acme.inject]\n{inject}")).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let token = vendor.last().header("authorization").unwrap()["Bearer ".len()..].to_owned();
    let there = "https://elsewhere.test/x";
    for (name, told, arrives) in [
        (
            "Location",
            format!("/q/slash/?z=1&access_token={token}#f"),
            Some("/acme/q/slash/?z=1#f".to_owned()),
        ),
        (
            "Location",
            format!("{there}?access_token={token}"),
            Some(there.to_owned()),
        ),
        (
            "Location",
            format!("{there}?access_token=theirs"),
            Some(format!("{there}?access_token=theirs")),
        ),
        (
            "Location",
            format!("{there}?back=/x%3Faccess_token%3D{token}"),
            Some(format!("{there}?back=/x%3Faccess_token%3D***")),
        ),
        (
            "Content-Location",
            format!("/x?access_token={token}"),
            Some("/x".to_owned()),
        ),
        (
            "Link",
            format!("</x?access_token={token}&page=2>; rel=next"),
            Some("</x?access_token=***&page=2>; rel=next".to_owned()),
        ),
        (
            "Refresh",
            format!("0; url=/x?access_token={token}"),
            Some("0; url=/x?access_token=***".to_owned()),
        ),
        ("Set-Cookie", format!("sid={token}; Path=/"), None),
        ("Set-Cookie", "sid=; Max-Age=0".to_owned(), None),
        (
            "Set-Cookie",
            "sidx=1; Path=/".to_owned(),
            Some("sidx=1; Path=/".to_owned()),
        ),
        (
            "X-Echo",
            format!("Authorization: Bearer {token}"),
            Some("Authorization: Bearer ***".to_owned()),
        ),
        (
            "Content-Type",
            "application/json".to_owned(),
            Some("application/json".to_owned()),
        ),
    ] {
        vendor.script(
            Reply::new(200, "{}")
                .with(name, &told)
                .with("Set-Cookie", "own=1"),
        );
        let answer = sidecar.get("/acme/x").await;
        let values: Vec<_> = answer
            .headers()
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap())
            .filter(|v| *v != "own=1")
            .collect();
        assert_eq!(values, arrives.iter().collect::<Vec<_>>(), "{name}: {told}");
        assert!(
            answer
                .headers()
                .get_all("set-cookie")
                .iter()
                .any(|v| v == "own=1")
        );
        assert!(
            !answer
                .headers()
                .values()
                .any(|v| v.to_str().is_ok_and(|v| v.contains(&token))),
            "{name}: {told}"
        );
    }
}
