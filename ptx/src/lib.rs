//! ptx
#![forbid(unsafe_code)]
