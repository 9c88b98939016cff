//! A fingerprint of everything that kernels are made by, for [`FINGERPRINT`]: kernels that another generator left on a
//! disk must not be taken for this one's. Sources only: equal sources give equal kernels, on any machine.
//!
//! [`FINGERPRINT`]: ../monomorph_codegen/constant.FINGERPRINT.html

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The generator and what it builds on, from this package's folder.
const SOURCES: [&str; 5] = ["src", "templates", "../kernels-dsl/src", "../plan/src", "../ptx/src"];

fn main() -> io::Result<()> {
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        let folder = root.join(source);
        // A copy of this package alone has no neighbours; the versions of its dependencies are then all there is.
        if !folder.is_dir() {
            continue;
        }
        for file in files(&folder)? {
            let name = file.strip_prefix(&folder).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            hash.add(source.as_bytes());
            hash.add(name.as_bytes());
            hash.add(&fs::read(&file)?);
        }
    }
    println!("cargo:rustc-env=MONOMORPH_GENERATOR={:016x}", hash.0);
    Ok(())
}

/// Every file of a folder, by path.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// FNV-1a of texts, each with its length, so that no two lists of texts are one.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
