//! Files that are cut short, damaged at random, or changed while they are open.

use std::fs;
use std::io;
use std::path::PathBuf;

use monomorph_runtime::gguf::{Gguf, GgufError, ReadAt};

use crate::bytes::small_valid;

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let whole = small_valid();
    Gguf::from_bytes(whole.clone()).unwrap();
    for len in 0..whole.len() {
        crate::refuse(&format!("cut at {len}"), whole[..len].to_vec());
    }
}

/// splitmix64: a few lines, and the same sequence everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Reads everything an opened file offers, as a program that trusts the reader would.
fn walk(g: &Gguf) -> usize {
    let mut seen = 0;
    for (key, value) in g.entries() {
        seen += key.len() + format!("{value:?}").len();
        if let Ok(array) = g.get_arr(key) {
            assert_eq!(array.iter().count(), array.len(), "{key}");
        }
    }
    for tensor in g.tensors() {
        let mut data = vec![0; tensor.bytes() as usize];
        g.read_tensor(tensor.idx(), 0, &mut data).unwrap();
        assert_eq!(g.find_tensor(tensor.name()).unwrap().idx(), tensor.idx());
        seen += data.len();
    }
    seen
}

#[test]
fn random_damage_never_panics() {
    let whole = small_valid();
    let interesting = [0, 1, 2, 4, 8, 9, 12, 13, 0x7f, 0x80, 0xfe, 0xff];
    let (mut accepted, mut refused) = (0_u32, 0_u32);
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut file = whole.clone();
        for _ in 0..=random.below(4) {
            // Three quarters of the damage goes to the metadata, which is what is parsed.
            let anywhere = random.below(4) == 0;
            let place = random.below(if anywhere { file.len() } else { file.len() - 348 });
            match random.below(4) {
                0 => file[place] ^= 1 << random.below(8),
                1 => file[place] = interesting[random.below(interesting.len())],
                2 => file[place] = random.next() as u8,
                _ => {
                    let end = (place + 8).min(file.len());
                    let wide = random.next() >> random.below(64);
                    file[place..end].copy_from_slice(&wide.to_le_bytes()[..end - place]);
                }
            }
        }
        match Gguf::from_bytes(file) {
            Ok(g) => {
                accepted += 1;
                assert!(walk(&g) > 0, "seed {seed}");
            }
            Err(error) => {
                refused += 1;
                let line = error.to_string();
                assert!(line.chars().count() <= 300 && !line.contains('\n'), "seed {seed}: {line}");
            }
        }
    }
    // Both happen, or the damage is not where it should be.
    assert!(accepted > 500 && refused > 5_000, "{accepted} accepted, {refused} refused");
}

/// A file of this test process in the folder cargo keeps for tests.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

#[test]
fn a_file_truncated_after_opening_is_an_error_of_the_read() {
    let path = scratch("truncated.gguf");
    fs::write(&path, small_valid()).unwrap();
    let g = Gguf::open(&path).unwrap();
    let q = g.find_tensor("q").unwrap();
    let mut data = vec![0; q.bytes() as usize];
    g.read_tensor(q.idx(), 0, &mut data).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(q.file_offset() + 10).unwrap();
    g.read_tensor(q.idx(), 0, &mut data[..10]).unwrap();
    let cut = g.read_tensor(q.idx(), 0, &mut data).unwrap_err();
    assert!(matches!(cut, GgufError::Changed { offset, .. } if offset == q.file_offset()), "{cut:?}");
    assert!(cut.to_string().starts_with("file truncated or changed after opening: tensor \"q\""), "{cut}");
    // The metadata is a private copy.
    assert_eq!(g.get_str("general.architecture").unwrap(), "llama");
    fs::remove_file(&path).unwrap();
}

/// A source that lies about its length, or fails from some byte on.
struct Unreliable {
    bytes: Vec<u8>,
    says: u64,
    fails_from: u64,
}

impl ReadAt for Unreliable {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + out.len() as u64 > self.fails_from {
            return Err(io::Error::other("the disk is on fire"));
        }
        self.bytes.read_exact_at(out, offset)
    }

    fn len_bytes(&self) -> u64 {
        self.says
    }
}

#[test]
fn a_source_that_shrinks_or_fails_is_an_error_of_its_own() {
    let bytes = small_valid();
    let says = bytes.len() as u64;
    let short = Unreliable { bytes: bytes[..100].to_vec(), says, fails_from: u64::MAX };
    let short = Gguf::parse(short).unwrap_err();
    assert!(matches!(short, GgufError::Changed { .. }), "{short:?}");
    let broken = Gguf::parse(Unreliable { bytes: bytes.clone(), says, fails_from: 100 }).unwrap_err();
    assert!(matches!(broken, GgufError::Read { .. }), "{broken:?}");
    let g = Gguf::parse(Unreliable { bytes, says, fails_from: u64::MAX }).unwrap();
    assert!(walk(&g) > 348);
}

/// Opening a pipe without a writer would wait for ever.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_refused_without_waiting() {
    let path = scratch("pipe.gguf");
    match std::process::Command::new("mkfifo").arg(&path).status() {
        Ok(status) if status.success() => {}
        other => {
            println!("skipped: mkfifo: {other:?}");
            return;
        }
    }
    let (tell, told) = std::sync::mpsc::channel();
    let opened = path.clone();
    std::thread::spawn(move || tell.send(Gguf::open(opened).map(|_| ())));
    let outcome = told.recv_timeout(std::time::Duration::from_secs(10));
    fs::remove_file(&path).unwrap();
    assert!(matches!(outcome, Ok(Err(GgufError::NotAFile { .. }))), "{outcome:?}");
}
