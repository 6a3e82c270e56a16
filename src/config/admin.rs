//! `[admin]`: where the admin port is, and who may change something there.

use super::{
    Admin, Listen, Ready, file, lint, listen,
    parse::{World, hosts},
};
use crate::problem::Problems;

/// The table as the program runs on it. It is of use only where no fatal problem was noted.
pub fn parse(admin: file::Admin, world: World<'_>, problems: &mut Problems) -> Admin {
    let standard = Listen::Tcp(listen::STANDARD_ADMIN);
    let listen = admin
        .listen
        .map_or(Some(standard.clone()), |text| {
            listen::parse("admin.listen", &text, world, problems)
        })
        .unwrap_or(standard);
    if let Listen::Tcp(address) = &listen
        && !address.ip().is_loopback()
    {
        let hint = "it can refresh and unlatch: keep it on 127.0.0.1 or [::1], or write \"unix:PATH\"; for scrapers and kubelet there is [metrics]";
        problems.problem("admin.listen", format!("{address} is not loopback"), hint);
    }
    let uids = admin.uids.unwrap_or_default();
    listen::uids("admin.uids", &uids, problems);
    if !uids.is_empty() && matches!(listen, Listen::Tcp(_)) {
        let hint = "only the peer of a Unix socket has a user: set admin.listen = \"unix:PATH\", or admin.auth for a port";
        problems.problem(
            "admin.uids",
            "there is no Unix socket it could hold for",
            hint,
        );
    }
    let written = admin.auth.map(|auth| auth.0);
    if written.as_ref().is_some_and(Vec::is_empty) {
        problems.problem(
            "admin.auth",
            "no token would do",
            "leave the key out, or write { file = \"PATH\" }",
        );
    }
    let single = written.as_ref().is_some_and(|all| all.len() == 1);
    let auth = written
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(i, secret)| {
            let key = if single {
                "admin.auth".to_owned()
            } else {
                format!("admin.auth[{i}]")
            };
            lint::inline(&key, &secret, world, problems);
            lint::secret_file(&key, &secret, world, problems);
            world.source(&key, &secret, problems)
        });
    let auth = auth.collect();
    Admin {
        listen,
        auth,
        uids,
        ready: match admin.ready {
            None | Some(file::Ready::Started) => Ready::Started,
            Some(file::Ready::Accepted) => Ready::Accepted,
            Some(file::Ready::Any) => Ready::Any,
            Some(file::Ready::All) => Ready::All,
        },
        hosts: hosts("admin.hosts", admin.hosts.unwrap_or_default(), problems),
    }
}
