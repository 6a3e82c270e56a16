//! `ctl` and `probe`: a client of the running proxy's admin port, for images that have no curl.

use std::{net::SocketAddr, path::Path, time::Duration};

use http::{Method, StatusCode};

use super::{Action, Exit, Probe, complain, find_admin, say};

/// `cupbearer ctl`.
pub fn ctl(action: Action, name: Option<&str>, file: &Path) -> Exit {
    let (admin, config) = match find_admin(file) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    if let Some(name) = name.filter(|n| config.as_ref().is_some_and(|config| !config.credentials.contains_key(*n))) {
        complain(format_args!("cupbearer: {}: there is no credential {name:?}", file.display()));
        return Exit::Failed;
    }
    let verb = match action {
        Action::Status => return status(admin, name),
        Action::Reload => return reload(admin),
        Action::Refresh => "refresh",
        Action::Unlatch => "unlatch",
    };
    let names: Vec<String> = match (name, config) {
        (Some(name), _) => vec![name.to_owned()],
        (None, Some(config)) => config.credentials.keys().map(|n| n.as_ref().to_owned()).collect(),
        (None, None) => match page(admin) {
            Ok(page) => credentials(&page).iter().filter_map(|c| Some(c.get("name")?.as_str()?.to_owned())).collect(),
            Err(exit) => return exit,
        },
    };
    for name in names {
        match ask(admin, Method::POST, &format!("/api/credentials/{name}/{verb}")) {
            Ok((status, _)) if status.is_success() => _ = say(&format!("{name}: {verb} accepted\n")),
            Ok((status, body)) => return refused(status, &body),
            Err(exit) => return exit,
        }
    }
    Exit::Done
}

/// Every problem of a refused configuration is told as `check` tells it. A wrong one that this command read itself has been told already.
fn reload(admin: SocketAddr) -> Exit {
    let (status, body) = match ask(admin, Method::POST, "/api/reload") {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let word = |value: &serde_json::Value, key: &str| value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let list = |key: &str| answer.get(key).and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    match status {
        StatusCode::OK => {
            let restart: Vec<_> = list("restart").iter().filter_map(|k| k.as_str().map(str::to_owned)).collect();
            if !restart.is_empty() {
                complain(format_args!("cupbearer: only a restart brings into effect: {}", restart.join(", ")));
            }
            say(&format!("reload: {}\n", word(&answer, "outcome")))
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            for problem in list("problems") {
                complain(format_args!("{}: {}: {}", word(&problem, "severity"), word(&problem, "key"), word(&problem, "what")));
            }
            complain(format_args!("cupbearer: the configuration was refused; the old one goes on"));
            Exit::Config
        }
        _ => refused(status, &body),
    }
}

fn status(admin: SocketAddr, name: Option<&str>) -> Exit {
    let mut page = match page(admin) {
        Ok(page) => page,
        Err(exit) => return exit,
    };
    if let (Some(name), Some(all)) = (name, page.get_mut("credentials").and_then(serde_json::Value::as_array_mut)) {
        all.retain(|c| c.get("name").and_then(serde_json::Value::as_str) == Some(name));
    }
    say(&format!("{page:#}\n"))
}

/// `/api/status`.
fn page(admin: SocketAddr) -> Result<serde_json::Value, Exit> {
    match ask(admin, Method::GET, "/api/status")? {
        (status, body) if status.is_success() => serde_json::from_str(&body).map_err(|_| {
            complain(format_args!("cupbearer: the admin port's answer is not JSON"));
            Exit::Failed
        }),
        (status, body) => Err(refused(status, &body)),
    }
}

fn credentials(page: &serde_json::Value) -> &[serde_json::Value] {
    page.get("credentials").and_then(serde_json::Value::as_array).map_or(&[], Vec::as_slice)
}

/// `cupbearer probe`.
pub fn probe(what: Probe, name: Option<&str>, file: &Path) -> Exit {
    let admin = match find_admin(file) {
        Ok((admin, _)) => admin,
        Err(exit) => return exit,
    };
    let path = match (what, name) {
        (Probe::Live, _) => "/livez".to_owned(),
        (Probe::Ready, None) => "/readyz".to_owned(),
        (Probe::Ready, Some(name)) => format!("/readyz/{name}"),
    };
    match ask(admin, Method::GET, &path) {
        Ok((status, _)) if status.is_success() => Exit::Done,
        Ok((status, body)) => refused(status, &body),
        Err(exit) => exit,
    }
}

fn refused(status: StatusCode, body: &str) -> Exit {
    complain(format_args!("cupbearer: the admin port says {status}: {}", body.trim_end()));
    Exit::Failed
}

/// One request to the admin port the configuration names.
fn ask(listen: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, String), Exit> {
    let address = reachable(listen);
    if address.port() == 0 {
        complain(format_args!("cupbearer: [admin] listen has port 0, so its real port is not known here"));
        return Err(Exit::Failed);
    }
    let asked = async {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let request = client.request(method, format!("http://{address}{path}")).header("content-type", "application/json");
        let answer = request.send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
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
