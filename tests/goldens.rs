//! Every folder of `generated/` is what codegen emits now. A difference is printed with the command that accepts it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed case ends the test")]

use std::fs;
use std::path::Path;

use monomorph::golden::{self, Golden};
use monomorph::specs;

#[test]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let folders =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut names = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let (spec, sm) = name.rsplit_once("-sm_").unwrap_or_else(|| panic!("{name} is not SPEC-sm_N"));
        let device = golden::device(sm.parse().unwrap()).unwrap();
        let mut golden = Golden::make(&specs::find(spec).unwrap(), device).unwrap();
        golden.carry_over(&golden::read_lock(&folder).unwrap());
        let diff = golden.diff(&folder).unwrap();
        let bless = format!("monomorph emit --spec {spec} --sm {sm} --bless");
        assert!(diff.is_empty(), "{diff}\n{name} is not what is generated; to accept: {bless}");
        names.push(name);
    }
    assert!(names.iter().any(|name| name == "tiny-sm_90"), "{names:?}");
}
