//! How one token of one credential is fetched: `Fetch` over a profile, its secrets and the sender.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use url::Url;
use zeroize::Zeroizing;

use super::{
    assertion::{self, AssertionDefaults},
    classify,
    client::TokenClient,
    guard_key,
    issued::{self, SendTime},
    request::{self, RequestError, TokenRequest},
    response::TokenResponse,
    scrubber::Scrubber,
};
use crate::{
    clock::BootInstant,
    lock::Lock,
    profile::{Profile, Scope, TokenSpec},
    secret::{Secret, SecretWatcher, Values},
    telemetry::Metrics,
    token::{
        Failure, FailureClass, FailureKind, Fetch, GuardKey, Issued, KeeperEvent, KeeperName,
        PreparedCall, Token,
    },
};

/// How one token of one credential (and partition) is fetched.
pub struct TokenCall {
    /// Whose token it is, for logs and metrics.
    pub name: KeeperName,
    /// What to send, and how to read the answer.
    pub profile: Arc<Profile>,
    /// Index into `profile.tokens`.
    pub index: usize,
    /// What is believed of them is asked for at each attempt.
    pub secrets: Arc<SecretWatcher>,
    /// Partition values by name.
    pub partition: Vec<(Arc<str>, String)>,
    /// What it trusts may change under a running keeper, too.
    pub client: Arc<arc_swap::ArcSwap<TokenClient>>,
    /// Where attempts are counted and logged.
    pub metrics: Metrics,
    /// What earlier calls have taught.
    pub history: CallHistory,
}

/// What earlier calls have taught.
#[derive(Default)]
pub struct CallHistory {
    /// The token got last and the one before it: a vendor that refuses the next may tell them back,
    /// and then they are scrubbed.
    tokens: Lock<[Option<Arc<Zeroizing<String>>>; 2]>,
    clock: Arc<VendorClock>,
}

/// How many seconds the vendor's clock is ahead of ours, where a refused assertion showed that they
/// differ; 0 until then.
#[derive(Default)]
struct VendorClock(AtomicI64);

impl VendorClock {
    /// The time by which assertions are dated when ours is `wall`.
    fn vendor_time(&self, wall: Duration) -> Duration {
        let ahead = self.0.load(Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 {
            wall.saturating_sub(by)
        } else {
            wall.saturating_add(by)
        }
    }

    /// It was `date` there when it was `wall` here.
    fn learn(&self, date: Duration, wall: Duration) {
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        self.0
            .store(seconds(date).saturating_sub(seconds(wall)), Relaxed);
    }

    /// A refused assertion that was dated by another clock than the vendor's, as its answer shows,
    /// says nothing of the secret: later ones are dated by the vendor's. `wall`: ours when the
    /// answer came.
    fn blame(&self, failure: Failure, response: &TokenResponse, wall: Duration) -> Failure {
        let dated = self.vendor_time(wall);
        let Some(date) = classify::skewed_date(response, dated)
            .filter(|_| matches!(failure.class, FailureClass::Rejected | FailureClass::Config))
        else {
            return failure;
        };
        self.learn(date, wall);
        Failure {
            class: FailureClass::Config,
            kind: FailureKind::ClockSkew {
                seconds: date.abs_diff(dated).as_secs(),
                behind: date > dated,
                refusal: Box::new(failure.kind),
            },
            client_refused: failure.class == FailureClass::Rejected,
            ..failure
        }
    }
}

impl CallHistory {
    fn learn(&self, token: &Arc<Zeroizing<String>>) {
        let mut held = self.tokens.lock();
        if held[0].as_ref() != Some(token) {
            *held = [Some(token.clone()), held[0].take()];
        }
    }

    fn add_to(&self, scrubber: &mut Scrubber) {
        let held = self.tokens.lock().clone();
        held.iter().flatten().for_each(|token| scrubber.add(token));
    }
}

impl Fetch for TokenCall {
    fn prepare<'a>(
        &'a self,
        parents: &'a [Arc<Token>],
    ) -> BoxFuture<'a, Result<Box<dyn PreparedCall>, Failure>> {
        Box::pin(async move {
            // Never a reading of its own: half of what somebody is writing would be a wrong
            // attempt.
            let values = self.secrets.values().await.map_err(unreadable_secret)?;
            let spec = self.profile.tokens.get(self.index).ok_or_else(|| {
                RequestError::new("no such token in the profile").to_failure(&Scrubber::default())
            })?;
            let mut scrubber = scrubber_for(&values, &self.profile, spec, parents);
            self.history.add_to(&mut scrubber);
            let rendered_at = BootInstant::now();
            let partition: Vec<(&str, &str)> = self
                .partition
                .iter()
                .map(|(name, value)| (&**name, value.as_str()))
                .collect();
            let vars = parents.iter().flat_map(|p| p.issued.vars.clone()).collect();
            let scope = Scope {
                settings: Some(&self.profile.settings),
                secrets: Some(&values),
                partition: &partition,
                vars: Some(&vars),
                wall: Some(rendered_at.wall()),
                ..Scope::default()
            };
            let rendered = self
                .render(spec, parents, scope)
                .map_err(|r| r.to_failure(&scrubber))?;
            // What a refusal of this attempt counts against.
            let key = match &rendered {
                RenderedAttempt::Call(request, _) => guard_key::attempt_key(
                    &self.profile,
                    spec,
                    &request.url,
                    &self.name.credential,
                    &scope,
                ),
                RenderedAttempt::Token(..) => None,
            };
            let attempt = Attempt {
                profile: self.profile.clone(),
                index: self.index,
                client: TokenClient::clone(&self.client.load()),
                scrubber,
                rendered,
                rendered_at,
                key,
                clock: self.history.clock.clone(),
            };
            Ok(Box::new(attempt) as Box<dyn PreparedCall>)
        })
    }

    fn report(&self, event: KeeperEvent<'_>) {
        if let KeeperEvent::Issued { token, .. } = &event {
            self.history.learn(&token.issued.value);
        }
        self.metrics.token_event(&self.name, &event);
    }
}

impl TokenCall {
    /// Renders and signs, once for an attempt: what cannot be made is found before one is spent on
    /// it. Pure but for the fresh `jti` and the vendor's clock, which dates what is signed.
    /// `scope`: all but the parents' tokens and the assertion.
    fn render(
        &self,
        spec: &TokenSpec,
        parents: &[Arc<Token>],
        scope: Scope<'_>,
    ) -> Result<RenderedAttempt, RequestError> {
        let wall = scope.wall.unwrap_or_default();
        let wall = if spec.assertion.is_some() {
            self.history.clock.vendor_time(wall)
        } else {
            wall
        };
        let names = spec
            .parents
            .iter()
            .filter_map(|i| self.profile.tokens.get(*i))
            .map(|t| &*t.name);
        let tokens: Vec<(&str, &str)> = names
            .zip(parents.iter().map(|p| p.issued.value.as_str()))
            .collect();
        let scope = Scope {
            tokens: &tokens,
            wall: Some(wall),
            ..scope
        };
        let url = request::render_token_url(spec, &scope)?;
        let defaults = AssertionDefaults {
            client_id: scope
                .secrets
                .and_then(|values| values.get("client_id"))
                .map(Secret::expose),
            audience: url.as_ref().map(Url::as_str),
        };
        let signed = spec
            .assertion
            .as_ref()
            .map(|a| assertion::sign_assertion(a, defaults, &scope, wall))
            .transpose()?;
        match (url, signed) {
            (Some(url), signed) => {
                let scope = Scope {
                    assertion: signed.as_ref().map(|s| s.as_str()),
                    ..scope
                };
                let request = request::build_request(spec, url, &scope)?;
                Ok(RenderedAttempt::Call(Box::new(request), signed))
            }
            (None, Some(token)) => match issued::token_fault(&token) {
                None => Ok(RenderedAttempt::Token(
                    token,
                    spec.assertion
                        .as_ref()
                        .map_or(Duration::ZERO, |a| a.lifetime),
                )),
                Some(why) => Err(RequestError::new(format!("the assertion {why}"))),
            },
            (None, None) => Err(RequestError::new(
                "a token without a url needs an assertion table",
            )),
        }
    }
}

/// One attempt, ready to be sent.
struct Attempt {
    profile: Arc<Profile>,
    index: usize,
    client: TokenClient,
    scrubber: Scrubber,
    rendered: RenderedAttempt,
    rendered_at: BootInstant,
    key: Option<GuardKey>,
    clock: Arc<VendorClock>,
}

/// What an attempt comes to.
enum RenderedAttempt {
    /// To be sent. With the assertion in it, if any.
    Call(Box<TokenRequest>, Option<Zeroizing<String>>),
    /// The assertion is itself the token; it lives that long.
    Token(Zeroizing<String>, Duration),
}

impl PreparedCall for Attempt {
    fn key(&self) -> Option<&GuardKey> {
        self.key.as_ref()
    }

    fn send(mut self: Box<Self>) -> BoxFuture<'static, Result<Issued, Failure>> {
        Box::pin(async move {
            let (request, assertion) = match self.rendered {
                RenderedAttempt::Call(request, assertion) => (request, assertion),
                RenderedAttempt::Token(token, life) => {
                    return Ok(Issued {
                        value: Arc::new(token),
                        sent: self.rendered_at,
                        life: Some(life),
                        implausible: false,
                        vars: BTreeMap::new(),
                    });
                }
            };
            if let Some(assertion) = &assertion {
                self.scrubber.add(assertion);
            }
            let profile = self.profile.clone();
            let spec = profile.tokens.get(self.index).ok_or_else(|| {
                RequestError::new("no such token in the profile").to_failure(&self.scrubber)
            })?;
            let sent = BootInstant::now();
            let wall = sent.wall();
            let response = self.client.send(*request, spec.timeout).await?;
            let read = issued::read_issued(
                &response,
                &spec.name,
                &spec.response,
                &profile.errors,
                SendTime { sent, wall },
                &mut self.scrubber,
            );
            read.map_err(|failure| {
                if assertion.is_some() {
                    self.clock
                        .blame(failure, &response, BootInstant::now().wall())
                } else {
                    failure
                }
            })
        })
    }
}

fn scrubber_for(
    values: &Values,
    profile: &Profile,
    spec: &TokenSpec,
    parents: &[Arc<Token>],
) -> Scrubber {
    let mut scrubber = Scrubber::default();
    // A public identifier is often a short word: taking it out would garble the vendor's reason.
    let secret = |name: &str| profile.secrets.get(name).is_none_or(|s| !s.public);
    for secret in values
        .0
        .iter()
        .filter(|(name, _)| secret(name))
        .map(|(_, value)| value)
    {
        scrubber.add(secret.expose());
    }
    for parent in parents {
        scrubber.add(&parent.issued.value);
    }
    for derived in (spec.client_auth.method().derived_secrets)(values) {
        scrubber.add(&derived);
    }
    scrubber
}

fn unreadable_secret(why: String) -> Failure {
    Failure::own(FailureClass::Unreadable, FailureKind::SecretUnreadable(why))
}

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
