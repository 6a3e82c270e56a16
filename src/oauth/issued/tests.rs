//! Where tokens and lives are found, what is refused, and arbitrary answers.

use http::{HeaderMap, HeaderName, HeaderValue, header::SET_COOKIE};
use proptest::prelude::*;

use super::*;

/// 2026-11-21T08:00:00Z
const WALL: Duration = Duration::from_hours(498_680);

fn spec() -> Response {
    Response {
        token: ValueSource::Pointer("/access_token".into()),
        expires_in: Some(ValueSource::Pointer("/expires_in".into())),
        expires_unit: Duration::from_secs(1),
        expires_at: None,
        expires_at_format: MomentFormat::Auto,
        jwt_exp: true,
        vars: BTreeMap::new(),
    }
}

fn answer(body: &str) -> TokenResponse {
    TokenResponse::new(
        200,
        HeaderMap::new(),
        ResponseBody::Whole(body.as_bytes().to_vec().into()),
    )
}

fn run(answer: &TokenResponse, spec: &Response) -> Result<Issued, Failure> {
    read_issued(
        answer,
        "access",
        spec,
        &[],
        SendTime {
            sent: BootInstant::default(),
            wall: WALL,
        },
        &mut Scrubber::default(),
    )
}

fn class(answer: &TokenResponse, spec: &Response) -> Option<FailureClass> {
    run(answer, spec).err().map(|f| f.class)
}

fn lived(body: &str, spec: &Response) -> (Option<f64>, bool) {
    let issued = run(&answer(body), spec).unwrap_or_else(|f| panic!("{body}: {f}"));
    (issued.life.map(|l| l.as_secs_f64()), issued.implausible)
}

fn jwt(claims: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn r6_r7_a_plain_rfc_6749_answer_is_read_and_its_refresh_token_ignored() {
    let body = r#"{"access_token":"abc","token_type":"BearerToken","expires_in":3600,"refresh_token":"never","scope":"a","extra":{}}"#;
    let issued = run(&answer(body), &spec()).unwrap();
    assert_eq!(issued.value.as_str(), "abc");
    assert_eq!(
        (issued.life, issued.implausible),
        (Some(Duration::from_hours(1)), false)
    );
    assert!(issued.vars.is_empty());
}

#[test]
fn r15_answers_without_a_usable_token_have_their_class() {
    let long = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(16_385));
    let rows: Vec<(&str, FailureClass)> = vec![
        ("", FailureClass::Retry),
        ("<html>hello</html>", FailureClass::Retry),
        (r#"{"access_token":"ab"#, FailureClass::Retry),
        ("\u{1f}\u{8b}", FailureClass::Retry),
        (
            r#"{"access_token":"a","expires_in":NaN}"#,
            FailureClass::Retry,
        ),
        ("null", FailureClass::Config),
        ("[]", FailureClass::Config),
        ("{}", FailureClass::Config),
        (r#"{"error":"invalid_client"}"#, FailureClass::Config),
        (r#"{"access_token":null}"#, FailureClass::Config),
        (r#"{"access_token":""}"#, FailureClass::Config),
        (r#"{"access_token":7}"#, FailureClass::Config),
        (r#"{"access_token":{"a":"b"}}"#, FailureClass::Config),
        (r#"{"access_token":"a b"}"#, FailureClass::Config),
        (r#"{"access_token":"a\r\nX-Evil: 1"}"#, FailureClass::Config),
        (r#"{"access_token":"a\u0000"}"#, FailureClass::Config),
        (r#"{"access_token":"é"}"#, FailureClass::Config),
        (&long, FailureClass::Config),
        (
            r#"{"access_token":"a","token_type":"DPoP"}"#,
            FailureClass::Config,
        ),
        (
            r#"{"access_token":"a","token_type":"mac"}"#,
            FailureClass::Config,
        ),
        (
            r#"{"access_token":"a","token_type":" dpop "}"#,
            FailureClass::Config,
        ),
        (r#"{"access_token":1e999}"#, FailureClass::Config),
    ];
    for (body, expected) in rows {
        let failure = run(&answer(body), &spec())
            .err()
            .unwrap_or_else(|| panic!("{body} should fail"));
        assert_eq!(failure.class, expected, "{body}");
        assert!(
            !failure.to_string().contains("Evil") && failure.to_string().len() < 200,
            "{}",
            failure
        );
    }
    for kind in ["bearer", "BEARER", "BearerToken", "N_A", ""] {
        assert_eq!(
            class(
                &answer(&format!(r#"{{"access_token":"a","token_type":"{kind}"}}"#)),
                &spec()
            ),
            None,
            "{kind}"
        );
    }
    assert_eq!(
        class(
            &answer(&format!(r#"{{"access_token":"{}"}}"#, "x".repeat(16_384))),
            &spec()
        ),
        None
    );
    assert_eq!(
        class(&answer("\u{feff}{\"access_token\":\"a\"}"), &spec()),
        None
    );
}

#[test]
fn a_type_that_needs_a_proof_is_found_beside_the_token_too() {
    let nested = Response {
        token: ValueSource::Pointer("/data/access_token".into()),
        ..spec()
    };
    for (body, class) in [
        (
            r#"{"data":{"access_token":"a","token_type":"DPoP"}}"#,
            Some(FailureClass::Config),
        ),
        (
            r#"{"token_type":"dpop","data":{"access_token":"a"}}"#,
            Some(FailureClass::Config),
        ),
        (
            r#"{"data":{"access_token":"a","token_type":"Bearer"},"other":{"token_type":"DPoP"}}"#,
            None,
        ),
    ] {
        assert_eq!(class_of(body, &nested), class, "{body}");
    }
}

fn class_of(body: &str, spec: &Response) -> Option<FailureClass> {
    class(&answer(body), spec)
}

#[test]
fn bytes_that_are_no_text_cost_their_member_and_where_that_is_the_token_the_answer() {
    let of = |bytes: &[u8]| {
        run(
            &TokenResponse::new(
                200,
                HeaderMap::new(),
                ResponseBody::Whole(bytes.to_vec().into()),
            ),
            &spec(),
        )
        .map(|i| i.value.to_string())
    };
    assert_eq!(
        of(b"{\"access_token\":\"a\",\"name\":\"Jos\xe9\"}")
            .ok()
            .unwrap(),
        "a"
    );
    let garbled = of(b"{\"access_token\":\"a\xe9\"}").err().unwrap();
    assert!(
        garbled.class == FailureClass::Retry && garbled.to_string().contains("not JSON"),
        "{}",
        garbled
    );
}

#[test]
fn a_description_that_repeats_the_token_is_scrubbed() {
    let body = r#"{"access_token":"tok-en-0123","token_type":"DPoP","error_description":"got tok-en-0123"}"#;
    assert!(
        run(&answer(body), &spec())
            .err()
            .unwrap()
            .to_string()
            .contains("got ***")
    );
}

#[test]
fn tokens_are_found_in_headers_cookies_and_bodies() {
    let mut headers = HeaderMap::new();
    headers.insert("x-token", HeaderValue::from_static(" from-header "));
    headers.append(SET_COOKIE, HeaderValue::from_static("other=1"));
    headers.append(SET_COOKIE, HeaderValue::from_static("sid=\"old\"; Path=/"));
    headers.append(
        SET_COOKIE,
        HeaderValue::from_static("sid=\"from-cookie\"; HttpOnly"),
    );
    let answer = TokenResponse::new(
        201,
        headers,
        ResponseBody::Whole(b" from-body\r\n".to_vec().into()),
    );
    let rows = [
        (
            ValueSource::Header(HeaderName::from_static("x-token")),
            "from-header",
        ),
        (ValueSource::Cookie("sid".into()), "from-cookie"),
        (ValueSource::Body, "from-body"),
    ];
    for (token, expected) in rows {
        assert_eq!(
            run(&answer, &Response { token, ..spec() })
                .unwrap()
                .value
                .as_str(),
            expected
        );
    }
    for token in [
        ValueSource::Header(HeaderName::from_static("x-none")),
        ValueSource::Cookie("none".into()),
    ] {
        assert_eq!(
            class(&answer, &Response { token, ..spec() }),
            Some(FailureClass::Config)
        );
    }
    let page = TokenResponse::new(
        200,
        HeaderMap::new(),
        ResponseBody::Whole(vec![0xff, 0xfe].into()),
    );
    assert_eq!(
        class(
            &page,
            &Response {
                token: ValueSource::Body,
                ..spec()
            }
        ),
        Some(FailureClass::Config)
    );
}

#[test]
fn t4_expires_in_is_a_number_or_a_numeric_string_and_nothing_absurd() {
    let rows: Vec<(&str, Option<f64>, bool)> = vec![
        ("3600", Some(3600.0), false),
        ("\"3600\"", Some(3600.0), false),
        ("\" 3600 \"", Some(3600.0), false),
        ("3.6e3", Some(3600.0), false),
        ("\"3.6e3\"", Some(3600.0), false),
        ("0.999", None, true),
        ("1", Some(1.0), false),
        ("1.5", Some(1.5), false),
        ("1e999", None, true),
        ("-1e999", None, true),
        ("34560000", Some(34_560_000.0), false),
        ("34560001", None, true),
        ("0", None, true),
        ("-1", None, true),
        ("0.0001", None, true),
        ("1e12", None, true),
        ("1e300", None, true),
        ("18446744073709551615", None, true),
        ("\"NaN\"", None, true),
        ("\"inf\"", None, true),
        ("\"soon\"", None, true),
        ("true", None, true),
        ("[]", None, true),
        ("null", None, false),
    ];
    for (said, life, implausible) in rows {
        assert_eq!(
            lived(
                &format!(r#"{{"access_token":"a","expires_in":{said}}}"#),
                &spec()
            ),
            (life, implausible),
            "{said}"
        );
    }
    assert_eq!(lived(r#"{"access_token":"a"}"#, &spec()), (None, false));
    let milliseconds = Response {
        expires_unit: Duration::from_millis(1),
        ..spec()
    };
    assert_eq!(
        lived(r#"{"access_token":"a","expires_in":90000}"#, &milliseconds),
        (Some(90.0), false)
    );
}

#[test]
fn expires_at_is_read_as_epoch_seconds_or_milliseconds_or_as_a_date() {
    let auto = Response {
        expires_at: Some(ValueSource::Pointer("/at".into())),
        ..spec()
    };
    let rows = [
        ("1795248060", Some(60.0), false),
        ("\"1795248060\"", Some(60.0), false),
        ("1795248060000", Some(60.0), false),
        ("\"2026-11-21T08:01:00Z\"", Some(60.0), false),
        ("\"2026-11-21T17:01:00+09:00\"", Some(60.0), false),
        ("\"2026-11-21T08:01:00.500Z\"", Some(60.5), false),
        ("1795248000", None, true),
        ("1", None, true),
        ("\"2026-11-21 08:01\"", None, true),
        ("\"9999-01-01T00:00:00Z\"", None, true),
        ("1e400", None, true),
        ("null", None, false),
    ];
    for (said, life, implausible) in rows {
        let (found, odd) = lived(&format!(r#"{{"access_token":"a","at":{said}}}"#), &auto);
        assert_eq!(
            (found.map(|f| (f * 1000.0).round() / 1000.0), odd),
            (life, implausible),
            "{said}"
        );
    }
}

#[test]
fn c4_a_date_in_a_vendors_own_format_has_its_own_zone() {
    let at = |format: &str, zone: Option<&str>, text: &str| parse_date(text, format, zone);
    assert_eq!(
        at(
            "%Y-%m-%d %H:%M:%S",
            Some("Asia/Seoul"),
            "2026-11-21 17:00:00"
        ),
        Some(1_795_248_000.0)
    );
    assert_eq!(
        at("%Y-%m-%d %H:%M:%S", Some("+09:00"), "2026-11-21 17:00:00"),
        Some(1_795_248_000.0)
    );
    assert_eq!(
        at("%Y-%m-%d %H:%M:%S", Some("UTC"), "2026-11-21 08:00:00"),
        Some(1_795_248_000.0)
    );
    assert_eq!(
        at("%Y%m%d%H%M%S %z", None, "20261121090000 +0100"),
        Some(1_795_248_000.0)
    );
    assert_eq!(at("%Y-%m-%d %H:%M:%S", None, "2026-11-21 08:00:00"), None);
    assert_eq!(
        at(
            "%Y-%m-%d %H:%M:%S",
            Some("Mars/Olympus"),
            "2026-11-21 08:00:00"
        ),
        None
    );
    assert_eq!(at("%Y", Some("UTC"), "nonsense"), None);
    // 02:30 comes twice on 2026-10-25 in Berlin: the earlier (+02:00) is taken.
    assert_eq!(
        at("%Y-%m-%d %H:%M", Some("Europe/Berlin"), "2026-10-25 02:30"),
        Some(1_792_888_200.0)
    );
}

#[test]
fn the_smallest_plausible_life_counts() {
    let both = Response {
        expires_at: Some(ValueSource::Pointer("/at".into())),
        ..spec()
    };
    assert_eq!(
        lived(
            r#"{"access_token":"a","expires_in":3600,"at":1795248060}"#,
            &both
        ),
        (Some(60.0), false)
    );
    assert_eq!(
        lived(
            r#"{"access_token":"a","expires_in":30,"at":1795248060}"#,
            &both
        ),
        (Some(30.0), false)
    );
    assert_eq!(
        lived(
            r#"{"access_token":"a","expires_in":0,"at":1795248060}"#,
            &both
        ),
        (Some(60.0), true)
    );
}

#[test]
fn a_jwt_tells_its_life_by_exp_and_iat_and_is_not_verified() {
    let of = |claims: &str| lived(&format!(r#"{{"access_token":"{}"}}"#, jwt(claims)), &spec());
    assert_eq!(of(r#"{"exp":1000300,"iat":1000000}"#), (Some(300.0), false));
    assert_eq!(of(r#"{"exp":1795248120}"#), (Some(120.0), false));
    assert_eq!(of(r#"{"exp":1000300}"#), (None, true));
    assert_eq!(of(r#"{"exp":"x","iat":1}"#), (None, true));
    assert_eq!(of(r#"{"iat":1}"#), (None, false));
    assert_eq!(of("[]"), (None, false));
    assert_eq!(of("no JSON"), (None, false));
    for token in ["a.b", "a.b.c.d", "e30.!!!.x", "opaque"] {
        assert_eq!(
            lived(&format!(r#"{{"access_token":"{token}"}}"#), &spec()),
            (None, false),
            "{token}"
        );
    }
    let off = Response {
        jwt_exp: false,
        ..spec()
    };
    assert_eq!(
        lived(
            &format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":2,"iat":1}"#)),
            &off
        ),
        (None, false)
    );
}

/// A JWT made and over at these seconds from now, in an answer that was dated so.
fn made(iat: Option<i64>, exp: i64, date: Option<i64>) -> TokenResponse {
    let now = i64::try_from(WALL.as_secs()).unwrap();
    let iat = iat.map_or(String::new(), |iat| format!(",\"iat\":{}", now + iat));
    let body = format!(
        r#"{{"access_token":"{}","expires_in":3600}}"#,
        jwt(&format!("{{\"exp\":{}{iat}}}", now + exp))
    );
    let mut answer = answer(&body);
    if let Some(date) = date {
        let at = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(now + date).unwrap());
        answer.headers.insert(
            "date",
            HeaderValue::from_str(&httpdate::fmt_http_date(at)).unwrap(),
        );
    }
    answer
}

#[test]
fn a_jwt_that_was_made_long_ago_is_not_believed_past_its_end_whatever_our_clock_says() {
    let said = |answer: &TokenResponse| {
        run(answer, &spec())
            .map(|issued| (issued.life.map(|l| l.as_secs()), issued.implausible))
            .ok()
            .unwrap()
    };
    for wrong in [-600, 0, 600] {
        let at = |iat: i64, exp: i64| said(&made(Some(wrong + iat), wrong + exp, Some(wrong)));
        assert_eq!(
            at(-3540, 60),
            (Some(60), false),
            "an hour old, by {wrong} s"
        );
        assert_eq!(at(0, 3600), (Some(3600), false), "fresh, by {wrong} s");
        assert_eq!(
            at(0, 300),
            (Some(300), false),
            "fresh and short, by {wrong} s"
        );
        assert_eq!(
            at(-4000, 7200),
            (Some(3600), false),
            "it lives longer than the answer says, by {wrong} s"
        );
        assert_eq!(
            said(&made(None, wrong + 60, Some(wrong))),
            (Some(60), false),
            "without iat, by {wrong} s"
        );
        assert_eq!(
            at(-7200, -3600),
            (None, true),
            "over by the vendor's own clock, by {wrong} s"
        );
        assert_eq!(at(-7200, 0), (None, true));
        // What is too long to be true says nothing of its end.
        assert_eq!(at(0, 401 * 86_400), (Some(3600), true), "by {wrong} s");
    }
    // Without a date our own clock is all there is; it counts where the token seems to be old.
    assert_eq!(said(&made(Some(-3540), 60, None)), (Some(60), false));
    assert_eq!(said(&made(Some(-301), 100, None)), (Some(100), false));
    assert_eq!(said(&made(Some(-299), 100, None)), (Some(399), false));
    assert_eq!(
        said(&made(Some(600), 900, None)),
        (Some(300), false),
        "our clock is 10 min behind"
    );
    assert_eq!(
        said(&made(Some(-600), -300, None)),
        (Some(300), false),
        "or 10 min ahead: that it is over is not believed"
    );
    assert_eq!(said(&made(None, 60, None)), (Some(60), false));
}

#[test]
fn the_date_of_an_answer_is_read_in_all_three_forms_and_nonsense_is_none() {
    let moment = httpdate::fmt_http_date(std::time::UNIX_EPOCH + WALL);
    assert_eq!(moment, "Sat, 21 Nov 2026 08:00:00 GMT");
    for form in [
        &*moment,
        "Saturday, 21-Nov-26 08:00:00 GMT",
        "Sat Nov 21 08:00:00 2026",
    ] {
        let mut answer = made(Some(-3540), 60, None);
        answer
            .headers
            .insert("date", HeaderValue::from_str(form).unwrap());
        let issued = read_issued(
            &answer,
            "access",
            &spec(),
            &[],
            SendTime {
                sent: BootInstant::default(),
                wall: Duration::from_secs(9),
            },
            &mut Scrubber::default(),
        );
        assert_eq!(
            issued.ok().unwrap().life,
            Some(Duration::from_mins(1)),
            "{form}"
        );
    }
    for nonsense in [
        "",
        "now",
        "1795248000",
        "Sat, 21 Nov 2026 08:00:00",
        "Sat, 32 Nov 2026 08:00:00 GMT",
        "Sat, 21 Nov 99999 08:00:00 GMT",
    ] {
        let mut answer = made(Some(-3540), 60, None);
        answer
            .headers
            .insert("date", HeaderValue::from_str(nonsense).unwrap());
        assert_eq!(
            run(&answer, &spec()).ok().unwrap().life,
            Some(Duration::from_mins(1)),
            "{nonsense}"
        );
    }
    let mut far = made(Some(0), 3600, None);
    far.headers.insert(
        "date",
        HeaderValue::from_static("Fri, 31 Dec 9999 23:59:59 GMT"),
    );
    assert_eq!(run(&far, &spec()).ok().unwrap().life, None);
}

#[test]
fn times_that_make_sense_only_as_milliseconds_are_milliseconds() {
    let now = WALL.as_millis();
    let of = |claims: String| {
        lived(
            &format!(r#"{{"access_token":"{}"}}"#, jwt(&claims)),
            &spec(),
        )
    };
    assert_eq!(
        of(format!(r#"{{"exp":{},"iat":{now}}}"#, now + 3_600_000)),
        (Some(3600.0), false)
    );
    assert_eq!(
        of(format!(r#"{{"exp":{}}}"#, now + 3_600_000)),
        (Some(3600.0), false)
    );
    assert_eq!(
        of(format!(
            r#"{{"exp":"{}","iat":{}}}"#,
            now + 3_600_000,
            WALL.as_secs()
        )),
        (Some(3600.0), false),
        "each by itself"
    );
    assert_eq!(
        of(format!(r#"{{"exp":{},"iat":{now}e0}}"#, now + 3_600_500)),
        (Some(3600.5), false)
    );
    assert_eq!(of(r#"{"exp":1e999,"iat":1}"#.into()), (None, true));
    let micros = WALL.as_micros();
    assert_eq!(
        of(format!(
            r#"{{"exp":{},"iat":{micros}}}"#,
            micros + 3_600_000_000
        )),
        (None, true),
        "microseconds are neither"
    );
    assert_eq!(
        of(r#"{"exp":1795251600,"iat":1795248000,"odd":1e999}"#.into()),
        (Some(3600.0), false),
        "another claim may be absurd"
    );
    assert_eq!(of(r#"{"exp":1795251600,"iat":1e999}"#.into()), (None, true));
}

#[test]
fn a_moment_of_expiry_is_measured_by_the_vendors_clock() {
    let spec = Response {
        expires_at: Some(ValueSource::Pointer("/at".into())),
        ..spec()
    };
    for wrong in [-600_i64, 600] {
        let at = i64::try_from(WALL.as_secs()).unwrap() + wrong;
        let mut answer = answer(&format!(
            r#"{{"access_token":"a","at":{}}}"#,
            (at + 300) * 1000
        ));
        let date =
            httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(at.unsigned_abs()));
        answer
            .headers
            .insert("date", HeaderValue::from_str(&date).unwrap());
        assert_eq!(
            run(&answer, &spec).ok().unwrap().life,
            Some(Duration::from_mins(5)),
            "{wrong}"
        );
    }
}

#[test]
fn vars_are_taken_as_text() {
    let vars = [("url", "/instance/url"), ("id", "/id"), ("none", "/none")]
        .map(|(n, p)| (n.to_owned(), ValueSource::Pointer(p.into())));
    let body = r#"{"access_token":"a","instance":{"url":"https://x.example"},"id":7}"#;
    let issued = run(
        &answer(body),
        &Response {
            vars: vars.into(),
            ..spec()
        },
    )
    .unwrap();
    assert_eq!(
        issued.vars,
        BTreeMap::from([
            ("id".into(), "7".into()),
            ("url".into(), "https://x.example".into())
        ])
    );
}

proptest! {
    #[test]
    fn any_answer_gives_a_token_or_a_failure(status in 100u16..1000, body in any::<Vec<u8>>(), wall in any::<u64>()) {
        let answer = TokenResponse::new(status, HeaderMap::new(), ResponseBody::Whole(body.into()));
        for token in [ValueSource::Pointer("/access_token".into()), ValueSource::Body, ValueSource::Cookie("a".into())] {
            let spec = Response { token, expires_at: Some(ValueSource::Body), ..spec() };
            let moment = SendTime { sent: BootInstant::default(), wall: Duration::from_secs(wall) };
            if let Ok(issued) = read_issued(&answer, "access", &spec, &[], moment, &mut Scrubber::default()) {
                prop_assert!(token_fault(&issued.value).is_none());
                prop_assert!(issued.life.is_none_or(|l| l >= MIN_LIFE && l <= Duration::from_hours(400 * 24)));
            }
        }
    }

    #[test]
    fn any_lifetime_is_plausible_or_ignored(said in prop_oneof![any::<f64>().prop_map(|f| serde_json::json!(f)), any::<i64>().prop_map(Into::into), "\\PC{0,20}".prop_map(Into::into)], token in "[!-~]{1,60}") {
        let body = serde_json::json!({ "access_token": token, "expires_in": said, "at": said }).to_string();
        let spec = Response { expires_at: Some(ValueSource::Pointer("/at".into())), ..spec() };
        let issued = run(&answer(&body), &spec).unwrap();
        prop_assert!(issued.life.is_none_or(|l| l >= MIN_LIFE && l <= Duration::from_hours(400 * 24)));
    }

    #[test]
    fn any_text_in_any_format_is_a_date_or_none(text in "\\PC{0,40}", format in "[%A-Za-z0-9 :.-]{0,20}", zone in "\\PC{0,12}") {
        parse_date(&text, &format, Some(&zone));
        parse_date(&text, &format, None);
    }
}
