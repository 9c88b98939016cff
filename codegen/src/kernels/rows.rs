//! Which row of a step a CTA works on. A step takes up to `rows` tokens through the model; a kernel that is no matrix
//! finds its row in its grid and returns when there is none. With one row nothing of this reaches the PTX.

use crate::dsl::{Elem, Kind, Ptr, Readable, prelude::*};
use crate::rng::Rng;
use ::plan::{CONTROL_HEADER, CONTROL_ROW, HISTORY};

/// Rows of a step, and how far the cache addresses of two sequences lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The most rows.
    pub count: u32,
    /// u64 from a sequence's K address of a layer to the next sequence's, in `Slot::Kv`; 0 when there is one row.
    pub seq_stride: u32,
}

impl Rows {
    /// One row, which belongs to sequence 0.
    pub const ONE: Rows = Rows { count: 1, seq_stride: 0 };

    /// `count` rows of a model of `n_layers`.
    pub const fn new(count: u32, n_layers: u32) -> Rows {
        if count == 1 { Rows::ONE } else { Rows { count, seq_stride: n_layers * 2 } }
    }
}

/// The row that a CTA works on.
#[derive(Clone, Copy)]
pub(super) struct Row(Option<V<u32>>);

impl Row {
    /// Row `index`, or the only one.
    pub(super) fn new(rows: u32, index: V<u32>) -> Row {
        Row((rows > 1).then_some(index))
    }

    /// The row's part of a buffer with `stride` elements a row.
    pub(super) fn of<T: Elem, K: Kind>(self, buffer: Ptr<T, K>, stride: u32) -> Ptr<T, K> {
        match self.0 {
            Some(row) => buffer.offset(row * stride),
            None => buffer,
        }
    }

    /// The row's `[token, position, sequence, 0]`.
    pub(super) fn control<K: Kind>(self, control: Ptr<u32, K>) -> Ptr<u32, K> {
        self.of(control.offset(CONTROL_HEADER), CONTROL_ROW)
    }

    /// The addresses of the K and V caches of the row's sequence.
    pub(super) fn caches<K: Readable>(
        self,
        rows: Rows,
        control: Ptr<u32, K>,
        kv: Ptr<u64, K>,
    ) -> [V<u64>; 2] {
        let kv = match self.0 {
            Some(_) => kv.offset(self.control(control).at(2).load() * rows.seq_stride),
            None => kv,
        };
        kv.at(0).load_x2()
    }
}

/// Does `body` for row `index` when the step has it.
#[device]
pub(super) fn for_row<K: Readable>(rows: u32, index: V<u32>, control: Ptr<u32, K>, body: impl Fn(Row)) {
    if rows == 1 {
        body(Row::new(1, index));
    } else {
        if index < control.at(0).load() {
            body(Row::new(rows, index));
        }
    }
}

/// As [`for_row`] for a body that waits for earlier launches: without a row, that is all a CTA does.
#[device]
pub(super) fn for_row_or_wait<K: Readable>(
    rows: u32,
    index: V<u32>,
    control: Ptr<u32, K>,
    body: impl Fn(Row),
) {
    if rows == 1 {
        body(Row::new(1, index));
    } else {
        if index < control.at(0).load() {
            body(Row::new(rows, index));
        } else {
            wait_for_earlier();
        }
    }
}

/// Makes `token` the row's next one: into the control, at the position after this one, and into the history.
#[device]
pub(super) fn feed_back(here: Row, token: V<u32>, control: InOut<u32>, history: Out<u32>) {
    let control = here.control(control);
    let position = control.at(1).load() + 1;
    control.at(0).store_x2([token, position]);
    here.of(history, HISTORY).at(position % HISTORY).store(token);
}

/// The control buffer of a trial.
#[derive(Clone, Debug)]
pub(super) struct Control {
    /// Rows that the step has; kernels leave the others alone.
    pub active: u32,
    /// [`WAITING_CTAS`](::plan::WAITING_CTAS), few enough for any device.
    pub waiting: u32,
    /// `[token, position, sequence, 0]` of each row.
    pub rows: Vec<[u32; 4]>,
}

impl Control {
    /// Some of `rows` active; sequences in an order that is not that of the rows.
    pub(super) fn random(rng: &mut Rng, rows: u32) -> Control {
        let active = 1 + rng.below(rows);
        let turn = rng.below(rows);
        let mut row = |r: u32| [rng.below(1 << 10), rng.below(1 << 10), (r + turn) % rows, 0];
        let rows = (0..rows).map(&mut row).collect();
        Control { active, waiting: [0, 7, 16][rng.below(3) as usize], rows }
    }

    /// The control and the history (untouched places as in a trial's output) after `chosen` were fed back.
    pub(super) fn fed_back(&self, chosen: &[u32]) -> (Control, Vec<u8>) {
        let mut after = self.clone();
        let mut history = vec![0xcd; self.rows.len() * HISTORY as usize * 4];
        for (i, (row, token)) in after.rows.iter_mut().zip(chosen).enumerate() {
            (row[0], row[1]) = (*token, row[1] + 1);
            let place = (i * HISTORY as usize + (row[1] % HISTORY) as usize) * 4;
            history[place..place + 4].copy_from_slice(&token.to_le_bytes());
        }
        (after, history)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let words = [self.active, self.waiting, 0, 0].into_iter().chain(self.rows.iter().flatten().copied());
        words.flat_map(u32::to_le_bytes).collect()
    }
}
