//! What one member may cost, what is no JSON all the same, and how long reading takes.

use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

use super::*;

#[test]
fn an_absurd_member_costs_that_member_alone() {
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let huge = "9".repeat(400);
    let rows: Vec<(&str, Value)> = vec![
        ("1e999", json!(f64::MAX)),
        ("-1E+999", json!(f64::MIN)),
        (&huge, json!(f64::MAX)),
        ("1e99999999999999999999999999", json!(f64::MAX)),
        ("0e999", json!(0.0)),
        ("1e-999", json!(0.0)),
        ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
        (r#""\ud800""#, json!("\u{fffd}")),
        (
            r#""\ud800x\udc00 \ud83d\ude00""#,
            json!("\u{fffd}x\u{fffd} 😀"),
        ),
        (r#""\ud800\u0041\\ud800""#, json!("\u{fffd}A\\ud800")),
        (
            "{\"a\":[-1e999,\"1e999\",\"\\\"-1e999\"]}",
            json!({ "a": [f64::MIN, "1e999", "\"-1e999"] }),
        ),
    ];
    for (said, read_as) in rows {
        let text = format!("\u{feff}{{\"access_token\":\"t\",\"odd\":{said},\"expires_in\":60}}");
        let value = read(text.as_bytes()).unwrap_or_else(|| panic!("{said} is not read"));
        assert_eq!(
            value,
            json!({ "access_token": "t", "odd": read_as, "expires_in": 60 }),
            "{said}"
        );
    }
    let value = read(format!("{{\"access_token\":\"t\",\"odd\":{deep}}}").as_bytes()).unwrap();
    assert_eq!(value["access_token"], "t");
    assert_eq!(
        value.pointer(&format!("/odd{}", "/0".repeat(99))),
        Some(&Value::Null),
        "below that nothing is known"
    );
    let latin = b"{\"error\":\"invalid_client\",\"error_description\":\"pass\xe9\"}";
    assert_eq!(read(latin).unwrap()["error"], "invalid_client");
}

#[test]
fn what_is_no_json_stays_none() {
    for text in [
        "",
        "{",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":01e999}",
        "{\"a\":1e}",
        "{\"a\":1.e999}",
        "{\"a\":+1e999}",
        "{\"a\":1e999",
        "{\"a\":1e999}}",
        "{\"a\":1e999,}",
        "{\"a\":1e999} x",
        "{'a':1e999}",
        "{\"a\":.5e999}",
        "{\"a\":\"\\ud80\"}",
        "{\"a\":\"\\x\",\"b\":1e999}",
        "{\"a\":\"x\ny\",\"b\":1e999}",
        "{\"a\":--1e999}",
        "\u{feff}\u{feff}{}",
    ] {
        assert_eq!(read(text.as_bytes()), None, "{text}");
    }
    let open = format!("{{\"a\":{}", "[".repeat(60_000));
    assert_eq!(read(open.as_bytes()), None);
    assert_eq!(
        read(format!("{open}NaN{}}}", "]".repeat(60_000)).as_bytes()),
        None,
        "also where it is passed over"
    );
}

#[test]
fn reading_takes_time_in_proportion_to_the_text() {
    for unit in [
        "1e999,",
        "[",
        "\"\\ud800\",",
        "\\",
        "9",
        "-",
        "\"",
        "{\"a\":",
        "é",
    ] {
        let took = |times: usize| {
            let text = format!("[{}", unit.repeat(times));
            let once = || {
                let start = cpu();
                let _ = read(text.as_bytes());
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
    fn any_bytes_are_json_or_none_and_what_serde_reads_is_read_alike(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in "([\\[\\]{}:,\"0-9eE+.-]|\\\\u|d800|\\\\|null|é| ){0,60}",
    ) {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let plain = serde_json::from_slice::<Value>(input).ok();
            let found = read(input);
            prop_assert!(plain.is_none() || plain == found);
            // What can be read at all is read alike by the slow way.
            let mended = mend(&String::from_utf8_lossy(input));
            prop_assert!(plain.is_none() || serde_json::from_str::<Value>(&mended).ok() == plain);
        }
    }

    #[test]
    fn every_text_of_json_survives_mending(value in any::<f64>(), text in any::<String>()) {
        let said = json!({ "a": [value, text], "b": text }).to_string();
        prop_assert_eq!(&*mend(&said), &said);
    }
}
