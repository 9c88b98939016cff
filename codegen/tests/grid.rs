//! Barriers of the whole grid.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod dsl_common;
use dsl_common::{Buf, count, run, text, words};
use monomorph_codegen::dsl::prelude::*;

#[derive(Clone, Copy)]
pub struct Turns {
    pub ctas: u32,
    pub turns: u32,
}

const BLOCK: u32 = 64;

/// `turns` times: x[i] = 3 x[i] + x[i + 1 + 100 turn], all of them at once, over two buffers by turns.
#[kernel(grid = s.ctas, block = BLOCK)]
pub fn stir(s: &Turns, counter: InOut<u32>, x: InOut<u32>) {
    let n = s.ctas * BLOCK;
    let own = cta_id() * BLOCK + thread_idx_x();
    for turn in 0..s.turns {
        let (from, to) = (x.offset(turn % 2 * n), x.offset((turn + 1) % 2 * n));
        let other = (own + 1 + turn * 100) % n;
        to.store(own, from.at(own).load() * 3 + from.at(other).load());
        sync_grid(counter, (turn + 1) * s.ctas);
    }
}

/// What [`stir`] leaves.
fn model(s: &Turns, words: &[u32]) -> Vec<u32> {
    let n = words.len();
    let turn = |x: Vec<u32>, turn: usize| -> Vec<u32> {
        (0..n).map(|i| x[i].wrapping_mul(3).wrapping_add(x[(i + 1 + turn * 100) % n])).collect()
    };
    (0..s.turns as usize).fold(words.to_vec(), turn)
}

#[test]
fn ctas_meet_and_see_each_others_stores() {
    let s = Turns { ctas: 40, turns: 5 };
    let n = (s.ctas * BLOCK) as usize;
    let x: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let both = x.iter().copied().chain(std::iter::repeat_n(0, n));
    let out = run(stir(&s), &[words([0]), Buf::Words(both.collect())]);
    assert!(out[n..] == model(&s, &x));
}

#[test]
fn the_barrier_releases_acquires_and_asks_for_a_resident_grid() {
    let kernel = stir(&Turns { ctas: 2, turns: 3 });
    assert!(kernel.as_ref().unwrap().cooperative);
    let text = text(kernel);
    assert_eq!(count(&text, "red.release.gpu.global.add.u32"), 1, "{text}");
    assert_eq!(count(&text, "ld.acquire.gpu.global.u32"), 2, "{text}");
    assert_eq!(count(&text, "bar.sync"), 2, "{text}");
}
