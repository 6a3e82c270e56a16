//! Real clients of the data port: curl, Python requests, Node's fetch; by URL and as HTTP_PROXY.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    tool::{Tool, skip},
    vendor::{Need, Vendor},
    wire::Reply,
};

const LIMIT: Duration = Duration::from_secs(60);

struct Stage {
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

async fn stage() -> Stage {
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
    Stage {
        issuer,
        vendor,
        sidecar,
    }
}

/// Runs a client to its end; what it wrote.
async fn told(tool: Tool, args: &[&str]) -> String {
    let (code, out, err) = tool.args(args.iter().copied()).run(LIMIT).await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_calls_over_http_1_http_2_and_as_a_proxy() {
    let curl = || Tool::on_path("curl", "curl");
    if let Err(why) = curl() {
        return skip("curl_calls_over_http_1_http_2_and_as_a_proxy", &why);
    }
    let Stage {
        issuer,
        vendor,
        sidecar,
    } = stage().await;
    let (url, proxy, forward) = (
        sidecar.url("/acme/a%2Fb?c=d"),
        sidecar.url(""),
        format!("{}/a%2Fb?c=d", vendor.url()),
    );
    let asked = async |args: &[&str]| {
        told(
            curl()
                .unwrap()
                .args(["-sS", "--fail", "--max-time", "30", "--noproxy", ""]),
            args,
        )
        .await
    };
    for args in [
        &["--http1.1", &*url][..],
        &["--http1.0", &url],
        &["--http2", &url],
        &["--http2-prior-knowledge", &url],
        &["-x", &proxy, &forward],
        &[
            "-x",
            &proxy,
            "--proxy-header",
            "Proxy-Authorization: Basic eA==",
            &forward,
        ],
    ] {
        let echo = json(&asked(args).await);
        assert_eq!(echo["target"], "/a%2Fb?c=d", "{args:?}");
        assert!(!echo.to_string().contains("Basic eA=="), "{args:?}");
    }
    let body = sidecar.path("body");
    std::fs::write(&body, vec![b'z'; 3 << 20]).unwrap();
    let file = format!("@{}", body.display());
    for more in [
        &["--http1.1"][..],
        &["--http1.1", "-H", "Transfer-Encoding: chunked"],
        &["--http2-prior-knowledge"],
    ] {
        // curl sends Expect: 100-continue with a body of this size.
        let echo = json(&asked(&[more, &["--data-binary", &file, &url]].concat()).await);
        assert_eq!(
            (echo["method"].as_str(), echo["length"].as_u64()),
            (Some("POST"), Some(3 << 20)),
            "{more:?}"
        );
        assert_eq!(
            echo["sha256"],
            crate::support::tally::sha256(&vec![b'z'; 3 << 20]),
            "{more:?}"
        );
    }
    let head = asked(&["-I", &url]).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let tunnel = curl()
        .unwrap()
        .args(["-sS", "-p", "-x", &proxy, &forward, "-D", "-"])
        .run(LIMIT)
        .await;
    assert!(
        tunnel.0 != 0 && tunnel.1.starts_with("HTTP/1.1 403"),
        "{tunnel:?}"
    );
    assert!(tunnel.1.contains("intercept_off"), "{tunnel:?}");
    assert_eq!(issuer.calls("/token"), 1);
}

const PYTHON: &str = r#"
import json, os, sys
import requests
url, proxy, forward = sys.argv[1:]
out = []
with requests.Session() as s:
    s.trust_env = False
    r = s.get(forward + "/moved", proxies={"http": proxy})
    moved = [r.status_code, len(r.history)]
    for n in range(3):
        out.append(s.get(url + "/a%2Fb", params={"q": "x y"}, headers={"Authorization": "Bearer own"}).json())
    out.append(s.post(url + "/up", data=(b"y" * 1000 for _ in range(50))).json())
    s.proxies = {"http": proxy, "https": proxy}
    out.append(s.get(forward + "/by-proxy").json())
    r = s.get("http://no-such-host.invalid/x")
    out.append([r.status_code, r.json()["code"]])
    out.append(moved)
os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = proxy
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""
out.append(requests.get(forward + "/by-environment").json())
try:
    requests.get(forward.replace("http:", "https:"), proxies={"https": proxy})
except requests.exceptions.ProxyError as e:
    out.append(str(e))
print(json.dumps(out))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn python_requests_calls_by_url_and_as_a_proxy() {
    let python = match Tool::python() {
        Ok(python) => python,
        Err(why) => return skip("python_requests_calls_by_url_and_as_a_proxy", &why),
    };
    let Stage {
        issuer,
        vendor,
        sidecar,
    } = stage().await;
    vendor.script(Reply::new(302, "").with("Location", &(vendor.url() + "/to")));
    let out = json(
        &told(
            python,
            &[
                "-c",
                PYTHON,
                &sidecar.url("/acme"),
                &sidecar.url(""),
                &vendor.url(),
            ],
        )
        .await,
    );
    for n in 0..3 {
        assert_eq!(out[n]["target"], "/a%2Fb?q=x+y");
        assert!(!out[n].to_string().contains("Bearer own"));
    }
    assert_eq!(
        (out[3]["length"].as_u64(), out[4]["target"].as_str()),
        (Some(50_000), Some("/by-proxy"))
    );
    assert_eq!(out[5], serde_json::json!([403, "forbidden_destination"]));
    assert_eq!(
        out[6],
        serde_json::json!([200, 1]),
        "requests follows the redirect through the proxy again"
    );
    assert_eq!(out[7]["target"], "/by-environment");
    assert!(
        out[8].as_str().is_some_and(|e| e.contains("403")),
        "CONNECT: {}",
        out[8]
    );
    assert_eq!(issuer.calls("/token"), 1);
}

const NODE: &str = r#"
const [url, proxy, forward] = process.argv.slice(1);
const http = require("node:http");
const out = [];
const json = async (u, o) => (await fetch(u, o)).json();
(async () => {
  out.push(await json(url + "/a%2Fb?q=1", { headers: { authorization: "Bearer own", "x-one": "1" } }));
  out.push(await json(url + "/up", { method: "POST", body: "n".repeat(100000) }));
  const stream = new ReadableStream({ start(c) { for (let i = 0; i < 10; i++) c.enqueue(new TextEncoder().encode("s".repeat(1000))); c.close(); } });
  out.push(await json(url + "/stream", { method: "POST", body: stream, duplex: "half" }));
  const many = await Promise.all(Array.from({ length: 50 }, (_, i) => json(url + "/" + i)));
  out.push(many.every((m, i) => m.target === "/" + i));
  const p = new URL(proxy);
  out.push(await new Promise((ok, no) => http.get({ host: p.hostname, port: p.port, path: forward + "/absolute", headers: { host: new URL(forward).host } }, (r) => {
    let all = ""; r.on("data", (d) => (all += d)); r.on("end", () => ok(JSON.parse(all)));
  }).on("error", no)));
  const refused = await fetch(url.replace("/acme", "/none"));
  out.push([refused.status, (await refused.json()).code]);
  console.log(JSON.stringify(out));
})();
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_calls_by_url_and_its_http_module_as_a_proxy() {
    let node = match Tool::node_js() {
        Ok(node) => node,
        Err(why) => {
            return skip(
                "nodes_fetch_calls_by_url_and_its_http_module_as_a_proxy",
                &why,
            );
        }
    };
    let Stage {
        issuer,
        vendor,
        sidecar,
    } = stage().await;
    let out = json(
        &told(
            node,
            &[
                "-e",
                NODE,
                &sidecar.url("/acme"),
                &sidecar.url(""),
                &vendor.url(),
            ],
        )
        .await,
    );
    assert_eq!(out[0]["target"], "/a%2Fb?q=1");
    assert!(!out[0].to_string().contains("Bearer own"));
    assert_eq!(
        (out[1]["length"].as_u64(), out[2]["length"].as_u64()),
        (Some(100_000), Some(10_000))
    );
    assert_eq!(
        (&out[3], out[4]["target"].as_str()),
        (&Value::Bool(true), Some("/absolute"))
    );
    assert_eq!(out[5], serde_json::json!([404, "no_route"]));
    assert_eq!(issuer.calls("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_with_a_proxy_in_its_environment_never_goes_past_us() {
    let node = match Tool::node_js() {
        Ok(node) => node,
        Err(why) => {
            return skip(
                "nodes_fetch_with_a_proxy_in_its_environment_never_goes_past_us",
                &why,
            );
        }
    };
    let Stage {
        vendor, sidecar, ..
    } = stage().await;
    let script = "process.env.HTTP_PROXY = process.argv[1]; require('node:http').setGlobalProxyFromEnv?.();\
        fetch(process.argv[2]).then(async (r) => console.log(r.status, await r.text()), (e) => console.log('failed', e.cause?.message ?? e.message))";
    let out = told(
        node,
        &[
            "-e",
            script,
            &sidecar.url(""),
            &format!("{}/x", vendor.url()),
        ],
    )
    .await;
    if out.starts_with("200 ") {
        assert_eq!(vendor.last().target, "/x");
    } else {
        // Node's own fetch asks for a tunnel to http hosts too; without interception it is told so
        // and nothing goes past us.
        sidecar
            .until_metric(
                "cupbearer_refusals_total{code=\"intercept_off\",upstream=\"acme\"}",
                1.0,
            )
            .await;
        assert_eq!(vendor.connections(), 0, "{out}");
    }
}
