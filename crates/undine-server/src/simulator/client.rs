//! Clients: they ask through the same handle as the server's handlers, sleep until they are woken, read at
//! their pace, and vanish. Whatever they are told must be what the request gets alone.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use undine_core::{Constraint, FinishReason, GenerateRequest, TokenId};
use undine_engine::Event;

use super::device::expected_within;
use super::eye::append;
use super::grammar::Grammar;
use super::ledger::ConversationId;
use super::outside::{Outside, Sabotage};
use super::plan::{ClientPlan, Leaves, Opening, Reads, SequencePlan, VOCAB};
use crate::account::Tally;
use crate::engine_thread::{Running, Sequence, Update};
use crate::metrics::EndReason;
use crate::wire::error::{ApiError, ApiResult};

/// See the module's description.
pub struct Client {
    plan: ClientPlan,
    /// Which of its requests is next, or under way.
    turn: usize,
    state: State,
    alarm: Arc<Alarm>,
    /// The step in which the request was sent.
    since: u32,
    updates: u32,
    tally: Arc<Tally>,
    sequences: Vec<Followed>,
}

enum State {
    Away,
    Asking(Pin<Box<dyn Future<Output = ApiResult<Running>>>>),
    Listening(Running),
    /// For good.
    Gone,
}

/// A sequence, and what was heard of it.
struct Followed {
    request: GenerateRequest,
    /// All of its events but [`Event::Started`], in order.
    expected: Vec<Event>,
    heard: usize,
    has_started: bool,
    answer: Vec<TokenId>,
    stop_text: Option<Vec<TokenId>>,
    is_over: bool,
    conversation: ConversationId,
}

/// Whether there is a reason to look.
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Alarm {
    fn takes(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Client {
    pub fn new(plan: ClientPlan) -> Self {
        Self {
            plan,
            turn: 0,
            state: State::Away,
            alarm: Arc::new(Alarm(AtomicBool::new(false))),
            since: 0,
            updates: 0,
            tally: Arc::default(),
            sequences: Vec::new(),
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Sequences that it has asked for and not seen the end of.
    pub fn open(&self) -> usize {
        self.sequences.iter().filter(|sequence| !sequence.is_over).count()
    }

    /// Does what comes next, if it is time.
    pub fn act(&mut self, outside: &Outside) -> Result<(), String> {
        let (number, turn) = (self.plan.number, self.turn);
        self.go_on(outside).map_err(|wrong| format!("client {number}, request {turn}: {wrong}"))
    }

    fn go_on(&mut self, outside: &Outside) -> Result<(), String> {
        if self.wants_to_leave(outside) {
            self.leave(outside);
            return Ok(());
        }
        match &mut self.state {
            State::Gone => Ok(()),
            State::Away => {
                if outside.step.get() >= self.plan.arrives_at {
                    self.ask(outside);
                }
                Ok(())
            }
            State::Asking(reply) => {
                if !self.alarm.takes() {
                    return Ok(());
                }
                let waker = Waker::from(Arc::clone(&self.alarm));
                match reply.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => Ok(()),
                    Poll::Ready(Ok(running)) => self.accepted(running, outside),
                    Poll::Ready(Err(error)) => self.refused(&error, outside),
                }
            }
            State::Listening(_) => self.listen(outside),
        }
    }

    fn wants_to_leave(&self, outside: &Outside) -> bool {
        let waited = outside.step.get() - self.since;
        match (&self.state, self.plan.leaves) {
            (State::Away | State::Gone, _) | (_, Leaves::Never) => false,
            (State::Asking(_), Leaves::BeforeTheReply) => waited > 0,
            (State::Asking(_), Leaves::OnceAccepted) => false,
            (State::Listening(_), Leaves::BeforeTheReply | Leaves::OnceAccepted) => true,
            (_, Leaves::AfterUpdates(most)) => self.updates >= most,
            (_, Leaves::AfterSteps(most)) => waited >= most,
        }
    }

    /// Sends its next request.
    fn ask(&mut self, outside: &Outside) {
        let before = self.so_far();
        let turn = &self.plan.turns[self.turn];
        let context = outside.context;
        self.sequences = turn
            .sequences
            .iter()
            .map(|sequence| {
                let mut sequence = sequence.clone();
                if let (Opening::Continues, Some(before)) = (turn.opening, &before)
                    && before.prompt.len() + sequence.request.prompt.len() < context as usize
                {
                    let own = sequence.request.clone();
                    (sequence.request.prompt, sequence.request.images) =
                        (before.prompt.clone(), before.images.clone());
                    append(&mut sequence.request, &own);
                }
                Followed::new(sequence, outside)
            })
            .collect();
        let sequences = self.sequences.iter().zip(&turn.sequences).map(|(followed, plan)| {
            let constraint = plan.rules.clone().map(|rules| {
                let grammar = Grammar::new(rules, outside.shared_desk());
                Box::new(grammar) as Box<dyn Constraint>
            });
            Sequence { request: followed.request.clone(), constraint }
        });
        let sequences = sequences.collect();
        (self.since, self.updates, self.tally) = (outside.step.get(), 0, Arc::default());
        let origin = &self.sequences[0].request.origin;
        outside.ledger.borrow_mut().asked(&self.tally, origin);
        let handle = Arc::clone(&outside.handle);
        let reply = Arc::clone(&self.tally).scope(async move { handle.submit(sequences).await });
        self.state = State::Asking(Box::pin(reply));
        self.alarm.0.store(true, Ordering::Relaxed);
    }

    /// What its last request asked and was answered, in its first sequence.
    fn so_far(&self) -> Option<GenerateRequest> {
        let Followed { request, answer, .. } = self.sequences.first()?;
        let mut request = request.clone();
        request.prompt.extend_from_slice(answer);
        Some(request)
    }

    fn accepted(&mut self, running: Running, outside: &Outside) -> Result<(), String> {
        if let Some(followed) = self.sequences.iter().find(|followed| !followed.fits(outside.context)) {
            return Err(format!("a prompt of {} tokens was accepted", followed.request.prompt.len()));
        }
        self.state = State::Listening(running);
        self.alarm.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A refusal must have its reason.
    fn refused(&mut self, error: &ApiError, outside: &Outside) -> Result<(), String> {
        let is_right = match (error.status.as_u16(), error.code) {
            (503, Some("queue_full")) => {
                let steps = self.since..=outside.step.get();
                outside.ledger.borrow_mut().claim_full(steps, self.sequences.len());
                true
            }
            (400, _) => self.sequences.iter().any(|followed| !followed.fits(outside.context)),
            (500, _) => outside.over.get().is_some(),
            _ => false,
        };
        if !is_right {
            return Err(format!("refused without a reason: {error:?}"));
        }
        outside.note(error.status.as_u16().into());
        outside.ledger.borrow_mut().refused += 1;
        self.sequences.clear();
        self.next_turn();
        Ok(())
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.state = if self.turn == self.plan.turns.len() { State::Gone } else { State::Away };
    }

    /// Vanishes. Nobody tells the engine's thread.
    fn leave(&mut self, outside: &Outside) {
        let mut ledger = outside.ledger.borrow_mut();
        for followed in self.sequences.iter_mut().filter(|followed| !followed.is_over) {
            followed.is_over = true;
            let reasons = followed.ends_beside(EndReason::Abort, outside);
            match self.state {
                State::Asking(_) => ledger.perhaps_ended(&reasons),
                _ => ledger.ended(&reasons),
            }
        }
        let state = std::mem::replace(&mut self.state, State::Away);
        if let State::Listening(running) = state
            && outside.commits(Sabotage::UnseenLeave)
        {
            outside.attic.borrow_mut().push(running);
        }
        self.next_turn();
    }

    fn listen(&mut self, outside: &Outside) -> Result<(), String> {
        let mut most = match self.plan.reads {
            Reads::After(wait) if outside.step.get() < self.since + wait => return Ok(()),
            Reads::Slowly if outside.random(3) > 0 => return Ok(()),
            Reads::Slowly => 1,
            Reads::Eagerly | Reads::After(_) => u32::MAX,
        };
        if !self.alarm.takes() || outside.commits(Sabotage::LostWake) {
            return Ok(());
        }
        let waker = Waker::from(Arc::clone(&self.alarm));
        let mut context = Context::from_waker(&waker);
        while most > 0 {
            let State::Listening(running) = &mut self.state else { return Ok(()) };
            let heard = pin!(running.next()).poll(&mut context);
            match heard {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return self.heard_all(),
                Poll::Ready(Some((i, None))) => {
                    let Some(reason) = outside.over.get() else {
                        return Err(format!("sequence {i} has lost its sender and the engine lives"));
                    };
                    self.sequences[i].is_over = true;
                    outside.ledger.borrow_mut().ended(&[reason]);
                }
                Poll::Ready(Some((i, Some(update)))) => {
                    if outside.commits(Sabotage::LostUpdate) {
                        continue;
                    }
                    self.updates += 1;
                    let followed = &mut self.sequences[i];
                    followed.hear(update, outside).map_err(|wrong| format!("sequence {i}: {wrong}"))?;
                    if followed.is_stopped() {
                        running.cancel(i);
                        followed.is_over = true;
                        outside.ledger.borrow_mut().ended(&followed.ends_beside(EndReason::Stop, outside));
                    }
                }
            }
            most -= 1;
            if self.wants_to_leave(outside) {
                self.leave(outside);
                return Ok(());
            }
        }
        // There may be more.
        self.alarm.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Every sequence has ended.
    fn heard_all(&mut self) -> Result<(), String> {
        if let Some(open) = self.sequences.iter().position(|followed| !followed.is_over) {
            return Err(format!("sequence {open} has no end"));
        }
        let count = |tokens: &dyn Fn(&Followed) -> usize| self.sequences.iter().map(tokens).sum::<usize>();
        let prompt = count(&|followed| followed.request.prompt.len());
        let answer = count(&|followed| followed.answer.len());
        let tallied = (
            self.tally.prompt_tokens.load(Ordering::Relaxed) as usize,
            self.tally.completion_tokens.load(Ordering::Relaxed) as usize,
        );
        let is_whole = self.sequences.iter().all(|followed| followed.heard == followed.expected.len());
        if is_whole && tallied != (prompt, answer) {
            return Err(format!("{tallied:?} tokens in the tally, ({prompt}, {answer}) heard"));
        }
        self.next_turn();
        Ok(())
    }
}

impl Followed {
    fn new(plan: SequencePlan, outside: &Outside) -> Self {
        let SequencePlan { request, rules, stop_text } = plan;
        let mut grammar = rules.map(Grammar::alone);
        let constraint = grammar.as_mut().map(|grammar| grammar as &mut dyn Constraint);
        let expected = match fits(&request, outside.context) {
            true => expected_within(&request, constraint, outside.context, VOCAB),
            false => Vec::new(),
        };
        let answer = expected.iter().filter_map(|event| match event {
            Event::Token(row) => Some(row.chosen.token),
            _ => None,
        });
        let tokens = request.prompt.iter().copied().chain(answer).collect();
        let conversation = outside.ledger.borrow_mut().converses(&request.origin.cache_root, tokens);
        Self {
            request,
            expected,
            heard: 0,
            has_started: false,
            answer: Vec::new(),
            stop_text,
            is_over: false,
            conversation,
        }
    }

    fn fits(&self, context: u32) -> bool {
        fits(&self.request, context)
    }

    /// How it ends if nobody leaves.
    fn natural_end(&self) -> EndReason {
        match self.expected.last() {
            Some(Event::Finished(reason)) => EndReason::of(*reason),
            _ => EndReason::of(FinishReason::Cancelled),
        }
    }

    /// How it may have ended if its client did not wait for that.
    fn ends_beside(&self, reason: EndReason, outside: &Outside) -> Vec<EndReason> {
        let mut ends = vec![reason];
        ends.extend(Some(self.natural_end()).filter(|end| *end != reason));
        ends.extend(outside.over.get());
        ends
    }

    fn hear(&mut self, update: Update, outside: &Outside) -> Result<(), String> {
        if self.is_over {
            return Err(format!("it had ended and says {update:?}"));
        }
        if update.cached_tokens.is_some() == self.has_started {
            return Err(format!("its start comes first, and once; found {update:?}"));
        }
        if let Some(cached) = update.cached_tokens {
            let prompt = self.request.prompt.len();
            let findable = outside.ledger.borrow().findable(self.conversation);
            if cached as usize >= prompt || cached as usize > findable {
                return Err(format!("{cached} cached tokens of {prompt}, of which its root has {findable}"));
            }
        }
        self.has_started = true;
        let Update { cached_tokens, prompt_scores, token, finish } = update;
        outside.note(cached_tokens.unwrap_or(0).into());
        self.answer.extend(token.as_ref().map(|row| row.chosen.token));
        outside.note(token.as_ref().map_or(VOCAB, |row| row.chosen.token).into());
        let scores = prompt_scores.map(Event::PromptScores);
        let events = [scores, token.map(Event::Token), finish.map(Event::Finished)];
        for event in events.into_iter().flatten() {
            let expected = self.expected.get(self.heard);
            if expected != Some(&event) {
                return Err(format!("event {}: expected {expected:?}, found {event:?}", self.heard));
            }
            self.heard += 1;
        }
        if finish.is_some() {
            self.is_over = true;
            outside.ledger.borrow_mut().ended(&[self.natural_end()]);
        }
        Ok(())
    }

    /// Whether the answer ends for its client, which the engine does not know.
    fn is_stopped(&self) -> bool {
        !self.is_over && self.stop_text.as_ref().is_some_and(|text| self.answer.ends_with(text))
    }
}

/// Whether a request can be accepted at all.
fn fits(request: &GenerateRequest, context: u32) -> bool {
    request.prompt.len() as u32 <= context - request.stop.max_tokens.min(1)
}
