//! Which attempts count together.

use std::collections::BTreeMap;

use super::*;
use crate::{
    client_auth::ClientAuth,
    oauth::testing::{params, spec, values},
    profile::model::{Inject, ParamFormat, SecretSpec},
    token::{Hold, LockoutPolicy},
};

fn profile(tokens: Vec<TokenSpec>) -> Profile {
    Profile {
        name: "test".into(),
        settings: BTreeMap::new(),
        secrets: BTreeMap::from([(
            "app_key".to_owned(),
            SecretSpec {
                public: true,
                ..SecretSpec::default()
            },
        )]),
        tokens,
        inject: Inject::default(),
        partition: Vec::new(),
        errors: Vec::new(),
        limits: LockoutPolicy {
            rate: Vec::new(),
            max_rejections: 2,
            hold: Hold::UntilSecretChanges,
            account_rejections: None,
        },
        max_waiters: 1,
        vend: false,
    }
}

fn key_of(spec: TokenSpec, credential: &str, list: &[(&str, &str)]) -> GuardKey {
    guard_key(&profile(vec![spec]), 0, credential, &values(list)).unwrap()
}

fn at(url: &str) -> [u8; 32] {
    key_of(
        spec(url),
        "a",
        &[("client_id", "app"), ("client_secret", "s")],
    )
    .account
}

#[test]
fn spellings_of_one_origin_are_one_account_and_other_origins_are_others() {
    for same in [
        [
            "https://auth.example/token",
            "HTTPS://AUTH.Example:443/other?x=1",
        ],
        ["https://auth.example/token", "https://auth.example./token"],
        [
            "https://auth.example:8443/token",
            "https://Auth.Example.:8443/v2/token",
        ],
        [
            "https://bücher.example/token",
            "https://xn--bcher-kva.example/token",
        ],
        ["https://au%74h.example/token", "https://auth.example/token"],
        [
            "https://[2001:DB8:0:0::1]/token",
            "https://[2001:db8::1]:443/token",
        ],
        ["http://[::ffff:127.0.0.1]:9/t", "http://127.1:9/t"],
        ["http://127.0.0.1:80/t", "http://0x7f.1/t"],
    ] {
        let [one, other] = same.map(|url| Url::parse(url).map(|url| origin(&url)).unwrap());
        assert_eq!(one, other, "{same:?}");
    }
    let all = [
        "https://auth.example/t",
        "https://auth.example:444/t",
        "https://auth2.example/t",
        "http://localhost/t",
        "http://localhost:443/t",
    ];
    let accounts: BTreeSet<_> = all.map(at).into();
    assert_eq!(accounts.len(), all.len());
}

#[test]
fn a_changed_secret_is_the_same_account_and_another_client_is_not() {
    let of = |list: &[(&str, &str)]| key_of(spec("https://auth.example/t"), "a", list);
    let one = of(&[("client_id", "app"), ("client_secret", "s")]);
    let changed = of(&[("client_id", "app"), ("client_secret", "t")]);
    assert!(one.account == changed.account && one.secret != changed.secret);
    for same in ["APP", " app", "app\n"] {
        assert_eq!(
            of(&[("client_id", same), ("client_secret", "s")]).account,
            one.account,
            "{same:?}"
        );
    }
    assert_ne!(
        of(&[("client_id", "app2"), ("client_secret", "s")]).account,
        one.account
    );
    let elsewhere = key_of(
        spec("https://auth.example/t"),
        "b",
        &[("client_id", "app"), ("client_secret", "s")],
    );
    assert_eq!(elsewhere, one, "whatever the credential is called");
}

#[test]
fn the_client_is_what_the_request_shows_wherever_it_shows_it() {
    let account = |spec: TokenSpec, credential: &str, list: &[(&str, &str)]| {
        key_of(spec, credential, list).account
    };
    let shown = |list: &[(&str, &str)]| account(spec("https://a.example/t"), "a", list);
    let merchant = |id: &str| {
        let params = params(&[
            ("client_id", "{{ secrets.merchant }}"),
            ("client_secret", "{{ secrets.sec }}"),
        ]);
        let spec = TokenSpec {
            format: ParamFormat::Json,
            client_auth: ClientAuth::None,
            params,
            ..spec("https://a.example/t")
        };
        account(
            spec,
            "a",
            &[("client_id", "partner"), ("merchant", id), ("sec", "s")],
        )
    };
    assert_eq!(
        merchant("m-1"),
        shown(&[("client_id", "m-1"), ("client_secret", "x")]),
        "the session's client, not the partner's"
    );
    assert_ne!(merchant("m-1"), merchant("m-2"));
    let header = |credential: &str, list: &[(&str, &str)]| {
        let mut spec = TokenSpec {
            client_auth: ClientAuth::None,
            ..spec("https://a.example/t")
        };
        let names = list
            .iter()
            .map(|(name, _)| format!("{{{{ secrets.{name} }}}}"))
            .collect::<Vec<_>>()
            .concat();
        spec.headers = vec![(
            http::HeaderName::from_static("x-key"),
            crate::oauth::testing::template(&names),
        )];
        account(spec, credential, list)
    };
    assert_eq!(
        header("a", &[("app_key", "k"), ("hmac", "1")]),
        header("b", &[("app_key", "k"), ("hmac", "2")]),
        "what is public names it"
    );
    // A bare key names nobody: then it is the credential's.
    assert_eq!(
        header("a", &[("api_key", "1")]),
        header("a", &[("api_key", "2")])
    );
    assert_ne!(
        header("a", &[("api_key", "1")]),
        header("b", &[("api_key", "1")])
    );
}
