//! Each template is rendered once at load, with placeholders for what is not known yet: what no
//! value could mend is found here, not at a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    builder::{PendingTemplate, ProfileBuilder},
    filters::PLACEHOLDER,
    template::{Scope, Template, eval::Fault},
};
use crate::{
    document::{Problem, Severity},
    secret::{Secret, Values},
};

/// Stands for values that are as short as can be.
const SHORTEST: &str = "p";
/// Some moment that is not now.
const MOMENT: Duration = Duration::from_secs(1_700_000_000);

/// Tries all of them, once it is known which secrets there are.
pub(super) fn all(b: &mut ProfileBuilder<'_>) {
    for PendingTemplate { place, template } in std::mem::take(&mut b.waiting) {
        if let Err((what, hint)) = one(b, &template) {
            let (key, file) = place;
            b.problems.add(Problem {
                severity: Severity::Problem,
                key,
                file,
                what,
                hint: Some(hint),
            });
        }
    }
}

fn one(b: &ProfileBuilder<'_>, template: &Template) -> Result<(), (String, String)> {
    // Settings are what they will be, so nothing needs to be forgiven where they are all there is.
    let set = |name: &String| {
        b.settings.get(name).is_some_and(|value| !value.is_empty())
            || matches!(name.as_str(), "now" | "now.epoch")
    };
    let exact = template.names().iter().all(set);
    // Only what the template names, so that many templates and many names are no square.
    let used = || {
        template
            .names()
            .iter()
            .filter_map(|name| name.strip_prefix("secrets."))
            .filter(|name| b.secrets.contains_key(*name))
    };
    let (given, absent): (BTreeSet<&str>, BTreeSet<&str>) = used().partition(|name| there(b, name));
    let render = |secrets: &BTreeSet<&str>, exact: bool, placeholder: &str| {
        render(b, template, secrets, exact, placeholder)
    };
    let Err(fault) = render(&given, exact, PLACEHOLDER) else {
        return Ok(());
    };
    // How long a placeholder is says nothing of a value: only what the shortest values make too
    // long is too long for sure.
    let fault = match fault {
        Fault::TooLong | Fault::TooManyParts | Fault::TooMuchWork if !exact => {
            match render(&given, exact, SHORTEST) {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            }
        }
        fault => fault,
    };
    // An optional secret that is not given: with it, all might be well.
    for name in absent {
        let everything: BTreeSet<&str> = used().collect();
        let others = everything
            .iter()
            .copied()
            .filter(|other| *other != name)
            .collect();
        if render(&others, false, PLACEHOLDER).is_err()
            && render(&everything, false, PLACEHOLDER).is_ok()
        {
            let hint = format!(
                "give secrets.{name}, or ask for it: {{% if secrets.{name} %}}…{{% endif %}}"
            );
            return Err((
                format!("needs the optional secret {name}, which is not given"),
                hint,
            ));
        }
    }
    Err((
        format!("cannot be rendered: {fault}"),
        advice(fault).to_owned(),
    ))
}

/// A secret that must be there and is not has been noted.
fn there(b: &ProfileBuilder<'_>, name: &str) -> bool {
    b.secrets.get(name).is_some_and(|spec| !spec.optional)
        || b.given.as_ref().is_none_or(|given| given.contains(name))
}

fn render(
    b: &ProfileBuilder<'_>,
    template: &Template,
    secrets: &BTreeSet<&str>,
    exact: bool,
    placeholder: &str,
) -> Result<(), Fault> {
    let secrets = Values(
        secrets
            .iter()
            .map(|name| ((*name).to_owned(), Secret::new(placeholder.to_owned())))
            .collect(),
    );
    let members = |group: &'static str| {
        template
            .names()
            .iter()
            .filter_map(move |name| name.strip_prefix(group)?.strip_prefix('.'))
    };
    let vars: BTreeMap<String, String> = members("vars")
        .map(|name| (name.to_owned(), placeholder.to_owned()))
        .collect();
    // The last one is `token`.
    let tokens: Vec<(&str, &str)> = members("tokens")
        .chain([""])
        .map(|name| (name, placeholder))
        .collect();
    let partition: Vec<(&str, &str)> = members("partition")
        .map(|name| (name, placeholder))
        .collect();
    let scope = Scope {
        settings: Some(&b.settings),
        secrets: Some(&secrets),
        tokens: &tokens,
        partition: &partition,
        vars: Some(&vars),
        assertion: Some(placeholder),
        wall: Some(MOMENT),
    };
    template.attempt(&scope, !exact)
}

fn advice(fault: Fault) -> &'static str {
    match fault {
        Fault::Undefined => {
            "names are settings, secrets.NAME, token, tokens.NAME, vars.NAME, partition.NAME, assertion, now and uuid(); texts have no parts"
        }
        Fault::TooLong | Fault::TooManyParts | Fault::TooMuchWork => {
            "make it shorter: no text or list in it may be longer than 64 KiB"
        }
        Fault::Told(what) if what.contains("bytes") => {
            "bytes come from cert_der, spki_der, sha1 and sha256; hex, b64encode and b64url make text of them"
        }
        Fault::Told(_) => {
            "texts are joined with ~ and changed with filters; only numbers can be calculated with"
        }
    }
}
