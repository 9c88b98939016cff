//! Weights piece by piece: threads read and check the pieces ahead while the device takes those before them, so that a
//! load waits for memory and not for one core that copies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use plan::WeightDesc;

use crate::error::Error;
use crate::gguf::GgufError;
use crate::source::BoundWeights;

/// The most bytes of a piece: small enough to stay in a cache between being read, checked and sent.
const PIECE_BYTES: u64 = 4 << 20;
/// More threads than this read no faster than memory is.
const MAX_READERS: usize = 8;
/// Buffers of a reader: one is filled while another waits for its turn.
const BUFFERS_PER_READER: usize = 2;

/// A part of a weight as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the weight in the table.
    pub weight: usize,
    /// Its first byte in the weight; a multiple of the block.
    pub offset: u64,
    /// Whole blocks.
    pub bytes: usize,
    /// Whether the weight ends with it.
    pub is_last: bool,
}

/// All pieces of `weights`, in order.
pub(super) fn pieces(weights: &[WeightDesc]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (weight, desc) in weights.iter().enumerate() {
        let (end, block) = (desc.raw_bytes(), u64::from(desc.qtype.block_bytes()));
        let most = PIECE_BYTES / block * block;
        let mut offset = 0;
        while offset < end {
            let bytes = most.min(end - offset);
            pieces.push(Piece { weight, offset, bytes: bytes as usize, is_last: offset + bytes == end });
            offset += bytes;
        }
    }
    pieces
}

/// A buffer with the bytes of a piece, or why it has none.
type Read = Result<Vec<u8>, GgufError>;

/// A piece by its number; `None` when the source panicked.
type Message = Option<(usize, Read)>;

/// Gives every piece with its bytes to `take`, in order, on the calling thread. Ends with the first error of either.
///
/// # Errors
/// When a piece cannot be read or is refused, when there is no memory for the buffers, or what `take` says.
pub(super) fn each_in_order(
    source: &dyn BoundWeights,
    pieces: &[Piece],
    mut take: impl FnMut(&Piece, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let n_cores = thread::available_parallelism().map_or(1, usize::from);
    let n_readers = n_cores.min(MAX_READERS).min(pieces.len());
    let largest = pieces.iter().map(|piece| piece.bytes).max().unwrap_or(0);
    let buffers = buffers(n_readers * BUFFERS_PER_READER, largest)?;
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (filled, arrivals) = mpsc::channel();
        let (give_back, free) = mpsc::channel();
        let reader = Reader { source, pieces, next: &next, free: Arc::new(Mutex::new(free)), filled };
        let spawn = |_| {
            let reader = reader.clone();
            thread::Builder::new().name("weights".to_owned()).spawn_scoped(scope, move || reader.run()).ok()
        };
        let n_running = (0..n_readers).filter_map(spawn).count();
        for buffer in buffers {
            give_back.send(buffer).ok();
        }
        // A machine that gives no thread has this one.
        let own = (n_running == 0).then_some(reader);
        let mut early = BTreeMap::new();
        for (idx, piece) in pieces.iter().enumerate() {
            let read = match &own {
                Some(reader) => reader.next().map(|(_, read)| read),
                None => arrived(idx, &mut early, &arrivals),
            };
            // Only a panic leaves a piece out; the scope's end hands it on.
            let Some(read) = read else { break };
            let buffer = read?;
            take(piece, buffer.get(..piece.bytes).unwrap_or(&buffer))?;
            give_back.send(buffer).ok();
        }
        Ok(())
    })
}

fn buffers(n: usize, bytes: usize) -> Result<Vec<Vec<u8>>, Error> {
    let wanted = (n * bytes) as u64;
    let buffer = |_| {
        let mut buffer = Vec::new();
        let reserved = buffer.try_reserve_exact(bytes);
        reserved.map_err(|_| Error::HostMemory { what: "pieces of the weights", wanted })?;
        buffer.resize(bytes, 0);
        Ok(buffer)
    };
    (0..n).map(buffer).collect()
}

/// Waits for piece `idx`; those that come before their turn are kept in `early`.
fn arrived(
    idx: usize,
    early: &mut BTreeMap<usize, Read>,
    arrivals: &mpsc::Receiver<Message>,
) -> Option<Read> {
    loop {
        if let Some(read) = early.remove(&idx) {
            return Some(read);
        }
        let (came, read) = arrivals.recv().ok()??;
        early.insert(came, read);
    }
}

/// What a reading thread has. Invariant: it takes a buffer before it takes a piece, and pieces are taken in order, so
/// that the piece which is waited for always has a buffer.
#[derive(Clone)]
struct Reader<'a> {
    source: &'a dyn BoundWeights,
    pieces: &'a [Piece],
    next: &'a AtomicUsize,
    free: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
    filled: mpsc::Sender<Message>,
}

/// Tells whoever waits when the thread that has it panics.
struct Alarm<'a>(&'a mpsc::Sender<Message>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.send(None).ok();
        }
    }
}

impl Reader<'_> {
    /// Reads until there are no pieces left, one could not be read, or nobody waits for them.
    fn run(self) {
        let _alarm = Alarm(&self.filled);
        while let Some((idx, read)) = self.next() {
            let failed = read.is_err();
            if self.filled.send(Some((idx, read))).is_err() || failed {
                return;
            }
        }
    }

    fn next(&self) -> Option<(usize, Read)> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let mut buffer = free.ok()?;
        let idx = self.next.fetch_add(1, Ordering::Relaxed);
        let piece = self.pieces.get(idx)?;
        let out = buffer.get_mut(..piece.bytes).unwrap_or_default();
        let read = self.source.read(piece.weight, piece.offset, out);
        Some((idx, read.map(|()| buffer)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

    use std::time::Duration;

    use plan::{QType, Role};

    use super::*;

    /// Each byte is a mix of weight and offset. Some pieces come late; one may fail or panic.
    struct Source {
        fails_at: Option<(usize, u64)>,
        panics_at: Option<(usize, u64)>,
    }

    fn value(weight: usize, at: u64) -> u8 {
        (at / 7 + at * 31 + weight as u64 * 113) as u8
    }

    impl BoundWeights for Source {
        fn read(&self, weight: usize, offset: u64, out: &mut [u8]) -> Result<(), GgufError> {
            if (weight as u64 + offset / PIECE_BYTES).is_multiple_of(3) {
                thread::sleep(Duration::from_millis(5));
            }
            assert_ne!(self.panics_at, Some((weight, offset)), "as asked");
            if self.fails_at == Some((weight, offset)) {
                return Err(GgufError::TensorIndex { found: weight, limit: 0 });
            }
            for (byte, at) in out.iter_mut().zip(offset..) {
                *byte = value(weight, at);
            }
            Ok(())
        }
    }

    const SOUND: Source = Source { fails_at: None, panics_at: None };

    fn weight(rows: u32) -> WeightDesc {
        let (role, qtype) = (Role::FfnDown, QType::Q6K);
        let raw = u64::from(rows) * qtype.row_bytes(256);
        WeightDesc { role, layer: Some(0), qtype, rows, cols: 256, packed_bytes: raw, repack: None }
    }

    /// More pieces than buffers, of weights that are a piece, less than one, and many.
    fn weights() -> Vec<WeightDesc> {
        let whole = (PIECE_BYTES / 210) as u32;
        [1, whole, whole + 1, 3, 40 * whole + 7, 1].map(weight).to_vec()
    }

    #[test]
    fn pieces_are_whole_blocks_and_cover_each_weight_once() {
        let weights = weights();
        let pieces = pieces(&weights);
        assert_eq!(pieces.len(), 1 + 1 + 2 + 1 + 41 + 1);
        for (idx, desc) in weights.iter().enumerate() {
            let of_weight: Vec<_> = pieces.iter().filter(|piece| piece.weight == idx).collect();
            let mut end = 0;
            for piece in &of_weight {
                assert_eq!((piece.offset, piece.bytes % 210), (end, 0));
                assert!(piece.bytes > 0 && piece.bytes as u64 <= PIECE_BYTES);
                end += piece.bytes as u64;
            }
            assert_eq!(end, desc.raw_bytes());
            assert_eq!(of_weight.iter().filter(|piece| piece.is_last).count(), 1);
            assert!(of_weight.last().unwrap().is_last);
        }
    }

    #[test]
    fn pieces_come_in_order_with_their_own_bytes() {
        let pieces = pieces(&weights());
        let mut taken = Vec::new();
        each_in_order(&SOUND, &pieces, |piece, bytes| {
            assert_eq!(bytes.len(), piece.bytes);
            let wrong =
                bytes.iter().zip(piece.offset..).find(|(byte, at)| **byte != value(piece.weight, *at));
            assert_eq!(wrong, None, "{piece:?}");
            taken.push(*piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(taken, pieces);
    }

    #[test]
    fn the_first_error_ends_it() {
        let pieces = pieces(&weights());
        let at = (4, pieces[20].offset);
        let source = Source { fails_at: Some(at), panics_at: None };
        let mut n = 0;
        let error = each_in_order(&source, &pieces, |_, _| {
            n += 1;
            Ok(())
        });
        assert!(matches!(error, Err(Error::Gguf(_))), "{error:?}");
        assert_eq!(n, 20);

        let stop = each_in_order(&SOUND, &pieces, |piece, _| match piece.weight {
            4 => Err(Error::Cancelled { what: "a test" }),
            _ => Ok(()),
        });
        assert!(matches!(stop, Err(Error::Cancelled { .. })), "{stop:?}");
    }

    #[test]
    fn a_panic_of_the_source_is_handed_on_and_nobody_waits_for_ever() {
        let pieces = pieces(&weights());
        let source = Source { fails_at: None, panics_at: Some((4, pieces[10].offset)) };
        let ended = std::panic::catch_unwind(|| each_in_order(&source, &pieces, |_, _| Ok(())));
        assert!(ended.is_err());
    }
}
