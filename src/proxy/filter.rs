//! `ProxyHttp`: pingora's phases. What they decide stands in the files beside this one.

use std::{os::fd::RawFd, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Version, header};
use pingora_core::{protocols::Digest, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    Proxy,
    access::{self, Stop, Verdict},
    answer,
    chosen::{Access, Ctx, Flight, Replay, Speaks},
    echo, failure,
    front::TRIES,
    inject, location,
    outgoing::Outgoing,
    pace::Pace,
    peer,
    reply::{Cause, Reply},
    resolve::DnsError,
    trace::TraceId,
};
use crate::{clock::BootInstant, logging::OncePerMinute};

/// The one error upon which a request that was written is written again.
const REPLAY: ErrorType = ErrorType::Custom("the token was refused and is renewed");
/// Of one name so many addresses are tried.
const ADDRESSES: usize = 4;
/// What is left of a request body after its answer is read for so long, to keep the connection.
const DRAIN: Duration = Duration::from_secs(5);

impl Proxy {
    /// Answers, counts and logs one refusal.
    async fn refuse(&self, session: &mut Session, ctx: &mut Ctx, mut reply: Reply) -> Result<()> {
        self.count(ctx, &mut reply);
        ctx.status = reply.cause.status().as_u16();
        answer::refuse(session, &reply).await
    }

    fn count(&self, ctx: &mut Ctx, reply: &mut Reply) {
        reply.upstream = reply
            .upstream
            .take()
            .or_else(|| ctx.flight.as_ref().map(|f| f.name().clone()));
        ctx.code = Some(reply.cause.code());
        self.metrics.request_refused(&reply.told(ctx.trace_id()));
    }

    /// The addresses to try, looked up once for each request.
    async fn addresses(
        &self,
        ctx: &mut Ctx,
        chosen_host: (&str, u16),
        patience: Duration,
    ) -> Result<Arc<[std::net::SocketAddr]>> {
        if let Some(known) = &ctx.addresses {
            return Ok(known.clone());
        }
        match self
            .resolver
            .addresses(chosen_host.0, chosen_host.1, patience)
            .await
        {
            Ok(found) => {
                ctx.addresses = Some(found.clone());
                Ok(found)
            }
            Err(e) => {
                self.metrics.upstream_connect(ctx.upstream(), "dns");
                let cause = if e == DnsError::Timeout {
                    Cause::DnsTimeout
                } else {
                    Cause::Dns
                };
                ctx.refusal = Some(Reply::new(cause, format!("{}: {e}", chosen_host.0)));
                Err(Error::new_up(ErrorType::ConnectError))
            }
        }
    }
}

#[expect(
    clippy::unnecessary_box_returns,
    reason = "pingora's errors are boxed everywhere"
)]
fn unsent() -> Box<Error> {
    Error::new_in(ErrorType::InternalError)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.snapshot.load_full(), self.places.begin())
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {
        // None: what the vendor sends goes on as it is.
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let idle = ctx.snapshot.config.proxy.limits.idle;
        let sized = session
            .req_header()
            .headers
            .contains_key(header::CONTENT_LENGTH);
        ctx.pace = sized.then(|| Pace::begin(idle, ctx.started));
        session.set_read_timeout(Some(ctx.pace.map_or(idle, |p| p.left())));
        session.set_write_timeout(Some(idle));
        session.set_total_drain_timeout(Some(DRAIN));
        // RFC 9110 15.2: HTTP/1.0 knows no 1xx.
        ctx.trace = TraceId::of(&session.req_header().headers);
        let old = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(old);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        match self.admit(session, ctx).await {
            Ok(answered) => Ok(answered),
            Err(Stop::Gone) => Err(Error::new_down(ErrorType::ConnectionClosed)),
            Err(Stop::Refuse(reply)) => {
                // Who left meanwhile is no failure of a vendor's.
                self.refuse(session, ctx, *reply)
                    .await
                    .map_err(Error::into_down)?;
                Ok(true)
            }
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if let Some(pace) = &mut ctx.pace {
            let patience = pace.arrived(body.as_ref().map_or(0, Bytes::len), BootInstant::now());
            // pingora has no such timeout for HTTP/2.
            if pace.is_spent() && !end && session.is_http2() {
                return Err(Error::new_down(ErrorType::ReadTimedout));
            }
            session.set_read_timeout(Some(patience));
        }
        // Behind a 101 the bytes are another protocol's.
        if session.was_upgraded() {
            return Ok(());
        }
        ctx.outgoing
            .pass(body, end)
            .map_err(|odd| Error::because(ErrorType::InternalError, "a request's body", odd))
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        ctx.tries += 1;
        let upstream = ctx
            .chosen
            .as_ref()
            .map(|c| c.upstream.clone())
            .ok_or_else(unsent)?;
        if ctx.place.is_none() {
            let place = access::while_there(session, self.places.take(&upstream)).await;
            ctx.place = place.ok_or_else(|| Error::new_down(ErrorType::ConnectionClosed))?;
            if ctx.place.is_none() {
                ctx.refusal = Some(Reply::new(
                    Cause::Overloaded,
                    "no place became free within timeouts.connect (pool.requests)",
                ));
                return Err(unsent());
            }
        }
        let host = (upstream.target.host.as_str(), upstream.target.port);
        let addresses = self.addresses(ctx, host, upstream.timeouts.connect).await?;
        let identity = match self.trust.identity(&upstream.tls).await {
            Ok(identity) => identity,
            Err(why) => {
                static UNUSABLE: OncePerMinute = OncePerMinute::new();
                if let Some(times) = UNUSABLE.note() {
                    tracing::warn!(upstream = %upstream.name, %why, trace_id = ctx.trace_id(), times, "tls files cannot be used; told once a minute");
                }
                ctx.refusal = Some(Reply::new(
                    Cause::UpstreamTls,
                    "the files of this upstream's tls table cannot be used; see the log",
                ));
                return Err(Error::new_up(ErrorType::InvalidCert));
            }
        };
        let address = *addresses
            .get(ctx.address)
            .or(addresses.first())
            .ok_or_else(unsent)?;
        let mut peer = peer::peer(&upstream, address, &identity, ctx.speaks);
        peer.group_key = peer
            .group_key
            .wrapping_add(self.downgrades.era(&upstream.name));
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if !reused {
            self.metrics.upstream_connect(ctx.upstream(), "ok");
        }
        Ok(())
    }

    /// Nothing was written yet, so another address may be tried.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let outcome = failure::connect_outcome(&e);
        // Nothing was sent or read yet: this tells of addresses, names and certificates only.
        self.metrics
            .connect_failed(ctx.upstream(), outcome, &e.to_string(), ctx.trace_id());
        let known = ctx.addresses.as_ref().map_or(0, |a| a.len()).min(ADDRESSES);
        let more = ctx.address + 1 < known && outcome != "tls" && ctx.tries < TRIES;
        ctx.address += usize::from(more);
        e.set_retry(more);
        e
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let empty = session.as_mut().is_body_empty();
        inject::announce_no_content(request, session.req_header(), empty)?;
        ctx.outgoing = Outgoing::begin(content_length(&request.headers));
        let chosen = ctx.chosen.as_mut().ok_or_else(unsent)?;
        // Names and connections take their time as well.
        if access::has_left(session) {
            return Err(Error::new_down(ErrorType::ConnectionClosed));
        }
        if let Access::Credential {
            credential,
            partition,
            presented,
        } = &mut chosen.access
            && !credential.may_send(partition, presented)
        {
            // Waiting and connecting outlasted a short token, or an API refused it meanwhile.
            // Nothing was written yet.
            match access::present(session, &chosen.upstream, credential, partition).await {
                Ok(newer) => *presented = newer,
                Err(Stop::Gone) => return Err(Error::new_down(ErrorType::ConnectionClosed)),
                Err(Stop::Refuse(reply)) => {
                    ctx.refusal = Some(*reply);
                    return Err(unsent());
                }
            }
        }
        chosen.made = inject::apply(
            request,
            session.req_header(),
            chosen,
            ctx.snapshot.config.proxy.via.as_deref(),
        )?;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        answer::bounded(response, &mut ctx.interim, ctx.speaks == Speaks::Upgrade)?;
        let Some(chosen) = ctx.chosen.as_mut() else {
            return Ok(());
        };
        let Access::Credential {
            credential,
            partition,
            presented,
        } = &chosen.access
        else {
            return Ok(());
        };
        if answer::interim(response) {
            return Ok(());
        }
        let found = access::verdict(response, credential);
        if found != Verdict::Stale {
            if found == Verdict::Good {
                credential.note_accepted(partition, presented);
            }
            ctx.replay.iter_mut().for_each(Replay::worked);
            return Ok(());
        }
        let name = chosen.upstream.name.clone();
        self.metrics.token_rejected(&name);
        let may = if ctx.replay.is_some() {
            None
        } else {
            Some(access::may_replay(session, &chosen.upstream))
        };
        match may {
            Some(Ok(())) if ctx.tries < TRIES => match access::renew(session, chosen).await {
                None => Err(Error::new_down(ErrorType::ConnectionClosed)),
                Some(false) => {
                    self.metrics.replay_considered(&name, "failed");
                    Ok(())
                }
                Some(true) => {
                    ctx.replay = Some(Replay::begin(&self.metrics, &name));
                    let mut again = Error::new_up(REPLAY);
                    again.set_retry(true);
                    Err(again)
                }
            },
            may => {
                if let Some(outcome) = may.map(|m| m.err().unwrap_or("failed")) {
                    self.metrics.replay_considered(&name, outcome);
                }
                access::report_refused(chosen);
                Ok(())
            }
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let trailers = session.is_http2() && response.version == Version::HTTP_2;
        answer::clean(response, trailers);
        answer::frame(response)?;
        answer::disown_head(response)?;
        if let Some(chosen) = &ctx.chosen {
            echo::hide(response, chosen)?;
            // First: a vendor's own path that only looks like another upstream's of ours comes back
            // to this one.
            if !answer::interim(response) {
                location::rewrite(response, chosen, &ctx.snapshot)?;
            }
            let here = session
                .server_addr()
                .and_then(|address| address.as_inet().copied());
            let removed =
                location::keep_in(response, session.req_header(), here, chosen, &ctx.snapshot)?;
            if removed > 0 {
                self.metrics
                    .redirects_removed(ctx.upstream(), removed, ctx.trace_id());
            }
        }
        if answer::interim(response) {
            return Ok(());
        }
        ctx.open_ended = answer::unchunk(session, response);
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        ctx.status = response.status.as_u16();
        if let Some(flight) = &mut ctx.flight {
            flight.answered(ctx.status);
        }
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        answer::bound_trailers(trailers);
        answer::disown(trailers);
        if let Some(chosen) = &ctx.chosen {
            echo::hide_in_trailers(trailers, chosen);
        }
        Ok(None)
    }

    /// A request of which anything was written is sent again after a 401, or where HTTP/2 says that
    /// it was not looked at (RFC 9113 8.7).
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Ctx,
        _reused: bool,
    ) -> Box<Error> {
        if let (ErrorType::InvalidH2, Some(flight)) = (e.etype(), &ctx.flight) {
            self.downgrades.broke(flight.name());
        }
        let untouched = matches!(e.etype(), ErrorType::H2Error | ErrorType::H2Downgrade)
            && matches!(e.retry, RetryType::Decided(true));
        let again =
            *e.etype() == REPLAY || (untouched && !session.as_ref().retry_buffer_truncated());
        e.set_retry(again && ctx.tries < TRIES);
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        let begun = session.response_written().is_some_and(|r| {
            !r.status.is_informational() || r.status == http::StatusCode::SWITCHING_PROTOCOLS
        });
        session.set_keepalive(None);
        let mut error_code = 0;
        let late = failure::late(e, session, ctx);
        match ctx.refusal.take().or(late).or_else(|| failure::reply(e)) {
            None => tracing::debug!(upstream = ctx.upstream(), "the client has left"),
            // What was begun must not look finished: the connection is closed, the stream reset.
            Some(mut reply) if begun => {
                if ctx.status != 101 {
                    ctx.flight.iter_mut().for_each(Flight::broken);
                    self.count(ctx, &mut reply);
                }
            }
            Some(reply) => {
                error_code = reply.cause.status().as_u16();
                let upstream = ctx.upstream().to_owned();
                tracing::debug!(upstream, kind = e.etype().as_str(), "failed to forward");
                if self.refuse(session, ctx, reply).await.is_err() {
                    tracing::debug!("a refusal could not be written");
                }
            }
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Ctx) {
        if ctx.snapshot.config.proxy.access_log {
            let request = session.req_header();
            let path = request.uri.path();
            let took = ctx.started.until(BootInstant::now()).as_secs_f64();
            tracing::info!(target: "access", method = %request.method, path, upstream = ctx.upstream(), status = ctx.status, code = ctx.code, took, replayed = ctx.replay.is_some(), trace_id = ctx.trace_id());
        }
        if ctx.open_ended && e.is_none() {
            answer::ended(session);
        }
        ctx.flight = None;
        ctx.replay = None;
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        // pingora's lines hold bytes of requests and answers.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, session: &Session, ctx: &Ctx) -> String {
        format!(
            "{} upstream={}",
            session.req_header().method,
            ctx.upstream()
        )
    }
}
