//! The life of a token as a bar: from obtained to expiry, with "now" and "refresh" marked. SVG, so
//! that no inline style is needed.

use jiff::Timestamp;

use super::html::Html;

/// Moments of a token's life, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLife {
    pub obtained: i64,
    pub expires: i64,
    pub now: i64,
    /// The next planned call, where there is one.
    pub refresh: Option<i64>,
}

impl TokenLife {
    /// From the status's RFC 3339 texts; `None` without a token.
    pub fn from_texts(
        obtained: Option<&str>,
        expires: Option<&str>,
        refresh: Option<&str>,
        now: &str,
    ) -> Option<Self> {
        Some(Self {
            obtained: parse_unix(obtained?)?,
            expires: parse_unix(expires?)?,
            now: parse_unix(now)?,
            refresh: refresh.and_then(parse_unix),
        })
    }

    /// Where `at` stands, in percent of the life, 0 to 100.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a place on a bar needs no more than 53 bits"
    )]
    fn percent(self, at: i64) -> f64 {
        let whole = self.expires.saturating_sub(self.obtained).max(1) as f64;
        (at.saturating_sub(self.obtained) as f64 / whole * 100.0).clamp(0.0, 100.0)
    }

    /// Draws it. `what` names the token for those who do not see.
    pub fn draw(self, what: &str, out: &mut Html) {
        let now = self.percent(self.now);
        let refresh = self
            .refresh
            .filter(|r| *r <= self.expires)
            .map(|r| self.percent(r));
        out.raw("<svg class=\"life\" role=\"img\" aria-label=\"")
            .text(what)
            .raw(": ")
            .text(format_args!("{now:.0}"));
        out.raw(" % of its life is over");
        if let Some(at) = refresh {
            out.raw(", refresh planned at ")
                .text(format_args!("{at:.0}"))
                .raw(" %");
        }
        out.raw(
            "\"><rect class=\"track\" x=\"0\" y=\"18\" width=\"100%\" height=\"18\" rx=\"4\"/>",
        );
        out.raw("<rect class=\"gone\" x=\"0\" y=\"18\" height=\"18\" rx=\"4\" width=\"")
            .text(format_args!("{now:.2}%"))
            .raw("\"/>");
        if let Some(at) = refresh {
            out.raw("<line class=\"refresh\" y1=\"14\" y2=\"40\"")
                .write_x(at);
            out.raw("/><text class=\"refresh\" y=\"52\" text-anchor=\"")
                .raw(text_anchor(at))
                .raw("\" x=\"");
            out.text(format_args!("{at:.2}%")).raw("\">refresh</text>");
        }
        out.raw("<line class=\"now\" y1=\"14\" y2=\"40\"")
            .write_x(now);
        out.raw("/><text class=\"now\" y=\"11\" text-anchor=\"")
            .raw(text_anchor(now))
            .raw("\" x=\"");
        out.text(format_args!("{now:.2}%"))
            .raw("\">now</text></svg>");
    }
}

impl Html {
    fn write_x(&mut self, at: f64) {
        // The line keeps within the bar at both ends.
        let at = at.clamp(0.2, 99.8);
        self.raw(" x1=\"")
            .text(format_args!("{at:.2}%"))
            .raw("\" x2=\"")
            .text(format_args!("{at:.2}%"))
            .raw("\"");
    }
}

/// Text at an end of the bar would leave the page.
fn text_anchor(at: f64) -> &'static str {
    match at {
        at if at < 8.0 => "start",
        at if at > 92.0 => "end",
        _ => "middle",
    }
}

/// Unix seconds of an RFC 3339 time.
pub fn parse_unix(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_and_refresh_stand_where_they_belong() {
        let life = TokenLife {
            obtained: 1000,
            expires: 1300,
            now: 1150,
            refresh: Some(1240),
        };
        let mut out = Html::default();
        life.draw("acme access", &mut out);
        let svg = out.finish();
        assert!(
            svg.contains("acme access: 50 % of its life is over, refresh planned at 80 %"),
            "{svg}"
        );
        assert!(
            svg.contains("width=\"50.00%\"") && svg.contains("x1=\"80.00%\""),
            "{svg}"
        );
    }

    #[test]
    fn odd_times_stay_on_the_bar() {
        for (obtained, expires, now) in [
            (0, 0, 0),
            (10, 5, 7),
            (i64::MIN, i64::MAX, 0),
            (0, 10, 99),
            (0, 10, -99),
        ] {
            let at = TokenLife {
                obtained,
                expires,
                now,
                refresh: Some(now),
            }
            .percent(now);
            assert!((0.0..=100.0).contains(&at), "{at}");
        }
        assert_eq!(
            TokenLife::from_texts(
                Some("2030-01-01T00:00:00Z"),
                None,
                None,
                "2030-01-01T00:00:00Z"
            ),
            None
        );
        assert_eq!(
            TokenLife::from_texts(Some("nonsense"), Some("x"), None, "y"),
            None
        );
    }
}
