//! The status page at `/`: one page written here, with its own style sheet and script, and nothing from elsewhere.

mod bar;
mod html;
mod render;

use axum::{Router, extract::State, response::Response, routing::get};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::{Admin, StatusPage, large, respond};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/", get(page))
        .route("/page/page.css", get(|| async { part("text/css; charset=utf-8", STYLE) }))
        .route("/page/page.js", get(|| async { part("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/page/icon.svg", get(|| async { part("image/svg+xml", ICON) }))
}

async fn page(State(admin): State<Admin>) -> Response {
    let render = || PAGE.replacen("<!--live-->", &render::live(&StatusPage::of(&admin)), 1).into_bytes();
    guarded(large(&admin, StatusCode::OK, "text/html; charset=utf-8", render).await)
}

fn part(content_type: &'static str, body: &'static str) -> Response {
    guarded(respond(StatusCode::OK, content_type, Bytes::from_static(body.as_bytes())))
}

fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
