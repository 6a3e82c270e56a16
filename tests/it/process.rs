//! The process as its surroundings see it: ready line, exit codes, signals, streams, limits,
//! environment.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::support::{
    daemon::{Daemon, Setup, cli, read, refused, spawn},
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    raw::RawClient,
    sidecar::{PORTS, Process, binary, client, plain},
    tokens::Tokens,
    tool::free_port,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Gate, Reply},
};

/// An upstream without a credential: what the process does has nothing to do with tokens.
fn bare(api: &str) -> String {
    format!("[upstreams.acme]\nurl = \"{api}\"\ncredential = \"none\"\n")
}

async fn vendor() -> Vendor {
    Vendor::start(&Tokens::default(), vec![]).await
}

/// A vendor whose next answer waits behind the gate, a daemon before it, and a call on its way.
async fn under_way(
    text: &str,
) -> (
    Vendor,
    Gate,
    Daemon,
    tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>,
) {
    let (vendor, gate) = (vendor().await, Gate::shut());
    vendor.script(Reply::new(200, "late").behind(&gate));
    let whole = format!("{text}{}", bare(&vendor.url()));
    let daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    let call = tokio::spawn(client().get(daemon.url("/acme/x")).send());
    vendor.wait(1).await;
    (vendor, gate, daemon, call)
}

/// Ports nobody chose, and these keys of `[proxy]`.
fn proxy(keys: &str) -> String {
    PORTS.replace("drain = \"2s\"", keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_in_one_line_and_in_a_file_and_nothing_on_stdout() {
    let vendor = vendor().await;
    let text = format!(
        "{}[metrics]\nlisten = \"127.0.0.1:0\"\n",
        bare(&vendor.url())
    );
    let mut daemon = Daemon::start(&text).await;
    let file: Value =
        serde_json::from_slice(&std::fs::read(daemon.path("ready.json")).unwrap()).unwrap();
    assert_eq!(file.as_object().unwrap().len(), 3, "{file}");
    let metrics: std::net::SocketAddr = file["metrics"].as_str().unwrap().parse().unwrap();
    let line = format!("ready proxy={} admin={}\n", daemon.proxy, daemon.admin);
    daemon.stderr.until(&line).await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    assert_eq!(
        read(client().get(format!("http://{metrics}/livez")))
            .await
            .0,
        200
    );
    daemon.stop().await;
    assert_eq!(daemon.stdout.text(), "");
    assert_eq!(daemon.stderr.text().matches("ready proxy=").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_it_has_as_many_workers_as_it_has_cores_and_one_still_renews_beside_traffic() {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new("/token", "acme", "s3cret-acme");
    endpoint.life = Duration::from_secs(2);
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let text = format!(
        "[log]\nlevel = \"debug\"\n{}",
        plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
    );
    let daemon = Daemon::with(Setup {
        text: &text,
        before: "taskset -p -c 0 $$ >&2",
        ..Setup::default()
    })
    .await;
    daemon.stderr.until("worker threads workers=1").await;
    let renewed = issuer.wait(4);
    let busy = async {
        loop {
            let answers =
                futures_util::future::join_all((0..20).map(|_| daemon.get("/acme/x"))).await;
            assert!(
                answers.iter().all(|(status, _)| *status == 200),
                "{answers:?}"
            );
        }
    };
    tokio::select! { () = renewed => {} () = busy => {} }
    assert_eq!(vendor.counts().expired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_file_is_written_through_nobody_s_link() {
    let vendor = vendor().await;
    let text = bare(&vendor.url());
    let theirs = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(theirs.path(), "precious").unwrap();
    // The sixth argument is the ready file's name.
    let before = format!(
        "ln -s '{0}' \"$6.new\"; ln -s '{0}.gone' \"$6\"",
        theirs.path().display()
    );
    let mut daemon = Daemon::with(Setup {
        text: &text,
        before: &before,
        ..Setup::default()
    })
    .await;
    assert_eq!(std::fs::read_to_string(theirs.path()).unwrap(), "precious");
    assert!(
        std::fs::symlink_metadata(daemon.path("ready.json"))
            .unwrap()
            .is_file(),
        "a link at the name itself is replaced"
    );
    let names = || {
        std::fs::read_dir(daemon.folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert!(
        !std::path::Path::new(&format!("{}.gone", theirs.path().display())).exists()
            && names().len() == 3,
        "{:?}",
        names()
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_metrics_port_the_ready_file_says_null() {
    let daemon = Daemon::start("").await;
    let file: Value =
        serde_json::from_slice(&std::fs::read(daemon.path("ready.json")).unwrap()).unwrap();
    assert!(
        file["metrics"].is_null() && file["proxy"].as_array().unwrap().len() == 1,
        "{file}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_port_in_use_ends_it_with_1_and_one_line_that_names_address_and_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let metrics = format!("{PORTS}[metrics]\nlisten = \"{address}\"\n");
    let data = format!("[proxy]\nlisten = [\"{address}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let admin = format!("[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"{address}\"\n");
    for (key, whole) in [
        ("proxy.listen", data),
        ("admin.listen", admin),
        ("metrics.listen", metrics),
    ] {
        let done = refused(Setup {
            whole: Some(&whole),
            ..Setup::default()
        })
        .await;
        assert_eq!((done.code, &*done.stdout), (1, ""), "{done:?}");
        assert!(
            done.stderr.lines().count() == 1
                && done.stderr.contains(&address)
                && done.stderr.contains(key),
            "{done:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_it_with_78_and_every_problem() {
    let text = "[upstreams.a]\nurl = \"ftp://x\"\ncredential = \"nobody\"\n[log]\nlevle = \"info\"\n[upstreams.b]\nurl = \"http://vendor.example\"\ncredential = \"none\"\n";
    let done = refused(Setup {
        text,
        ..Setup::default()
    })
    .await;
    assert_eq!((done.code, &*done.stdout), (78, ""), "{done:?}");
    for part in [
        "upstreams.a.url",
        "upstreams.a.credential",
        "log.levle",
        "did you mean \"level\"",
        "upstreams.b.url",
        "cupbearer.toml",
    ] {
        assert!(done.stderr.contains(part), "{part} in {}", done.stderr);
    }
    assert!(!done.stderr.contains("ready"), "{done:?}");
    let missing = cli(&["run", "--config", "/nowhere/at/all.toml"]).await;
    assert!(
        missing.code == 78 && missing.stderr.contains("/nowhere/at/all.toml"),
        "{missing:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2() {
    for args in [
        &["runn"][..],
        &[],
        &["run", "--confg", "x"],
        &["ctl", "dance"],
        &["check", "--format", "xml"],
    ] {
        let done = cli(args).await;
        assert!(
            done.code == 2 && done.stdout.is_empty() && done.stderr.contains("--help"),
            "{args:?}: {done:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_one_ends_at_once_with_0_on_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let vendor = vendor().await;
        let whole = format!("{}{}", proxy("drain = \"15s\""), bare(&vendor.url()));
        let mut daemon = Daemon::with(Setup {
            whole: Some(&whole),
            ..Setup::default()
        })
        .await;
        // A kept-alive connection without a request is idle too.
        assert_eq!(daemon.get("/acme/x").await.0, 200);
        let begun = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.end().await.code(), Some(0));
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_sigterm_lets_an_open_request_finish() {
    let (_vendor, gate, mut daemon, call) = under_way(&proxy("drain = \"15s\"")).await;
    daemon.signal(Signal::TERM);
    daemon.stderr.until("stopping").await;
    assert_eq!(daemon.admin("/readyz").await.0, 503);
    gate.open();
    assert_eq!(call.await.unwrap().unwrap().text().await.unwrap(), "late");
    assert_eq!(daemon.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_request_that_outlasts_the_drain_is_cut_off() {
    let (_vendor, _gate, mut daemon, call) = under_way(&proxy("drain = \"300ms\"")).await;
    daemon.signal(Signal::TERM);
    let begun = Instant::now();
    assert_eq!(daemon.end().await.code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_millis(290),
        "{:?}",
        begun.elapsed()
    );
    let answered = call.await.unwrap();
    assert!(answered.is_err(), "{answered:?}");
    daemon
        .stderr
        .until("the drain was over before every request was done")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_while_lingering_it_takes_new_calls_and_is_not_ready() {
    let vendor = vendor().await;
    let whole = format!(
        "{}{}",
        proxy("linger = \"2s\"\ndrain = \"3s\""),
        bare(&vendor.url())
    );
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    daemon.signal(Signal::TERM);
    let begun = Instant::now();
    daemon.stderr.until("stopping").await;
    let not_ready = async { while daemon.admin("/readyz").await.0 != 503 {} };
    timeout(PATIENCE, not_ready).await.unwrap();
    assert_eq!(daemon.admin("/livez").await.0, 200);
    let fresh = read(client().get(daemon.url("/acme/x"))).await;
    assert_eq!(fresh.0, 200, "{fresh:?}");
    assert_eq!(daemon.end().await.code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_second_signal_ends_it_at_once() {
    let (_vendor, _gate, mut daemon, call) = under_way(&proxy("drain = \"60s\"")).await;
    daemon.signal(Signal::TERM);
    daemon.stderr.until("stopping").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await.code(), Some(1));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_at_once() {
    let (one, two) = (vendor().await, vendor().await);
    let ports = PORTS.replace("50ms", "1h");
    let whole = format!("{ports}{}", bare(&one.url()));
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    std::fs::write(
        daemon.path("cupbearer.toml"),
        format!("{ports}{}", bare(&two.url())),
    )
    .unwrap();
    daemon.signal(Signal::HUP);
    daemon.stderr.until("configuration reloaded").await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    assert_eq!((one.counts().requests, two.counts().requests), (1, 1));
    std::fs::write(daemon.path("cupbearer.toml"), "[nonsense]\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.stderr.until("configuration refused").await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    daemon.stop().await;
}

/// A configuration that writes many lines, and calls that make it do so.
const TALKATIVE: &str = "access_log = true\ndrain = \"2s\"";

#[tokio::test(flavor = "multi_thread")]
async fn p9_nobody_reading_stderr_any_more_stops_no_call() {
    let vendor = vendor().await;
    let whole = format!(
        "{}{}[log]\nlevel = \"trace\"\n",
        proxy(TALKATIVE),
        bare(&vendor.url())
    );
    for closed in ["", "exec 2>&-", "exec 1>&- 2>&- 0<&-"] {
        let setup = Setup {
            whole: Some(&whole),
            before: closed,
            ..Setup::default()
        };
        let (mut child, folder) = spawn(&setup);
        until("ready", async || folder.path().join("ready.json").exists()).await;
        // From here on a write to stderr is EPIPE (or EBADF).
        drop((child.stderr.take(), child.stdout.take()));
        let ready: Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("ready.json")).unwrap())
                .unwrap();
        let url = format!("http://{}/acme/x", ready["proxy"][0].as_str().unwrap());
        for _ in 0..50 {
            assert_eq!(read(client().get(&url)).await.0, 200, "{closed}");
        }
        assert!(child.try_wait().unwrap().is_none(), "{closed}");
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(
            timeout(PATIENCE, child.wait())
                .await
                .unwrap()
                .unwrap()
                .code(),
            Some(0),
            "{closed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_a_reader_of_stderr_that_stands_still_stops_no_call() {
    let vendor = vendor().await;
    let whole = format!(
        "{}{}[log]\nlevel = \"trace\"\n",
        proxy(TALKATIVE),
        bare(&vendor.url())
    );
    let (mut child, folder) = spawn(&Setup {
        whole: Some(&whole),
        ..Setup::default()
    });
    until("ready", async || folder.path().join("ready.json").exists()).await;
    let ready: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("ready.json")).unwrap()).unwrap();
    let (url, client) = (
        format!(
            "http://{}/acme/{}",
            ready["proxy"][0].as_str().unwrap(),
            "x".repeat(2000)
        ),
        client(),
    );
    // 64 KiB fit into the pipe and 1 MiB into the queue before it: these are more.
    for n in 0..1500 {
        assert_eq!(read(client.get(&url)).await.0, 200, "call {n}");
    }
    let metrics = read(client.get(format!(
        "http://{}/metrics",
        ready["admin"].as_str().unwrap()
    )))
    .await
    .1;
    let lost = metrics.lines().find_map(|line| {
        line.strip_prefix("cupbearer_log_lines_dropped_total ")?
            .parse::<f64>()
            .ok()
    });
    assert!(
        lost.is_some_and(|lost| lost > 100.0),
        "{lost:?} lines are told to be lost"
    );
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(
        timeout(PATIENCE, child.wait())
            .await
            .expect("an end")
            .unwrap()
            .code(),
        Some(0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_out_of_descriptors_it_refuses_and_then_goes_on() {
    let vendor = vendor().await;
    let text = bare(&vendor.url());
    let mut daemon = Daemon::with(Setup {
        text: &text,
        before: "ulimit -n 48",
        ..Setup::default()
    })
    .await;
    // So few that one client is all there is room for, as long as its request is under way.
    let gate = Gate::shut();
    vendor.script(Reply::new(200, "late").behind(&gate));
    let mut held = vec![RawClient::connect(daemon.proxy).await];
    let ask = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    held[0].write(ask).await;
    vendor.wait(1).await;
    let above = RawClient::ask(daemon.proxy, ask).await;
    assert_eq!(
        (above.status, above.json()["code"].as_str()),
        (503, Some("overloaded"))
    );
    gate.open();
    assert_eq!(held[0].answer("GET").await.unwrap().status, 200);
    for _ in 0..80 {
        held.push(RawClient::connect(daemon.proxy).await);
    }
    daemon.stderr.until("the limit of open files").await;
    drop(held);
    until("calls go through again", async || {
        let once = client()
            .get(daemon.url("/acme/x"))
            .timeout(Duration::from_secs(2))
            .send()
            .await;
        once.is_ok_and(|a| a.status() == 200)
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_overrides_keys_and_foreign_variables_mean_nothing() {
    let vendor = vendor().await;
    let text = bare(&vendor.url());
    let other = format!("{}/base", vendor.url());
    let env = [
        ("CUPBEARER_PORT", "tcp://10.0.0.1:80"),
        ("CUPBEARER_SERVICE_HOST", "10.0.0.1"),
        ("CUPBEARER_NONSENSE", "1"),
        ("CUPBEARER_EU__CANARY_SERVICE_HOST", "10.0.0.1"),
        ("CUPBEARER_LOG__FORMAT", "json"),
        ("CUPBEARER_UPSTREAMS__ACME__URL", &*other),
    ];
    let mut daemon = Daemon::with(Setup {
        text: &text,
        env: &env,
        before: "export ODD=$(printf '\\377')",
        ..Setup::default()
    })
    .await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    assert_eq!(vendor.last().target, "/base/x");
    daemon.stop().await;
    let log = daemon.stderr.text();
    let line = log.lines().find(|l| l.contains("stopping")).unwrap();
    assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    assert!(
        !log.contains("CUPBEARER_PORT") && !log.contains("NONSENSE"),
        "{log}"
    );
    let told = log
        .lines()
        .find(|line| line.contains("CUPBEARER_EU__CANARY_SERVICE_HOST"))
        .unwrap_or_default();
    assert!(
        told.contains("is ignored") && !log.contains("10.0.0.1"),
        "{log}"
    );

    let done = refused(Setup {
        text: &text,
        env: &[("CUPBEARER_PROXY__DRIAN", "5s")],
        ..Setup::default()
    })
    .await;
    assert!(done.code == 78 && done.stderr.contains("drian"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_paths_start_from_the_configuration_file() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "from-a-file")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
        .replace("\"s3cret-acme\"", "{ file = \"secret\" }");
    let files = [("secret", "from-a-file\n")];
    let daemon = Daemon::with(Setup {
        text: &text,
        files: &files,
        before: "cd /",
        ..Setup::default()
    })
    .await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    assert_eq!(issuer.calls("/token"), 1);
}

/// Runs a program for which this kernel has no IPv6: a filter answers EAFNOSUPPORT to
/// `socket(AF_INET6, …)`.
#[cfg(target_arch = "x86_64")]
const WITHOUT_IPV6: &str = r#"
import ctypes, os, struct, sys
SOCKET, AF_INET6, EAFNOSUPPORT = 41, 10, 97
def op(code, yes, no, k): return struct.pack("HBBI", code, yes, no, k)
program = (op(0x20, 0, 0, 0) + op(0x15, 0, 3, SOCKET) + op(0x20, 0, 0, 16) + op(0x15, 0, 1, AF_INET6)
           + op(0x06, 0, 0, 0x00050000 | EAFNOSUPPORT) + op(0x06, 0, 0, 0x7fff0000))
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]
libc, filter = ctypes.CDLL(None), Filter(6, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn on_a_host_without_ipv6_every_address_means_those_of_ipv4() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = folder.path().join("c.toml");
    let text = format!(
        "{}[metrics]\nlisten = \"[::]:{port}\"\n{}",
        proxy("drain = \"2s\""),
        bare("http://127.0.0.1:9")
    );
    std::fs::write(
        &file,
        text.replace("[\"127.0.0.1:0\"]", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
    )
    .unwrap();
    let mut command = tokio::process::Command::new("python3");
    command
        .args(["-c", WITHOUT_IPV6, binary(), "run", "--config"])
        .arg(&file);
    let mut process = Process::spawn(command).await;
    assert_eq!(
        read(client().get(format!("http://127.0.0.1:{port}/livez")))
            .await
            .0,
        200
    );
    process
        .until_logged(|line| line.contains("this host has no IPv6"))
        .await;
}
