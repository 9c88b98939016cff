//! Specs: the shipped files, both directions of the TOML form, and refusals.

use super::*;

fn shipped(name: &str) -> ModelSpec {
    let path = format!("{}/../models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    ModelSpec::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn shipped_specs_survive_printing() {
    for name in ["tiny", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b"] {
        let spec = shipped(name);
        assert_eq!(spec.name, name);
        assert_eq!(ModelSpec::from_toml(&spec.to_toml()).unwrap(), spec);
    }
}

#[test]
fn the_hash_moves_with_every_field_and_the_device() {
    let base = shipped("tiny");
    let device = Device::from_sm(90).unwrap();
    let mut other = base.clone();
    other.dims.norm_eps *= 2.0;
    assert_ne!(base.hash(device), other.hash(device));
    assert_ne!(base.hash(device), base.hash(Device::from_sm(80).unwrap()));
    assert_eq!(base.hash(device), base.clone().hash(device));
}

#[test]
fn refusals_name_the_field_and_both_numbers() {
    let mut spec = shipped("tiny");
    spec.dims.dim = 1000;
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("dim = 1000") && text.contains("128"), "{text}");
    let mut spec = shipped("tiny");
    spec.dims.architecture = "mamba".into();
    assert!(spec.check().unwrap_err().to_string().contains("mamba"));
    let mut spec = shipped("tiny");
    spec.dims.hidden_dim = 1040;
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("hidden_dim = 1040") && text.contains("32"), "{text}");
    let mut spec = shipped("tiny");
    spec.types.0.remove(&Role::FfnDown);
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("types.ffn_down") && text.contains("q8_0"), "{text}");
}

#[test]
fn rows_must_be_whole_blocks_of_their_type() {
    let mut spec = shipped("tiny");
    spec.dims.hidden_dim = 1120;
    spec.types.0.insert(Role::FfnDown, LayerTypes::uniform(QType::Q5K));
    let text = spec.check().unwrap_err().to_string();
    for part in ["blk.0.ffn_down.weight", "q5_k", "1120", "256"] {
        assert!(text.contains(part), "{text}");
    }
    for qtype in QType::ALL.into_iter().filter(|t| t.block_elems() <= 32) {
        spec.types.0.insert(Role::FfnDown, LayerTypes::uniform(qtype));
        spec.check().unwrap();
    }
}

#[test]
fn a_mixed_role_gives_each_layer_its_type() {
    use QType::{Q4K, Q6K};
    let types = LayerTypes::from_layers(&[Q6K, Q4K, Q4K, Q6K, Q4K]).unwrap();
    assert_eq!((types.default, types.others[&Q6K].as_slice()), (Q4K, [0, 3].as_slice()));
    assert_eq!((0..5).map(|l| types.get(l)).collect::<Vec<_>>(), [Q6K, Q4K, Q4K, Q6K, Q4K]);
}
