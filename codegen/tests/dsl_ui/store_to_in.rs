use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(x: In<u32>) {
    x.at(0).store(1u32);
}

fn main() {}
