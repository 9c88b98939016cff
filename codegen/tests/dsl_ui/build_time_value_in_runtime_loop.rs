use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    let mut n = 0;
    for i in 0..8 {
        n += 1;
        y.store(i, 1u32);
    }
    y.store(8, n as u32);
}

fn main() {}
