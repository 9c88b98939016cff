use monomorph_codegen::dsl::prelude::*;

#[kernel(grid = 1, block = 32)]
fn k(x: In<f32>, y: Out<f32>) {
    let t = thread_idx_x();
    y.store(t, x.at(t).load() + t);
}

fn main() {}
