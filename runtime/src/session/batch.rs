//! Several sessions taking their steps together: the weights are read once for all of them.
//!
//! A row of a batch has the same bits as the same token alone, whatever its neighbours are. Sessions may come and go
//! between steps; one whose tokens are finished is just left out of the next step.

use plan::sampling::PENALTY_WINDOW;
use plan::{Slot, StepKind};

use super::{Session, checked_choice};
use crate::engine::{Engine, Head, Row};
use crate::error::Error;
use crate::model::Model;
use crate::sampling::SamplingConfig;

/// The tokens that one session takes in a step: one, or several at consecutive positions.
pub struct BatchRow<'a> {
    /// The session; it moves on by as many positions.
    pub session: &'a mut Session,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
}

/// How the tokens after one entry of a step are chosen.
#[derive(Clone, Copy, Debug)]
pub struct RowSampling<'a> {
    /// The parameters.
    pub config: SamplingConfig,
    /// The tokens before the entry's own that the repetition penalty counts: the session's last ones. The penalty looks
    /// back on [`PENALTY_WINDOW`] tokens at most, the entry's own included.
    pub recent: &'a [u32],
}

/// Runs steps of several rows. Made by [`Model::batch`]; its sessions are those of the same model.
pub struct Batch {
    /// By rows, ascending.
    engines: Vec<Seated>,
    model: Model,
    rows: u32,
    /// The rows of the last step, in order.
    last: Vec<Row>,
    /// Where each entry of the last step sits; used again, so that a step allocates nothing.
    seats: Vec<u32>,
    /// Which engine ran the last step.
    used: usize,
}

/// An engine, and which session is on each of its seats.
struct Seated {
    engine: Engine,
    sessions: Vec<u64>,
}

impl Seated {
    /// Gives each entry a seat: the one it has, or one that no other entry of this step needs.
    fn seat(&mut self, model: &Model, rows: &[BatchRow<'_>], seats: &mut Vec<u32>) -> Result<(), Error> {
        seats.clear();
        let wanted = |id: &u64| rows.iter().any(|row| row.session.id == *id);
        for row in rows {
            let id = row.session.id;
            let place = self.sessions.iter().position(|found| *found == id);
            let place = match place.or_else(|| self.sessions.iter().position(|found| !wanted(found))) {
                Some(place) => place,
                // There are as many seats as rows, and each entry has at least one row.
                None => return Err(Error::EmptyPrompt),
            };
            if self.sessions[place] != id {
                self.engine.seat(model.queue().as_ref(), place as u32, &row.session.caches)?;
                self.sessions[place] = id;
            }
            seats.push(place as u32);
        }
        Ok(())
    }

    /// Tells each row how it samples.
    fn sample(
        &mut self,
        model: &Model,
        rows: &[BatchRow<'_>],
        sampling: &[RowSampling<'_>],
    ) -> Result<(), Error> {
        self.engine.prepare_sampling(model)?;
        let mut row = 0;
        for (entry, RowSampling { config, recent }) in rows.iter().zip(sampling) {
            let first = entry.session.position;
            let counted = recent.len().min(PENALTY_WINDOW as usize).min(first as usize);
            let recent = recent.get(recent.len() - counted..).unwrap_or_default();
            let since = first - counted as u32;
            for n in 1..=entry.tokens.len() {
                let tokens = recent.iter().chain(entry.tokens.iter().take(n)).copied();
                self.engine.set_sampling(model, row, &config.params(since))?;
                self.engine.set_history(model, row, (since, tokens))?;
                row += 1;
            }
        }
        Ok(())
    }
}

impl Batch {
    pub(crate) fn new(model: &Model, rows: u32) -> Result<Self, Error> {
        let table = model.table();
        let decode = || table.steps.iter().filter(|step| step.kind == StepKind::Decode);
        let limit = model.batch_rows();
        if rows == 0 || rows > limit {
            return Err(Error::BatchRows { spec: table.spec.to_string(), found: rows, limit });
        }
        // The smallest step that takes all rows, and all smaller ones for when fewer are left.
        let most = decode().map(|step| step.rows).filter(|n| *n >= rows).min().unwrap_or(limit);
        let mut engines = Vec::new();
        for step in decode().filter(|step| step.rows <= most) {
            let sessions = vec![0; step.rows as usize];
            engines.push(Seated { engine: Engine::new(model, step)?, sessions });
        }
        engines.sort_by_key(|seated| seated.engine.rows());
        let (last, seats) = (Vec::with_capacity(rows as usize), Vec::with_capacity(rows as usize));
        Ok(Self { engines, model: model.clone(), rows, last, seats, used: 0 })
    }

    /// The most rows of a step.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Takes every entry's tokens into its caches and computes the logits after each of them. Does not wait for the
    /// device. A session may stand in one entry only, which the borrow sees to.
    ///
    /// # Errors
    /// Before any launch: [`Error::BatchRows`] for too many tokens or none, [`Error::OtherModel`],
    /// [`Error::EmptyPrompt`] for an entry without tokens, [`Error::ContextFull`], [`Error::Token`]. Or when the device
    /// fails.
    pub fn step(&mut self, rows: &mut [BatchRow<'_>]) -> Result<(), Error> {
        self.run(rows, None)
    }

    /// As [`Batch::step`], for tokens that are sampled: entry by entry as `sampling` says. A row draws what its session
    /// alone would draw at that position.
    ///
    /// # Errors
    /// As [`Batch::step`]; [`Error::Room`] unless there are as many samplings as entries; invalid parameters.
    pub fn step_sampled(
        &mut self,
        rows: &mut [BatchRow<'_>],
        sampling: &[RowSampling<'_>],
    ) -> Result<(), Error> {
        if sampling.len() != rows.len() {
            return Err(Error::Room { what: "samplings", found: sampling.len(), wanted: rows.len() });
        }
        sampling.iter().try_for_each(|row| row.config.check())?;
        self.run(rows, Some(sampling))
    }

    fn run(&mut self, rows: &mut [BatchRow<'_>], sampling: Option<&[RowSampling<'_>]>) -> Result<(), Error> {
        self.last.clear();
        let n = self.check(rows)?;
        self.used = self.engines.iter().position(|seated| seated.engine.rows() >= n).unwrap_or(0);
        let Some(seated) = self.engines.get_mut(self.used) else { return Err(self.too_many(n)) };
        seated.seat(&self.model, rows, &mut self.seats)?;
        for (row, seat) in rows.iter().zip(&self.seats) {
            let first = row.session.position;
            let places = row.tokens.iter().zip(first..);
            self.last.extend(places.map(|(token, position)| Row { token: *token, position, seat: *seat }));
        }
        seated.engine.set(self.model.queue().as_ref(), self.last.iter().copied())?;
        let mut head = Head::Greedy;
        if let Some(sampling) = sampling {
            seated.sample(&self.model, rows, sampling)?;
            head = Head::Sample;
        }
        seated.engine.run_with(head)?;
        for row in rows {
            row.session.position += row.tokens.len() as u32;
            row.session.has_logits = false;
        }
        Ok(())
    }

    fn too_many(&self, found: u32) -> Error {
        Error::BatchRows { spec: self.model.table().spec.to_string(), found, limit: self.rows }
    }

    /// The number of rows.
    fn check(&self, rows: &[BatchRow<'_>]) -> Result<u32, Error> {
        let n: usize = rows.iter().map(|row| row.tokens.len()).sum();
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        if n == 0 || n > self.rows {
            return Err(self.too_many(n));
        }
        for (index, row) in rows.iter().enumerate() {
            if !row.session.model.is_same(&self.model) {
                return Err(Error::OtherModel { index });
            }
            if row.tokens.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            row.session.check_tokens(row.tokens)?;
        }
        Ok(n)
    }

    /// Rows of the last step: one for each token.
    #[must_use]
    pub fn last_rows(&self) -> usize {
        self.last.len()
    }

    fn row(&self, row: usize) -> Result<(&Engine, Row), Error> {
        let found = self.last.get(row).zip(self.engines.get(self.used));
        found.map(|(row, seated)| (&seated.engine, *row)).ok_or(Error::NoLogits)
    }

    /// Waits for the last step and gives the token with the greatest logit after its row `row`, the lowest index on
    /// ties.
    ///
    /// # Errors
    /// [`Error::NoLogits`] when the last step had no such row; [`Error::NotFinite`], which concerns only this row; or
    /// when the device fails.
    pub fn chosen(&self, row: usize) -> Result<u32, Error> {
        let (engine, at) = self.row(row)?;
        let mut token = [0; 4];
        engine.read(&self.model, (Slot::Chosen, row as u32), &mut token)?;
        checked_choice(&self.model, u32::from_le_bytes(token), at.position)
    }

    /// Waits for the last step and gives the token with the greatest logit after each of its rows.
    ///
    /// # Errors
    /// As [`Batch::chosen`], for the first row that has none; [`Error::Room`] when `out` is not as long as there are
    /// rows.
    pub fn choices(&self, out: &mut [u32]) -> Result<(), Error> {
        let (engine, _) = self.row(0)?;
        if out.len() != self.last.len() {
            return Err(Error::Room { what: "tokens", found: out.len(), wanted: self.last.len() });
        }
        engine.read(&self.model, (Slot::Chosen, 0), bytemuck::cast_slice_mut(out))?;
        let mut rows = out.iter().zip(&self.last);
        rows.try_for_each(|(token, row)| checked_choice(&self.model, *token, row.position).map(drop))
    }

    /// Waits for the last step and copies the logits after its row `row`.
    ///
    /// # Errors
    /// [`Error::NoLogits`] when the last step had no such row; [`Error::Room`]; or when the device fails.
    pub fn logits(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let (engine, _) = self.row(row)?;
        let wanted = self.model.table().dims.vocab_size as usize;
        if out.len() != wanted {
            return Err(Error::Room { what: "logits", found: out.len(), wanted });
        }
        engine.read(&self.model, (Slot::Logits, row as u32), bytemuck::cast_slice_mut(out))
    }
}
