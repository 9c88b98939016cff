//! Runs the reader over an external folder of malformed files, where there is one: `MONOMORPH_BAD_GGUF` names a
//! folder with `index.json`, or `make_corpus.py` lies in `shared/bad-gguf` beside the repository and is run with
//! python3. Each file is opened under a time limit.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed case ends the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use monomorph_runtime::gguf::Gguf;
use serde_json::Value;

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The folder of the corpus, or why there is none.
fn corpus() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("MONOMORPH_BAD_GGUF") {
        return Ok(folder.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/bad-gguf/make_corpus.py");
    if !script.is_file() {
        return Err("no MONOMORPH_BAD_GGUF and no ../shared/bad-gguf/make_corpus.py".to_owned());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-gguf");
    let made = Command::new("python3").arg(&script).arg(&folder).status();
    match made {
        Ok(status) if status.success() => Ok(folder),
        other => Err(format!("python3 did not make the corpus: {other:?}")),
    }
}

/// Opens one file on its own thread; `Err` is the refusal, a panic or the time limit fails the test.
fn open_in_time(path: PathBuf) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let name = path.display().to_string();
    std::thread::spawn(move || tell.send(Gguf::open(path).map(|_| ()).map_err(|e| e.to_string())));
    match told.recv_timeout(TIME_LIMIT) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name}: not opened within {TIME_LIMIT:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{name}: the reader panicked"),
    }
}

#[test]
fn the_external_corpus_is_refused_with_useful_lines() {
    let folder = match corpus() {
        Ok(folder) => folder,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let files = index.as_array().unwrap();
    let (mut refused, mut wrong) = (0, Vec::new());
    for file in files {
        let id = file["id"].as_str().unwrap();
        let started = Instant::now();
        let outcome = open_in_time(folder.join(format!("{id}.gguf")));
        println!(
            "{id}: {} µs: {}",
            started.elapsed().as_micros(),
            outcome.as_ref().err().map_or("accepted", |e| e)
        );
        match &outcome {
            Ok(()) if file["must"] == true => wrong.push(format!("{id}: accepted")),
            Err(line) if file["cls"] == "control" => wrong.push(format!("{id}: refused: {line}")),
            Err(line) if line.chars().count() > 300 || line.contains('\n') => {
                wrong.push(format!("{id}: {line}"))
            }
            // A useful line has a number from the file or its limits, unless it is about the version.
            Err(line) if !line.contains(|c: char| c.is_ascii_digit()) => wrong.push(format!("{id}: {line}")),
            Err(_) => refused += usize::from(file["must"] == true),
            Ok(()) => {}
        }
    }
    println!("{} files, {refused} refused of those that must be", files.len());
    assert!(!files.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
}
