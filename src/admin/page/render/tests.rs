//! What the page says of a status, and that nothing from outside gets through as markup.

use proptest::prelude::*;

use super::*;
use crate::admin::status::{Build, LastFailure, LastReload, ProblemState};

fn token(state: &'static str, error: Option<&str>, sendable: bool) -> TokenJson {
    let at = |text: &str| Some(text.to_owned()).filter(|_| sendable);
    TokenJson {
        name: "access".into(),
        partition: None,
        state,
        generation: 3,
        obtained_at: at("2030-01-01T10:00:00Z"),
        expires_at: at("2030-01-01T10:05:00Z"),
        refresh_at: at("2030-01-01T10:04:00Z"),
        sendable,
        last_failure: error.map(|error| LastFailure {
            class: "rejected",
            at: "2030-01-01T10:01:00Z".into(),
            status: Some(401),
            error: error.into(),
            help: "Put the right secret in its place.",
        }),
        rejections: 0,
        fingerprint: at("0badcafe"),
    }
}

fn status(tokens: Vec<TokenJson>) -> StatusPage {
    StatusPage {
        build: Build { version: "0.0.0" },
        now: "2030-01-01T10:02:30Z".into(),
        ready: true,
        not_ready: None,
        uptime: 3725,
        config: ConfigState {
            generation: 2,
            file: None,
            ready: "started",
            listen: vec!["127.0.0.1:1".into()],
            last_reload: None,
        },
        upstreams: vec![UpstreamState {
            name: "acme".into(),
            url: "https://api.acme.example:443".into(),
            credential: Some("acme".into()),
            in_flight: 0,
            answers: [("200".to_owned(), 7)].into(),
            refusals: [("token_timeout".to_owned(), 2)].into(),
            last_codes: vec![503, 200],
        }],
        credentials: vec![CredentialState {
            name: "acme".into(),
            profile: "oauth2".into(),
            able: true,
            waiters: 0,
            secret_generation: 0,
            tokens,
        }],
    }
}

#[test]
fn a_token_in_use_is_shown_with_its_life() {
    let page = render_live(&status(vec![token("ok", None, true)]));
    for part in [
        "All tokens are well",
        "token in use",
        "50 % of its life is over, refresh planned at 80 %",
        "(in 1 min 30 s)",
        "data-total=\"9\"",
        "<span class=\"bad\">503</span>",
        "up for 1 h 2 min",
        "data-post=\"/api/credentials/acme/refresh\"",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("/unlatch"));
}

#[test]
fn every_state_has_words_and_a_latched_one_can_be_unlatched() {
    let latched = render_live(&status(vec![token(
        "latched",
        Some("invalid_client"),
        false,
    )]));
    for part in [
        "1 credential needs attention",
        "latched: the secret was refused, attempts are stopped",
        "status 401",
        "Put the right secret",
        "/unlatch",
    ] {
        assert!(latched.contains(part), "{part} in {latched}");
    }
    let words: std::collections::BTreeSet<&str> =
        ["ok", "refreshing", "waiting", "held", "latched", "resting"]
            .into_iter()
            .flat_map(|state| {
                [(false, false), (false, true), (true, false), (true, true)]
                    .map(|(failed, can)| (state, failed, can))
            })
            .map(|(state, failed, can)| {
                token_badge(&token(state, failed.then_some("x"), can)).words
            })
            .collect();
    assert_eq!(words.len(), 11, "{words:?}");
}

#[test]
fn a_refused_configuration_is_told_with_every_reason() {
    let mut status = status(vec![]);
    let problem = |key: &str| ProblemState {
        severity: "error",
        key: key.into(),
        file: None,
        what: "is <not> a known key".into(),
        hint: Some("did you mean \"listen\"?".into()),
    };
    status.config.last_reload = Some(LastReload {
        outcome: "refused",
        at: status.now.clone(),
        problems: vec![problem("proxy.lisen"), problem("")],
        restart: vec!["proxy.workers"],
    });
    let page = render_live(&status);
    for part in [
        "the last configuration was refused",
        "<b>proxy.lisen</b>",
        "is &lt;not&gt; a known key",
        "only a restart brings into effect: proxy.workers",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}

proptest! {
    /// The tags of the page are the same whatever a vendor or a configuration says.
    #[test]
    fn m5_no_text_from_outside_changes_the_structure(text in "\\PC+", ready in any::<bool>()) {
        let shape = |text: &str| {
            let mut status = status(vec![token("held", Some(text), true)]);
            status.not_ready = Some(text.to_owned()).filter(|_| !ready);
            status.credentials[0].name = text.into();
            status.upstreams[0].url = text.into();
            status.config.file = Some(text.into());
            let page = render_live(&status);
            page.chars().filter(|c| matches!(c, '<' | '>' | '"' | '\'')).collect::<String>()
        };
        prop_assert_eq!(shape(&text), shape("plain"));
    }
}
