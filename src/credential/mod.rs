//! The tokens of one credential (and partition), presented together.
//!
//! [`Credential`] is what the rest of the program talks to; a bundle holds the keepers of one token
//! set; [`injection`] is what a token set puts on a request.

mod bundle;
pub mod injection;
mod manual_refresh;
mod refusal;
mod runtime;
mod secret_watch;
mod status;
mod unauthorized;
mod unlatch;
mod vend;

use std::sync::Arc;

use http::HeaderName;

pub use injection::{InjectedNames, InjectedValue, Injection};
pub use manual_refresh::RefreshOutcome;
pub use refusal::{Refusal, RefusalReason};
pub use runtime::CredentialDeps;
pub use secret_watch::SecretCheckTrigger;
pub use status::TokenState;
pub use unauthorized::UnauthorizedOutcome;
pub use unlatch::unlatch_offline;
pub use vend::{VendedToken, fingerprint};

use self::{bundle::TokenBundle, runtime::CredentialRuntime};
use crate::{
    clock::BootInstant,
    hash::sha256_of_parts,
    oauth::{CallHistory, TokenCall, TokenClient},
    profile::{self, Profile},
    secret::Secrets,
    token::{Keeper, KeeperName, KeeperPolicy, Unshared},
};

/// A credential at work.
pub struct Credential {
    name: Arc<str>,
    profile: Arc<Profile>,
    names: InjectedNames,
    /// As this configuration has them; handed to running keepers by [`Credential::adopt`].
    secrets: Arc<Secrets>,
    policies: Arc<Vec<KeeperPolicy>>,
    clients: Vec<TokenClient>,
    digest: [u8; 32],
    runtime: Arc<CredentialRuntime>,
    deps: CredentialDeps,
    sets: TokenSets,
}

/// The token sets of a credential.
enum TokenSets {
    One(Arc<TokenBundle>),
    /// In [`CredentialRuntime`], bounded by this: what fetched them would fetch the same after a reload.
    Many(u64),
}

/// Which of a credential's token sets a request is for; the empty one where the profile has no
/// partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PartitionKey(pub Vec<String>);

/// The partition header is missing, repeated, or does not fit its pattern. Holds the header's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionError(pub HeaderName);

impl Credential {
    /// Finds the running keepers of this credential or starts them (partitioned ones start with
    /// their first request). `clients` are the senders of its tokens, in the order of the profile.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        profile: Arc<Profile>,
        secrets: Secrets,
        digest: [u8; 32],
        clients: Vec<TokenClient>,
        deps: &CredentialDeps,
    ) -> Self {
        let secrets = Arc::new(secrets);
        let digest = digest_with_partitions(digest, &profile);
        let policies = profile
            .tokens
            .iter()
            .map(|t| KeeperPolicy {
                lifetime: t.lifetime.clone(),
                limits: profile.limits.clone(),
            })
            .collect();
        let policies: Arc<Vec<KeeperPolicy>> = Arc::new(policies);
        let max = profile.partition.iter().map(|p| p.max).min();
        let runtime = deps.find_or_start(&name, digest, || {
            CredentialRuntime::new(secrets.clone(), &clients, policies.clone(), max)
        });
        deps.metrics
            .register_credential(&name, profile.tokens.iter().map(|t| &*t.name));
        let sets = max.map_or_else(|| TokenSets::One(Arc::default()), TokenSets::Many);
        let names = InjectedNames::from_profile(&profile);
        let mut made = Self {
            name,
            profile,
            names,
            secrets,
            policies,
            clients,
            digest,
            runtime,
            deps: deps.clone(),
            sets,
        };
        if let TokenSets::One(_) = made.sets {
            made.sets = TokenSets::One(Arc::new(made.start(&PartitionKey::default())));
        }
        made
    }

    /// Starts or finds the keepers of one token set.
    fn start(&self, partition: &PartitionKey) -> TokenBundle {
        let values: Vec<(Arc<str>, String)> = self
            .profile
            .partition
            .iter()
            .map(|p| p.name.clone())
            .zip(partition.0.iter().cloned())
            .collect();
        let mut keepers: Vec<Arc<Keeper>> = Vec::with_capacity(self.profile.tokens.len());
        let policies = self.runtime.policies();
        for (index, spec) in self.profile.tokens.iter().enumerate() {
            let name = KeeperName {
                credential: self.name.clone(),
                token: spec.name.clone(),
                partition: (!partition.0.is_empty()).then(|| partition.0.join("\u{1f}").into()),
            };
            let parents = spec
                .parents
                .iter()
                .filter_map(|&i| keepers.get(i).cloned())
                .collect();
            let (Some(client), Some(policy)) =
                (self.runtime.clients.get(index), policies.get(index))
            else {
                continue; // Both lists were made from `profile.tokens`.
            };
            let keeper = self.deps.store.get_or_start(self.key(&name), || {
                let call = TokenCall {
                    name: name.clone(),
                    profile: self.profile.clone(),
                    index,
                    secrets: self.runtime.secrets.clone(),
                    partition: values.clone(),
                    client: client.clone(),
                    metrics: self.deps.metrics.clone(),
                    history: CallHistory::default(),
                };
                Keeper::spawn(
                    name.clone(),
                    parents,
                    Arc::new(call),
                    self.deps.ledger.clone(),
                    Arc::new(Unshared),
                    policy.clone(),
                )
            });
            keepers.push(keeper);
        }
        TokenBundle::new(keepers, values)
    }

    /// A keeper's key: the credential's digest covers everything that shapes its requests, parents
    /// included.
    fn key(&self, name: &KeeperName) -> [u8; 32] {
        let KeeperName {
            credential,
            token,
            partition,
        } = name;
        sha256_of_parts([
            &self.digest[..],
            credential.as_bytes(),
            token.as_bytes(),
            partition.as_deref().unwrap_or("").as_bytes(),
        ])
    }

    /// Called once this configuration is the one that runs: running keepers get its secrets, policy
    /// and trust. Reads no file; a look (see [`Credential::check_secrets`]) finds out what that changed.
    pub fn adopt(&self) {
        self.runtime.secrets.adopt(self.secrets.clone());
        let mut trust_changed = false;
        for (running, client) in self.runtime.clients.iter().zip(&self.clients) {
            // Another client would begin without connections.
            if !running.load().trusts_as(client) {
                running.store(Arc::new(client.clone()));
                trust_changed = true;
            }
        }
        if let TokenSets::Many(max) = self.sets {
            self.runtime.resize(max);
        }
        self.runtime
            .change_policies(&self.policies, || self.bundles());
        if trust_changed {
            // What held them may be mended.
            self.keepers()
                .iter()
                .for_each(|keeper| keeper.note_change());
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it runs on.
    #[must_use]
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// The names of what it puts on requests.
    #[must_use]
    pub fn injected_names(&self) -> &InjectedNames {
        &self.names
    }

    /// Which token set the request is for.
    ///
    /// # Errors
    /// [`PartitionError`]: a header that selects is missing, repeated, or does not fit its pattern.
    pub fn partition(&self, headers: &http::HeaderMap) -> Result<PartitionKey, PartitionError> {
        let mut values = Vec::with_capacity(self.profile.partition.len());
        for p in &self.profile.partition {
            let mut all = headers.get_all(&p.header).iter();
            let value = match (all.next(), all.next()) {
                (Some(one), None) => one.to_str().ok().filter(|v| p.pattern.is_match(v)),
                _ => None,
            };
            values.push(
                value
                    .ok_or_else(|| PartitionError(p.header.clone()))?
                    .to_owned(),
            );
        }
        Ok(PartitionKey(values))
    }

    fn bundle(&self, partition: &PartitionKey) -> Arc<TokenBundle> {
        match (&self.sets, self.runtime.many.load_full()) {
            (TokenSets::One(bundle), _) => bundle.clone(),
            (TokenSets::Many(_), Some(many)) => {
                self.runtime
                    .find_or_start_bundle(many, partition, || self.start(partition))
            }
            // Not reached: a partitioned credential shares a runtime with its like alone.
            (TokenSets::Many(_), None) => Arc::new(self.start(partition)),
        }
    }

    /// The token set of a partition, where it is in use.
    fn running_bundle(&self, partition: &PartitionKey) -> Option<Arc<TokenBundle>> {
        match &self.sets {
            TokenSets::One(bundle) => Some(bundle.clone()),
            TokenSets::Many(_) => self.runtime.many.load().as_ref()?.get(partition),
        }
    }

    fn bundles(&self) -> Vec<Arc<TokenBundle>> {
        match &self.sets {
            TokenSets::One(bundle) => vec![bundle.clone()],
            TokenSets::Many(_) => self
                .runtime
                .many
                .load()
                .as_ref()
                .map(|many| many.all())
                .unwrap_or_default(),
        }
    }

    fn keepers(&self) -> Vec<Arc<Keeper>> {
        self.bundles()
            .iter()
            .flat_map(|b| b.keepers().to_vec())
            .collect()
    }

    /// Hot path: what to place, if every token may be sent now.
    #[must_use]
    pub fn ready_injection(&self, partition: &PartitionKey) -> Option<Arc<Injection>> {
        let epoch = self.runtime.secrets.generation();
        match &self.sets {
            TokenSets::One(bundle) => bundle.ready(&self.profile, epoch, BootInstant::now()),
            TokenSets::Many(_) => self.runtime.many.load().as_ref()?.get(partition)?.ready(
                &self.profile,
                epoch,
                BootInstant::now(),
            ),
        }
    }

    /// What to place; waits for tokens until `until`.
    ///
    /// # Errors
    /// [`Refusal`]: there is no token in time, none is to be expected, too many wait, or what the
    /// tokens are to become cannot be rendered.
    pub async fn wait_for_injection(
        &self,
        partition: &PartitionKey,
        until: BootInstant,
    ) -> Result<Arc<Injection>, Refusal> {
        if let Some(injection) = self.ready_injection(partition) {
            return Ok(injection);
        }
        let _waiting = self.runtime.queue_waiter(self.profile.max_waiters)?;
        let started = BootInstant::now();
        let bundle = self.bundle(partition);
        let result = self.render_injection(&bundle, started, until).await;
        if !bundle.keepers().is_empty() {
            self.deps
                .metrics
                .token_waited(&self.name, started.until(BootInstant::now()));
        }
        result
    }

    async fn render_injection(
        &self,
        bundle: &TokenBundle,
        began: BootInstant,
        until: BootInstant,
    ) -> Result<Arc<Injection>, Refusal> {
        loop {
            let mut tokens = Vec::with_capacity(bundle.keepers().len());
            for keeper in bundle.keepers() {
                tokens.push(keeper.wait_since(began, until).await?);
            }
            // After the wait, for it may be long, and the epoch first: what changes in between is
            // rendered once more, never taken for newer than it is.
            let epoch = self.runtime.secrets.generation();
            let values = self.secret_values().await?;
            let injection = Injection::render(
                &self.profile,
                bundle.partition(),
                tokens,
                values.as_deref(),
                epoch,
            )
            .map_err(|why| Refusal::unrenderable(&why))?;
            // While a child was waited for, a short-lived parent may have come to its end, or an
            // API may have refused one.
            if injection.send_until > BootInstant::now() && bundle.may_send(&injection) {
                let injection = Arc::new(injection);
                bundle.store_injection(injection.clone());
                return Ok(injection);
            }
        }
    }

    /// Counts up when secret values change.
    #[must_use]
    pub fn secret_generation(&self) -> u64 {
        self.runtime.secrets.generation()
    }

    /// Requests that wait for one of its tokens now.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.runtime.waiters()
    }
}

/// Token sets are found by the values of partitions: under other names they would be other ones.
fn digest_with_partitions(digest: [u8; 32], profile: &Profile) -> [u8; 32] {
    if profile.partition.is_empty() {
        digest
    } else {
        // Out: the header and its pattern, which say where a request's value is found; `max`, which
        // running ones are handed.
        let names = profile.partition.iter().map(
            |profile::model::PartitionSpec {
                 name,
                 header: _,
                 pattern: _,
                 max: _,
             }| name.as_bytes(),
        );
        sha256_of_parts([&digest[..]].into_iter().chain(names))
    }
}
