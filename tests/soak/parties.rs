//! Five vendors: strict issuers whose tokens live two seconds, the APIs behind them, and the
//! configuration for all of them.

use std::time::Duration;

use crate::support::{
    endpoint::{Auth, Endpoint, Format, Scope},
    issuer::Issuer,
    sidecar::PORTS,
    stanza::Stanza,
    tokens::Tokens,
    vendor::{Need, Vendor},
};

const LIFE: Duration = Duration::from_secs(2);
/// Token calls each credential may make; `guard.rate`.
pub const PER_MINUTE: usize = 300;

pub struct Party {
    pub name: &'static str,
    pub tokens: Tokens,
    pub issuer: Issuer,
    pub api: Vendor,
    /// The path whose secret is rotated, and the name of the token that API calls carry.
    pub path: &'static str,
    pub token: &'static str,
    stanza: Stanza,
}

impl Party {
    async fn start(
        name: &'static str,
        mut endpoints: Vec<Endpoint>,
        needs: Vec<Need>,
        settings: &str,
        tables: &[&str],
    ) -> Self {
        let tokens = Tokens::default();
        for endpoint in &mut endpoints {
            endpoint.life = LIFE;
        }
        let path: &'static str = endpoints[0].path.clone().leak();
        let token: &'static str = endpoints[endpoints.len() - 1].name.clone().leak();
        let issuer = Issuer::start(&tokens, endpoints).await;
        let api = Vendor::start(&tokens, needs).await;
        api.keep(1);
        let secrets =
            format!("client_id = \"client-one\", client_secret = {{ file = \"{name}.secret\" }}");
        let secrets = if name == "mypos" {
            format!(
                "{secrets}, merchant_client_id = \"cli_m\", merchant_client_secret = {{ file = \"merchant.secret\" }}"
            )
        } else {
            secrets
        };
        let mut stanza = Stanza::new(name, &settings.replace("BASE", &issuer.url()), &secrets);
        for table in tables {
            stanza = stanza.over(&format!("[HERE.tokens.{table}]\ntimeout = \"2s\""));
        }
        let stanza = stanza.over(&format!("[HERE.guard]\nrate = [\"{PER_MINUTE}/m\"]"));
        Self {
            name,
            tokens,
            issuer,
            api,
            path,
            token,
            stanza,
        }
    }

    /// Which file holds the secret that is rotated.
    pub fn file(&self) -> String {
        format!("{}.secret", self.name)
    }

    /// All token calls so far.
    pub fn calls(&self) -> usize {
        self.issuer.seen().len()
    }
}

/// One stands for each vendor that was looked at.
pub async fn five() -> Vec<Party> {
    let bearer = || vec![Need::Bearer("access")];
    let plain = |path: &str| Endpoint::new(path, "client-one", "secret-0");

    let mut partner = plain("/api/v1/oauth/token");
    partner.name = "partner".into();
    let mut session = Endpoint::new("/api/v1/auth/session", "cli_m", "sec_m");
    session.name = "session".into();
    session.format = Format::Json;
    session.auth = Auth::Body;
    session.grant = None;
    session.bearer = Some("partner".into());
    session.field = "session";
    let needs = vec![
        Need::Bearer("partner"),
        Need::Header("x-session", "session"),
    ];
    let settings = "base = \"BASE\", partner_id = \"mps-p-1\", application_id = \"mps-app-1\"";
    let mypos = Party::start(
        "mypos",
        vec![partner, session],
        needs,
        settings,
        &["partner", "session"],
    );

    let mut optoro = plain("/oauth/token");
    optoro.format = Format::Json;
    let optoro = Party::start(
        "optoro",
        vec![optoro],
        bearer(),
        "base = \"BASE\"",
        &["access"],
    );

    let mut sqr = plain("/v1/oauth/token");
    sqr.format = Format::Json;
    sqr.jwt = true;
    let sqr = Party::start(
        "sqr",
        vec![sqr],
        bearer(),
        "base = \"BASE\", path = \"/v1/oauth/token\"",
        &["access"],
    );

    let mut lean = plain("/oauth2/token");
    lean.scope = Scope::OneOf(vec!["api".into()]);
    let lean = Party::start("lean", vec![lean], bearer(), "base = \"BASE\"", &["access"]);

    let mut worldline = plain("/auth/realms/merchants/protocol/openid-connect/token");
    worldline.scope = Scope::OneOf(vec!["VOP".into(), "WERO".into()]);
    worldline.jwt = true;
    let settings = "base = \"BASE/auth\", realm = \"merchants\", scope = \"VOP WERO\"";
    let worldline = Party::start(
        "worldline",
        vec![worldline],
        bearer(),
        settings,
        &["access"],
    );

    let (mypos, optoro, sqr, lean, worldline) = tokio::join!(mypos, optoro, sqr, lean, worldline);
    vec![mypos, optoro, sqr, lean, worldline]
}

/// The whole configuration. Calls that hang are given up soon, so that a fault explains what comes
/// within seconds of it.
pub fn configuration(parties: &[Party]) -> String {
    let mut text =
        PORTS.replace("50ms", "200ms") + "[state]\ndir = \"state\"\n[upstream_defaults]\n";
    text += "timeouts = { connect = \"2s\", read = \"2s\", token = \"5s\" }\npool = { idle = \"2s\" }\n";
    for party in parties {
        let name = party.name;
        text += &party.stanza.credential();
        text += &format!(
            "[upstreams.{name}]\nurl = \"{}\"\ncredential = \"{name}\"\n",
            party.api.url()
        );
    }
    text
}
