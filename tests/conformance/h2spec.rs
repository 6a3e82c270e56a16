//! h2spec's list against the data port: what it holds against us is mended, or explained here.

use std::time::Duration;

use crate::support::{
    sidecar::{Sidecar, open},
    tokens::Tokens,
    tool::{Tool, skip},
    vendor::Vendor,
};

/// What it counts as failed, each with the reason why it stays so.
const EXPLAINED: [(&str, &str, &str); 1] = [(
    "http2/3.5",
    "Sends invalid connection preface",
    "the port speaks HTTP/1.1 as well: what is not the preface is judged as HTTP/1, answered with 400, and the connection closed; \
     h2spec takes that answer for a frame",
)];

#[tokio::test(flavor = "multi_thread")]
async fn h2spec_finds_nothing_that_is_not_explained() {
    let tool = match Tool::go("h2spec") {
        Ok(tool) => tool,
        Err(reason) => return skip("h2spec", &reason),
    };
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let report = sidecar.path("h2spec.xml");
    let (port, file) = (
        sidecar.addr().port().to_string(),
        report.display().to_string(),
    );
    let args = [
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--path",
        "/acme/x",
        "--timeout",
        "5",
        "--strict",
        "--junit-report",
        &file,
    ];
    let (_, output, _) = tool.args(args).run(Duration::from_secs(300)).await;
    let report = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {output}"));
    let case = regex::Regex::new(
        r#"(?s)<testcase package="([^"]+)" classname="([^"]+)"[^>]*>(.*?)</testcase>"#,
    )
    .unwrap();
    let (mut all, mut skipped, mut failed) = (0, 0, Vec::new());
    for found in case.captures_iter(&report) {
        all += 1;
        skipped += usize::from(found[3].contains("<skipped"));
        if found[3].contains("<failure") || found[3].contains("<error") {
            failed.push((
                found[1].to_owned(),
                found[2].replace("&#34;", "\""),
                found[3].trim().to_owned(),
            ));
        }
    }
    assert!(all > 140, "h2spec ran {all} cases: {output}");
    println!(
        "h2spec: {all} cases, {skipped} skipped, {} failed",
        failed.len()
    );
    let new: Vec<_> = failed
        .iter()
        .filter(|(p, n, _)| !EXPLAINED.iter().any(|(ep, en, _)| p == ep && n == en))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
    for (package, name, why) in EXPLAINED {
        assert!(
            failed.iter().any(|(p, n, _)| p == package && n == name),
            "{package} {name} passes now, so this is no longer true: {why}"
        );
    }
    sidecar.until_idle("acme").await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200, "after all of it");
    assert!(sidecar.app.stop().await, "nothing hangs on");
}
