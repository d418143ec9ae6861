//! The engine tests' device behind a bus: steps take their time, masks are waited for where they are needed
//! and not in `submit`, calls fail, and while one is under way the rest of the world goes on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use undine_core::{Batch, Capacity, Executor, ExecutorError, OutputKind, StepOutput, Ticket};

use super::device::{Device, Log};
use super::outside::{Outside, Sabotage};
use super::plan::{Plan, Trouble, VOCAB};

pub struct Accelerator {
    device: Device,
    /// Submitted steps that wait for a mask, and those behind them.
    waiting: VecDeque<Batch>,
    submitted: u64,
    trouble: Trouble,
    /// How often it still says "not yet".
    delay_left: u32,
    outside: Rc<Outside>,
}

impl Accelerator {
    pub fn new(plan: &Plan, outside: Rc<Outside>) -> Self {
        Self {
            device: Device::new(plan.capacity, Rc::<RefCell<Log>>::default()),
            waiting: VecDeque::new(),
            submitted: 0,
            trouble: plan.trouble.clone(),
            delay_left: 0,
            outside,
        }
    }

    /// Computes what need not wait, in order.
    fn compute(&mut self) -> Result<(), ExecutorError> {
        while let Some(batch) = self.waiting.pop_front_if(|batch| is_ready(batch, &self.outside)) {
            self.device.submit(&batch)?;
        }
        Ok(())
    }
}

/// Whether every mask that a step samples with is there.
fn is_ready(batch: &Batch, outside: &Outside) -> bool {
    let desk = outside.desk();
    batch.outputs.iter().all(|output| match &output.kind {
        OutputKind::Sample { mask: Some(mask), .. } => !desk.is_open(mask),
        _ => true,
    })
}

impl Executor for Accelerator {
    fn capacity(&self) -> Capacity {
        self.device.capacity()
    }

    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError> {
        self.outside.meanwhile();
        let ticket = Ticket(self.submitted);
        if self.trouble.submit_fails_at == Some(ticket.0) {
            return Err(ExecutorError("it was unplugged".to_owned()));
        }
        self.submitted += 1;
        self.waiting.push_back(batch.clone());
        self.compute()?;
        Ok(ticket)
    }

    fn try_collect(&mut self, ticket: Ticket) -> Result<Option<StepOutput>, ExecutorError> {
        self.outside.meanwhile();
        if self.trouble.collect_fails_at == Some(ticket.0) {
            return Err(ExecutorError("it does not answer".to_owned()));
        }
        self.compute()?;
        let is_computed = ticket.0 < self.submitted - self.waiting.len() as u64;
        if !is_computed || self.delay_left > 0 {
            self.delay_left = self.delay_left.saturating_sub(1);
            return Ok(None);
        }
        self.delay_left = self.outside.random(self.trouble.delay_max);
        let mut output = self.device.try_collect(ticket)?;
        if let Some(row) = output.as_mut().and_then(|output| output.rows.last_mut())
            && self.outside.commits(Sabotage::WrongToken)
        {
            row.chosen.token = (row.chosen.token + 1) % VOCAB;
        }
        Ok(output)
    }
}
