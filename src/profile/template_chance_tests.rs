//! Tests of templates with chance: what minijinja makes of the same text, and how long the worst of
//! them take.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{
    tests::{KEY, render, with},
    *,
};

/// Pieces that templates are made of.
const PIECES: [&str; 63] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{{-",
    "-}}",
    "{% if ",
    "{% elif ",
    "{% else %}",
    "{% endif %}",
    " if ",
    " else ",
    "vars.x",
    "secrets.id",
    "now",
    "now.epoch",
    "base",
    "empty",
    "secrets.nobody",
    "uuid()",
    "'a'",
    "\"b\\n\"",
    "''",
    "7",
    "0",
    "true",
    "false",
    " ~ ",
    " + ",
    " - ",
    " * ",
    " // ",
    " % ",
    " == ",
    " != ",
    " < ",
    " >= ",
    " in ",
    " not in ",
    " and ",
    " or ",
    "not ",
    " is defined",
    " is not undefined",
    "(",
    ")",
    "[",
    "]",
    ":",
    ",",
    "|",
    "|upper",
    "|lower",
    "|trim",
    "|replace('a', 'bb')",
    "|default('d')",
    "|int",
    "|first",
    "|last",
    "|length",
    "|split('-')|join('+')",
];

/// What minijinja makes of it, where it makes something of it.
fn minijinja(source: &str) -> Option<String> {
    let mut env = minijinja::Environment::new();
    env.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    env.set_syntax(
        minijinja::syntax::SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .unwrap(),
    );
    env.set_fuel(Some(50_000));
    env.add_template("t", source).ok()?;
    let secrets = [("id", "me"), ("odd", "{{ base }}"), ("key", KEY)];
    let context = minijinja::context! {
        base => "https://x", evil => "{{ secrets.id }}", empty => "",
        secrets => secrets.into_iter().collect::<BTreeMap<_, _>>(),
        vars => [("x", "a-b-c")].into_iter().collect::<BTreeMap<_, _>>(),
    };
    env.get_template("t").ok()?.render(context).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_rendered_is_what_minijinja_renders(pieces in proptest::collection::vec(proptest::sample::select(&PIECES[14..]), 1..9), whole in any::<bool>()) {
        let inside = pieces.concat();
        let source = if whole { format!("a {{{{- {inside} -}}}} b\n") } else { format!("{{% if {inside} %}}y{{# c #}}{{%- else %}} n{{% endif %}}") };
        // Of other names none comes through a load.
        let known = |name: &String| ["base", "empty", "secrets.id", "secrets.nobody", "vars.x"].contains(&name.as_str());
        let usual = Template::parse(&source).is_ok_and(|template| template.names().iter().all(known));
        if let Ok(ours) = render(&source) && usual {
            // minijinja may be stricter, as with the length of a number.
            let theirs = minijinja(&source).unwrap_or_else(|| ours.clone());
            prop_assert_eq!(ours, theirs, "{}", source);
        }
    }

    #[test]
    fn any_template_of_4_kib_ends_soon_and_within_64_kib_whatever_a_vendor_sent(
        pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 1..600),
        value in proptest::sample::select(&["x", "-", "é", "\u{1f00}", "ab-", "0", " ", "\n"][..]),
    ) {
        let mut source = pieces.concat();
        source.truncate((0..=4096.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0));
        soon(&source, value);
        soon(&format!("{{{{ {} }}}}", source.replace(['{', '}', '%', '#'], "")), value);
    }

    #[test]
    fn any_chain_of_4_kib_ends_soon_and_within_64_kib_whatever_a_vendor_sent(
        links in proptest::collection::vec(proptest::sample::select(&[
            "|upper", "|lower", "|hex", "|sha256", "|b64url", "|b64encode|string", "|trim('é-x')", "|replace('x','xx')", "|replace('','')", "|replace('é','')",
            "~vars.x", "+vars.x", "|split", "|split('-')", "|join", "|first", "|last", "|length", "|int(vars.x)", "|default(vars.x)", "[1:]", "[:-9]",
            "|basic(vars.x)", "|cert_der", "|spki_der", " in vars.x", "==vars.x", " or vars.x", " and vars.x", " if vars.x else vars.x",
        ][..]), 1..400),
        value in proptest::sample::select(&["x", "-", "é", "\u{1f00}", "ab-", "0", " ", "-----BEGIN CERTIFICATE-----\n"][..]),
    ) {
        let mut chain = format!("{{{{ vars.x{}", links.concat());
        chain.truncate((0..=4090.min(chain.len())).rev().find(|at| chain.is_char_boundary(*at)).unwrap_or(0));
        soon(&(chain + " }}"), value);
    }
}

#[test]
fn a_text_of_many_tags_is_read_once() {
    let took = |tags: usize| {
        let source = "{{a}}".repeat(tags);
        let runs = (0..5).map(|_| {
            let begun = cpu();
            let _ = Template::parse(&source);
            cpu().saturating_sub(begun)
        });
        runs.min().unwrap_or_default()
    };
    took(1000);
    let (small, large) = (took(3000), took(12_000));
    assert!(
        large < small * 8 + Duration::from_millis(1),
        "four times as many take {large:?} after {small:?}"
    );
}

/// Renders with the longest value there is, made of `value`.
fn soon(source: &str, value: &str) {
    // Unoptimised code may take longer, and a busy machine makes everybody wait.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 10 });
    let longest = value.repeat(LONGEST / value.len());
    let begun = cpu();
    let done = with(&longest, source);
    let took = cpu().saturating_sub(begun);
    assert!(
        done.as_ref().is_ok_and(|text| text.len() <= LONGEST) || done.is_err(),
        "{source}"
    );
    assert!(took < most, "{took:?}: {source}");
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}
