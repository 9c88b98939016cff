//! Device memory with an owner.

use std::fmt;
use std::sync::Arc;

use super::{DeviceAddr, Queue, QueueError};

/// An allocation on a device; dropping it gives the memory back.
pub struct Buf {
    queue: Arc<dyn Queue>,
    addr: DeviceAddr,
    bytes: u64,
}

impl Buf {
    /// Takes `bytes` of device memory (at least one, so that every buffer has an address).
    ///
    /// # Errors
    /// As [`Queue::alloc`].
    pub fn new(queue: &Arc<dyn Queue>, bytes: u64) -> Result<Self, QueueError> {
        let bytes = bytes.max(1);
        let addr = queue.alloc(bytes)?;
        Ok(Self { queue: Arc::clone(queue), addr, bytes })
    }

    /// Its start.
    #[must_use]
    pub fn addr(&self) -> DeviceAddr {
        self.addr
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of `wanted` bytes from `offset` on.
    ///
    /// # Errors
    /// [`QueueError::Range`] when they do not lie in this buffer.
    pub fn range(&self, offset: u64, wanted: u64) -> Result<DeviceAddr, QueueError> {
        match offset.checked_add(wanted) {
            Some(end) if end <= self.bytes => Ok(self.addr.offset(offset)),
            _ => Err(QueueError::Range { addr: self.addr.0.wrapping_add(offset), wanted }),
        }
    }

    /// Enqueues a copy of `bytes` to `offset`.
    ///
    /// # Errors
    /// When they do not fit, or as [`Queue::upload`].
    pub fn upload(&self, offset: u64, bytes: &[u8]) -> Result<(), QueueError> {
        self.queue.upload(self.range(offset, bytes.len() as u64)?, bytes)
    }

    /// Waits and copies from `offset` on.
    ///
    /// # Errors
    /// When the range is not inside, or as [`Queue::download`].
    pub fn download(&self, offset: u64, out: &mut [u8]) -> Result<(), QueueError> {
        self.queue.download(self.range(offset, out.len() as u64)?, out)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.queue.free(self.addr);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({:#x}, {} bytes)", self.addr.0, self.bytes)
    }
}
