//! What systemd is told (sd_notify(3)): ready, reloading, stopping, alive. Nothing where nobody
//! asked for it.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The service manager's socket. Telling never fails: who does not listen misses it.
#[derive(Clone, Default)]
pub struct ServiceManager(Option<std::sync::Arc<(UnixDatagram, SocketAddr)>>);

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names: a path, or `@` and a name in the abstract namespace.
    /// Other forms (vsock) are for virtual machines.
    #[must_use]
    pub fn from_socket(notify_socket: Option<&str>) -> Self {
        let Some(name) = notify_socket.filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match open_socket(name) {
            Ok(open) => Self(Some(open.into())),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET is set, but cannot be used");
                Self::default()
            }
        }
    }

    /// All ports accept.
    pub fn ready(&self) {
        self.send_state("READY=1");
    }

    /// A reload begins. [`ServiceManager::ready`] ends it. The time is what `Type=notify-reload` asks for.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send_state(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// No new requests; open ones are finished.
    pub fn stopping(&self) {
        self.send_state("STOPPING=1");
    }

    /// Tells for ever, every `interval`, that this runtime still turns.
    pub async fn keep_alive(self, interval: Duration) {
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.send_state("WATCHDOG=1");
        }
    }

    fn send_state(&self, state: &str) {
        if let Some(open) = &self.0 {
            // Full or gone: a manager that does not read is not waited for.
            let _ = open.0.send_to_addr(state.as_bytes(), &open.1);
        }
    }
}

fn open_socket(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// How often to tell that we live: half of what the manager waits (`WATCHDOG_USEC`). `None`: it
/// does not wait for this process.
#[must_use]
pub fn watchdog_interval(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(std::process::id())) {
        return None;
    }
    usec?
        .parse()
        .ok()
        .filter(|usec| *usec > 1)
        .map(|usec: u64| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("cupbearer-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let ends = [
            (
                path.to_str().unwrap().to_owned(),
                UnixDatagram::bind(&path).unwrap(),
            ),
            (
                format!("@{name}"),
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
            ),
        ];
        for (name, end) in ends {
            let manager = ServiceManager::from_socket(Some(&name));
            manager.reloading();
            let mut bytes = [0; 128];
            let n = end.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..n]).unwrap();
            let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0, "{text}");
        }
    }

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        for name in [None, Some(""), Some("vsock:2:1"), Some("relative")] {
            assert!(ServiceManager::from_socket(name).0.is_none(), "{name:?}");
        }
    }

    #[test]
    fn a_watchdog_for_another_process_is_none_of_ours() {
        let me = std::process::id().to_string();
        assert_eq!(
            watchdog_interval(Some("2000000"), None),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            watchdog_interval(Some("2000000"), Some(&me)),
            Some(Duration::from_secs(1))
        );
        for (usec, pid) in [
            (None, None),
            (Some("0"), None),
            (Some("x"), None),
            (Some("2000000"), Some("1")),
            (Some("2000000"), Some("x")),
        ] {
            assert_eq!(watchdog_interval(usec, pid), None, "{usec:?} {pid:?}");
        }
    }
}
