//! PEM in every dress it comes in.

use proptest::prelude::*;
use std::time::Duration;

use super::*;

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_key_and_a_certificate_are_found_in_every_dress() {
    let (cert, key) = pair();
    let wanted = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let shown = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    let both = format!("{cert}{key}");
    let dresses = [
        both.clone(),
        format!("{key}{cert}"),
        format!("\u{feff}{both}"),
        both.replace('\n', "\r\n"),
        both.replace('\n', "\r"),
        both.replace('\n', "\\n"),
        both.replace('\n', "\\r\\n"),
        both.replace('\n', "\\\\n"),
        both.replace('\n', " "),
        both.replace('\n', ""),
        format!("\"{}\"", both.replace('\n', "\\n")),
        format!("    {}", both.replace('\n', "  \n    ")),
        format!("Bag Attributes\n    friendlyName: -----BEGIN x\nsubject=CN = a\n{both}\nthe end"),
        format!(
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{both}"
        ),
        format!("-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----\n{both}"),
    ];
    for text in dresses {
        let found = private_key(text.as_bytes())
            .unwrap_or_else(|| panic!("no key in {text}"))
            .unwrap();
        assert_eq!(found.secret_der(), wanted.secret_der(), "{text}");
        assert_eq!(
            certificates(text.as_bytes()).unwrap(),
            std::slice::from_ref(&shown),
            "{text}"
        );
    }
}

#[test]
fn the_first_private_key_is_taken_and_a_damaged_one_is_an_error() {
    let ((_, one), (cert, two)) = (pair(), pair());
    let first = private_key(format!("{one}{cert}{two}").as_bytes())
        .unwrap()
        .unwrap();
    assert_eq!(
        first.secret_der(),
        PrivateKeyDer::from_pem_slice(one.as_bytes())
            .unwrap()
            .secret_der()
    );
    assert!(private_key(cert.as_bytes()).is_none());
    assert!(private_key(b"").is_none());
    let cut = &one[..one.len() - 40];
    assert!(
        private_key(cut.as_bytes()).unwrap().is_err(),
        "without an end"
    );
    assert!(
        private_key(one.replace("END PRIVATE", "END PUBLIC").as_bytes())
            .unwrap()
            .is_err(),
        "with another's end"
    );
    assert!(certificates(cert.replace('M', "!").as_bytes()).is_err());
    // What was locked is passed over: beside it the same key may lie open.
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(
        private_key(format!("{locked}{two}").as_bytes())
            .unwrap()
            .is_ok()
    );
    assert!(private_key(locked.as_bytes()).is_none());
}

#[test]
fn reading_takes_time_in_proportion_to_the_text() {
    for unit in [
        "-----BEGIN ",
        "-----BEGIN A-----",
        "-----BEGIN A-----\n-----END B-----\n",
        "-----BEGIN A-----\\\\",
        "-----END A-----",
        "-",
    ] {
        let took = |times: usize| {
            let text = unit.repeat(times);
            let once = || {
                let start = cpu();
                sections(text.as_bytes()).for_each(|section| drop(section.to_plain_pem()));
                cpu().saturating_sub(start)
            };
            (0..5).map(|_| once()).min().unwrap()
        };
        let (one, eight) = (took(1000), took(8000));
        // In proportion: 8 times. Squared: 64 times.
        assert!(
            eight < one * 24 + Duration::from_millis(1),
            "{unit:?}: {one:?} became {eight:?}"
        );
    }
}

/// What this thread has worked, whoever else is busy here.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "(-----BEGIN |-----END |A-----|\\\\n|PRIVATE KEY-----|[A-Za-z0-9+/= ]){0,30}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let _ = certificates(input);
            let _ = private_key(input);
            sections(input).for_each(|section| drop(section.to_plain_pem()));
        }
    }
}
