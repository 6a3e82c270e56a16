//! A failed attempt: its class, which decides what the keeper does, and its kind, from which words
//! are made where it is shown.

use std::{fmt, time::Duration};

use crate::tls::{HandshakeFailure, HandshakeFault};

/// Classes of failed attempts ([Classes of answers](crate::promises#classes-of-answers)): what
/// follows from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// Try again with backoff.
    Retry,
    /// The vendor said how long to wait.
    Throttled,
    /// The vendor refuses our secret.
    Rejected,
    /// The answer makes no sense or a parameter is wrong.
    Config,
    /// A secret could not be read; nothing was sent.
    Unreadable,
}

/// A failed attempt, scrubbed of secrets. Its `Display` is one line for people: what broke, and at
/// most 200 characters of what the vendor said of it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What follows from it.
    pub class: FailureClass,
    /// What broke.
    pub kind: FailureKind,
    /// The vendor's status, where there was an answer.
    pub status: Option<u16>,
    /// What the vendor said of its error.
    pub vendor: VendorError,
    /// How long the vendor (or a rule's `hold`) wants us to wait.
    pub wait: Option<Duration>,
    /// The refusal speaks of the client (`invalid_client`, bare 401), not of one partition. With
    /// [`FailureClass::Config`]: it was a refusal, which is blamed on a clock; an account's budget
    /// counts it all the same.
    pub client_refused: bool,
}

impl Failure {
    /// One that the vendor did not speak of: no answer, no wish how long to wait.
    #[must_use]
    pub fn own(class: FailureClass, kind: FailureKind) -> Self {
        Self {
            class,
            kind,
            status: None,
            vendor: VendorError::default(),
            wait: None,
            client_refused: false,
        }
    }
}

/// What an answer says of its error (RFC 6749 5.2), scrubbed: the only text of it that is ever
/// shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VendorError {
    /// `error`
    pub code: Option<String>,
    /// `error_description`
    pub description: Option<String>,
}

/// What broke. Texts in it are ours, or scrubbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// A secret could not be read, for this reason. Nothing was sent.
    SecretUnreadable(String),
    /// The request could not be made of configuration and secrets. Nothing was sent.
    Unsendable(String),
    /// The guard remembers refusals of this secret, or of another of its account. Nothing was sent.
    RefusedBefore,
    /// The guard's memory cannot be read or written. Nothing was sent.
    GuardMemory,
    /// The call panicked.
    Panicked,
    /// The name of the endpoint cannot be looked up.
    Dns,
    /// Nobody listens there, or a firewall says so.
    ConnectionRefused,
    /// The other end, or something in between, cut the connection.
    ConnectionReset,
    /// The operating system gave up connecting.
    ConnectTimeout,
    /// There is no way to the endpoint's address.
    NetworkUnreachable,
    /// The connection ended within a message.
    ClosedEarly,
    /// No connection, for another reason.
    CannotConnect,
    /// The HTTP library refused the request.
    RequestRefused,
    /// The connection ended without an answer, or the answer is not HTTP.
    NotHttp,
    /// The TLS handshake failed.
    Tls(Box<HandshakeFailure>),
    /// A step of the call took too long.
    TimedOut,
    /// No head of an answer within this time.
    NoAnswer(Duration),
    /// The answer began, and did not end within this time.
    Unfinished(Duration),
    /// The body broke off or is damaged.
    BrokenBody,
    /// The body is not in the content coding that it names.
    DamagedCoding,
    /// The body is in this content coding, which is not known here.
    UnknownCoding(String),
    /// The body is in more than so many content codings.
    TooManyCodings(usize),
    /// The body is larger than 64 KiB.
    TooLarge,
    /// A redirect, which is never followed.
    Redirect,
    /// JSON was to be read, and the answer is none.
    NotJson,
    /// The token is of this type, which needs a proof of possession.
    NeedsProof(&'static str),
    /// Nothing stands where the token should (a JSON pointer, or a place in words).
    NoTokenAt(String),
    /// What stands there is no string.
    TokenNotText(String),
    /// The token that stands there cannot be sent, for this reason.
    TokenUnusable {
        /// Where it stands: a JSON pointer, or a place in words.
        at: String,
        /// In words that follow the token's place.
        fault: &'static str,
    },
    /// The token's life had ended when it came.
    Outlived,
    /// The status, or a rule, says that it failed; what is known beyond that is the vendor's own
    /// words.
    Answered,
    /// It failed with `refusal`, as it seems because the clock that dated the assertion differs by
    /// so many seconds from the vendor's.
    ClockSkew {
        /// How far the two are apart.
        seconds: u64,
        /// Ours is behind; else ahead.
        behind: bool,
        /// What failed.
        refusal: Box<FailureKind>,
    },
}

impl FailureKind {
    /// What failed, whatever it is blamed on.
    #[must_use]
    pub fn refusal(&self) -> &Self {
        match self {
            Self::ClockSkew { refusal, .. } => refusal.refusal(),
            own => own,
        }
    }

    /// The handshake that failed because the server's certificate cannot be trusted.
    #[must_use]
    pub fn distrust(&self) -> Option<&HandshakeFailure> {
        if let Self::Tls(failure) = self
            && matches!(failure.fault, HandshakeFault::Certificate(_))
        {
            Some(failure)
        } else {
            None
        }
    }

    /// What there is to say before the vendor's own words; `None`: nothing.
    fn words(&self) -> Option<String> {
        let words = match self {
            Self::SecretUnreadable(why) | Self::Unsendable(why) => return Some(why.clone()),
            Self::RefusedBefore => {
                "this secret, or another of its account, was refused before; not tried again yet"
            }
            Self::GuardMemory => "the guard's memory cannot be read or written",
            Self::Panicked => "the token call panicked",
            Self::Dns => "the name of the token endpoint cannot be looked up (DNS)",
            Self::ConnectionRefused => "connection refused",
            Self::ConnectionReset => "connection reset",
            Self::ConnectTimeout => "connection timed out",
            Self::NetworkUnreachable => "network unreachable",
            Self::ClosedEarly => "connection closed early",
            Self::CannotConnect => "cannot connect",
            Self::RequestRefused => "the request cannot be sent",
            Self::NotHttp => "connection closed, or the answer is not HTTP",
            Self::Tls(failure) => return Some(format!("TLS: {failure}")),
            Self::TimedOut => "timed out",
            Self::NoAnswer(within) => {
                return Some(format!(
                    "no answer within {}",
                    humantime::format_duration(*within)
                ));
            }
            Self::Unfinished(within) => {
                return Some(format!(
                    "the answer did not end within {}",
                    humantime::format_duration(*within)
                ));
            }
            Self::BrokenBody => "the answer broke off or is damaged",
            Self::DamagedCoding => {
                "the answer is damaged: it is not in the content coding that it names"
            }
            Self::UnknownCoding(name) => {
                return Some(format!(
                    "the answer is in the content coding {name:?}, which is not known here (gzip was asked for)"
                ));
            }
            Self::TooManyCodings(most) => {
                return Some(format!("the answer is in more than {most} content codings"));
            }
            Self::TooLarge => "the answer is larger than 64 KiB",
            Self::Redirect => "a redirect, which is never followed",
            Self::NotJson => "the answer is not JSON",
            Self::NeedsProof(kind) => {
                return Some(format!(
                    "the token is of type {kind}, which needs a proof with every request; only bearer tokens can be placed"
                ));
            }
            Self::NoTokenAt(at) => return Some(format!("the answer has no token at {at}")),
            Self::TokenNotText(at) => return Some(format!("what stands at {at} is not a string")),
            Self::TokenUnusable { at, fault } => return Some(format!("the token at {at} {fault}")),
            Self::Outlived => "the token had outlived its time when it came",
            Self::Answered => return None,
            Self::ClockSkew { refusal, .. } => return refusal.words(),
        };
        Some(words.to_owned())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VendorError { code, description } = &self.vendor;
        let said = match (code, description) {
            (Some(code), Some(text)) => Some(format!("{code}: {text}")),
            (Some(text), None) | (None, Some(text)) => Some(text.clone()),
            (None, None) => None,
        };
        match (self.kind.words(), said) {
            (Some(why), Some(said)) => write!(f, "{why} ({said})")?,
            (Some(text), None) | (None, Some(text)) => f.write_str(&text)?,
            (None, None) => write!(
                f,
                "the token endpoint answered {} without saying why",
                self.status.unwrap_or_default()
            )?,
        }
        if let FailureKind::ClockSkew {
            seconds, behind, ..
        } = self.kind
        {
            let how = if behind { "behind" } else { "ahead of" };
            write!(
                f,
                "; the clock that dated the assertion is {seconds} s {how} the vendor's, so it was refused for its date, as it seems: the next is \
                 dated by the vendor's clock"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::CertificateFlaw;

    fn told(kind: FailureKind, code: Option<&str>, description: Option<&str>) -> String {
        let failure = Failure {
            status: Some(400),
            vendor: VendorError {
                code: code.map(str::to_owned),
                description: description.map(str::to_owned),
            },
            ..Failure::own(FailureClass::Config, kind)
        };
        failure.to_string()
    }

    #[test]
    fn a_failure_is_told_by_what_broke_then_by_what_the_vendor_says_then_by_its_status() {
        let answered = || FailureKind::Answered;
        assert_eq!(
            told(FailureKind::NotJson, None, None),
            "the answer is not JSON"
        );
        assert_eq!(
            told(FailureKind::Redirect, Some("moved"), None),
            "a redirect, which is never followed (moved)"
        );
        assert_eq!(told(answered(), Some("a"), Some("b")), "a: b");
        assert_eq!(told(answered(), None, Some("b")), "b");
        assert_eq!(
            told(answered(), None, None),
            "the token endpoint answered 400 without saying why"
        );
    }

    #[test]
    fn a_clock_is_blamed_behind_what_was_refused() {
        let refusal = |kind| FailureKind::ClockSkew {
            seconds: 90,
            behind: true,
            refusal: Box::new(kind),
        };
        let told = told(refusal(FailureKind::Answered), Some("invalid_client"), None);
        assert!(
            told.starts_with(
                "invalid_client; the clock that dated the assertion is 90 s behind the vendor's"
            ),
            "{told}"
        );
        assert_eq!(
            *refusal(refusal(FailureKind::NotJson)).refusal(),
            FailureKind::NotJson
        );
    }

    #[test]
    fn a_certificate_that_cannot_be_trusted_is_told_with_the_clock_that_may_be_why() {
        let tls = |fault| {
            FailureKind::Tls(Box::new(HandshakeFailure {
                fault,
                clock_unset: true,
            }))
        };
        let expired = tls(HandshakeFault::Certificate(CertificateFlaw::Expired(None)));
        assert_eq!(
            expired.distrust().map(ToString::to_string).as_deref(),
            Some("certificate has expired (the clock of this machine is wrong: before 2020)")
        );
        assert_eq!(tls(HandshakeFault::NotTls).distrust(), None);
        assert_eq!(FailureKind::Dns.distrust(), None);
    }
}
