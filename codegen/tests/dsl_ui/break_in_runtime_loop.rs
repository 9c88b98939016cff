use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(y: Out<u32>) {
    for i in 0..8 {
        if i == 3 {
            break;
        }
        y.store(i, 1u32);
    }
}

fn main() {}
