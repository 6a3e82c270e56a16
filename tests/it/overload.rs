//! L1, A10, P-rows of descriptors: caps answer clearly, queues are bounded, and tokens come before
//! traffic.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Process, Sidecar, binary, client, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Answer, Gate, Reply, Step},
};

fn file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    file
}

async fn get(client: &mut RawClient, path: &str) -> Option<RawAnswer> {
    client
        .write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .await;
    client.answer("GET").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_ten_thousand_idle_connections_cost_little_and_the_next_gets_the_seat_of_one() {
    // Each connection is two descriptors of this process: its own end, and none of the child's.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit
        .current
        .unwrap_or(u64::MAX)
        .min(limit.maximum.unwrap_or(u64::MAX));
    let idle = usize::try_from(most.saturating_sub(2_000))
        .unwrap()
        .min(10_000);
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nlimits = {{ connections = {}, header_timeout = \"5m\" }}\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        idle + 1,
        vendor.url()
    );
    let process = Process::run(&file(&folder, &text)).await;
    let mut serving = RawClient::connect(process.proxy).await;
    assert_eq!(get(&mut serving, "/acme/x").await.unwrap().status, 200);
    let before = process.kib("VmRSS");
    let mut all = Vec::with_capacity(idle);
    for n in 0..idle {
        let tcp = timeout(Duration::from_secs(20), TcpStream::connect(process.proxy))
            .await
            .expect("accepted in time")
            .unwrap();
        all.push(tcp);
        if n % 1000 == 0 {
            assert_eq!(
                get(&mut serving, "/acme/x").await.unwrap().status,
                200,
                "beside {n} idle ones"
            );
        }
    }
    // The accept loop takes them in order, so when this one is answered all the others are in.
    let above = RawClient::ask(
        process.proxy,
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(above.status, 200);
    let mut longest = all.remove(0);
    assert_eq!(
        timeout(Duration::from_secs(20), longest.read(&mut [0]))
            .await
            .expect("closed")
            .unwrap_or(0),
        0
    );
    assert_eq!(get(&mut serving, "/acme/x").await.unwrap().status, 200);
    let each = (process.kib("VmRSS").saturating_sub(before)) * 1024 / all.len() as u64;
    assert!(each < 16 * 1024, "{each} bytes for each idle connection");
    drop(all);
    let ask = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    until("places become free", async || {
        RawClient::ask(process.proxy, ask).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_running_out_of_descriptors_is_survived_and_the_admin_port_still_answers() {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    );
    let process = Process::run(&file(&folder, &text)).await;
    let pid = process.child.id().unwrap();
    // Below what the program found at its start: its own cap does not help.
    let prlimit = |n: u32| {
        let done = std::process::Command::new("prlimit")
            .args([format!("--pid={pid}"), format!("--nofile={n}:20000")])
            .status();
        assert!(done.unwrap().success());
    };
    let mut serving = RawClient::connect(process.proxy).await;
    assert_eq!(get(&mut serving, "/acme/x").await.unwrap().status, 200);
    let admin = client();
    let ask_admin = async || {
        admin
            .get(format!("http://{}/livez", process.admin))
            .send()
            .await
            .map_or(0, |r| r.status().as_u16())
    };
    assert_eq!(ask_admin().await, 200);
    prlimit(64);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(process.proxy).await.unwrap());
    }
    // Connections that are there go on, on both ports (the admin client keeps its own).
    assert_eq!(get(&mut serving, "/acme/x").await.unwrap().status, 200);
    assert_eq!(ask_admin().await, 200);
    // No spin: less than a third of one core while it cannot accept.
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // utime and stime, in ticks of 10 ms; the state letter in front is no number.
        fields[10] + fields[11]
    };
    let begun = used();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        used() - begun < 60,
        "it spins: {} ticks in 2 s",
        used() - begun
    );
    drop(crowd);
    prlimit(20_000);
    let again = RawClient::ask(
        process.proxy,
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(again.status, 200, "it accepts again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_clients_get_three_quarters_of_the_descriptors_and_a_new_admin_connection_still_fits() {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    );
    let config = file(&folder, &text);
    let script = folder.path().join("run.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\nulimit -n 256\nexec \"$BINARY\" \"$@\"\n",
    )
    .unwrap();
    let mut command = tokio::process::Command::new("sh");
    command
        .arg(&script)
        .args(["run", "--config"])
        .arg(&config)
        .env("BINARY", binary());
    let process = Process::spawn(command).await;
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(TcpStream::connect(process.proxy).await.unwrap());
    }
    // The longest silent ones gave way.
    assert_eq!(
        get(&mut RawClient::connect(process.proxy).await, "/acme/x")
            .await
            .unwrap()
            .status,
        200
    );
    let mut inside = 0;
    for tcp in crowd.drain(300..) {
        let mut tcp = tcp;
        tcp.write_all(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut all = String::new();
        let _ = timeout(Duration::from_secs(20), tcp.read_to_string(&mut all))
            .await
            .expect("an answer in time");
        inside += usize::from(all.starts_with("HTTP/1.1 200"));
    }
    // They fell silent in about the order in which they were made.
    assert!(
        inside >= 90,
        "who came in is served, vendor connections included: {inside}"
    );
    let fresh = client();
    assert_eq!(
        fresh
            .get(format!("http://{}/livez", process.admin))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_more_requests_than_an_upstream_may_have_wait_in_order_and_then_are_refused() {
    let tokens = Tokens::default();
    let (slow, quick) = (
        Vendor::start(&tokens, vec![]).await,
        Vendor::start(&tokens, vec![]).await,
    );
    slow.always(Some(Answer::Raw(vec![Step::Hang])));
    let text = format!(
        "{PORTS}[upstreams.slow]\nurl = \"{}\"\ncredential = \"none\"\ntimeouts = {{ connect = \"500ms\", read = \"20s\" }}\npool = {{ requests = 2 }}\n\
         [upstreams.quick]\nurl = \"{}\"\ncredential = \"none\"\npool = {{ requests = 1 }}\n",
        slow.url(),
        quick.url()
    );
    let sidecar = Sidecar::with_files(&text, &[]).await;
    let mut held = JoinSet::new();
    for _ in 0..2 {
        let (client, url) = (sidecar.client.clone(), sidecar.url("/slow/x"));
        held.spawn(async move { client.get(url).send().await });
    }
    slow.wait(2).await;
    let (status, body) = sidecar.refusal("/slow/y").await;
    assert_eq!(
        (status, body["code"].as_str(), body["upstream"].as_str()),
        (503, Some("overloaded"), Some("slow")),
        "{body}"
    );
    assert_eq!(slow.counts().requests, 2, "the third never arrived");
    // The neighbour is untouched; there many share one place, one after the other.
    let mut many = JoinSet::new();
    for _ in 0..50 {
        let (client, url) = (sidecar.client.clone(), sidecar.url("/quick/x"));
        many.spawn(async move { client.get(url).send().await.unwrap().status().as_u16() });
    }
    assert!(many.join_all().await.into_iter().all(|s| s == 200));
    // A caller that leaves gives its place back.
    held.shutdown().await;
    slow.always(None);
    sidecar.until_get("/slow/z", 200).await;
    assert!(
        sidecar
            .metric("cupbearer_refusals_total{code=\"overloaded\",upstream=\"slow\"}")
            .await
            >= 1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_streams_of_all_connections_together_are_no_more_than_connections() {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![]).await;
    vendor.always(Some(Answer::Raw(vec![Step::Hang])));
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\ndrain = \"1s\"\nlimits.connections = 20\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    );
    let sidecar = Sidecar::with_files(&text, &[]).await;
    let tcp = TcpStream::connect(sidecar.addr()).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut all = JoinSet::new();
    for _ in 0..50 {
        let request = http::Request::get(format!("http://{}/acme/x", sidecar.addr()))
            .body(())
            .unwrap();
        let (answer, _) = send
            .clone()
            .ready()
            .await
            .unwrap()
            .send_request(request, true)
            .unwrap();
        all.spawn(async move { answer.await.map(|a| a.status().as_u16()) });
    }
    for _ in 0..30 {
        let refused = timeout(Duration::from_secs(10), all.join_next())
            .await
            .expect("an answer in time")
            .unwrap();
        assert_eq!(refused.unwrap().unwrap(), 503);
    }
    vendor.wait(20).await;
    assert_eq!(vendor.counts().requests, 20);
    assert_eq!(
        sidecar
            .metric("cupbearer_refusals_total{code=\"overloaded\",upstream=\"\"}")
            .await,
        30.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_tokens_are_renewed_in_time_while_every_core_is_busy_with_traffic() {
    let tokens = Tokens::default();
    let life = Duration::from_secs(3);
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint {
            life,
            ..Endpoint::new("/token", "acme", "s3cret-acme")
        }],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    vendor.keep(0);
    vendor.always(Some(Reply::json(200, &serde_json::json!({})).into()));
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
    ))
    .await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let over = tokio::time::Instant::now() + Duration::from_secs(7);
    let mut load = JoinSet::new();
    for _ in 0..64 {
        let addr = sidecar.addr();
        load.spawn(async move {
            let (mut client, mut n) = (RawClient::connect(addr).await, 0_u32);
            while tokio::time::Instant::now() < over {
                assert_eq!(get(&mut client, "/acme/x").await.unwrap().status, 200);
                n += 1;
            }
            n
        });
    }
    let served: u32 = timeout(Duration::from_secs(30), load.join_all())
        .await
        .expect("an end")
        .into_iter()
        .sum();
    let counts = vendor.counts();
    assert_eq!(
        (counts.expired, counts.unknown),
        (0, 0),
        "after {served} requests: {counts:?}"
    );
    let calls = issuer.calls("/token");
    assert!(
        (3..=8).contains(&calls),
        "{calls} calls in 7 s of tokens that live 3 s"
    );
    // No request ever stood and waited for a renewal.
    assert_eq!(
        sidecar
            .metric("cupbearer_refusals_total{code=\"token_unavailable\",upstream=\"acme\"}")
            .await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vendor_that_drips_leaves_descriptors_for_the_others_and_a_pool_that_is_too_large_is_told_at_start()
 {
    let tokens = Tokens::default();
    let (slow, fast) = (
        Vendor::start(&tokens, vec![]).await,
        Vendor::start(&tokens, vec![]).await,
    );
    let gate = Gate::shut();
    slow.always(Some(Reply::new(200, "late").behind(&gate).into()));
    let folder = tempfile::tempdir().unwrap();
    let upstream = |name: &str, vendor: &Vendor| {
        let pool = "pool = { requests = 5000 }\ntimeouts = { connect = \"500ms\" }\n";
        format!(
            "[upstreams.{name}]\nurl = \"{}\"\ncredential = \"none\"\n{pool}",
            vendor.url()
        )
    };
    let text = format!(
        "{PORTS}{}{}",
        upstream("slow", &slow),
        upstream("fast", &fast)
    );
    let mut command = tokio::process::Command::new("prlimit");
    command
        .args(["--nofile=1024:1024", binary(), "run", "--config"])
        .arg(file(&folder, &text));
    let mut process = Process::spawn(command).await;
    for name in ["slow", "fast"] {
        let told = |line: &str| line.contains("pool.requests = 5000") && line.contains(name);
        process.until_logged(told).await;
    }
    let mut crowd = Vec::new();
    for n in 0..400 {
        let mut client = RawClient::connect(process.proxy).await;
        client
            .write(format!("GET /slow/{n} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await;
        crowd.push(client);
    }
    // As many as get a place at all are there: half of what is for vendors.
    slow.wait(80).await;
    let ask = b"GET /fast/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..20 {
        assert_eq!(RawClient::ask(process.proxy, ask).await.status, 200);
    }
    assert_eq!(slow.counts().requests, 80);
    gate.open();
}
