//! What templates are worth. Every text and list on the way is at most [`LONGEST`], measured before
//! it is made, and all work together is bounded by [`WORK`]: whatever stands in a template or a
//! vendor's answer, rendering ends soon.

use std::{borrow::Cow, time::Duration};

use zeroize::Zeroizing;

use super::{
    Scope,
    syntax::{Comparison, Expr, Operator, Part, Step},
};
use crate::{clock::BootInstant, profile::filters, secret::Secret};

/// Bytes of a text, and of what a template renders to.
pub(in crate::profile) const LONGEST: usize = 64 * 1024;
/// Parts of a list.
pub(in crate::profile) const PARTS: usize = 1024;
/// Bytes that may be read and written while one template is rendered. A plain one takes a few
/// hundred.
const WORK: usize = 1024 * 1024;
/// What looking at one part of an expression counts as.
const STEP: usize = 8;

/// Why there is no value. Holds no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::profile) enum Fault {
    #[error("a name in it is not defined")]
    Undefined,
    #[error("a text in it, or what it renders to, is longer than 64 KiB")]
    TooLong,
    #[error("a list in it has more than 1024 parts")]
    TooManyParts,
    #[error("it takes too much work")]
    TooMuchWork,
    #[error("{0}")]
    Told(&'static str),
}

/// A value. What was made on the way is wiped when it is dropped.
#[derive(Clone)]
pub(in crate::profile) enum Val<'a> {
    Undefined,
    Given(&'a str),
    Made(Zeroizing<String>),
    Bytes(Zeroizing<Vec<u8>>),
    Number(i64),
    Bool(bool),
    /// `now`, since the Unix epoch.
    Moment(Duration),
    List(Vec<Val<'a>>),
}

/// One rendering.
pub(in crate::profile) struct Run<'a> {
    pub scope: &'a Scope<'a>,
    left: usize,
    /// Values are placeholders: what depends on them alone succeeds.
    pub forgive: bool,
}

type Result<T> = std::result::Result<T, Fault>;

const CALCULATE: Fault = Fault::Told(
    "texts are joined with ~; only whole numbers of at most 18 digits can be calculated with",
);
const WRITABLE: Fault = Fault::Told("only text and numbers can be written or joined");
const BYTES: Fault =
    Fault::Told("bytes cannot be written as they are: end with hex, b64encode or b64url");

impl Val<'_> {
    pub fn made(text: String) -> Self {
        Self::Made(Zeroizing::new(text))
    }

    /// What it is as text: numbers and moments too.
    pub fn text(&self) -> Result<Cow<'_, str>> {
        match self {
            Self::Given(text) => Ok(Cow::Borrowed(text)),
            Self::Made(text) => Ok(Cow::Borrowed(text)),
            Self::Number(n) => Ok(Cow::Owned(n.to_string())),
            Self::Moment(wall) => filters::rfc3339(*wall).map(Cow::Owned),
            Self::Undefined => Err(Fault::Undefined),
            Self::Bytes(_) => Err(BYTES),
            Self::Bool(_) | Self::List(_) => Err(WRITABLE),
        }
    }

    fn plain(&self) -> Option<&str> {
        match self {
            Self::Given(text) => Some(text),
            Self::Made(text) => Some(text),
            _ => None,
        }
    }

    pub fn truth(&self) -> bool {
        match self {
            Self::Undefined => false,
            Self::Given(text) => !text.is_empty(),
            Self::Made(text) => !text.is_empty(),
            Self::Bytes(bytes) => !bytes.is_empty(),
            Self::Number(n) => *n != 0,
            Self::Bool(yes) => *yes,
            Self::Moment(_) => true,
            Self::List(list) => !list.is_empty(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Given(text) => text.len(),
            Self::Made(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.iter().map(|item| item.size() + STEP).sum(),
            Self::Undefined | Self::Number(_) | Self::Bool(_) | Self::Moment(_) => STEP,
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Undefined, Self::Undefined) => true,
            _ => self.plain().is_some_and(|text| other.plain() == Some(text)),
        }
    }

    /// The character or part at `at`; negative ones count from the end.
    pub fn nth(self, at: i64) -> Result<Self> {
        let place = |len: usize| {
            let steps = usize::try_from(at.unsigned_abs()).ok()?;
            if at < 0 {
                len.checked_sub(steps)
            } else {
                Some(steps)
            }
        };
        match self {
            Self::List(mut list) => Ok(place(list.len())
                .filter(|at| *at < list.len())
                .map_or(Self::Undefined, |at| list.swap_remove(at))),
            Self::Undefined => Err(Fault::Undefined),
            value => {
                let text = value
                    .plain()
                    .ok_or(Fault::Told("[…] takes a part of a text or a list"))?;
                let found = place(text.chars().count()).and_then(|at| text.chars().nth(at));
                Ok(found.map_or(Self::Undefined, |c| Self::made(c.to_string())))
            }
        }
    }
}

impl<'a> Run<'a> {
    pub fn new(scope: &'a Scope<'a>, forgive: bool) -> Self {
        Self {
            scope,
            left: WORK,
            forgive,
        }
    }

    /// Counts work before it is done.
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::TooMuchWork)?;
        Ok(())
    }

    /// Whether a text of that many bytes may be made; counts it.
    pub fn room(&mut self, bytes: usize) -> Result<()> {
        if bytes > LONGEST {
            Err(Fault::TooLong)
        } else {
            self.charge(bytes)
        }
    }

    pub(super) fn write(&mut self, parts: &'a [Part], out: &mut Zeroizing<String>) -> Result<()> {
        for part in parts {
            match part {
                Part::Text(text) => self.put(text, out)?,
                Part::Write(expr) => {
                    let value = self.eval(expr)?;
                    let text = value.text()?;
                    self.put(&text, out)?;
                    if let Cow::Owned(text) = text {
                        drop(Zeroizing::new(text));
                    }
                }
                Part::Choose(cases, otherwise) => {
                    let mut chosen = otherwise;
                    for (condition, parts) in cases {
                        if self.eval(condition)?.truth() {
                            chosen = parts;
                            break;
                        }
                    }
                    self.write(chosen, out)?;
                }
            }
        }
        Ok(())
    }

    /// Grows by whole copies and wipes the old ones.
    fn put(&mut self, text: &str, out: &mut Zeroizing<String>) -> Result<()> {
        let needed = out.len() + text.len();
        if needed > LONGEST {
            return Err(Fault::TooLong);
        }
        self.charge(text.len())?;
        if needed > out.capacity() {
            let mut larger = Zeroizing::new(String::with_capacity(needed * 2));
            larger.push_str(out);
            *out = larger;
        }
        out.push_str(text);
        Ok(())
    }

    fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>> {
        self.charge(STEP)?;
        match expr {
            Expr::Text(text) => Ok(Val::Given(text)),
            Expr::Number(n) => Ok(Val::Number(*n)),
            Expr::Bool(yes) => Ok(Val::Bool(*yes)),
            Expr::Name(name) => self.named(name),
            Expr::Uuid => {
                self.charge(256)?;
                Ok(Val::made(uuid::Uuid::new_v4().to_string()))
            }
            Expr::List(items) => {
                if items.len() > PARTS {
                    return Err(Fault::TooManyParts);
                }
                let items = items
                    .iter()
                    .map(|item| self.eval(item))
                    .collect::<Result<Vec<_>>>()?;
                if items.iter().any(|item| matches!(item, Val::List(_))) {
                    return Err(Fault::Told("a list cannot hold lists"));
                }
                self.room(items.iter().map(Val::size).sum())?;
                Ok(Val::List(items))
            }
            Expr::Not(inner) => Ok(Val::Bool(!self.eval(inner)?.truth())),
            Expr::Negative(inner) => match self.eval(inner)? {
                Val::Number(n) => n.checked_neg().map(Val::Number).ok_or(CALCULATE),
                _ => Err(CALCULATE),
            },
            Expr::Or(all) => self.until(all, true),
            Expr::And(all) => self.until(all, false),
            Expr::Compare(compared) => {
                let (left, how, right) = &**compared;
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.compare(&left, *how, &right).map(Val::Bool)
            }
            Expr::Chain(first, rest) => {
                let mut value = self.eval(first)?;
                for (operator, right) in rest {
                    let right = self.eval(right)?;
                    value = self.operate(&value, *operator, &right)?;
                }
                Ok(value)
            }
            Expr::Either(parts) => {
                let (yes, condition, no) = &**parts;
                if self.eval(condition)?.truth() {
                    return self.eval(yes);
                }
                no.as_ref().map_or(Ok(Val::Undefined), |no| self.eval(no))
            }
            Expr::Steps(base, steps) => {
                let mut value = self.eval(base)?;
                for step in steps {
                    value = self.step(value, step)?;
                }
                Ok(value)
            }
        }
    }

    /// The first that is as true as `wanted`, or the last.
    fn until(&mut self, all: &'a [Expr], wanted: bool) -> Result<Val<'a>> {
        let mut value = Val::Undefined;
        for expr in all {
            value = self.eval(expr)?;
            if value.truth() == wanted {
                break;
            }
        }
        Ok(value)
    }

    fn named(&mut self, name: &str) -> Result<Val<'a>> {
        let scope = self.scope;
        let find = |pairs: &'a [(&'a str, &'a str)], key: &str| {
            pairs
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        let (first, second) = name
            .split_once('.')
            .map_or((name, None), |(first, second)| (first, Some(second)));
        let found = match (first, second) {
            ("secrets", Some(key)) => scope
                .secrets
                .and_then(|all| all.get(key))
                .map(Secret::expose),
            ("tokens", Some(key)) => find(scope.tokens, key),
            ("partition", Some(key)) => find(scope.partition, key),
            ("vars", Some(key)) => scope.vars.and_then(|all| all.get(key)).map(String::as_str),
            ("token", None) => scope.tokens.last().map(|(_, value)| *value),
            ("assertion", None) => scope.assertion,
            ("now", part) => {
                let wall = scope.wall.unwrap_or_else(|| BootInstant::now().wall());
                return match part {
                    None => Ok(Val::Moment(wall)),
                    Some("epoch") => Ok(Val::Number(
                        i64::try_from(wall.as_secs()).unwrap_or(i64::MAX),
                    )),
                    Some(_) => Ok(Val::Undefined),
                };
            }
            (_, None) => scope
                .settings
                .and_then(|all| all.get(first))
                .map(String::as_str),
            _ => None,
        };
        self.room(found.map_or(0, str::len))?;
        Ok(found.map_or(Val::Undefined, Val::Given))
    }

    fn compare(&mut self, left: &Val<'_>, how: Comparison, right: &Val<'_>) -> Result<bool> {
        self.charge(left.size() + right.size())?;
        let order = || match (left, right) {
            (Val::Number(a), Val::Number(b)) => Ok(a.cmp(b)),
            _ => left
                .plain()
                .zip(right.plain())
                .map(|(a, b)| a.cmp(b))
                .ok_or(Fault::Told("only two texts or two numbers have an order")),
        };
        let within = || match (right, left.plain().zip(right.plain())) {
            (Val::List(list), _) => Ok(list.iter().any(|item| item.same(left))),
            (_, Some((part, whole))) => Ok(whole.contains(part)),
            _ => Err(Fault::Told(
                "`in` asks for a text in a text, or a value in a list",
            )),
        };
        Ok(match how {
            Comparison::Equal => left.same(right),
            Comparison::Unequal => !left.same(right),
            Comparison::Less => order()?.is_lt(),
            Comparison::LessOrEqual => order()?.is_le(),
            Comparison::Greater => order()?.is_gt(),
            Comparison::GreaterOrEqual => order()?.is_ge(),
            Comparison::In => within()?,
            Comparison::NotIn => !within()?,
        })
    }

    fn operate(&mut self, left: &Val<'a>, operator: Operator, right: &Val<'a>) -> Result<Val<'a>> {
        let texts = left.plain().is_some() && right.plain().is_some();
        if operator == Operator::Join || operator == Operator::Add && texts {
            let (left, right) = (left.text()?, right.text()?);
            self.room(left.len() + right.len())?;
            return Ok(Val::made([left, right].concat()));
        }
        let (left, right) = match (left, right) {
            (Val::Number(left), Val::Number(right)) => (*left, *right),
            (Val::Undefined, _) | (_, Val::Undefined) => return Err(Fault::Undefined),
            _ => return Err(CALCULATE),
        };
        let number = match operator {
            Operator::Add => left.checked_add(right),
            Operator::Subtract => left.checked_sub(right),
            Operator::Multiply => left.checked_mul(right),
            Operator::Divide => left.checked_div_euclid(right),
            Operator::Remainder => left.checked_rem_euclid(right),
            Operator::Join => None,
        };
        match number {
            Some(number) => Ok(Val::Number(number)),
            None if self.forgive => Ok(Val::Number(1)),
            None if right == 0 => Err(Fault::Told("nothing can be divided by 0")),
            None => Err(CALCULATE),
        }
    }

    fn step(&mut self, value: Val<'a>, step: &'a Step) -> Result<Val<'a>> {
        self.charge(STEP + value.size())?;
        match step {
            Step::Defined(wanted) => Ok(Val::Bool(!matches!(value, Val::Undefined) == *wanted)),
            Step::Filter(filter, arguments) => {
                let arguments = arguments
                    .iter()
                    .map(|argument| self.eval(argument))
                    .collect::<Result<Vec<_>>>()?;
                filters::apply(self, value, *filter, &arguments)
            }
            Step::Item(at) => {
                let at = self.position(at)?;
                value.nth(at)
            }
            Step::Slice(from, to) => {
                let from = from.as_ref().map(|at| self.position(at)).transpose()?;
                let to = to.as_ref().map(|at| self.position(at)).transpose()?;
                cut(value, from, to)
            }
        }
    }

    fn position(&mut self, expr: &'a Expr) -> Result<i64> {
        match self.eval(expr)? {
            Val::Number(at) => Ok(at),
            _ => Err(Fault::Told("[…] takes whole numbers")),
        }
    }
}

/// From the character or part `from` to before `to`; negative ones count from the end.
fn cut(value: Val<'_>, from: Option<i64>, to: Option<i64>) -> Result<Val<'_>> {
    let range = |len: usize| {
        let place = |at: i64| {
            let steps = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
            if at < 0 {
                len.saturating_sub(steps)
            } else {
                steps.min(len)
            }
        };
        let (from, to) = (from.map_or(0, place), to.map_or(len, place));
        (from, to.saturating_sub(from))
    };
    match value {
        Val::List(list) => {
            let (from, count) = range(list.len());
            Ok(Val::List(list.into_iter().skip(from).take(count).collect()))
        }
        Val::Undefined => Err(Fault::Undefined),
        value => {
            let text = value
                .plain()
                .ok_or(Fault::Told("[…] takes a part of a text or a list"))?;
            let (from, count) = range(text.chars().count());
            Ok(Val::made(text.chars().skip(from).take(count).collect()))
        }
    }
}
