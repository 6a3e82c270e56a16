//! How one token of one credential is fetched: `Fetch` over a profile, its secrets and the sender.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use url::Url;
use zeroize::Zeroizing;

use super::{
    assertion::{self, Usual},
    client::TokenClient,
    key,
    pick::Answer,
    request::{self, Refused, Request},
    response::{self, Moment},
    rules,
    scrub::Scrub,
};
use crate::{
    profile::{Profile, Scope, TokenSpec, model::ClientAuth},
    secret::{Secret, Values, Watcher},
    telemetry::Metrics,
    token::{
        Class, Event, Failure, Fetch, Fut, GuardKey, Issued, KeeperName, Now, Prepared, Token,
    },
};

/// How one token of one credential (and partition) is fetched.
pub struct TokenCall {
    pub name: KeeperName,
    pub profile: Arc<Profile>,
    /// Index into `profile.tokens`.
    pub index: usize,
    /// What is believed of them is asked for at each attempt.
    pub secrets: Arc<Watcher>,
    /// Partition values by name.
    pub partition: Vec<(Arc<str>, String)>,
    /// What it trusts may change under a running keeper, too.
    pub client: Arc<arc_swap::ArcSwap<TokenClient>>,
    pub metrics: Metrics,
    pub known: Known,
}

/// What earlier calls have taught.
#[derive(Default)]
pub struct Known {
    /// The token got last and the one before it: a vendor that refuses the next may tell them back,
    /// and then they are scrubbed.
    tokens: Mutex<[Option<Arc<Zeroizing<String>>>; 2]>,
    clock: Arc<VendorClock>,
}

/// How many seconds the vendor's clock is ahead of ours, where a refused assertion showed that they
/// differ; 0 until then.
#[derive(Default)]
struct VendorClock(AtomicI64);

impl VendorClock {
    /// The time by which assertions are dated when ours is `wall`.
    fn time(&self, wall: Duration) -> Duration {
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
}

impl Known {
    fn learn(&self, token: &Arc<Zeroizing<String>>) {
        let mut held = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if held[0].as_ref() != Some(token) {
            *held = [Some(token.clone()), held[0].take()];
        }
    }

    fn add_to(&self, scrub: &mut Scrub) {
        let held = self
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        held.iter().flatten().for_each(|token| scrub.add(token));
    }
}

impl Fetch for TokenCall {
    fn prepare<'a>(
        &'a self,
        parents: &'a [Arc<Token>],
    ) -> Fut<'a, Result<Box<dyn Prepared>, Failure>> {
        Box::pin(async move {
            // Never a reading of its own: half of what somebody is writing would be a wrong
            // attempt.
            let values = self.secrets.values().await.map_err(unread)?;
            let spec = self.profile.tokens.get(self.index).ok_or_else(|| {
                Refused::new("no such token in the profile").failure(&Scrub::default())
            })?;
            let mut scrub = scrub(&values, &self.profile, spec, parents);
            self.known.add_to(&mut scrub);
            let mut attempt = Attempt {
                profile: self.profile.clone(),
                index: self.index,
                partition: self.partition.clone(),
                client: TokenClient::clone(&self.client.load()),
                scrub,
                vars: parents.iter().flat_map(|p| p.issued.vars.clone()).collect(),
                parents: self.named(spec, parents),
                values: Values::clone(&values),
                key: None,
                clock: self.known.clock.clone(),
            };
            // A trial run: what cannot be made is found before an attempt is spent on it.
            let trial = attempt
                .make(Now::now().wall())
                .map_err(|r| r.failure(&attempt.scrub))?;
            attempt.key = trial
                .url()
                .and_then(|url| attempt.key(spec, url, &self.name.credential));
            Ok(Box::new(attempt) as Box<dyn Prepared>)
        })
    }

    fn note(&self, event: Event<'_>) {
        if let Event::Issued { token, .. } = &event {
            self.known.learn(&token.issued.value);
        }
        self.metrics.token_event(&self.name, &event);
    }
}

impl TokenCall {
    /// The parents' tokens with their names.
    fn named(
        &self,
        spec: &TokenSpec,
        parents: &[Arc<Token>],
    ) -> Vec<(Arc<str>, Arc<Zeroizing<String>>)> {
        let names = spec
            .parents
            .iter()
            .filter_map(|i| self.profile.tokens.get(*i))
            .map(|t| t.name.clone());
        names
            .zip(parents.iter().map(|p| p.issued.value.clone()))
            .collect()
    }
}

/// One attempt: everything it is made of, read at one moment.
struct Attempt {
    profile: Arc<Profile>,
    index: usize,
    partition: Vec<(Arc<str>, String)>,
    client: TokenClient,
    scrub: Scrub,
    vars: BTreeMap<String, String>,
    parents: Vec<(Arc<str>, Arc<Zeroizing<String>>)>,
    values: Values,
    key: Option<GuardKey>,
    clock: Arc<VendorClock>,
}

/// What an attempt comes to.
enum Made {
    /// To be sent. With the assertion in it, if any.
    Call(Box<Request>, Option<Zeroizing<String>>),
    /// The assertion is itself the token; it lives that long.
    Token(Zeroizing<String>, Duration),
}

impl Made {
    fn url(&self) -> Option<&Url> {
        match self {
            Self::Call(request, _) => Some(&request.url),
            Self::Token(..) => None,
        }
    }
}

impl Attempt {
    fn spec(&self) -> Result<&TokenSpec, Refused> {
        self.profile
            .tokens
            .get(self.index)
            .ok_or_else(|| Refused::new("no such token in the profile"))
    }

    /// What a refusal of this attempt counts against.
    fn key(&self, spec: &TokenSpec, url: &Url, credential: &str) -> Option<GuardKey> {
        let partition: Vec<(&str, &str)> = self
            .partition
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
            .collect();
        let scope = Scope {
            settings: Some(&self.profile.settings),
            secrets: Some(&self.values),
            partition: &partition,
            vars: Some(&self.vars),
            wall: Some(Now::now().wall()),
            ..Scope::default()
        };
        key::key(&self.profile, spec, url, credential, &scope)
    }

    /// Renders and signs. Pure but for the fresh `jti` and the vendor's clock, which dates what is
    /// signed.
    fn make(&self, wall: Duration) -> Result<Made, Refused> {
        let spec = self.spec()?;
        let wall = if spec.assertion.is_some() {
            self.clock.time(wall)
        } else {
            wall
        };
        let tokens: Vec<(&str, &str)> = self
            .parents
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
            .collect();
        let partition: Vec<(&str, &str)> = self
            .partition
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
            .collect();
        let scope = Scope {
            settings: Some(&self.profile.settings),
            secrets: Some(&self.values),
            tokens: &tokens,
            partition: &partition,
            vars: Some(&self.vars),
            wall: Some(wall),
            assertion: None,
        };
        let url = request::address(spec, &scope)?;
        let audience = url.as_ref().map(Url::as_str);
        let usual = Usual {
            client_id: self.values.get("client_id").map(Secret::expose),
            audience,
        };
        let signed = spec
            .assertion
            .as_ref()
            .map(|a| assertion::sign(a, usual, &scope, wall))
            .transpose()?;
        match (url, signed) {
            (Some(url), signed) => {
                let scope = Scope {
                    assertion: signed.as_ref().map(|s| s.as_str()),
                    ..scope
                };
                let request = request::build(spec, url, &scope)?;
                Ok(Made::Call(Box::new(request), signed))
            }
            (None, Some(token)) => match response::unusable(&token) {
                None => Ok(Made::Token(
                    token,
                    spec.assertion
                        .as_ref()
                        .map_or(Duration::ZERO, |a| a.lifetime),
                )),
                Some(why) => Err(Refused::new(format!("the assertion {why}"))),
            },
            (None, None) => Err(Refused::new(
                "a token without a url needs an assertion table",
            )),
        }
    }
}

impl Prepared for Attempt {
    fn key(&self) -> Option<&GuardKey> {
        self.key.as_ref()
    }

    fn send(mut self: Box<Self>) -> Fut<'static, Result<Issued, Failure>> {
        Box::pin(async move {
            let sent = Now::now();
            let wall = sent.wall();
            let (request, assertion) = match self.make(wall).map_err(|r| r.failure(&self.scrub))? {
                Made::Call(request, assertion) => (request, assertion),
                Made::Token(token, life) => {
                    return Ok(Issued {
                        value: Arc::new(token),
                        sent,
                        life: Some(life),
                        implausible: false,
                        vars: BTreeMap::new(),
                    });
                }
            };
            if let Some(assertion) = &assertion {
                self.scrub.add(assertion);
            }
            let profile = self.profile.clone();
            let spec = profile
                .tokens
                .get(self.index)
                .ok_or_else(|| Refused::new("no such token in the profile").failure(&self.scrub))?;
            let answer = self.client.send(*request, spec.timeout).await?;
            let read = response::read(
                &answer,
                &spec.name,
                &spec.response,
                &profile.errors,
                Moment { sent, wall },
                &mut self.scrub,
            );
            read.map_err(|failure| {
                if assertion.is_some() {
                    self.blame_clock(failure, &answer, Now::now().wall())
                } else {
                    failure
                }
            })
        })
    }
}

impl Attempt {
    /// A refused assertion that was dated by another clock than the vendor's, as its answer shows,
    /// says nothing of the secret: later ones are dated by the vendor's. `wall`: ours when the
    /// answer came.
    fn blame_clock(&self, failure: Failure, answer: &Answer, wall: Duration) -> Failure {
        let dated = self.clock.time(wall);
        let Some(date) = rules::other_time(answer, dated)
            .filter(|_| matches!(failure.class, Class::Rejected | Class::Config))
        else {
            return failure;
        };
        self.clock.learn(date, wall);
        let (seconds, how) = (
            date.abs_diff(dated).as_secs(),
            if date > dated { "behind" } else { "ahead of" },
        );
        let error = format!(
            "{}; the clock that dated the assertion is {seconds} s {how} the vendor's, so it was refused for its date, as it seems: the next is \
             dated by the vendor's clock",
            failure.error
        );
        Failure {
            class: Class::Config,
            client_refused: failure.class == Class::Rejected,
            error,
            ..failure
        }
    }
}

fn scrub(values: &Values, profile: &Profile, spec: &TokenSpec, parents: &[Arc<Token>]) -> Scrub {
    let mut scrub = Scrub::default();
    // A public identifier is often a short word: taking it out would garble the vendor's reason.
    let secret = |name: &str| profile.secrets.get(name).is_none_or(|s| !s.public);
    for secret in values
        .0
        .iter()
        .filter(|(name, _)| secret(name))
        .map(|(_, value)| value)
    {
        scrub.add(secret.expose());
    }
    for parent in parents {
        scrub.add(&parent.issued.value);
    }
    if matches!(spec.client_auth, ClientAuth::Basic | ClientAuth::BasicRaw) {
        let half = |name| values.get(name).map_or("", |s| s.expose());
        let form =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (id, secret) = (half("client_id"), half("client_secret"));
        scrub.add(&format!("{id}:{secret}"));
        scrub.add(&format!("{}:{}", form(id), form(secret)));
    }
    scrub
}

fn unread(error: String) -> Failure {
    Failure {
        class: Class::Unreadable,
        status: None,
        error,
        wait: None,
        client_refused: false,
        timed_out: false,
    }
}

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
