//! `demo`: an issuer and a vendor inside the process, called through the real proxy on real
//! sockets. Each step is a promise that is checked.

mod vendor;

use std::time::Duration;

use serde_json::Value;

use self::vendor::{LIFE, SECRET, Vendor};
use super::{Exit, complain, say};
use crate::{
    app::{App, Options},
    clock::BootInstant,
    config::{self, LoadOptions},
};

/// `cupbearer demo [--once]`.
pub fn demo(once: bool) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(format_args!("cupbearer: {e}"));
            return Exit::Failed;
        }
    };
    match runtime.block_on(give_tour(once)) {
        Ok(0) => Exit::Done,
        Ok(broken) => {
            complain(format_args!("cupbearer demo: {broken} promise(s) broken"));
            Exit::Failed
        }
        Err(why) => {
            complain(format_args!("cupbearer demo: {why}"));
            Exit::Failed
        }
    }
}

/// Takes through the tour and counts broken promises.
struct Tour {
    client: reqwest::Client,
    base: String,
    admin: String,
    broken: usize,
}

impl Tour {
    async fn get(&self, path: &str) -> Result<(u16, Value), String> {
        let answer = self
            .client
            .get(format!("{}{path}", self.base))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|e| e.to_string())?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }
    /// How many of `n` calls in a row were answered with 200.
    async fn count_good(&self, path: &str, n: usize) -> Result<usize, String> {
        let mut good = 0;
        for _ in 0..n {
            good += usize::from(self.get(path).await?.0 == 200);
        }
        Ok(good)
    }
    async fn get_admin(&self, path: &str) -> Result<String, String> {
        let answer = self
            .client
            .get(format!("{}{path}", self.admin))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        answer.text().await.map_err(|e| e.to_string())
    }
    /// The sum of all series of a metric whose labels hold `label`. A request is counted a moment
    /// after its caller has the answer, so a sum of 0 is looked at again for a second.
    async fn read_metric(&self, name: &str, label: &str) -> Result<f64, String> {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let end = BootInstant::now().after(Duration::from_secs(1));
        loop {
            tick.tick().await;
            let text = self.get_admin("/metrics").await?;
            let lines = text
                .lines()
                .filter(|l| l.starts_with(name) && l.contains(label));
            let sum = lines
                .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum();
            if sum > 0.0 || BootInstant::now() >= end {
                return Ok(sum);
            }
        }
    }
    fn check_promise(&mut self, kept: bool, what: &str, seen: &str) {
        self.broken += usize::from(!kept);
        say(&format!(
            "  [{}] {what}\n       {seen}\n",
            if kept { "ok" } else { "BROKEN" }
        ));
    }
}

fn config_text(vendor: std::net::SocketAddr) -> String {
    format!(
        r#"
[proxy]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"

[credentials.orders]            # one JSON token endpoint
profile  = "optoro"
settings = {{ base = "http://{vendor}" }}
secrets  = {{ client_id = "orders", client_secret = "{SECRET}" }}

[credentials.pay]               # two tokens, one made with the other, four headers
profile  = "mypos"
settings = {{ base = "http://{vendor}", partner_id = "mps-p-1", application_id = "mps-app-1" }}
secrets  = {{ client_id = "partner", client_secret = "{SECRET}", merchant_client_id = "merchant", merchant_client_secret = "{SECRET}" }}

[credentials.typo]              # a wrong secret
profile  = "optoro"
settings = {{ base = "http://{vendor}" }}
secrets  = {{ client_id = "typo", client_secret = "not-the-secret" }}
guard    = {{ max_rejections = 1 }}

[upstreams.orders]
url = "http://{vendor}/orders"
credential = "orders"
[upstreams.pay]
url = "http://{vendor}/pay"
credential = "pay"
[upstreams.typo]
url = "http://{vendor}/orders/typo"
credential = "typo"
"#
    )
}

/// The whole tour; the number of broken promises.
async fn give_tour(once: bool) -> Result<usize, String> {
    let vendor = Vendor::default();
    let address = vendor.start().await.map_err(|e| e.to_string())?;
    let (config, problems) = config::load_text(
        &config_text(address),
        std::path::Path::new("."),
        &LoadOptions::default(),
    );
    let config = config.ok_or_else(|| {
        problems
            .list()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let begun = BootInstant::now();
    let app = App::start(config, Options::default())
        .await
        .map_err(|e| e.to_string())?;
    let base = app.proxy().first().ok_or("the proxy has no port")?.clone();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .map_err(|e| e.to_string())?;
    let mut tour = Tour {
        client,
        base: format!("http://{base}"),
        admin: format!("http://{}", app.admin()),
        broken: 0,
    };

    say(&format!(
        "Three parties on this machine, on real sockets:\n\
         \x20 vendor     http://{address}  an API with its token endpoint; tokens live {} s, and each call's token is checked\n\
         \x20 cupbearer  http://{base}  knows the secrets, gets the tokens, puts them on the calls that pass through\n\
         \x20 caller     this tour               knows no secret and sends no token\n\n",
        LIFE.as_secs()
    ));
    show_freshness(&mut tour, &vendor, begun).await?;
    show_trouble(&mut tour, &vendor).await?;
    show_wrong_secret(&mut tour, &vendor).await?;

    say("\nSome of what Prometheus sees on the admin port:\n");
    let shown = [
        "token_requests_total",
        "token_sendable",
        "replays_total",
        "credential_latched",
        "requests_total",
    ];
    for line in tour.get_admin("/metrics").await?.lines() {
        let worth = shown.iter().any(|n| {
            line.strip_prefix("cupbearer_")
                .is_some_and(|l| l.starts_with(n))
        });
        if worth && !line.ends_with(" 0") {
            say(&format!("  {line}\n"));
        }
    }
    let broken = tour.broken;
    if !once {
        say(&format!(
            "\nEverything still runs. Try it from another terminal (Ctrl-C ends the demo):\n  \
             curl -i http://{base}/orders/v1/list                # one token\n  \
             curl -i http://{base}/pay/v1/terminals              # two tokens, four headers\n  \
             curl -i http://{base}/typo/x                        # how a refusal of cupbearer's own looks\n  \
             curl -i -x http://{base} http://{address}/orders/v1/list   # as a forward proxy\n  \
             curl -s http://{admin}/api/status                   # what every token is doing\n  \
             curl -s http://{admin}/metrics\n",
            admin = app.admin()
        ));
        let _ = tokio::signal::ctrl_c().await;
    }
    app.stop().await;
    say(if broken == 0 {
        "\nAll as promised.\n"
    } else {
        "\nNot all as promised.\n"
    });
    Ok(broken)
}

/// One token for many calls, renewed before it dies.
async fn show_freshness(
    tour: &mut Tour,
    vendor: &Vendor,
    begun: BootInstant,
) -> Result<(), String> {
    say("1. One token for many calls\n");
    let (status, body) = tour.get("/orders/v1/list").await?;
    let calls = vendor.calls("orders");
    let seen = format!(
        "GET /orders/v1/list -> {status}, the vendor saw {}; token calls: {calls}",
        body["path"]
    );
    tour.check_promise(
        status == 200 && calls == 1,
        "the first call works and costs one token call",
        &seen,
    );

    let good = tour.count_good("/orders/v1/list", 1000).await?;
    let (calls, took) = (vendor.calls("orders"), begun.until(BootInstant::now()));
    // On a slow machine a thousand calls take long enough for a renewal: the first is due after 2/5
    // of the life at the earliest.
    let due = took.as_millis() * 5 / (LIFE.as_millis() * 2);
    tour.check_promise(
        good == 1000 && u128::from(calls) <= 1 + due,
        "a thousand calls, still one token call",
        &format!(
            "{good} of 1000 -> 200 within {:.1} s of the start; token calls: {calls}",
            took.as_secs_f64()
        ),
    );

    let (status, _) = tour.get("/pay/v1/terminals").await?;
    let (partner, session) = (vendor.calls("partner"), vendor.calls("merchant"));
    let seen = format!(
        "GET /pay/v1/terminals -> {status}; partner token calls: {partner}, session calls: {session}"
    );
    tour.check_promise(
        status == 200 && partner == 1 && session == 1,
        "a vendor with two chained tokens and four headers works the same",
        &seen,
    );

    say(&format!(
        "\n2. Renewed ahead of death (calling for {} s, which is longer than a token lives)\n",
        LIFE.as_secs() + 1
    ));
    let (mut good, mut all) = (0, 0);
    let end = BootInstant::now().after(LIFE + Duration::from_secs(1));
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while BootInstant::now() < end {
        tick.tick().await;
        all += 1;
        good += usize::from(tour.get("/orders/v1/list").await?.0 == 200);
    }
    let (calls, dead) = (vendor.calls("orders"), vendor.expired_seen());
    let seen = format!(
        "{good} of {all} calls -> 200 over {} s; token calls: {calls}; dead tokens the vendor saw: {dead}",
        LIFE.as_secs() + 1
    );
    tour.check_promise(
        good == all && calls >= 2 && dead == 0,
        "calls over more than a token's life, none fails",
        &seen,
    );
    Ok(())
}

/// Revocation and an issuer that is down.
async fn show_trouble(tour: &mut Tour, vendor: &Vendor) -> Result<(), String> {
    say("\n3. Trouble at the vendor\n");
    vendor.revoke_all();
    let (status, _) = tour.get("/orders/v1/list").await?;
    let replays = tour
        .read_metric("cupbearer_replays_total", "outcome=\"ok\"")
        .await?;
    let seen = format!(
        "the vendor answered 401; cupbearer got a new token and sent the call again: the caller saw {status}; replays: {replays}"
    );
    tour.check_promise(
        status == 200 && replays >= 1.0,
        "all tokens are revoked, the caller still sees 200",
        &seen,
    );

    say("  (the issuer goes down; calling for 4 s)\n");
    vendor.set_down(true);
    let (mut good, mut all) = (0, 0);
    let end = BootInstant::now().after(Duration::from_secs(4));
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while BootInstant::now() < end {
        tick.tick().await;
        all += 1;
        good += usize::from(tour.get("/orders/v1/list").await?.0 == 200);
    }
    vendor.set_down(false);
    let failed = tour
        .read_metric("cupbearer_token_requests_total", "outcome=\"retry\"")
        .await?;
    let seen = format!("{good} of {all} calls -> 200 over 4 s, while {failed} token calls failed");
    tour.check_promise(
        good == all && failed >= 1.0,
        "the issuer is down, calls go on with the living token",
        &seen,
    );
    Ok(())
}

/// A wrong secret is not tried again and again.
async fn show_wrong_secret(tour: &mut Tour, vendor: &Vendor) -> Result<(), String> {
    say("\n4. A wrong secret (20 calls to an upstream whose client secret is mistyped)\n");
    let mut codes = Vec::new();
    for _ in 0..20 {
        let (status, body) = tour.get("/typo/x").await?;
        codes.push((status, body["code"].as_str().unwrap_or("").to_owned()));
    }
    let refused = codes
        .iter()
        .filter(|(status, code)| *status == 502 && code == "token_rejected")
        .count();
    let calls = vendor.calls("typo");
    let latched = tour
        .read_metric("cupbearer_credential_latched", "credential=\"typo\"")
        .await?;
    let seen = format!(
        "{refused} of 20 calls -> 502 token_rejected; attempts at the vendor: {calls}; latched: {latched}"
    );
    tour.check_promise(
        refused == 20 && calls == 1 && latched > 0.5,
        "a refused secret is latched before the vendor locks the account",
        &seen,
    );
    Ok(())
}
