//! Local hardening: what other programs and users of the host can get at.

use std::os::unix::{fs::PermissionsExt, process::ExitStatusExt};

use cupbearer::{
    config::{self, LoadOptions},
    document::Severity,
    hardening::{ALLOW_DUMPS, harden, hardened},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    time::timeout,
};

use crate::support::{
    daemon::{Daemon, Setup, cli},
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    sidecar::{Sidecar, binary, plain},
    tokens::Tokens,
    vendor::Vendor,
    wire::{Gate, Reply},
};

fn bare(api: &str) -> String {
    format!("[upstreams.acme]\nurl = \"{api}\"\ncredential = \"none\"\n")
}

/// Run by the test below, in a process of its own: it holds for the whole process and cannot be
/// taken back.
#[test]
fn harden_on_purpose() {
    if std::env::var_os("HARDEN_ON_PURPOSE").is_none() {
        return;
    }
    assert!(!hardened());
    assert!(harden(None).is_empty());
    assert!(hardened(), "RLIMIT_CORE 0 and PR_SET_DUMPABLE 0");
    let own = std::fs::read_dir("/proc/self/fd")
        .expect("what process_open_fds is counted from")
        .count();
    assert!(own > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn h4_neither_core_files_nor_debuggers_get_at_the_memory() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["hardening::harden_on_purpose", "--exact", "--nocapture"])
        .env("HARDEN_ON_PURPOSE", "1")
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn h4_the_running_program_writes_no_core_file_unless_it_is_told_to() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let limit = |daemon: &Daemon| {
        let limits =
            std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id().unwrap()))
                .unwrap();
        let line = limits
            .lines()
            .find(|l| l.starts_with("Max core file size"))
            .unwrap()
            .to_owned();
        line.split_whitespace().nth(5).unwrap().to_owned()
    };
    let text = bare(&vendor.url());
    // The hard limit: as it is here, or nothing.
    let mut told = Daemon::with(Setup {
        text: &text,
        env: &[(ALLOW_DUMPS, "1")],
        ..Setup::default()
    })
    .await;
    let mut plain = Daemon::start(&text).await;
    assert_eq!(limit(&plain), "0");
    let ours = std::fs::read_to_string("/proc/self/limits").unwrap();
    let ours = ours
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .nth(5)
        .unwrap()
        .to_owned();
    assert_eq!(limit(&told), ours);
    assert!(
        plain.admin("/metrics").await.1.contains("process_open_fds"),
        "it still sees itself"
    );
    plain.signal(Signal::ABORT);
    assert!(!plain.end().await.core_dumped());
    told.stop().await;
    assert!(cli(&["--help"]).await.stdout.contains(ALLOW_DUMPS));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_secrets_only_to_check_them_is_hardened_like_the_running_program() {
    let gate = Gate::shut();
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    issuer.script(Reply::new(503, "").behind(&gate));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(
        &file,
        plain(
            "acme",
            &format!("{}/token", issuer.url()),
            "http://127.0.0.1:9",
        ),
    )
    .unwrap();
    let mut command = Command::new(binary());
    command
        .args(["check", "--live", "--config"])
        .arg(&file)
        .env("XDG_STATE_HOME", folder.path())
        .stdout(std::process::Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    issuer.wait(1).await;
    // It waits for its token now, with the secret in its memory.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id().unwrap())).unwrap();
    let line = limits
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"]
    );
    gate.open();
    assert_eq!(
        timeout(PATIENCE, child.wait())
            .await
            .unwrap()
            .unwrap()
            .code(),
        Some(3)
    );
}

/// What a program of our own user gets from the socket.
async fn ask(socket: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut answer = String::new();
    let exchange = async {
        // A peer that is not let in may be gone before it has written.
        let _ = stream
            .write_all(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
        let _ = stream.read_to_string(&mut answer).await;
    };
    timeout(PATIENCE, exchange)
        .await
        .expect("an answer or an end");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_s_word_on_the_peer_decides_who_may_use_a_unix_socket() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let me = rustix::process::getuid().as_raw();
    let folder = tempfile::tempdir().unwrap();
    for (uids, mode, lets_in) in [
        (String::new(), 0o600, true),
        (format!("{me}, 4242"), 0o666, true),
        (me.wrapping_add(1).to_string(), 0o666, false),
    ] {
        let socket = folder.path().join(format!("s{mode:o}{lets_in}.sock"));
        let text = format!(
            "[proxy]\nlisten = [\"unix:{}\"]\npeer_uids = [{uids}]\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            socket.display(),
            bare(&vendor.url())
        );
        let sidecar = Sidecar::with_files(&text, &[]).await;
        assert_eq!(
            std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
            mode
        );
        let answer = ask(&socket).await;
        assert_eq!(
            answer.starts_with("HTTP/1.1 200"),
            lets_in,
            "[{uids}]: {answer}"
        );
        assert!(
            lets_in || answer.is_empty(),
            "not a word to a stranger: {answer}"
        );
        // A list that is changed later is named as one that needs a restart.
        sidecar.rewrite(
            "cupbearer.toml",
            &text.replace("peer_uids = [", "peer_uids = [7, "),
        );
        let answer = sidecar
            .client
            .post(format!("http://{}/api/reload", sidecar.admin_addr()));
        let answer = answer
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(answer.contains("proxy.peer_uids"), "{answer}");
    }
    assert_eq!(vendor.counts().requests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_come_again_and_again_cost_one_line_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock");
    let stranger = rustix::process::getuid().as_raw().wrapping_add(1);
    let listen = format!(
        "[\"127.0.0.1:0\", \"unix:{}\"]\npeer_uids = [{stranger}]",
        socket.display()
    );
    let whole = format!(
        "[proxy]\nlisten = {listen}\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
        bare("http://127.0.0.1:9")
    );
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    let warned = |daemon: &Daemon| daemon.stderr.text().matches(" WARN ").count();
    let before = warned(&daemon);
    for _ in 0..30 {
        assert_eq!(ask(&socket).await, "");
    }
    daemon.stderr.until("not in proxy.peer_uids").await;
    daemon.stop().await;
    assert_eq!(warned(&daemon) - before, 1, "{}", daemon.stderr.text());
}

#[test]
fn s11_h8_a_secret_or_a_key_that_everybody_may_read_is_a_lint_and_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = format!(
        "[credentials.a]\nsettings = {{ token_url = \"https://auth.vendor.test/token\" }}\n\
         secrets = {{ client_id = \"a\", client_secret = {{ file = \"secret\" }} }}\n[credentials.a.tokens.access.tls]\n\
         client_cert_file = {0:?}\nclient_key_file = {1:?}\n[upstreams.a]\nurl = \"https://api.vendor.test\"\ncredential = \"a\"\n\
         tls = {{ client_cert_file = {0:?}, client_key_file = {1:?} }}\n",
        path("cert"),
        path("key")
    );
    std::fs::write(path("c.toml"), text).unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["client.test".to_owned()]).unwrap();
    for (name, text) in [
        ("secret", "x"),
        ("key", &pair.signing_key.serialize_pem()),
        ("cert", &pair.cert.pem()),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    let found = |mode: u32| {
        for name in ["secret", "key"] {
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (config, problems) = config::load(&path("c.toml"), &LoadOptions::default());
        assert!(config.is_some(), "{:#?}", problems.list());
        assert!(problems.list().iter().all(|p| p.severity == Severity::Lint));
        let mut keys: Vec<String> = problems.list().iter().map(|p| p.key.clone()).collect();
        keys.sort();
        keys
    };
    assert_eq!(found(0o600), [""; 0]);
    let expected = [
        "credentials.a.secrets.client_secret",
        "credentials.a.tokens.access.tls.client_key_file",
        "upstreams.a.tls.client_key_file",
    ];
    assert_eq!(found(0o644), expected);
}
