//! What a request sees: one configuration at work. A reload builds a whole new one beside it and
//! swaps one pointer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    config::Config,
    credential::{Credential, CredentialDeps},
    document::Problems,
    oauth::TokenClient,
    route::Router,
    tls::{self, Tls},
    upstream::Upstream,
};

/// A request loads it once, when its head has been read, and keeps it to its end. Before that, what
/// ends a connection without a request (the bounds of a head, CONNECT) is judged by the one that
/// runs then.
pub struct Snapshot {
    /// What it was built from.
    pub config: Config,
    /// Which upstream a request is for: an index into `upstreams`.
    pub router: Router,
    /// Parallel to `config.rules`.
    pub upstreams: Vec<ServedUpstream>,
    /// By name, unused ones included.
    pub credentials: BTreeMap<Arc<str>, Arc<Credential>>,
    /// Counts up with every applied configuration, from 1.
    pub generation: u64,
}

/// An upstream with the credential it is served with.
#[derive(Clone)]
pub struct ServedUpstream {
    /// As the configuration says.
    pub upstream: Arc<Upstream>,
    /// `None`: the client's own headers pass.
    pub credential: Option<Arc<Credential>>,
}

impl Snapshot {
    /// Starts (or finds) the keepers of every credential, and makes the metrics name its upstreams
    /// and certificates. Keepers that run already are left as they are: see [`Snapshot::adopt`].
    ///
    /// # Errors
    /// Certificates and keys of tokens' `tls` tables that cannot be used; then nothing is started.
    pub fn build(config: Config, deps: &CredentialDeps, generation: u64) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut clients: HashMap<Tls, TokenClient> = HashMap::new();
        for credential in config.credentials.values() {
            for token in &credential.profile.tokens {
                if clients.contains_key(&token.tls) {
                    continue;
                }
                match TokenClient::new(&token.tls) {
                    Ok(client) => {
                        clients.insert(token.tls.clone(), client);
                    }
                    // What is wrong with the table itself was told when it was parsed.
                    Err(what) => {
                        let hint = "see what this host trusts (ca-certificates, SSL_CERT_FILE), and that no file changed meanwhile";
                        let key =
                            format!("credentials.{}.tokens.{}.tls", credential.name, token.name);
                        problems.problem(key, what, hint);
                    }
                }
            }
        }
        if problems.fatal() {
            return Err(problems);
        }
        let credentials: BTreeMap<_, _> = config
            .credentials
            .values()
            .map(|c| {
                let clients = c
                    .profile
                    .tokens
                    .iter()
                    .filter_map(|t| clients.get(&t.tls).cloned())
                    .collect();
                let made = Credential::new(
                    c.name.clone(),
                    c.profile.clone(),
                    c.secrets.clone(),
                    c.digest,
                    clients,
                    deps,
                );
                (c.name.clone(), Arc::new(made))
            })
            .collect();
        let upstreams = config
            .upstreams
            .iter()
            .map(|u| {
                deps.metrics.register_upstream(&u.name);
                ServedUpstream {
                    upstream: Arc::new(u.clone()),
                    credential: u
                        .credential
                        .as_ref()
                        .and_then(|name| credentials.get(name).cloned()),
                }
            })
            .collect();
        deps.metrics
            .set_certificate_expiries(&certificate_expiries(&config));
        let router = Router::new(config.rules.clone());
        Ok(Self {
            config,
            router,
            upstreams,
            credentials,
            generation,
        })
    }

    /// Called once this is what runs: running keepers get its secrets and limits, and trust what it
    /// trusts.
    pub fn adopt(&self) {
        self.credentials.values().for_each(|c| c.adopt());
    }
}

/// When the certificates of our own files expire, by the key that names the file. One that cannot
/// be read is reported where it is used.
fn certificate_expiries(config: &Config) -> Vec<(String, i64)> {
    let mut all: Vec<(String, Tls)> = config
        .upstreams
        .iter()
        .map(|u| (format!("upstreams.{}.tls", u.name), u.tls.clone()))
        .collect();
    for c in config.credentials.values() {
        all.extend(c.profile.tokens.iter().map(|t| {
            (
                format!("credentials.{}.tokens.{}.tls", c.name, t.name),
                t.tls.clone(),
            )
        }));
    }
    let files = all.into_iter().flat_map(|(at, tls)| {
        let named = [
            ("ca_file", tls.ca_file),
            ("client_cert_file", tls.client_cert_file),
        ];
        named
            .into_iter()
            .filter_map(move |(key, file)| Some((format!("{at}.{key}"), file?)))
    });
    files
        .filter_map(|(key, file)| Some((key, tls::certificate_expiry(&file).ok()?)))
        .collect()
}
