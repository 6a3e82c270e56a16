//! `ctl` and `probe`: a client of the running proxy's admin port or socket, for images that have no
//! curl.

use std::{net::SocketAddr, path::Path, time::Duration};

use http::{Method, StatusCode};
use serde_json::Value;

use super::{Action, Exit, Probe, complain, find_admin, say};
use crate::{
    admin::auth,
    config::{AdminConfig, ListenAddress},
    document::{Problem, Severity, known},
    secret::Secret,
};

/// An unlatch reads secrets and writes to the state folder, each of which may take its 5 s.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is done within this is done now.
const LATER: jiff::SignedDuration = jiff::SignedDuration::from_millis(1500);
/// Health takes nothing.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// `cupbearer ctl`. What credentials there are, the running program knows: the file may have
/// changed since it was read.
pub fn ctl(action: Action, name: Option<&str>, file: &Path) -> Exit {
    let found = match find_admin(file).and_then(Door::for_operators) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let admin = &found;
    let verb = match action {
        Action::Reload => return reload(admin),
        Action::Status => None,
        Action::Refresh => Some("refresh"),
        Action::Unlatch => Some("unlatch"),
    };
    let mut page = match page(admin) {
        Ok(page) => page,
        Err(exit) => return exit,
    };
    if let Some(name) = name
        && let Some(all) = page.get_mut("credentials").and_then(Value::as_array_mut)
    {
        let hint = known(name, all.iter().map(|credential| text(credential, "name")));
        all.retain(|c| text(c, "name") == name);
        if all.is_empty() {
            complain(format_args!(
                "cupbearer: the running program has no credential {name:?}: {hint}"
            ));
            return Exit::Failed;
        }
    }
    let Some(verb) = verb else {
        return say(&format!("{page:#}\n"));
    };
    let mut exit = Exit::Done;
    for credential in list(&page, "credentials") {
        // One that fails keeps nobody else from being asked for.
        if let Err(failed) = ask_for(admin, credential, verb) {
            exit = failed;
        }
    }
    exit
}

fn ask_for(admin: &Door, credential: &Value, verb: &str) -> Result<(), Exit> {
    let name = text(credential, "name");
    let (status, body) = ask(
        admin,
        Method::POST,
        &format!("/api/credentials/{name}/{verb}"),
    )?;
    if !status.is_success() {
        return Err(refused(status, &format!("{name}: {}", body.trim_start())));
    }
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let later = text(&answer, "at")
        .parse::<jiff::Timestamp>()
        .is_ok_and(|at| at > jiff::Timestamp::now() + LATER);
    say(&match text(&answer, "at") {
        at if later => format!("{name}: {verb} accepted, for {at}\n"),
        _ => format!("{name}: {verb} accepted\n"),
    });
    let held = text(&answer, "held");
    if !held.is_empty() {
        complain(format_args!(
            "cupbearer: {name}: nothing is done now: {held}"
        ));
    }
    let latched = list(credential, "tokens")
        .iter()
        .find(|t| text(t, "state") == "latched");
    if let (Some(token), "refresh") = (latched, verb) {
        let until = match text(token, "refresh_at") {
            "" => String::new(),
            at => format!(" before {at}"),
        };
        complain(format_args!(
            "cupbearer: {name} is latched: its secret was refused, and no token call is made{until} unless the secret changes; \
             `cupbearer ctl unlatch {name}` allows one more"
        ));
    }
    Ok(())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Every problem of a refused configuration is told as `check` tells it. A wrong one that this
/// command read itself has been told already.
fn reload(admin: &Door) -> Exit {
    let (status, body) = match ask(admin, Method::POST, "/api/reload") {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    match status {
        StatusCode::OK => {
            let restart: Vec<_> = list(&answer, "restart")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            if !restart.is_empty() {
                complain(format_args!(
                    "cupbearer: only a restart brings into effect: {}",
                    restart.join(", ")
                ));
            }
            say(&format!("reload: {}\n", text(&answer, "outcome")))
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            for problem in list(&answer, "problems") {
                complain(format_args!("{}", told(problem)));
            }
            complain(format_args!(
                "cupbearer: the configuration was refused; the old one goes on"
            ));
            Exit::Config
        }
        _ => refused(status, &body),
    }
}

fn told(problem: &Value) -> Problem {
    let some = |key: &str| Some(text(problem, key)).filter(|text| !text.is_empty());
    Problem {
        severity: if text(problem, "severity") == "lint" {
            Severity::Lint
        } else {
            Severity::Problem
        },
        key: text(problem, "key").to_owned(),
        file: some("file").map(Into::into),
        what: text(problem, "what").to_owned(),
        hint: some("hint").map(str::to_owned),
    }
}

/// `/api/status`.
fn page(admin: &Door) -> Result<Value, Exit> {
    match ask(admin, Method::GET, "/api/status")? {
        (status, body) if status.is_success() => serde_json::from_str(&body).map_err(|_| {
            complain(format_args!(
                "cupbearer: the admin port's answer is not JSON"
            ));
            Exit::Failed
        }),
        (status, body) => Err(refused(status, &body)),
    }
}

/// `cupbearer probe`.
pub fn probe(what: Probe, name: Option<&str>, file: &Path) -> Exit {
    let admin = match find_admin(file) {
        // Health is told to everybody.
        Ok(AdminConfig { listen, .. }) => Door {
            listen,
            token: None,
            patience: PROBE_PATIENCE,
        },
        Err(exit) => return exit,
    };
    let path = match (what, name) {
        (Probe::Live, _) => "/livez".to_owned(),
        (Probe::Ready, None) => "/readyz".to_owned(),
        (Probe::Ready, Some(name)) => format!("/readyz/{name}"),
    };
    match ask(&admin, Method::GET, &path) {
        Ok((status, _)) if status.is_success() => Exit::Done,
        Ok((status, body)) => refused(status, &body),
        Err(exit) => exit,
    }
}

fn refused(status: StatusCode, body: &str) -> Exit {
    complain(format_args!(
        "cupbearer: the admin port says {status}: {}",
        body.trim_end()
    ));
    Exit::Failed
}

/// Where the running program is asked, and what lets in there.
struct Door {
    listen: ListenAddress,
    token: Option<Secret>,
    patience: Duration,
}

impl Door {
    /// With the token of `[admin] auth`, the first that can be read. Where none can, a Unix socket
    /// may still know us by our user.
    fn for_operators(admin: AdminConfig) -> Result<Self, Exit> {
        let AdminConfig {
            listen,
            auth: sources,
            ..
        } = admin;
        let tokens: Vec<_> = sources.iter().map(auth::secret).collect();
        let why = tokens
            .iter()
            .find_map(|token| token.as_ref().err().cloned());
        let token = tokens.into_iter().find_map(Result::ok);
        if let (ListenAddress::Tcp(_), None, Some(why)) = (&listen, &token, why) {
            complain(format_args!(
                "cupbearer: admin.auth {why}, and without it the admin port lets nobody in"
            ));
            return Err(Exit::Failed);
        }
        Ok(Self {
            listen,
            token,
            patience: PATIENCE,
        })
    }
}

/// An address as it is written.
pub fn shown(listen: &ListenAddress) -> String {
    match listen {
        ListenAddress::Tcp(address) => reachable(*address).to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// One request to the admin port the configuration names.
fn ask(door: &Door, method: Method, path: &str) -> Result<(StatusCode, String), Exit> {
    let address = shown(&door.listen);
    if matches!(door.listen, ListenAddress::Tcp(listen) if listen.port() == 0) {
        complain(format_args!(
            "cupbearer: [admin] listen has port 0, so its real port is not known here"
        ));
        return Err(Exit::Failed);
    }
    let asked = async {
        let client = reqwest::Client::builder().no_proxy().timeout(door.patience);
        let (client, host) = match &door.listen {
            ListenAddress::Tcp(_) => (client, address.as_str()),
            ListenAddress::Unix(socket) => (client.unix_socket(socket.as_path()), "localhost"),
        };
        let mut request = client
            .build()?
            .request(method, format!("http://{host}{path}"))
            .header("content-type", "application/json");
        if let Some(token) = &door.token {
            request = request.bearer_auth(token.expose());
        }
        let answer = request.send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| {
        complain(format_args!("cupbearer: {e}"));
        Exit::Failed
    })?;
    runtime.block_on(asked).map_err(|_| {
        complain(format_args!("cupbearer: nothing answers on the admin port {address}: is `cupbearer run` up with this configuration?"));
        Exit::Failed
    })
}

/// An address one can connect to: the wildcard means loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
