//! The scalar meaning of pure rows: what one lane computes. Constant folding and the emulator's slow path call it;
//! the emulator's fast path is tested against it.
