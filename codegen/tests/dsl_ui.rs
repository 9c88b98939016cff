//! Wrong kernels and what the compiler says of them, with the place it points to.
#![allow(missing_docs)]

#[test]
fn wrong_kernels_are_explained_where_they_are_wrong() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/dsl_ui/*.rs");
}
