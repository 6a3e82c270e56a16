//! A data port on real sockets, and scripted vendors.

use crate::support::wait::until;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use cupbearer::{
    config::{AdminConfig, Config, ListenAddress, LogConfig, ProxyConfig, Ready, RequestLimits},
    listen::{self, Address, Handle},
    phase::{Phase, PhaseControl},
    proxy,
    route::{RouteRule, Router, UpstreamUrl},
    snapshot::{ServedUpstream, Snapshot},
    telemetry::Metrics,
    tls::Tls,
    upstream::{ReplayPolicy, Upstream, UpstreamPool, UpstreamTimeouts},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

pub const SECOND: Duration = Duration::from_secs(1);

/// A vendor that answers every connection's requests with the next script line, and remembers what
/// it read.
pub struct Vendor {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Vendor {
    /// `answer` gets the request's number; the connection is closed after an answer that ends in
    /// `CLOSE`.
    pub async fn start(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (all, answer) = (all.clone(), answer.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_message(&mut socket).await {
                        let n = {
                            let mut all = all.lock().unwrap();
                            all.push(request.clone());
                            all.len()
                        };
                        let reply = answer(n, &request);
                        match reply.strip_suffix(b"CLOSE") {
                            Some(reply) => {
                                let _ = socket.write_all(reply).await;
                                return;
                            }
                            None => socket.write_all(&reply).await.unwrap(),
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// One HTTP/1 message with its body; `None` at the end of the stream.
pub async fn read_message(socket: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    let head = loop {
        if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&all[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .and_then(|v| v.parse::<usize>().ok());
    let bodiless = text.starts_with("http/1.1 204")
        || text.starts_with("http/1.1 101")
        || text.starts_with("http/1.1 1");
    loop {
        let done = match length {
            _ if bodiless => true,
            Some(n) => all.len() >= head + n,
            None if text.contains("transfer-encoding: chunked") => all.ends_with(b"0\r\n\r\n"),
            None => true,
        };
        if done {
            return Some(String::from_utf8_lossy(&all).into_owned());
        }
        if socket.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

pub struct Port {
    pub handle: Handle,
    pub phase: PhaseControl,
    pub address: SocketAddr,
    pub metrics: Metrics,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
}

pub fn limits() -> RequestLimits {
    RequestLimits {
        connections: 100,
        ..RequestLimits::DEFAULT
    }
}

pub fn upstream(name: &str, address: SocketAddr) -> (Upstream, RouteRule) {
    let target = UpstreamUrl {
        tls: false,
        host: address.ip().to_string(),
        port: address.port(),
        base: "/v2".into(),
    };
    let upstream = Upstream {
        name: name.into(),
        target: target.clone(),
        credential: None,
        replay: ReplayPolicy::Any,
        rewrite_location: true,
        redirects_to: Vec::new(),
        http2: true,
        timeouts: UpstreamTimeouts {
            connect: SECOND,
            read: SECOND,
            token: SECOND,
        },
        pool: UpstreamPool {
            idle: SECOND,
            connections: 8,
            ..UpstreamPool::default()
        },
        tls: Tls::default(),
    };
    let rule = RouteRule {
        path: Some(format!("/{name}")),
        strip_path: true,
        hosts: vec![format!("{name}.localhost")],
        forward: true,
        url: target,
    };
    (upstream, rule)
}

pub fn snapshot(
    upstreams: Vec<(Upstream, RouteRule)>,
    change: impl FnOnce(&mut Config),
) -> Snapshot {
    let (upstreams, rules): (Vec<_>, Vec<_>) = upstreams.into_iter().unzip();
    let mut config = Config {
        proxy: ProxyConfig {
            listen: vec![ListenAddress::Tcp("127.0.0.1:14180".parse().unwrap())],
            allow_remote: false,
            peer_uids: vec![],
            client_auth: vec![],
            workers: 0,
            linger: Duration::ZERO,
            drain: SECOND * 5,
            via: None,
            hosts: Vec::new(),
            browser_deny: true,
            access_log: true,
            limits: limits(),
        },
        admin: AdminConfig {
            listen: ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()),
            auth: Vec::new(),
            uids: Vec::new(),
            ready: Ready::Started,
            hosts: Vec::new(),
        },
        metrics: None,
        log: LogConfig {
            json: false,
            level: tracing::Level::INFO,
        },
        state: None,
        reload: None,
        credentials: BTreeMap::new(),
        upstreams: upstreams.clone(),
        rules: rules.clone(),
        file: None,
        files: BTreeMap::new(),
    };
    change(&mut config);
    let upstreams = upstreams
        .into_iter()
        .map(|u| ServedUpstream {
            upstream: Arc::new(u),
            credential: None,
        })
        .collect();
    Snapshot {
        config,
        router: Router::new(rules),
        upstreams,
        credentials: BTreeMap::new(),
        generation: 1,
    }
}

pub fn port_on(address: Address, snapshot: Snapshot) -> Port {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let metrics = Metrics::new().unwrap();
    let sockets = listen::bind(&[address]).unwrap();
    let phase = PhaseControl::default();
    let front = proxy::front(snapshot.clone(), metrics.clone());
    let handle = listen::serve(sockets, front, &phase.watch());
    let address = match &handle.addresses()[0] {
        Address::Tcp(a) => *a,
        Address::Unix(_) => "127.0.0.1:1".parse().unwrap(),
    };
    Port {
        handle,
        phase,
        address,
        metrics,
        snapshot,
    }
}

pub fn port(upstreams: Vec<(Upstream, RouteRule)>, change: impl FnOnce(&mut Config)) -> Port {
    port_on(
        Address::Tcp("127.0.0.1:0".parse().unwrap()),
        snapshot(upstreams, change),
    )
}

impl Port {
    /// Ends it in order: true if nothing had to be cut off within `patience`.
    pub async fn drain(self, patience: Duration) -> bool {
        self.phase.advance(Phase::Draining);
        self.handle.finish(patience).await
    }

    /// Sends raw bytes on a new connection and reads one answer.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes.as_ref()).await.unwrap();
        timeout(SECOND * 5, read_message(&mut socket))
            .await
            .expect("an answer in time")
            .unwrap_or_default()
    }
    pub async fn get(&self, target: &str, headers: &str) -> String {
        self.raw(format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
            self.address
        ))
        .await
    }
    /// Waits until a line of /metrics is so: a request is counted once its answer is gone.
    pub async fn counts(&self, line: &str) {
        until(line, async || self.text().contains(&format!("{line}\n"))).await;
    }
    pub fn text(&self) -> String {
        String::from_utf8(self.metrics.render(&[], &[])).unwrap()
    }
}

pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0)
}

pub fn code(answer: &str) -> String {
    let body: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default())
            .unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

pub fn ok(_: usize, _: &str) -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec()
}
