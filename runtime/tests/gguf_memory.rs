//! The memory promise measured from outside: the process's own peak, in a test binary of one test, so that nothing
//! else is in the number.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use monomorph_runtime::gguf::Gguf;

const METADATA_BYTES: u64 = 96 << 20;

/// Peak resident bytes of this process, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A file with one array of strings of 24 bytes, written without holding it.
fn write_file(path: &PathBuf) -> std::io::Result<()> {
    let n = METADATA_BYTES / 32;
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(b"GGUF")?;
    out.write_all(&3_u32.to_le_bytes())?;
    for word in [0_u64, 1, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    out.write_all(b"k")?;
    for word in [9_u32, 8] {
        out.write_all(&word.to_le_bytes())?;
    }
    out.write_all(&n.to_le_bytes())?;
    for _ in 0..n {
        out.write_all(&24_u64.to_le_bytes())?;
        out.write_all(&[b'x'; 24])?;
    }
    out.flush()
}

#[test]
fn peak_memory_stays_under_the_promise() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-memory.gguf", std::process::id()));
    write_file(&path).unwrap();
    let Some(before) = peak_bytes() else {
        println!("skipped: no /proc/self/status with VmHWM");
        fs::remove_file(&path).unwrap();
        return;
    };
    let g = Gguf::open(&path).unwrap();
    let longest = g.get_arr_str("k").unwrap().iter().map(str::len).max();
    let grown = peak_bytes().unwrap() - before;
    fs::remove_file(&path).unwrap();
    assert_eq!(longest, Some(24));
    let allowed = (16 << 20) + METADATA_BYTES * 3 / 2;
    println!("{grown} bytes for {METADATA_BYTES} of metadata, {allowed} allowed");
    assert!(grown >= METADATA_BYTES / 2, "the measurement sees {grown} bytes only");
    assert!(grown <= allowed, "{grown} bytes for {METADATA_BYTES} of metadata, {allowed} allowed");
}
