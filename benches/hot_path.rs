//! Our own work on a warm request, without pingora's: find the route, read the slots, place the
//! headers, look through the answer's head. Aim: below 1 µs together.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot begin fails"
)]

use std::{fmt::Write, path::Path, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use cupbearer::{
    clock::BootInstant,
    config::{self, LoadOptions},
    credential::{CredentialDeps, PartitionKey},
    proxy::{
        answer,
        chosen::{Access, Chosen},
        echo, inject, location,
    },
    route::RequestTarget,
    snapshot::Snapshot,
    telemetry::Metrics,
    token::{MemoryLedger, Store},
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An issuer that gives everybody the same long-lived token of 1,000 characters.
async fn issuer() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = format!(
                "{{\"access_token\":\"{}\",\"token_type\":\"Bearer\",\"expires_in\":86400}}",
                "x".repeat(1000)
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    address
}

fn twenty_upstreams(issuer: std::net::SocketAddr) -> String {
    let mut text = format!(
        "[credentials.acme]\nsettings = {{ token_url = \"http://{issuer}/token\" }}\nsecrets = {{ client_id = \"a\", client_secret = \"b\" }}\n"
    );
    for n in 0..20 {
        writeln!(
            text,
            "[upstreams.acme{n}]\nurl = \"https://api{n}.acme.example/v2\"\ncredential = \"acme\""
        )
        .unwrap();
    }
    text
}

fn hot_path(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let text = twenty_upstreams(runtime.block_on(issuer()));
    let (config, problems) = config::load_text(&text, Path::new("."), &LoadOptions::default());
    let config = config.unwrap_or_else(|| panic!("{:?}", problems.list()));
    let deps = CredentialDeps::new(
        Arc::new(Store::default()),
        Arc::new(MemoryLedger::default()),
        Metrics::new().unwrap(),
    );
    let snapshot = Snapshot::build(config, &deps, 1).unwrap_or_else(|p| panic!("{:?}", p.list()));
    let served = snapshot.upstreams[7].clone();
    let credential = served.credential.clone().unwrap();
    let whole = PartitionKey::default();
    let presented = runtime
        .block_on(
            credential.wait_for_injection(&whole, BootInstant::now().after(Duration::from_secs(5))),
        )
        .unwrap();

    let route = || {
        snapshot
            .router
            .find(
                RequestTarget::Origin {
                    host: "127.0.0.1:14180",
                },
                "/acme7/orders/1234?expand=lines",
            )
            .unwrap()
    };
    c.bench_function("route", |b| b.iter(route));
    c.bench_function("slots", |b| {
        b.iter(|| credential.ready_injection(&whole).unwrap());
    });

    let chosen = Chosen {
        upstream: served.upstream.clone(),
        path: route().path,
        stripped: None,
        access: Access::Credential {
            credential: credential.clone(),
            partition: whole.clone(),
            presented,
        },
        made: Vec::new(),
    };
    let mut original =
        RequestHeader::build("GET", b"/acme7/orders/1234?expand=lines", None).unwrap();
    for (name, value) in [
        ("host", "127.0.0.1:14180"),
        ("user-agent", "bench/1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
    ] {
        original.insert_header(name, value).unwrap();
    }
    c.bench_function("inject", |b| {
        b.iter_batched_ref(
            || original.clone(),
            |request| inject::apply(request, &original, &chosen, None).unwrap(),
            criterion::BatchSize::SmallInput,
        );
    });
    let mut answered = ResponseHeader::build(200, None).unwrap();
    for (name, value) in [
        ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "200"),
        ("server", "vendor"),
        ("x-request-id", "0af7651916cd43dd8448eb211c80319c"),
        (
            "strict-transport-security",
            "max-age=31536000; includeSubDomains",
        ),
    ] {
        answered.insert_header(name, value).unwrap();
    }
    let judge = |answer: &mut ResponseHeader| {
        answer::clean(answer, false);
        echo::hide(answer, &chosen).unwrap();
        location::rewrite(answer, &chosen, &snapshot).unwrap();
    };
    c.bench_function("answer", |b| {
        b.iter_batched_ref(|| answered.clone(), judge, criterion::BatchSize::SmallInput);
    });
    c.bench_function("all four", |b| {
        b.iter_batched_ref(
            || (original.clone(), answered.clone()),
            |(request, answer)| {
                std::hint::black_box(route());
                std::hint::black_box(credential.ready_injection(&whole).unwrap());
                inject::apply(request, &original, &chosen, None).unwrap();
                judge(answer);
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = hot_path
}
criterion_main!(benches);
