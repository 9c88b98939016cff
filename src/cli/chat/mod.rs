//! `monomorph chat`: a conversation. The caches keep what was said, so that a turn runs only what is new. A line is a turn;
//! in a pipe too.

mod conversation;
mod interrupt;
mod reply;
mod template;

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Result;
use clap::Args;
use monomorph::runtime::tokenizer::{ControlTokens, Tokenizer};
use monomorph::runtime::{CancelToken, Error, FinishReason, GenerateOptions, Session, Timings};
use serde::Serialize;

use super::device::DeviceArgs;
use super::generate::{BUILT_IN, Defaults, GREEDY, SamplingArgs};
use super::model::ModelArgs;
use super::output::{Output, note};
use super::progress::PromptBar;
use super::style::{Palette, Style};
use conversation::{Conversation, Prompt, Reply};
use interrupt::Interrupts;
use reply::Stop;
use template::{Origin, Runaway, Template};

/// Tokens of a reply unless said otherwise: a page or two.
const MOST_TOKENS: u32 = 1024;
const HELP: &str = "/reset forgets the conversation, /exit leaves, /help shows this; Ctrl-C stops a reply; anything else is said";

/// Talks with a model: a line is a turn.
#[derive(Debug, Args)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens of a reply [default: 1024]
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    n_tokens: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// One JSON object a turn
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a turn.
#[derive(Serialize)]
struct Report<'a> {
    turn: usize,
    /// Tokens of the conversation that were run for it.
    prompt_tokens: usize,
    /// Tokens of the conversation that the caches had.
    kept_tokens: usize,
    tokens: &'a [u32],
    text: &'a str,
    /// `stop`, `length`, `context` or `cancelled`.
    finish: &'static str,
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Length,
    Context,
    Cancelled,
}

/// What a conversation goes on with.
struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    session: Session,
    conversation: Conversation<'a>,
    options: GenerateOptions,
    interrupts: Interrupts,
    out: Output,
    json: bool,
    turns: usize,
}

/// A line of the user.
enum Line<'a> {
    Exit,
    Reset,
    Help,
    Unknown(&'a str),
    Empty,
    Said(&'a str),
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Line<'a> {
        let text = text.trim();
        // A command is one word; a path at the beginning of a sentence is none.
        match text {
            "" => Line::Empty,
            "/exit" | "/quit" | "/bye" => Line::Exit,
            "/reset" | "/clear" => Line::Reset,
            "/help" | "/?" => Line::Help,
            word if word.starts_with('/') && !word.contains(char::is_whitespace) => Line::Unknown(word),
            said => Line::Said(said),
        }
    }
}

impl Chat {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let origin = self.model.open()?;
        let defaults = if origin.is_built_in() { BUILT_IN } else { GREEDY };
        let of_file = origin.chat_template().map(str::to_owned);
        let opened = self.device.open()?;
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        let tokenizer = &prepared.tokenizer;
        let template = Template::new(of_file.as_deref(), tokenizer)?;
        note(match template.origin() {
            Origin::File => "chat: with the template of the file",
            Origin::ChatMl => "chat: the file has no template; ChatML, whose tokens it has",
            Origin::Plain => {
                "chat: the file has no template and no tokens for turns; plain lines, User: and Assistant:"
            }
        });
        let conversation = Conversation::new(tokenizer, template, self.system.as_deref())?;
        let model = prepared.load(&opened.queue)?;
        let mut talk = Talk {
            tokenizer,
            session: model.session()?,
            conversation,
            options: self.options(tokenizer, defaults),
            interrupts: Interrupts::install()?,
            out: Output::new(),
            json: self.json,
            turns: 0,
        };
        let is_typed = io::stdin().is_terminal();
        if is_typed {
            note(HELP);
        }
        talk.listen(&mut io::stdin().lock(), is_typed.then(|| Palette::stderr().paint(Style::Name, "> ")))?;
        talk.out.finish()
    }

    fn options(&self, tokenizer: &Tokenizer, defaults: Defaults) -> GenerateOptions {
        GenerateOptions {
            max_tokens: Some(self.n_tokens.unwrap_or(MOST_TOKENS)),
            sampling: self.sampling.config(defaults),
            stop: (0..tokenizer.vocab_size()).filter(|id| tokenizer.is_end(*id)).collect(),
            ..GenerateOptions::default()
        }
    }
}

impl Talk<'_> {
    /// Turns until there are no more lines.
    fn listen(&mut self, lines: &mut dyn BufRead, prompt: Option<String>) -> Result<()> {
        let mut line = Vec::new();
        loop {
            if let Some(prompt) = &prompt {
                // A closed stderr is no reason to stop.
                write!(io::stderr(), "{prompt}").and_then(|()| io::stderr().flush()).ok();
            }
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let line = match str::from_utf8(&line) {
                Ok(line) => line,
                Err(error) => {
                    let at = error.valid_up_to();
                    note(&format!("that line is not UTF-8 from its byte {at} on and was not said"));
                    continue;
                }
            };
            match Line::of(line) {
                Line::Exit => return Ok(()),
                Line::Empty => {}
                Line::Help => note(HELP),
                Line::Unknown(word) => note(&format!("no command {word}; {HELP}")),
                Line::Reset => {
                    self.conversation.reset();
                    note("a new conversation");
                }
                Line::Said(said) => self.turn(said)?,
            }
        }
    }

    fn turn(&mut self, said: &str) -> Result<()> {
        let prompt = match self.conversation.ask(said) {
            Ok(prompt) => prompt,
            Err(error) if error.is::<Runaway>() => return Err(error),
            // What a template refuses, another message may pass.
            Err(error) => {
                note(&super::output::one_line(&error));
                return Ok(());
            }
        };
        let limit = self.session.model().context();
        if prompt.tokens.len() as u64 > u64::from(limit) {
            let most = self.session.model().table().dims.context;
            note(&format!(
                "the conversation would have {} tokens, the context {limit} positions: /reset begins a new one, \
                 --context allows up to {most}",
                prompt.tokens.len()
            ));
            self.conversation.unsay();
            return Ok(());
        }
        let cancel = self.interrupts.begin();
        let result = self.run(prompt, cancel);
        self.interrupts.end();
        result
    }

    fn run(&mut self, prompt: Prompt, cancel: CancelToken) -> Result<()> {
        self.session.rewind(prompt.kept as u32)?;
        let mut reply = Reply { tokens: Vec::new(), text: String::new(), whole: true };
        let options = GenerateOptions { cancel, ..self.options.clone() };
        let stop = Stop::at(self.conversation.template().stop());
        let show = !self.json;
        let out = show.then_some(&mut self.out);
        let produced =
            speak((&mut self.session, self.tokenizer), (&prompt, options), (stop, out), &mut reply);
        if show {
            self.out.stream("\n")?;
        }
        let cached = self.session.position() as usize;
        let (end, timings) = match produced {
            Ok(produced) => produced,
            Err(error) if is_cancelled(&error) => (End::Cancelled, Timings::default()),
            Err(error) => return Err(error),
        };
        self.turns += 1;
        self.tell((&prompt, &reply), end, timings)?;
        if reply.tokens.is_empty() && end == End::Cancelled {
            self.conversation.take_back(prompt, cached);
        } else {
            self.conversation.answered(prompt, &reply, cached);
        }
        Ok(())
    }

    fn tell(&mut self, (prompt, reply): (&Prompt, &Reply), end: End, timings: Timings) -> Result<()> {
        if self.json {
            self.out.json(&Report {
                turn: self.turns,
                prompt_tokens: prompt.new_tokens().len(),
                kept_tokens: prompt.kept,
                tokens: &reply.tokens,
                text: &reply.text,
                finish: end.name(),
                prefill_tok_s: timings.prefill_tok_s(),
                decode_tok_s: timings.decode_tok_s(),
            })?;
            self.out.stream("")?;
        }
        let line = format!(
            "{} new tokens after {} kept, {:.2} tok/s; reply {}, {:.2} tok/s{}",
            prompt.new_tokens().len(),
            prompt.kept,
            timings.prefill_tok_s(),
            reply.tokens.len(),
            timings.decode_tok_s(),
            end.remark()
        );
        note(&Palette::stderr().paint(Style::Dim, &line));
        Ok(())
    }
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Stop => "stop",
            End::Length => "length",
            End::Context => "context",
            End::Cancelled => "cancelled",
        }
    }

    /// What the user may want to do about it.
    fn remark(self) -> &'static str {
        match self {
            End::Stop => "",
            End::Length => "; cut off at -n",
            End::Context => "; the context is full: /reset begins a new conversation, --context makes room",
            End::Cancelled => "; stopped",
        }
    }
}

fn is_cancelled(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| matches!(error, Error::Cancelled { .. }))
}

/// Runs a prompt and follows the reply; what came before an error stays in `reply`.
fn speak(
    (session, tokenizer): (&mut Session, &Tokenizer),
    (prompt, options): (&Prompt, GenerateOptions),
    (mut stop, mut out): (Stop, Option<&mut Output>),
    reply: &mut Reply,
) -> Result<(End, Timings)> {
    let mut decoder = tokenizer.decode_stream(ControlTokens::Hide);
    let bar = PromptBar::start(prompt.new_tokens().len());
    let options = GenerateOptions { watch: bar.watch(), ..options };
    let mut generation = session.generate(prompt.new_tokens(), options)?;
    drop(bar);
    let mut show = |text: &str, reply: &mut Reply| -> Result<()> {
        reply.text.push_str(text);
        out.as_deref_mut().map_or(Ok(()), |out| out.stream(text))
    };
    while let Some(token) = generation.next() {
        let token = token?;
        reply.tokens.push(token);
        let shown = stop.push(&decoder.push(token)?);
        show(&shown.text, reply)?;
        if shown.ended {
            reply.whole = false;
            return Ok((End::Stop, generation.timings()));
        }
    }
    let rest = decoder.finish();
    // A character that was cut off is shown as one that is missing, which no token says.
    reply.whole = rest.is_empty();
    let rest = stop.push(&rest).text + &stop.finish();
    show(&rest, reply)?;
    let end = match generation.finish_reason() {
        Some(FinishReason::Stop(_)) => End::Stop,
        Some(FinishReason::Cancelled) => End::Cancelled,
        _ if generation.session().remaining() == 0 => End::Context,
        _ => End::Length,
    };
    Ok((end, generation.timings()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_single_words() {
        assert!(matches!(Line::of(" /exit\n"), Line::Exit));
        assert!(matches!(Line::of("/reset"), Line::Reset));
        assert!(matches!(Line::of("/nonsense"), Line::Unknown("/nonsense")));
        assert!(matches!(Line::of("/usr/bin is where?"), Line::Said("/usr/bin is where?")));
        assert!(matches!(Line::of(" \n"), Line::Empty));
    }
}
