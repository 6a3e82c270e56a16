//! TLS to upstreams: what is trusted, what is asked for, who we are; a vendor that is not trusted
//! gets nothing.

use std::sync::Arc;

use crate::support::{
    certs::{Authority, Leaf},
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
};

const H1: &[&str] = &["http/1.1"];

async fn vendor(config: Arc<rustls::ServerConfig>) -> Vendor {
    Vendor::with_tls(&Tokens::default(), vec![], Some(config)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_for_this_vendor_ends_the_call_before_a_byte_is_sent() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    for (what, leaf) in [
        ("another host", ours.leaf(&["other.test"], Leaf::Server)),
        (
            "a name around it",
            ours.leaf(&["localhost.other.test", "xlocalhost"], Leaf::Server),
        ),
        ("expired", ours.leaf(&["localhost"], Leaf::Expired)),
        ("unknown authority", other.localhost(&[])),
        ("for clients", ours.leaf(&["localhost"], Leaf::Client)),
    ] {
        for alpn in [&["h2"][..], H1] {
            let vendor = Vendor::with_tls(
                &tokens,
                vec![Need::Bearer("access")],
                Some(Authority::server(&leaf, alpn)),
            )
            .await;
            let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
            let text = format!("{PORTS}{text}tls = {{ ca_file = \"ca.pem\" }}\n");
            let sidecar = Sidecar::with_files(&text, &[("ca.pem", &ours.pem)]).await;
            let answer = sidecar.get("/acme/x").await;
            assert_eq!(answer.status(), 502, "{what}");
            let status = answer.headers()["proxy-status"]
                .to_str()
                .unwrap()
                .to_owned();
            assert_eq!(
                status, "cupbearer; error=tls_certificate_error; details=\"upstream_tls\"",
                "{what}"
            );
            assert_eq!(vendor.counts().requests, 0, "{what}");
            assert!(
                sidecar
                    .metric("cupbearer_upstream_connects_total{outcome=\"tls\",upstream=\"acme\"}")
                    .await
                    > 0.5,
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_file_adds_to_the_platform_and_the_platform_alone_does_not_do() {
    let ours = Authority::new("ours");
    let vendor = vendor(Authority::server(&ours.localhost(&[]), H1)).await;
    for (tls, status) in [
        ("", 502),
        ("tls = { ca_file = \"ca.pem\" }\n", 200),
        ("tls = { ca_file = \"ca.pem\", ca_only = true }\n", 200),
    ] {
        let sidecar = Sidecar::with_files(
            &format!("{PORTS}{}{tls}", open("acme", &vendor.url())),
            &[("ca.pem", &ours.pem)],
        )
        .await;
        assert_eq!(sidecar.status_of("/acme/x").await, status, "{tls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_name_is_what_is_asked_for_and_verified() {
    let ours = Authority::new("ours");
    // This server has a certificate for who asks by SNI for exactly this name, and for nobody else.
    let vendor = vendor(Authority::by_name(
        &ours.leaf(&["api.acme.test"], Leaf::Server),
        "api.acme.test",
    ))
    .await;
    for (name, status) in [
        ("server_name = \"api.acme.test\"", 200),
        ("server_name = \"other.test\"", 502),
        ("ca_only = true", 502),
    ] {
        let text = format!(
            "{PORTS}{}tls = {{ ca_file = \"ca.pem\", {name} }}\n",
            open("acme", &vendor.url())
        );
        let sidecar = Sidecar::with_files(&text, &[("ca.pem", &ours.pem)]).await;
        assert_eq!(sidecar.status_of("/acme/x").await, status, "{name}");
    }
    assert_eq!(
        vendor.last().header("host"),
        Some(&*format!("localhost:{}", vendor.port())),
        "Host stays url's"
    );
    assert_eq!(vendor.counts().requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_by_ip_address_is_verified_by_that_address() {
    let ours = Authority::new("ours");
    for (leaf, status) in [
        (ours.leaf(&["127.0.0.1"], Leaf::Server), 200),
        (ours.leaf(&["localhost"], Leaf::Server), 502),
    ] {
        let vendor = vendor(Authority::server(&leaf, H1)).await;
        let url = format!("https://127.0.0.1:{}", vendor.port());
        let text = format!(
            "{PORTS}{}tls = {{ ca_file = \"ca.pem\" }}\n",
            open("acme", &url)
        );
        let sidecar = Sidecar::with_files(&text, &[("ca.pem", &ours.pem)]).await;
        assert_eq!(sidecar.status_of("/acme/x").await, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_vendor_that_wants_a_client_certificate_gets_ours_and_no_other_is_taken() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let own = ours.leaf(&["us"], Leaf::Client);
    let foreign = other.leaf(&["us"], Leaf::Client);
    let shown = "client_cert_file = \"c.pem\", client_key_file = \"k.pem\"";
    for alpn in [&["h2"][..], H1] {
        for (pair, keys, status) in [
            (&own, shown, 200),
            (&foreign, shown, 502),
            (&own, "ca_only = true", 502),
        ] {
            let vendor = vendor(ours.mutual(&ours.localhost(&[]), alpn)).await;
            let text = format!(
                "{PORTS}{}tls = {{ ca_file = \"ca.pem\", {keys} }}\n",
                open("acme", &vendor.url())
            );
            let files = [
                ("ca.pem", &*ours.pem),
                ("c.pem", &pair.cert),
                ("k.pem", &pair.key),
            ];
            let sidecar = Sidecar::with_files(&text, &files).await;
            let (found, problem) = sidecar.refusal("/acme/x").await;
            assert_eq!(found, status, "{alpn:?} {keys} {problem}");
            if status == 502 {
                // TLS 1.3 lets a client think that it is in: the alert comes where the answer
                // should, and a reset may overtake it.
                assert!(
                    matches!(
                        problem["code"].as_str(),
                        Some("upstream_tls" | "upstream_protocol")
                    ),
                    "{alpn:?} {keys} {problem}"
                );
            }
            assert_eq!(vendor.counts().requests, usize::from(status == 200));
        }
    }
}
