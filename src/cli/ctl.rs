//! `ctl` and `probe`: a client of the running proxy's admin port or socket, for images that have no
//! curl.

use std::{net::SocketAddr, path::Path, time::Duration};

use http::{Method, StatusCode};
use serde_json::Value;

use super::{CtlAction, Exit, ProbeKind, complain, find_admin, say};
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
pub fn ctl(action: CtlAction, name: Option<&str>, file: &Path) -> Exit {
    let found = match find_admin(file).and_then(AdminTarget::for_operators) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let admin = &found;
    let verb = match action {
        CtlAction::Reload => return reload(admin),
        CtlAction::Status => None,
        CtlAction::Refresh => Some("refresh"),
        CtlAction::Unlatch => Some("unlatch"),
    };
    let mut page = match fetch_status(admin) {
        Ok(page) => page,
        Err(exit) => return exit,
    };
    if let Some(name) = name
        && let Some(all) = page.get_mut("credentials").and_then(Value::as_array_mut)
    {
        let hint = known(
            name,
            all.iter().map(|credential| json_text(credential, "name")),
        );
        all.retain(|c| json_text(c, "name") == name);
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
    for credential in json_list(&page, "credentials") {
        // One that fails keeps nobody else from being asked for.
        if let Err(failed) = post_action(admin, credential, verb) {
            exit = failed;
        }
    }
    exit
}

fn post_action(admin: &AdminTarget, credential: &Value, verb: &str) -> Result<(), Exit> {
    let name = json_text(credential, "name");
    let (status, body) = send_request(
        admin,
        Method::POST,
        &format!("/api/credentials/{name}/{verb}"),
    )?;
    if !status.is_success() {
        return Err(report_refusal(
            status,
            &format!("{name}: {}", body.trim_start()),
        ));
    }
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let later = json_text(&answer, "at")
        .parse::<jiff::Timestamp>()
        .is_ok_and(|at| at > jiff::Timestamp::now() + LATER);
    say(&match json_text(&answer, "at") {
        at if later => format!("{name}: {verb} accepted, for {at}\n"),
        _ => format!("{name}: {verb} accepted\n"),
    });
    let held = json_text(&answer, "held");
    if !held.is_empty() {
        complain(format_args!(
            "cupbearer: {name}: nothing is done now: {held}"
        ));
    }
    let latched = json_list(credential, "tokens")
        .iter()
        .find(|t| json_text(t, "state") == "latched");
    if let (Some(token), "refresh") = (latched, verb) {
        let until = match json_text(token, "refresh_at") {
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

fn json_list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn json_text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Every problem of a refused configuration is told as `check` tells it. A wrong one that this
/// command read itself has been told already.
fn reload(admin: &AdminTarget) -> Exit {
    let (status, body) = match send_request(admin, Method::POST, "/api/reload") {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    match status {
        StatusCode::OK => {
            let restart: Vec<_> = json_list(&answer, "restart")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            if !restart.is_empty() {
                complain(format_args!(
                    "cupbearer: only a restart brings into effect: {}",
                    restart.join(", ")
                ));
            }
            say(&format!("reload: {}\n", json_text(&answer, "outcome")))
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            for problem in json_list(&answer, "problems") {
                complain(format_args!("{}", read_problem(problem)));
            }
            complain(format_args!(
                "cupbearer: the configuration was refused; the old one goes on"
            ));
            Exit::Config
        }
        _ => report_refusal(status, &body),
    }
}

fn read_problem(problem: &Value) -> Problem {
    let some = |key: &str| Some(json_text(problem, key)).filter(|text| !text.is_empty());
    Problem {
        severity: if json_text(problem, "severity") == "lint" {
            Severity::Lint
        } else {
            Severity::Problem
        },
        key: json_text(problem, "key").to_owned(),
        file: some("file").map(Into::into),
        what: json_text(problem, "what").to_owned(),
        hint: some("hint").map(str::to_owned),
    }
}

/// `/api/status`.
fn fetch_status(admin: &AdminTarget) -> Result<Value, Exit> {
    match send_request(admin, Method::GET, "/api/status")? {
        (status, body) if status.is_success() => serde_json::from_str(&body).map_err(|_| {
            complain(format_args!(
                "cupbearer: the admin port's answer is not JSON"
            ));
            Exit::Failed
        }),
        (status, body) => Err(report_refusal(status, &body)),
    }
}

/// `cupbearer probe`.
pub fn probe(what: ProbeKind, name: Option<&str>, file: &Path) -> Exit {
    let admin = match find_admin(file) {
        // Health is told to everybody.
        Ok(AdminConfig { listen, .. }) => AdminTarget {
            listen,
            token: None,
            patience: PROBE_PATIENCE,
        },
        Err(exit) => return exit,
    };
    let path = match (what, name) {
        (ProbeKind::Live, _) => "/livez".to_owned(),
        (ProbeKind::Ready, None) => "/readyz".to_owned(),
        (ProbeKind::Ready, Some(name)) => format!("/readyz/{name}"),
    };
    match send_request(&admin, Method::GET, &path) {
        Ok((status, _)) if status.is_success() => Exit::Done,
        Ok((status, body)) => report_refusal(status, &body),
        Err(exit) => exit,
    }
}

fn report_refusal(status: StatusCode, body: &str) -> Exit {
    complain(format_args!(
        "cupbearer: the admin port says {status}: {}",
        body.trim_end()
    ));
    Exit::Failed
}

/// Where the running program is asked, and what lets in there.
struct AdminTarget {
    listen: ListenAddress,
    token: Option<Secret>,
    patience: Duration,
}

impl AdminTarget {
    /// With the token of `[admin] auth`, the first that can be read. Where none can, a Unix socket
    /// may still know us by our user.
    fn for_operators(admin: AdminConfig) -> Result<Self, Exit> {
        let AdminConfig {
            listen,
            auth: sources,
            ..
        } = admin;
        let tokens: Vec<_> = sources.iter().map(auth::load_token).collect();
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
pub fn format_listen(listen: &ListenAddress) -> String {
    match listen {
        ListenAddress::Tcp(address) => connectable_address(*address).to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// One request to the admin port the configuration names.
fn send_request(
    target: &AdminTarget,
    method: Method,
    path: &str,
) -> Result<(StatusCode, String), Exit> {
    let address = format_listen(&target.listen);
    if matches!(target.listen, ListenAddress::Tcp(listen) if listen.port() == 0) {
        complain(format_args!(
            "cupbearer: [admin] listen has port 0, so its real port is not known here"
        ));
        return Err(Exit::Failed);
    }
    let asked = async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(target.patience);
        let (client, host) = match &target.listen {
            ListenAddress::Tcp(_) => (client, address.as_str()),
            ListenAddress::Unix(socket) => (client.unix_socket(socket.as_path()), "localhost"),
        };
        let mut request = client
            .build()?
            .request(method, format!("http://{host}{path}"))
            .header("content-type", "application/json");
        if let Some(token) = &target.token {
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
fn connectable_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
