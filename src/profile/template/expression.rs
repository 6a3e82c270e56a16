//! Expressions out of their tokens, by descent: what binds looser is asked first.

use super::syntax::{Comparison, DEPTH, Expr, FILTERS, Operator, Step, TOO_DEEP, Token};
use crate::document::nearest;

/// Words that are no names.
const WORDS: [&str; 7] = ["and", "else", "if", "in", "is", "not", "or"];

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// Operators by rank, the loosest first.
const RANKS: [&[(&str, Operator)]; 3] = [
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[("~", Operator::Join)],
    &[
        ("*", Operator::Multiply),
        ("//", Operator::Divide),
        ("%", Operator::Remainder),
    ],
];

/// Reads one whole expression.
pub(super) fn read(tokens: Vec<Token>) -> Result<Expr, String> {
    let mut reader = Reader {
        tokens,
        at: 0,
        depth: 0,
    };
    let expr = reader.expr()?;
    match reader.peek() {
        None => Ok(expr),
        Some(Token::Sign("/")) => Err("/ is no operator here: // divides whole numbers".to_owned()),
        Some(Token::Sign("**")) => Err("** is no operator here: only + - * // % count".to_owned()),
        Some(Token::Sign("(")) => {
            Err("only uuid() is called; the others are names or filters".to_owned())
        }
        Some(_) => Err("an expression goes on where it should end".to_owned()),
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn skip(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &'static str) -> bool {
        self.skip(&Token::Sign(sign))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn close(&mut self, sign: &'static str) -> Result<(), String> {
        if self.sign(sign) {
            Ok(())
        } else {
            Err(format!("{sign} is missing"))
        }
    }

    /// Reads something that may hold itself.
    fn deeper<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(TOO_DEEP.to_owned());
        }
        let read = part(self)?;
        self.depth -= 1;
        Ok(read)
    }

    fn expr(&mut self) -> Result<Expr, String> {
        let yes = self.any()?;
        if !self.word("if") {
            return Ok(yes);
        }
        let condition = self.any()?;
        let no = if self.word("else") {
            Some(self.deeper(Self::expr)?)
        } else {
            None
        };
        Ok(Expr::Either(Box::new((yes, condition, no))))
    }

    fn any(&mut self) -> Result<Expr, String> {
        self.series("or", Self::all, Expr::Or)
    }

    fn all(&mut self) -> Result<Expr, String> {
        self.series("and", Self::negation, Expr::And)
    }

    fn series(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Expr, String>,
        whole: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, String> {
        let first = part(self)?;
        let mut all = vec![first];
        while self.word(word) {
            all.push(part(self)?);
        }
        Ok(if all.len() == 1 {
            all.remove(0)
        } else {
            whole(all)
        })
    }

    fn negation(&mut self) -> Result<Expr, String> {
        if self.word("not") {
            Ok(Expr::Not(Box::new(self.deeper(Self::negation)?)))
        } else {
            self.comparison()
        }
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.chain(0)?;
        let Some(how) = self.compared() else {
            return Ok(left);
        };
        let right = self.chain(0)?;
        if self.compared().is_some() {
            return Err("comparisons stand in a row: join them with `and`".to_owned());
        }
        Ok(Expr::Compare(Box::new((left, how, right))))
    }

    fn compared(&mut self) -> Option<Comparison> {
        if let Some((_, how)) = COMPARISONS
            .iter()
            .find(|(sign, _)| self.peek() == Some(&Token::Sign(sign)))
        {
            self.at += 1;
            return Some(*how);
        }
        if self.word("in") {
            return Some(Comparison::In);
        }
        let not_in = matches!(self.tokens.get(self.at..self.at + 2), Some([Token::Word(a), Token::Word(b)]) if a == "not" && b == "in");
        self.at += if not_in { 2 } else { 0 };
        not_in.then_some(Comparison::NotIn)
    }

    fn chain(&mut self, rank: usize) -> Result<Expr, String> {
        let Some(operators) = RANKS.get(rank) else {
            return self.unary();
        };
        let first = self.chain(rank + 1)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators
            .iter()
            .find(|(sign, _)| self.peek() == Some(&Token::Sign(sign)))
        {
            self.at += 1;
            rest.push((*operator, self.chain(rank + 1)?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Expr::Chain(Box::new(first), rest)
        })
    }

    /// A minus binds tighter than filters, and looser than `[…]`.
    fn unary(&mut self) -> Result<Expr, String> {
        let base = self.signed()?;
        let mut steps = Vec::new();
        loop {
            if self.sign("|") {
                steps.push(self.filter()?);
            } else if self.word("is") {
                let not = self.word("not");
                steps.push(Step::Defined(match self.name()?.as_str() {
                    "defined" => !not,
                    "undefined" => not,
                    _ => {
                        return Err(
                            "a test is `is defined` or `is undefined`; compare with == and !="
                                .to_owned(),
                        );
                    }
                }));
            } else {
                break;
            }
        }
        Ok(if steps.is_empty() {
            base
        } else {
            Expr::Steps(Box::new(base), steps)
        })
    }

    fn signed(&mut self) -> Result<Expr, String> {
        if self.sign("-") {
            return Ok(Expr::Negative(Box::new(self.deeper(Self::signed)?)));
        }
        let base = self.primary()?;
        let mut steps = Vec::new();
        while self.sign("[") {
            steps.push(self.deeper(Self::item)?);
        }
        if self.peek() == Some(&Token::Sign(".")) {
            return Err("only names have parts: secrets.NAME, tokens.NAME, partition.NAME, vars.NAME, now.epoch".to_owned());
        }
        Ok(if steps.is_empty() {
            base
        } else {
            Expr::Steps(Box::new(base), steps)
        })
    }

    fn item(&mut self) -> Result<Step, String> {
        let bound = |reader: &mut Self, end: &'static str| {
            if reader.peek() == Some(&Token::Sign(end)) {
                Ok(None)
            } else {
                reader.expr().map(Some)
            }
        };
        let first = bound(self, ":")?;
        let step = if self.sign(":") {
            Step::Slice(first, bound(self, "]")?)
        } else {
            Step::Item(first.ok_or("[ ] is empty")?)
        };
        self.close("]")?;
        Ok(step)
    }

    fn filter(&mut self) -> Result<Step, String> {
        let name = self.name()?;
        let Some((_, filter, least, most)) = FILTERS.iter().find(|(known, ..)| *known == name)
        else {
            let hint = nearest(&name, FILTERS.iter().map(|(known, ..)| *known))
                .map(|near| format!(" (did you mean {near}?)"));
            return Err(format!(
                "there is no filter {name}{}",
                hint.unwrap_or_default()
            ));
        };
        let arguments = if self.sign("(") {
            self.deeper(|reader| reader.list(")"))?
        } else {
            Vec::new()
        };
        match arguments.len() {
            n if n < *least => Err(format!(
                "filter {name} is missing an argument: it takes {least}"
            )),
            n if n > *most => Err(format!(
                "filter {name} has too many arguments: it takes {most} at most"
            )),
            _ => Ok(Step::Filter(*filter, arguments)),
        }
    }

    /// Expressions with commas between them, up to `end`.
    fn list(&mut self, end: &'static str) -> Result<Vec<Expr>, String> {
        let mut all = Vec::new();
        while !self.sign(end) {
            if !all.is_empty() {
                self.close(",")?;
                if self.sign(end) {
                    break;
                }
            }
            all.push(self.expr()?);
        }
        Ok(all)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        let token = self
            .peek()
            .cloned()
            .ok_or("an expression is not complete")?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Expr::Text(text)),
            Token::Number(n) => Ok(Expr::Number(n)),
            Token::Sign("(") => {
                let inner = self.deeper(Self::expr)?;
                self.close(")")?;
                Ok(inner)
            }
            Token::Sign("[") => Ok(Expr::List(self.deeper(|reader| reader.list("]"))?)),
            Token::Word(word) => match word.as_str() {
                "true" | "True" => Ok(Expr::Bool(true)),
                "false" | "False" => Ok(Expr::Bool(false)),
                _ => {
                    self.at -= 1;
                    self.named()
                }
            },
            Token::Sign(_) => Err("a value is missing: a name, a text in quotes, a number, or an expression in brackets".to_owned()),
        }
    }

    fn named(&mut self) -> Result<Expr, String> {
        let mut name = self.name()?;
        while self.sign(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        if self.peek() != Some(&Token::Sign("(")) {
            return if name == "uuid" {
                Err("uuid is a function: {{ uuid() }}".to_owned())
            } else {
                Ok(Expr::Name(name))
            };
        }
        let called = name == "uuid" && self.sign("(") && self.sign(")");
        match name.as_str() {
            _ if called => Ok(Expr::Uuid),
            "now" => Err(
                "now is a value: {{ now }}, {{ now.epoch }} or {{ now | date(\"%Y-%m-%d\") }}"
                    .to_owned(),
            ),
            _ => Err("only uuid() is called; the others are names or filters".to_owned()),
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(Token::Word(word)) if !WORDS.contains(&word.as_str()) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => Err("a name is missing".to_owned()),
        }
    }
}
