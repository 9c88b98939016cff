use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    let t = thread_idx_x();
    for i in 0..=8 {
        y.store(i, 1u32);
    }
    loop {
        y.store(t, u32::try_from(5u64)?);
        return;
    }
}

fn main() {}
