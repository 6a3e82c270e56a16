//! The status page at `/`: one page written here, with its own style sheet and script, and nothing from elsewhere.

mod bar;
mod html;
mod render;

use axum::{Router, extract::State, response::Response, routing::get};
use http::{HeaderValue, StatusCode, header};

use super::{Admin, StatusPage, respond};

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
        .route("/page/page.css", get(|| async { guarded("text/css; charset=utf-8", STYLE.to_owned()) }))
        .route("/page/page.js", get(|| async { guarded("text/javascript; charset=utf-8", SCRIPT.to_owned()) }))
        .route("/page/icon.svg", get(|| async { guarded("image/svg+xml", ICON.to_owned()) }))
}

async fn page(State(admin): State<Admin>) -> Response {
    let live = render::live(&StatusPage::of(&admin));
    guarded("text/html; charset=utf-8", PAGE.replacen("<!--live-->", &live, 1))
}

fn guarded(content_type: &'static str, body: String) -> Response {
    let mut response = respond(StatusCode::OK, content_type, body.into_bytes());
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
