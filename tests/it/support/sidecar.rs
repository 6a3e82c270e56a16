//! The program under test: inside this process (most tests), or the real binary (what only a
//! process shows).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cupbearer::{
    app::{App, Options},
    config::{self, LoadOptions},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A running cupbearer inside this process, with its own folder for configuration and secrets.
pub struct Sidecar {
    pub app: App,
    pub folder: tempfile::TempDir,
    pub client: reqwest::Client,
}

/// Ports nobody chose, before the test's own text.
pub const PORTS: &str = "[proxy]\nlisten = [\"127.0.0.1:0\"]\ndrain = \"2s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[reload]\ninterval = \"50ms\"\n";

impl Sidecar {
    /// `text` holds credentials and upstreams; ports are given (see [`PORTS`]).
    pub async fn start(text: &str) -> Self {
        Self::with_files(&format!("{PORTS}{text}"), &[]).await
    }

    /// The whole configuration, and files beside it by name and content.
    pub async fn with_files(text: &str, files: &[(&str, &str)]) -> Self {
        raise_open_files();
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            write_at_rest(&folder.path().join(name), content);
        }
        let file = folder.path().join("cupbearer.toml");
        std::fs::write(&file, text).unwrap();
        let (config, problems) = config::load(&file, &LoadOptions::default());
        let config = config.unwrap_or_else(|| panic!("{:#?}", problems.list()));
        let app = App::start(config, Options::default()).await.unwrap();
        Self {
            app,
            folder,
            client: client(),
        }
    }

    /// Address of the (first) data port.
    pub fn addr(&self) -> SocketAddr {
        self.app.proxy()[0].parse().unwrap()
    }

    /// Address of the admin port, where it is no Unix socket.
    pub fn admin_addr(&self) -> SocketAddr {
        self.app.admin().to_string().parse().unwrap()
    }

    /// `http://…` of the data port with `path` behind.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// Status of a GET through the proxy.
    pub async fn status_of(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }

    /// Status and problem body of a refusal.
    pub async fn refusal(&self, path: &str) -> (u16, Value) {
        let answer = self.get(path).await;
        let status = answer.status().as_u16();
        (
            status,
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null),
        )
    }

    pub async fn admin(&self, path: &str) -> reqwest::Response {
        self.client
            .get(format!("http://{}{path}", self.admin_addr()))
            .send()
            .await
            .unwrap()
    }

    pub async fn post_admin(&self, path: &str) -> u16 {
        let request = self
            .client
            .post(format!("http://{}{path}", self.admin_addr()));
        request
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    /// `/api/status`; it must fit its schema.
    pub async fn status(&self) -> Value {
        let status =
            serde_json::from_slice(&self.admin("/api/status").await.bytes().await.unwrap())
                .unwrap();
        super::schema::check_status(&status);
        status
    }

    /// One token of one credential in `/api/status`.
    pub async fn token(&self, credential: &str, token: &str) -> Value {
        let status = self.status().await;
        let found = status["credentials"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == credential)
            .unwrap()
            .clone();
        found["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["name"] == token)
            .unwrap_or(&Value::Null)
            .clone()
    }

    /// The value of one series; its labels in the order Prometheus prints them (alphabetical). 0
    /// where it is not there. As of now: what the port serves may be a second old.
    pub async fn metric(&self, series: &str) -> f64 {
        // Other tasks go on in between, as they do where a port is asked.
        tokio::task::yield_now().await;
        let text = String::from_utf8(self.app.exposition()).unwrap();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |v| v.parse().unwrap())
    }

    /// Replaces the configuration file at one moment, as an editor does.
    pub fn rewrite(&self, name: &str, content: &str) {
        let beside = self.path(&format!(".{name}.new"));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }
}

/// Many tests in one process need more sockets than the 1024 files a shell often allows.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            ..files
        },
    )
    .unwrap();
}

/// A client that follows nothing and reads no proxy variables. It lets a connection go before we do:
/// it keeps spare ones that never carried a request, which end `header_timeout` after they were made,
/// and a request that is sent just then gets no answer.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    builder
        .timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(usize::MAX)
        .pool_idle_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

/// The stanza of a plain vendor: credential and upstream `name`, token URL and API.
pub fn plain(name: &str, token_url: &str, api: &str) -> String {
    format!(
        "[credentials.{name}]\nsettings = {{ token_url = \"{token_url}\" }}\nsecrets = {{ client_id = \"{name}\", client_secret = \"s3cret-{name}\" }}\n\
         [upstreams.{name}]\nurl = \"{api}\"\ncredential = \"{name}\"\n"
    )
}

/// Writes a file as one finds it that was written long ago: nobody waits for who may still be
/// writing it.
pub fn write_at_rest(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60))
        .unwrap();
}

/// The stanza of an upstream that needs no token: the client's own headers pass.
pub fn open(name: &str, api: &str) -> String {
    format!("[upstreams.{name}]\nurl = \"{api}\"\ncredential = \"none\"\n")
}

/// The real binary.
pub struct Process {
    pub child: Child,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    /// What it wrote to stderr before the ready line, and what was waited for since.
    pub before: String,
    /// What it writes to stderr from there on.
    pub log: BufReader<tokio::process::ChildStderr>,
}

impl Process {
    /// Starts `cupbearer run` on a configuration file and waits for its ready line.
    pub async fn run(config: &Path) -> Self {
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(config);
        Self::spawn(command).await
    }

    /// The same for a command that ends in `cupbearer run`.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let ready = async {
            loop {
                let mut line = String::new();
                assert!(
                    log.read_line(&mut line).await.unwrap() > 0,
                    "it ended: {seen}"
                );
                if let Some(rest) = line.strip_prefix("ready proxy=") {
                    return rest.trim().to_owned();
                }
                seen += &line;
            }
        };
        let ready = tokio::time::timeout(Duration::from_secs(30), ready)
            .await
            .expect("no ready line");
        let (proxy, admin) = ready.split_once(" admin=").unwrap();
        let proxy = proxy.split(',').next().unwrap();
        Self {
            child,
            proxy: proxy.parse().unwrap(),
            admin: admin.parse().unwrap(),
            before: seen,
            log,
        }
    }

    /// Waits for a line of its log. The log is written by a thread of its own, so the ready line may
    /// stand before what was told earlier.
    pub async fn until_logged(&mut self, so: impl Fn(&str) -> bool) {
        while !self.before.lines().any(&so) {
            let line = self.log.read_line(&mut self.before);
            let read = tokio::time::timeout(Duration::from_secs(30), line).await;
            assert!(
                matches!(read, Ok(Ok(1..))),
                "never saw it in {}",
                self.before
            );
        }
    }

    /// KiB of memory: `VmRSS` is what is resident now, `VmHWM` the most that ever was.
    pub fn kib(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
            .unwrap();
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap())
            .unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

/// Where cargo put the binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_cupbearer")
}
