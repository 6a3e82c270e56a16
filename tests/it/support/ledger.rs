//! The guard's memory on disk, as a test may change it: time passes for what is written there.

use std::{fs, path::Path, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

/// As if all that the guard remembers in this folder had been written so long ago, in another boot
/// of the machine: pauses are over sooner by that.
pub fn age(folder: &Path, by: Duration) {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let kinds = ["guard-", "account-"];
    let counts = |file: &Path| {
        let name = file.file_name().unwrap().to_str().unwrap();
        file.extension().is_some_and(|e| e == "json")
            && kinds.iter().any(|kind| name.starts_with(kind))
    };
    for file in files.filter(|file| counts(file)) {
        let text = fs::read_to_string(&file).unwrap();
        let (head, body) = text.split_once('\n').unwrap();
        let (mut head, mut body): (Value, Value) = (
            serde_json::from_str(head).unwrap(),
            serde_json::from_str(body).unwrap(),
        );
        body["noted"]["boot_id"] = json!("another");
        let seconds = body["noted"]["wall"]["secs"].as_u64().unwrap();
        body["noted"]["wall"]["secs"] = json!(seconds - by.as_secs());
        let body = body.to_string();
        let hex: String = digest(&SHA256, body.as_bytes())
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<Vec<_>>()
            .concat();
        head["sha256"] = json!(hex);
        // At one moment, as the program does it.
        let new = file.with_extension("aged");
        fs::write(&new, format!("{head}\n{body}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }
}
