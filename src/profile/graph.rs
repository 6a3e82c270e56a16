//! The tokens of a profile in an order in which each comes after those it is made with.

use std::collections::{BTreeMap, BTreeSet};

use super::{builder::ProfileBuilder, file::CredentialTable, model::TokenSpec, token};
use crate::document::KeyPath;

/// Reads all tokens, finds who is made with whom, and sorts. Among equals the order is that of
/// their names. A circle is noted.
pub(super) fn tokens(b: &mut ProfileBuilder<'_>, body: &CredentialTable) -> Vec<TokenSpec> {
    let partitioned = !body.partition.is_empty();
    let mut open: BTreeMap<String, (TokenSpec, Vec<String>)> = BTreeMap::new();
    for (name, table) in &body.tokens {
        let spec = token::token(b, name, table, partitioned);
        let parents = parents(b, name);
        open.insert(name.clone(), (spec, parents));
    }
    // How many parents each still waits for, and who waits for it.
    let mut missing: BTreeMap<String, usize> = open
        .iter()
        .map(|(name, (_, parents))| (name.clone(), parents.len()))
        .collect();
    let mut children: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, (_, parents)) in &open {
        for parent in parents {
            children
                .entry(parent.clone())
                .or_default()
                .push(name.clone());
        }
    }
    let mut ready: BTreeSet<String> = missing
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(name, _)| name.clone())
        .collect();
    let mut sorted: Vec<TokenSpec> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(name) = ready.pop_first() {
        let Some((mut spec, parents)) = open.remove(&name) else {
            continue;
        };
        spec.parents = parents
            .iter()
            .filter_map(|parent| places.get(parent).copied())
            .collect();
        places.insert(name.clone(), sorted.len());
        sorted.push(spec);
        for child in children.remove(&name).unwrap_or_default() {
            if let Some(n) = missing.get_mut(&child) {
                *n -= 1;
                if *n == 0 {
                    ready.insert(child);
                }
            }
        }
    }
    if !open.is_empty() {
        circle(b, &open);
    }
    sorted
}

/// Tokens that are named in the request that was read last, or whose variables are.
fn parents(b: &ProfileBuilder<'_>, own: &str) -> Vec<String> {
    let mut parents: Vec<String> = Vec::new();
    for name in &b.seen {
        let token = match name.split_once('.') {
            Some(("tokens", token)) => token.split('.').next(),
            Some(("vars", var)) => var
                .split('.')
                .next()
                .and_then(|var| b.vars.get(var))
                .map(String::as_str),
            _ => None,
        };
        // An unknown one has been noted with its template.
        parents.extend(
            token
                .filter(|token| {
                    *token != own && b.tokens.binary_search_by(|t| t.as_str().cmp(token)).is_ok()
                })
                .map(str::to_owned),
        );
    }
    parents.sort_unstable();
    parents.dedup();
    parents
}

/// What is left waits for itself: names one circle.
fn circle(b: &mut ProfileBuilder<'_>, open: &BTreeMap<String, (TokenSpec, Vec<String>)>) {
    let mut way: Vec<String> = Vec::new();
    let mut at = open.keys().next().cloned();
    while let Some(name) = at {
        if let Some(start) = way.iter().position(|seen| *seen == name) {
            let names = way
                .iter()
                .skip(start)
                .chain([&name])
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" → ");
            b.note(
                &KeyPath::written("tokens").key(&name),
                format!("the tokens are made with each other in a circle: {names}"),
                "one of them must be had without the others: take {{ tokens.… }} or {{ vars.… }} out of its request",
            );
            return;
        }
        at = open
            .get(&name)
            .and_then(|(_, parents)| parents.iter().find(|parent| open.contains_key(*parent)))
            .cloned();
        way.push(name);
    }
}
