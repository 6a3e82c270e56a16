//! Foreign servers by name, each started on loopback and ended with the value that holds it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::tool::{Running, Tool, free_port};

/// The time that a loaded machine with two cores may take to start one.
const START: Duration = Duration::from_secs(90);

/// A server and its address.
pub struct Foreign {
    pub url: String,
    _running: Running,
}

/// Prism for an OpenAPI document: 200 to what it allows, an error to all else.
pub async fn prism(document: &Path) -> Result<Foreign, String> {
    let port = free_port().to_string();
    let document = document.display().to_string();
    let tool = Tool::prism()?.args([
        "mock",
        "--errors",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        &document,
    ]);
    let (running, _) = tool.start("Prism is listening", START).await;
    Ok(Foreign {
        url: format!("http://127.0.0.1:{port}"),
        _running: running,
    })
}

/// The secret of oidc-provider's clients `basic`, `post` and `hmac`.
pub const OIDC_SECRET: &str = "a+b%:/= &\"-made-up-secret-of-forty-bytes";

/// A certified authorization server: token endpoint `/token`, issuer = address. `keyed` is the
/// public JWK and the algorithm of the client of that name.
pub async fn oidc_provider(keyed: Option<(Value, &str)>, life: u32) -> Result<Foreign, String> {
    let mut given = json!({ "ttl": life });
    if let Some((jwk, alg)) = keyed {
        given["jwks"] = json!({ "keys": [jwk] });
        given["alg"] = json!(alg);
    }
    let tool = Tool::oidc_provider()?
        .args(["--stdin"])
        .input(&format!("{given}\n"));
    let (running, line) = tool.start("ready ", START).await;
    Ok(Foreign {
        url: line.trim_start_matches("ready ").trim().to_owned(),
        _running: running,
    })
}
