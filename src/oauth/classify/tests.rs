//! Every row of `promises.md#classes-of-answers`; the user's rules; and arbitrary answers.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::profile::model::ValueSource;

const WALL: Duration = Duration::from_hours(500_000);

fn answer(status: u16, body: &str) -> TokenResponse {
    TokenResponse::new(
        status,
        HeaderMap::new(),
        ResponseBody::Whole(body.as_bytes().to_vec().into()),
    )
}

fn with(mut answer: TokenResponse, name: &'static str, value: &str) -> TokenResponse {
    answer.headers.append(
        HeaderName::from_static(name),
        HeaderValue::from_str(value).unwrap(),
    );
    answer
}

fn failed(answer: &TokenResponse, rules: &[ErrorRule]) -> Option<Failure> {
    classify_response(answer, "access", rules, WALL, &Scrubber::default()).err()
}

fn error(code: &str) -> String {
    serde_json::json!({ "error": code, "error_description": "why" }).to_string()
}

#[test]
fn r8_every_answer_has_the_class_that_is_promised() {
    use FailureClass::{Config, Rejected, Retry};
    let html = "<html>no</html>".to_owned();
    let mut rows: Vec<(u16, String, Option<FailureClass>)> = vec![
        (200, "{}".into(), None),
        (201, html.clone(), None),
        (204, String::new(), None),
    ];
    for code in [
        "invalid_client",
        "unauthorized_client",
        "invalid_grant",
        "access_denied",
    ] {
        rows.extend([400, 401, 403].map(|status| (status, error(code), Some(Rejected))));
        rows.extend([404, 405, 422].map(|status| (status, error(code), Some(Config))));
        rows.extend([500, 503].map(|status| (status, error(code), Some(Retry))));
    }
    for code in [
        "invalid_request",
        "invalid_scope",
        "unsupported_grant_type",
        "invalid_target",
        "use_dpop_nonce",
        "other",
    ] {
        rows.extend([400, 403].map(|status| (status, error(code), Some(Config))));
        rows.push((401, error(code), Some(Rejected)));
    }
    for code in ["temporarily_unavailable", "server_error"] {
        rows.extend([
            (400, error(code), Some(Retry)),
            (403, error(code), Some(Config)),
            (401, error(code), Some(Rejected)),
        ]);
    }
    rows.extend(
        [408, 425, 429, 500, 502, 503, 504, 511, 599]
            .map(|status| (status, html.clone(), Some(Retry))),
    );
    rows.extend([301, 302, 303, 304, 307, 308].map(|status| (status, html.clone(), Some(Config))));
    rows.extend(
        [402, 404, 405, 406, 410, 413, 415, 418, 422, 451]
            .map(|status| (status, html.clone(), Some(Config))),
    );
    rows.extend([400, 403].map(|status| (status, String::new(), Some(Config))));
    rows.extend(
        ["", "null", "[]", "3", "\"invalid_client\"", "{\"error\":3}"]
            .map(|body| (401, body.into(), Some(Rejected))),
    );
    rows.extend([600, 700, 999, 100].map(|status| (status, html.clone(), Some(Config))));
    assert!(rows.len() >= 60, "{}", rows.len());
    for (status, body, class) in rows {
        assert_eq!(
            failed(&answer(status, &body), &[]).map(|f| f.class),
            class,
            "{status} {body}"
        );
    }
}

#[test]
fn a_refusal_counts_by_its_status_even_where_the_body_breaks_off_or_is_too_large() {
    let of =
        |status, body| failed(&TokenResponse::new(status, HeaderMap::new(), body), &[]).unwrap();
    let cut = || ResponseBody::Broken(FailureKind::ConnectionReset);
    assert_eq!(of(401, cut()).class, FailureClass::Rejected);
    assert_eq!(
        of(401, ResponseBody::TooLarge).class,
        FailureClass::Rejected
    );
    for status in [200, 400, 403, 404, 503] {
        assert_eq!(of(status, cut()).class, FailureClass::Retry, "{status}");
        assert_eq!(
            of(status, ResponseBody::TooLarge).class,
            FailureClass::Retry,
            "{status}"
        );
    }
    assert_eq!(of(200, cut()).to_string(), "connection reset");
    let rule = ErrorRule {
        status: vec![StatusMatch::Exact(403)],
        ..rule(RuleMeaning::Rejected)
    };
    assert_eq!(
        failed(&TokenResponse::new(403, HeaderMap::new(), cut()), &[rule])
            .unwrap()
            .class,
        FailureClass::Rejected
    );
}

#[test]
fn r35_retry_after_is_read_in_both_forms_and_stays_between_a_second_and_an_hour() {
    let date = |seconds: u64| {
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    let now = WALL.as_secs();
    let rows: Vec<(String, Option<u64>)> = vec![
        ("7".into(), Some(7)),
        (" 7 ".into(), Some(7)),
        ("0".into(), Some(1)),
        ("10800".into(), Some(3600)),
        ("1000000000".into(), Some(3600)),
        ("99999999999999999999999999".into(), Some(3600)),
        ("-1".into(), None),
        ("1.5".into(), None),
        ("1e9".into(), None),
        ("soon".into(), None),
        (String::new(), None),
        (date(now + 90), Some(90)),
        (date(now - 90), Some(1)),
        (date(now + 90_000), Some(3600)),
        ("Thu, 99 Foo 2026 00:00:00 GMT".into(), None),
    ];
    for (text, seconds) in rows {
        let failure = failed(&with(answer(429, ""), "retry-after", &text), &[]).unwrap();
        let expected = seconds.map_or((FailureClass::Retry, 5), |s| (FailureClass::Throttled, s));
        assert_eq!(
            (failure.class, failure.wait),
            (expected.0, Some(Duration::from_secs(expected.1))),
            "{text:?}"
        );
    }
    // A date counts from the vendor's own clock.
    let skewed = with(
        with(answer(429, ""), "retry-after", &date(1000 + 30)),
        "date",
        &date(1000),
    );
    assert_eq!(
        failed(&skewed, &[]).unwrap().wait,
        Some(Duration::from_secs(30))
    );
    let busy = failed(&with(answer(503, ""), "retry-after", "12"), &[]).unwrap();
    assert_eq!(
        (busy.class, busy.wait),
        (FailureClass::Retry, Some(Duration::from_secs(12)))
    );
    assert_eq!(failed(&answer(503, ""), &[]).unwrap().wait, None);
    assert_eq!(
        failed(&with(answer(401, ""), "retry-after", "12"), &[])
            .unwrap()
            .wait,
        None
    );
}

fn rule(then: RuleMeaning) -> ErrorRule {
    ErrorRule {
        at: RuleSide::Token,
        token: None,
        status: vec![],
        json: None,
        path: None,
        test: None,
        then,
        hold: None,
    }
}

#[test]
fn a_rule_may_mean_only_answers_of_a_json_type_or_only_others() {
    let by = |json| {
        [
            ErrorRule {
                json,
                status: vec![StatusMatch::Exact(403)],
                ..rule(RuleMeaning::Retry)
            },
            rule(RuleMeaning::Rejected),
        ]
    };
    let class = |json, types: &[&str]| {
        let answer = types.iter().fold(answer(403, "{}"), |answer, kind| {
            with(answer, "content-type", kind)
        });
        failed(&answer, &by(json))
            .map(|failure| failure.class)
            .unwrap()
    };
    for kind in [
        "application/json",
        "Application/JSON ; charset=utf-8",
        "application/problem+json",
        "text/json",
        "application/vnd.x+JSON;v=1",
    ] {
        assert_eq!(
            (class(Some(true), &[kind]), class(Some(false), &[kind])),
            (FailureClass::Retry, FailureClass::Rejected),
            "{kind}"
        );
    }
    for types in [
        &[][..],
        &["text/html"],
        &["application/jsonp"],
        &["+json"],
        &["application/json", "text/html"],
        &["text/plain; a=application/json"],
    ] {
        assert_eq!(
            (class(Some(true), types), class(Some(false), types)),
            (FailureClass::Rejected, FailureClass::Retry),
            "{types:?}"
        );
    }
    assert_eq!(
        (class(None, &[]), class(None, &["application/json"])),
        (FailureClass::Retry, FailureClass::Retry)
    );
}

#[test]
fn rules_are_tried_in_order_and_the_first_hit_wins() {
    let errcode = |test| ErrorRule {
        path: Some(ValueSource::Pointer("/errcode".into())),
        test: Some(test),
        ..rule(RuleMeaning::Rejected)
    };
    let is = |list: &[&str]| RuleTest::In(list.iter().map(ToString::to_string).collect());
    let isnt = |list: &[&str]| RuleTest::NotIn(list.iter().map(ToString::to_string).collect());
    let class =
        |rules: &[ErrorRule], status, body| failed(&answer(status, body), rules).map(|f| f.class);
    // Compared as text, so a number and its string are the same.
    for body in ["{\"errcode\":40001}", "{\"errcode\":\"40001\"}"] {
        assert_eq!(
            class(&[errcode(is(&["40001"]))], 200, body),
            Some(FailureClass::Rejected),
            "{body}"
        );
    }
    assert_eq!(
        class(&[errcode(is(&["true"]))], 200, "{\"errcode\":true}"),
        Some(FailureClass::Rejected)
    );
    // What is not there matches neither.
    for body in [
        "{}",
        "{\"errcode\":null}",
        "{\"errcode\":[0]}",
        "{\"errcode\":{}}",
        "no JSON",
        "",
    ] {
        assert_eq!(class(&[errcode(is(&["0"]))], 200, body), None, "{body}");
        assert_eq!(class(&[errcode(isnt(&["0"]))], 200, body), None, "{body}");
    }
    assert_eq!(
        class(&[errcode(isnt(&["0"]))], 200, "{\"errcode\":1}"),
        Some(FailureClass::Rejected)
    );
    assert_eq!(
        class(&[errcode(isnt(&["0"]))], 200, "{\"errcode\":0}"),
        None
    );
    let there = ErrorRule {
        path: Some(ValueSource::Pointer("/errcode".into())),
        ..rule(RuleMeaning::Retry)
    };
    assert_eq!(
        class(std::slice::from_ref(&there), 200, "{\"errcode\":1}"),
        Some(FailureClass::Retry)
    );
    assert_eq!(class(&[there], 200, "{}"), None);
    // Order, status lists and classes, tokens, places.
    let by = |status, then| ErrorRule {
        status,
        ..rule(then)
    };
    let both = [
        by(
            vec![StatusMatch::Exact(400), StatusMatch::Class(5)],
            RuleMeaning::Config,
        ),
        by(vec![], RuleMeaning::Retry),
    ];
    assert_eq!(class(&both, 400, ""), Some(FailureClass::Config));
    assert_eq!(class(&both, 503, ""), Some(FailureClass::Config));
    assert_eq!(class(&both, 401, ""), Some(FailureClass::Retry));
    assert_eq!(
        class(
            &[ErrorRule {
                token: Some("session".into()),
                ..rule(RuleMeaning::Retry)
            }],
            401,
            ""
        ),
        Some(FailureClass::Rejected)
    );
    assert_eq!(
        class(
            &[ErrorRule {
                token: Some("access".into()),
                ..rule(RuleMeaning::Retry)
            }],
            401,
            ""
        ),
        Some(FailureClass::Retry)
    );
    assert_eq!(
        class(
            &[ErrorRule {
                at: RuleSide::Api,
                ..rule(RuleMeaning::Pass)
            }],
            401,
            ""
        ),
        Some(FailureClass::Rejected)
    );
    assert_eq!(
        class(&[rule(RuleMeaning::Pass)], 401, ""),
        Some(FailureClass::Rejected)
    );
    assert_eq!(class(&[rule(RuleMeaning::Ok)], 401, ""), None);
    let header = ErrorRule {
        path: Some(ValueSource::Header(HeaderName::from_static("x-why"))),
        test: Some(is(&["quota"])),
        ..rule(RuleMeaning::Throttled)
    };
    let failure = failed(&with(answer(403, ""), "x-why", "quota"), &[header]).unwrap();
    assert_eq!(
        (failure.class, failure.wait),
        (FailureClass::Throttled, Some(Duration::from_secs(5)))
    );
}

#[test]
fn the_hold_of_a_rule_is_how_long_is_waited() {
    let hold = Some(Duration::from_secs(77));
    for then in [
        RuleMeaning::Retry,
        RuleMeaning::Throttled,
        RuleMeaning::Rejected,
        RuleMeaning::Config,
    ] {
        let failure = failed(
            &with(answer(429, ""), "retry-after", "3"),
            &[ErrorRule { hold, ..rule(then) }],
        )
        .unwrap();
        assert_eq!(failure.wait, hold, "{then:?}");
    }
}

#[test]
fn only_invalid_client_and_a_bare_401_speak_of_the_client() {
    let rows = [
        (401, String::new(), true),
        (401, "<html>".into(), true),
        (401, error("invalid_client"), true),
        (400, error("invalid_client"), true),
        (401, error("invalid_grant"), false),
        (400, error("invalid_grant"), false),
        (403, error("access_denied"), false),
        (500, error("invalid_client"), false),
    ];
    for (status, body, refused) in rows {
        assert_eq!(
            failed(&answer(status, &body), &[]).unwrap().client_refused,
            refused,
            "{status} {body}"
        );
    }
    let rejected = ErrorRule {
        status: vec![StatusMatch::Exact(400)],
        ..rule(RuleMeaning::Rejected)
    };
    assert!(
        !failed(&answer(400, "{}"), &[rejected])
            .unwrap()
            .client_refused
    );
}

#[test]
fn an_error_shows_the_code_and_the_description_and_nothing_else() {
    let shown = |body: &str| failed(&answer(400, body), &[]).unwrap().to_string();
    assert_eq!(shown(&error("invalid_scope")), "invalid_scope: why");
    assert_eq!(shown("{\"error\":\"invalid_scope\"}"), "invalid_scope");
    assert_eq!(
        shown("{\"error\":\"bad\\ncode\",\"message\":\"raw text\"}"),
        "the token endpoint answered 400 without saying why"
    );
    assert_eq!(
        shown("<html>raw text</html>"),
        "the token endpoint answered 400 without saying why"
    );
    assert_eq!(shown("{\"error_description\":\"a\\r\\nb\"}"), "a b");
    assert_eq!(
        failed(&answer(302, ""), &[]).unwrap().to_string(),
        "a redirect, which is never followed"
    );
    let mut scrubber = Scrubber::default();
    scrubber.add("s3cr3t!value");
    let echo = answer(
        401,
        "{\"error\":\"invalid_client\",\"error_description\":\"secret s3cr3t!value or s3cr3t%21value is wrong\"}",
    );
    let Err(failure) = classify_response(&echo, "access", &[], WALL, &scrubber) else {
        panic!("no failure")
    };
    assert_eq!(
        failure.to_string(),
        "invalid_client: secret *** or *** is wrong"
    );
}

proptest! {
    #[test]
    fn any_answer_has_a_meaning(status in any::<u16>(), body in any::<Vec<u8>>(), after in "[ -~]{0,40}", wall in any::<u64>()) {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_str(&after).unwrap());
        headers.insert("date", HeaderValue::from_str(&after).unwrap());
        let answer = TokenResponse::new(status, headers, ResponseBody::Whole(body.into()));
        match classify_response(&answer, "access", &[], Duration::from_secs(wall), &Scrubber::default()) {
            Ok(()) => prop_assert!((200..300).contains(&status)),
            Err(failure) => {
                prop_assert!(failure.wait.is_none_or(|w| w >= MIN_WAIT && w <= MAX_WAIT));
                prop_assert!(failure.to_string().chars().count() < 400 && !failure.to_string().contains('\n'));
                prop_assert_eq!(failure.class == FailureClass::Rejected && status == 401, status == 401);
            }
        }
    }
}
