//! Every rule of the verifier, by a module that breaks it alone.

use monomorph_ptx::*;

fn module(entries: Vec<Entry>) -> Module {
    Module { header: vec![], version: (8, 1), target: Target { sm: 90, arch_specific: false }, entries }
}

fn inst(op: Op, mods: &[Mod], types: &[Ty], operands: Vec<Operand>) -> Inst {
    Inst::new(Form::new(op, mods, Types::from_list(types).unwrap_or_default()), operands)
}

fn r(reg: Reg) -> Operand {
    Operand::Reg(reg)
}

fn imm(bits: u64) -> Operand {
    Operand::Imm(Imm(bits))
}

fn at(base: AddrBase, offset: i32) -> Operand {
    Operand::Addr(Addr { base, offset })
}

fn bulk(operands: Vec<Operand>) -> Inst {
    let mods = [Mod::Async, Mod::Bulk, Mod::SharedCluster, Mod::Global, Mod::CompleteTx];
    inst(Op::CopyBulk, &mods, &[], operands)
}

fn dynamic(name: &str, bytes: u32) -> SharedDecl {
    SharedDecl { name: name.to_owned(), align: 128, bytes, storage: Storage::Dynamic }
}

fn ret() -> Inst {
    inst(Op::Ret, &[], &[], vec![])
}

/// An entry with one written register of each type, a parameter and a shared variable.
struct Kit {
    b: EntryBuilder,
    p: Reg,
    h: Reg,
    i: Reg,
    f: Reg,
    l: Reg,
}

impl Kit {
    fn new() -> Kit {
        let mut b = EntryBuilder::new("kernel", [128, 1, 1]);
        b.param("arguments", Ty::U64);
        b.shared("tile", 8, 32);
        b.shared("ring", 128, 64);
        let mut make = |name, ty| {
            let reg = b.reg(name, ty);
            b.emit(inst(Op::Mov, &[], &[ty], vec![r(reg), imm(0)]));
            reg
        };
        let (p, h, i) = (make("p", Ty::Pred), make("h", Ty::B16), make("i", Ty::B32));
        let (f, l) = (make("f", Ty::F32), make("l", Ty::B64));
        Kit { b, p, h, i, f, l }
    }

    fn end(mut self) -> Entry {
        self.b.emit(ret());
        self.b.finish()
    }
}

fn error(module: Module) -> String {
    match verify(module) {
        Ok(verified) => format!("accepted:\n{}", print(&verified)),
        Err(error) => error.to_string(),
    }
}

/// The error of one instruction in an otherwise good entry.
fn broken(make: impl Fn(&mut Kit) -> Inst) -> String {
    let mut kit = Kit::new();
    let made = make(&mut kit);
    kit.b.emit(made);
    error(module(vec![kit.end()]))
}

/// The error of a good entry after a change.
fn changed(change: impl Fn(&mut Entry)) -> String {
    let mut entry = Kit::new().end();
    change(&mut entry);
    error(module(vec![entry]))
}

macro_rules! rejects {
    ($($name:ident: $error:expr => $part:literal;)*) => {
        $(#[test]
        fn $name() {
            let error = $error;
            assert!(error.contains($part), "{error}");
        })*
    };
}

#[test]
fn the_kit_alone_is_accepted() {
    assert_eq!(error(module(vec![Kit::new().end()])).lines().next(), Some("accepted:"));
}

const ADD: (Op, &[Mod], &[Ty]) = (Op::AddInt, &[], &[Ty::U32]);

fn add(operands: Vec<Operand>) -> Inst {
    inst(ADD.0, ADD.1, ADD.2, operands)
}

fn ld(mods: &[Mod], ty: Ty, dst: Operand, address: Operand) -> Inst {
    inst(Op::Ld, mods, &[ty], vec![dst, address])
}

rejects! {
    names_entry_and_statement: broken(|k| add(vec![r(k.i), r(k.f), imm(1)]))
        => "entry `kernel`: `add.u32 %i_0, %f_0, 1;`: operand 1: %f_0 is a .f32 register, the instruction needs a .b32";
    forms: broken(|k| inst(Op::AddF, &[], &[Ty::F32], vec![r(k.f), r(k.f), r(k.f)])) => "`add` needs one of `.rn`";
    target_level: {
        let mut kit = Kit::new();
        kit.b.emit(inst(Op::GridDepControl, &[Mod::Wait], &[], vec![]));
        let mut module = module(vec![kit.end()]);
        module.target.sm = 80;
        error(module)
    } => "needs sm_90, the module's target is sm_80";
    modifier_level: {
        let mut kit = Kit::new();
        let f = kit.f;
        kit.b.emit(inst(Op::MinF, &[Mod::Nan], &[Ty::F32], vec![r(f), r(f), r(f)]));
        let mut module = module(vec![kit.end()]);
        module.target.sm = 75;
        error(module)
    } => "needs sm_80";
    version: error(Module { version: (8, 3), ..module(vec![]) }) => "`.version 8.3` is not that of modules for sm_90, 8.1";
    version_of_later_targets: error(Module { target: Target { sm: 120, arch_specific: false }, ..module(vec![]) })
        => "`.version 8.1` is not that of modules for sm_120, 8.7";
    unknown_target: error(Module { target: Target { sm: 91, arch_specific: false }, ..module(vec![]) }) => "no target sm_91";
    arch_specific_target: error(Module { target: Target { sm: 80, arch_specific: true }, ..module(vec![]) }) => "no target sm_80a";
    operand_count: broken(|k| add(vec![r(k.i), r(k.i)])) => "takes 3 operands, found 2";
    operand_kind: broken(|k| add(vec![imm(1), r(k.i), r(k.i)])) => "operand 0 must be a register, found an immediate";
    literal_kind: broken(|k| inst(Op::BarSync, &[Mod::Sync], &[], vec![r(k.i)])) => "must be an immediate";
    float_in_integer_register: broken(|k| inst(Op::AddF, &[Mod::Rn], &[Ty::F32], vec![r(k.i), r(k.f), r(k.f)]))
        => "%i_0 is a .b32 register, the instruction needs a .f32 register";
    bits_of_another_width: broken(|k| inst(Op::Mov, &[], &[Ty::B32], vec![r(k.i), r(k.h)])) => "%h_0 is a .b16 register";
    shift_count_register: broken(|k| inst(Op::Shl, &[], &[Ty::B64], vec![r(k.l), r(k.l), r(k.l)])) => "operand 2: %l_0";
    wide_destination: broken(|k| inst(Op::MulWide, &[Mod::Wide], &[Ty::U32], vec![r(k.i), r(k.i), r(k.i)]))
        => "needs a .b64 register for .u64";
    narrow_load_register: broken(|k| ld(&[Mod::Global], Ty::U32, r(k.h), at(AddrBase::Reg(k.l), 0)))
        => "%h_0 is a .b16 register";
    register_range: broken(|k| add(vec![r(k.i), r(Reg { index: 7, ..k.i }), imm(0)])) => "register %i_7 is outside its bank of 1";
    bank_range: broken(|k| add(vec![r(k.i), r(Reg { bank: 50, index: 0 }), imm(0)])) => "bank 50 does not exist, the entry has 5";
    guard_type: broken(|k| {
        let guard = Some(Guard { reg: k.i, negated: false });
        Inst { guard, ..add(vec![r(k.i), r(k.i), imm(1)]) }
    }) => "guard %i_0 is a .b32 register, not .pred";
    immediate_range: broken(|k| add(vec![r(k.i), r(k.i), imm(1 << 32)])) => "immediate 0x100000000 does not fit .u32";
    predicate_immediate: broken(|k| inst(Op::And, &[], &[Ty::Pred], vec![r(k.p), r(k.p), imm(1)])) => "a predicate register";
    barrier_number: broken(|_| inst(Op::BarSync, &[Mod::Sync], &[], vec![imm(16)])) => "barrier 16 is not below 16";
    truth_table: broken(|k| inst(Op::Lop3, &[], &[Ty::B32], vec![r(k.i), r(k.i), r(k.i), r(k.i), imm(256)]))
        => "truth table 0x100 does not fit 8 bits";
    vector_length: broken(|k| ld(&[Mod::Global, Mod::V4], Ty::U32, Operand::List(vec![k.i]), at(AddrBase::Reg(k.l), 0)))
        => "operand 0 has 1 registers, the instruction needs 4";
    list_for_scalar: broken(|k| ld(&[Mod::Global], Ty::U32, Operand::List(vec![k.i]), at(AddrBase::Reg(k.l), 0)))
        => "operand 0 must be a register, found a list";
    written_twice: broken(|k| ld(&[Mod::Global, Mod::V2], Ty::U32, Operand::List(vec![k.i; 2]), at(AddrBase::Reg(k.l), 0)))
        => "register %i_0 is written twice";
    packed_width: broken(|k| inst(Op::Mov, &[], &[Ty::B32], vec![r(k.i), Operand::List(vec![k.i, k.i])]))
        => "the list has 64 bits, .b32 has 32";
    packed_type: broken(|k| inst(Op::Mov, &[], &[Ty::U32], vec![r(k.i), Operand::List(vec![k.h, k.h])])) => "a list for .u32";
    lists_on_both_sides: broken(|k| {
        let list = || Operand::List(vec![k.i]);
        inst(Op::Mov, &[], &[Ty::B32], vec![list(), list()])
    }) => "one side of mov is a list";
    packed_immediate: broken(|k| {
        let h2 = k.b.reg("h", Ty::B16);
        inst(Op::Mov, &[], &[Ty::B32], vec![Operand::List(vec![k.h, h2]), imm(3)])
    }) => "a register beside a list";
    special_width: broken(|k| inst(Op::Mov, &[], &[Ty::U64], vec![r(k.l), Operand::Special(Special::TidX)])) => "operand 1 must be a value of the type";
    shared_address_width: broken(|k| inst(Op::Mov, &[], &[Ty::U64], vec![r(k.l), Operand::SharedAddr(0)])) => "operand 1 must be a value of the type";
    shared_address_dangling: broken(|k| inst(Op::Mov, &[], &[Ty::U32], vec![r(k.i), Operand::SharedAddr(3)]))
        => "shared variable 3 does not exist, the entry has 2";
    shuffle_pair: broken(|k| inst(Op::ShflSync, &[Mod::Sync, Mod::Bfly], &[Ty::B32],
        vec![Operand::Pair(k.i, k.f), r(k.i), imm(1), imm(31), imm(0xffff_ffff)])) => "operand 0: %f_0 is a .f32 register";
    shuffle_mask: broken(|k| inst(Op::ShflSync, &[Mod::Sync, Mod::Bfly], &[Ty::B32],
        vec![r(k.i), r(k.i), imm(1), imm(31), r(k.l)])) => "operand 4: %l_0 is a .b64 register";
    misaligned_vector: broken(|k| {
        let other = k.b.reg("i", Ty::B32);
        ld(&[Mod::Global, Mod::V2], Ty::U32, Operand::List(vec![k.i, other]), at(AddrBase::Reg(k.l), 12))
    }) => "offset 12 is not a multiple of the access size 8";
    bulk_source_space: broken(|_| bulk(vec![at(AddrBase::Shared(1), 0), at(AddrBase::Shared(1), 0), imm(16), at(AddrBase::Shared(1), 0)]))
        => "`ring` is of state space shared, the access is to global";
    bulk_size: broken(|k| bulk(vec![at(AddrBase::Shared(1), 0), at(AddrBase::Reg(k.l), 0), imm(24), at(AddrBase::Shared(1), 0)]))
        => "a bulk copy of 24 bytes; its size is a multiple of 16";
    bulk_alignment: broken(|k| bulk(vec![at(AddrBase::Shared(1), 8), at(AddrBase::Reg(k.l), 0), imm(16), at(AddrBase::Shared(1), 0)]))
        => "offset 8 is not a multiple of the access size 16";
    bulk_destination: broken(|k| bulk(vec![at(AddrBase::Shared(0), 0), at(AddrBase::Reg(k.l), 0), imm(16), at(AddrBase::Shared(1), 0)]))
        => "`tile` is aligned to 8 bytes, the access needs 16";
    bulk_mbarrier: broken(|k| bulk(vec![at(AddrBase::Shared(1), 0), at(AddrBase::Reg(k.l), 0), imm(16), at(AddrBase::Shared(1), 12)]))
        => "offset 12 is not a multiple of the access size 8";
    bulk_source_width: broken(|k| bulk(vec![at(AddrBase::Shared(1), 0), at(AddrBase::Reg(k.i), 0), imm(16), at(AddrBase::Shared(1), 0)]))
        => "%i_0 is a .b32 register, the instruction needs a .b64 address";
    mbarrier_in_global: broken(|k| inst(Op::MbarrierInit, &[Mod::Init, Mod::Global], &[Ty::B64], vec![at(AddrBase::Reg(k.l), 0), imm(1)]))
        => "`mbarrier` takes no `.global`";
    dynamic_size: changed(|e| e.shared.push(dynamic("more", 4))) => "dynamic shared variable `more`: there is one, the last";
    dynamic_twice: changed(|e| e.shared.extend([dynamic("more", 0), dynamic("most", 0)]))
        => "dynamic shared variable `more`: there is one, the last";
    dynamic_name: changed(|e| e.shared.push(dynamic("kernel", 0))) => "module name `kernel` stands for an entry and a dynamic shared variable";
    dynamic_end: changed(|e| {
        e.shared.push(dynamic("more", 0));
        let load = ld(&[Mod::Shared], Ty::U32, r(Reg { bank: 2, index: 0 }), at(AddrBase::Shared(2), 227 * 1024));
        e.body.insert(0, Stmt::Inst(load));
    }) => "bytes 232448..232452 are outside `more` of 232448 bytes";
    misaligned_shared: broken(|k| ld(&[Mod::Shared], Ty::U32, r(k.i), at(AddrBase::Shared(0), 2)))
        => "offset 2 is not a multiple of the access size 4";
    under_aligned: broken(|k| {
        let regs = [(); 3].map(|()| k.b.reg("i", Ty::B32));
        let list = vec![k.i, regs[0], regs[1], regs[2]];
        ld(&[Mod::Shared, Mod::V4], Ty::U32, Operand::List(list), at(AddrBase::Shared(0), 0))
    }) => "`tile` is aligned to 8 bytes, the access needs 16";
    outside_shared: broken(|k| ld(&[Mod::Shared], Ty::U32, r(k.i), at(AddrBase::Shared(0), 32)))
        => "bytes 32..36 are outside `tile` of 32 bytes";
    outside_parameter: broken(|k| ld(&[Mod::Param], Ty::U64, r(k.l), at(AddrBase::Param(0), 8)))
        => "bytes 8..16 are outside `arguments` of 8 bytes";
    parameter_dangling: broken(|k| ld(&[Mod::Param], Ty::U64, r(k.l), at(AddrBase::Param(2), 0)))
        => "parameter 2 does not exist, the entry has 1";
    shared_in_parameter_space: broken(|k| ld(&[Mod::Param], Ty::U32, r(k.i), at(AddrBase::Shared(0), 0)))
        => "`tile` is of state space shared, the access is to param";
    parameter_in_global_space: broken(|k| ld(&[Mod::Global], Ty::U64, r(k.l), at(AddrBase::Param(0), 0)))
        => "`arguments` is of state space param, the access is to global";
    parameter_by_register: broken(|k| ld(&[Mod::Param], Ty::U64, r(k.l), at(AddrBase::Reg(k.l), 0))) => "whose variables are named";
    store_to_parameter: broken(|k| inst(Op::St, &[Mod::Param], &[Ty::U64], vec![at(AddrBase::Param(0), 0), r(k.l)]))
        => "`st` takes no `.param`";
    global_address_width: broken(|k| ld(&[Mod::Global], Ty::U32, r(k.i), at(AddrBase::Reg(k.i), 0)))
        => "%i_0 is a .b32 register, the instruction needs a .b64 address";
    shared_address_register: broken(|k| ld(&[Mod::Shared], Ty::U32, r(k.i), at(AddrBase::Reg(k.l), 0)))
        => "%l_0 is a .b64 register, the instruction needs a .b32 address";
    no_memory_operand: broken(|k| ld(&[Mod::Global], Ty::U32, r(k.i), r(k.l))) => "must be a memory operand";
    no_label_operand: broken(|k| inst(Op::Bra, &[], &[], vec![r(k.i)])) => "must be a label";
    label_dangling: broken(|_| inst(Op::Bra, &[], &[], vec![Operand::Label(Label(4))])) => "label 4 does not exist, the entry has 0";
    label_undefined: broken(|k| {
        let label = k.b.label("away");
        inst(Op::Bra, &[], &[], vec![Operand::Label(label)])
    }) => "label `AWAY` is defined 0 times";
    label_defined_twice: changed(|e| {
        e.labels.push("HERE".to_owned());
        e.body.insert(0, Stmt::Label(Label(0)));
        e.body.insert(0, Stmt::Label(Label(0)));
    }) => "label `HERE` is defined 2 times";
    label_statement_dangling: changed(|e| e.body.insert(0, Stmt::Label(Label(9)))) => "label 9 does not exist";
    label_name: changed(|e| e.labels.push("loop".to_owned())) => "label name `loop` is not of the form [A-Z]";
    label_names_unique: changed(|e| e.labels.extend(["A".to_owned(), "A".to_owned()])) => "label name `A` stands for a label and a label";
    open_end: changed(|e| drop(e.body.pop())) => "control runs past this to the end";
    guarded_end: changed(|e| {
        let guard = Some(Guard { reg: Reg { bank: 0, index: 0 }, negated: false });
        e.body.pop();
        e.body.push(Stmt::Inst(Inst { guard, ..ret() }));
    }) => "control runs past this to the end";
    empty_body: changed(|e| e.body = vec![Stmt::Comment("nothing".to_owned())]) => "the body is empty";
    entry_names_unique: error(module(vec![Kit::new().end(), Kit::new().end()])) => "entry name `kernel` stands for an entry and an entry";
    entry_name: changed(|e| e.name = "2nd".to_owned()) => "entry name `2nd` is not of the form";
    entry_name_reserved: changed(|e| e.name = "shl".to_owned()) => "PTX reserves it";
    parameter_name: changed(|e| e.params[0].name = "%x".to_owned()) => "parameter name `%x` is not of the form";
    variable_names_unique: changed(|e| e.shared[0].name = "arguments".to_owned())
        => "variable name `arguments` stands for a parameter and a shared variable";
    parameter_type: changed(|e| e.params[0].ty = Ty::Pred) => "parameter `arguments`: .pred is not a parameter type";
    bank_name: changed(|e| e.banks[0].name = "Acc".to_owned()) => "bank name `Acc` is not of the form";
    bank_names_unique: changed(|e| e.banks[0].name = "i".to_owned()) => "bank name `i` stands for a bank and a bank";
    bank_type: changed(|e| e.banks[2].ty = Ty::U32) => "registers cannot be declared as .u32; bank `i`";
    bank_count: changed(|e| e.banks[2].count = 0) => "bank `i` has size 0";
    threads: changed(|e| e.reqntid = [1024, 2, 1]) => ".reqntid 1024, 2, 1 has 2048 threads";
    no_threads: changed(|e| e.reqntid = [0, 1, 1]) => "has 0 threads";
    min_ctas: changed(|e| e.min_ctas_per_sm = Some(33)) => ".minnctapersm 33 is outside 1 to 32";
    shared_alignment: changed(|e| e.shared[0].align = 12) => "alignment 12 is not a power of two";
    shared_empty: changed(|e| e.shared[0].bytes = 0) => "shared variable `tile` has size 0";
    shared_total: changed(|e| e.shared.push(SharedDecl { name: "big".to_owned(), align: 128, bytes: 49_152 - 128, storage: Storage::Static }))
        => "static shared memory is 49280 bytes, the limit is 49152";
    comment_with_break: changed(|e| e.doc.push("one\ntwo".to_owned())) => "has a line break";
    comment_with_space: changed(|e| e.body.insert(0, Stmt::Comment(" x".to_owned()))) => "leading space";
    header_with_break: error(Module { header: vec!["a\nret;".to_owned()], ..module(vec![]) }) => "has a line break";
}

#[test]
fn a_read_before_any_write_is_an_error() {
    let error = broken(|k| {
        let fresh = k.b.reg("fresh", Ty::U32);
        add(vec![r(k.i), r(fresh), imm(1)])
    });
    assert!(error.contains("register %fresh_0 is read here, but the path through the start"), "{error}");
}

#[test]
fn a_guarded_write_may_not_happen() {
    let error = broken(|k| {
        let fresh = k.b.reg("fresh", Ty::U32);
        let guard = Guard { reg: k.p, negated: false };
        k.b.emit_guarded(guard, inst(Op::Mov, &[], &[Ty::U32], vec![r(fresh), imm(1)]));
        add(vec![r(k.i), r(fresh), imm(1)])
    });
    assert!(error.contains("%fresh_0 is read here"), "{error}");
}

/// `@p bra ELSE; x = 1; bra JOIN; ELSE: [x = 2;] JOIN: i = x + 1`.
fn diamond(both: &[&str]) -> Entry {
    let mut k = Kit::new();
    let x = k.b.reg("x", Ty::U32);
    let (other, join) = (k.b.label("else"), k.b.label("join"));
    let set = |value| inst(Op::Mov, &[], &[Ty::U32], vec![r(x), imm(value)]);
    let go = |label| inst(Op::Bra, &[], &[], vec![Operand::Label(label)]);
    k.b.emit_guarded(Guard { reg: k.p, negated: false }, go(other));
    k.b.emit(set(1));
    k.b.emit(go(join));
    k.b.place(other);
    if both.contains(&"else") {
        k.b.emit(set(2));
    }
    k.b.place(join);
    k.b.emit(add(vec![r(k.i), r(x), imm(1)]));
    k.end()
}

#[test]
fn a_register_must_be_written_on_every_path() {
    let error = error(module(vec![diamond(&[])]));
    assert!(error.contains("the path through the start → $ELSE → $JOIN leaves it unwritten"), "{error}");
    assert!(verify(module(vec![diamond(&["else"])])).is_ok());
}

#[test]
fn a_loop_carries_what_is_written_before_it_only() {
    let mut k = Kit::new();
    let x = k.b.reg("x", Ty::U32);
    let top = k.b.label("loop");
    k.b.place(top);
    k.b.emit(add(vec![r(k.i), r(x), imm(1)]));
    k.b.emit(inst(Op::Mov, &[], &[Ty::U32], vec![r(x), imm(1)]));
    let back = inst(Op::Bra, &[], &[], vec![Operand::Label(top)]);
    k.b.emit_guarded(Guard { reg: k.p, negated: false }, back);
    let error = error(module(vec![k.end()]));
    assert!(error.contains("%x_0 is read here"), "{error}");
}

#[test]
fn labels_are_numbered_by_definition_and_unused_names_go() {
    let mut entry = diamond(&["else"]);
    entry.labels.insert(0, "UNUSED".to_owned());
    for stmt in &mut entry.body {
        match stmt {
            Stmt::Label(label) => label.0 += 1,
            Stmt::Inst(inst) => inst.operands.iter_mut().for_each(|operand| {
                if let Operand::Label(label) = operand {
                    label.0 += 1;
                }
            }),
            Stmt::Comment(_) => {}
        }
    }
    let plain = verify(module(vec![diamond(&["else"])])).unwrap();
    assert_eq!(plain.entries[0].labels, ["ELSE", "JOIN"]);
    assert!(verify(module(vec![entry])).unwrap() == plain);
}
