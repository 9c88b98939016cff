use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    if thread_idx_x() {
        y.store(0, 1u32);
    }
    while 1 < 2 {
        y.store(0, 1u32);
    }
}

fn main() {}
