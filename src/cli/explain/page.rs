//! An explanation as text for a terminal of 100 columns.

use super::super::kernels::{BANDWIDTH, extent};
use super::super::style::{Palette, Style};
use super::super::table_text::grouped;
use super::{Explanation, Line, Run, Source};

/// Columns of a line.
const WIDTH: usize = 100;
/// Columns of the names in the header.
const NAMES: usize = 11;
/// Columns of a line number and the blank behind it.
const NUMBERS: usize = 5;
/// Columns of PTX when machine code stands beside it.
const PTX_BESIDE: usize = 48;

impl Explanation {
    /// Equation, shapes, layout, launch, source, and what of it is baked in.
    pub(super) fn header_lines(&self, palette: Palette) -> Vec<String> {
        let title = format!("{} · spec {} · sm_{}", self.entry, self.spec, self.sm);
        let mut lines = vec![palette.paint(Style::Bold, &title), String::new()];
        for (place, text) in self.header.iter().enumerate() {
            // The equation has no name in front of it.
            let (name, text) = match text.split_once(' ') {
                Some((name, rest)) if place > 0 => (name, rest.trim_start()),
                _ => (if place == 0 { "equation" } else { "" }, text.as_str()),
            };
            push_named(&mut lines, palette, (name, text));
        }
        lines.push(String::new());
        push_named(&mut lines, palette, ("constants", &self.constants));
        let (grid, block) = (extent(self.grid), extent(self.block));
        let here = format!("grid {grid}, block {block}, shared {} bytes", self.shared_bytes);
        push_named(&mut lines, palette, ("here", &here));
        push_named(&mut lines, palette, ("takes", &self.resources()));
        push_named(&mut lines, palette, ("moves", &self.cost()));
        push_named(&mut lines, palette, ("runs", &runs(&self.runs)));
        lines
    }

    fn resources(&self) -> String {
        match (self.registers, self.spill_bytes) {
            (Some(registers), Some(0)) => format!("{registers} registers a thread, no spills"),
            (Some(registers), spills) => {
                format!("{registers} registers a thread, {} bytes of spills", spills.unwrap_or(0))
            }
            (None, _) => "registers unknown: no ptxas".to_owned(),
        }
    }

    fn cost(&self) -> String {
        format!(
            "{} bytes for {} multiply-adds, {:.2} a byte: not under {:.2} µs at {:.1} TB/s",
            grouped(self.bytes),
            grouped(self.macs),
            self.intensity,
            self.floor_us,
            BANDWIDTH / 1e12
        )
    }

    /// The kernel as it is written, and where what it calls is.
    pub(super) fn source_lines(&self, palette: Palette) -> Vec<String> {
        let Some(source) = &self.source else {
            return vec![String::new(), "source: none is embedded for it".to_owned()];
        };
        let mut lines = snippet(source, palette);
        if self.helpers.is_empty() {
            return lines;
        }
        let places = self
            .helpers
            .iter()
            .map(|helper| format!("{} {}:{}", helper.name, short(helper.path), helper.line));
        let list = places.collect::<Vec<_>>().join(", ");
        lines.push(String::new());
        push_named(&mut lines, palette, ("calls", &format!("{list} (--helpers shows them)")));
        lines
    }

    pub(super) fn helper_lines(&self, palette: Palette) -> Vec<String> {
        self.helpers.iter().flat_map(|helper| snippet(helper, palette)).collect()
    }

    /// PTX with its line numbers; beside each line the machine code that was made from it.
    pub(super) fn code_lines(&self, palette: Palette) -> Vec<String> {
        let mut lines = vec![String::new()];
        let title = match &self.sass {
            Some(sass) => format!("PTX, and the {} machine instructions that ptxas made of it", sass.len()),
            None => "PTX".to_owned(),
        };
        lines.push(palette.paint(Style::Bold, &title));
        if let Some(missing) = &self.missing {
            lines.extend(wrap(missing, WIDTH).iter().map(|line| palette.paint(Style::Weak, line)));
        }
        lines.push(String::new());
        let is_declaration = |text: &str| text.trim_start().starts_with(".reg ");
        let declared = self.ptx.lines().filter(|line| is_declaration(line)).count();
        let mut skipped = false;
        for (index, text) in self.ptx.lines().enumerate() {
            // The comment at the top is the header again.
            if text.starts_with("//") || skipped && is_declaration(text) {
                continue;
            }
            let mut text = text.replace('\t', "  ");
            if is_declaration(&text) {
                skipped = true;
                text = format!("  // {declared} lines of .reg, named after the source's variables");
            }
            let number = index + 1;
            match &self.sass {
                None => push_numbered(&mut lines, palette, (number, &text)),
                Some(sass) => {
                    let made: Vec<&Line> = sass.iter().filter(|line| line.ptx_line == Some(number)).collect();
                    push_beside(&mut lines, palette, (number, &text, &made));
                }
            }
        }
        lines
    }
}

fn runs(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "when weights are loaded".to_owned();
    }
    let times = |run: &Run| {
        let rows = if run.rows == 1 { "1 row".to_owned() } else { format!("{} rows", run.rows) };
        format!("{} × in a {} step of {rows}", run.launches, run.step)
    };
    runs.iter().map(times).collect::<Vec<_>>().join(", ")
}

/// A path as one says it among kernels.
fn short(path: &str) -> &str {
    path.strip_prefix("codegen/src/kernels/").unwrap_or(path)
}

fn snippet(source: &Source, palette: Palette) -> Vec<String> {
    let title = format!("{}:{}", source.path, source.line);
    let mut lines = vec![String::new(), palette.paint(Style::Bold, &title), String::new()];
    for (index, text) in source.text.lines().enumerate() {
        push_numbered(&mut lines, palette, (source.line + index, text));
    }
    lines
}

/// `name       text`, the text in a column of its own.
fn push_named(lines: &mut Vec<String>, palette: Palette, (name, text): (&str, &str)) {
    for (index, part) in wrap(text, WIDTH - NAMES - 2).iter().enumerate() {
        let name = if index == 0 { name } else { "" };
        let name = palette.paint(Style::Dim, &format!("{name:<NAMES$}"));
        lines.push(format!("  {name}{part}"));
    }
}

fn push_numbered(lines: &mut Vec<String>, palette: Palette, (number, text): (usize, &str)) {
    for (index, part) in wrap(text, WIDTH - NUMBERS).iter().enumerate() {
        let number = if index == 0 { format!("{number:>4} ") } else { " ".repeat(NUMBERS) };
        lines.push(format!("{}{part}", palette.paint(Style::Dim, &number)).trim_end().to_owned());
    }
}

fn push_beside(lines: &mut Vec<String>, palette: Palette, (number, ptx, sass): (usize, &str, &[&Line])) {
    let left = wrap(ptx, PTX_BESIDE);
    // Number, PTX, two blanks, address, machine code.
    let room = WIDTH - NUMBERS - PTX_BESIDE - 2 - NUMBERS;
    let mut right = Vec::new();
    for line in sass {
        for (index, part) in wrap(&line.text, room).iter().enumerate() {
            let address = if index == 0 { format!("{:04x} ", line.address) } else { " ".repeat(NUMBERS) };
            right.push(format!("{}{part}", palette.paint(Style::Dim, &address)));
        }
    }
    for index in 0..left.len().max(right.len()) {
        let number = if index == 0 { format!("{number:>4} ") } else { " ".repeat(NUMBERS) };
        let number = palette.paint(Style::Dim, &number);
        let ptx = left.get(index).map_or("", String::as_str);
        let sass = right.get(index).map_or("", String::as_str);
        lines.push(format!("{number}{ptx:<PTX_BESIDE$}  {sass}").trim_end().to_owned());
    }
}

/// `text` in lines of at most `width` columns, broken at blanks where there are any; what follows is two columns further in.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent = text.len() - text.trim_start().len();
    let hanging = " ".repeat((indent + 2).min(width / 2));
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let blank = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > indent + 2);
        let (end, next) = blank.map_or((width, width), |at| (at, at + 1));
        let tail: Vec<char> = hanging.chars().chain(rest[next..].iter().copied()).collect();
        rest.truncate(end);
        lines.push(rest.iter().collect());
        rest = tail;
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn long_lines_break_at_blanks() {
        assert_eq!(wrap("short", 20), ["short"]);
        assert_eq!(wrap("  one two three", 10), ["  one two", "    three"]);
        // Nothing to break at: it breaks anyway, and nothing is lost.
        let long = "x".repeat(25);
        let parts = wrap(&long, 10);
        assert!(parts.iter().all(|part| part.chars().count() <= 10), "{parts:?}");
        assert_eq!(parts.concat().replace(' ', ""), long);
    }
}
