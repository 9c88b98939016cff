//! The source of the kernels, as this build was made from it: the text of a `#[kernel]` function and of the `#[device]`
//! functions that it calls, for people who ask what a kernel does.

use plan::QType;

/// Types whose names end many functions that are not about weights.
const PLAIN: [QType; 3] = [QType::F32, QType::F16, QType::Bf16];

/// A file of kernels as it is embedded.
#[derive(Clone, Copy, Debug)]
pub struct SourceFile {
    /// Path in the repository.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/kernel_sources.rs"));

/// A function of the kernel language, with its attribute and its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Its name.
    pub name: String,
    /// Path of its file in the repository.
    pub path: &'static str,
    /// Where `text` begins, counted from 1.
    pub line: usize,
    /// The lines, from the first of its comment to the closing brace.
    pub text: String,
}

impl Snippet {
    /// Whether it is called on a value.
    fn is_method(&self) -> bool {
        let arguments = self.text.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        arguments.is_some_and(|(_, rest)| {
            let first = rest.trim_start().trim_start_matches('&');
            first.starts_with("self") || first.starts_with("mut self")
        })
    }
}

/// What a function is to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kernel,
    Device,
}

impl Kind {
    fn attribute(self) -> &'static str {
        match self {
            Kind::Kernel => "#[kernel",
            Kind::Device => "#[device",
        }
    }
}

/// The `#[kernel]` function of that name whose comment has these lines, which tell functions of one name apart.
#[must_use]
pub fn find_kernel(name: &str, doc: &[String]) -> Option<Snippet> {
    let mut named: Vec<Snippet> = of_kind(Kind::Kernel).filter(|snippet| snippet.name == name).collect();
    let documented =
        named.iter().position(|snippet| doc.iter().all(|line| snippet.text.contains(line.as_str())));
    (!named.is_empty()).then(|| named.swap_remove(documented.unwrap_or(0)))
}

/// The `#[device]` functions that a kernel calls, at any depth, in the order in which they are met. Of functions that are
/// there once for every weight type, those of types that `constants` does not name are left out.
#[must_use]
pub fn helpers(kernel: &Snippet, constants: &str) -> Vec<Snippet> {
    let every: Vec<Snippet> = of_kind(Kind::Device).collect();
    let mut found: Vec<Snippet> = Vec::new();
    let mut next = vec![kernel.clone()];
    while let Some(caller) = next.pop() {
        let mut called: Vec<Snippet> = Vec::new();
        for call in calls(&caller.text) {
            let Some(callee) = nearest(&every, call, caller.path) else { continue };
            let known = found.iter().chain(&called).any(|f| f == callee);
            if !known && callee != &caller && serves(call.name, constants) {
                called.push(callee.clone());
            }
        }
        found.extend(called.iter().cloned());
        next.extend(called.into_iter().rev());
    }
    found
}

/// Functions of one name may live in several files: the caller's own comes first, then its folder; one from elsewhere must
/// be in a `use` of the caller's file.
fn nearest<'a>(every: &'a [Snippet], call: Call<'_>, path: &str) -> Option<&'a Snippet> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let distance = |snippet: &&Snippet| match snippet.path {
        found if found == path => 0,
        found if folder(found) == folder(path) => 1,
        _ => 2,
    };
    let fits = |snippet: &&Snippet| snippet.name == call.name && snippet.is_method() == call.method;
    let found = every.iter().filter(fits).min_by_key(distance)?;
    (distance(&found) < 2 || is_used(call.name, path)).then_some(found)
}

/// Whether a file brings in this name.
fn is_used(name: &str, path: &str) -> bool {
    let text = SOURCES.iter().find(|file| file.path == path).map_or("", |file| file.text);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let statements = text.split(';').filter(|statement| statement.trim_start().starts_with("use "));
    statements.flat_map(|statement| statement.split(move |c| !is_name(c))).any(|word| word == name)
}

/// Whether a helper is one for all weight types, or for one that these constants name.
fn serves(name: &str, constants: &str) -> bool {
    let of_type = QType::ALL.into_iter().filter(|qtype| !PLAIN.contains(qtype)).find(|qtype| {
        let tag = format!("{qtype:?}").to_lowercase();
        name.strip_suffix(tag.as_str()).is_some_and(|rest| rest.ends_with('_'))
    });
    of_type.is_none_or(|qtype| constants.contains(&format!("{qtype:?}")))
}

/// A call in a text: the name, and whether it is one of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call<'a> {
    name: &'a str,
    method: bool,
}

/// What a function calls: lower-case names before an opening parenthesis or generic arguments.
fn calls(text: &str) -> Vec<Call<'_>> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for name in line.split(|c: char| !is_name(c)).filter(|word| !word.is_empty()) {
            let start = name.as_ptr().addr() - line.as_ptr().addr();
            let (before, after) = (&line[..start], &line[start + name.len()..]);
            let called = after.starts_with('(') || after.starts_with("::<");
            if called && name.starts_with(|c: char| c.is_ascii_lowercase()) && !before.ends_with("fn ") {
                found.push(Call { name, method: before.ends_with('.') });
            }
        }
    }
    found
}

fn of_kind(kind: Kind) -> impl Iterator<Item = Snippet> {
    SOURCES.iter().flat_map(move |file| snippets(file, kind))
}

/// Every function of a kind in a file. The files are formatted, so that a function ends at the first closing brace that
/// stands as far in as its attribute.
fn snippets(file: &SourceFile, kind: Kind) -> Vec<Snippet> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if !code.starts_with(kind.attribute()) {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let rest = &lines[at..];
        let Some(name) = rest.iter().find_map(|line| function_name(line)) else { continue };
        let closing = format!("{indent}}}");
        let Some(end) = rest.iter().position(|line| *line == closing) else { continue };
        let is_doc = |line: &&&str| line.trim_start().starts_with("///");
        let first = at - lines[..at].iter().rev().take_while(is_doc).count();
        let text: Vec<&str> =
            lines[first..=at + end].iter().map(|line| line.strip_prefix(indent).unwrap_or(line)).collect();
        found.push(Snippet {
            name: name.to_owned(),
            path: file.path,
            line: first + 1,
            text: text.join("\n"),
        });
    }
    found
}

/// `gemv` out of `pub fn gemv(s: &Gemv, …`.
fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_plain = before.is_empty() || before.ends_with(' ');
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    (is_plain && !line.trim_start().starts_with("//")).then(|| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use codegen::Device;

    #[test]
    fn every_kernel_of_the_built_in_model_has_its_source() {
        let spec = crate::specs::find("tiny").unwrap();
        let plan = codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap();
        assert!(!plan.operations.is_empty());
        for operation in &plan.operations {
            let kernel = operation.build().unwrap();
            let source = find_kernel(&kernel.name, &kernel.doc);
            let source =
                source.unwrap_or_else(|| panic!("{}: no function {}", operation.name(), kernel.name));
            assert!(kernel.doc.iter().all(|line| source.text.contains(line)), "{source:?}");
            assert!(source.text.contains(&format!("fn {}(", kernel.name)), "{source:?}");
        }
    }

    #[test]
    fn a_product_leads_to_the_arithmetic_of_its_type_and_of_no_other() {
        let gemv = of_kind(Kind::Kernel).find(|snippet| snippet.name == "gemv").unwrap();
        let names = |constants| helpers(&gemv, constants).into_iter().map(|s| s.name).collect::<Vec<_>>();
        let of_q4k = names("Matrix { qtype: Q4K }");
        assert!(of_q4k.iter().any(|name| name.ends_with("_q4k")), "{of_q4k:?}");
        assert!(of_q4k.iter().all(|name| !name.ends_with("_q6k")), "{of_q4k:?}");
        assert!(names("Q6K").iter().any(|name| name.ends_with("_q6k")));
    }

    #[test]
    fn functions_are_cut_out_whole() {
        let text = "mod m {\n    /// Doc.\n    #[device]\n    pub fn twice(x: V<u32>) -> V<u32> {\n        x * 2\n    }\n}\n";
        let found = snippets(&SourceFile { path: "m.rs", text }, Kind::Device);
        let text = "/// Doc.\n#[device]\npub fn twice(x: V<u32>) -> V<u32> {\n    x * 2\n}";
        let expected = Snippet { name: "twice".into(), path: "m.rs", line: 2, text: text.into() };
        assert_eq!(found, [expected]);
    }
}
