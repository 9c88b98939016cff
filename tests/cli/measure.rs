//! Searches over layouts and rooflines, as far as they go without a device.

use std::fs;

use crate::contract::keys;
use crate::fixture::folder;
use crate::run;

#[test]
fn a_search_without_a_device_lists_layouts_and_finds_nothing() {
    let winners = folder("tune").join("winners.toml");
    let args = ["bench", "--tune", "--spec", "tiny", "--device", "emulator", "--tune-rows", "8,512"];
    let json = run(&[&args[..], &["--json", "--winners", winners.to_str().unwrap()]].concat()).json();
    let products = json["products"].as_array().unwrap();
    let rows: Vec<u64> = products.iter().map(|product| product["rows"].as_u64().unwrap()).collect();
    assert!(rows.contains(&8) && rows.contains(&512), "{rows:?}");
    for product in products {
        let mut names = ["product", "rows", "layouts", "model_us", "us", "tile", "timed"];
        names.sort_unstable();
        assert_eq!(keys(product), names);
        assert!(product["layouts"].as_u64().unwrap() > 3 && product["us"].is_null(), "{product}");
    }
    assert!(!winners.exists(), "nothing was timed, so nothing won");
}

#[test]
fn rows_that_no_step_has_cannot_be_searched() {
    let ran = run(&["bench", "--tune", "--spec", "tiny", "--device", "emulator", "--tune-rows", "77"]);
    assert!(ran.code == 1 && ran.stderr.contains("77"), "{ran:?}");
}

#[test]
fn a_roofline_is_drawn_from_kept_profiles_of_one_device() {
    let folder = folder("roofline");
    let (picture, other) = (folder.join("roofline.svg"), folder.join("other.json"));
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/results/h200-profile-qwen2.5-1.5b-8.json");
    let draw = |from: &str| run(&["profile", "--roofline", picture.to_str().unwrap(), "--from", from]);
    assert_eq!(draw(kept).code, 0);
    let drawn = fs::read_to_string(&picture).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("gemm_gate_up_swiglu"), "{drawn}");
    fs::write(&other, fs::read_to_string(kept).unwrap().replace("H200", "H20")).unwrap();
    let both = format!("{kept},{}", other.to_str().unwrap());
    let ran = draw(&both);
    assert!(ran.code == 1 && ran.stderr.contains("one device"), "{ran:?}");
}
