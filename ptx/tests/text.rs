//! The golden layout, the parser's messages, and the builder and graph on the same small kernel.

use monomorph_ptx::cfg::Cfg;
use monomorph_ptx::*;

const GOLDEN: &str = "\
// made for a test
//
// second line

.version 8.1
.target sm_90a
.address_size 64

// y[i] = 2 x[i]
.visible .entry double(
\t.param .u64 x,
\t.param .u32 n
)
.reqntid 128, 1, 1
.minnctapersm 2
{
\t.shared .align 16 .b8 tile[256];
\t.reg .b64 %x_<1>;
\t.reg .b32 %i_<2>;
\t.reg .pred %p_<1>;
\t.reg .f32 %v_<4>;
\t.reg .b32 %v_b32_<1>;

\tld.param.u64 %x_0, [x];
\tmov.u32 %i_0, %tid.x;
\tmov.u32 %v_b32_0, tile;
\t// a comment
\tsetp.ge.s32 %p_0, %i_0, -5;
\t@%p_0 bra $DONE;
$LOOP:
\tld.global.nc.L1::no_allocate.v4.f32 {%v_0, %v_1, %v_2, %v_3}, [%x_0+-16];
\tfma.rn.f32 %v_0, %v_0, 0f40000000, %v_1;
\tand.b32 %i_1, %i_0, 0xff;
\tshfl.sync.bfly.b32 %i_1|%p_0, %i_1, 0x1, 0x1f, 0xffffffff;
\tst.shared.f32 [tile+4], %v_0;
\t@!%p_0 bra $LOOP;
$DONE:
\tret;
}
";

#[test]
fn the_golden_layout_is_read_and_written_back() {
    let module = parse(GOLDEN).unwrap();
    assert_eq!(module.header, ["made for a test", "", "second line"]);
    assert_eq!(module.entries[0].labels, ["LOOP", "DONE"]);
    let verified = verify(module.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert!(*verified == module);
    assert_eq!(print(&verified), GOLDEN);
}

const DYNAMIC: &str = "\
.version 8.1
.target sm_90
.address_size 64

.extern .shared .align 128 .b8 ring[];
.visible .entry first()
.reqntid 32, 1, 1
{
\t.shared .align 8 .b8 bars[16];
\t.reg .b32 %at_<1>;

\tmov.u32 %at_0, ring;
\tst.shared.u32 [ring+65536], %at_0;
\tmbarrier.init.shared.b64 [bars+8], 0x1;
\tret;
}

// the same symbol
.extern .shared .align 128 .b8 ring[];
.visible .entry second()
.reqntid 32, 1, 1
{
\t.reg .b32 %at_<1>;

\tmov.u32 %at_0, ring;
\tret;
}
";

#[test]
fn entries_may_share_a_dynamic_variable() {
    let module = parse(DYNAMIC).unwrap();
    let storage: Vec<Storage> = module.entries[0].shared.iter().map(|decl| decl.storage).collect();
    assert_eq!(storage, [Storage::Static, Storage::Dynamic]);
    let verified = verify(module.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert!(*verified == module);
    assert_eq!(print(&verified), DYNAMIC);
}

#[test]
fn white_space_is_free() {
    let loose = GOLDEN
        .replace(", ", " ,\n   ")
        .replace('\t', " ")
        .replace(" ret;", "ret ;\r\n")
        .replace("x_<1>", "x_ < 1 >");
    assert!(parse(&loose).unwrap() == parse(GOLDEN).unwrap());
}

#[test]
fn the_builder_makes_the_same_entry() {
    let golden = parse(GOLDEN).unwrap();
    let given = &golden.entries[0];
    let mut b = EntryBuilder::new("double", [128, 1, 1]);
    b.doc(" y[i] = 2 x[i] ");
    b.min_ctas_per_sm(2);
    assert_eq!((b.param("x", Ty::U64), b.param("n", Ty::U32)), (0, 1));
    assert_eq!(b.shared("tile", 16, 256), 0);
    let regs =
        [("x", Ty::U64), ("i", Ty::S32), ("p", Ty::Pred), ("v", Ty::F32), ("v", Ty::U32), ("i", Ty::U32)];
    let regs: Vec<Reg> = regs.iter().map(|(name, ty)| b.reg(name, *ty)).collect();
    assert_eq!((regs[1].bank, regs[5]), (1, Reg { bank: 1, index: 1 }));
    assert_eq!([(); 3].map(|()| b.reg("V", Ty::F32).index), [1, 2, 3]);
    let (first, second) = (b.label("loop"), b.label("done"));
    for stmt in &given.body {
        match stmt {
            Stmt::Label(Label(0)) => b.place(first),
            Stmt::Label(_) => b.place(second),
            Stmt::Comment(text) => b.comment(text),
            Stmt::Inst(inst) => match inst.guard {
                Some(guard) => b.emit_guarded(guard, Inst { guard: None, ..inst.clone() }),
                None => b.emit(inst.clone()),
            },
        }
    }
    assert!(&b.finish() == given);
}

#[test]
fn builder_names_are_well_formed_and_unique() {
    let mut b = EntryBuilder::new("k", [1, 1, 1]);
    for (name, ty) in [("Acc-1", Ty::U32), ("acc_1", Ty::F32), ("acc_1_f32", Ty::B64), ("1x", Ty::B16)] {
        b.reg(name, ty);
    }
    assert_eq!([b.label("top"), b.label("top"), b.label("9")].map(|label| label.0), [0, 1, 2]);
    b.comment("two\nlines");
    b.emit(Inst::new(Form::new(Op::Ret, &[], Types::NONE), vec![]));
    let entry = b.finish();
    let names: Vec<&str> = entry.banks.iter().map(|bank| bank.name.as_str()).collect();
    assert_eq!(names, ["acc_1", "acc_1_f32", "acc_1_f32_b64", "v1x"]);
    assert_eq!(entry.labels, ["TOP", "TOP_2", "L9"]);
    let target = Target { sm: 90, arch_specific: false };
    let module = Module { header: vec![], version: (8, 1), target, entries: vec![entry] };
    assert!(verify(module).is_ok());
}

#[test]
fn errors_name_place_text_and_expectation() {
    let error = |from: &str, to: &str| {
        assert!(GOLDEN.contains(from), "{from}");
        parse(&GOLDEN.replacen(from, to, 1)).map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    };
    let unknown = error("fma.rn.f32 %v_0", "fma.rn.f17 %v_0");
    let full = "line 32, column 2: expected an instruction of the table, found `fma.rn.f17` in \
                `fma.rn.f17 %v_0, %v_0, 0f40000000, %v_1;`";
    assert_eq!(unknown, full);
    for (from, to, part) in [
        ("fma.rn", "fma", "expected an instruction of the table, found `fma.f32`"),
        (".version", ".vers", "line 5, column 1: expected `.version`, found `.vers`"),
        ("8.1", "eight", "expected a version"),
        ("sm_90a", "compute_90", "expected a target"),
        (".address_size 64", ".address_size 32", "expected `64`, found `32`"),
        (".param .u64 x", ".param .x64 x", "expected a type"),
        ("double(", "%double(", "expected a name"),
        ("tile[256]", "tile[many]", "expected a size in bytes"),
        ("%x_<1>", "x_<1>", "expected a bank"),
        (
            ", %v_1;",
            ", %v_9;",
            "expected an operand: a declared register, variable, label or immediate, found `%v_9`",
        ),
        (", %v_1;", ", %v_01;", "found `%v_01`"),
        ("@%p_0", "@%q_0", "expected a declared register, found `%q_0`"),
        ("bra $DONE", "bra $GONE", "expected a label that the entry defines, found `$GONE`"),
        ("0f40000000", "2.0", "expected an immediate of .f32, found `2.0`"),
        ("0xff;", "0x1ffffffff;", "expected an immediate of .b32"),
        ("-5", "-2147483649", "expected an immediate of .s32"),
        ("[x]", "[z]", "expected a declared register, parameter or shared variable"),
        ("+-16]", "+-3000000000]", "expected an offset of 32 bits"),
        ("0xff;", "0xff", "expected `;`, found `shfl.sync.bfly.b32`"),
        ("\tret;\n}", "\tret;\n", "found `the end of the text`"),
    ] {
        let found = error(from, to);
        assert!(found.contains(part), "{from} -> {to}: {found}");
    }
}

#[test]
fn no_prefix_or_deletion_makes_the_parser_fail_otherwise() {
    for at in 0..GOLDEN.len() {
        // A text may end after its directives or after the last brace, nowhere else.
        let whole = |module: Module| module.entries.is_empty() || at == GOLDEN.len() - 1;
        assert!(parse(&GOLDEN[..at]).map_or(true, whole), "{at}");
        let mut shorter = GOLDEN.to_owned();
        shorter.remove(at);
        if let Ok(module) = parse(&shorter)
            && let Ok(verified) = verify(module)
        {
            let text = print(&verified);
            assert!(parse(&text).is_ok_and(|again| again == *verified), "{at}: {text}");
        }
    }
}

#[test]
fn instructions_print_even_when_wrong() {
    let entry = parse(GOLDEN).unwrap().entries.remove(0);
    let nowhere = Operand::Reg(Reg { bank: 99, index: 4 });
    let form = Form::new(Op::AddInt, &[], Types::one(Ty::S32));
    let inst = Inst::new(form, vec![nowhere, Operand::Label(Label(7)), Operand::Imm(Imm(0xffff_ffff))]);
    assert_eq!(print_inst(&entry, &inst), "add.s32 %?_4, $?7, -1;");
}

fn graph(body: &str) -> Result<Cfg, ParseError> {
    let text = format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry k()\n.reqntid 1\n{{\n.reg .pred %p_<1>;\n{body}\n}}"
    );
    parse(&text).map(|module| Cfg::new(&module.entries[0]))
}

#[test]
fn diverged_lanes_meet_at_the_post_dominator() {
    // 0: branch; 1: then; 2: ELSE; 3: JOIN
    let cfg = graph("@%p_0 bra $ELSE; bra $JOIN; $ELSE: bar.sync 0x0; $JOIN: ret;").unwrap();
    let successors: Vec<&[usize]> = cfg.blocks().iter().map(|block| block.successors.as_slice()).collect();
    assert_eq!(successors, [[2, 1].as_slice(), &[3], &[3], &[]]);
    let meets: Vec<Option<usize>> = (0..4).map(|b| cfg.immediate_post_dominator(b)).collect();
    assert_eq!(meets, [Some(3), Some(3), Some(3), None]);
    assert_eq!(
        (cfg.block_of_label(0), cfg.block_of_label(1), cfg.block_of_label(2)),
        (Some(2), Some(3), None)
    );
    assert!(cfg.blocks()[3].exits && !cfg.blocks()[1].exits);
}

#[test]
fn loops_and_early_exits_have_post_dominators() {
    // 0: start; 1: LOOP with an early exit; 2: back edge; 3: after
    let cfg =
        graph("bar.sync 0x0; $LOOP: @%p_0 ret; bar.sync 0x0; @!%p_0 bra $LOOP; bar.sync 0x1; trap;").unwrap();
    let successors: Vec<&[usize]> = cfg.blocks().iter().map(|block| block.successors.as_slice()).collect();
    assert_eq!(successors, [[1].as_slice(), &[2], &[1, 3], &[]]);
    let meets: Vec<Option<usize>> = (0..4).map(|b| cfg.immediate_post_dominator(b)).collect();
    assert_eq!(meets, [Some(1), None, None, None]);
    // Two nested loops: the inner back edge meets after the inner loop.
    let cfg = graph("$A: bar.sync 0x0; $B: @%p_0 bra $B; @%p_0 bra $A; ret;").unwrap();
    let meets: Vec<Option<usize>> = (0..4).map(|b| cfg.immediate_post_dominator(b)).collect();
    assert_eq!(meets, [Some(1), Some(2), Some(3), None]);
    // A loop without an end has no post-dominator.
    let cfg = graph("@%p_0 bra $OUT; $SPIN: bra $SPIN; $OUT: ret;").unwrap();
    assert_eq!((cfg.immediate_post_dominator(1), cfg.immediate_post_dominator(0)), (None, Some(2)));
}
