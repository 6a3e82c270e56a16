//! From the status to the page's moving part. A pure function: the page shows what `/api/status`
//! says, in words.

use super::{
    bar::{TokenLife, parse_unix},
    html::Html,
};
use crate::admin::status::{ConfigState, CredentialState, StatusPage, TokenJson, UpstreamState};

/// Everything that changes, to be put into the page's frame.
pub fn render_live(status: &StatusPage) -> String {
    let mut out = Html::default();
    let now = parse_unix(&status.now).unwrap_or(0);
    write_heading(status, now, &mut out);
    out.raw("<main><section aria-labelledby=\"credentials\"><h2 id=\"credentials\" tabindex=\"-1\">Credentials</h2>");
    if status.credentials.is_empty() {
        out.raw("<p>None is configured.</p>");
    }
    status
        .credentials
        .iter()
        .for_each(|c| write_credential(c, status, &mut out));
    out.raw("</section><section aria-labelledby=\"upstreams\"><h2 id=\"upstreams\">Upstreams</h2>");
    write_upstreams(&status.upstreams, &mut out);
    out.raw("</section><section aria-labelledby=\"configuration\"><h2 id=\"configuration\">Configuration</h2>");
    write_configuration(&status.config, now, &mut out);
    out.raw("</section></main><footer><small>cupbearer ")
        .text(status.build.version)
        .raw(" · up for ");
    out.text(format_span(
        i64::try_from(status.uptime).unwrap_or(i64::MAX),
    ))
    .raw(" · as of ")
    .raw("<time datetime=\"")
    .text(&status.now);
    out.raw("\">")
        .text(time_of_day(&status.now))
        .raw(" UTC</time></small></footer>");
    out.finish()
}

/// How something stands: a class for the colour, a sign and words for those who see none.
struct TokenBadge {
    class: &'static str,
    sign: &'static str,
    words: &'static str,
}

const fn new_badge(class: &'static str, sign: &'static str, words: &'static str) -> TokenBadge {
    TokenBadge { class, sign, words }
}

fn token_badge(token: &TokenJson) -> TokenBadge {
    match (token.state, token.last_failure.is_some(), token.sendable) {
        ("ok", false, _) => new_badge("good", "✓", "token in use"),
        ("latched", _, true) => new_badge(
            "bad",
            "✕",
            "latched: the secret was refused; the old token is used to its end",
        ),
        ("latched", ..) => new_badge(
            "bad",
            "✕",
            "latched: the secret was refused, attempts are stopped",
        ),
        ("held", _, true) => new_badge(
            "warn",
            "!",
            "paused after a failure; the old token is used to its end",
        ),
        ("held", ..) => new_badge("bad", "✕", "paused after a failure, no token"),
        ("resting", ..) => new_badge("idle", "–", "resting: nobody uses it"),
        ("refreshing", false, _) => new_badge("busy", "↻", "asking for a token"),
        ("refreshing", ..) => new_badge("warn", "↻", "asking again after a failure"),
        (_, true, true) => new_badge("warn", "!", "token in use, but its renewal fails"),
        (_, true, false) => new_badge("bad", "✕", "no token, waiting for the next try"),
        _ => new_badge("busy", "…", "waiting for its turn"),
    }
}

fn write_badge(badge: &TokenBadge, out: &mut Html) {
    out.raw("<span class=\"badge ")
        .raw(badge.class)
        .raw("\"><span aria-hidden=\"true\">")
        .raw(badge.sign)
        .raw("</span> ");
    out.raw(badge.words).raw("</span>");
}

fn write_heading(status: &StatusPage, now: i64, out: &mut Html) {
    let troubled = |c: &&CredentialState| {
        c.tokens
            .iter()
            .any(|t| matches!(token_badge(t).class, "bad" | "warn"))
    };
    let troubles = status.credentials.iter().filter(troubled).count();
    let refused = status
        .config
        .last_reload
        .as_ref()
        .is_some_and(|r| r.outcome == "refused");
    let (class, sign) = match (troubles, refused, status.ready) {
        (0, false, true) => ("good", "✓ "),
        (0, ..) => ("warn", "! "),
        _ => ("bad", "✕ "),
    };
    let mut words = match troubles {
        0 if status.credentials.is_empty() => "No credential to look after".to_owned(),
        0 => "All tokens are well".to_owned(),
        1 => "1 credential needs attention".to_owned(),
        n => format!("{n} credentials need attention"),
    };
    if refused {
        words.push_str(" · the last configuration was refused");
    }
    out.raw("<header class=\"bar-top\"><h1>cupbearer</h1><div class=\"buttons\">");
    write_button(
        "Reload configuration",
        "",
        "/api/reload",
        "Reloaded.",
        None,
        out,
    );
    out.raw("</div></header><p class=\"overall ")
        .raw(class)
        .raw("\" data-title=\"cupbearer: ")
        .text(&words)
        .raw("\">");
    out.raw("<span aria-hidden=\"true\">")
        .raw(sign)
        .raw("</span>")
        .text(&words)
        .raw("</p>");
    if let Some(why) = &status.not_ready {
        out.raw("<p class=\"warn\">Not ready: ")
            .text(why)
            .raw("</p>");
    }
    if let Some(reload) = status
        .config
        .last_reload
        .as_ref()
        .filter(|r| r.outcome == "refused")
    {
        out.raw("<div class=\"card failure\"><p>The configuration was refused ")
            .text(relative_time(&reload.at, now))
            .raw("; the one before goes on:</p><ul>");
        for problem in reload.problems.iter().filter(|p| p.severity == "error") {
            out.raw("<li>");
            if !problem.key.is_empty() {
                out.raw("<b>").text(&problem.key).raw("</b>: ");
            }
            out.text(&problem.what);
            if let Some(hint) = &problem.hint {
                out.raw(" <small>").text(hint).raw("</small>");
            }
            out.raw("</li>");
        }
        out.raw("</ul></div>");
    }
}

/// `what` is spoken after the words, so that buttons of the same name can be told apart.
fn write_button(
    words: &'static str,
    what: &str,
    post: &str,
    done: &str,
    ask: Option<&'static str>,
    out: &mut Html,
) {
    out.raw("<button type=\"button\" data-post=\"")
        .text(post)
        .raw("\" data-done=\"")
        .text(done)
        .raw("\"");
    if let Some(ask) = ask {
        out.raw(" data-ask=\"").raw(ask).raw("\"");
    }
    if !what.is_empty() {
        out.raw(" aria-label=\"")
            .raw(words)
            .raw(" ")
            .text(what)
            .raw("\"");
    }
    out.raw(">").raw(words).raw("</button>");
}

fn write_credential(c: &CredentialState, status: &StatusPage, out: &mut Html) {
    let name = &c.name;
    out.raw("<article class=\"card\" id=\"credential-")
        .text(name)
        .raw("\" aria-labelledby=\"name-")
        .text(name)
        .raw("\"><header><h3 id=\"name-");
    out.text(name)
        .raw("\">")
        .text(name)
        .raw(" <small>profile ")
        .text(&c.profile)
        .raw("</small></h3><div class=\"buttons\">");
    if !c.tokens.is_empty() {
        let done = format!("{name}: a new token is asked for, as far as the guard allows.");
        write_button(
            "Refresh",
            name,
            &format!("/api/credentials/{name}/refresh"),
            &done,
            None,
            out,
        );
    }
    if c.tokens
        .iter()
        .any(|t| t.state == "latched" || t.rejections > 0)
    {
        let ask = "Unlatch? The vendor may lock the account after further wrong attempts. With a new secret no unlatch is needed.";
        let done = format!("{name}: unlatched; one attempt is made.");
        write_button(
            "Unlatch",
            name,
            &format!("/api/credentials/{name}/unlatch"),
            &done,
            Some(ask),
            out,
        );
    }
    out.raw("</div></header>");
    if c.waiters > 0 {
        out.raw("<p class=\"dim\">Requests waiting for a token: ")
            .text(c.waiters)
            .raw("</p>");
    }
    if c.tokens.is_empty() {
        out.raw("<p class=\"dim\">")
            .raw(if c.profile.as_ref() == "static" {
                "Fixed secrets, no token."
            } else {
                "No token is held now."
            });
        out.raw("</p>");
    }
    c.tokens
        .iter()
        .for_each(|t| write_token(name, t, status, out));
    out.raw("</article>");
}

fn write_token(credential: &str, t: &TokenJson, status: &StatusPage, out: &mut Html) {
    let now = parse_unix(&status.now).unwrap_or(0);
    let what = match &t.partition {
        Some(partition) => format!("{credential} {} {partition}", t.name),
        None => format!("{credential} {}", t.name),
    };
    let badge = token_badge(t);
    out.raw("<section class=\"token\" data-what=\"")
        .text(&what)
        .raw("\" data-state=\"")
        .raw(badge.words)
        .raw("\" aria-label=\"Token ");
    out.text(&what).raw("\"><header><h4>").text(&t.name);
    if let Some(partition) = &t.partition {
        out.raw(" <small>partition ")
            .text(partition)
            .raw("</small>");
    }
    out.raw("</h4>");
    write_badge(&badge, out);
    out.raw("</header>");
    if let Some(life) = TokenLife::from_texts(
        t.obtained_at.as_deref(),
        t.expires_at.as_deref(),
        t.refresh_at.as_deref(),
        &status.now,
    ) {
        life.draw(&what, out);
    }
    out.raw("<dl>");
    write_moment("obtained", t.obtained_at.as_deref(), now, out);
    let next = if matches!(t.state, "held" | "latched") || !t.sendable {
        "next try"
    } else {
        "refresh"
    };
    write_moment(next, t.refresh_at.as_deref(), now, out);
    write_moment("expires", t.expires_at.as_deref(), now, out);
    if let Some(fingerprint) = &t.fingerprint {
        out.raw("<div><dt>token</dt><dd>no. ")
            .text(t.generation)
            .raw(", fingerprint ")
            .text(fingerprint)
            .raw("</dd></div>");
    }
    if t.rejections > 0 {
        out.raw("<div><dt>refusals counted</dt><dd>")
            .text(t.rejections)
            .raw("</dd></div>");
    }
    out.raw("</dl>");
    if let Some(failure) = &t.last_failure {
        out.raw("<div class=\"failure\"><p><b>Last failure</b> ")
            .text(relative_time(&failure.at, now));
        if let Some(code) = failure.status {
            out.raw(", status ").text(code);
        }
        out.raw(": <bdi class=\"said\">")
            .text(&failure.error)
            .raw("</bdi></p><p>")
            .raw(failure.help)
            .raw("</p></div>");
    }
    out.raw("</section>");
}

fn write_moment(name: &'static str, at: Option<&str>, now: i64, out: &mut Html) {
    if let Some(at) = at {
        out.raw("<div><dt>")
            .raw(name)
            .raw("</dt><dd><time datetime=\"")
            .text(at)
            .raw("\">")
            .text(time_of_day(at))
            .raw("</time> ");
        out.raw("<span class=\"dim\">(")
            .text(relative_time(at, now))
            .raw(")</span></dd></div>");
    }
}

fn write_upstreams(all: &[UpstreamState], out: &mut Html) {
    if all.is_empty() {
        out.raw("<p>None is configured.</p>");
        return;
    }
    // The roles stay where a narrow screen shows the table as a list.
    out.raw("<div class=\"card\"><table role=\"table\"><thead role=\"rowgroup\"><tr role=\"row\">");
    for name in [
        "upstream",
        "credential",
        "rate",
        "answers",
        "refused here",
        "last codes",
    ] {
        out.raw("<th role=\"columnheader\" scope=\"col\">")
            .raw(name)
            .raw("</th>");
    }
    out.raw("</tr></thead><tbody role=\"rowgroup\">");
    for u in all {
        let answers: u64 = u.answers.values().sum();
        let refusals: u64 = u.refusals.values().sum();
        out.raw("<tr role=\"row\"><th role=\"rowheader\" scope=\"row\">")
            .text(&u.name)
            .raw(" <small>")
            .text(&u.url)
            .raw("</small></th>");
        out.raw("<td role=\"cell\" data-label=\"credential\">")
            .text(u.credential.as_deref().unwrap_or("none"))
            .raw("</td>");
        out.raw("<td role=\"cell\" data-label=\"rate\" class=\"number\"><span data-upstream=\"")
            .text(&u.name)
            .raw("\" data-total=\"");
        out.text(answers + refusals)
            .raw("\">–</span></td><td role=\"cell\" data-label=\"answers\" class=\"number\">")
            .text(answers);
        if u.in_flight > 0 {
            out.raw(" <small>(").text(u.in_flight).raw(" open)</small>");
        }
        out.raw("</td><td role=\"cell\" data-label=\"refused here\" class=\"number\">")
            .text(refusals);
        for (code, n) in &u.refusals {
            out.raw(" <small>")
                .text(code)
                .raw(" ")
                .text(n)
                .raw("</small>");
        }
        out.raw("</td><td role=\"cell\" data-label=\"last codes\"><span class=\"codes number\">");
        for code in &u.last_codes {
            let class = match code {
                100..=399 => "good",
                400..=499 => "warn",
                _ => "bad",
            };
            out.raw("<span class=\"")
                .raw(class)
                .raw("\">")
                .text(code)
                .raw("</span> ");
        }
        out.raw(if u.last_codes.is_empty() {
            "none yet"
        } else {
            ""
        })
        .raw("</span></td></tr>");
    }
    out.raw("</tbody></table></div>");
}

fn write_configuration(config: &ConfigState, now: i64, out: &mut Html) {
    out.raw("<div class=\"card\"><dl><div><dt>generation</dt><dd>")
        .text(config.generation)
        .raw("</dd></div><div><dt>file</dt><dd>");
    out.text(config.file.as_deref().unwrap_or("none"))
        .raw("</dd></div><div><dt>data port</dt><dd>")
        .text(config.listen.join(", "));
    out.raw("</dd></div><div><dt>ready when</dt><dd>")
        .raw(config.ready)
        .raw("</dd></div><div><dt>last reload</dt><dd>");
    match &config.last_reload {
        None => _ = out.raw("none since start"),
        Some(last) => {
            out.raw(last.outcome)
                .raw(" ")
                .text(relative_time(&last.at, now));
            if !last.restart.is_empty() {
                out.raw("; <b class=\"warn\">only a restart brings into effect: ")
                    .text(last.restart.join(", "))
                    .raw("</b>");
            }
        }
    }
    out.raw("</dd></div></dl></div>");
}

/// The time of day of an RFC 3339 time.
fn time_of_day(at: &str) -> &str {
    at.split_once('T')
        .map_or(at, |(_, time)| time.trim_end_matches('Z'))
}

/// "in 3 min 20 s", "2 h 5 min ago".
fn relative_time(at: &str, now: i64) -> String {
    match parse_unix(at).map(|at| at.saturating_sub(now)) {
        None => "at an unknown time".to_owned(),
        Some(0) => "just now".to_owned(),
        Some(ahead @ 1..) => format!("in {}", format_span(ahead)),
        Some(past) => format!("{} ago", format_span(past.saturating_neg())),
    }
}

/// Seconds in the two largest units that matter.
fn format_span(seconds: i64) -> String {
    let (days, hours, minutes, rest) = (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (days, hours, minutes, rest) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests;
