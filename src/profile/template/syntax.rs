//! The syntax of templates: minijinja's, as far as no text of a template or a value can make work
//! or memory grow without bound. Whatever is not listed here is an error: there is no `set`, no
//! loop, no macro, no include, and no call but `uuid()`.

use super::expression::read;

/// Brackets, `not`, `-`, `if … else` and `{% if %}` inside each other; no template of use comes
/// near.
pub(super) const DEPTH: usize = 24;
pub(super) const TOO_DEEP: &str = "brackets, conditions or signs stand too deep inside each other";

/// One piece of a template.
#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    Write(Expr),
    /// `{% if %}`, `{% elif %}`, `{% else %}`: the first that holds.
    Choose(Vec<(Expr, Vec<Part>)>, Vec<Part>),
}

/// What is between `{{` and `}}`. Chains of one rank lie side by side, so that a long one is not a deep one.
#[derive(Debug)]
pub(super) enum Expr {
    Text(String),
    Number(i64),
    Bool(bool),
    /// Dotted, as written: `secrets.client_id`.
    Name(String),
    Uuid,
    List(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Compare(Box<(Expr, Comparison, Expr)>),
    /// Operators of one rank, from the left.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    /// `yes if condition else no`
    Either(Box<(Expr, Expr, Option<Expr>)>),
    Steps(Box<Expr>, Vec<Step>),
}

/// What is done to a value.
#[derive(Debug)]
pub(super) enum Step {
    Filter(Filter, Vec<Expr>),
    Item(Expr),
    Slice(Option<Expr>, Option<Expr>),
    /// `is defined`, or with `false` `is undefined`.
    Defined(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Join,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::profile) enum Filter {
    B64encode,
    B64url,
    Basic,
    CertDer,
    Date,
    Default,
    First,
    Hex,
    Int,
    Join,
    Last,
    Length,
    Lower,
    Replace,
    Sha1,
    Sha256,
    SpkiDer,
    Split,
    String,
    Trim,
    Upper,
}

/// Every filter, with the least and the most arguments that it takes.
pub(super) const FILTERS: [(&str, Filter, usize, usize); 21] = [
    ("b64encode", Filter::B64encode, 0, 0),
    ("b64url", Filter::B64url, 0, 0),
    ("basic", Filter::Basic, 1, 1),
    ("cert_der", Filter::CertDer, 0, 0),
    ("date", Filter::Date, 1, 1),
    ("default", Filter::Default, 0, 2),
    ("first", Filter::First, 0, 0),
    ("hex", Filter::Hex, 0, 0),
    ("int", Filter::Int, 0, 1),
    ("join", Filter::Join, 0, 1),
    ("last", Filter::Last, 0, 0),
    ("length", Filter::Length, 0, 0),
    ("lower", Filter::Lower, 0, 0),
    ("replace", Filter::Replace, 2, 2),
    ("sha1", Filter::Sha1, 0, 0),
    ("sha256", Filter::Sha256, 0, 0),
    ("spki_der", Filter::SpkiDer, 0, 0),
    ("split", Filter::Split, 0, 2),
    ("string", Filter::String, 0, 0),
    ("trim", Filter::Trim, 0, 1),
    ("upper", Filter::Upper, 0, 0),
];

/// Reads a template.
///
/// # Errors
/// What is wrong and in which line. Quotes words of the language and names, never literal text.
pub(super) fn parse(source: &str) -> Result<Vec<Part>, String> {
    let mut reader = Reader {
        rest: source,
        depth: 0,
        trim: false,
    };
    let done = reader.parts().and_then(|(parts, end)| match end {
        End::Source => Ok(parts),
        End::Elif(_) | End::Else | End::Endif => Err("there is no {% if %} before it".to_owned()),
    });
    done.map_err(|what| {
        let line = source
            .len()
            .checked_sub(reader.rest.len())
            .and_then(|at| source.get(..at))
            .map_or(1, |read| read.matches('\n').count() + 1);
        if line > 1 {
            format!("{what} (line {line})")
        } else {
            what
        }
    })
}

/// What ended a sequence of parts.
enum End {
    Source,
    Elif(Vec<Token>),
    Else,
    Endif,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 23] = [
    "==", "!=", "<=", ">=", "//", "**", "<", ">", "~", "+", "-", "*", "/", "%", "|", ".", ",", ":",
    "(", ")", "=", "[", "]",
];

/// Where the next tag begins, and which; the end and none where there is no other. Reads no further
/// than that, so that a text of many tags is read once.
fn next_tag(text: &str) -> (usize, &'static str) {
    let mut tags = text.match_indices('{').filter_map(|(at, _)| {
        let tag = match text.as_bytes().get(at + 1)? {
            b'{' => "{{",
            b'%' => "{%",
            b'#' => "{#",
            _ => return None,
        };
        Some((at, tag))
    });
    tags.next().unwrap_or((text.len(), ""))
}

struct Reader<'s> {
    rest: &'s str,
    depth: usize,
    /// White space that follows belongs to a tag that ended with `-`.
    trim: bool,
}

impl Reader<'_> {
    fn parts(&mut self) -> Result<(Vec<Part>, End), String> {
        let mut parts = Vec::new();
        loop {
            let (at, tag) = next_tag(self.rest);
            let (mut text, after) = (
                self.rest.get(..at).unwrap_or_default(),
                self.rest.get(at + tag.len()..).unwrap_or_default(),
            );
            if std::mem::take(&mut self.trim) {
                text = text.trim_start();
            }
            let after = after
                .strip_prefix('-')
                .inspect(|_| text = text.trim_end())
                .unwrap_or(after);
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            self.rest = after;
            match tag {
                "{{" => parts.push(Part::Write(self.expression("}}")?)),
                "{%" => {
                    let mut tokens = self.tokens("%}")?;
                    if tokens.is_empty() {
                        return Err("a tag is empty".to_owned());
                    }
                    match (tokens.remove(0), tokens.is_empty()) {
                        (Token::Word(word), false) if word == "if" => {
                            parts.push(self.choose(tokens)?);
                        }
                        (Token::Word(word), false) if word == "elif" => {
                            return Ok((parts, End::Elif(tokens)));
                        }
                        (Token::Word(word), true) if word == "else" => {
                            return Ok((parts, End::Else));
                        }
                        (Token::Word(word), true) if word == "endif" => {
                            return Ok((parts, End::Endif));
                        }
                        (Token::Word(word), _)
                            if ["if", "elif", "else", "endif"].contains(&&*word) =>
                        {
                            return Err(format!(
                                "{word} is not written so: {{% if … %}}, {{% elif … %}}, {{% else %}}, {{% endif %}}"
                            ));
                        }
                        (Token::Word(word), _) => {
                            return Err(format!(
                                "there is no {{% {word} %}}: if, elif, else and endif are all"
                            ));
                        }
                        _ => return Err("a tag begins with if, elif, else or endif".to_owned()),
                    }
                }
                "{#" => {
                    let end = self
                        .rest
                        .find("#}")
                        .ok_or("a comment is not closed with #}")?;
                    self.trim = self
                        .rest
                        .get(..end)
                        .is_some_and(|comment| comment.ends_with('-'));
                    self.rest = self.rest.get(end + 2..).unwrap_or_default();
                }
                _ => return Ok((parts, End::Source)),
            }
        }
    }

    fn choose(&mut self, first: Vec<Token>) -> Result<Part, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(TOO_DEEP.to_owned());
        }
        let (mut cases, mut otherwise, mut condition) = (Vec::new(), Vec::new(), Some(first));
        loop {
            let when = condition.take().map(read).transpose()?;
            let last = when.is_none();
            let (parts, end) = self.parts()?;
            match when {
                Some(when) => cases.push((when, parts)),
                None => otherwise = parts,
            }
            match end {
                End::Endif => break,
                End::Elif(tokens) if !last => condition = Some(tokens),
                End::Else if !last => {}
                End::Elif(_) | End::Else => return Err("{% else %} is not the last".to_owned()),
                End::Source => return Err("{% if %} is not closed with {% endif %}".to_owned()),
            }
        }
        self.depth -= 1;
        Ok(Part::Choose(cases, otherwise))
    }

    fn expression(&mut self, close: &str) -> Result<Expr, String> {
        read(self.tokens(close)?)
    }

    /// Everything up to `close`.
    fn tokens(&mut self, close: &str) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            let trimmed = self
                .rest
                .strip_prefix('-')
                .and_then(|rest| rest.strip_prefix(close));
            if let Some(after) = trimmed.or_else(|| self.rest.strip_prefix(close)) {
                (self.trim, self.rest) = (trimmed.is_some(), after);
                return Ok(tokens);
            }
            let Some(first) = self.rest.chars().next() else {
                return Err(format!("a tag is not closed with {close}"));
            };
            tokens.push(match first {
                'a'..='z' | 'A'..='Z' | '_' => Token::Word(
                    self.take(|c| c.is_ascii_alphanumeric() || c == '_')
                        .to_owned(),
                ),
                '0'..='9' => {
                    let digits = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
                    Token::Number(digits.parse().map_err(|_| {
                        "a number is not a whole one of at most 18 digits".to_owned()
                    })?)
                }
                '"' | '\'' => Token::Text(self.text(first)?),
                _ => {
                    let sign = SIGNS.iter().find(|sign| self.rest.starts_with(**sign));
                    let sign = sign.ok_or("a sign in it means nothing here")?;
                    self.rest = self.rest.get(sign.len()..).unwrap_or_default();
                    Token::Sign(sign)
                }
            });
        }
    }

    fn take(&mut self, part: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end); // `find` gives a boundary
        self.rest = rest;
        taken
    }

    /// A text in quotes, the first of which is next.
    fn text(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    text.push(match chars.next().map(|(_, c)| c) {
                        Some('n') => '\n',
                        Some('r') => '\r',
                        Some('t') => '\t',
                        Some(c @ ('\\' | '/' | '"' | '\'')) => c,
                        _ => return Err(
                            r#"a backslash in a text is followed by n, r, t, ", ' or another one"#
                                .to_owned(),
                        ),
                    });
                }
                c if c == quote => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err("a text is not closed with its quote".to_owned())
    }
}
