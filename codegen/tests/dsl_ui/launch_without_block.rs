use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1)]
fn k(y: Out<u32>) {
    y.store(0, 1u32);
}

fn main() {}
