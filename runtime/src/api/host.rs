//! Parts of a model over host slices: upload, run, one wait, download. For tests and single calls; a program that
//! decodes takes a [`Session`](crate::Session).

use plan::{Slot, quantize_row};

use super::error::ApiError;
use super::product;
use super::raw::{LayerIo, RawLayer, RawMemory, cache_bytes, check_position};
use super::runner::{CONTROL_WORDS, LayerRunner, Part};
use crate::engine::{Buffers, no_buffer, no_single_step};
use crate::error::Error;
use crate::queue::{Buf, DeviceAddr, QueueError};

/// The caches of one layer of a sequence on the host, as the device has them: rows of the table's
/// [`plan::KvType`], `[position][n_kv_heads][head_dim]`.
#[derive(Debug, PartialEq, Eq)]
pub struct HostCaches<'a> {
    /// Keys, at least up to the position.
    pub k: &'a mut [u8],
    /// Values, likewise.
    pub v: &'a mut [u8],
}

fn check_len(what: &'static str, found: usize, wanted: u64) -> Result<(), ApiError> {
    let found = found as u64;
    if found == wanted { Ok(()) } else { Err(ApiError::Slice { what, found, wanted }) }
}

/// A cache on its way through the device.
struct Travelling<'a> {
    host: &'a mut [u8],
    device: Buf,
    /// Where the row of the position begins; it ends with the buffer.
    row: u64,
}

impl Travelling<'_> {
    fn memory(&self) -> RawMemory {
        RawMemory { addr: self.device.addr().0, bytes: self.device.bytes() }
    }

    fn fetch_row(self) -> Result<(), Error> {
        let row = self.row as usize..self.device.bytes() as usize;
        match self.host.get_mut(row) {
            Some(row) => Ok(self.device.download(self.row, row)?),
            None => Ok(()),
        }
    }
}

impl LayerRunner {
    /// Bytes of a cache up to `position`, if `host` has so many, and of those the ones before its row.
    fn check_cache(
        &self,
        (what, slot): (&'static str, Slot),
        host: &[u8],
        position: u32,
    ) -> Result<(u64, u64), Error> {
        let desc = self.model.cache_of(slot)?;
        let (found, wanted) = (host.len() as u64, cache_bytes(desc, position));
        if found < wanted {
            return Err(ApiError::Slice { what, found, wanted }.into());
        }
        Ok((wanted, wanted - desc.bytes_per_pos))
    }

    fn travel<'a>(&self, host: &'a mut [u8], (bytes, row): (u64, u64)) -> Result<Travelling<'a>, Error> {
        let device = Buf::new(self.model.queue(), bytes)?;
        if let Some(before) = host.get(..row as usize).filter(|before| !before.is_empty()) {
            device.upload(0, before)?;
        }
        Ok(Travelling { host, device, row })
    }

    fn check_hidden(&self, hidden: &[f32]) -> Result<(), ApiError> {
        check_len("hidden", hidden.len(), u64::from(self.model.table().dims.dim))
    }

    /// Takes one token's residual stream through layer `layer`: `hidden` f32 `[dim]` is replaced, row `position` of
    /// `caches` is written.
    ///
    /// ```no_run
    /// use monomorph_runtime::{Error, HostCaches, Model};
    ///
    /// # fn example(model: &Model, row_bytes: usize) -> Result<(), Error> {
    /// let mut runner = model.layer_runner()?;
    /// let mut hidden = runner.embed_host(17)?;
    /// for layer in 0..model.table().dims.n_layers {
    ///     let (mut k, mut v) = (vec![0; row_bytes], vec![0; row_bytes]);
    ///     runner.layer_host(layer, &mut hidden, 0, HostCaches { k: &mut k, v: &mut v })?;
    /// }
    /// let logits = runner.head_host(&hidden)?;
    /// # drop(logits);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Before any launch: [`ApiError::Layer`], [`ApiError::Slice`] for `hidden` or a cache, [`Error::ContextFull`].
    /// When memory for the caches does not suffice or the device fails.
    pub fn layer_host(
        &mut self,
        layer: u32,
        hidden: &mut [f32],
        position: u32,
        caches: HostCaches<'_>,
    ) -> Result<(), Error> {
        let model = self.model.clone();
        let weights = RawLayer::from(model.layer(layer)?);
        self.check_hidden(hidden)?;
        check_position(&model, position)?;
        let k_bytes = self.check_cache(("k", Slot::KCache(layer)), caches.k, position)?;
        let v_bytes = self.check_cache(("v", Slot::VCache(layer)), caches.v, position)?;
        let (k, v) = (self.travel(caches.k, k_bytes)?, self.travel(caches.v, v_bytes)?);
        model.queue().upload(self.hidden, bytemuck::cast_slice(hidden))?;
        let own = RawMemory { addr: self.hidden.0, bytes: size_of_val(hidden) as u64 };
        let io = LayerIo { hidden: own, k_cache: k.memory(), v_cache: v.memory(), position };
        self.transformer_layer_indexed(layer, &weights, &io)?;
        // This waits; after it the rows are there.
        model.queue().download(self.hidden, bytemuck::cast_slice_mut(hidden))?;
        k.fetch_row()?;
        v.fetch_row()
    }

    /// Takes one token's residual stream through the feed-forward of layer `layer`, its norm and the addition to the
    /// stream included: `hidden` f32 `[dim]` is replaced.
    ///
    /// ```no_run
    /// # fn example(model: &monomorph_runtime::Model) -> Result<(), monomorph_runtime::Error> {
    /// let mut hidden = vec![0.5; model.table().dims.dim as usize];
    /// model.layer_runner()?.ffn_host(0, &mut hidden)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Before any launch: [`ApiError::Layer`], [`ApiError::Slice`]. When the device fails.
    pub fn ffn_host(&mut self, layer: u32, hidden: &mut [f32]) -> Result<(), Error> {
        let model = self.model.clone();
        let weights = RawLayer::from(model.layer(layer)?);
        self.check_hidden(hidden)?;
        model.queue().upload(self.hidden, bytemuck::cast_slice(hidden))?;
        self.set(0, 0)?;
        self.run_layer((layer, Part::FeedForward), &weights, self.hidden)?;
        Ok(model.queue().download(self.hidden, bytemuck::cast_slice_mut(hidden))?)
    }

    /// The row of the embedding for `token`, f32 `[dim]`: what the first layer takes.
    ///
    /// # Errors
    /// [`Error::Token`] before any launch; when the device fails.
    pub fn embed_host(&mut self, token: u32) -> Result<Vec<f32>, Error> {
        let dims = &self.model.table().dims;
        if token >= dims.vocab_size {
            return Err(Error::Token { token, vocab_size: dims.vocab_size });
        }
        let mut hidden = vec![0.0; dims.dim as usize];
        self.set(token, 0)?;
        self.model.kernels().launch(&self.embed)?;
        self.model.queue().download(self.hidden, bytemuck::cast_slice_mut(&mut hidden))?;
        Ok(hidden)
    }

    /// The logits f32 `[vocab_size]` of what the last layer left in `hidden`.
    ///
    /// # Errors
    /// [`ApiError::Slice`] before any launch; when the device fails.
    pub fn head_host(&mut self, hidden: &[f32]) -> Result<Vec<f32>, Error> {
        self.check_hidden(hidden)?;
        let table = self.model.table();
        let (at, _) = self.buffers.find(Slot::Logits).ok_or_else(|| no_buffer(table, Slot::Logits))?;
        let mut logits = vec![0.0; table.dims.vocab_size as usize];
        self.model.queue().upload(self.hidden, bytemuck::cast_slice(hidden))?;
        self.set(0, 0)?;
        self.model.kernels().launch(&self.head)?;
        self.model.queue().download(at, bytemuck::cast_slice_mut(&mut logits))?;
        Ok(logits)
    }

    /// The matrix `name` times `x`, f32 `[rows]`: `x` `[cols]` is quantized as kernels do it and multiplied by a kernel of the
    /// table, with the bits of a step of one row (whose own kernels norm the vector too). Of Q, K and V, which one launch multiplies by, the wanted part.
    ///
    /// ```no_run
    /// # fn example(model: &monomorph_runtime::Model) -> Result<(), monomorph_runtime::Error> {
    /// let x = vec![0.5; model.table().dims.dim as usize];
    /// let q = model.layer_runner()?.gemv_host("blk.0.attn_q.weight", &x)?;
    /// assert_eq!(q.len(), model.table().dims.q_dim() as usize);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Before any launch: [`ApiError::NoWeight`], [`ApiError::NotMatrix`], [`ApiError::Slice`], and
    /// [`ApiError::OnlyFused`] for the gate and up of a gated feed-forward, whose products no kernel stores:
    /// [`LayerRunner::ffn_host`] runs both. When the device fails.
    pub fn gemv_host(&mut self, name: &str, x: &[f32]) -> Result<Vec<f32>, Error> {
        let (model, table) = (&self.model, self.model.table());
        let step = product::step(table).ok_or_else(|| no_single_step(table))?;
        let place = model.weight_place(name).ok_or_else(|| ApiError::NoWeight {
            name: name.to_owned(),
            spec: table.spec.to_string(),
            n_weights: table.weights.len(),
        })?;
        let product = product::find(table, step, place)?;
        let cols = table.weights.get(place).map_or(0, |weight| weight.cols);
        check_len("x", x.len(), u64::from(cols))?;
        let buffers = match &mut self.products {
            Some(buffers) => buffers,
            none => none.insert(Buffers::new(model, step)?),
        };
        let resolve = |arg| -> Result<DeviceAddr, QueueError> {
            let (kernel, wanted) = (product.launch.kernel, product.launch.args.len());
            let found = buffers.resolve(model, arg).map(DeviceAddr);
            found.ok_or(QueueError::Arguments { kernel, found: 0, wanted })
        };
        let (quants, meta) = (resolve(product.quants)?, resolve(product.meta)?);
        let out = resolve(product.out)?.offset(product.before);
        let (control, _) = buffers.find(Slot::Control).ok_or_else(|| no_buffer(table, Slot::Control))?;
        let mut one_row = [0u32; CONTROL_WORDS];
        one_row[0] = 1;
        model.queue().upload(control, bytemuck::cast_slice(&one_row))?;
        let (blocks, queue) = (quantize_row(x), model.queue());
        queue.upload(quants, &blocks.quant_bytes())?;
        queue.upload(meta, &blocks.meta_bytes())?;
        // Some kernels add to what is there.
        queue.zero(out, product.bytes)?;
        model.kernels().launch(&[buffers.call(model, product.launch)?])?;
        let mut y = vec![0.0f32; product.bytes as usize / 4];
        queue.download(out, bytemuck::cast_slice_mut(&mut y))?;
        Ok(y)
    }
}
