//! From messages to the text that a model was trained on. A model file brings its template as a program in Jinja; it is
//! not trusted, so it runs with limits on its size, its instructions, its nesting and its output, and it reaches nothing but
//! the messages. A file without one is served by a template of this program.

use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use monomorph::runtime::tokenizer::{ControlTokens, Tokenizer};
use serde::Serialize;

/// The longest template, bytes: those of real models have up to some ten thousand.
const MOST_TEMPLATE_BYTES: usize = 256 << 10;
/// Instructions of one rendering: a conversation of a thousand messages takes a tenth of it.
const FUEL: u64 = 2_000_000;
/// Nested includes, macros and blocks.
const RECURSION: usize = 64;
/// The longest text of a conversation, bytes: no context holds so much.
const MOST_OUTPUT_BYTES: usize = 16 << 20;
/// Between two looks at what a rendering takes.
const LOOK: Duration = Duration::from_millis(4);
/// The longest rendering: ten thousand times as long as a real one.
const MOST_TIME: Duration = Duration::from_secs(10);
/// The most memory that one may take, beside what the program has; between two looks it cannot fill a machine.
const MOST_MEMORY_BYTES: u64 = 512 << 20;
/// The name under which a template is compiled, which its errors tell.
const NAME: &str = "chat_template";

/// `ChatML`, for vocabularies that have its tokens.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// Lines of text, for models that know no turns.
const PLAIN: &str = "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}Assistant:{% endif %}";
/// Where a reply in lines of text ends.
const PLAIN_STOP: &str = "\nUser:";

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model file.
    File,
    /// [`CHATML`].
    ChatMl,
    /// [`PLAIN`].
    Plain,
}

/// A turn of somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

/// A compiled template.
pub struct Template {
    environment: Arc<Environment<'static>>,
    origin: Origin,
    bos: String,
    eos: String,
}

impl Template {
    /// The template of a file, or one that fits its vocabulary.
    pub fn new(of_file: Option<&str>, tokenizer: &Tokenizer) -> Result<Template> {
        let has_chatml =
            ["<|im_start|>", "<|im_end|>"].iter().all(|t| tokenizer.token_with_text(t).is_some());
        let (origin, text) = match of_file {
            Some(text) => (Origin::File, text),
            None if has_chatml => (Origin::ChatMl, CHATML),
            None => (Origin::Plain, PLAIN),
        };
        let text_of = |id: Option<u32>| -> Result<String> {
            let Some(id) = id else { return Ok(String::new()) };
            Ok(String::from_utf8_lossy(tokenizer.token_bytes(id, ControlTokens::Show)?).into_owned())
        };
        let ids = tokenizer.special_ids();
        Self::compile(text, origin, (text_of(ids.bos)?, text_of(ids.eos)?))
    }

    fn compile(text: &str, origin: Origin, (bos, eos): (String, String)) -> Result<Template> {
        if text.len() > MOST_TEMPLATE_BYTES {
            bail!("the chat template has {} bytes, at most {MOST_TEMPLATE_BYTES} are taken", text.len());
        }
        let mut environment = Environment::new();
        // As templates of models are written for.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.context("the syntax of chat templates")?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment
            .add_template_owned(NAME, text.to_owned())
            .map_err(|error| anyhow!("the chat template does not compile: {}", told(&error)))?;
        Ok(Template { environment: Arc::new(environment), origin, bos, eos })
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Text that ends a reply, where no token does.
    pub fn stop(&self) -> Option<&'static str> {
        (self.origin == Origin::Plain).then_some(PLAIN_STOP)
    }

    /// What of a reply is its message: [`PLAIN`] writes the blank itself that a model begins with.
    pub fn content_of<'t>(&self, reply: &'t str) -> &'t str {
        match self.origin {
            Origin::Plain => reply.strip_prefix(' ').unwrap_or(reply),
            Origin::File | Origin::ChatMl => reply,
        }
    }

    /// The conversation up to where the assistant begins to speak.
    ///
    /// # Errors
    /// What the template says; [`Runaway`] when it was left behind while it still took memory or time, after which the
    /// program has to end.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let (environment, messages) = (self.environment.clone(), messages.to_vec());
        let (bos, eos) = (self.bos.clone(), self.eos.clone());
        watch(move || {
            let template = environment.get_template(NAME).context("the chat template")?;
            let mut out = Limited { bytes: Vec::new() };
            let variables = context! {
                messages => Value::from(Serde(&messages)),
                add_generation_prompt => true,
                bos_token => bos,
                eos_token => eos,
            };
            template
                .render_captured_to(variables, &mut out)
                .map_err(|error| anyhow!("the chat template: {}", told(&error)))?;
            String::from_utf8(out.bytes).context("the chat template")
        })
    }
}

/// A template that was still running when it had taken too much.
#[derive(Debug, thiserror::Error)]
#[error("the chat template takes too much {what}: more than {limit}")]
pub struct Runaway {
    what: &'static str,
    limit: String,
}

/// Runs `render` on a thread of its own and watches time and memory, which no count of instructions bounds: a few dozen that
/// double a string fill any machine.
fn watch(render: impl FnOnce() -> Result<String> + Send + 'static) -> Result<String> {
    let before = resident_bytes();
    let start = Instant::now();
    let (done, result) = mpsc::channel();
    thread::Builder::new()
        .name("chat template".to_owned())
        // The receiver is gone only when the program ends.
        .spawn(move || done.send(render()).ok())
        .context("cannot start a thread for the chat template")?;
    loop {
        match result.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => bail!("the chat template ended without a result"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if start.elapsed() > MOST_TIME {
            return Err(Runaway { what: "time", limit: format!("{} s", MOST_TIME.as_secs()) }.into());
        }
        let grown = resident_bytes().zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        if grown > MOST_MEMORY_BYTES {
            return Err(Runaway { what: "memory", limit: format!("{} MiB", MOST_MEMORY_BYTES >> 20) }.into());
        }
    }
}

/// Memory that this program occupies; `None` where the system has no such file.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// What went wrong, with the line.
fn told(error: &Error) -> String {
    let mut reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if let Some(cause) = std::error::Error::source(error) {
        reason = format!("{reason}: {cause}");
    }
    error.line().map_or_else(|| reason.clone(), |line| format!("line {line}: {reason}"))
}

/// Takes no more than [`MOST_OUTPUT_BYTES`].
struct Limited {
    bytes: Vec<u8>,
}

impl Write for Limited {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MOST_OUTPUT_BYTES {
            let reason = format!("it writes more than {MOST_OUTPUT_BYTES} bytes");
            return Err(io::Error::other(reason));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template> {
        Template::compile(text, Origin::File, ("<s>".to_owned(), "</s>".to_owned()))
    }

    fn talk() -> Vec<Message> {
        let say = |role, content: &str| Message { role, content: content.to_owned() };
        vec![say("user", "Hi"), say("assistant", "Hello."), say("user", "Bye")]
    }

    #[test]
    fn the_two_of_this_program_write_what_they_should() {
        let chatml = template(CHATML).unwrap().render(&talk()).unwrap();
        let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n\
                        <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(chatml, expected);
        let plain = template(PLAIN).unwrap().render(&talk()).unwrap();
        assert_eq!(plain, "User: Hi\nAssistant: Hello.\nUser: Bye\nAssistant:");
    }

    #[test]
    fn methods_of_python_and_tokens_are_there() {
        let text = "{{ bos_token }}{% for m in messages %}{{ m['content'].strip().upper() }}{{ eos_token }}{% endfor %}";
        assert_eq!(template(text).unwrap().render(&talk()).unwrap(), "<s>HI</s>HELLO.</s>BYE</s>");
    }

    #[test]
    fn a_template_can_refuse() {
        let text =
            "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{% endif %}";
        let error = template(text).unwrap().render(&talk()).unwrap_err().to_string();
        assert!(error.contains("a system message first") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn a_hostile_template_ends_with_an_error() {
        let endless =
            "{% for a in range(10000) %}{% for b in range(10000) %}{% set c = a %}{% endfor %}{% endfor %}";
        let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        let file = "{% include '/etc/passwd' %}";
        let cases = [
            (endless, "out of fuel"),
            ("{{ '-' * 50000000 }}", "more than 16777216 bytes"),
            ("{{ '-' * 10000000000 }}", "too large"),
            (deep, "line 1"),
            (file, "non-existing template"),
        ];
        for (text, told) in cases {
            let error = template(text).unwrap().render(&talk()).unwrap_err().to_string();
            assert!(error.starts_with("the chat template: ") && error.contains(told), "{text}: {error}");
        }
        let error = |text: &str| template(text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error("{% for %}").contains("does not compile: line 1"), "{}", error("{% for %}"));
        let long = " ".repeat(MOST_TEMPLATE_BYTES + 1);
        assert!(error(&long).contains("262145 bytes"), "{}", error(&long));
    }

    #[test]
    fn what_still_runs_is_left_behind() {
        let Some(before) = resident_bytes() else {
            println!("skipped: this system does not tell what memory a program has");
            return;
        };
        assert!(before > 1 << 20, "{before}");
        let (go_on, wait) = mpsc::channel::<()>();
        let error = watch(move || {
            let taken = vec![1u8; MOST_MEMORY_BYTES as usize + (64 << 20)];
            wait.recv_timeout(MOST_TIME / 2).ok();
            Ok(taken.len().to_string())
        });
        go_on.send(()).ok();
        let error = error.unwrap_err();
        assert!(error.downcast_ref::<Runaway>().is_some_and(|e| e.what == "memory"), "{error}");
    }
}
