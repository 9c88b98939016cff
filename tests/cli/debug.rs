//! `debug` and `generate --parity`: what they print and how they end.

use crate::contract::keys;
use crate::run;

const DEBUG: [&str; 7] = ["debug", "--spec", "tiny", "--device", "emulator", "--tokens", "1,40,41"];

fn debug(extra: &[&str]) -> crate::Ran {
    run(&[&DEBUG[..], extra].concat())
}

#[test]
fn debug_prints_exactly_the_promised_keys() {
    let json = debug(&["--stop-after", "attend_step:1", "--against", "emulator", "--json"]).json();
    let promised = ["against", "device", "equal", "launches", "model", "position", "spec", "tokens"];
    assert_eq!(keys(&json), promised);
    assert_eq!((json["position"].as_u64(), json["equal"].as_bool()), (Some(2), Some(true)));
    let launches = json["launches"].as_array().unwrap();
    let last = launches.last().unwrap();
    assert_eq!(keys(last), ["buffers", "index", "kernel", "layer"]);
    assert!(last["kernel"].as_str().unwrap().starts_with("attend_step_") && last["layer"] == 1, "{last}");
    assert_eq!(last["index"].as_u64().unwrap() as usize + 1, launches.len());
    let slots: Vec<&str> =
        last["buffers"].as_array().unwrap().iter().map(|buffer| buffer["slot"].as_str().unwrap()).collect();
    let attention = ["AttnHandover", "ActQuants", "ActMeta", "KCache(1)", "VCache(1)"];
    assert_eq!(slots, attention);
    let promised =
        ["difference", "elements", "first", "hash", "inf", "kind", "max", "mean", "min", "nan", "slot"];
    for buffer in launches.iter().flat_map(|launch| launch["buffers"].as_array().unwrap()) {
        assert_eq!(keys(buffer), promised);
        assert_eq!((&buffer["nan"], &buffer["difference"]), (&0.into(), &serde_json::Value::Null));
    }
    // Keys and values of one position: 2 heads of 64.
    assert_eq!((&last["buffers"][3]["elements"], &last["buffers"][3]["kind"]), (&128.into(), &"f16".into()));
}

#[test]
fn debug_goes_on_to_the_chosen_token_and_stops_where_it_is_told() {
    let whole = debug(&["--values", "1"]);
    assert_eq!(whole.code, 0, "{whole:?}");
    assert!(whole.stdout.contains("argmax_final_") && whole.stdout.contains("Chosen 1 × u32"), "{whole:?}");
    let first = debug(&["--stop-after", "0", "--values", "1"]);
    assert!(whole.stdout.starts_with(&first.stdout) && first.stdout.lines().count() == 2, "{first:?}");
    let wrong = debug(&["--stop-after", "nothing"]);
    assert!(wrong.error().contains("embed_"), "{wrong:?}");
}

#[test]
fn parity_is_told_and_changes_nothing() {
    let args = ["generate", "--spec", "tiny", "--device", "emulator", "-p", "Hi", "-n", "2"];
    let plain = run(&args);
    let checked = run(&[&args[..], &["--parity", "5"]].concat());
    assert_eq!((checked.code, &checked.stdout), (0, &plain.stdout), "{checked:?}");
    assert!(checked.stderr.contains("parity: the logits of 5 tokens"), "{checked:?}");
}
