//! Where references in answers lead, and what becomes of them.

use super::*;

fn target(base: &str) -> UpstreamUrl {
    UpstreamUrl {
        tls: true,
        host: "api.test".into(),
        port: 443,
        base: base.into(),
    }
}

/// On this port `/acme/st` and all but `/acme` are others'.
fn of(told: &str) -> Option<String> {
    let target = target("/v2");
    let here = |path: &str| {
        let path = path.split('?').next().unwrap();
        crate::route::is_safe_path(path)
            && (path == "/acme" || path.starts_with("/acme/"))
            && path != "/acme/st"
            && !path.starts_with("/acme/st/")
    };
    Place {
        target: &target,
        prefix: "/acme",
        sent: "/v2/a/b?q=/c/d",
    }
    .of(told, here)
}

#[test]
fn a_location_within_the_url_becomes_our_path() {
    for (told, expected) in [
        (
            "https://api.test/v2/x?y=https://api.test/v2#z",
            "/acme/x?y=https://api.test/v2#z",
        ),
        ("https://API.test:443/v2", "/acme"),
        ("HTTPS://api.test/v2?a", "/acme?a"),
        ("https://api.test/v3/../v2/x", "/acme/x"),
        ("//api.test/v2/x", "/acme/x"),
        ("/v2/x", "/acme/x"),
        ("/v2", "/acme"),
        ("/v2/x/../y/.", "/acme/y/"),
        ("../../v2/x", "/acme/x"),
        ("\\v2\\x", "/acme/x"),
    ] {
        assert_eq!(of(told).as_deref(), Some(expected), "{told:?}");
    }
}

#[test]
fn a_url_that_leads_elsewhere_and_a_reference_that_means_the_same_here_stay() {
    for told in [
        "http://api.test/v2/x",
        "https://api.test/v22/x",
        "https://api.test:8443/v2/x",
        "https://evil.test/v2/x",
        "https://api.test@evil.test/v2/x",
        "https://api.test/v2/../st/steal?amount=1",
        "https://api.test/v2/%2e%2e/st/steal",
        "https://api.test/v2/..%2fst/steal",
        "https://api.test/v2/.%2E/st/steal",
        "https://api.test/v2/st/steal",
        "https://api.test",
        "x",
        "../x",
        "./x?y",
        "?page=2",
        "#top",
        "",
        "mailto:a@b",
    ] {
        assert_eq!(of(told), None, "{told:?}");
    }
}

#[test]
fn a_reference_that_would_lead_to_another_upstream_here_names_the_vendor() {
    for (told, expected) in [
        ("/v22/x", "https://api.test/v22/x"),
        (
            "/st/steal?amount=1#x",
            "https://api.test/st/steal?amount=1#x",
        ),
        ("/v2/../st/steal", "https://api.test/st/steal"),
        ("/v2/%2e%2e/st/steal", "https://api.test/st/steal"),
        ("../../st/steal", "https://api.test/st/steal"),
        ("../../../acme/x", "https://api.test/acme/x"),
        ("../st/steal", "https://api.test/v2/st/steal"),
        ("/v2/..%2fst/steal", "https://api.test/v2/..%2fst/steal"),
        ("%2e./%2E/../st/steal", "https://api.test/st/steal"),
        ("..\\..\\st\\steal", "https://api.test/st/steal"),
        ("http:/st/steal", "https://api.test/st/steal"),
        ("http:../../st/steal", "https://api.test/st/steal"),
    ] {
        assert_eq!(of(told).as_deref(), Some(expected), "{told:?}");
    }
}

#[test]
fn a_location_never_turns_into_another_host() {
    let target = target("");
    let of = |told: &str| {
        Place {
            target: &target,
            prefix: "",
            sent: "/a",
        }
        .of(told, |_| true)
    };
    assert_eq!(of("https://api.test//evil.test/x"), None);
    assert_eq!(of("https://api.test").as_deref(), Some("/"));
    assert_eq!(of("/x"), None);
    assert_eq!(
        of("/.//evil.test/x").as_deref(),
        Some("https://api.test//evil.test/x")
    );
}

proptest::proptest! {
    #[test]
    fn a_client_that_follows_comes_to_this_upstream_or_to_another_host(told in "(https?:)?[a-z:/?#.%@\\\\2e-]{0,30}|[/\\\\.]{0,3}(v2|a|\\.\\.|%2e\\.|st|/|\\\\){0,9}") {
        let own = url::Url::parse("http://localhost:14180/acme/a/b?q=/c/d").unwrap();
        if let Ok(to) = own.join(&of(&told).unwrap_or(told)) && to.origin() == own.origin() {
            let path = to.path();
            proptest::prop_assert!(path == "/acme" || path.starts_with("/acme/"), "{to}");
            proptest::prop_assert!(path != "/acme/st" && !path.starts_with("/acme/st/"), "{to}");
        }
    }
}

mod ways {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::{
        fields,
        leads::{Door, Lead},
    };
    use crate::route::{RequestTarget, RouteRule, Router, UpstreamUrl};

    const ACME: Lead = Lead::Upstream(0);
    const PAY: Lead = Lead::Upstream(1);

    fn router() -> Router {
        let rule = |name: &str, base: &str| RouteRule {
            path: Some(format!("/{name}")),
            strip_path: true,
            hosts: vec![format!("{name}.localhost"), format!("{name}.corp")],
            forward: true,
            url: UpstreamUrl {
                tls: true,
                host: format!("api.{name}.test"),
                port: 443,
                base: base.into(),
            },
        };
        Router::new(vec![rule("acme", "/v2"), rule("pay", "")])
    }

    fn leads_from(form: RequestTarget<'_>, path: &str, reference: &str) -> BTreeSet<Lead> {
        let router = router();
        let hosts = ["proxy.corp".to_owned()];
        Door {
            router: &router,
            hosts: &hosts,
            any_name: false,
            admin: "127.0.0.1:14190".parse().ok(),
            ports: vec![14180],
            addresses: vec!["192.0.2.7".parse().unwrap()],
            form,
            path,
        }
        .leads(reference)
    }

    fn leads(reference: &str) -> BTreeSet<Lead> {
        leads_from(
            RequestTarget::Origin {
                host: "127.0.0.1:14180",
            },
            "/acme/a/b",
            reference,
        )
    }

    #[test]
    fn a_web_socket_and_the_admin_port_are_ways_to_us_too() {
        for reference in [
            "ws://127.0.0.1:14180/pay/x",
            "WS://localhost:14180/pay/x",
            "//127.0.0.1:14180/pay",
        ] {
            assert!(leads(reference).contains(&PAY), "{reference}");
        }
        for reference in [
            "http://127.0.0.1:14190/api/reload",
            "http://localhost.:14190/",
            "//a.localhost:14190/",
            "http://[::ffff:127.0.0.1]:14190/",
        ] {
            assert_eq!(
                leads(reference),
                BTreeSet::from([Lead::Admin]),
                "{reference}"
            );
        }
        assert_eq!(leads("http://127.0.0.1:14191/"), BTreeSet::new());
        assert_eq!(leads("http://api.acme.test:14190/x"), BTreeSet::new());
    }

    #[test]
    fn every_spelling_of_our_own_port_is_known() {
        for reference in [
            "http://127.0.0.1:14180/pay/x",
            "HTTP://127.0.0.1:14180/pay",
            "http://127.1.2.3:14180/pay/x?y#z",
            "http://[::1]:14180/pay/x",
            "http://[::ffff:127.0.0.1]:14180/pay/x",
            "http://0.0.0.0:14180/pay/x",
            "http://[::]:14180/pay/x",
            "http://192.0.2.7:14180/pay/x",
            "http://localhost:14180/pay/x",
            "http://LocalHost.:14180/pay/x",
            "http://any.thing.localhost:14180/pay/x",
            "http://%6cocalhost:14180/pay/x",
            "http://2130706433:14180/pay/x",
            "http://0x7f.1:14180/pay/x",
            "http://0177.0.0.1:14180/pay/x",
            "http://proxy.corp:14180/pay/x",
            "http://pay.localhost:14180/anything",
            "http://pay.corp:14180/anything",
            "http://PAY.corp.:14180/anything",
            "//127.0.0.1:14180/pay/x",
            "\\\\127.0.0.1:14180\\pay\\x",
            "http:\\\\127.0.0.1:14180\\pay\\x",
            "http:/127.0.0.1:14180/pay/x",
            "http:127.0.0.1:14180/pay/x",
            "http:////127.0.0.1:14180/pay/x",
            "http://u:p@127.0.0.1:14180/pay/x",
            "http://evil.test@127.0.0.1:14180/pay/x",
            "http://evil.test\\@127.0.0.1:14180/pay/x",
            "http://127.0.0.1:14180\\..\\pay/x",
            "http://127.0.0.1:14180/acme/../pay/x",
            "http://127.0.0.1:14180/acme/%2e%2E/pay/x",
            "/pay/x",
            "/pay",
            "  /pay/x",
            "/p\tay/x",
            "\\pay\\x",
            "../../pay/x",
            "..\\..\\pay\\x",
            "/acme/../pay/x",
            "./../../pay/x",
            "http:/pay/x",
            "http:../../pay/x",
        ] {
            assert!(
                leads(reference).contains(&PAY),
                "{reference:?}: {:?}",
                leads(reference)
            );
        }
        assert!(leads("/.cupbearer/token/pay").contains(&Lead::Vending));
        assert!(leads("http://localhost:14180/.cupbearer/token/pay").contains(&Lead::Vending));
    }

    #[test]
    fn what_leads_to_itself_to_nobody_or_to_another_host_is_left_alone() {
        for reference in [
            "/acme/x",
            "x",
            "../x",
            "?page=2",
            "#top",
            "",
            "http://127.0.0.1:14181/pay/x",
            "http://evil.test:14180/pay/x",
            "http://localhost.evil.test:14180/pay/x",
            "https://api.pay.test/x",
            "https://api.acme.test/pay/x",
            "/nobody",
            "/payments",
            "mailto:pay@localhost",
            "ftp://127.0.0.1:14180/pay/x",
        ] {
            assert!(
                !leads(reference).iter().any(|lead| *lead != ACME),
                "{reference:?}: {:?}",
                leads(reference)
            );
        }
    }

    #[test]
    fn who_comes_by_a_name_or_as_a_forward_proxy_is_known_there_too() {
        let named =
            |reference| leads_from(RequestTarget::Origin { host: "acme.corp" }, "/x", reference);
        assert!(named("http://pay.corp/y").contains(&PAY));
        assert!(
            named("https://pay.corp/y").contains(&PAY),
            "something in front of us may speak TLS"
        );
        assert!(named("http://pay.corp:14180/y").contains(&PAY));
        assert!(!named("http://pay.corp:8080/y").contains(&PAY));
        assert!(
            !named("/pay/y").contains(&PAY),
            "on that name the path is the vendor's own"
        );
        let form = RequestTarget::Absolute {
            scheme: "http",
            authority: "api.acme.test",
        };
        let forwarded = |reference| leads_from(form, "/v2/x", reference);
        for reference in [
            "https://api.pay.test/y",
            "http://API.pay.test./y",
            "//api.pay.test/y",
            "http://127.0.0.1:14180/pay/y",
        ] {
            assert!(forwarded(reference).contains(&PAY), "{reference}");
        }
        for reference in [
            "/v2/y",
            "y",
            "https://api.acme.test/v2/y",
            "https://elsewhere.test/pay",
            "/pay/y",
        ] {
            assert!(!forwarded(reference).contains(&PAY), "{reference}");
        }
    }

    fn left(fields: &[(&'static str, &str)]) -> (Vec<(String, String)>, usize) {
        let mut response = pingora_http::ResponseHeader::build(200, None).unwrap();
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        let count = fields::take_out(&mut response, 0, |reference| {
            leads(reference).contains(&PAY)
        })
        .unwrap();
        (
            response
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()))
                .collect(),
            count,
        )
    }

    #[test]
    fn an_answer_may_hint_at_hundreds_of_files_and_one_that_costs_too_much_hints_at_none() {
        let hints = (0..600)
            .map(|n| format!("</files/{n}.css>; rel=preload"))
            .collect::<Vec<_>>()
            .join(", ");
        assert_eq!(left(&[("link", &hints)]).1, 0);
        let mut response = pingora_http::ResponseHeader::build(200, None).unwrap();
        response.append_header("link", hints.as_str()).unwrap();
        let taken = fields::take_out(&mut response, 16 * 1024, |_| false).unwrap();
        assert!((500..600).contains(&taken), "{taken}");
    }

    #[test]
    fn each_field_loses_what_leads_away_and_nothing_else() {
        for (name, value) in [
            ("location", "/pay/x"),
            ("content-location", "/pay/x"),
            ("refresh", "0;url=/pay/x"),
            ("refresh", "5; URL = \"/pay/x\""),
            ("refresh", "5;/pay/x"),
            ("refresh", "5, url='/pay/x' and more"),
            ("refresh", "5 http://localhost:14180/pay/x"),
            ("link", "</pay/x>; rel=next"),
            ("link", "<x>; title=\"<\", </pay/x>; rel=\"a\\\"b\""),
        ] {
            let (fields, count) = left(&[(name, value), ("x-other", "/pay/x")]);
            assert_eq!(count, 1, "{value}");
            assert!(
                !fields.iter().any(|(n, v)| n == name && v.contains("/pay")),
                "{value}: {fields:?}"
            );
            assert!(fields.contains(&("x-other".into(), "/pay/x".into())));
        }
        for (name, value) in [
            ("location", "/acme/x"),
            ("refresh", "5"),
            ("refresh", "5; url=/acme"),
            ("link", "</acme>; rel=\"a, b\",<y>"),
        ] {
            assert_eq!(
                left(&[(name, value)]),
                (vec![(name.to_owned(), value.to_owned())], 0)
            );
        }
        let (fields, count) = left(&[
            ("link", "<a>; rel=next, </pay/x>; rel=\"x, y\", <b>"),
            ("link", "<c>"),
        ]);
        assert_eq!(count, 1);
        assert_eq!(
            fields,
            [
                ("link".to_owned(), "<a>; rel=next, <b>".to_owned()),
                ("link".into(), "<c>".into())
            ]
        );
        let (fields, count) = left(&[("location", "/pay/x"), ("location", "/acme/x")]);
        assert_eq!(
            (fields, count),
            (vec![("location".to_owned(), "/acme/x".to_owned())], 1)
        );
    }

    #[test]
    fn an_answer_with_thousands_of_links_is_not_looked_through_to_its_end() {
        let many = "<a>, ".repeat(10_000);
        let (fields, count) = left(&[("link", &many)]);
        let kept = fields[0].1.matches("<a>").count();
        assert_eq!(count + kept, 10_000);
        assert!((4_000..4_200).contains(&kept), "{kept}");
    }

    proptest! {
        #[test]
        fn a_client_that_follows_never_comes_to_the_other_unseen(
            reference in "(https?:|HTTP:)?[/\\\\]{0,3}(127\\.0\\.0\\.1|localhost|LOCALHOST\\.|[::1]|evil.test|u@|[a-z.%2e]{0,4})(:14180)?[/\\\\](pay|acme|\\.\\.|%2e\\.|[/\\\\]){0,6}[?#]?[a-z]{0,3}",
        ) {
            let own = url::Url::parse("http://127.0.0.1:14180/acme/a/b").unwrap();
            if let Ok(to) = own.join(&reference)
                && to.port_or_known_default() == Some(14180)
                && matches!(to.host_str(), Some("127.0.0.1" | "localhost" | "localhost." | "[::1]"))
                && (to.path() == "/pay" || to.path().starts_with("/pay/"))
                && crate::route::is_safe_path(to.path())
            {
                prop_assert!(leads(&reference).contains(&PAY), "{to}");
            }
        }

        #[test]
        fn any_text_gives_an_answer(reference in "\\PC{0,60}") {
            let _ = leads(&reference);
        }
    }
}
