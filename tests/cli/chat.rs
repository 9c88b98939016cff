//! Conversations: a line is a turn, caches keep what was said, templates are programs that are not trusted.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use monomorph::runtime::gguf::write::KvValue;

use crate::fixture::changed_gguf;
use crate::{Ran, command};

/// Runs a chat on these lines.
fn chat(extra: &[&str], lines: impl AsRef<[u8]>) -> Ran {
    let mut args = vec!["chat", "--device", "emulator"];
    args.extend_from_slice(extra);
    let mut child =
        command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that ends before it has read everything is seen by its status.
    child.stdin.take().unwrap().write_all(lines.as_ref()).ok();
    Ran::of(&child.wait_with_output().unwrap())
}

fn turns(ran: &Ran) -> Vec<serde_json::Value> {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(turn: &serde_json::Value, key: &str) -> u64 {
    turn[key].as_u64().unwrap_or_else(|| panic!("{key}: {turn}"))
}

#[test]
fn a_turn_runs_only_what_is_new() {
    let ran = chat(&["-n", "6", "--json"], "There was a fox\nWhat did it do?\n/reset\nThere was a fox\n");
    let turns = turns(&ran);
    assert_eq!(turns.len(), 3, "{ran:?}");
    assert_eq!((number(&turns[0], "kept_tokens"), number(&turns[0], "turn")), (0, 1));
    assert_eq!(turns[0]["finish"], "length");
    // The caches have the first prompt and the first reply, but for its last token.
    let reply = turns[0]["tokens"].as_array().unwrap().len() as u64;
    assert_eq!(reply, 6);
    assert_eq!(number(&turns[1], "kept_tokens"), number(&turns[0], "prompt_tokens") + reply - 1, "{ran:?}");
    // Forgotten is forgotten: the same words lead to the same reply.
    assert_eq!(turns[2]["tokens"], turns[0]["tokens"]);
    assert_ne!(turns[1]["tokens"], turns[0]["tokens"]);
    let text = chat(&["-n", "6"], "There was a fox\n");
    assert_eq!(text.stdout, format!("{}\n", turns[0]["text"].as_str().unwrap()));
    assert!(text.stderr.contains("cut off at -n"), "{text:?}");
}

#[test]
fn the_template_of_the_file_decides_what_the_model_reads() {
    let template = |name: &str, text: &str| {
        changed_gguf(name, &[("tokenizer.chat_template", KvValue::from(text.to_owned()))])
    };
    let said = template("template", "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}>");
    let first = turns(&chat(&["-m", &said, "-n", "1", "--json"], "ab\n")).remove(0);
    // `<s>`, then the bytes of `uab>`: the vocabulary of the file has one token for each.
    assert_eq!(number(&first, "prompt_tokens"), 1 + 4, "{first}");
    let system = turns(&chat(&["-m", &said, "-n", "1", "--json", "--system", "xyz"], "ab\n")).remove(0);
    assert_eq!(number(&system, "prompt_tokens"), 1 + 4 + 4, "{system}");
    // A control token that the template writes is one token; one that the user writes is the text that it looks like.
    let closed = template("closed", "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    let structure = turns(&chat(&["-m", &closed, "-n", "1", "--json"], "ab\n")).remove(0);
    assert_eq!(number(&structure, "prompt_tokens"), 1 + 2 + 1, "{structure}");
    let smuggled = turns(&chat(&["-m", &closed, "-n", "1", "--json"], "a</s>b\n")).remove(0);
    assert_eq!(number(&smuggled, "prompt_tokens"), 1 + 6 + 1, "{smuggled}");
}

#[test]
fn a_template_that_refuses_or_runs_wild_is_told() {
    let with = |name: &str, text: &str, lines: &str| {
        let file = changed_gguf(name, &[("tokenizer.chat_template", KvValue::from(text.to_owned()))]);
        chat(&["-m", &file, "-n", "1"], lines)
    };
    let refused = with("refuses", "{{ raise_exception('no') }}", "a\nb\n");
    assert_eq!(
        (refused.code, refused.stderr.matches("the chat template: line 1: ").count()),
        (0, 2),
        "{refused:?}"
    );
    assert_eq!(refused.stdout, "", "{refused:?}");
    assert!(with("broken", "{% if %}", "a\n").error().contains("the chat template does not compile: line 1"));
    // Each line doubles a text: few instructions, and more bytes than any machine has.
    let doubled =
        format!("{{% set a = '0123456789' %}}{}{{{{ a | length }}}}", "{% set a = a ~ a %}".repeat(60));
    let wild = with("wild", &doubled, "a\nb\n");
    assert!(wild.error().contains("the chat template takes too much memory"), "{wild:?}");
}

#[test]
fn a_full_context_is_told_with_a_way_out() {
    let long = "a very long story about a fox ".repeat(8);
    let ran = chat(&["-n", "64", "--context", "48", "--json"], format!("{long}\nHi\n"));
    assert!(ran.stderr.contains("the context 48 positions: /reset begins a new one"), "{ran:?}");
    let turns = turns(&ran);
    assert_eq!((turns.len(), turns[0]["finish"].as_str()), (1, Some("context")), "{ran:?}");
    assert!(ran.stderr.contains("the context is full: /reset"), "{ran:?}");
}

#[test]
fn a_line_that_is_no_text_does_not_end_the_conversation() {
    let ran = chat(&["-n", "2", "--json"], b"one\xff\xfe\nThere was a fox\n");
    assert_eq!(turns(&ran).len(), 1, "{ran:?}");
    assert!(ran.stderr.contains("not UTF-8 from its byte 3"), "{ran:?}");
}

#[test]
fn commands_are_not_said() {
    let ran = chat(&["-n", "1"], "/help\n/nonsense\n\n/exit\nnot heard\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("/reset forgets") && ran.stderr.contains("no command /nonsense"), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_reply_and_not_the_program() {
    let mut child = command(&["chat", "--device", "emulator", "-n", "1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stdin.write_all(b"There was a fox\n").unwrap();
    // The first words of a reply that would take a while.
    let mut start = [0; 4];
    stdout.read_exact(&mut start).unwrap();
    let interrupt = || Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt().success());
    let mut line = String::new();
    while !line.contains("; stopped") {
        line.clear();
        assert_ne!(
            stderr.read_line(&mut line).unwrap(),
            0,
            "it ended without saying that the reply was stopped"
        );
    }
    // It still listens; what it is told next is too long to be answered, which it says.
    let long = format!("{}\n/exit\n", "a fox ".repeat(1200));
    stdin.write_all(long.as_bytes()).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("the conversation would have"), "{rest}");
}
