//! Copies between host and device through page-locked staging: two halves in turn, so that filling one and copying
//! the other overlap.

use super::driver::{self, Event, Pinned, SMALL_COPY_BYTES, Stream};
use super::queue::Waiter;
use crate::queue::QueueError;

/// Bytes of one half.
const HALF_BYTES: usize = 4 << 20;

/// One half and the event behind the last copy from it.
struct Half {
    block: Pinned,
    copied: Event,
    in_flight: bool,
}

/// Page-locked staging of a queue. Invariant: a half is touched by the host only when no copy from or to it is under
/// way.
pub(super) struct Staging {
    halves: [Half; 2],
    next: usize,
}

impl Staging {
    pub fn new() -> driver::Result<Self> {
        Ok(Self { halves: [Half::new()?, Half::new()?], next: 0 })
    }

    /// Enqueues the copy of `bytes`; they are free again when this returns.
    pub fn upload(&mut self, waiter: &Waiter<'_>, to: u64, bytes: &[u8]) -> Result<(), QueueError> {
        if bytes.len() <= SMALL_COPY_BYTES {
            return waiter.stream.copy_small(to, bytes).map_err(|e| waiter.error(e));
        }
        for (idx, piece) in bytes.chunks(HALF_BYTES).enumerate() {
            let half = self.next_half();
            half.settle(waiter)?;
            half.block.bytes_mut()[..piece.len()].copy_from_slice(piece);
            // Set first: after a failure half-way the block counts as in use.
            half.in_flight = true;
            let to = to + (idx * HALF_BYTES) as u64;
            half.send(waiter.stream, to, piece.len()).map_err(|e| waiter.error(e))?;
        }
        Ok(())
    }

    /// Copies from the device, waiting for everything enqueued before.
    pub fn download(&mut self, waiter: &Waiter<'_>, from: u64, out: &mut [u8]) -> Result<(), QueueError> {
        for (idx, piece) in out.chunks_mut(HALF_BYTES).enumerate() {
            let half = self.next_half();
            half.settle(waiter)?;
            half.in_flight = true;
            let from = from + (idx * HALF_BYTES) as u64;
            half.receive(waiter.stream, from, piece.len()).map_err(|e| waiter.error(e))?;
            half.settle(waiter)?;
            piece.copy_from_slice(&half.block.bytes_mut()[..piece.len()]);
        }
        Ok(())
    }

    fn next_half(&mut self) -> &mut Half {
        self.next ^= 1;
        &mut self.halves[self.next]
    }
}

impl Half {
    fn new() -> driver::Result<Self> {
        Ok(Self { block: Pinned::new(HALF_BYTES)?, copied: Event::new()?, in_flight: false })
    }

    /// Waits until no copy from or to this half is under way.
    fn settle(&mut self, waiter: &Waiter<'_>) -> Result<(), QueueError> {
        if self.in_flight {
            waiter.wait(|| self.copied.query())?;
            self.in_flight = false;
        }
        Ok(())
    }

    fn send(&mut self, stream: &Stream, to: u64, n: usize) -> driver::Result<()> {
        stream.copy_from_pinned(to, &self.block, n)?;
        stream.record(&self.copied)
    }

    fn receive(&mut self, stream: &Stream, from: u64, n: usize) -> driver::Result<()> {
        stream.copy_to_pinned(&mut self.block, from, n)?;
        stream.record(&self.copied)
    }
}
