use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
pub fn left_early(y: Out<u32>) {
    for i in unroll(0..4) {
        if thread_idx_x() == 3 {
            continue;
        }
        y.store(i, 1u32);
    }
}

fn main() {}
