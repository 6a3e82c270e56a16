//! Faults on both edges, driven from tables: what a caller is told, how long and how often it is
//! tried, how it heals, what is left behind.

use std::{
    panic::AssertUnwindSafe,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};

use crate::{
    faults_server::{Act, Broken, Fault},
    support::{
        certs::Authority,
        raw::{RawAnswer, RawClient},
        sidecar::{PORTS, Sidecar},
        wait::{Asking, until},
    },
};

/// One way to break, at the vendor's API and at the token endpoint.
pub struct Case {
    pub name: &'static str,
    pub fault: Fault,
    pub over: Over,
    pub api: Api,
    pub token: Token,
    /// How often one call may be written: more than once only where HTTP/2 says that it was not
    /// looked at.
    pub tries: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Over {
    Both,
    Clear,
    Tls,
}

/// What an edge speaks.
#[derive(Clone, Copy, PartialEq)]
pub enum Wire {
    Clear,
    Tls,
    /// Over TLS.
    Http2,
}

/// What a caller sees of a vendor that breaks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Api {
    /// Our own refusal with one of these codes.
    Told(&'static [&'static str]),
    /// The vendor's answer, which does not look whole, or our own refusal.
    CutOff,
    /// The vendor's answer, whole.
    Whole(u16),
}

/// The class of what a token endpoint did; its callers are told accordingly.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Token {
    Retry,
    Config,
    Ok,
}

pub const PROTOCOL: Api = Api::Told(&["upstream_protocol"]);
pub const TIMEOUT: Api = Api::Told(&["upstream_timeout"]);

/// Ours are 1.5 s to connect, to read, and for a token call; the rest is what a busy machine may
/// add.
const BOUND: Duration = Duration::from_secs(9);
const TIMES: &str = "timeouts = { connect = \"1500ms\", read = \"1500ms\", token = \"300ms\" }\n";
/// What one case is asked for.
const CALLS: usize = 3;

pub fn case(name: &'static str, acts: Vec<Act>, api: Api, token: Token) -> Case {
    Case {
        name,
        fault: Fault {
            at_accept: false,
            acts,
        },
        over: Over::Both,
        api,
        token,
        tries: 1,
    }
}

impl Case {
    pub fn at_accept(mut self) -> Self {
        self.fault.at_accept = true;
        self
    }

    /// At the API, one of these codes.
    pub fn told(mut self, codes: &'static [&'static str]) -> Self {
        self.api = Api::Told(codes);
        self
    }

    pub fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }
}

/// Cases that make sense on this wire.
fn chosen(cases: Vec<Case>, wire: Wire) -> Vec<Case> {
    cases
        .into_iter()
        .filter(|c| c.over == Over::Both || (c.over == Over::Tls) == (wire != Wire::Clear))
        .collect()
}

/// A sidecar before as many edges as there are cases, and one issuer and vendor that always work.
pub struct World {
    pub sidecar: Sidecar,
    pub edges: Vec<Broken>,
    well: Broken,
    /// Tasks in this process with everything warm.
    tasks: usize,
}

/// `tls` table of whoever has one.
fn trust(wire: Wire) -> &'static str {
    if wire == Wire::Clear {
        ""
    } else {
        "tls = { ca_file = \"ca.pem\", ca_only = true }\n"
    }
}

impl World {
    /// Upstreams `u0`, `u1`… each with its own vendor.
    pub async fn of_vendors(count: usize, wire: Wire) -> Self {
        let upstream = |i, url| {
            format!(
                "[upstreams.u{i}]\nurl = \"{url}\"\ncredential = \"good\"\n{TIMES}{}",
                trust(wire)
            )
        };
        Self::start(count, wire, &[], |_, edges| {
            let each = edges.iter().enumerate().map(|(i, e)| upstream(i, e.url()));
            each.collect()
        })
        .await
    }

    /// Credentials `c0`, `c1`… each with its own token endpoint, behind upstreams `u0`, `u1`… that
    /// are all one good vendor. With `cases` they are broken from the start.
    pub async fn of_issuers(count: usize, wire: Wire, cases: &[Case]) -> Self {
        Self::start(count, wire, cases, |well, edges| {
            let each = edges.iter().enumerate().map(|(i, e)| {
                let url = e.url();
                format!(
                    "[credentials.c{i}]\nsettings = {{ token_url = \"{url}/token\" }}\nsecrets = {{ client_id = \"c{i}\", client_secret = \"s3cret-c{i}\" }}\n\
                     [credentials.c{i}.tokens.access]\ntimeout = \"1500ms\"\n{}[upstreams.u{i}]\nurl = \"{}\"\ncredential = \"c{i}\"\n{TIMES}",
                    trust(wire),
                    well.url(),
                )
            });
            each.collect()
        })
        .await
    }

    async fn start(
        count: usize,
        wire: Wire,
        cases: &[Case],
        text: impl FnOnce(&Broken, &[Broken]) -> String,
    ) -> Self {
        let ca = Authority::new("ca");
        let alpn = if wire == Wire::Http2 {
            "h2"
        } else {
            "http/1.1"
        };
        let config = (wire != Wire::Clear).then(|| Authority::server(&ca.localhost(&[]), &[alpn]));
        let well = Broken::start(None).await;
        let mut edges = Vec::new();
        for _ in 0..count {
            edges.push(Broken::start(config.clone()).await);
        }
        breaks(&edges, cases).await;
        let good = format!(
            "[credentials.good]\nsettings = {{ token_url = \"{}/token\" }}\nsecrets = {{ client_id = \"g\", client_secret = \"s3cret\" }}\n",
            well.url()
        );
        let text = format!("{PORTS}{good}{}", text(&well, &edges));
        let sidecar = Sidecar::with_files(&text, &[("ca.pem", &ca.pem)]).await;
        let world = Self {
            sidecar,
            edges,
            well,
            tasks: 0,
        };
        if !cases.is_empty() {
            return world;
        }
        world.well_again().await;
        world.at_rest().await;
        Self {
            tasks: world.tasks(),
            ..world
        }
    }

    pub async fn get(&self, i: usize) -> Option<RawAnswer> {
        let mut client = RawClient::connect(self.sidecar.addr()).await;
        client
            .write(
                format!("GET /u{i}/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        loop {
            let answer = client.answer("GET").await?;
            if answer.status >= 200 {
                return Some(answer);
            }
        }
    }

    /// All edges work, and show it without a restart.
    async fn well_again(&self) {
        join_all(self.edges.iter().map(|e| e.breaks(None))).await;
        let each = (0..self.edges.len()).map(async |i| {
            until(&format!("u{i} works again"), async || {
                self.get(i)
                    .await
                    .is_some_and(|a| a.status == 200 && a.text() == "hi")
            })
            .await;
        });
        join_all(each).await;
    }

    /// Nobody waits, nothing is under way, and each edge has at most its one idle connection.
    async fn at_rest(&self) {
        until("nothing under way", async || {
            let text = self.metrics().await;
            let gauges = ["cupbearer_requests_in_flight{", "cupbearer_token_waiters{"];
            text.lines()
                .filter(|l| gauges.iter().any(|g| l.starts_with(g)))
                .all(|l| l.ends_with(" 0"))
        })
        .await;
        join_all(self.edges.iter().map(|e| e.until_open(1))).await;
    }

    /// As it was before: tasks, connections, gauges.
    pub async fn nothing_left(&self) {
        self.well_again().await;
        self.at_rest().await;
        until(&format!("{} tasks", self.tasks), async || {
            self.tasks() <= self.tasks
        })
        .await;
    }

    /// That are alive, but for the two ends of open connections.
    fn tasks(&self) -> usize {
        let open: usize = self
            .edges
            .iter()
            .chain([&self.well])
            .map(Broken::open)
            .sum();
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
            .saturating_sub(2 * open)
    }

    /// On a connection of its own, which leaves no task behind.
    async fn admin(&self, line: &str) -> String {
        let addr = self.sidecar.admin_addr();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        );
        RawClient::ask(addr, request.as_bytes()).await.text()
    }

    pub async fn metrics(&self) -> String {
        self.admin("GET /metrics").await
    }

    /// Waits until every case's counts are so; those that are not are helped.
    async fn until_each(
        &self,
        cases: &[Case],
        so: impl Fn(&dyn Fn(usize, &str) -> f64, usize, &Case) -> bool,
        help: impl AsyncFn(usize),
    ) {
        let since = Instant::now();
        loop {
            let now = self.outcomes().await;
            let missing: Vec<(usize, &Case)> = cases
                .iter()
                .enumerate()
                .filter(|(i, c)| !so(&now, *i, c))
                .collect();
            if missing.is_empty() {
                return;
            }
            let names: Vec<_> = missing.iter().map(|(_, c)| (c.name, c.token)).collect();
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "no such outcome: {names:?}"
            );
            for (i, _) in missing {
                help(i).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Counts of token calls by outcome.
    async fn outcomes(&self) -> impl Fn(usize, &str) -> f64 + use<> {
        let text = self.metrics().await;
        move |i, outcome| {
            let series = format!(
                "cupbearer_token_requests_total{{credential=\"c{i}\",outcome=\"{outcome}\",token=\"access\"}} "
            );
            text.lines()
                .find_map(|l| l.strip_prefix(&series))
                .map_or(0.0, |v| v.parse().unwrap())
        }
    }
}

/// Every case at a vendor's API of its own, all at the same time.
pub async fn at_vendors(cases: Vec<Case>, wire: Wire) {
    let cases = chosen(cases, wire);
    let world = World::of_vendors(cases.len(), wire).await;
    for _ in 0..2 {
        let each = cases.iter().zip(&world.edges).enumerate();
        // Each to its end, so that one look shows all that is wrong.
        let each = each.map(|(i, (case, edge))| {
            AssertUnwindSafe(one_vendor(&world, wire, i, case, edge)).catch_unwind()
        });
        assert!(join_all(each).await.iter().all(Result::is_ok));
        world.well_again().await;
    }
    world.nothing_left().await;
}

async fn one_vendor(world: &World, wire: Wire, i: usize, case: &Case, edge: &Broken) {
    let name = case.name;
    edge.breaks(Some(case.fault.clone())).await;
    let before = edge.counts();
    for _ in 0..CALLS {
        let asked = Instant::now();
        let answer = world.get(i).await;
        assert!(
            asked.elapsed() < BOUND,
            "{name}: after {:?}",
            asked.elapsed()
        );
        match case.api {
            Api::Told(codes) => {
                let answer = answer.unwrap_or_else(|| panic!("{name}: no answer"));
                assert_ne!(answer.status, 200, "{name}: {answer:?}");
                let problem = answer.json();
                let code = problem["code"].as_str().unwrap_or_default();
                assert!(codes.contains(&code), "{name}: {problem}");
                assert_eq!(
                    answer.status,
                    if code == "upstream_timeout" { 504 } else { 502 },
                    "{name}: {problem}"
                );
                assert_eq!(problem["upstream"], format!("u{i}"), "{name}");
            }
            // Where the end comes with the beginning, nothing was passed on yet.
            Api::CutOff => assert!(
                answer
                    .as_ref()
                    .is_none_or(|a| !a.complete || a.status >= 502),
                "{name}: {answer:?}"
            ),
            Api::Whole(status) => {
                let answer = answer.unwrap_or_else(|| panic!("{name}: no answer"));
                assert!(
                    answer.complete && answer.status == status,
                    "{name}: {answer:?}"
                );
            }
        }
    }
    let after = edge.counts();
    assert!(
        after.1 - before.1 <= CALLS * case.tries,
        "{name}: a request was written {} times",
        after.1 - before.1
    );
    assert!(
        after.0 - before.0 <= CALLS,
        "{name}: {} connections",
        after.0 - before.0
    );
    // Whoever hangs is left; whoever was whole may be kept.
    edge.until_open(usize::from(
        matches!(case.api, Api::Whole(_)) || wire == Wire::Http2,
    ))
    .await;
}

/// Every case at a token endpoint of its own, all at the same time: with a good token at hand, then
/// with none.
pub async fn at_issuers(cases: Vec<Case>, wire: Wire) {
    let cases = chosen(cases, wire);
    let world = World::of_issuers(cases.len(), wire, &[]).await;
    let before = world.outcomes().await;
    breaks(&world.edges, &cases).await;
    let since = Instant::now();
    let calls: Vec<usize> = world.edges.iter().map(|e| e.counts().0).collect();
    let asking: Mutex<Vec<Asking>> = Mutex::new(cases.iter().map(|_| Asking::default()).collect());
    world
        .until_each(
            &cases,
            |now, i, c| now(i, word(c.token)) > before(i, word(c.token)),
            async |i| {
                if asking.lock().unwrap()[i].is_due() {
                    world
                        .admin(&format!("POST /api/credentials/c{i}/refresh"))
                        .await;
                }
            },
        )
        .await;
    for (i, case) in cases.iter().enumerate() {
        let asked = Instant::now();
        assert!(
            world.get(i).await.is_some_and(|a| a.status == 200),
            "{}: the good token is sent on",
            case.name
        );
        assert!(asked.elapsed() < BOUND, "{}", case.name);
    }
    bounded(&world, &cases, &calls, since);
    world.well_again().await;
    world.nothing_left().await;
    assert!(world.sidecar.app.stop().await);

    let world = World::of_issuers(cases.len(), wire, &cases).await;
    let since = Instant::now();
    world
        .until_each(
            &cases,
            |now, i, c| now(i, word(c.token)) > 0.0,
            async |_| (),
        )
        .await;
    let callers = cases
        .iter()
        .enumerate()
        .flat_map(|(i, c)| (0..5).map(move |_| (i, c)));
    let told =
        join_all(callers.map(|(i, c)| AssertUnwindSafe(told(&world, i, c)).catch_unwind())).await;
    assert!(told.iter().all(Result::is_ok));
    bounded(&world, &cases, &vec![0; cases.len()], since);
    let now = world.outcomes().await;
    for (i, case) in cases.iter().enumerate() {
        for outcome in ["ok", "retry", "throttled", "rejected", "config"] {
            assert_eq!(
                now(i, outcome) > 0.0,
                outcome == word(case.token),
                "{}: {outcome}",
                case.name
            );
        }
    }
    join_all(world.edges.iter().map(|e| e.breaks(None))).await;
    for (i, case) in cases
        .iter()
        .enumerate()
        .filter(|(_, c)| c.token == Token::Config)
    {
        world
            .sidecar
            .until_refreshed(&format!("c{i}"), "access", 1)
            .await;
        assert_eq!(
            world.get(i).await.map(|a| a.status),
            Some(200),
            "{}",
            case.name
        );
    }
    world.well_again().await;
    world.at_rest().await;
    assert!(world.sidecar.app.stop().await);
}

async fn breaks(edges: &[Broken], cases: &[Case]) {
    join_all(
        edges
            .iter()
            .zip(cases)
            .map(|(e, c)| e.breaks(Some(c.fault.clone()))),
    )
    .await;
}

fn word(token: Token) -> &'static str {
    match token {
        Token::Retry => "retry",
        Token::Config => "config",
        Token::Ok => "ok",
    }
}

/// Half a second apart at the least on average, full jitter at the start included.
fn bounded(world: &World, cases: &[Case], before: &[usize], since: Instant) {
    let most = 4 + usize::try_from(since.elapsed().as_secs()).unwrap() * 3;
    for ((edge, case), before) in world.edges.iter().zip(cases).zip(before) {
        let calls = edge.counts().0 - before;
        assert!(
            calls <= most,
            "{}: {calls} connections in {:?}",
            case.name,
            since.elapsed()
        );
    }
}

async fn told(world: &World, i: usize, case: &Case) {
    let asked = Instant::now();
    let answer = world
        .get(i)
        .await
        .unwrap_or_else(|| panic!("{}: no answer", case.name));
    assert!(asked.elapsed() < BOUND, "{}", case.name);
    if case.token == Token::Ok {
        // Floods beside it may take all of a small machine for a while.
        return until(case.name, async || {
            world.get(i).await.is_some_and(|a| a.status == 200)
        })
        .await;
    }
    let problem = answer.json();
    let found = (answer.status, problem["code"].as_str().unwrap_or_default());
    let expected: &[(u16, &str)] = match case.token {
        // While the next call is under way its callers wait for it.
        Token::Retry => &[(503, "token_unavailable"), (504, "token_timeout")],
        _ => &[(502, "token_misconfigured")],
    };
    assert!(expected.contains(&found), "{}: {problem}", case.name);
    assert_eq!(
        (&problem["credential"], &problem["token"]),
        (&format!("c{i}").into(), &"access".into()),
        "{}",
        case.name
    );
}
