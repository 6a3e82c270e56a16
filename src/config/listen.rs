//! Addresses we listen on: how they are written, who may reach them, and that none is taken twice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ListenAddress, parse::ParseContext};
use crate::{document::Problems, net};

/// Where the admin port is if nothing else is said.
pub const STANDARD_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 14190);

/// `IP:PORT` or `unix:PATH`.
pub fn parse(
    key: &str,
    text: &str,
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> Option<ListenAddress> {
    match text.strip_prefix("unix:") {
        Some("") => {
            problems.problem(
                key,
                "unix: needs a path",
                "for instance \"unix:/run/cupbearer.sock\"",
            );
            None
        }
        Some(path) => Some(ListenAddress::Unix(context.path(path))),
        None => socket(key, text, problems).map(ListenAddress::Tcp),
    }
}

/// `IP:PORT`.
pub fn socket(key: &str, text: &str, problems: &mut Problems) -> Option<SocketAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        // Only what is surely a port or an address is repeated.
        let port = |start| {
            text.strip_prefix(start)
                .and_then(|rest: &str| rest.parse::<u16>().ok())
        };
        let hint = match (port("localhost:"), text.parse::<IpAddr>(), port(":")) {
            (Some(port), ..) => format!("names are not looked up: write \"127.0.0.1:{port}\""),
            (_, Ok(IpAddr::V4(address)), _) => format!("the port is missing: \"{address}:14180\""),
            (_, Ok(IpAddr::V6(address)), _) => format!("write \"[{address}]:14180\""),
            (.., Some(port)) => format!("write \"127.0.0.1:{port}\""),
            _ => "an IP address and a port, such as \"127.0.0.1:14180\" or \"[::1]:14180\""
                .to_owned(),
        };
        problems.problem(key, "is not an address to listen on", hint);
    }
    address
}

/// An address without which its table makes no sense.
pub fn required(
    key: &str,
    text: Option<&str>,
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let wrong = key
        .rsplit_once('.')
        .is_some_and(|(table, name)| context.taken.has(table, name));
    if text.is_none() && !wrong {
        problems.problem(
            key,
            "is required",
            "for instance \"[::]:14191\"; leave the table out for no such port",
        );
    }
    socket(key, text?, problems)
}

/// Who reaches the data port can spend the tokens: other hosts must be let in by name of a key, and
/// show who they are.
pub fn remote(
    listen: &[ListenAddress],
    allowed: bool,
    authenticated: bool,
    problems: &mut Problems,
) {
    for (i, address) in listen.iter().enumerate() {
        let ListenAddress::Tcp(address) = address else {
            continue;
        };
        let key = format!("proxy.listen[{i}]");
        if net::is_loopback(address.ip()) {
        } else if !allowed {
            let hint =
                "set proxy.allow_remote = true and proxy.client_auth, or listen on 127.0.0.1";
            problems.problem(
                key,
                format!("{address} can be reached from other hosts"),
                hint,
            );
        } else if !authenticated {
            let hint = "set proxy.client_auth = { file = \"…\" }, or proxy.allow_unauthenticated = true if the network keeps others out";
            problems.problem(
                key,
                format!("whoever reaches {address} could spend the tokens"),
                hint,
            );
        }
    }
}

/// Every TCP address of ours.
#[must_use]
pub fn addresses(
    proxy: &[ListenAddress],
    admin: &ListenAddress,
    metrics: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let all = proxy.iter().chain([admin]);
    all.filter_map(|listen| {
        if let ListenAddress::Tcp(address) = listen {
            Some(*address)
        } else {
            None
        }
    })
    .chain(metrics)
    .collect()
}

/// The kernel's name for every user that it cannot name here (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

/// Users who are let in by the number that the kernel gives for them (SO_PEERCRED).
pub fn uids(key: &str, uids: &[u32], problems: &mut Problems) {
    for (i, _) in uids.iter().enumerate().filter(|(_, uid)| **uid == OVERFLOW) {
        let hint = "it stands for each user that has no number in our user namespace: give the program that calls a number of its own";
        problems.problem(
            format!("{key}[{i}]"),
            format!("{OVERFLOW} is no user's own number"),
            hint,
        );
    }
    for (i, _) in uids.iter().enumerate().filter(|(_, uid)| **uid == u32::MAX) {
        let hint = "it is (uid_t)-1, by which system calls say \"no user\": write the number that `id -u USER` prints";
        problems.problem(
            format!("{key}[{i}]"),
            format!("{} is the number of no user", u32::MAX),
            hint,
        );
    }
}

/// Two listeners cannot have one address.
pub fn duplicates(
    proxy: &[ListenAddress],
    admin: &ListenAddress,
    metrics: Option<SocketAddr>,
    problems: &mut Problems,
) {
    let data = proxy
        .iter()
        .enumerate()
        .map(|(i, listen)| (format!("proxy.listen[{i}]"), listen.clone()));
    let others = [
        ("admin.listen".to_owned(), Some(admin.clone())),
        ("metrics.listen".to_owned(), metrics.map(ListenAddress::Tcp)),
    ];
    let others = others
        .into_iter()
        .filter_map(|(key, address)| Some((key, address?)));
    let all: Vec<_> = data.chain(others).collect();
    for (i, (key, listen)) in all.iter().enumerate() {
        if let Some((first, _)) = all.iter().take(i).find(|(_, other)| collide(other, listen)) {
            problems.problem(
                key.as_str(),
                format!("the same address as {first}"),
                "give each listener a port of its own",
            );
        }
    }
}

fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let one_covers =
                a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
            a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || one_covers)
        }
        (a, b) => a == b,
    }
}

/// Whether `host:port`, as an upstream's url names it, leads to one of our own listeners.
#[must_use]
pub fn is_ours(host: &str, port: u16, ours: &[SocketAddr]) -> Option<SocketAddr> {
    let asked: Option<IpAddr> = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    ours.iter()
        .copied()
        .filter(|address| address.port() == port && port != 0)
        .find(|address| {
            let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
            let ip = address.ip().to_canonical();
            match asked {
                Some(asked) => {
                    asked == ip
                        || (asked.is_unspecified() && local(ip))
                        || (ip.is_unspecified() && local(asked))
                }
                None => net::is_localhost(host) && local(ip),
            }
        })
}
