//! cupbearer: a sidecar that calls vendor APIs with OAuth client-credentials tokens its callers
//! never see.
//!
//! This page is the map of the house. What is promised outside (command line, configuration, HTTP,
//! metrics) is on a page of its own: [`promises`].
//!
//! # The shape in six sentences
//! 1. **One task keeps one token** ([`token::Keeper`]): it is the only caller of [`token::Fetch`]
//!    and the only writer of its slot; everyone else reads the slot or raises a flag. Single
//!    flight, cancel safety and "a failed refresh changes nothing" follow from that.
//! 2. **Reading a token is an atomic load and a comparison** ([`credential::Credential::ready`]);
//!    no lock and no await while a request waits.
//! 3. **Time is an argument**: schedule and guard are pure, the clock is read in [`clock`]
//!    alone.
//! 4. **One snapshot, loaded once per request** ([`snapshot::Snapshot`]); a reload builds a whole
//!    new one beside it and swaps one pointer.
//! 5. **A vendor is data**: profiles are TOML ([`profile::catalogue`]), in the language a user
//!    writes. No vendor's name stands in Rust code.
//! 6. **pingora is a library here, not the main**: our own accept loop hands connections to it
//!    ([`listen`], [`proxy`]).
//!
//! # Map, leaves first
//! | room | what lives there | may touch |
//! |---|---|---|
//! | [`clock`] | moments that go on through a suspend; the one place that reads the clock | – |
//! | [`files`] | one consistent read of several, when a change counts, how ours are written | clock |
//! | [`problem`] | a mistake in the configuration, with key, file and hint | – |
//! | [`redact`] | what hides our tokens, secrets and variables in bytes that a vendor sends | – |
//! | [`secret`] | secrets: where from, what is believed of their files, unprintable | files |
//! | [`token`] | the engine: schedule, guard, slot, keeper, store | clock |
//! | [`state`] | the guard's memory on disk: outlives the process, shared by several | clock, token |
//! | [`tls`] | the `tls` table of one leg | files |
//! | [`route`] | which upstream a request is for | – |
//! | [`upstream`] | a vendor API as configuration says | route, tls |
//! | [`telemetry`] | metrics (the only room that knows prometheus) | clock, token |
//! | [`logging`] | the log subscriber | – |
//! | [`hardening`] | core files and foreign eyes kept off this process | – |
//! | [`profile`] | the profile language: merge, model, templates, catalogue | clock, secret, problem, token, tls |
//! | [`oauth`] | one token call: request, assertion, response, rules, client | clock, token, secret, profile, tls, telemetry |
//! | [`credential`] | the tokens of one credential, presented together | clock, files, token, oauth, profile, redact, secret, telemetry |
//! | [`config`] | what may be written, and what the program runs on | files, profile, route, upstream, secret, problem, tls, token |
//! | [`snapshot`] | one configuration at work | config, credential, oauth, route, upstream, tls, problem |
//! | [`reload`] | from new bytes to a new snapshot | config, credential, files, snapshot, problem, telemetry, clock |
//! | [`listen`] | sockets, accept loop, deadlines of request heads, framing of chunked bodies, drain | logging |
//! | [`proxy`] | a request's way through pingora | clock, files, snapshot, credential, config, upstream, route, token, telemetry, tls, listen, profile, redact, secret, logging |
//! | [`admin`] | metrics, health, status and its page, refresh, unlatch, reload | clock, snapshot, credential, config, files, problem, secret, token, telemetry, reload |
//! | [`app`], [`command`] | wiring, and the command line | all |
//!
//! # Journeys
//! **A request, token warm.** [`listen`] reads the head within its deadline → pingora → `proxy`:
//! the snapshot is loaded once, [`route::Router`] finds the upstream,
//! [`credential::Credential::ready`] gives a [`credential::Presented`] (header values already
//! built) → pingora connects → `send_until` is looked at again, what the client sent under our
//! names is stripped, ours is placed → the body streams → what the answer's head repeats of ours is
//! taken out → one line counts it.
//!
//! **A request, token cold.** [`credential::Credential::present`] waits on each keeper in graph
//! order with the request's own patience; the keeper makes one call whoever waits. While it is held
//! or backs off longer than the patience, the refusal is immediate.
//!
//! **A refresh.** The keeper sleeps until due (15 s at most, so that a suspend is noticed) →
//! `prepare` (parents' tokens handed in, the believed secrets) → the guard writes the attempt down
//! as spent → `send` (the assertion is signed here) → the answer is classified → the guard is
//! settled → the token is published, or the failure is noted and the old token lives on. With
//! `[state]` both are on disk before the next step; an attempt whose process was killed in between
//! counts as one with an unknown outcome.
//!
//! **A 401.** The challenge is judged → every presented generation is marked refused, parents
//! first; whether that causes a refresh is decided there and then, and where it does the generation
//! is sent to nobody until that has ended → one refresh for all → one replay with what is presented
//! now, or the vendor's 401 goes on unchanged. Where the request is not sent again nobody waits.
//!
//! **A reload.** Bytes are polled, or SIGHUP → parse, collecting every problem → a new snapshot is
//! built; unchanged credentials find their running keepers in the [`token::Store`] → one pointer is
//! swapped → limits, secrets and trusted roots are handed to running keepers.
//!
//! **A shutdown.** SIGTERM → `/readyz` says 503 → linger → listeners close, idle connections at
//! once → open requests finish within the drain → running token calls are awaited → exit 0.
//!
//! # A panic
//! It is caught where its work began: a request's task ends with its connection, a token call
//! counts as one that failed (`keeper/attempt.rs`; its permit, dropped, is an attempt with an
//! unknown outcome), and `panics_total` counts it with its place in the log, never its message. The
//! process goes on, because its other credentials and open requests are sound: no lock is held
//! across a panic that could leave half of something behind (slots are written whole, poisoned
//! locks are taken as they are), and a process that ended would forget guard counters without
//! `[state]` and make every vendor see a token call at once.
//!
//! # Invariants (each has a test that names it)
//! * An expired token is never sent; one that is known to be refused is sent to nobody while its
//!   refresh runs (`keeper/tests/barred.rs`). A token never leaves for another origin. A
//!   credential's header from the client never reaches a vendor.
//! * No secret and no token in any log line at any level, metric, status answer or error body.
//! * N concurrent requests for one cold token make one call. A refused secret is tried at most
//!   `max_rejections` times per value and hold; with `[state]` also across SIGKILL and between
//!   processes of one host.
//! * No failure class retries without waiting.
//! * A bad configuration file never changes what runs. A request sees one snapshot.
//! * Parsers are total: arbitrary bytes give a value or an error, never a panic.

#![forbid(unsafe_code)]

#[doc = include_str!("promises.md")]
pub mod promises {}

pub mod clock;
pub mod files;
pub mod problem;
pub mod redact;
pub mod secret;
pub mod token;

pub mod state;

pub mod route;
pub mod tls;
pub mod upstream;

pub mod hardening;
pub mod logging;
pub mod telemetry;

pub mod profile;

pub mod oauth;

pub mod credential;

pub mod config;

pub mod snapshot;

pub mod reload;

pub mod listen;
pub mod proxy;

pub mod admin;

pub mod app;
pub mod command;
