//! From a tree of values to [`File`], whatever is wrong with it: each mistake is noted, taken out,
//! and reading goes on.

use serde_json::Value;
use serde_path_to_error::Segment;

use super::{
    file::File,
    shape::{self, Step},
};
use crate::{
    problem::{Problems, known, one_of},
    profile::lists_of_one,
};

/// Words for a key that nobody reads.
pub const UNKNOWN: &str = "is not a known key";

/// Values that are looked at in all: each mistake means reading anew, so that very long files tell
/// fewer of them at once.
const WORK: usize = 4_000_000;

/// Reads `tree`. What was wrong is noted in `problems` and gone from `tree` afterwards (unknown
/// keys stay: nobody reads them).
pub fn read(tree: &mut Value, problems: &mut Problems) -> File {
    lists_of_one::<File>(tree);
    let mut gone = Vec::new();
    let turns = (WORK / nodes(tree)).clamp(4, 256);
    for _ in 0..turns {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let reader = serde_path_to_error::Deserializer::new(&*tree, &mut track);
        let file = serde_ignored::deserialize(reader, |path| unknown.push(ignored(&path)));
        match file {
            Ok(file) => {
                for steps in unknown {
                    note_unknown(&restore(&steps, &gone), problems);
                }
                return file;
            }
            Err(error) => {
                let steps = existing(tree, &track.path());
                note(tree, &steps, &restore(&steps, &gone), &error, problems);
                if !take_out(tree, &steps) {
                    return File::default();
                }
                gone.push(steps);
            }
        }
    }
    File::default()
}

/// How many values there are in it.
fn nodes(tree: &Value) -> usize {
    match tree {
        Value::Object(table) => 1 + table.values().map(nodes).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(nodes).sum::<usize>(),
        _ => 1,
    }
}

/// The part of serde's path that is there in the tree.
fn existing(tree: &Value, path: &serde_path_to_error::Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut here = tree;
    for segment in path {
        let (step, next) = match segment {
            Segment::Map { key } => (Step::Key(key.clone()), here.get(key)),
            Segment::Seq { index } => (Step::Index(*index), here.get(index)),
            Segment::Enum { .. } | Segment::Unknown => break,
        };
        let Some(next) = next else { break };
        here = next;
        steps.push(step);
    }
    steps
}

fn ignored(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => [ignored(parent), vec![Step::Index(*index)]].concat(),
        Path::Map { parent, key } => [ignored(parent), vec![Step::Key(key.clone())]].concat(),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored(parent),
    }
}

/// Positions in lists as they were before something was taken out; the latest removal counts first.
fn restore(steps: &[Step], gone: &[Vec<Step>]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for earlier in gone.iter().rev() {
        if let Some((Step::Index(removed), list)) = earlier.split_last()
            && let Some((Step::Index(i), here)) = steps
                .get_mut(..earlier.len())
                .and_then(<[Step]>::split_last_mut)
            && *here == *list
            && *i >= *removed
        {
            *i += 1;
        }
    }
    steps
}

fn value_at<'a>(tree: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(tree, |here, step| match step {
        Step::Key(key) => here.get_mut(key),
        Step::Index(i) => here.get_mut(i),
    })
}

fn take_out(tree: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parents)) = steps.split_last() else {
        return false;
    };
    match (value_at(tree, parents), last) {
        (Some(Value::Object(table)), Step::Key(key)) => table.remove(key).is_some(),
        (Some(Value::Array(items)), Step::Index(i)) if *i < items.len() => {
            items.remove(*i);
            true
        }
        _ => false,
    }
}

fn note(
    tree: &mut Value,
    steps: &[Step],
    shown: &[Step],
    error: &serde_json::Error,
    problems: &mut Problems,
) {
    let place = shape::at(steps);
    let words = place.words();
    let message = error.to_string();
    let mut hint = place.example().to_owned();
    let what = match value_at(tree, steps) {
        Some(Value::String(given)) if !words.is_empty() => {
            hint = one_of(given, words.iter().copied());
            format!("must be one of {}", words.join(", "))
        }
        Some(value)
            if message.starts_with("invalid type") || message.starts_with("invalid value") =>
        {
            let given = shape::kind_of(value);
            if place.takes("string") && !place.takes("object") && value.is_number() {
                "put it in quotes; a duration has a unit, such as \"30s\"".clone_into(&mut hint);
            }
            format!("must be {}, not {given}", place.kinds())
        }
        _ => message,
    };
    problems.problem(shape::dotted(shown), what, hint);
}

fn note_unknown(steps: &[Step], problems: &mut Problems) {
    let Some((Step::Key(key), table)) = steps.split_last() else {
        return;
    };
    problems.problem(
        shape::dotted(steps),
        UNKNOWN,
        known(key, shape::at(table).keys()),
    );
}
