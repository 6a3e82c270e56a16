//! Our own refusals: one table from cause to status, and their wire form (RFC 9457, RFC 9209,
//! trailers-only gRPC).

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora_http::ResponseHeader;
use serde_json::{Map, Value};

use crate::{clock::BootInstant, telemetry::RefusalEvent};

/// What gRPC wants escaped in `grpc-message`: all but visible ASCII, and the percent sign.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
/// Named with 503 where nothing better is known, in seconds.
const RETRY_AFTER: u64 = 1;
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Why a request is refused: every cause there is ([Refusals](crate::promises#refusals)). Several
/// share one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No upstream has this host or path.
    NoRoute,
    /// A forward-proxy request or CONNECT to a host that is no upstream's.
    ForbiddenDestination,
    /// A web page calls, or a name that may have been rebound to us.
    ForbiddenOrigin,
    /// CONNECT to an upstream: interception is not there.
    InterceptOff,
    /// The callers' shared secret is missing or wrong.
    ProxyAuthRequired,
    /// The request cannot be read, or in two ways.
    BadRequest,
    /// The client's head or body comes too slowly.
    RequestTimeout,
    /// The header that selects a partition is missing, repeated, or does not fit.
    PartitionError,
    /// TRACE, TRACK, CONNECT over HTTP/2, or a wrong method of a path of ours.
    MethodRefused,
    /// The head is above `limits.header_bytes` or `limits.headers`.
    HeadersTooLarge,
    /// The target is above `limits.uri_bytes`.
    UriTooLong,
    /// There is no token, and the token endpoint gives none.
    TokenUnavailable,
    /// More requests wait for the token than `guard.max_waiters`.
    TokenOverloaded,
    /// More connections, requests or unfinished heads than may be.
    Overloaded,
    /// It came after SIGTERM.
    Draining,
    /// A token call hangs for longer than the request may wait.
    TokenTimeout,
    /// The vendor says nothing for `timeouts.read`.
    UpstreamTimeout,
    /// No connection to the vendor within `timeouts.connect`.
    ConnectTimeout,
    /// The resolver does not answer within `timeouts.connect`.
    DnsTimeout,
    /// The vendor refuses our secret.
    TokenRejected,
    /// The token endpoint's answer makes no sense, or a parameter is wrong.
    TokenMisconfigured,
    /// A secret's file cannot be read.
    SecretUnreadable,
    /// There is no way to the vendor's address.
    Unreachable,
    /// The vendor's address takes no connection.
    Refused,
    /// The vendor's name cannot be resolved.
    Dns,
    /// The TLS handshake with the vendor failed.
    UpstreamTls,
    /// The vendor's certificate is not to be trusted.
    UpstreamCertificate,
    /// The vendor ended the connection with a TLS alert, mostly over our client certificate.
    UpstreamAlert,
    /// The vendor's answer breaks its protocol.
    UpstreamProtocol,
    /// The vendor's answer ended early.
    UpstreamIncomplete,
    /// Our own Via came back.
    LoopDetected,
    /// A mistake of ours.
    Internal,
}

struct Row {
    code: &'static str,
    status: StatusCode,
    /// RFC 9209 section 2.3.
    proxy_error: &'static str,
    title: &'static str,
}

impl Cause {
    fn row(self) -> Row {
        use StatusCode as S;
        let (code, status, proxy_error, title) = match self {
            Self::NoRoute => (
                "no_route",
                S::NOT_FOUND,
                "destination_not_found",
                "No upstream answers to this address",
            ),
            Self::ForbiddenDestination => (
                "forbidden_destination",
                S::FORBIDDEN,
                "http_request_denied",
                "This host is no configured upstream",
            ),
            Self::ForbiddenOrigin => (
                "forbidden_origin",
                S::FORBIDDEN,
                "http_request_denied",
                "Web pages may not use this proxy",
            ),
            Self::InterceptOff => (
                "intercept_off",
                S::FORBIDDEN,
                "http_request_denied",
                "Tunnels to upstreams are not intercepted",
            ),
            Self::ProxyAuthRequired => (
                "proxy_auth_required",
                S::PROXY_AUTHENTICATION_REQUIRED,
                "http_request_denied",
                "Callers must authenticate to this proxy",
            ),
            Self::BadRequest => (
                "bad_request",
                S::BAD_REQUEST,
                "http_request_error",
                "The request is malformed",
            ),
            Self::RequestTimeout => (
                "bad_request",
                S::REQUEST_TIMEOUT,
                "http_request_error",
                "The request did not arrive in time",
            ),
            Self::PartitionError => (
                "partition_invalid",
                S::BAD_REQUEST,
                "http_request_error",
                "The request does not say whose token it needs",
            ),
            Self::MethodRefused => (
                "method_refused",
                S::METHOD_NOT_ALLOWED,
                "http_request_denied",
                "This method is not allowed",
            ),
            Self::HeadersTooLarge => (
                "headers_too_large",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "http_request_error",
                "The header section is too large",
            ),
            Self::UriTooLong => (
                "uri_too_long",
                S::URI_TOO_LONG,
                "http_request_error",
                "The request target is too long",
            ),
            Self::TokenUnavailable => (
                "token_unavailable",
                S::SERVICE_UNAVAILABLE,
                "proxy_internal_response",
                "There is no token to send now",
            ),
            Self::TokenOverloaded => (
                "token_overloaded",
                S::SERVICE_UNAVAILABLE,
                "proxy_internal_response",
                "Too many requests wait for this token",
            ),
            Self::Overloaded => (
                "overloaded",
                S::SERVICE_UNAVAILABLE,
                "connection_limit_reached",
                "Too many connections or requests are open",
            ),
            Self::Draining => (
                "draining",
                S::SERVICE_UNAVAILABLE,
                "proxy_internal_response",
                "This proxy is shutting down",
            ),
            Self::TokenTimeout => (
                "token_timeout",
                S::GATEWAY_TIMEOUT,
                "proxy_internal_response",
                "The token endpoint does not answer",
            ),
            Self::UpstreamTimeout => (
                "upstream_timeout",
                S::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "The upstream does not answer",
            ),
            Self::ConnectTimeout => (
                "upstream_timeout",
                S::GATEWAY_TIMEOUT,
                "connection_timeout",
                "The upstream cannot be connected to in time",
            ),
            Self::DnsTimeout => (
                "upstream_timeout",
                S::GATEWAY_TIMEOUT,
                "dns_timeout",
                "The upstream's name cannot be resolved in time",
            ),
            Self::TokenRejected => (
                "token_rejected",
                S::BAD_GATEWAY,
                "proxy_configuration_error",
                "The token endpoint refuses our secret",
            ),
            Self::TokenMisconfigured => (
                "token_misconfigured",
                S::BAD_GATEWAY,
                "proxy_configuration_error",
                "No token can be had with this configuration",
            ),
            Self::SecretUnreadable => (
                "secret_unreadable",
                S::BAD_GATEWAY,
                "proxy_configuration_error",
                "A secret cannot be read",
            ),
            Self::Unreachable => (
                "upstream_unreachable",
                S::BAD_GATEWAY,
                "destination_ip_unroutable",
                "The upstream cannot be reached",
            ),
            Self::Refused => (
                "upstream_unreachable",
                S::BAD_GATEWAY,
                "connection_refused",
                "The upstream refuses connections",
            ),
            Self::Dns => (
                "upstream_unreachable",
                S::BAD_GATEWAY,
                "dns_error",
                "The upstream's name cannot be resolved",
            ),
            Self::UpstreamTls => (
                "upstream_tls",
                S::BAD_GATEWAY,
                "tls_protocol_error",
                "No secure connection to the upstream",
            ),
            Self::UpstreamCertificate => (
                "upstream_tls",
                S::BAD_GATEWAY,
                "tls_certificate_error",
                "The upstream's certificate is not trusted",
            ),
            Self::UpstreamAlert => (
                "upstream_tls",
                S::BAD_GATEWAY,
                "tls_alert_received",
                "The upstream refuses our secure connection",
            ),
            Self::UpstreamProtocol => (
                "upstream_protocol",
                S::BAD_GATEWAY,
                "http_protocol_error",
                "The upstream's answer cannot be understood",
            ),
            Self::UpstreamIncomplete => (
                "upstream_protocol",
                S::BAD_GATEWAY,
                "http_response_incomplete",
                "The upstream's answer broke off",
            ),
            Self::LoopDetected => (
                "loop_detected",
                S::LOOP_DETECTED,
                "proxy_loop_detected",
                "The request came back to this proxy",
            ),
            Self::Internal => (
                "internal_error",
                S::INTERNAL_SERVER_ERROR,
                "proxy_internal_error",
                "Something went wrong inside this proxy",
            ),
        };
        Row {
            code,
            status,
            proxy_error,
            title,
        }
    }

    /// Its code ([Refusals](crate::promises#refusals)).
    #[must_use]
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().status
    }
}

/// One refusal. Holds nothing of a secret, a token, or the vendor's own words.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Decides code, status and title.
    pub cause: Cause,
    /// What happened and what to do about it, for a person.
    pub detail: String,
    /// The upstream's name, once the route is known.
    pub upstream: Option<Arc<str>>,
    /// The credential's name, where it is to do with one.
    pub credential: Option<Arc<str>>,
    /// The token's name, where it is to do with one.
    pub token: Option<Arc<str>>,
    /// Sent as `Retry-After`, in whole seconds, rounded up; with 503 it is 1 s where this is
    /// `None`.
    pub retry_after: Option<Duration>,
    /// What 405 names (RFC 9110 section 10.2.1).
    pub allow: &'static str,
}

impl Reply {
    /// One that names no upstream, credential or token yet.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self {
            cause,
            detail: detail.into(),
            upstream: None,
            credential: None,
            token: None,
            retry_after: None,
            allow: METHODS,
        }
    }

    /// For metrics and log.
    #[must_use]
    pub fn told<'a>(&'a self, trace_id: Option<&'a str>) -> RefusalEvent<'a> {
        let upstream = self.upstream.as_deref().unwrap_or_default();
        RefusalEvent {
            upstream,
            code: self.cause.code(),
            detail: &self.detail,
            ours: self.cause.status().is_server_error(),
            trace_id,
        }
    }

    fn retry_seconds(&self) -> Option<u64> {
        let named = self
            .retry_after
            .map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0))
            .map(|s| s.max(1));
        named.or((self.cause.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER))
    }

    /// The problem document (RFC 9457).
    #[must_use]
    pub fn body(&self) -> Bytes {
        let row = self.cause.row();
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| {
            all.insert(key.to_owned(), value);
        };
        put("type", format!("urn:cupbearer:error:{}", row.code).into());
        put("title", row.title.into());
        put("status", row.status.as_u16().into());
        put("detail", self.detail.as_str().into());
        put("code", row.code.into());
        for (key, name) in [
            ("upstream", &self.upstream),
            ("credential", &self.credential),
            ("token", &self.token),
        ] {
            if let Some(name) = name {
                put(key, (**name).into());
            }
        }
        if let Some(seconds) = self.retry_seconds() {
            put("retry_after", seconds.into());
        }
        let mut text = Value::Object(all).to_string();
        text.push('\n');
        text.into()
    }

    /// Name and value of the fields besides Content-Length.
    fn fields(&self) -> Vec<(header::HeaderName, String)> {
        let row = self.cause.row();
        let mut fields = vec![
            (header::CONTENT_TYPE, "application/problem+json".to_owned()),
            (header::CACHE_CONTROL, "no-store".to_owned()),
            (
                header::HeaderName::from_static("proxy-status"),
                format!(
                    "cupbearer; error={}; details=\"{}\"",
                    row.proxy_error, row.code
                ),
            ),
        ];
        if let Some(seconds) = self.retry_seconds() {
            fields.push((header::RETRY_AFTER, seconds.to_string()));
        }
        match row.status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                fields.push((
                    header::PROXY_AUTHENTICATE,
                    "Bearer realm=\"cupbearer\"".to_owned(),
                ));
                fields.push((
                    header::PROXY_AUTHENTICATE,
                    "Basic realm=\"cupbearer\", charset=\"UTF-8\"".to_owned(),
                ));
            }
            StatusCode::METHOD_NOT_ALLOWED => fields.push((header::ALLOW, self.allow.to_owned())),
            _ => {}
        }
        fields
    }

    /// What pingora sends; the body is [`Reply::body`], left out after HEAD.
    ///
    /// # Errors
    /// None that can happen: every name and value is ours.
    pub fn response(&self, length: usize) -> pingora_error::Result<ResponseHeader> {
        let mut response = ResponseHeader::build(self.cause.status(), Some(8))?;
        for (name, value) in self.fields() {
            response.append_header(name, value)?;
        }
        response.insert_header(header::CONTENT_LENGTH, length)?;
        Ok(response)
    }

    /// What pingora sends to a gRPC caller: status 200 and trailers-only (gRPC over HTTP/2,
    /// "Responses"). `content_type` is the one that the caller sent.
    ///
    /// # Errors
    /// None that can happen: every name and value is ours, or a header value already.
    pub fn grpc(&self, content_type: &str) -> pingora_error::Result<ResponseHeader> {
        let mut response = ResponseHeader::build(StatusCode::OK, Some(8))?;
        let message = format!("{}: {}", self.cause.code(), self.detail);
        response.insert_header(header::CONTENT_TYPE, content_type)?;
        response.insert_header("grpc-status", grpc_status(self.cause.status()).to_string())?;
        response.insert_header(
            "grpc-message",
            utf8_percent_encode(&message, GRPC_MESSAGE).to_string(),
        )?;
        for (name, value) in self
            .fields()
            .into_iter()
            .filter(|(n, _)| *n != header::CONTENT_TYPE)
        {
            response.append_header(name, value)?;
        }
        Ok(response)
    }

    /// A complete HTTP/1.1 response that ends its connection, for refusals before pingora.
    #[must_use]
    pub fn raw(&self, head_request: bool) -> Bytes {
        let status = self.cause.status();
        let body = self.body();
        let mut text = format!(
            "HTTP/1.1 {} {}\r\n",
            status.as_str(),
            status.canonical_reason().unwrap_or_default()
        );
        for (name, value) in self.fields() {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let date = httpdate::fmt_http_date(UNIX_EPOCH + BootInstant::now().wall());
        let _ = write!(
            text,
            "date: {date}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut all = text.into_bytes();
        if !head_request {
            all.extend_from_slice(&body);
        }
        all.into()
    }
}

/// [Refusals](crate::promises#refusals); never 16, upon which applications would log in again.
fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        503 | 504 => 14,
        403 | 407 => 7,
        404 | 405 => 12,
        400 | 408 | 414 | 421 | 431 => 3,
        _ => 13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_problem_document() {
        let mut reply = Reply::new(Cause::TokenUnavailable, "the endpoint is down");
        reply.upstream = Some("acme".into());
        reply.retry_after = Some(Duration::from_millis(2300));
        let body: Value = serde_json::from_slice(&reply.body()).unwrap();
        assert_eq!(body["type"], "urn:cupbearer:error:token_unavailable");
        assert_eq!(
            (body["status"].as_u64(), body["retry_after"].as_u64()),
            (Some(503), Some(3))
        );
        assert_eq!(body["upstream"], "acme");
        assert!(body.get("credential").is_none());
        let response = reply.response(10).unwrap();
        assert_eq!(
            response.headers["proxy-status"],
            "cupbearer; error=proxy_internal_response; details=\"token_unavailable\""
        );
        assert_eq!(
            (
                &response.headers["retry-after"],
                &response.headers["cache-control"]
            ),
            (&"3".parse().unwrap(), &"no-store".parse().unwrap())
        );
    }

    #[test]
    fn grpc_callers_get_a_status_they_understand() {
        for (cause, expected) in [
            (Cause::TokenTimeout, "14"),
            (Cause::TokenRejected, "13"),
            (Cause::ForbiddenOrigin, "7"),
            (Cause::NoRoute, "12"),
            (Cause::BadRequest, "3"),
            (Cause::ProxyAuthRequired, "7"),
        ] {
            let response = Reply::new(cause, "häßlich 100 %")
                .grpc("application/grpc")
                .unwrap();
            assert_eq!(
                (response.status.as_u16(), &response.headers["grpc-status"]),
                (200, &expected.parse().unwrap())
            );
            assert!(response.headers["grpc-message"].to_str().is_ok());
        }
    }

    #[test]
    fn a_raw_refusal_is_whole_and_has_no_body_after_head() {
        let reply = Reply::new(Cause::MethodRefused, "no");
        let text = String::from_utf8(reply.raw(false).to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text.contains("allow: GET"));
        assert!(text.ends_with("}\n"));
        assert!(reply.raw(true).ends_with(b"\r\n\r\n"));
        assert!(
            Reply::new(Cause::Draining, "")
                .raw(true)
                .windows(12)
                .any(|w| w == b"retry-after:")
        );
    }
}
