//! cupbearer: a sidecar that calls vendor APIs with OAuth client-credentials tokens its callers
//! never see.
//!
//! This page is the map of the house. What is promised outside (command line, configuration, HTTP,
//! metrics) is on a page of its own: [`promises`].
//!
//! # The shape in six sentences
//! 1. **One task keeps one token** ([`token::Keeper`]): it alone calls [`token::Fetch`], and it alone
//!    puts a token into its slot. Everyone else reads the slot, raises a flag in it, or says there
//!    what an API answered. Single flight, cancel safety and "a failed refresh changes nothing"
//!    follow from that.
//! 2. **Reading a token is a few atomic loads and comparisons** ([`credential::Credential::ready_injection`]):
//!    one for what was rendered last, one for each of its tokens; no lock and no await.
//! 3. **Time is an argument**: schedule and guard are pure. Whatever decides over a token reads the
//!    clock in [`clock`] alone; the linter names the few others, and why each may.
//! 4. **One snapshot, loaded once when a request's head has been read** ([`snapshot::Snapshot`]); a
//!    reload builds a whole new one beside it and swaps one pointer.
//! 5. **A vendor is data**: profiles are TOML ([`profile::catalogue`]), in the language a user
//!    writes. No vendor's name stands in Rust code, but for the list of these files and the demo.
//! 6. **pingora is a library here, not the main**: our own accept loop hands connections to it
//!    ([`listen`], [`proxy`]).
//!
//! # Map, leaves first
//! | room | what lives there | may touch |
//! |---|---|---|
//! | [`hash`] | digests, and bytes in hexadecimal | – |
//! | [`lock`] | a lock whose holder may have panicked | – |
//! | [`net`] | hosts and authorities: one spelling, and which of them are this host | – |
//! | [`clock`] | moments that go on through a suspend; the one place that reads the clock | – |
//! | [`phase`] | how far this process is on its way out | – |
//! | [`files`] | one consistent read of several, when a change counts, how ours are written | clock, hash, lock |
//! | [`document`] | what people write: TOML and the environment, read against a type's schema, every mistake at its key | hash, lock |
//! | [`redact`] | what hides our tokens, secrets and variables in bytes that a vendor sends | hash |
//! | [`secret`] | secrets: where from, what is believed of their files, unprintable | files, hash, lock |
//! | [`token`] | the engine: data, schedule, guard, slot, keeper, store | clock, lock, hash, tls |
//! | [`state`] | the guard's memory on disk: outlives the process, shared by several | clock, token, lock, hash |
//! | [`client_auth`] | how a client shows who it is: each method whole, in a file of its own | secret |
//! | [`tls`] | the `tls` table of one leg | files |
//! | [`route`] | which upstream a request is for | hash, net |
//! | [`upstream`] | a vendor API as configuration says | document, route, tls |
//! | [`telemetry`] | metrics (the only room that knows prometheus) | clock, token, lock |
//! | [`logging`] | the log subscriber | lock |
//! | [`hardening`] | core files and foreign eyes kept off this process | – |
//! | [`systemd`] | what the service manager is told: ready, reloading, stopping, alive | – |
//! | [`profile`] | the profile language: layers, one file a table, model, templates, catalogue | clock, secret, document, token, tls, hash, net, client_auth, lock |
//! | [`oauth`] | one token call: request, assertion, client, response, what it means | clock, token, secret, profile, tls, telemetry, hash, lock, net, client_auth |
//! | [`credential`] | the tokens of one credential, presented together | clock, files, token, oauth, profile, redact, secret, telemetry, hash, lock |
//! | [`config`] | what may be written, and what the program runs on | profile, route, upstream, secret, document, tls, token, net, hash |
//! | [`snapshot`] | one configuration at work | config, credential, oauth, route, upstream, tls, document |
//! | [`reload`] | from new bytes to a new snapshot | config, credential, files, snapshot, document, telemetry, clock, lock |
//! | [`listen`] | sockets, accept loop, deadlines of request heads, framing of chunked bodies, drain | logging, lock, phase |
//! | [`proxy`] | a request's way through pingora | clock, files, snapshot, credential, config, upstream, route, token, telemetry, tls, listen, profile, redact, secret, logging, lock, net |
//! | [`admin`] | metrics, health, status and its page, refresh, unlatch, reload | clock, snapshot, credential, config, files, document, secret, token, telemetry, reload, phase, lock, net |
//! | [`app`], [`cli`] | wiring, and the command line | all |
//!
//! # Where is it decided?
//! The behaviour, and the file to open. Its tests lie beside it, or `tests/README.md` names them.
//!
//! | requests | file |
//! |---|---|
//! | sockets: which addresses, IPv6, who may use a Unix socket | `src/listen/bind.rs` |
//! | three quarters of the open files for clients | `src/listen/descriptors.rs` |
//! | accepting, linger and drain of connections | `src/listen/mod.rs` |
//! | who makes room where all seats are taken | `src/listen/seats.rs` |
//! | HTTP/1 or HTTP/2; deadline of a head; idle | `src/listen/connection.rs` |
//! | 8 MiB for the unfinished heads of all connections | `src/listen/unfinished.rs` |
//! | chunked request bodies to the letter | `src/listen/chunks.rs` |
//! | floods of HTTP/2 frames | `src/listen/watched.rs` |
//! | a client that leaves is noticed | `src/listen/client.rs` |
//! | one reading of an HTTP/1 head, or a refusal | `src/proxy/head.rs` |
//! | the order of the checks | `src/proxy/enter.rs` |
//! | what web pages may not do; TRACE; Via; CONNECT's answer | `src/proxy/admit.rs` |
//! | `client_auth` of callers | `src/proxy/auth.rs` |
//! | which upstream, by host, path or absolute form | `src/route/mod.rs` |
//! | paths that are safe to send | `src/route/path.rs` |
//! | one spelling of hosts, and which are this one | `src/net.rs` |
//! | places at an upstream: `pool.requests`, half of what is left | `src/proxy/places.rs` |
//! | a token for a request: waited for, renewed after a 401 | `src/proxy/access.rs` |
//! | is this 401 about the token? what a challenge says | `src/proxy/challenge.rs` |
//! | 240 bytes a second of body at least | `src/proxy/pace.rs` |
//! | what is removed from a request, and put on it | `src/proxy/inject.rs` |
//! | names to addresses | `src/proxy/resolve.rs` |
//! | connections: timeouts, TLS, what they may be used again for | `src/proxy/peer.rs` |
//! | HTTP/1.1 for a while, where an upstream's HTTP/2 broke | `src/proxy/downgrade.rs` |
//! | a body is written once, whole | `src/proxy/outgoing.rs` |
//! | when a request is sent once more | `src/proxy/filter.rs` |
//! | answers: hop-by-hop fields, framing, interim answers, gRPC | `src/proxy/answer.rs` |
//! | what a vendor repeats of ours is `***` | `src/proxy/echo.rs` |
//! | in which spellings that is found | `src/redact/mod.rs` |
//! | Location and the like: rewritten, or taken out | `src/proxy/location/mod.rs` |
//! | refusals: code, status, title, problem document | `src/proxy/reply.rs` |
//! | which refusal follows from a failed connection or answer | `src/proxy/failure.rs` |
//! | `POST /.cupbearer/token/NAME` | `src/proxy/vend.rs` |
//!
//! | tokens | file |
//! |---|---|
//! | when a token is renewed, and until when it is sent | `src/token/schedule.rs` |
//! | the loop of a keeper: due, asked for, resting | `src/token/keeper/step.rs` |
//! | one attempt, from secrets to the published token | `src/token/keeper/attempt.rs` |
//! | how long after a failure | `src/token/keeper/backoff.rs` |
//! | who waits, how long, and what they hear | `src/token/keeper/waiters.rs` |
//! | which 401s cause a refresh; who may send meanwhile | `src/token/renewal.rs` |
//! | the current token: one load and one comparison | `src/token/slot.rs` |
//! | unchanged credentials find their keepers after a reload | `src/token/store.rs` |
//! | suspend and wall clock | `src/clock.rs` |
//! | refusals of a secret: pause, latch, hold | `src/token/guard/count.rs` |
//! | `account_rejections`, and the pace of changed secrets | `src/token/guard/account.rs` |
//! | `guard.rate` | `src/token/guard/budget.rs` |
//! | an unlatch is one attempt | `src/token/guard/leave.rs` |
//! | partitions and sharers of a secret's count | `src/token/guard/record.rs` |
//! | what an attempt counts against | `src/oauth/guard_key.rs` |
//! | what a token request looks like | `src/oauth/request.rs` |
//! | how a client shows who it is, a file for each method | `src/client_auth/mod.rs` |
//! | signed assertions | `src/oauth/assertion.rs` |
//! | connecting to token endpoints, timeouts, no redirects | `src/oauth/client.rs` |
//! | classes of answers, Retry-After | `src/oauth/classify.rs` |
//! | what failed, and the words for it | `src/token/failure.rs` |
//! | the token and its life out of an answer | `src/oauth/issued.rs` |
//! | what of a vendor's words may be shown | `src/oauth/scrubber.rs` |
//! | what a token set puts on a request | `src/credential/injection.rs` |
//! | what of a credential outlives a reload | `src/credential/runtime.rs` |
//! | refreshes by hand: 6 a minute, 30 an hour | `src/credential/manual_refresh.rs` |
//! | secrets that changed: rendered anew, keepers woken | `src/credential/secret_watch.rs` |
//!
//! | configuration | file |
//! |---|---|
//! | which keys there are, their defaults and bounds | `src/config/file.rs` |
//! | which keys a profile has | `src/profile/file.rs` |
//! | every mistake at once, each at its key | `src/document/read.rs` |
//! | hints: the nearest known key, what would be right | `src/document/schema.rs` |
//! | the environment over the file | `src/document/layers.rs` |
//! | durations | `src/document/duration.rs` |
//! | references to secrets, as they are written | `src/document/secret_ref.rs` |
//! | what keys mean together | `src/config/parse.rs` |
//! | `[upstreams]`, defaults, own listeners refused | `src/config/upstream.rs` |
//! | lints | `src/config/lint.rs` |
//! | `extends`, `drop`, overrides | `src/profile/layers.rs` |
//! | templates: syntax | `src/profile/template/syntax.rs` |
//! | templates: filters | `src/profile/filters.rs` |
//! | templates: what they may name | `src/profile/names.rs` |
//! | templates: tried at load | `src/profile/dry_run.rs` |
//! | token requests of a profile, client authentication | `src/profile/token.rs` |
//! | where a token stands in an answer | `src/profile/response.rs` |
//! | `errors` rules | `src/profile/errors.rs` |
//! | chains of tokens | `src/profile/graph.rs` |
//! | built-in vendors | `src/profile/catalogue.rs` |
//! | where secrets come from; white space | `src/secret/mod.rs` |
//! | which values are believed | `src/secret/watch.rs` |
//! | when a changed file counts | `src/files/settle.rs` |
//! | files that requests look at: one looks, nobody waits long | `src/files/value.rs` |
//! | one consistent read of several files | `src/files/read.rs` |
//! | reloads, polled and by hand | `src/reload.rs` |
//! | what only a restart brings into effect | `src/reload/start_settings.rs` |
//! | trust, client certificates, `ca_file` | `src/tls.rs` |
//! | what is wrong with a certificate, in words | `src/tls/flaw.rs` |
//!
//! | operating | file |
//! |---|---|
//! | `/readyz` | `src/admin/health.rs` |
//! | `/api/status` | `src/admin/status.rs` |
//! | who may ask the admin port: Host, Origin | `src/admin/guardrail.rs` |
//! | who may ask the admin port: `auth`, `uids` | `src/admin/auth.rs` |
//! | seats and patience of the admin port | `src/admin/seats.rs`, `src/admin/stream.rs` |
//! | the status page | `src/admin/page/render.rs` |
//! | metrics: names, help, labels | `src/telemetry.rs` |
//! | metrics: what is read at the moment of a scrape | `src/admin/exposition.rs` |
//! | repeated lines once a minute | `src/telemetry/repeats.rs` |
//! | log levels, lost lines | `src/logging.rs` |
//! | how a line of text looks | `src/logging/text.rs` |
//! | the guard's files: written, torn, another release's | `src/state/file.rs` |
//! | the guard's folder: owner, lock, full disk | `src/state/folder.rs` |
//! | names of secrets in that folder | `src/state/fingerprint.rs` |
//! | SIGTERM, SIGHUP, the ready line and file | `src/cli/run.rs` |
//! | systemd | `src/systemd.rs` |
//! | order of start and stop | `src/app.rs` |
//! | how far the process is on its way out | `src/phase.rs` |
//! | how far the stop is: lingering, draining | `src/phase.rs` |
//! | core files and debuggers | `src/hardening.rs` |
//! | exit status, arguments | `src/cli/mod.rs` |
//! | `check --live` | `src/cli/check/live.rs` |
//! | where it counts refusals | `src/cli/check/guard_memory.rs` |
//! | what a failed answer means for the configuration | `src/cli/check/explain.rs` |
//!
//! # Journeys
//! **A request, token warm.** [`listen`] reads the head within its deadline → pingora → `proxy`:
//! the snapshot is loaded once, [`route::Router`] finds the upstream,
//! [`credential::Credential::ready_injection`] gives a [`credential::Injection`] (header values already
//! built) → pingora connects → `send_until` is looked at again, what the client sent under our
//! names is stripped, ours is placed → the body streams → what the answer's head repeats of ours is
//! taken out → one line counts it.
//!
//! **A request, token cold.** [`credential::Credential::wait_for_injection`] waits on each keeper in graph
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
//! **A 401.** The profile's rules judge it, else its challenge → every presented generation is marked refused, parents
//! first; whether that causes a refresh is decided there and then, and where it does the generation
//! is sent to nobody until that has ended → one refresh for all → one replay with what is presented
//! now, or the vendor's 401 goes on unchanged. Where the request is not sent again nobody waits.
//!
//! **A reload.** Bytes are polled, or SIGHUP → parse, collecting every problem → a new snapshot is
//! built; unchanged credentials find their running keepers in the [`token::Store`] → one pointer is
//! swapped → limits, secrets and trusted roots are handed to running keepers.
//!
//! **A shutdown.** SIGTERM → [`phase`] moves on, and each watches it: `/readyz` says 503 → linger → listeners close, idle connections at
//! once → open requests finish within the drain → running token calls are awaited → exit 0.
//!
//! # A panic
//! It is caught where its work began: a request's task ends, and its client's connection with it; a
//! token call counts as one that failed (`src/token/keeper/attempt.rs`; its permit, dropped, is an
//! attempt with an unknown outcome). `panics_total` counts it, with its place in the log, never its
//! message. The process goes on, because its other credentials and open requests are sound: no lock is held
//! across a panic that could leave half of something behind (slots are written whole, poisoned
//! locks are taken as they are), and a process that ended would forget guard counters without
//! `[state]` and make every vendor see a token call at once.
//!
//! # Invariants (each has a test that names it)
//! * An expired token is never sent; one that is known to be refused is sent to nobody while its
//!   refresh runs (`src/token/keeper/tests/barred.rs`). A token never leaves for another origin. A
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
pub mod document;
pub mod files;
pub mod hash;
pub mod lock;
pub mod net;
pub mod phase;
pub mod redact;
pub mod secret;
pub mod token;

pub mod state;

pub mod route;
pub mod tls;
pub mod upstream;

pub mod hardening;
pub mod logging;
pub mod systemd;
pub mod telemetry;

pub mod client_auth;
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
pub mod cli;
