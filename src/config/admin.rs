//! `[admin]`: where the admin port is, and who may change something there.

use super::{
    AdminConfig, ListenAddress,
    file::AdminTable,
    listen,
    parse::{ParseContext, hosts},
};
use crate::document::Problems;

/// The table as the program runs on it. It is of use only where no fatal problem was noted.
pub fn parse(table: AdminTable, context: ParseContext<'_>, problems: &mut Problems) -> AdminConfig {
    let listen = listen::parse("admin.listen", &table.listen, context, problems)
        .unwrap_or(ListenAddress::Tcp(listen::STANDARD_ADMIN));
    if let ListenAddress::Tcp(address) = &listen
        && !address.ip().is_loopback()
    {
        let hint = "it can refresh and unlatch: keep it on 127.0.0.1 or [::1], or write \"unix:PATH\"; for scrapers and kubelet there is [metrics]";
        problems.problem("admin.listen", format!("{address} is not loopback"), hint);
    }
    listen::uids("admin.uids", &table.uids, problems);
    if !table.uids.is_empty() && matches!(listen, ListenAddress::Tcp(_)) {
        let hint = "only the peer of a Unix socket has a user: set admin.listen = \"unix:PATH\", or admin.auth for a port";
        problems.problem(
            "admin.uids",
            "there is no Unix socket it could hold for",
            hint,
        );
    }
    let auth = context.secrets("admin.auth", table.auth, "no token would do", problems);
    AdminConfig {
        listen,
        auth: auth.into_iter().map(|(_, source)| source).collect(),
        uids: table.uids,
        ready: table.ready,
        hosts: hosts("admin.hosts", table.hosts, problems),
    }
}
