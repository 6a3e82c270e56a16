//! Spellings of codings, several of them, bombs, and what is unknown or damaged.

use std::io::Write;
use std::time::Duration;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::token::{Failure, FailureClass};

const LIMIT: usize = 64 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zlib_of(bytes: &[u8]) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn bare(bytes: &[u8]) -> Vec<u8> {
    let mut out = DeflateEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn fields(lines: &[&str]) -> HeaderMap {
    lines
        .iter()
        .map(|line| {
            (
                CONTENT_ENCODING,
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            )
        })
        .collect()
}

fn undone(lines: &[&str], body: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    decode(body.into(), &codings(&fields(lines)).unwrap(), LIMIT).map(|body| body.to_vec())
}

#[test]
fn codings_are_undone_however_they_are_written() {
    let text = br#"{"access_token":"t"}"#;
    let rows: Vec<(&[&str], Vec<u8>)> = vec![
        (&[], text.to_vec()),
        (&[""], text.to_vec()),
        (&["identity"], text.to_vec()),
        (&["Identity , ,identity"], text.to_vec()),
        (&["gzip"], gzip(text)),
        (&["GZIP"], gzip(text)),
        (&["x-gzip"], gzip(text)),
        (&["X-GZip"], gzip(text)),
        (&["gzip, identity"], gzip(text)),
        (&["identity,\tgzip ,"], gzip(text)),
        (&["identity", "gzip"], gzip(text)),
        (&["gzip, gzip"], gzip(&gzip(text))),
        (&["gzip", "x-gzip", "Gzip"], gzip(&gzip(&gzip(text)))),
        (&["deflate"], zlib_of(text)),
        (&["Deflate"], bare(text)),
        (&["deflate, gzip"], gzip(&zlib_of(text))),
        (&["gzip", "deflate"], zlib_of(&gzip(text))),
        (&["gzip"], [gzip(&text[..5]), gzip(&text[5..])].concat()),
    ];
    for (lines, body) in rows {
        assert_eq!(undone(lines, body).as_deref(), Ok(&text[..]), "{lines:?}");
    }
    assert_eq!(
        undone(&["gzip"], Vec::new()),
        Ok(Vec::new()),
        "no content is none in every coding"
    );
}

#[test]
fn an_unknown_coding_is_named_and_too_many_are_refused() {
    let why = |line: &str| {
        let kind = codings(&fields(&[line])).unwrap_err();
        Failure::own(FailureClass::Retry, kind).to_string()
    };
    for name in [
        "br",
        "zstd",
        "compress",
        "x-compress",
        "gzip;q=1",
        "gzip br",
        "exi",
    ] {
        assert!(
            why(name).contains(&format!("coding {name:?}")),
            "{}",
            why(name)
        );
    }
    assert!(why("gzip, br, gzip").contains("\"br\""));
    assert!(why(&format!("\u{e9}\"{}", "x".repeat(200))).len() < 160);
    assert!(why("gzip,gzip,gzip,gzip").contains("more than 3"));
    assert!(codings(&fields(&["gzip,identity,gzip,identity,gzip,identity"])).is_ok());
}

#[test]
fn what_is_damaged_is_told_and_nothing_comes_out_above_the_bound() {
    let noise: Vec<u8> = (0..LIMIT)
        .map(|i| u8::try_from((i * i * 31 + i / 7) % 251).unwrap())
        .collect();
    assert_eq!(
        undone(&["gzip"], gzip(&noise)).map(|body| body.len()),
        Ok(LIMIT)
    );
    assert_eq!(
        undone(&["gzip"], gzip(&[&noise[..], b"x"].concat())),
        Err(DecodeError::TooLarge)
    );
    assert_eq!(undone(&[], vec![0; LIMIT + 1]), Err(DecodeError::TooLarge));
    let bomb = gzip(&vec![0; 10_000_000]);
    assert_eq!(undone(&["gzip"], bomb.clone()), Err(DecodeError::TooLarge));
    assert_eq!(
        undone(&["gzip, gzip"], gzip(&bomb)),
        Err(DecodeError::TooLarge)
    );
    assert_eq!(
        undone(&["deflate"], zlib_of(&vec![0; 10_000_000])),
        Err(DecodeError::TooLarge)
    );
    let good = gzip(b"hello hello hello");
    for bad in [
        &good[..good.len() - 1],
        &good[..12],
        b"{\"access_token\":\"t\"}",
        b"\x1f\x8b",
        &[&good[..], b"rest"].concat(),
    ] {
        assert_eq!(
            undone(&["gzip"], bad.to_vec()),
            Err(DecodeError::Damaged),
            "{bad:?}"
        );
    }
    assert_eq!(
        undone(&["deflate"], zlib_of(b"hello")[..6].to_vec()),
        Err(DecodeError::Damaged)
    );
}

#[test]
fn a_bomb_takes_no_longer_than_its_bound() {
    let took = |size: usize| {
        let bomb = gzip(&vec![0; size]);
        let once = || {
            let start = cpu();
            let _ = undone(&["gzip"], bomb.clone());
            cpu().saturating_sub(start)
        };
        (0..5).map(|_| once()).min().unwrap()
    };
    let (small, large) = (took(LIMIT * 2), took(LIMIT * 64));
    assert!(
        large < small * 4 + Duration::from_millis(1),
        "{small:?} became {large:?}"
    );
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

proptest! {
    #[test]
    fn any_body_in_any_coding_ends(
        line in "(gzip|deflate|identity|br|x-gzip|,| ){0,6}",
        body in prop::collection::vec(any::<u8>(), 0..300),
        head in prop::option::of(Just(b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec())),
    ) {
        let body = [head.unwrap_or_default(), body].concat();
        if let Ok(codings) = codings(&fields(&[&line]))
            && let Ok(body) = decode(body.into(), &codings, 1000)
        {
            prop_assert!(body.len() <= 1000);
        }
    }

    #[test]
    fn what_was_packed_comes_out_again(body in prop::collection::vec(any::<u8>(), 1..2000)) {
        prop_assert_eq!(undone(&["gzip, deflate"], zlib_of(&gzip(&body))), Ok(body.clone()));
        prop_assert_eq!(undone(&["deflate"], bare(&body)), Ok(body));
    }
}
