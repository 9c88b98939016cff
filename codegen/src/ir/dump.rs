//! The IR as text, for tests and for reading what a pass did.

use super::{Arg, Block, Function, MemBase, Operand, Stmt, ValueId};
use std::fmt::Write;

/// One line a statement, regions indented.
pub fn dump(function: &Function) -> String {
    let mut text = String::new();
    block(&mut text, &function.body, 0);
    text
}

/// The instruction's name with its modifiers and types: `fma.rn.f32`.
pub fn form(form: ptx::Form) -> String {
    let row = form.row();
    let mut text = row.name.to_owned();
    for axis in row.axes {
        for m in axis.choices.iter().filter(|m| form.mods.has(**m)) {
            let _infallible = write!(text, ".{m}");
        }
    }
    for ty in form.types.iter() {
        let _infallible = write!(text, ".{ty}");
    }
    text
}

fn id(value: ValueId) -> String {
    format!("v{}", value.0)
}

fn operand(operand: Operand) -> String {
    match operand {
        Operand::Value(value) => id(value),
        Operand::Imm(imm) if imm.0 < 65536 => imm.0.to_string(),
        Operand::Imm(imm) => format!("{:#x}", imm.0),
    }
}

fn arg(arg: &Arg) -> String {
    match arg {
        Arg::One(one) => operand(*one),
        Arg::List(list) => format!("{{{}}}", list.iter().map(|o| operand(*o)).collect::<Vec<_>>().join(", ")),
        Arg::Mem(base, offset) => {
            let base = match base {
                MemBase::Value(value) => id(*value),
                MemBase::Param(i) => format!("param{i}"),
                MemBase::Shared(i) => format!("shared{i}"),
            };
            format!("[{base}{offset:+}]")
        }
        Arg::Special(special) => special.text().to_owned(),
        Arg::SharedAddr(i) => format!("shared{i}"),
    }
}

fn block(text: &mut String, of: &Block, depth: usize) {
    let pad = "  ".repeat(depth);
    for stmt in &of.stmts {
        match stmt {
            Stmt::Note(note) => *text += &format!("{pad}// {note}\n"),
            Stmt::Inst(inst) => {
                let results: Vec<String> = inst.results.iter().map(|r| id(*r)).collect();
                let args: Vec<String> = inst.args.iter().map(arg).collect();
                let equals = if results.is_empty() { "" } else { " = " };
                *text +=
                    &format!("{pad}{}{equals}{} {}\n", results.join(", "), form(inst.form), args.join(", "));
            }
            Stmt::If(branch) => {
                *text += &format!("{pad}if {}\n", operand(branch.cond));
                block(text, &branch.then, depth + 1);
                *text += &format!("{pad}else\n");
                block(text, &branch.otherwise, depth + 1);
                for m in &branch.merges {
                    *text +=
                        &format!("{pad}{} = {} | {}\n", id(m.result), operand(m.then), operand(m.otherwise));
                }
            }
            Stmt::Loop(l) => {
                *text += &format!("{pad}loop\n");
                for c in &l.carried {
                    *text +=
                        &format!("{pad}  {} = {} then {}\n", id(c.param), operand(c.init), operand(c.next));
                }
                block(text, &l.head, depth + 1);
                *text += &format!("{pad}while {}\n", operand(l.cond));
                block(text, &l.body, depth + 1);
            }
        }
    }
}
