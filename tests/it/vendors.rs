//! Five vendors against documents of their token endpoints, run by Prism: ours, and the vendors'
//! own where they are at hand. The sidecar's real token calls are taken, and hold the document's
//! fields and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::documents;
use crate::support::{
    certs::signer,
    foreign::prism,
    sidecar::Sidecar,
    stanza::Stanza,
    through::{Exchange, Through},
    tokens::Tokens,
    tool::{root, skip},
    vendor::Vendor,
    wire::Request,
};

pub const FORM: &str = "application/x-www-form-urlencoded";
pub const JSON: &str = "application/json";
const CLIENT: &str = r#"client_id = "client-one", client_secret = "secret-one""#;
const CUSTOMER: &str = "00000000-0000-4000-8000-000000000002";

/// A token call as it must arrive: path in the document, content type, its fields, and who else's
/// token is its Bearer.
struct Call {
    path: &'static str,
    kind: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    bearer: Option<&'static str>,
}

/// A value that the test cannot know.
const ANY: &str = "(any)";
const GRANT: (&str, &str) = ("grant_type", "client_credentials");

fn call(path: &'static str, kind: &'static str, fields: &[(&'static str, &'static str)]) -> Call {
    Call {
        path,
        kind,
        fields: fields.to_vec(),
        bearer: None,
    }
}

/// Where a document keeps a profile's settings; `BASE` is the address.
fn settings(base: &str, settings: &str) -> String {
    settings.replace("BASE", base)
}

/// Our document, and the vendor's own where `shared/vendors` lies beside the project or above it.
fn its_documents(name: &str) -> Vec<PathBuf> {
    let own = root()
        .ancestors()
        .map(|f| f.join(format!("shared/vendors/{name}.json")))
        .find(|f| f.exists());
    if own.is_none() {
        skip(
            &format!("vendors: {name}"),
            "the vendor's own document is not beside this project",
        );
    }
    [root().join(format!("tests/it/vendors/{name}.yaml"))]
        .into_iter()
        .chain(own)
        .collect()
}

/// Every document of `name`: takes and refuses what it should, and takes the real calls of these
/// profiles.
async fn taken(name: &str, strip: &'static str, profiles: &[(Stanza, &[Call])]) {
    for document in its_documents(name) {
        let server = match prism(&document).await {
            Ok(server) => server,
            Err(reason) => return skip(&format!("vendors: {name}"), &reason),
        };
        documents::behaves(&document, &server.url, name).await;
        for (stanza, calls) in profiles {
            let through = Through::start(&server.url, strip).await;
            let vendor = Vendor::start(&Tokens::default(), vec![]).await;
            let base = format!("{}{strip}", through.url());
            let stanza = Stanza {
                settings: settings(&base, &stanza.settings),
                ..stanza.clone()
            };
            let sidecar = stanza.start(&vendor.url()).await;
            real_calls(&document, &sidecar, stanza.profile, calls, &through).await;
            let sent = vendor.last();
            let token = &through.seen()[0].answer["access_token"];
            assert_eq!(
                sent.header("authorization"),
                Some(&*format!("Bearer {}", token.as_str().unwrap())),
                "{}",
                stanza.profile
            );
            if name == "lean" {
                no_life_is_five_minutes(&sidecar, stanza.profile).await;
            }
        }
    }
}

async fn real_calls(
    document: &Path,
    sidecar: &Sidecar,
    profile: &str,
    calls: &[Call],
    through: &Through,
) {
    let request = sidecar
        .client
        .get(sidecar.url(&format!("/{profile}/orders")))
        .header("X-Lean-Customer-Id", CUSTOMER);
    let answer = request.send().await.unwrap();
    let status = answer.status();
    assert_eq!(
        status,
        200,
        "{} {profile}: {}",
        document.display(),
        answer.text().await.unwrap()
    );
    let seen = through.seen();
    assert_eq!(seen.len(), calls.len(), "{profile}: {seen:?}");
    for (call, exchange) in calls.iter().zip(&seen) {
        let Exchange {
            request,
            status,
            answer,
        } = exchange;
        let about = format!(
            "{} {profile} {}: {answer}",
            document.display(),
            request.target
        );
        assert_eq!((request.method.as_str(), *status), ("POST", 200), "{about}");
        assert!(request.target.ends_with(call.path), "{about}");
        let kind = request.header("content-type").unwrap_or_default();
        assert_eq!(kind.split(';').next().unwrap(), call.kind, "{about}");
        let fields = fields(request, call.kind);
        let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            call.fields.iter().map(|(n, _)| *n).collect(),
            "{about}"
        );
        for (name, value) in call.fields.iter().filter(|(_, v)| *v != ANY) {
            assert_eq!(fields[*name], *value, "{about} {name}");
        }
        let parent = call
            .bearer
            .map(|field| format!("Bearer {}", seen[0].answer[field].as_str().unwrap()));
        assert_eq!(
            request.header("authorization"),
            parent.as_deref(),
            "{about}"
        );
        if document.extension().is_some_and(|e| e == "json") {
            let document: Value =
                serde_json::from_slice(&std::fs::read(document).unwrap()).unwrap();
            assert!(described(&document, call, &names), "{about}: {names:?}");
        }
    }
}

fn fields(request: &Request, kind: &str) -> BTreeMap<String, String> {
    assert_eq!(request.query(), "", "credentials have no place in a URL");
    match kind {
        JSON => serde_json::from_slice(&request.body).unwrap(),
        _ => form_urlencoded::parse(&request.body).into_owned().collect(),
    }
}

/// Whether exactly one of the document's schemas for this call names all these fields and requires
/// no more. Prism itself lets extra fields of a form pass.
fn described(document: &Value, call: &Call, names: &BTreeSet<&str>) -> bool {
    let path = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .find(|(path, _)| {
            let (path, call) = (path.split('/'), call.path.split('/'));
            path.clone().count() == call.clone().count()
                && path.zip(call).all(|(a, b)| a == b || a.starts_with('{'))
        });
    let Some((_, path)) = path else { return false };
    let schema = resolved(
        document,
        &path["post"]["requestBody"]["content"][call.kind]["schema"],
    );
    let one_of = schema["oneOf"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![schema.clone()]);
    let fits = one_of
        .iter()
        .map(|s| resolved(document, s))
        .filter(|schema| {
            let known = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            names.iter().all(|n| known.contains_key(*n))
                && required.iter().all(|r| names.contains(r.as_str().unwrap()))
        });
    fits.count() == 1
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str();
    reference.map_or(schema, |r| {
        document.pointer(r.trim_start_matches('#')).unwrap()
    })
}

/// Prism makes up `expires_in: 0`: counted, and the default used instead.
async fn no_life_is_five_minutes(sidecar: &Sidecar, profile: &str) {
    let series = format!(
        "cupbearer_token_lifetime_implausible_total{{credential=\"{profile}\",token=\"access\"}}"
    );
    assert!(
        (sidecar.metric(&series).await - 1.0).abs() < f64::EPSILON,
        "{profile}"
    );
    let token = sidecar.token(profile, "access").await;
    let at = |key: &str| {
        token[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert!(
        (298..=302).contains(&(at("expires_at") - at("obtained_at")).get_seconds()),
        "{token}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_token_calls_of_mypos_are_as_documented() {
    let secrets = r#"client_id = "client_p", client_secret = "secret_p", merchant_client_id = "cli_m", merchant_client_secret = "sec_m""#;
    let stanza = Stanza::new(
        "mypos",
        r#"base = "BASE", partner_id = "mps-p-1", application_id = "mps-app-1""#,
        secrets,
    );
    let partner = call(
        "/api/v1/oauth/token",
        FORM,
        &[
            GRANT,
            ("client_id", "client_p"),
            ("client_secret", "secret_p"),
        ],
    );
    let session = call(
        "/api/v1/auth/session",
        JSON,
        &[("client_id", "cli_m"), ("client_secret", "sec_m")],
    );
    let session = Call {
        bearer: Some("access_token"),
        ..session
    };
    taken("mypos", "", &[(stanza, &[partner, session])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_call_of_optoro_is_as_documented() {
    let one = [call(
        "/oauth/token",
        JSON,
        &[
            GRANT,
            ("client_id", "client-one"),
            ("client_secret", "secret-one"),
        ],
    )];
    taken(
        "optoro",
        "",
        &[(Stanza::new("optoro", r#"base = "BASE""#, CLIENT), &one)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_call_of_sqr_is_as_documented() {
    let one = [call(
        "/oauth2/token",
        JSON,
        &[
            GRANT,
            ("client_id", "client-one"),
            ("client_secret", "secret-one"),
        ],
    )];
    taken(
        "sqr",
        "",
        &[(Stanza::new("sqr", r#"base = "BASE""#, CLIENT), &one)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_calls_of_lean_are_as_documented_and_a_life_of_zero_is_not_believed() {
    let api = [call(
        "/oauth2/token",
        FORM,
        &[
            GRANT,
            ("client_id", "client-one"),
            ("client_secret", "secret-one"),
            ("scope", "api"),
        ],
    )];
    let scope = ("scope", "customer.00000000-0000-4000-8000-000000000002");
    let fields = [
        GRANT,
        ("client_id", "client-one"),
        ("client_secret", "secret-one"),
        scope,
    ];
    let customer = [call("/oauth2/token", FORM, &fields)];
    let stanza = |profile| Stanza::new(profile, r#"base = "BASE""#, CLIENT);
    taken(
        "lean",
        "",
        &[(stanza("lean"), &api), (stanza("lean_customer"), &customer)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_calls_of_worldline_are_as_documented_by_secret_and_by_assertion() {
    const PATH: &str = "/realms/merchants/protocol/openid-connect/token";
    const KIND: (&str, &str) = (
        "client_assertion_type",
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    );
    let scope = ("scope", "VOP WERO");
    let secret = [call(
        PATH,
        FORM,
        &[
            GRANT,
            ("client_id", "client-one"),
            ("client_secret", "secret-one"),
            scope,
        ],
    )];
    let signed = [call(
        PATH,
        FORM,
        &[GRANT, KIND, ("client_assertion", ANY), scope],
    )];
    let given = r#"base = "BASE", realm = "merchants", scope = "VOP WERO""#;
    let key = signer(Algorithm::RS256);
    let files = r#"client_id = "client-one", private_key = { file = "key.pem" }, certificate = { file = "cert.pem" }"#;
    let by_key = Stanza::new("worldline_jwt", given, files)
        .file("key.pem", &key.key)
        .file("cert.pem", &key.cert);
    taken(
        "worldline",
        "/auth",
        &[
            (Stanza::new("worldline", given, CLIENT), &secret),
            (by_key, &signed),
        ],
    )
    .await;
}
