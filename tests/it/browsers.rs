//! `browser = "deny"`: what a web page, or a link in a mail, makes a browser send spends no token.

use crate::support::{
    raw::RawClient,
    sidecar::{PORTS, Sidecar, open},
    tokens::Tokens,
    vendor::Vendor,
};

async fn status(sidecar: &Sidecar, fields: &str) -> (u16, String) {
    let request = format!(
        "POST /acme/x HTTP/1.1\r\nHost: {}\r\n{fields}Content-Length: 0\r\n\r\n",
        sidecar.addr()
    );
    let answer = RawClient::ask(sidecar.addr(), request.as_bytes()).await;
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn navigations_and_what_other_sites_send_is_refused_naming_the_key() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for fields in [
        // A link in a mail: no site, but a page.
        "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Dest: iframe\r\n",
        "Sec-Fetch-Dest: sharedworker\r\n",
        "Upgrade-Insecure-Requests: 1\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: https://evil.test\r\n",
        "Origin: null\r\n",
        "Referer: https://evil.test/page\r\n",
        "Referer: about:blank\r\n",
    ] {
        let (code, body) = status(&sidecar, fields).await;
        assert_eq!(code, 403, "{fields}");
        assert!(
            body.contains("forbidden_origin") && body.contains("proxy.browser"),
            "{body}"
        );
    }
    assert_eq!(vendor.counts().requests, 0);
    let own = sidecar.addr();
    for (fields, code) in [
        (
            format!("Referer: http://localhost:{}/acme/x\r\n", own.port()),
            200,
        ),
        ("Referer: http://localhost:1/acme/x\r\n".into(), 403),
        (format!("Origin: http://6.6.6.6:{}\r\n", own.port()), 403),
        (format!("Origin: http://evil.test:{}\r\n", own.port()), 403),
    ] {
        assert_eq!(status(&sidecar, &fields).await.0, code, "{fields}");
    }
    for fields in [
        String::new(),
        "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n".into(),
        format!("Origin: http://{own}\r\nReferer: http://{own}/acme/page?x\r\n"),
        // A client that was written for the vendor says the vendor's.
        format!("Origin: {0}\r\nReferer: {0}/docs\r\n", vendor.url()),
    ] {
        assert_eq!(status(&sidecar, &fields).await.0, 200, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_browsers_are_allowed_they_are() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text =
        PORTS.replace("[proxy]\n", "[proxy]\nbrowser = \"allow\"\n") + &open("acme", &vendor.url());
    let sidecar = Sidecar::with_files(&text, &[]).await;
    for fields in [
        "Sec-Fetch-Mode: navigate\r\n",
        "Referer: https://evil.test/page\r\n",
        "Origin: null\r\n",
    ] {
        assert_eq!(status(&sidecar, fields).await.0, 200, "{fields}");
    }
}
