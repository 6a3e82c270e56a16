//! Where and how to connect: one address of an upstream, with its timeouts, its TLS, and its place
//! in the pool.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{chosen::Speaks, patient::Patient};
use crate::{
    files::{ClockReading, LOOK_PATIENCE, LookPermit, LookResult, LookTimes, WatchedValue},
    lock::Lock,
    logging::OncePerMinute,
    tls::Tls,
    upstream::Upstream,
};
use pingora_core::{
    protocols::{ALPN, TcpKeepalive, tls::CaType},
    upstreams::peer::HttpPeer,
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use rustls::RootCertStore;

/// Certificate and key files are looked at again after this; only new connections notice.
const FRESH: Duration = Duration::from_secs(10);
const SILENT: &str = "its tls files do not answer, or cannot be parsed";
static UNUSABLE: OncePerMinute = OncePerMinute::new();
/// HTTP/2 streams on one connection.
const STREAMS: usize = 100;

/// What the files of `tls` tables hold, in pingora's types, parsed once for as long as they stay
/// the same.
#[derive(Default)]
pub struct Trust {
    known: Lock<HashMap<Tls, Arc<WatchedValue<Identity>>>>,
}

/// Who is trusted and who we are, on connections to one upstream.
#[derive(Default)]
pub struct Identity {
    /// `None`: the platform's certificates.
    ca: Option<Arc<CaType>>,
    cert: Option<Arc<CertKey>>,
    /// Over all of it: connections made with another identity are not reused.
    digest: u64,
}

impl Trust {
    /// Who is trusted and who we are where this `tls` table says so; the files are looked at again
    /// after 10 s, and their last good state goes on while they cannot be used.
    ///
    /// # Errors
    /// In words: files that cannot be read or used, where there is no last good state.
    pub async fn identity(&self, tls: &Tls) -> Result<Arc<Identity>, String> {
        if tls.ca_file.is_none() && !tls.ca_only && tls.client_cert_file.is_none() {
            return Ok(Arc::default());
        }
        let known = self.known.lock().entry(tls.clone()).or_default().clone();
        let times = LookTimes {
            fresh: FRESH,
            // Where there is something to go on with, nobody waits while another looks.
            patience: Duration::ZERO,
            first: LOOK_PATIENCE,
        };
        let table = tls.clone();
        let looked = known.refresh(times, move |permit, last| look(&table, permit, last));
        let why = match looked.await {
            LookResult::Value(identity) => return Ok(identity),
            LookResult::Busy => return known.last().ok_or_else(|| SILENT.to_owned()),
            LookResult::Silent => SILENT.to_owned(),
            LookResult::Unusable(why) => why,
        };
        let Some(last) = known.last() else {
            return Err(why);
        };
        if let Some(times) = UNUSABLE.note() {
            tracing::warn!(%why, times, "tls files of an upstream cannot be used; going on with what was read before");
        }
        known.keep_in_use(Some(last.clone()));
        Ok(last)
    }
}

/// Looks at the files, for a thread that may block. What is being written is left alone, unless
/// there is nothing else.
fn look(
    tls: &Tls,
    permit: &mut LookPermit,
    last: Option<Arc<Identity>>,
) -> Result<Arc<Identity>, String> {
    let files: Vec<PathBuf> = tls.files().into_iter().map(Path::to_path_buf).collect();
    permit
        .load_settled(&files, ClockReading::now(), || load(tls, last.clone()))
        .or_else(|| last.map(Ok))
        .unwrap_or_else(|| load(tls, None))
}

fn load(tls: &Tls, last: Option<Arc<Identity>>) -> Result<Arc<Identity>, String> {
    let material = tls.load()?;
    let mut hasher = DefaultHasher::new();
    for root in &material.roots {
        root.as_ref().hash(&mut hasher);
    }
    if let Some(own) = &material.identity {
        own.chain.iter().for_each(|c| c.as_ref().hash(&mut hasher));
        own.key.secret_der().hash(&mut hasher);
    }
    let digest = hasher.finish().max(1);
    if let Some(last) = last.filter(|l| l.digest == digest) {
        return Ok(last);
    }
    // A platform's store may hold what webpki does not take; pingora would then refuse to connect
    // at all.
    let usable = material
        .roots
        .iter()
        .filter(|c| RootCertStore::empty().add((*c).clone()).is_ok());
    let usable = usable.filter(|c| x509_parser::parse_x509_certificate(c).is_ok());
    let ca = (tls.ca_file.is_some() || tls.ca_only).then(|| {
        usable
            .map(|c| WrappedX509::new(c.to_vec(), parse_x509))
            .collect::<Arc<CaType>>()
    });
    if ca.as_ref().is_some_and(|ca| ca.is_empty()) {
        return Err("there is no certificate to trust".to_owned());
    }
    let cert = material
        .identity
        .filter(|own| !own.chain.is_empty())
        .map(|own| {
            let chain = own.chain.iter().map(|c| c.to_vec()).collect();
            Arc::new(CertKey::new(chain, own.key.secret_der().to_vec()))
        });
    Ok(Arc::new(Identity { ca, cert, digest }))
}

/// The peer for one try.
#[must_use]
pub fn peer(
    upstream: &Upstream,
    address: SocketAddr,
    identity: &Identity,
    speaks: Speaks,
) -> HttpPeer {
    // Each field, in or out of what connections are told apart by. Out: what a request reads and a
    // connection does not know (`credential`, `replay`, `rewrite_location`, `redirects_to`, the
    // pool's own sizes); and `port` and `tls` of the target, which pingora compares itself.
    let Upstream {
        name: upstream_name,
        target,
        credential: _,
        replay: _,
        rewrite_location: _,
        redirects_to: _,
        http2,
        timeouts,
        pool,
        tls:
            Tls {
                ca_file: _,
                ca_only: _,
                server_name,
                client_cert_file: _,
                client_key_file: _,
            }, // Files: their contents are in the identity.
    } = upstream;
    // Never empty: without a name pingora would not know what to verify.
    let name = server_name.as_ref().unwrap_or(&target.host);
    // A socket address is no name: nothing is looked up here.
    let mut peer = HttpPeer::new(
        address,
        target.tls,
        if target.tls {
            name.clone()
        } else {
            String::new()
        },
    );
    let alpn = match (*http2, speaks, target.tls) {
        (true, Speaks::Grpc, _) => ALPN::H2,
        (true, Speaks::Http, true) => ALPN::H2H1,
        _ => ALPN::H1,
    };
    let mut hasher = DefaultHasher::new();
    (
        upstream_name,
        identity.digest,
        speaks == Speaks::Upgrade,
        &target.host,
        alpn.get_max_http_version(),
        alpn.get_min_http_version(),
    )
        .hash(&mut hasher);
    peer.group_key = hasher.finish();
    peer.client_cert_key.clone_from(&identity.cert);
    let options = &mut peer.options;
    options.alpn = alpn;
    if speaks == Speaks::Upgrade {
        options.custom_l4 = Some(Arc::new(Patient(timeouts.connect)));
    }
    options.ca.clone_from(&identity.ca);
    options.verify_cert = true;
    options.verify_hostname = true;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = Some(timeouts.read);
    options.write_timeout = Some(timeouts.read);
    options.idle_timeout = Some(pool.idle);
    options.max_h2_streams = STREAMS;
    // Also finds out that the other side of a long, silent stream is gone.
    let (idle, interval) = (Duration::from_mins(1), Duration::from_secs(15));
    options.tcp_keepalive = Some(TcpKeepalive {
        idle,
        interval,
        count: 3,
        user_timeout: Duration::ZERO,
    });
    peer
}

#[cfg(test)]
mod tests {
    use crate::clock::BootInstant;
    use std::path::PathBuf;

    use super::*;
    use crate::{
        route::UpstreamUrl,
        upstream::{ReplayPolicy, UpstreamPool, UpstreamTimeouts},
    };

    fn upstream(tls: Tls) -> Upstream {
        Upstream {
            name: "a".into(),
            target: UpstreamUrl {
                tls: true,
                host: "api.test".into(),
                port: 443,
                base: String::new(),
            },
            credential: None,
            replay: ReplayPolicy::Any,
            rewrite_location: true,
            redirects_to: Vec::new(),
            http2: true,
            timeouts: UpstreamTimeouts::default(),
            pool: UpstreamPool::default(),
            tls,
        }
    }

    /// A certificate for this name and its key, each put in its place whole.
    fn written(folder: &tempfile::TempDir, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        for (path, text) in [
            (&cert, made.cert.pem()),
            (&key, made.signing_key.serialize_pem()),
        ] {
            crate::files::replace_file(path, text.as_bytes()).unwrap();
        }
        (cert, key)
    }

    #[test]
    fn a_peer_verifies_and_has_every_timeout() {
        let made = peer(
            &upstream(Tls::default()),
            "127.0.0.1:1".parse().unwrap(),
            &Identity::default(),
            Speaks::Http,
        );
        assert_eq!(made.sni, "api.test");
        let o = &made.options;
        assert!(o.verify_cert && o.verify_hostname && o.ca.is_none());
        assert!(
            [
                o.connection_timeout,
                o.total_connection_timeout,
                o.read_timeout,
                o.write_timeout,
                o.idle_timeout
            ]
            .iter()
            .all(Option::is_some)
        );
        let named = upstream(Tls {
            server_name: Some("other.test".into()),
            ..Tls::default()
        });
        assert_eq!(
            peer(
                &named,
                "127.0.0.1:1".parse().unwrap(),
                &Identity::default(),
                Speaks::Http
            )
            .sni,
            "other.test"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_client_certificate_is_noticed_and_gets_connections_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = written(&folder, "one.test");
        let tls = Tls {
            ca_file: Some(cert.clone()),
            client_cert_file: Some(cert.clone()),
            client_key_file: Some(key),
            ..Tls::default()
        };
        let trust = Trust::default();
        let first = trust.identity(&tls).await.unwrap();
        assert!(first.ca.is_some() && first.cert.is_some());
        tokio::time::advance(FRESH * 2).await;
        assert!(
            Arc::ptr_eq(&first, &trust.identity(&tls).await.unwrap()),
            "unchanged files are not parsed again"
        );
        written(&folder, "two.test");
        tokio::time::advance(FRESH * 2).await;
        let second = trust.identity(&tls).await.unwrap();
        let key = |identity| {
            peer(
                &upstream(tls.clone()),
                "127.0.0.1:1".parse().unwrap(),
                identity,
                Speaks::Http,
            )
            .group_key
        };
        assert_ne!(key(&first), key(&second));
        std::fs::remove_file(cert).unwrap();
        tokio::time::advance(FRESH * 2).await;
        assert!(
            Arc::ptr_eq(&second, &trust.identity(&tls).await.unwrap()),
            "the last good one stays"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_its_files_hang_requests_go_on_with_what_was_read_or_fail_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, _) = written(&folder, "one.test");
        let tls = Tls {
            ca_file: Some(cert),
            ..Tls::default()
        };
        let trust = Trust::default();
        let first = trust.identity(&tls).await.unwrap();
        tokio::time::advance(FRESH * 2).await;
        // As a look does that never ends.
        let hung = trust.known.lock()[&tls].hang();
        let began = BootInstant::now();
        for _ in 0..1000 {
            assert!(Arc::ptr_eq(&first, &trust.identity(&tls).await.unwrap()));
        }
        assert!(
            began.until(BootInstant::now()) < Duration::from_millis(1),
            "nobody waits"
        );
        drop(hung);
        let new = Trust::default();
        let known = new.known.lock().entry(tls.clone()).or_default().clone();
        let hung = known.hang();
        let refused = futures_util::future::join_all((0..1000).map(|_| new.identity(&tls))).await;
        assert!(
            refused
                .iter()
                .all(|refused| refused.as_ref().is_err_and(|why| why == SILENT))
        );
        assert_eq!(
            began.until(BootInstant::now()).as_secs(),
            LOOK_PATIENCE.as_secs()
        );
        drop(hung);
        let all = futures_util::future::join_all((0..100).map(|_| new.identity(&tls))).await;
        assert!(
            all.iter()
                .all(|one| Arc::ptr_eq(one.as_ref().unwrap(), all[0].as_ref().unwrap())),
            "one look serves all who waited"
        );
    }
}
