//! A file of registers: rows of 32 lanes, each at the start of a cache line. A row that starts elsewhere has vectors that lie
//! across two lines, which cost a load or store twice, and the value just written reaches its reader late.

use std::ops::{Index, IndexMut};

use crate::lanes::LANES;

/// One register.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row<T>([T; LANES]);

/// Registers of one width, by index.
pub(crate) struct Rows<T>(Vec<Row<T>>);

impl<T: Copy + Default> Rows<T> {
    /// `count` registers of zeros.
    pub fn new(count: usize) -> Rows<T> {
        Rows(vec![Row([T::default(); LANES]); count])
    }

    /// The same, to be written.
    #[inline(always)]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut [T; LANES]> {
        self.0.get_mut(index).map(|row| &mut row.0)
    }
}

impl<T> Index<usize> for Rows<T> {
    type Output = [T; LANES];

    #[inline(always)]
    fn index(&self, index: usize) -> &[T; LANES] {
        &self.0[index].0
    }
}

impl<T> IndexMut<usize> for Rows<T> {
    #[inline(always)]
    fn index_mut(&mut self, index: usize) -> &mut [T; LANES] {
        &mut self.0[index].0
    }
}
