//! Many and large: work grows as the file does, and no text ends the process.

use super::*;

/// CPU time of this thread: a busy machine changes nothing.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}

/// How long it takes to load what `text` makes of a number, and how much longer twice as much
/// takes.
#[track_caller]
fn linear(what: &str, n: usize, text: impl Fn(usize) -> String) {
    let took = |n| {
        let text = text(n);
        let best = (0..2).map(|_| {
            let begun = cpu();
            let _ = load_text(&text, Path::new("/nowhere"), &LoadOptions::default());
            cpu().saturating_sub(begun)
        });
        best.min().unwrap()
    };
    took(1); // what is made once is made
    let (once, twice) = (took(n), took(4 * n));
    assert!(
        twice < once * 7,
        "{what}: {n} take {once:?}, four times as many {twice:?}"
    );
}

fn many(n: usize, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect()
}

#[test]
fn four_times_as_many_credentials_take_four_times_as_long() {
    let plain = |i| {
        format!(
            "[credentials.c{i}]\nsettings = {{ token_url = \"https://auth.example/t\", scope = \"a\" }}\n\
             secrets = {{ client_id = \"id\", client_secret = {{ file = \"/run/c{i}\" }} }}\ntokens.access.lifetime.rotation = \"replaces\"\n\
             [upstreams.c{i}]\nurl = \"https://api.example:{}\"\ncredential = \"c{i}\"\n",
            10_000 + i
        )
    };
    linear("with lints", 150, |n| many(n, plain));
    linear("with mistakes", 150, |n| {
        many(n, |i| {
            plain(i)
                .replace("scope =", "scoop =")
                .replace("lifetime.rotation", "lifetime.rotationn")
        })
    });
    linear("unused", 150, |n| {
        many(n, |i| {
            plain(i).split("[upstreams").next().unwrap().to_owned()
        })
    });
    let unlike = |i| {
        format!("[upstreams.u{i}]\nurl = \"https://api.example/v{i}\"\ncredential = \"none\"\n")
    };
    linear("unlike", 1000, |n| many(n, unlike));
    linear("alike", 300, |n| {
        many(n, |i| {
            format!("[upstreams.u{i}]\nurl = \"https://api.example/v1\"\ncredential = \"none\"\n")
        })
    });
}

#[test]
fn every_mistake_is_told_however_many_there_are() {
    let text = many(3000, |i| {
        format!("[upstreams.u{i}]\nurl = 1\ncredential = \"none\"\nurll = 2\npool.requests = 0\n")
    });
    assert_eq!(mistakes(&text).len(), 3 * 3000);
}

#[test]
fn a_profile_of_many_parts_takes_no_square_of_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let linear = |what: &str, n: usize, part: &dyn Fn(usize) -> String| {
        let path = folder.path().join(what);
        let text = |n: usize| {
            std::fs::write(
                &path,
                format!("inject.headers.X-Own = \"x\"\n{}", many(n, part)),
            )
            .unwrap();
            format!("[credentials.c]\nprofile = {{ file = {path:?} }}\n")
        };
        linear(what, n, text);
    };
    linear("tokens", 150, &|i| {
        let parent = i
            .checked_sub(1)
            .map(|before| format!("headers.X-Parent = \"{{{{ tokens.t{before} }}}}\"\n"))
            .unwrap_or_default();
        format!("[tokens.t{i}]\nurl = \"https://t.example/\"\nclient_auth = \"none\"\n{parent}")
    });
    linear("secrets", 300, &|i| {
        format!("secrets.s{i}.help = \"x\"\ninject.query.q{i} = \"{{{{ secrets.s{i} }}}}\"\n")
    });
    linear("headers", 300, &|i| {
        format!("inject.headers.X-H{i} = \"{{{{ uuid() }}}}\"\n")
    });
    linear("partitions", 200, &|i| {
        format!(
            "[partition.p{i}]\nheader = \"X-P{i}\"\npattern = \"^[0-9]{{{}}}$\"\n",
            1 + i % 30
        )
    });
    linear("mistakes", 300, &|i| {
        format!("[settings.s{i}]\nhlep = \"x\"\n")
    });
}

#[test]
fn texts_that_are_absurd_are_refused_in_time_and_end_nothing() {
    for text in [
        "[".repeat(100_000),
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{ a = ".repeat(50_000),
        "a.".repeat(100_000) + "b = 1",
        format!("[{}b]\nc = 1", "a.".repeat(100_000)),
        format!(
            "credentials.a.tokens.b.params.c = {}1{}",
            "[".repeat(70),
            "]".repeat(70)
        ),
        format!(
            "credentials.a.tokens.b.params.c = {}1{}",
            "{ a = ".repeat(70),
            " }".repeat(70)
        ),
        many(20_000, |i| format!("[upstreams.u{i}]\nurl = 1\n")),
        many(20_000, |i| format!("x{i} = {i}\n")),
        format!("proxy.hosts = [{}]", "1, ".repeat(100_000)),
        format!("proxy.via = \"{}\"", "x".repeat(10 * 1024 * 1024)),
        "\u{feff}[proxy]\n".to_owned(),
    ] {
        let (begun, size) = (cpu(), text.len());
        let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        let load = move || {
            let begun = cpu();
            let (config, problems) =
                load_text(&text, Path::new("/nowhere"), &LoadOptions::default());
            (
                config.is_none(),
                problems.list().len(),
                text.get(..30).map(str::to_owned),
                cpu().saturating_sub(begun),
            )
        };
        let (refused, told, start, took) = thread.spawn(load).unwrap().join().unwrap();
        assert!(
            refused == (told > 0) && took < Duration::from_secs(30),
            "{start:?}: {size} bytes took {took:?}, {told} problems"
        );
        let _ = begun;
    }
}
