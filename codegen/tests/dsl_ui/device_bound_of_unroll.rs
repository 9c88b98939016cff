use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    let t = thread_idx_x();
    for i in unroll(0..t) {
        y.store(i, 1u32);
    }
}

fn main() {}
