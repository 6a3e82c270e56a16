//! The real binary as a service manager runs it, with all that it prints collected.

use super::wait::until;
use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    issuer::PATIENCE,
    sidecar::{PORTS, binary, client, write_at_rest},
};

/// How the binary is started.
#[derive(Default)]
pub struct Setup<'a> {
    /// After ports that nobody chose.
    pub text: &'a str,
    /// Instead of ports and `text`: the whole configuration.
    pub whole: Option<&'a str>,
    /// Files beside the configuration.
    pub files: &'a [(&'a str, &'a str)],
    pub env: &'a [(&'a str, &'a str)],
    /// A shell command before it, in the same process: `ulimit -n 64`.
    pub before: &'a str,
}

/// What was written to a pipe so far.
#[derive(Clone)]
pub struct Told {
    text: Arc<Mutex<Vec<u8>>>,
    news: watch::Sender<usize>,
}

/// `cupbearer run`.
pub struct Daemon {
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub stdout: Told,
    pub stderr: Told,
    pub client: reqwest::Client,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Told {
    /// Reads `pipe` to its end.
    pub fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let told = Self {
            text: Arc::default(),
            news: watch::Sender::new(0),
        };
        let mine = told.clone();
        let mut pipe = pipe;
        tokio::spawn(async move {
            let mut bytes = [0; 16 * 1024];
            while let Ok(n @ 1..) = pipe.read(&mut bytes).await {
                mine.text.lock().unwrap().extend(&bytes[..n]);
                mine.news.send_modify(|total| *total += n);
            }
        });
        told
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// Waits until it contains `wanted`.
    pub async fn until(&self, wanted: &str) {
        let mut news = self.news.subscribe();
        let found = timeout(PATIENCE, news.wait_for(|_| self.text().contains(wanted)))
            .await
            .is_ok();
        assert!(found, "never saw {wanted:?} in:\n{}", self.text());
    }
}

impl Daemon {
    pub async fn start(text: &str) -> Self {
        Self::with(Setup {
            text,
            ..Setup::default()
        })
        .await
    }

    /// Starts it and waits until it is ready.
    pub async fn with(setup: Setup<'_>) -> Self {
        let (mut child, folder) = spawn(&setup);
        let (stdout, stderr) = (
            Told::of(child.stdout.take().unwrap()),
            Told::of(child.stderr.take().unwrap()),
        );
        let file = folder.path().join("ready.json");
        until("the ready file", async || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended: {}",
                stderr.text()
            );
            file.exists()
        })
        .await;
        let ready: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let address = |v: &serde_json::Value| v.as_str().unwrap().parse().unwrap();
        let (proxy, admin) = (address(&ready["proxy"][0]), address(&ready["admin"]));
        Self {
            child,
            folder,
            proxy,
            admin,
            stdout,
            stderr,
            client: client(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.proxy)
    }

    /// Status and body of a GET through the proxy.
    pub async fn get(&self, path: &str) -> (u16, String) {
        read(self.client.get(self.url(path))).await
    }

    /// Status and body of a GET at the admin port.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        read(self.client.get(format!("http://{}{path}", self.admin))).await
    }

    /// Waits until `/api/status`, as text, contains this.
    pub async fn until_status(&self, wanted: &str) {
        let begun = Instant::now();
        loop {
            let seen = self.admin("/api/status").await.1;
            if seen.contains(wanted) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never saw {wanted:?} in {seen}");
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it goes on: {}", self.stderr.text()))
            .unwrap()
    }

    /// SIGTERM, and its end: exit code 0.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{}", self.stderr.text());
    }
}

/// Starts `run` without waiting for it.
pub fn spawn(setup: &Setup<'_>) -> (Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in setup.files {
        write_at_rest(&folder.path().join(name), content);
    }
    let file = folder.path().join("cupbearer.toml");
    std::fs::write(
        &file,
        setup
            .whole
            .map_or_else(|| format!("{PORTS}{}", setup.text), Into::into),
    )
    .unwrap();
    let before = if setup.before.is_empty() {
        ":"
    } else {
        setup.before
    };
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{before}; exec \"$@\""),
            "sh",
            binary(),
            "run",
            "--config",
        ])
        .arg(&file);
    command
        .arg("--ready-file")
        .arg(folder.path().join("ready.json"));
    command
        .env_remove("CUPBEARER_CONFIG")
        .envs(setup.env.iter().copied());
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, folder)
}

/// A start that is expected to fail.
pub async fn refused(setup: Setup<'_>) -> Done {
    let (child, _folder) = spawn(&setup);
    done(
        timeout(PATIENCE, child.wait_with_output())
            .await
            .expect("an end in time")
            .unwrap(),
    )
}

/// Any other command of the binary, to its end, as a user whose home is new.
pub async fn cli(args: &[&str]) -> Done {
    let home = tempfile::tempdir().unwrap();
    cli_of(home.path(), args).await
}

/// The same, of a user who remembers in this folder.
pub async fn cli_of(home: &std::path::Path, args: &[&str]) -> Done {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_remove("CUPBEARER_CONFIG")
        .env("XDG_STATE_HOME", home);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    done(
        timeout(Duration::from_secs(40), output)
            .await
            .expect("an end in time")
            .unwrap(),
    )
}

fn done(output: std::process::Output) -> Done {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Sends a request; status and body.
pub async fn read(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (
        status,
        String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned(),
    )
}
