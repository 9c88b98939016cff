use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    y.store(0, 1.5);
}

fn main() {}
