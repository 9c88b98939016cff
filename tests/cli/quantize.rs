//! `quantize` end to end: a file in half precision becomes one that the compiled kernels of `tiny` run.

use std::fs;

use monomorph::plan::QType;
use monomorph::runtime::gguf::Gguf;

use crate::fixture::{folder, plain_gguf};
use crate::run;

#[test]
fn a_quantized_file_runs_on_the_kernels_of_its_spec() {
    let folder = folder("quantized");
    let (input, out) = (folder.join("f16.gguf"), folder.join("q4_k_m.gguf"));
    fs::write(&input, plain_gguf(QType::F16)).unwrap();
    let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());

    let json = run(&["quantize", input, out, "--type", "Q4_K_M", "--json"]).json();
    assert_eq!((json["type"].as_str(), json["output"].as_str()), (Some("q4_k_m"), Some(out)));
    assert_eq!(json["output_bytes"].as_u64(), Some(fs::metadata(out).unwrap().len()));
    // 16 bits become a little under 5 in the mean.
    let ratio = json["input_bytes"].as_f64().unwrap() / json["output_bytes"].as_f64().unwrap();
    assert!((3.0..3.4).contains(&ratio), "{ratio}");
    let of = |name: &str| {
        let tensors = json["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["to"].clone()
    };
    assert_eq!((of("blk.1.ffn_down.weight"), of("blk.3.ffn_down.weight")), ("Q4_K".into(), "Q6_K".into()));
    assert_eq!((of("token_embd.weight"), of("output_norm.weight")), ("Q6_K".into(), "F32".into()));
    // Nothing else was left in the folder.
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);

    let inspected = run(&["inspect", out, "--json"]).json();
    assert_eq!((inspected["spec"].as_str(), inspected["compiled"].as_bool()), (Some("tiny"), Some(true)));
    assert_eq!(inspected["metadata"]["general.file_type"], 15);
    let ran = run(&["generate", "--device", "emulator", "-m", out, "-p", "ab", "-n", "2", "--json"]);
    assert_eq!(ran.json()["tokens"].as_array().unwrap().len(), 2, "{ran:?}");

    // A second time from a file that is quantized already: copied, byte for byte.
    let again = folder.join("again.gguf");
    let ran = run(&["quantize", out, again.to_str().unwrap(), "--type", "q4_k_m"]);
    assert!(ran.code == 0 && ran.stdout.contains("48 Q4_K"), "{ran:?}");
    let (first, second) = (Gguf::open(out).unwrap(), Gguf::open(&again).unwrap());
    for tensor in first.tensors() {
        let (mut a, mut b) = (vec![0; tensor.bytes() as usize], vec![1; tensor.bytes() as usize]);
        first.read_tensor(tensor.idx(), 0, &mut a).unwrap();
        second.read_tensor(tensor.idx(), 0, &mut b).unwrap();
        assert!(a == b, "{}", tensor.name());
    }
}
