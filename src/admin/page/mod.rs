//! The status page at `/`: one page written here, with its own style sheet and script, and nothing
//! from elsewhere.

mod bar;
mod html;
mod render;

use axum::{Router, extract::State, response::Response, routing::get};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::{Admin, StatusPage, large_response, respond};

const PAGE: &str = include_str!("page.html");
const ASK: &str = include_str!("ask.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// What the page is made of: it says nothing of the program.
pub(super) fn part_routes() -> Router<Admin> {
    Router::new()
        .route(
            "/page/page.css",
            get(|| async { part_response("text/css; charset=utf-8", STYLE) }),
        )
        .route(
            "/page/page.js",
            get(|| async { part_response("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route(
            "/page/icon.svg",
            get(|| async { part_response("image/svg+xml", ICON) }),
        )
}

/// `GET /`
pub(super) async fn get_page(State(admin): State<Admin>) -> Response {
    let render = || {
        PAGE.replacen(
            "<!--live-->",
            &render::render_live(&StatusPage::collect(&admin)),
            1,
        )
        .into_bytes()
    };
    add_policy(large_response(&admin, StatusCode::OK, "text/html; charset=utf-8", render).await)
}

/// The page where a token is wanted first: its script asks for it. `wrong`: one was shown.
pub(super) fn token_page(wrong: bool) -> Response {
    let why = if wrong {
        "<p class=\"warn\" role=\"alert\">This is not the token.</p>"
    } else {
        ""
    };
    let page = PAGE.replacen("<!--live-->", &ASK.replacen("<!--why-->", why, 1), 1);
    add_policy(respond(
        StatusCode::UNAUTHORIZED,
        "text/html; charset=utf-8",
        page.into_bytes(),
    ))
}

fn part_response(content_type: &'static str, body: &'static str) -> Response {
    add_policy(respond(
        StatusCode::OK,
        content_type,
        Bytes::from_static(body.as_bytes()),
    ))
}

fn add_policy(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
