//! Answers on their way to the client: the vendor's without what is not for the client, and our
//! own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::timeout;

use super::reply::Reply;
use crate::listen;

/// Not for the client (RFC 9110 7.6.1). `Transfer-Encoding` is left to pingora, which frames the
/// answer anew.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// So much of a refused HTTP/2 request's body is read, and for so long.
const REST: usize = 64 * 1024;
const SETTLE: Duration = Duration::from_millis(500);

/// Of one answer so many interim (1xx) ones are passed on; RFC 9110 15.2 sets no bound, and a
/// vendor must not keep a request for ever.
const INTERIM: usize = 256;
/// Fields of an answer's head, or of its trailers, and their bytes with two for each end of a name
/// and a line ([What passes](crate::promises#what-passes)).
const FIELDS: usize = 256;
const HEAD: usize = 64 * 1024;

/// 1xx before the answer proper; 101 is one itself.
#[must_use]
pub fn interim(response: &ResponseHeader) -> bool {
    response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
}

/// Whether an answer's head may be passed on. `interims`: how many came before it; `upgrade`:
/// another protocol was asked for (RFC 9110 15.2.2).
///
/// # Errors
/// It is too large, one of too many, or a 101 nobody wanted.
pub fn bounded(response: &ResponseHeader, interims: &mut usize, upgrade: bool) -> Result<()> {
    *interims += usize::from(interim(response));
    let unwanted = response.status == StatusCode::SWITCHING_PROTOCOLS && !upgrade;
    // Version, code and two spaces before it.
    let line = 13 + response.get_reason_phrase().map_or(0, str::len);
    if unwanted || *interims > INTERIM || !fits(&response.headers, line) {
        return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
    }
    Ok(())
}

/// Trailers that are too large go no further, as any that a recipient has no use for (RFC 9110
/// 6.5.1); the body before them is whole. pingora knows no way to end a stream here: an error would
/// only be logged.
pub fn bound_trailers(trailers: &mut HeaderMap) {
    if !fits(trailers, 0) {
        tracing::debug!("trailers of more than 64 KiB are left out");
        trailers.clear();
    }
}

fn fits(fields: &HeaderMap, line: usize) -> bool {
    let bytes: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    fields.len() <= FIELDS && line + bytes <= HEAD
}

/// Removes hop-by-hop fields and those that Connection names. After 101 they belong to the new
/// protocol. `trailers`: they come through, so the field that announces them may stay.
pub fn clean(response: &mut ResponseHeader, trailers: bool) {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    // Most answers have none of them, and one look is cheaper than a search for each.
    let of_the_hop = |name: &HeaderName| {
        HOP_BY_HOP.contains(name) || name == header::CONNECTION || name == header::TRAILER
    };
    if !response.headers.keys().any(of_the_hop) {
        return;
    }
    let keep = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ];
    let named: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !keep.contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        response.remove_header(name);
    }
    if !trailers {
        response.remove_header(&header::TRAILER);
    }
}

/// One framing in every reading: interim answers and 204 have no content and so no length of it,
/// 304 no transfer coding (RFC 9110 8.6, RFC 9112 6.1), and what a length says twice is said once.
///
/// # Errors
/// Never: digits are a header value.
pub fn frame(response: &mut ResponseHeader) -> Result<()> {
    let bodiless = response.status.is_informational() || response.status == StatusCode::NO_CONTENT;
    if bodiless || response.status == StatusCode::NOT_MODIFIED {
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    if bodiless {
        response.remove_header(&header::CONTENT_LENGTH);
        return Ok(());
    }
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(());
    };
    // pingora has refused lengths that differ.
    if lengths.next().is_some() || first.as_bytes().contains(&b',') {
        let one = first
            .as_bytes()
            .split(|b| *b == b',')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let one = http::HeaderValue::from_bytes(one)
            .or_err(ErrorType::InvalidHTTPHeader, "Content-Length")?;
        response.insert_header(header::CONTENT_LENGTH, one)?;
    }
    Ok(())
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A vendor's `Proxy-Status` that speaks in our name would make its answer look like a refusal of
/// ours (RFC 9209 2): those members go.
pub fn disown(fields: &mut HeaderMap) -> bool {
    let ours = |member: &str| {
        let name = member.trim().trim_start_matches('"');
        let end = name
            .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c)))
            .unwrap_or(name.len());
        name.get(..end)
            .is_some_and(|name| name.eq_ignore_ascii_case("cupbearer"))
    };
    let told: Vec<http::HeaderValue> = fields.get_all(&PROXY_STATUS).iter().cloned().collect();
    let mut changed = false;
    let mut kept = Vec::new();
    for value in told {
        let text = String::from_utf8_lossy(value.as_bytes());
        let (mut quoted, mut escaped) = (false, false);
        let members = text.split(|c| {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' => return !quoted,
                _ => {}
            }
            false
        });
        let members: Vec<&str> = members.collect();
        let left: Vec<&str> = members
            .iter()
            .filter(|member| !ours(member))
            .copied()
            .collect();
        if left.len() == members.len() {
            kept.push(value.clone());
            continue;
        }
        changed = true;
        let left = left
            .iter()
            .map(|member| member.trim())
            .collect::<Vec<_>>()
            .join(", ");
        kept.extend(
            http::HeaderValue::from_str(&left)
                .ok()
                .filter(|value| !value.is_empty()),
        );
    }
    if changed {
        fields.remove(&PROXY_STATUS);
        for value in kept {
            fields.append(&PROXY_STATUS, value);
        }
    }
    changed
}

/// Removes from an answer's head the members of `Proxy-Status` that speak in our name, as
/// [`disown`] does, where there are any.
///
/// # Errors
/// Never: what is left was a header value.
pub fn disown_head(response: &mut ResponseHeader) -> Result<()> {
    if !response.headers.contains_key(&PROXY_STATUS) {
        return Ok(());
    }
    let mut fields = response.headers.clone();
    if disown(&mut fields) {
        response.remove_header(&PROXY_STATUS);
        for value in fields.get_all(&PROXY_STATUS) {
            response.append_header(PROXY_STATUS, value.clone())?;
        }
    }
    Ok(())
}

/// HTTP/1.0 knows no chunks (RFC 9112 6.1): an answer without a length ends with its connection.
/// Until [`ended`] is called that end is a reset, so that what breaks off does not look whole. True
/// where it is so.
pub fn unchunk(session: &mut Session, response: &mut ResponseHeader) -> bool {
    let chunked = session.req_header().version == Version::HTTP_10
        && response.headers.contains_key(header::TRANSFER_ENCODING);
    if chunked {
        response.remove_header(&header::TRANSFER_ENCODING);
        session.set_keepalive(None);
        reset_on_close(session, true);
    }
    chunked
}

/// The whole of an answer without a length was written.
pub fn ended(session: &Session) {
    reset_on_close(session, false);
}

fn reset_on_close(session: &Session, reset: bool) {
    if let Some(h1) = session.downstream_session.as_http1() {
        listen::reset_on_close(h1.stream(), reset);
    }
}

/// A caller that speaks gRPC, and the content type it sent.
#[must_use]
pub fn grpc(session: &Session) -> Option<String> {
    let kind = session
        .req_header()
        .headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()?;
    kind.get(..16)
        .filter(|k| k.eq_ignore_ascii_case("application/grpc"))?;
    Some(kind.to_owned())
}

/// Writes a refusal. The connection stays usable where framing allows.
///
/// # Errors
/// The client cannot be written to.
pub async fn refuse(session: &mut Session, reply: &Reply) -> Result<()> {
    write(session, reply).await?;
    // A reset right behind the answer makes some HTTP/2 clients forget the answer, so a short body
    // is read to its end.
    if session.is_http2() {
        let rest = async {
            let mut left = REST;
            while let Ok(Some(part)) = session.as_mut().read_request_body().await
                && part.len() < left
            {
                left -= part.len();
            }
        };
        let _ = timeout(SETTLE, rest).await;
    }
    Ok(())
}

async fn write(session: &mut Session, reply: &Reply) -> Result<()> {
    if let Some(kind) = grpc(session) {
        let mut response = reply.grpc(&kind)?;
        if let ServerSession::H2(h2) = &mut *session.downstream_session {
            // Trailers-only means that the stream ends with this very frame.
            return h2.write_response_header(Box::new(response), true);
        }
        response.insert_header(header::CONTENT_LENGTH, 0)?;
        return send(session, response, Bytes::new()).await;
    }
    let body = reply.body();
    send(session, reply.response(body.len())?, body).await
}

/// Writes one whole answer of ours.
///
/// # Errors
/// The client cannot be written to.
pub async fn send(session: &mut Session, response: ResponseHeader, body: Bytes) -> Result<()> {
    if session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    let empty = body.is_empty() || session.req_header().method == Method::HEAD;
    if let (true, ServerSession::H2(h2)) = (empty, &mut *session.downstream_session) {
        return h2.write_response_header(Box::new(response), true);
    }
    session
        .write_response_header(Box::new(response), empty)
        .await?;
    session
        .write_response_body(if empty { None } else { Some(body) }, true)
        .await
}

/// What `OPTIONS *` gets: it asks about this proxy, not about a vendor (RFC 9110 9.3.7).
///
/// # Errors
/// The client cannot be written to.
pub async fn options(session: &mut Session) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::NO_CONTENT, Some(2))?;
    response.insert_header(
        header::ALLOW,
        "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    )?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    send(session, response, Bytes::new()).await
}

/// A token for a browser (RFC 6749 5.1).
///
/// # Errors
/// The client cannot be written to.
pub async fn vended(
    session: &mut Session,
    token: &Arc<zeroize::Zeroizing<String>>,
    seconds: u64,
) -> Result<()> {
    let value = serde_json::json!({ "access_token": token.as_str(), "token_type": "Bearer", "expires_in": seconds });
    let body = Bytes::from(value.to_string());
    let mut response = ResponseHeader::build(StatusCode::OK, Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    response.insert_header(header::PRAGMA, "no-cache")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    send(session, response, body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_of_an_answer_are_removed() {
        let mut r = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, X-B, content-length"),
            ("x-b", "1"),
            ("keep-alive", "1"),
            ("trailer", "t"),
            ("content-length", "5"),
            ("x-c", "1"),
        ] {
            r.append_header(name, value).unwrap();
        }
        clean(&mut r, false);
        assert!(r.headers.contains_key("x-c") && r.headers.contains_key("content-length"));
        assert!(
            ["x-b", "keep-alive", "trailer"]
                .iter()
                .all(|n| !r.headers.contains_key(*n))
        );
    }

    fn head(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut r = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            r.append_header(*name, *value).unwrap();
        }
        r
    }

    #[test]
    fn an_answer_has_one_framing() {
        let framed = |status: u16, fields: &[(&'static str, &str)]| {
            let mut r = head(status, fields);
            frame(&mut r).unwrap();
            let of = |name: &str| {
                r.headers
                    .get_all(name)
                    .iter()
                    .map(|v| v.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            (of("content-length"), of("transfer-encoding"))
        };
        let both = [("content-length", "3"), ("transfer-encoding", "chunked")];
        assert_eq!(framed(204, &both), (vec![], vec![]));
        assert_eq!(framed(103, &both), (vec![], vec![]));
        assert_eq!(framed(304, &both), (vec!["3".to_owned()], vec![]));
        assert_eq!(
            framed(200, &[("content-length", "3, 3")]),
            (vec!["3".to_owned()], vec![])
        );
        assert_eq!(
            framed(200, &[("content-length", "3"), ("content-length", "3")]),
            (vec!["3".to_owned()], vec![])
        );
        assert_eq!(
            framed(200, &[("transfer-encoding", "chunked")]),
            (vec![], vec!["chunked".to_owned()])
        );
    }

    #[test]
    fn no_vendor_speaks_in_our_name() {
        let left = |fields: &[&'static str]| {
            let mut r = head(
                502,
                &fields
                    .iter()
                    .map(|v| ("proxy-status", *v))
                    .collect::<Vec<_>>(),
            );
            disown_head(&mut r).unwrap();
            r.headers
                .get_all("proxy-status")
                .iter()
                .map(|v| v.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        assert_eq!(
            left(&["cupbearer; error=dns_error; details=\"a, b\""]),
            none
        );
        assert_eq!(left(&[" CupBearer"]), none);
        assert_eq!(left(&["\"cupbearer\"; error=x"]), none);
        assert_eq!(
            left(&["cdn.test; details=\"cupbearer, x\", cupbearer; error=y, edge"]),
            ["cdn.test; details=\"cupbearer, x\", edge"]
        );
        assert_eq!(
            left(&["cupbearer2; error=x", "cupbearer"]),
            ["cupbearer2; error=x"]
        );
    }
}
