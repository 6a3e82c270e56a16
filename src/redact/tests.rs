//! No spelling of a word is left behind, nothing else is touched, and time grows as the text does.

use std::time::Duration;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;

use super::*;

fn words(all: &[&str]) -> Redactor {
    Redactor::new(
        all.iter()
            .map(|word| Arc::new(Zeroizing::new((*word).to_owned()))),
    )
}

const TOKEN: &str = "tok/en+A.b-_~1234567890==";

fn hidden(all: &[&str], value: &str) -> String {
    words(all)
        .hide(value.as_bytes())
        .map_or_else(|| value.to_owned(), |new| String::from_utf8(new).unwrap())
}

fn percent_all(text: &str) -> String {
    text.bytes()
        .map(|b| format!("%{b:02x}"))
        .collect::<Vec<_>>()
        .concat()
}

fn json_all(text: &str) -> String {
    text.bytes()
        .map(|b| format!("\\u{b:04X}"))
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn a_word_is_hidden_in_every_spelling_and_what_surrounds_it_stays() {
    let form: String = form_urlencoded::byte_serialize(TOKEN.as_bytes()).collect();
    for spelled in [
        TOKEN.to_owned(),
        form.clone(),
        percent_all(TOKEN),
        percent_all(&form),
        percent_all(TOKEN).replace('%', "%25"),
        TOKEN.replace('/', "\\/"),
        json_all(TOKEN),
        json_all(&form),
        percent_all(&json_all(TOKEN)),
        json_all(TOKEN).replace('\\', "\\\\"),
        TOKEN.chars().flat_map(|c| ['\\', c]).collect(),
        STANDARD.encode(TOKEN),
        URL_SAFE_NO_PAD.encode(TOKEN),
    ] {
        for (before, after) in [
            ("", ""),
            ("a=", "&b=c"),
            ("https://x.test/?t=", "#f"),
            ("Bearer ", ", x"),
            ("\"", "\""),
        ] {
            let new = hidden(&[TOKEN], &format!("{before}{spelled}{after}"));
            let new = new.replace("***==", "***").replace("***=", "***");
            assert_eq!(new, format!("{before}***{after}"), "{spelled}");
        }
    }
}

#[test]
fn base64_of_a_text_with_a_word_in_it_gives_nothing_of_the_word_away_whatever_its_place() {
    for before in 0..7 {
        for after in 0..7 {
            let text = format!("{}{TOKEN}{}", "u".repeat(before), "v".repeat(after));
            for spelled in [
                STANDARD.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
                percent_all(&STANDARD.encode(&text)),
            ] {
                let new = hidden(&[TOKEN], &spelled);
                assert!(new.contains("***"), "{before} {after} {spelled}");
                // Only characters that are made of the other bytes alone are left.
                assert!(
                    new.len() <= 3 + 3 * 4 * (before + after).div_ceil(3) + 9,
                    "{before} {after}: {new}"
                );
            }
        }
    }
}

#[test]
fn a_short_word_is_hidden_only_where_it_stands_alone_and_a_very_short_one_never() {
    for (value, expected) in [
        ("secret7", "***"),
        ("key=secret7", "key=***"),
        ("key=\"secret7\"; x", "key=\"***\"; x"),
        ("/p?key=secret7&a=b", "/p?key=***&a=b"),
        ("Basic c2VjcmV0Nw==", "Basic ***=="),
        ("se%63ret7", "***"),
        ("mysecret7", "mysecret7"),
        ("secret77", "secret77"),
        ("secret7-and-more", "secret7-and-more"),
    ] {
        assert_eq!(hidden(&["secret7"], value), expected, "{value}");
    }
    assert_eq!(hidden(&["12345"], "12345"), "12345");
    assert!(words(&["12345", ""]).is_empty());
}

#[test]
fn names_of_fields_are_searched_in_any_case() {
    let hide = |word: &str, name: &str| {
        words(&[word])
            .hide_name(name.as_bytes())
            .map(|new| String::from_utf8(new).unwrap())
    };
    assert_eq!(
        hide("AbCdEf123456", "x-abcdef123456-y").as_deref(),
        Some("x-***-y")
    );
    assert_eq!(hide("AbCdEf123456", "ABCDEF123456").as_deref(), Some("***"));
    assert_eq!(
        hide(
            "AbCdEf123456",
            &format!("x.{}", STANDARD.encode("AbCdEf123456").to_lowercase())
        )
        .as_deref(),
        Some("x.***")
    );
    assert_eq!(
        hide("AbCdEf123456", &format!("x{}", percent_all("AbCdEf123456"))).as_deref(),
        Some("x***")
    );
    assert_eq!(hide("AbCdEf", "abcdef").as_deref(), Some("***"));
    assert_eq!(hide("AbCdEf", "x-abcdef"), None);
    assert_eq!(hide("AbCdEf123456", "content-type"), None);
}

#[test]
fn overlapping_words_and_words_that_meet_are_hidden_as_one() {
    assert_eq!(hidden(&["aaaaaaaaaaaa"], &"a".repeat(30)), "***aaaaaa");
    assert_eq!(
        hidden(&["abcdefghijkl", "ghijklmnopqr"], "x-abcdefghijklmnopqr-y"),
        "x-***-y"
    );
    assert_eq!(hidden(&["abcdefghijkl"], "abcdefghijklabcdefghijkl"), "***");
}

/// Time of a processor that this thread took: what else runs here does not count.
fn thread_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        .try_into()
        .unwrap()
}

/// What may make a search slow: repeated beginnings, near misses, escapes of escapes.
fn worst(kind: usize, length: usize) -> Vec<u8> {
    let unit: Vec<u8> = match kind {
        0 => TOKEN.as_bytes()[..8].to_vec(),
        1 => [&TOKEN.as_bytes()[..TOKEN.len() - 1], b"!"].concat(),
        2 => b"%25".to_vec(),
        3 => b"\\\\".to_vec(),
        4 => TOKEN.as_bytes().to_vec(),
        5 => b"%5cu0025".to_vec(),
        _ => b"a".to_vec(),
    };
    unit.iter().copied().cycle().take(length).collect()
}

#[test]
fn twice_the_text_takes_about_twice_the_time_whatever_it_is() {
    let (long, same) = (TOKEN.repeat(600), "a".repeat(16_000));
    let all = words(&[TOKEN, &long, &same, &format!("{same}b")]);
    let took = |value: &[u8]| {
        let least = |_| {
            let begun = thread_time();
            std::hint::black_box(all.hide(value));
            thread_time().saturating_sub(begun)
        };
        (0..5).map(least).min().unwrap()
    };
    for kind in 0..7 {
        let (half, whole) = (
            took(&worst(kind, 128 * 1024)),
            took(&worst(kind, 512 * 1024)),
        );
        // Four times the text; the words' own length is a constant. A square would be sixteen
        // times.
        println!("kind {kind}: {half:?}, then {whole:?}");
        assert!(
            whole < half * 8 + Duration::from_millis(5),
            "kind {kind}: {half:?}, then {whole:?}"
        );
    }
}

#[test]
fn what_is_built_for_a_search_stays_small() {
    let all = words(&[
        TOKEN,
        &TOKEN.repeat(600),
        "secret77",
        "another-secret",
        "var-of-a-token",
    ]);
    assert!(size_of_val(&*all.keys) + all.anchors.capacity() * size_of::<Anchor>() <= 4096);
}

proptest! {
    #[test]
    fn no_spelling_of_a_word_is_left_and_hiding_again_changes_nothing(
        word in "[!-~]{6,40}", other in "[ab*]{6,14}", before in "[ -~]{0,12}", after in "[ -~]{0,12}", how in 0..8_u8,
    ) {
        let spelled = match how {
            0 => word.clone(),
            1 => percent_all(&word),
            2 => form_urlencoded::byte_serialize(word.as_bytes()).collect(),
            3 => json_all(&word),
            4 => STANDARD.encode(format!("{before}{word}{after}")),
            5 => URL_SAFE_NO_PAD.encode(format!("{before}{word}{after}")),
            6 => percent_all(&percent_all(&word)),
            _ => serde_json::to_string(&word).unwrap(),
        };
        let all = words(&[&word, &other]);
        let sure = word.len() >= SURE;
        let value = if sure { format!("{before}{spelled}{after}") } else { spelled };
        if sure || !(4..6).contains(&how) {
            let new = all.hide(value.as_bytes());
            prop_assert!(new.is_some(), "{value}");
        }
        let once = all.hide(value.as_bytes()).unwrap_or(value.into_bytes());
        prop_assert_eq!(all.hide(&once), None);
        prop_assert!(all.find_ranges(&once).is_empty());
    }

    #[test]
    fn any_bytes_give_an_answer(bytes: Vec<u8>, word in "[!-~]{6,20}") {
        let all = words(&[&word]);
        let _ = (all.hide(&bytes), all.hide_name(&bytes));
    }

    #[test]
    fn a_reading_never_points_out_of_its_text(text in "[%25eEu0\\\\\"a-c]{0,40}") {
        for view in decoded_views(text.as_bytes()) {
            for at in 0..=view.bytes().len() {
                let range = view.range(at..view.bytes().len());
                prop_assert!(range.start <= range.end && range.end <= text.len());
            }
        }
    }
}
