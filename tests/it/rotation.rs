//! Secrets that change while the program runs: read when they are used, never half, and never at
//! the cost of a living token.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Gate, Reply, Request},
};

const CHANGES: &str = "cupbearer_secret_changes_total{credential=\"acme\"}";
const ERRORS: &str = "cupbearer_secret_read_errors_total{credential=\"acme\"}";

struct World {
    tokens: Tokens,
    issuer: Issuer,
    vendor: Vendor,
}

impl World {
    async fn start() -> Self {
        let tokens = Tokens::default();
        let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "acme", "old")]).await;
        let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        Self {
            tokens,
            issuer,
            vendor,
        }
    }

    /// The configuration of `acme`; `secrets` and `more` as TOML.
    fn text(&self, secrets: &str, more: &str) -> String {
        let (issuer, vendor) = (self.issuer.url(), self.vendor.url());
        format!(
            "{PORTS}[upstreams.acme]\nurl = \"{vendor}\"\ncredential = \"acme\"\ntimeouts = {{ token = \"300ms\" }}\n[credentials.acme]\n\
             settings = {{ token_url = \"{issuer}/token\" }}\nsecrets = {secrets}\n{more}"
        )
    }

    fn calls(&self) -> usize {
        self.issuer.calls("/token")
    }

    fn accept_only(&self, secret: &str) {
        self.issuer
            .change("/token", |e| e.secrets = vec![secret.into()]);
    }
}

fn field(request: &Request, name: &str) -> String {
    form_urlencoded::parse(&request.body)
        .find(|(n, _)| n == name)
        .map(|(_, v)| v.into_owned())
        .unwrap_or_default()
}

/// A folder as Kubernetes mounts a secret: `..data` leads to the version, the names lead through
/// it. Made anew, it is swapped in one step.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir_all(&data).unwrap();
    for (name, content) in files {
        fs::write(data.join(name), content).unwrap();
        if fs::symlink_metadata(folder.join(name)).is_err() {
            symlink(format!("..data/{name}"), folder.join(name)).unwrap();
        }
    }
    symlink(format!("..{version}"), folder.join("..tmp")).unwrap();
    fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
}

/// How a secret's file gets its new content.
type Change = fn(&Path, &str);

#[tokio::test(flavor = "multi_thread")]
async fn s9_a_new_secret_is_used_at_the_next_call_and_the_old_token_lives_on_until_then() {
    let replace: Change = |file, content| {
        fs::write(file.with_extension("new"), content).unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
    };
    let in_place: Change = |file, content| fs::write(file, content).unwrap();
    let recreate: Change = |file, content| {
        fs::remove_file(file).unwrap();
        fs::write(file, content).unwrap();
    };
    let swap: Change = |file, content| mount(file.parent().unwrap(), "v2", &[("secret", content)]);
    let plain = "{ client_id = \"acme\", client_secret = { file = \"k/secret\" } }";
    let member = "{ client_id = \"acme\", client_secret = { file = \"k/secret\", json_key = \"/data/0/secret\" } }";
    let nested =
        |secret: &str| json!({ "data": [{ "secret": secret }], "other": secret.len() }).to_string();
    let cases = [
        ("replaced", plain, replace, "new\n".to_owned()),
        ("written in place", plain, in_place, "new".to_owned()),
        (
            "removed and made again",
            plain,
            recreate,
            "new\r\n".to_owned(),
        ),
        ("swapped by ..data", plain, swap, "new\n".to_owned()),
        ("a member of JSON", member, replace, nested("new")),
    ];
    for (name, secrets, change, content) in cases {
        let w = World::start().await;
        let folder = tempfile::tempdir().unwrap();
        let before = if secrets == member {
            nested("old")
        } else {
            "old\n".into()
        };
        mount(folder.path(), "v1", &[("secret", &before)]);
        if name != "swapped by ..data" {
            replace(&folder.path().join("secret"), &before);
        }
        let secrets = secrets.replace("k/", &format!("{}/", folder.path().display()));
        let sidecar = Sidecar::with_files(&w.text(&secrets, ""), &[]).await;
        // A file that was made just now may still be written.
        sidecar.until_get("/acme/x", 200).await;
        w.accept_only("new");
        change(&folder.path().join("secret"), &content);
        sidecar.until_metric(CHANGES, 1.0).await;
        assert_eq!(sidecar.status_of("/acme/x").await, 200, "{name}");
        assert_eq!(
            w.calls(),
            1,
            "{name}: the token is good as long as it lives"
        );
        sidecar.until_refreshed("acme", "access", 2).await;
        assert_eq!(sidecar.status_of("/acme/x").await, 200, "{name}");
        assert_eq!(
            w.vendor.last().header("authorization"),
            Some(&*format!("Bearer {}", w.tokens.all("access")[1])),
            "{name}"
        );
        assert_eq!(w.issuer.refusals(), [""; 0], "{name}");
        assert_eq!(
            (w.calls(), sidecar.metric(CHANGES).await),
            (2, 1.0),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_read_is_told_so_and_heals_by_itself() {
    type Spoil = (&'static str, fn(&Path));
    let spoil: [Spoil; 7] = [
        ("missing", |_| {}),
        ("empty", |file| fs::write(file, "").unwrap()),
        ("only a newline", |file| fs::write(file, "\n").unwrap()),
        ("a directory", |file| fs::create_dir(file).unwrap()),
        ("a link that leads nowhere", |file| {
            symlink("nowhere", file).unwrap();
        }),
        ("not UTF-8", |file| fs::write(file, b"\xff\xfe").unwrap()),
        ("too large", |file| {
            fs::write(file, vec![b'x'; (1 << 20) + 1]).unwrap();
        }),
    ];
    for (name, spoil) in spoil {
        let w = World::start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        spoil(&file);
        let secrets = format!(
            "{{ client_id = \"acme\", client_secret = {{ file = \"{}\" }} }}",
            file.display()
        );
        let sidecar = Sidecar::with_files(&w.text(&secrets, ""), &[]).await;
        let (status, body) = sidecar.refusal("/acme/x").await;
        assert_eq!(
            (status, body["code"].as_str(), body["credential"].as_str()),
            (502, Some("secret_unreadable"), Some("acme")),
            "{name}"
        );
        assert_eq!(
            sidecar.token("acme", "access").await["last_failure"]["class"],
            "secret_unreadable",
            "{name}"
        );
        sidecar.until_metric(ERRORS, 1.0).await;
        assert_eq!(
            w.issuer.seen().len(),
            0,
            "{name}: nothing is sent without its secret"
        );
        if file.is_dir() {
            fs::remove_dir(&file).unwrap();
        }
        fs::write(folder.path().join("good"), "old").unwrap();
        fs::rename(folder.path().join("good"), &file).unwrap();
        sidecar.until_get("/acme/x", 200).await;
        assert_eq!((w.calls(), w.issuer.refusals().len()), (1, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_while_a_secret_cannot_be_read_the_running_token_goes_on() {
    let w = World::start().await;
    let secrets = "{ client_id = \"acme\", client_secret = { file = \"secret\" } }";
    let sidecar = Sidecar::with_files(&w.text(secrets, ""), &[("secret", "old")]).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    // Truncated, and written only later.
    fs::write(sidecar.path("secret"), "").unwrap();
    sidecar.until_metric(ERRORS, 1.0).await;
    sidecar
        .refresh_until("acme", async || {
            sidecar.token("acme", "access").await["last_failure"]["class"] == "secret_unreadable"
        })
        .await;
    assert_eq!((sidecar.status_of("/acme/x").await, w.calls()), (200, 1));
    assert_eq!(sidecar.token("acme", "access").await["sendable"], true);
    w.accept_only("new");
    fs::write(sidecar.path("secret"), "new").unwrap();
    sidecar.until_metric(CHANGES, 1.0).await;
    sidecar.until_refreshed("acme", "access", 2).await;
    assert_eq!(
        sidecar.token("acme", "access").await["last_failure"],
        Value::Null
    );
    assert_eq!(
        (
            sidecar.status_of("/acme/x").await,
            w.calls(),
            w.issuer.refusals().len()
        ),
        (200, 2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_s2_every_token_call_has_identifier_and_secret_of_one_version() {
    let w = World::start().await;
    // Lives so short that the endpoint is called as often as it may be, which is more than once a
    // second.
    for n in 0..100 {
        w.issuer.script(Reply::json(
            200,
            &json!({ "access_token": format!("tok-{n}"), "expires_in": 1 }),
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let version = |n: usize| (format!("v{n}"), format!("id-{n}"), format!("secret-{n}"));
    let put = move |folder: &Path, n: usize| {
        let (version, id, secret) = version(n);
        mount(
            folder,
            &version,
            &[("client_id", &id), ("client_secret", &secret)],
        );
    };
    put(folder.path(), 0);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, folder) = (stop.clone(), folder.path().to_owned());
        std::thread::spawn(move || {
            for n in 1.. {
                put(&folder, n);
                std::thread::sleep(Duration::from_millis(20));
                fs::remove_dir_all(folder.join(format!("..v{}", n - 1))).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return n;
                }
            }
            unreachable!("it counts until it is stopped")
        })
    };
    let sidecar = Sidecar::with_files(
        &w.text(&format!("{{ dir = \"{}\" }}", folder.path().display()), ""),
        &[],
    )
    .await;
    let used = async {
        loop {
            sidecar.get("/acme/x").await;
        }
    };
    tokio::select! {
        () = used => {}
        () = w.issuer.wait(8) => {}
    }
    stop.store(true, Ordering::Relaxed);
    let versions = writer.join().unwrap();
    assert!(versions > 8, "{versions}");
    let mut seen = Vec::new();
    for call in w.issuer.seen() {
        let (id, secret) = (
            field(&call.request, "client_id"),
            field(&call.request, "client_secret"),
        );
        assert_eq!(
            id.strip_prefix("id-").unwrap(),
            secret.strip_prefix("secret-").unwrap()
        );
        seen.push(id);
    }
    seen.dedup();
    assert!(
        seen.len() > 2,
        "the version changed between calls: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn presented_headers_are_rendered_again_when_their_secret_changes() {
    let w = World::start().await;
    let secrets = "{ client_id = \"acme\", client_secret = { file = \"secret\" } }";
    let inject =
        "[credentials.acme.inject.headers]\nX-Shared = \"key {{ secrets.client_secret }}\"\n";
    let sidecar = Sidecar::with_files(&w.text(secrets, inject), &[("secret", "old")]).await;
    let shown = async || {
        assert_eq!(sidecar.status_of("/acme/x").await, 200);
        let last = w.vendor.last();
        assert!(
            last.header("authorization")
                .is_some_and(|a| a.starts_with("Bearer tok-"))
        );
        last.header("x-shared").unwrap().to_owned()
    };
    assert_eq!(shown().await, "key old");
    sidecar.rewrite("secret", "new");
    until("the new secret is presented", async || {
        shown().await == "key new"
    })
    .await;
    // What cannot be read leaves the last good value.
    fs::remove_file(sidecar.path("secret")).unwrap();
    sidecar.until_metric(ERRORS, 1.0).await;
    assert_eq!(shown().await, "key new");
    sidecar.rewrite("secret", "newest");
    until("the newest secret is presented", async || {
        shown().await == "key newest"
    })
    .await;
    assert_eq!(w.calls(), 1, "the token had nothing to do with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changes_while_a_request_waits_for_its_token_is_presented_in_its_new_form() {
    let w = World::start().await;
    let inject =
        "[credentials.acme.inject.headers]\nX-Shared = \"key {{ secrets.client_secret }}\"\n";
    let text = w
        .text(
            "{ client_id = \"acme\", client_secret = { file = \"secret\" } }",
            inject,
        )
        .replace("300ms", "15s");
    let gate = Gate::shut();
    w.tokens
        .add("tok-slow", "access", "acme", "", Duration::from_mins(5));
    w.issuer.script(
        Reply::json(
            200,
            &json!({ "access_token": "tok-slow", "expires_in": 300 }),
        )
        .behind(&gate),
    );
    let sidecar = Sidecar::with_files(&text, &[("secret", "old")]).await;
    let waiting = tokio::spawn(sidecar.client.get(sidecar.url("/acme/x")).send());
    sidecar
        .until_metric("cupbearer_token_waiters{credential=\"acme\"}", 1.0)
        .await;
    sidecar.rewrite("secret", "new");
    sidecar.until_metric(CHANGES, 1.0).await;
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert_eq!(w.vendor.last().header("x-shared"), Some("key new"));
    assert_eq!((w.calls(), w.issuer.refusals().len()), (1, 0));
}
