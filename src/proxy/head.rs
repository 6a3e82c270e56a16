//! A request's raw HTTP/1 head, judged before pingora reads it: framing, target, limits (RFC 9112
//! sections 3 and 6), CONNECT.

use std::mem::MaybeUninit;

use httparse::{Error as Parse, Header, Request, Status};

use super::reply::{Cause, Reply};
use crate::config::RequestLimits;

/// pingora reads no more.
const MOST_HEADERS: usize = 256;

/// What a sound head says.
#[derive(Debug, PartialEq, Eq)]
pub enum Sound<'a> {
    /// A request that may go on to pingora.
    Request,
    /// CONNECT, which is answered here.
    Connect {
        /// Host and port, as written.
        authority: &'a str,
        /// The value of that field, where there is exactly one.
        proxy_authorization: Option<&'a [u8]>,
    },
}

/// The head of one HTTP/1 request, blank line included, in its only reading (RFC 9112).
///
/// # Errors
/// 400 `bad_request` where there is none or more than one, 414 `uri_too_long`, 431
/// `headers_too_large`.
pub fn judge(head: &[u8], limits: RequestLimits) -> Result<Sound<'_>, Reply> {
    let line = head.iter().position(|b| *b == b'\r').unwrap_or(head.len());
    let target = head
        .get(..line)
        .and_then(|l| l.split(|b| *b == b' ').nth(1))
        .unwrap_or_default();
    if target.len() > limits.uri_bytes {
        return Err(too_long(limits));
    }
    if head.len().saturating_sub(line) > limits.header_bytes {
        return Err(too_large(limits));
    }
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MOST_HEADERS];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(Status::Complete(n)) if n == head.len() => {}
        Err(Parse::TooManyHeaders) => return Err(too_large(limits)),
        Ok(_) | Err(_) => return Err(bad("the request line or a header line cannot be read")),
    }
    if request.headers.len() > limits.headers {
        return Err(too_large(limits));
    }
    let target = request.path.unwrap_or_default();
    let old = request.version == Some(0);
    framing(request.headers, old)?;
    let host = host(request.headers, old)?;
    if request.method == Some("CONNECT") {
        if target
            .bytes()
            .any(|b| matches!(b, b'/' | b'?' | b'#' | b'@'))
            || !target.contains(':')
        {
            return Err(bad("CONNECT wants host and port"));
        }
        let mut auth = field(request.headers, "proxy-authorization").map(|h| h.value);
        let (one, more) = (auth.next(), auth.next());
        return Ok(Sound::Connect {
            authority: target,
            proxy_authorization: one.filter(|_| more.is_none()),
        });
    }
    aim(request.method.unwrap_or_default(), target, host)?;
    Ok(Sound::Request)
}

/// A head that never ended within the limits.
#[must_use]
pub fn too_large_unread(head: &[u8], limits: RequestLimits) -> Reply {
    let line = head.iter().position(|b| *b == b'\r').unwrap_or(head.len());
    if line > limits.uri_bytes {
        too_long(limits)
    } else {
        too_large(limits)
    }
}

fn field<'a, 'b: 'a>(
    headers: &'a [Header<'b>],
    name: &'static str,
) -> impl Iterator<Item = &'a Header<'b>> {
    headers
        .iter()
        .filter(move |h| h.name.eq_ignore_ascii_case(name))
}

/// One length, or chunked, and nothing that another server could read otherwise (RFC 9112 6.1,
/// 6.3).
fn framing(headers: &[Header<'_>], old: bool) -> Result<(), Reply> {
    let mut lengths = field(headers, "content-length");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("Content-Length is there more than once"));
    }
    if length.is_some_and(|h| !is_length(h.value)) {
        return Err(bad("Content-Length is not one number"));
    }
    let mut codings = field(headers, "transfer-encoding");
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(bad("Content-Length and Transfer-Encoding are both there"));
        }
        if old || codings.next().is_some() || !coding.value.eq_ignore_ascii_case(b"chunked") {
            return Err(bad("Transfer-Encoding is not exactly chunked"));
        }
    }
    Ok(())
}

/// Digits alone, and no more of them than any body needs.
pub(super) fn is_length(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit)
}

/// Exactly one Host, without userinfo or a list (RFC 9112 3.2); HTTP/1.0 may go without.
fn host<'a>(headers: &'a [Header<'a>], old: bool) -> Result<Option<&'a [u8]>, Reply> {
    let mut hosts = field(headers, "host");
    match (hosts.next(), hosts.next()) {
        (None, _) if old => Ok(None),
        (Some(one), None) if host_name(one.value) => Ok(Some(one.value)),
        _ => Err(bad(
            "there must be exactly one Host, and it must name a host",
        )),
    }
}

fn host_name(value: &[u8]) -> bool {
    !value.is_empty()
        && value
            .iter()
            .all(|b| b.is_ascii_graphic() && !b"@/\\?#,\"<>^`{|}".contains(b))
}

/// Origin-form, absolute-form, or `*` for OPTIONS (RFC 9112 3.2).
fn aim(method: &str, target: &str, host: Option<&[u8]>) -> Result<(), Reply> {
    if target.contains('#') {
        return Err(bad("a request target has no fragment"));
    }
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    // No characters of a URI (RFC 3986 2); pingora would refuse them without a word.
    if path.contains(['<', '>', '`']) || query.contains(['<', '>', '"']) {
        return Err(bad(
            "the request target has a character that must be percent-encoded",
        ));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let Some((_, rest)) = target
        .split_once("://")
        .filter(|(s, _)| s.eq_ignore_ascii_case("http") || s.eq_ignore_ascii_case("https"))
    else {
        return Err(bad(
            "the request target does not start with / and is no http URL",
        ));
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if !host_name(authority.as_bytes()) {
        return Err(bad("the request target names no host"));
    }
    match host {
        Some(host) if host != authority.as_bytes() => {
            Err(bad("Host differs from the host in the request target"))
        }
        _ => Ok(()),
    }
}

pub(super) fn bad(why: &str) -> Reply {
    Reply::new(Cause::BadRequest, why)
}

pub(super) fn too_long(limits: RequestLimits) -> Reply {
    Reply::new(
        Cause::UriTooLong,
        format!(
            "the limit is {} bytes (proxy.limits.uri_bytes)",
            limits.uri_bytes
        ),
    )
}

pub(super) fn too_large(limits: RequestLimits) -> Reply {
    let (bytes, count) = (limits.header_bytes, limits.headers.min(MOST_HEADERS));
    Reply::new(
        Cause::HeadersTooLarge,
        format!("the limits are {bytes} bytes and {count} fields (proxy.limits)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits {
        header_bytes: 200,
        headers: 5,
        uri_bytes: 30,
        ..RequestLimits::DEFAULT
    };

    fn code(head: &str) -> &'static str {
        match judge(head.as_bytes(), LIMITS) {
            Ok(Sound::Request) => "ok",
            Ok(Sound::Connect { .. }) => "connect",
            Err(reply) => reply.cause.code(),
        }
    }

    #[test]
    fn sound_requests_pass() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "POST /%2F?a=b#".trim_end_matches('#'),
            "POST /x HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let whole = if head.ends_with("\r\n\r\n") {
                head.to_owned()
            } else {
                format!("{head} HTTP/1.1\r\nHost: a\r\n\r\n")
            };
            assert_eq!(code(&whole), "ok", "{whole:?}");
        }
        assert_eq!(
            code("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"),
            "connect"
        );
    }

    #[test]
    fn r25_r26_what_has_two_readings_or_none_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET foo HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT u@a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        ] {
            assert_eq!(code(head), "bad_request", "{head:?}");
        }
    }

    #[test]
    fn limits_have_their_own_codes() {
        assert_eq!(
            code(&format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                "a".repeat(30)
            )),
            "uri_too_long"
        );
        assert_eq!(
            code(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "a".repeat(200)
            )),
            "headers_too_large"
        );
        assert_eq!(
            code(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "X: a\r\n".repeat(5)
            )),
            "headers_too_large"
        );
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X:\r\n".repeat(300));
        let roomy = RequestLimits {
            header_bytes: 10_000,
            headers: 1000,
            ..LIMITS
        };
        assert_eq!(
            judge(many.as_bytes(), roomy).unwrap_err().cause,
            Cause::HeadersTooLarge
        );
        assert_eq!(
            too_large_unread(&[b'a'; 300], LIMITS).cause,
            Cause::UriTooLong
        );
        assert_eq!(
            too_large_unread(b"GET / HTTP/1.1\r\nX: aaaa", LIMITS).cause,
            Cause::HeadersTooLarge
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = judge(&bytes, LIMITS);
        }
        #[test]
        fn nearly_sound_heads_make_it_panic_neither(middle in "[ -~\r\n]{0,60}") {
            let _ = judge(format!("GET {middle}\r\n\r\n").as_bytes(), LIMITS);
        }
    }
}
