//! What only a restart brings into effect.

use std::{net::SocketAddr, path::PathBuf};

use crate::config::{AdminConfig, Config, ListenAddress, LogConfig, ProxyConfig};

/// What is read once, at start.
pub(super) struct StartSettings {
    listen: Vec<ListenAddress>,
    peers: Vec<u32>,
    workers: usize,
    admin: ListenAddress,
    /// The mode of the socket's file depends on whether there are any.
    admin_uids: bool,
    metrics: Option<SocketAddr>,
    state: Option<PathBuf>,
    json: bool,
}

impl StartSettings {
    pub(super) fn from_config(config: &Config) -> Self {
        // Each field, in or out by decision. Out is what every request or every keeper takes from
        // the snapshot that runs.
        let Config {
            proxy,
            admin,
            metrics,
            log,
            state,
            reload: _,
            credentials: _,
            upstreams: _,
            rules: _,
            file: _,
            files: _,
        } = config;
        let ProxyConfig {
            listen,
            allow_remote: _, // Only a permission for `listen`.
            peer_uids,
            client_auth: _,
            workers,
            linger: _,
            drain: _,
            via: _,
            hosts: _,
            browser_deny: _,
            access_log: _,
            limits: _,
        } = proxy;
        let AdminConfig {
            listen: admin,
            uids,
            auth: _,
            ready: _,
            hosts: _,
        } = admin;
        let LogConfig { json, level: _ } = log;
        Self {
            listen: listen.clone(),
            peers: peer_uids.clone(),
            workers: *workers,
            admin: admin.clone(),
            admin_uids: !uids.is_empty(),
            metrics: *metrics,
            state: state.clone(),
            json: *json,
        }
    }

    /// The keys in which the two differ.
    pub(super) fn changed_keys(&self, other: &Self) -> Vec<&'static str> {
        let changed = [
            ("proxy.listen", self.listen != other.listen),
            ("proxy.peer_uids", self.peers != other.peers),
            ("proxy.workers", self.workers != other.workers),
            ("admin.listen", self.admin != other.admin),
            ("admin.uids", self.admin_uids != other.admin_uids),
            ("metrics.listen", self.metrics != other.metrics),
            ("state.dir", self.state != other.state),
            ("log.format", self.json != other.json),
        ];
        changed
            .into_iter()
            .filter_map(|(key, changed)| changed.then_some(key))
            .collect()
    }
}
