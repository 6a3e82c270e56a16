//! A request's way in: whether it may go on, where to, and what lets it in there.

use http::{Method, header};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_proxy::Session;

use super::{
    Proxy,
    access::{self, Stop},
    admit, answer,
    chosen::{Access, Chosen, Ctx, Flight, Speaks},
    reply::{Cause, Reply},
    vend,
};
use crate::route::{RequestTarget, RouteMatch};

/// What the checks found.
enum Next {
    Options,
    Vend(String),
    Forward(RouteMatch),
}

impl Proxy {
    /// The order is that of [Refusals](crate::promises#refusals). `true`: it was answered here.
    pub(super) async fn admit(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool, Stop> {
        let snapshot = ctx.snapshot.clone();
        let proxy = &snapshot.config.proxy;
        if session.is_http2() && session.is_process_shutting_down() {
            return Err(Reply::new(Cause::Draining, "no new requests are taken").into());
        }
        // One connection may carry many requests; all of them together are no more than connections
        // would be.
        if session.is_http2() && self.places.under_way() > proxy.limits.connections {
            return Err(Reply::new(
                Cause::Overloaded,
                "as many requests as proxy.limits.connections are under way",
            )
            .into());
        }
        admit::limits(session.req_header(), proxy.limits)?;
        if !proxy.client_auth.is_empty() {
            let presented =
                admit::only(session.req_header(), &header::PROXY_AUTHORIZATION).map(<[u8]>::to_vec);
            self.gate
                .check(&proxy.client_auth, presented.as_deref())
                .await?;
        }
        let unix = matches!(session.server_addr(), Some(SocketAddr::Unix(_)));
        let next = {
            let request = session.req_header();
            let asked = admit::asked(request)?;
            if let (&Method::CONNECT, RequestTarget::Origin { host }) =
                (&request.method, asked.form)
            {
                return Err(admit::connect(&snapshot, host).into());
            }
            admit::browser(&request.headers, &asked, &snapshot, unix)?;
            admit::method(&request.method)?;
            admit::circle(&request.headers, proxy.via.as_deref())?;
            match asked.form {
                _ if asked.for_us => {
                    admit::path(&asked)?;
                    Next::Options
                }
                RequestTarget::Origin { host }
                    if vend::is_ours(asked.path) && !snapshot.router.has_host(host) =>
                {
                    admit::path(&asked)?;
                    Next::Vend(asked.path.to_owned())
                }
                _ => Next::Forward(admit::route(&snapshot, &asked)?),
            }
        };
        match next {
            Next::Options => answer::options(session).await.map_err(|_| Stop::Gone)?,
            Next::Vend(path) => {
                let vended = vend::vend(session, &snapshot, &path).await?;
                answer::vended(session, &vended.access_token, vended.expires_in.as_secs())
                    .await
                    .map_err(|_| Stop::Gone)?;
            }
            Next::Forward(hit) => {
                self.choose(session, ctx, hit).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn choose(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        hit: RouteMatch,
    ) -> Result<(), Stop> {
        let lost = || Reply::new(Cause::Internal, "see the log");
        let served = ctx
            .snapshot
            .upstreams
            .get(hit.upstream)
            .cloned()
            .ok_or_else(lost)?;
        let upstream = served.upstream;
        ctx.flight = Some(Flight::begin(&self.metrics, &upstream.name, ctx.started));
        if session.is_upgrade_req() {
            ctx.speaks = Speaks::Upgrade;
        } else if session.is_http2() && answer::grpc(session).is_some() {
            ctx.speaks = Speaks::Grpc;
        }
        let access = match (served.credential, &upstream.credential) {
            (None, None) => Access::Own,
            (Some(credential), Some(_)) => {
                let partition = access::partition(&credential, &session.req_header().headers)?;
                let presented =
                    access::present(session, &upstream, &credential, &partition).await?;
                Access::Credential {
                    credential,
                    partition,
                    presented,
                }
            }
            // Never without the credential it was configured with.
            _ => return Err(lost().into()),
        };
        ctx.chosen = Some(Chosen {
            upstream,
            path: hit.path,
            stripped: hit.stripped,
            access,
            made: Vec::new(),
        });
        Ok(())
    }
}
