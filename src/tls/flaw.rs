//! What is wrong with a server's certificate, said so that a person knows what to do. Pure.

use std::{error::Error, fmt};

use jiff::Timestamp;
use rustls::CertificateError;
use x509_parser::certificate::X509Certificate;

/// Names of a certificate that are listed before the rest is only counted.
const NAMES: usize = 5;
/// Longest text out of a certificate that is repeated, in characters.
const LONGEST: usize = 100;
/// How rustls begins to tell of a certificate.
const BEGINS: &str = "invalid peer certificate: ";

/// What is wrong with a server's certificate (RFC 5280 6.1 for chain and time, RFC 9525 6 for
/// names). Its `Display` follows the word "certificate". Text out of the certificate, which a
/// stranger wrote, is quoted there: cut at 100 characters, nothing in it that is not visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFlaw {
    /// It is its own issuer, and does not stand in `ca_file`. With its subject.
    SelfSigned(String),
    /// Nobody trusted issued it. With its issuer, where the certificate could be read.
    UnknownIssuer(Option<String>),
    /// It is a certificate authority's (basic constraint CA:TRUE), which is taken from a server
    /// only where `ca_file` holds that very certificate.
    Authority,
    /// Its time is over since this moment (Unix seconds), where it is known.
    Expired(Option<u64>),
    /// Its time begins at this moment (Unix seconds), where it is known.
    NotYetValid(Option<u64>),
    /// It names others than the one asked for. Each is `None` where it is not known.
    OtherName {
        /// The name that was connected to, or `server_name`.
        asked: Option<String>,
        /// Those of its subjectAltName.
        names: Option<Vec<String>>,
    },
    /// It does not carry its issuer's signature.
    BadSignature,
    /// Its issuer took it back.
    Revoked,
    /// Its extended key usage leaves servers out.
    NotForServers,
    /// It cannot be parsed, or has an extension marked critical that is not known here.
    Unreadable,
    /// Anything else: a signature algorithm that is too weak or unknown, for instance.
    Unacceptable,
}

impl Error for CertificateFlaw {}

impl CertificateFlaw {
    /// What rustls found. `shown`: the certificate (DER) that the server showed, where it is at
    /// hand; it tells issuers apart.
    #[must_use]
    pub fn new(found: &CertificateError, shown: Option<&[u8]>) -> Self {
        use CertificateError as E;
        let parsed = shown.and_then(|der| Some(x509_parser::parse_x509_certificate(der).ok()?.1));
        match found {
            E::Expired => Self::Expired(None),
            E::ExpiredContext { not_after, .. } => Self::Expired(Some(not_after.as_secs())),
            E::NotValidYet => Self::NotYetValid(None),
            E::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid(Some(not_before.as_secs()))
            }
            E::UnknownIssuer => issuer_flaw(parsed.as_ref()),
            E::NotValidForName => Self::OtherName {
                asked: None,
                names: None,
            },
            E::NotValidForNameContext {
                expected,
                presented,
            } => {
                let names = presented
                    .iter()
                    .flat_map(|text| subject_names(text))
                    .collect();
                Self::OtherName {
                    asked: Some(expected.to_str().into_owned()),
                    names: Some(names),
                }
            }
            E::Revoked => Self::Revoked,
            E::BadSignature => match issuer_flaw(parsed.as_ref()) {
                own @ Self::SelfSigned(_) => own,
                _ => Self::BadSignature,
            },
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::NotForServers,
            E::BadEncoding | E::UnhandledCriticalExtension => Self::Unreadable,
            E::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::from_webpki_text(&other.0.to_string(), parsed.as_ref()),
            },
            _ => Self::Unacceptable,
        }
    }

    /// The flaw that a text of rustls tells of, for where a library hands on no more than the text.
    /// `None`: it speaks of no certificate.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let told = &text[text.find(BEGINS)? + BEGINS.len()..];
        let number = |after: &str| {
            let rest = &told[told.find(after)? + after.len()..];
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let word = told
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        Some(match word {
            "certificate" if told.starts_with("certificate expired") => {
                Self::Expired(number("is not valid after "))
            }
            "certificate" if told.starts_with("certificate not valid yet") => {
                Self::NotYetValid(number("is not valid before "))
            }
            "certificate" if told.starts_with("certificate not valid for name ") => {
                let (asked, named) = told.split_once("; certificate ").unwrap_or((told, ""));
                let asked = asked.split('"').nth(1).map(str::to_owned);
                Self::OtherName {
                    asked,
                    names: Some(subject_names(named)),
                }
            }
            "certificate" if told.starts_with("certificate does not allow extended key usage") => {
                Self::NotForServers
            }
            "Expired" => Self::Expired(None),
            "NotValidYet" => Self::NotYetValid(None),
            "NotValidForName" => Self::OtherName {
                asked: None,
                names: None,
            },
            "UnknownIssuer" => Self::UnknownIssuer(None),
            "BadSignature" => Self::BadSignature,
            "Revoked" => Self::Revoked,
            "InvalidPurpose" => Self::NotForServers,
            "BadEncoding" | "UnhandledCriticalExtension" => Self::Unreadable,
            "Other" => Self::from_webpki_text(told, None),
            _ => Self::Unacceptable,
        })
    }

    /// webpki's own errors that rustls has no name for.
    fn from_webpki_text(told: &str, parsed: Option<&X509Certificate<'_>>) -> Self {
        match issuer_flaw(parsed) {
            own @ Self::SelfSigned(_) => own,
            _ if told.contains("CaUsedAsEndEntity") => Self::Authority,
            _ if told.contains("UnsupportedCertVersion") || told.contains("Extension") => {
                Self::Unreadable
            }
            _ => Self::Unacceptable,
        }
    }
}

/// Who issued it, as a flaw.
fn issuer_flaw(parsed: Option<&X509Certificate<'_>>) -> CertificateFlaw {
    match parsed {
        Some(certificate) if certificate.issuer().as_raw() == certificate.subject().as_raw() => {
            CertificateFlaw::SelfSigned(certificate.subject().to_string())
        }
        Some(certificate) => CertificateFlaw::UnknownIssuer(Some(certificate.issuer().to_string())),
        None => CertificateFlaw::UnknownIssuer(None),
    }
}

/// The DNS names and addresses in what webpki says of a subjectAltName: `DnsName("a.example"),
/// IpAddress(10.0.0.1)`. Linear.
fn subject_names(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('(') {
        let (before, after) = (&rest[..open], &rest[open + 1..]);
        let (kind, quoted) = (
            before
                .rsplit(|c: char| !c.is_ascii_alphanumeric())
                .next()
                .unwrap_or_default(),
            after.strip_prefix('"'),
        );
        let end = match quoted {
            Some(inner) => inner
                .find("\")")
                .map(|end| (&inner[..end], &inner[end + 2..])),
            None => after
                .find(')')
                .map(|end| (&after[..end], &after[end + 1..])),
        };
        let Some((name, left)) = end else { break };
        if matches!(kind, "DnsName" | "IpAddress") {
            found.push(name.to_owned());
        }
        rest = left;
    }
    found
}

impl fmt::Display for CertificateFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfSigned(subject) => write!(f, "is self-signed ({}) and does not stand in ca_file", quoted(subject)),
            Self::UnknownIssuer(Some(issuer)) => write!(f, "has an unknown issuer ({}; is ca_file needed?)", quoted(issuer)),
            Self::UnknownIssuer(None) => f.write_str("has an unknown issuer (is ca_file needed?)"),
            Self::Authority => f.write_str(
                "is a certificate authority's own (CA:TRUE), not a server's: a token endpoint's is accepted where it stands itself in ca_file",
            ),
            Self::Expired(since) => moment(f, "has expired", "on", *since),
            Self::NotYetValid(from) => moment(f, "is not valid yet", "only from", *from),
            Self::OtherName { asked, names } => {
                f.write_str("is for another name")?;
                let asked = asked.as_deref().map(|asked| format!("asked for {}", quoted(asked)));
                let parts: Vec<String> = asked.into_iter().chain(names.as_deref().map(listed)).collect();
                if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join(", ")) }
            }
            Self::BadSignature => f.write_str("has a bad signature"),
            Self::Revoked => f.write_str("is revoked"),
            Self::NotForServers => f.write_str("is not for servers (its extended key usage leaves them out)"),
            Self::Unreadable => f.write_str("cannot be read, or needs an extension that is not known here"),
            Self::Unacceptable => f.write_str("cannot be accepted"),
        }
    }
}

fn moment(f: &mut fmt::Formatter<'_>, what: &str, how: &str, at: Option<u64>) -> fmt::Result {
    match at.and_then(|at| Timestamp::from_second(i64::try_from(at).ok()?).ok()) {
        Some(at) => write!(f, "{what} ({how} {at})"),
        None => f.write_str(what),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        // RFC 9525 2 and 6.2: only subjectAltName counts.
        return "it names none: a subjectAltName is needed, the common name does not count"
            .to_owned();
    }
    let shown: Vec<String> = names.iter().take(NAMES).map(|name| quoted(name)).collect();
    let more = names.len().saturating_sub(NAMES);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("it names {}{rest}", shown.join(", "))
}

/// A stranger's text as one quoted word of a line.
fn quoted(text: &str) -> String {
    let strange = |c: char| {
        c.is_control()
            || c == '"'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut cut: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if strange(c) { '?' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    format!("\"{cut}\"")
}

#[cfg(test)]
mod tests;
