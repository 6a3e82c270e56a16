//! Sockets to listen on: TCP and Unix, ready before anything is served.

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcp},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
        unix::net::UnixListener as StdUnix,
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use tokio::net::{TcpListener, UnixListener};

use super::client::Client;
use crate::logging::OncePerMinute;

/// Connections the kernel may keep for us.
const BACKLOG: i32 = 4096;

/// Who may connect to a Unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers(Vec<u32>);

impl Peers {
    /// Programs of these users; none: the mode of the socket's file decides, which lets nobody in
    /// but our own user.
    #[must_use]
    pub fn new(uids: &[u32]) -> Self {
        Self(uids.to_vec())
    }

    fn mode(&self) -> u32 {
        // With a list the kernel's word on each peer decides (SO_PEERCRED), not who may write to
        // the file.
        if self.0.is_empty() { 0o600 } else { 0o666 }
    }

    fn lets_in(&self, uid: u32) -> bool {
        self.0.is_empty() || self.0.contains(&uid)
    }
}

/// Where to listen, or where it is listened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(a) => a.fmt(f),
            Self::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    /// Which one.
    pub address: Address,
    /// What the system says: in use, no permission, no such interface, no such folder.
    #[source]
    pub error: io::Error,
}

/// A socket that accepts.
#[derive(Debug)]
pub struct Bound {
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// Its file goes with it.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "its drop removes the file")] SocketFile,
        Peers,
    ),
}

/// The file of a Unix socket that listens: removed when this is dropped, unless another has taken
/// its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    ours: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            ours: (meta.dev(), meta.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds all of them, or none. Where the host has no IPv6, `[::]` is `0.0.0.0`, and another IPv6
/// address is skipped if one is left.
///
/// # Errors
/// [`BindError`] for the first address that cannot be used.
pub fn bind(addresses: &[Address]) -> Result<Vec<Bound>, BindError> {
    bind_for(addresses, &Peers::default())
}

/// Binds all of them, or none, as [`bind`] does; Unix sockets among them are for these peers.
///
/// # Errors
/// [`BindError`] for the first address that cannot be used.
pub fn bind_for(addresses: &[Address], peers: &Peers) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    let mut skipped = None;
    for address in addresses {
        match one(address, addresses, peers) {
            Ok(bound) => all.push(bound),
            Err(error) if matches!(address, Address::Tcp(a) if absent(*a, &error)) => {
                tracing::info!(%address, "skipped: this host has no IPv6");
                skipped = Some(BindError {
                    address: address.clone(),
                    error,
                });
            }
            Err(error) => {
                return Err(BindError {
                    address: address.clone(),
                    error,
                });
            }
        }
    }
    match skipped {
        Some(e) if all.is_empty() => Err(e),
        _ => Ok(all),
    }
}

/// A listener for whoever accepts by himself. Where the host has no IPv6, `[::]` is `0.0.0.0`.
///
/// # Errors
/// The address cannot be used: another program has it, the host has no such interface, or the port
/// is not for this user.
pub fn plain(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(tcp(address, &[])?)
}

/// A Unix socket with this mode for whoever accepts by himself, and its file. What nobody listens
/// on any more is replaced.
///
/// # Errors
/// The path cannot be used: somebody listens there, or there is something that is no socket.
pub fn plain_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let listener = UnixListener::from_std(unix(path, mode)?)?;
    Ok((listener, SocketFile::at(path)?))
}

impl Bound {
    /// Where it really listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                Ok(Client::Tcp(tcp))
            }
            Socket::Unix(listener, _, peers) => {
                let (unix, _) = listener.accept().await?;
                let uid = unix.peer_cred()?.uid();
                if !peers.lets_in(uid) {
                    static REFUSED: OncePerMinute = OncePerMinute::new();
                    if let Some(times) = REFUSED.note() {
                        tracing::warn!(
                            uid,
                            times,
                            "a connection of a user that is not in proxy.peer_uids was closed; told once a minute"
                        );
                    }
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Ok(Client::Unix(unix))
            }
        }
    }
}

fn one(address: &Address, all: &[Address], peers: &Peers) -> io::Result<Bound> {
    match address {
        Address::Tcp(a) => {
            let listener = TcpListener::from_std(tcp(*a, all)?)?;
            Ok(Bound {
                address: Address::Tcp(listener.local_addr()?),
                socket: Socket::Tcp(listener),
            })
        }
        Address::Unix(path) => {
            let (listener, file) = plain_unix(path, peers.mode())?;
            Ok(Bound {
                address: address.clone(),
                socket: Socket::Unix(listener, file, peers.clone()),
            })
        }
    }
}

/// Where the host has no IPv6, `[::]` is `0.0.0.0`.
fn tcp(address: SocketAddr, all: &[Address]) -> io::Result<StdTcp> {
    match exactly(address, all) {
        Err(error) if absent(address, &error) => {
            let v4 = instead(address, all).ok_or(error)?;
            tracing::info!(%address, instead = %v4, "this host has no IPv6");
            exactly(v4, all)
        }
        made => made,
    }
}

fn exactly(address: SocketAddr, all: &[Address]) -> io::Result<StdTcp> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let fd = socket(family)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // `[::]` takes IPv4 as well, unless that has a listener of its own.
    if address.is_ipv6()
        && all
            .iter()
            .any(|a| matches!(a, Address::Tcp(o) if o.is_ipv4() && o.port() == address.port()))
    {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd.into())
}

/// The file gets its mode before anyone can connect.
fn unix(path: &Path, mode: u32) -> io::Result<StdUnix> {
    remove_stale(path)?;
    let fd = socket(AddressFamily::UNIX)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd.into())
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Removes a socket nobody listens on any more; anything else in its place is an error. Only a
/// refusal shows that nobody listens: a listener whose queue is full, one of another kind and one
/// that is not for us are somebody's.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match rustix::net::connect(&socket(AddressFamily::UNIX)?, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        _ => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}

/// `[::]` means every address of this host: without IPv6 those are the IPv4 ones, unless they have
/// a listener of their own.
fn instead(address: SocketAddr, all: &[Address]) -> Option<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    (address.is_ipv6() && address.ip().is_unspecified() && !all.contains(&Address::Tcp(v4)))
        .then_some(v4)
}

fn absent(address: SocketAddr, error: &io::Error) -> bool {
    let none = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    address.is_ipv6()
        && error
            .raw_os_error()
            .is_some_and(|c| none.iter().any(|n| n.raw_os_error() == c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_0_is_replaced_by_the_one_that_was_given() {
        let all = bind(&[Address::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        assert!(matches!(all[0].address(), Address::Tcp(a) if a.port() != 0));
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_it() {
        let first = bind(&[Address::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
        let again = bind(&[first[0].address().clone()]).unwrap_err();
        assert_eq!(again.address, *first[0].address());
        assert_eq!(again.error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn an_ipv4_and_an_ipv6_listener_may_share_a_port() {
        let first = bind(&[Address::Tcp("0.0.0.0:0".parse().unwrap())]).unwrap();
        let Address::Tcp(taken) = first[0].address().clone() else {
            unreachable!()
        };
        drop(first);
        let both = [
            Address::Tcp(taken),
            Address::Tcp(SocketAddr::new("::".parse().unwrap(), taken.port())),
        ];
        assert!(!bind(&both).unwrap().is_empty());
    }

    #[test]
    fn without_ipv6_every_address_means_every_one_of_ipv4() {
        let at = |a: &str| a.parse::<SocketAddr>().unwrap();
        assert_eq!(instead(at("[::]:80"), &[]), Some(at("0.0.0.0:80")));
        assert_eq!(
            instead(at("[::]:80"), &[Address::Tcp(at("0.0.0.0:80"))]),
            None
        );
        assert_eq!(
            instead(at("[::1]:80"), &[]),
            None,
            "loopback is not everybody"
        );
    }

    #[tokio::test]
    async fn with_a_list_the_kernel_s_word_on_the_peer_decides() {
        let folder = tempfile::tempdir().unwrap();
        let me = rustix::process::getuid().as_raw();
        for (name, uids, lets_in) in [
            ("mine", vec![me, 4242], true),
            ("theirs", vec![me.wrapping_add(1)], false),
        ] {
            let path = folder.path().join(name);
            let bound = bind_for(&[Address::Unix(path.clone())], &Peers::new(&uids)).unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o666
            );
            let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            assert_eq!(bound[0].accept().await.is_ok(), lets_in, "{name}");
        }
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(StdUnix::bind(&path).unwrap());
        let live = bind(&[Address::Unix(path.clone())]).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            bind(&[Address::Unix(path.clone())])
                .unwrap_err()
                .error
                .kind(),
            io::ErrorKind::AddrInUse
        );
        drop(live);
        assert!(!path.exists());
        // A live one whose queue is full refuses nobody, and one of another kind says so.
        let full = socket(AddressFamily::UNIX).unwrap();
        rustix::net::bind(&full, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let queued: Vec<_> = (0..4)
            .map(|_| socket(AddressFamily::UNIX).unwrap())
            .collect();
        let waits = |fd: &OwnedFd| {
            rustix::net::connect(fd, &SocketAddrUnix::new(&path).unwrap()) == Err(Errno::AGAIN)
        };
        assert!(queued.iter().any(waits));
        assert_eq!(
            bind(&[Address::Unix(path.clone())])
                .unwrap_err()
                .error
                .kind(),
            io::ErrorKind::AddrInUse
        );
        fs::remove_file(&path).unwrap();
        let _datagram = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert_eq!(
            bind(&[Address::Unix(path.clone())])
                .unwrap_err()
                .error
                .kind(),
            io::ErrorKind::AddrInUse
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&[Address::Unix(path.clone())]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
