//! `unlatch`: lets a credential try once more where no program runs, or none that could be asked
//! ([By hand](crate::promises#by-hand)).

use std::path::Path;

use super::{Exit, complain, load_options, require_usable, say};
use crate::{
    clock::BootInstant, config, credential::unlatch_offline, state::Disk, token::NextAttempt,
};

/// `cupbearer unlatch`. Writes to the state folder as its owner, without the admin port; a program
/// that runs sees it there.
pub fn unlatch(name: &str, file: &Path) -> Exit {
    let (config, problems) = config::load(file, &load_options());
    let config = match require_usable(file, config, &problems, false) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let Some(credential) = config.credentials.get(name) else {
        let near = crate::document::nearest(name, config.credentials.keys().map(|name| &**name));
        let near = near
            .map(|near| format!(": did you mean {near:?}?"))
            .unwrap_or_default();
        complain(format_args!(
            "cupbearer: {} has no credential {name:?}{near}",
            file.display()
        ));
        return Exit::Failed;
    };
    let Some(dir) = config.state else {
        complain(format_args!(
            "cupbearer: without [state] nothing of {name} is on disk: refusals are counted in the memory of the running program alone, where \
             `cupbearer ctl unlatch {name}` reaches them, and a restart forgets them"
        ));
        return Exit::Failed;
    };
    if !dir.exists() {
        complain(format_args!(
            "cupbearer: {} is not there yet, so nothing is counted against {name}",
            dir.display()
        ));
        return Exit::Done;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(format_args!("cupbearer: {e}"));
            return Exit::Failed;
        }
    };
    let ledger = Disk::on_behalf(dir.clone(), || {});
    let next = runtime.block_on(unlatch_offline(
        name,
        &credential.profile,
        &credential.secrets,
        &ledger,
    ));
    match next {
        Ok(NextAttempt::At(at)) if at <= BootInstant::now() => {
            say(&format!("{name}: one attempt may be made now\n"))
        }
        Ok(NextAttempt::At(at)) => say(&format!(
            "{name}: one attempt may be made from {} on\n",
            format_moment(at)
        )),
        Ok(NextAttempt::Latched) => {
            complain(format_args!(
                "cupbearer: {name} is latched all the same, until its secret changes"
            ));
            Exit::Failed
        }
        Ok(NextAttempt::NoMemory) => {
            complain(format_args!(
                "cupbearer: {} cannot be read or written: run this as the user that owns it",
                dir.display()
            ));
            Exit::Failed
        }
        Err(why) => {
            complain(format_args!(
                "cupbearer: {why}: without it there is no telling what the refusals were counted against"
            ));
            Exit::Failed
        }
    }
}

/// To the second, rounded up (RFC 3339).
fn format_moment(at: BootInstant) -> String {
    let seconds = i64::try_from(at.wall().as_secs())
        .unwrap_or(i64::MAX)
        .saturating_add(1);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "an unknown time".to_owned(), |at| at.to_string())
}
