//! A panic is counted and told without what the code was working on.

use cupbearer::logging;
use tokio::{process::Command, time::timeout};

use crate::{
    leaks::{SECRET, TOKEN, clean, needles},
    support::issuer::PATIENCE,
};

/// Run by the test below, in a process of its own: a panic hook belongs to the whole process.
#[test]
fn panic_on_purpose() {
    static COUNTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    if std::env::var_os("PANIC_ON_PURPOSE").is_none() {
        return;
    }
    let volume = logging::install_subscriber(false, tracing::Level::TRACE).unwrap();
    logging::install_panic_hook(|| _ = COUNTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let token = TOKEN.to_owned();
    assert!(std::panic::catch_unwind(|| panic!("in the middle of {token} and {SECRET}")).is_err());
    assert_eq!(COUNTED.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(volume);
    let _ = std::panic::take_hook();
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_panic_is_counted_and_named_by_its_place_alone() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["panics::panic_on_purpose", "--exact", "--nocapture"])
        .env("PANIC_ON_PURPOSE", "1")
        .env("RUST_BACKTRACE", "full")
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed") && told.contains("panics.rs"),
        "{told}"
    );
    clean("a panic", &told, &needles());
}
