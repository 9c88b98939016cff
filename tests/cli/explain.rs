//! One kernel, from its header to its machine code.

use std::path::Path;

use crate::{Ran, command, run};

/// The symbol of a gemv of the built-in model.
fn gemv() -> String {
    let json = run(&["kernels", "--spec", "tiny", "--json"]).json();
    let kernels = json["kernels"].as_array().unwrap();
    let entries = kernels.iter().map(|kernel| kernel["entry"].as_str().unwrap());
    entries.filter(|entry| entry.starts_with("gemv_q4k")).min().unwrap().to_owned()
}

#[test]
fn a_kernel_is_shown_from_equation_to_ptx() {
    let entry = gemv();
    let json = run(&["explain", &entry, "--spec", "tiny", "--json"]).json();
    assert_eq!((json["entry"].as_str(), json["sm"].as_u64()), (Some(entry.as_str()), Some(90)));
    let header: Vec<&str> = json["header"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert!(header.len() >= 5 && header[0].contains('='), "{header:?}");
    for name in ["shapes", "layout", "launch", "source"] {
        assert!(header.iter().any(|line| line.starts_with(name)), "{name}: {header:?}");
    }
    let source = &json["source"];
    let text = source["text"].as_str().unwrap();
    assert!(header.iter().all(|line| text.contains(line)) && text.contains("#[kernel"), "{source}");
    // The place it names is where the file has that text now.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(source["path"].as_str().unwrap());
    let file = std::fs::read_to_string(path).unwrap();
    let line = source["line"].as_u64().unwrap() as usize;
    assert_eq!(file.lines().nth(line - 1), text.lines().next(), "{source}");
    let helpers = json["helpers"].as_array().unwrap();
    assert!(helpers.iter().any(|h| h["name"].as_str().unwrap().contains("q4k")), "{helpers:?}");
    assert!(json["ptx"].as_str().unwrap().contains(&format!(".visible .entry {entry}(")));
    let (bytes, floor) = (json["bytes"].as_f64().unwrap(), json["floor_us"].as_f64().unwrap());
    assert!(json["macs"].as_u64().unwrap() > 0 && (floor - bytes / 4.5e6).abs() < 1e-9 * bytes, "{json}");
}

#[test]
fn the_page_fits_a_terminal_and_has_every_part() {
    let entry = gemv();
    let page = run(&["explain", &entry, "--helpers"]);
    assert_eq!(page.code, 0, "{page:?}");
    let longest = page.stdout.lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(longest.chars().count() <= 100, "{longest}");
    for wanted in
        ["equation", "constants", "multiply-adds", "#[kernel", "#[device", "dp4a", ".visible .entry"]
    {
        assert!(page.stdout.contains(wanted), "{wanted}: {page:?}");
    }
    let ptx = run(&["explain", &entry, "--parts", "ptx"]);
    assert!(ptx.stdout.contains(".visible .entry") && !ptx.stdout.contains("#[kernel"), "{ptx:?}");
}

#[test]
fn machine_code_is_shown_where_the_tools_are() {
    let entry = gemv();
    let without = |tool: &str| {
        let mut command = command(&["explain", &entry, "--json"]);
        Ran::of(
            &command.env(tool, "").env("PATH", "").current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap(),
        )
    };
    // Neither tool on the path nor where the script puts them: told, with the command that brings them.
    let mut bare = command(&["explain", &entry, "--json"]);
    bare.env_remove("MONOMORPH_PTXAS").env_remove("MONOMORPH_NVDISASM").env("PATH", "");
    let json = Ran::of(&bare.current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap()).json();
    assert!(json["sass"].is_null() && json["registers"].is_null(), "{json}");
    assert!(json["missing"].as_str().unwrap().contains("tools/fetch-ptxas.sh"), "{json}");
    // A tool that is named and is not there is an error that names it.
    assert!(without("MONOMORPH_PTXAS").error().contains("cannot run"), "{:?}", without("MONOMORPH_PTXAS"));

    let here = run(&["explain", &entry, "--json"]).json();
    let Some(sass) = here["sass"].as_array() else {
        println!("skipped: no machine code: {}", here["missing"]);
        return;
    };
    assert!(sass.iter().any(|line| line["text"].as_str().unwrap().contains("IDP.4A")), "{sass:?}");
    let n_lines = here["ptx"].as_str().unwrap().lines().count() as u64;
    assert!(sass.iter().all(|line| line["ptx_line"].as_u64().is_none_or(|n| n <= n_lines)), "{sass:?}");
    assert!(sass.iter().filter(|line| line["ptx_line"].is_u64()).count() > sass.len() / 2, "{sass:?}");
    assert!(here["registers"].as_u64().unwrap() >= 16, "{here}");
}

#[test]
fn a_name_may_be_short_and_a_wrong_one_leads_on() {
    let entry = gemv();
    let unique = run(&["explain", &entry[..entry.len() - 4], "--json"]).json();
    assert_eq!(unique["entry"], entry.as_str());
    let wrong = run(&["explain", "gem_q4k"]);
    assert!(wrong.error().contains("\"gem_q4k\"") && wrong.error().contains("gemv_q4k"), "{wrong:?}");
    let many = run(&["explain", "gemm"]);
    assert!(many.error().contains("kernels begin with \"gemm\""), "{many:?}");
    let spec = run(&["explain", "gemv", "--spec", "gpt-5"]);
    assert!(spec.error().contains("no spec \"gpt-5\""), "{spec:?}");
}
