//! What pingora could not do, as a refusal of ours.

use http::header;
use pingora_core::protocols::http::ServerSession;
use pingora_error::{
    Error,
    ErrorSource::{Downstream, Internal, Upstream},
    ErrorType,
};
use pingora_proxy::Session;

use super::{
    chosen::Ctx,
    reply::{Cause, Reply},
};
use crate::{clock::BootInstant, listen, tls::CertificateFlaw};

/// Connection attempts, for the metric.
#[must_use]
pub fn connect_outcome(e: &Error) -> &'static str {
    match e.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => "timeout",
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSWantX509Lookup
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => "tls",
        _ => "refused",
    }
}

/// `None`: the client is gone, there is nobody to tell. Says nothing in the vendor's words.
#[must_use]
pub fn reply(e: &Error) -> Option<Reply> {
    use ErrorType as T;
    let (cause, detail) = match (e.esource(), e.etype()) {
        // The last of them is HTTP/2: the stream was reset.
        (
            Downstream,
            T::WriteError | T::ReadError | T::ConnectionClosed | T::WriteTimedout | T::H2Error,
        ) => return None,
        (Downstream, T::ReadTimedout) => (
            Cause::RequestTimeout,
            "the request body did not arrive in time",
        ),
        (Downstream, _) => (
            Cause::BadRequest,
            "the request body is malformed, or Connection names a field it may not",
        ),
        (_, T::ConnectTimedout) => (
            Cause::ConnectTimeout,
            "no connection within timeouts.connect",
        ),
        (_, T::TLSHandshakeTimedout) => (
            Cause::ConnectTimeout,
            "no TLS handshake within timeouts.connect",
        ),
        (_, T::ConnectRefused) => (Cause::Refused, "the connection was refused"),
        (_, T::ConnectNoRoute | T::ConnectError | T::SocketError | T::BindError) => {
            (Cause::Unreachable, "no connection could be made")
        }
        (_, T::TLSHandshakeFailure | T::TLSWantX509Lookup | T::InvalidCert) => return Some(tls(e)),
        (_, T::ReadTimedout | T::WriteTimedout) => (
            Cause::UpstreamTimeout,
            "nothing was heard within timeouts.read",
        ),
        // With TLS 1.3 a client certificate is refused only after the handshake.
        (_, T::ReadError | T::WriteError | T::H2Error)
            if e.to_string().contains("received fatal alert") =>
        {
            (
                Cause::UpstreamAlert,
                "it ended the secure connection with an alert; see tls.client_cert_file",
            )
        }
        (_, T::ConnectionClosed | T::ReadError | T::WriteError) => (
            Cause::UpstreamIncomplete,
            "the connection broke before the answer was whole",
        ),
        (Internal, T::InternalError) => (Cause::Internal, "see the log"),
        _ => (Cause::UpstreamProtocol, "the answer is no valid HTTP"),
    };
    Some(Reply::new(cause, detail))
}

/// The vendor was silent for too long, but only because it waited for a body of which the client
/// sent nothing for as long. Over HTTP/2 there is no telling that from a vendor that takes no more,
/// whose fault it then is said to be.
#[must_use]
pub fn late(e: &Error, session: &mut Session, ctx: &Ctx) -> Option<Reply> {
    if (e.esource(), e.etype()) != (&Upstream, &ErrorType::ReadTimedout)
        || session.as_mut().is_body_done()
    {
        return None;
    }
    let ServerSession::H1(h1) = session.as_ref() else {
        return None;
    };
    if listen::waits_for_us(h1.stream()) {
        return None;
    }
    let (pace, chosen) = (ctx.pace?, ctx.chosen.as_ref()?);
    // Who expects 100 waits for the vendor.
    let asked = session.as_ref().body_bytes_read() == 0
        && session.req_header().headers.contains_key(header::EXPECT);
    // The vendor's clock began to run with the last bytes it was sent.
    let silent = pace.silence(BootInstant::now()).saturating_mul(10)
        >= chosen.upstream.timeouts.read.saturating_mul(9);
    (silent && !asked).then(|| {
        Reply::new(
            Cause::RequestTimeout,
            "the request body stood still for as long as timeouts.read",
        )
    })
}

/// A certificate that is not trusted is for the user to mend, so it is told apart, and what is
/// wrong with it is said. pingora hands on no more than rustls's words.
fn tls(e: &Error) -> Reply {
    match CertificateFlaw::from_text(&e.to_string()) {
        Some(flaw) => Reply::new(
            Cause::UpstreamCertificate,
            format!("its certificate {flaw}; see tls.ca_file and tls.server_name"),
        ),
        None if *e.etype() == ErrorType::InvalidCert => Reply::new(
            Cause::UpstreamCertificate,
            "its certificate cannot be used; see tls.ca_file and tls.server_name",
        ),
        None => Reply::new(Cause::UpstreamTls, "the TLS handshake failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let detail = |told: &str| {
            let context =
                format!("TLS connect() failed: invalid peer certificate: {told}, SNI: api.test");
            let reply =
                reply(&Error::explain(ErrorType::TLSHandshakeFailure, context).into_up()).unwrap();
            assert_eq!(reply.cause, Cause::UpstreamCertificate, "{told}");
            reply.detail
        };
        let all = [
            detail("UnknownIssuer"),
            detail(
                "certificate expired: verification time 1782000000 (UNIX), but certificate is not valid after 1700000000 (82000000 seconds ago)",
            ),
            detail(
                "certificate not valid for name \"api.test\"; certificate is only valid for DnsName(\"other.test\")",
            ),
        ];
        assert!(
            all[0] != all[1] && all[1] != all[2] && all[0] != all[2],
            "{all:?}"
        );
        assert!(all[1].contains("2023-11-14"), "{all:?}");
        assert!(all[2].contains("other.test"), "{all:?}");
        let failed = reply(
            &Error::explain(
                ErrorType::TLSHandshakeFailure,
                "TLS connect() failed: received fatal alert",
            )
            .into_up(),
        )
        .unwrap();
        assert_eq!(failed.cause, Cause::UpstreamTls);
    }

    #[test]
    fn each_failure_has_its_code() {
        let code = |t: ErrorType, down: bool| {
            let e = if down {
                Error::new_down(t)
            } else {
                Error::new_up(t)
            };
            reply(&e).map(|r| (r.cause.code(), r.cause.status().as_u16()))
        };
        assert_eq!(
            code(ErrorType::ConnectTimedout, false),
            Some(("upstream_timeout", 504))
        );
        assert_eq!(
            code(ErrorType::ReadTimedout, false),
            Some(("upstream_timeout", 504))
        );
        assert_eq!(
            code(ErrorType::ConnectRefused, false),
            Some(("upstream_unreachable", 502))
        );
        assert_eq!(
            code(ErrorType::TLSHandshakeFailure, false),
            Some(("upstream_tls", 502))
        );
        assert_eq!(
            code(ErrorType::InvalidHTTPHeader, false),
            Some(("upstream_protocol", 502))
        );
        assert_eq!(
            code(ErrorType::InvalidHTTPHeader, true),
            Some(("bad_request", 400))
        );
        assert_eq!(code(ErrorType::ConnectionClosed, true), None);
    }
}
