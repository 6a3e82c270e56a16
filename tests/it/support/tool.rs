//! Foreign programs: found, started on a free port, ended with the test. One that is missing skips
//! the test with its reason; with CI=true it fails it, except where the machine cannot get it at
//! all.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The folder of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the Makefile puts tools.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Tells why a test does not run: on standard error, past the test harness, and in the list that CI
/// prints.
pub fn skip(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("CUPBEARER_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(list)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// A program that may be there.
pub struct Tool {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    input: String,
}

impl Tool {
    /// Prism: answers as an OpenAPI document says, refuses what it does not allow.
    pub fn prism() -> Result<Self, String> {
        Self::node(
            "prism",
            tools().join("node/node_modules/.bin/prism"),
            "make tools",
        )
    }

    /// A certified authorization server.
    pub fn oidc_provider() -> Result<Self, String> {
        let installed = tools().join("node/node_modules/oidc-provider");
        if !installed.exists() {
            return missing("oidc-provider", "make tools");
        }
        Self::node(
            "oidc-provider",
            root().join("tests/tools/oidc-provider.mjs"),
            "make tools",
        )
    }

    /// A real Keycloak. Heavy: its download may be out of reach, which is a skip in CI too.
    pub fn keycloak() -> Result<Self, String> {
        let found = std::fs::read_dir(tools()).into_iter().flatten().flatten();
        let folder = found
            .map(|e| e.path())
            .find(|p| p.join("bin/kc.sh").exists());
        let Some(folder) = folder else {
            let why = std::fs::read_to_string(tools().join("keycloak.skip"))
                .unwrap_or_else(|_| "not installed; run `make keycloak`".into());
            return Err(why.trim().to_owned());
        };
        let script = root().join("tests/tools/keycloak.sh");
        Ok(Self {
            name: "keycloak",
            program: script,
            args: vec![folder.display().to_string()],
            input: String::new(),
        })
    }

    /// A program made by `go install`. Where there is no Go, or its modules cannot be had, that is
    /// a skip in CI too.
    pub fn go(name: &'static str) -> Result<Self, String> {
        let program = tools().join("bin").join(name);
        if program.exists() {
            return Self::found(name, program, "");
        }
        let why = std::fs::read_to_string(tools().join(format!("{name}.skip")))
            .unwrap_or_else(|_| "not installed; run `make conformance`".into());
        Err(why.trim().to_owned())
    }

    /// The Python of the tools, with `requests`.
    pub fn python() -> Result<Self, String> {
        Self::found("python", tools().join("venv/bin/python"), "make tools")
    }

    /// The Node.js of the tools, for scripts of our own.
    pub fn node_js() -> Result<Self, String> {
        Self::found("node", tools().join("venv/bin/node"), "make tools")
    }

    /// A program on the PATH, like `curl`.
    pub fn on_path(name: &'static str, package: &str) -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|p| p.join(name))
            .find(|p| p.is_file());
        found.map_or_else(
            || missing(name, &format!("apt-get install {package}")),
            |program| Self::found(name, program, ""),
        )
    }

    fn node(name: &'static str, script: PathBuf, how: &str) -> Result<Self, String> {
        let mut tool = Self::found("node", tools().join("venv/bin/node"), how)?;
        if !script.exists() {
            return missing(name, how);
        }
        tool.name = name;
        tool.args.push(script.display().to_string());
        Ok(tool)
    }

    fn found(name: &'static str, program: PathBuf, how: &str) -> Result<Self, String> {
        if program.exists() {
            Ok(Self {
                name,
                program,
                args: Vec::new(),
                input: String::new(),
            })
        } else {
            missing(name, how)
        }
    }

    /// Where it was found.
    pub fn program(&self) -> &Path {
        &self.program
    }

    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What it reads first, after `start`, or all that it reads, in `run`.
    #[must_use]
    pub fn input(mut self, text: &str) -> Self {
        self.input = text.into();
        self
    }

    /// Runs it to its end: exit code, standard output, standard error.
    pub async fn run(self, limit: Duration) -> (i32, String, String) {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut stdin = child.stdin.take().expect("piped");
        // At the same time as its output is read, or both sides could wait for each other. Dropping
        // `stdin` is its end.
        tokio::spawn(async move { stdin.write_all(self.input.as_bytes()).await });
        let output = timeout(limit, child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{} took longer than {limit:?}", self.name))
            .unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Starts it and waits for a line of its standard output that contains `ready`. That line is
    /// returned.
    pub async fn start(self, ready: &str, limit: Duration) -> (Running, String) {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(self.input.as_bytes())
            .await
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut told = String::new();
        let waiting = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(ready) {
                    return Some(line);
                }
                told.push_str(&line);
                told.push('\n');
            }
            None
        };
        let line = timeout(limit, waiting).await.ok().flatten();
        let line = line.unwrap_or_else(|| {
            panic!(
                "{} did not become ready within {limit:?}:\n{told}",
                self.name
            )
        });
        // Keep reading, or the program stops at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (Running { child }, line)
    }
}

fn missing<T>(name: &str, how: &str) -> Result<T, String> {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{name} must be installed here: {how}"
    );
    Err(format!("{name} is not installed: {how}"))
}

/// A program that runs until this is dropped, which kills it.
pub struct Running {
    child: Child,
}

impl Running {
    /// Ends one of our scripts in order: they tidy up and leave when their standard input closes.
    pub async fn stop(mut self) {
        drop(self.child.stdin.take());
        if timeout(Duration::from_secs(20), self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// A port of loopback on which nobody listens, and nobody will: it is taken, by a socket that does
/// not listen, until this process ends.
pub fn dead_port() -> u16 {
    static TAKEN: std::sync::Mutex<Vec<tokio::net::TcpSocket>> = std::sync::Mutex::new(Vec::new());
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    TAKEN.lock().unwrap().push(socket);
    port
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
