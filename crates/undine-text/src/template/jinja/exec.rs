//! Statements: what a template writes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Expr, For, LoopNamed, Stmt, StmtKind, Target};
use super::eval::{Interpreter, Stop};
use super::frames::Frame;
use super::loops::Loop;
use super::parser::LOOP;
use super::print::{self, BYTES_MAX};
use super::value::{DEPTH_MAX, Items, Object, Value};

/// What comes after a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Next,
    Break,
    Continue,
}

impl Interpreter<'_> {
    pub fn exec(&mut self, body: &[Stmt], out: &mut String) -> Result<Flow, Stop> {
        self.enter_level()?;
        let flow = self.statements(body, out)?;
        self.depth -= 1;
        Ok(flow)
    }

    fn statements(&mut self, body: &[Stmt], out: &mut String) -> Result<Flow, Stop> {
        for Stmt { line, kind } in body {
            let flow = self.statement(kind, out).map_err(|stop| match stop {
                Stop::Failed(text, None) => Stop::Failed(text, Some(*line)),
                stop => stop,
            })?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, kind: &StmtKind, out: &mut String) -> Result<Flow, Stop> {
        self.charge(1)?;
        match kind {
            StmtKind::Text(text) => self.write(text, out)?,
            StmtKind::Print(values) => {
                for value in values {
                    let value = self.eval(value)?;
                    self.print(&value, out)?;
                }
            }
            StmtKind::If(branches, otherwise) => return self.branch(branches, otherwise, out),
            StmtKind::For(block) => {
                let items = self.eval(&block.items)?;
                return self.run_loop(block, &items, 0, out);
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.capture(body)?;
                let value = self.filtered(filters, text)?;
                self.assign(target, value)?;
            }
            StmtKind::With(pairs, body) => return self.with(pairs, body, out),
            StmtKind::Macro(symbol, block) => {
                let frame = self.captured_frame();
                let value = Value::object(Object::Macro(Arc::clone(block), frame));
                self.frame.set(*symbol, value);
            }
            StmtKind::Call(call, block) => {
                let frame = self.captured_frame();
                let caller = Value::object(Object::Macro(Arc::clone(block), frame));
                let Expr::Call(callee, args) = call else { unreachable!("the parser saw a call") };
                let value = self.call_expr(callee, args, Some(caller))?;
                self.print(&value, out)?;
            }
            StmtKind::Filter(filters, body) => {
                let text = self.capture(body)?;
                let value = self.filtered(filters, text)?;
                self.print(&value, out)?;
            }
            StmtKind::Scope(body) => {
                let frame = Frame::inside(&self.frame);
                return self.exec_in(frame, body, out);
            }
            StmtKind::Block(body) => {
                let frame = Frame::inside(&self.root);
                return self.exec_in(frame, body, out);
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &str, out: &mut String) -> Result<(), String> {
        self.charge(text.len() as u64 / 256)?;
        if out.len() + text.len() > BYTES_MAX {
            return Err(format!("the prompt is longer than {BYTES_MAX} bytes"));
        }
        out.push_str(text);
        Ok(())
    }

    fn print(&mut self, value: &Value, out: &mut String) -> Result<(), String> {
        match value.as_text() {
            Some(text) => self.write(text, out),
            None => {
                let text = print::string(value)?;
                self.write(&text, out)
            }
        }
    }

    fn branch(
        &mut self,
        branches: &[(Expr, Vec<Stmt>)],
        otherwise: &[Stmt],
        out: &mut String,
    ) -> Result<Flow, Stop> {
        for (test, body) in branches {
            if self.eval(test)?.is_true() {
                return self.exec(body, out);
            }
        }
        self.exec(otherwise, out)
    }

    /// Runs a block with variables of its own.
    pub fn exec_in(&mut self, frame: Rc<Frame>, body: &[Stmt], out: &mut String) -> Result<Flow, Stop> {
        let outer = std::mem::replace(&mut self.frame, frame);
        let flow = self.exec(body, out)?;
        self.frame = outer;
        Ok(flow)
    }

    /// The text of a block, whose variables stay in it.
    fn capture(&mut self, body: &[Stmt]) -> Result<Value, Stop> {
        let mut text = String::new();
        let frame = Frame::inside(&self.frame);
        self.exec_in(frame, body, &mut text)?;
        Ok(Value::text(text))
    }

    fn filtered(&mut self, filters: &Expr, text: Value) -> Result<Value, Stop> {
        let outer = std::mem::replace(&mut self.captured, text);
        let value = self.eval(filters)?;
        self.captured = outer;
        Ok(value)
    }

    /// All values are those outside of the block.
    fn with(&mut self, pairs: &[(Target, Expr)], body: &[Stmt], out: &mut String) -> Result<Flow, Stop> {
        let frame = Frame::inside(&self.frame);
        for (target, value) in pairs {
            let value = self.eval(value)?;
            let outer = std::mem::replace(&mut self.frame, Rc::clone(&frame));
            self.assign(target, value)?;
            self.frame = outer;
        }
        self.exec_in(frame, body, out)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<(), String> {
        match target {
            Target::Name(symbol) => self.frame.set(*symbol, value),
            Target::Tuple(targets) => {
                let items = self
                    .items(&value)
                    .map_err(|_| format!("cannot unpack non-iterable {} object", value.type_name()))?;
                if items.len() < targets.len() {
                    let (want, have) = (targets.len(), items.len());
                    return Err(format!("not enough values to unpack (expected {want}, got {have})"));
                }
                if items.len() > targets.len() {
                    return Err(format!("too many values to unpack (expected {})", targets.len()));
                }
                for (target, item) in targets.iter().zip(items.iter()) {
                    self.assign(target, item.clone())?;
                }
            }
            Target::Attribute(symbol, name) => match self.frame.get(*symbol) {
                Some(Value::Object(object)) => match &*object {
                    Object::Namespace(fields) => {
                        fields.borrow_mut().insert(Arc::clone(name), value);
                    }
                    _ => return Err("cannot assign attribute on non-namespace object".to_owned()),
                },
                _ => return Err("cannot assign attribute on non-namespace object".to_owned()),
            },
        }
        Ok(())
    }

    /// The items whose test holds, for a loop that asks how many there are.
    fn tested(&mut self, block: &For, items: &Rc<Items>) -> Result<Rc<Items>, Stop> {
        let Some(test) = block.test.as_ref().filter(|_| block.loop_named == LoopNamed::Yes) else {
            return Ok(Rc::clone(items));
        };
        let outer = Rc::clone(&self.frame);
        let mut kept = Vec::new();
        for item in items.iter() {
            self.frame = Frame::inside(&outer);
            self.assign(&block.target, item.clone())?;
            if self.eval(test)?.is_true() {
                kept.push(item.clone());
            }
        }
        self.frame = outer;
        Ok(Items::new(kept)?)
    }

    /// Runs a loop over a value; `level` counts the loops that called themselves.
    pub fn run_loop(
        &mut self,
        block: &Arc<For>,
        value: &Value,
        level: usize,
        out: &mut String,
    ) -> Result<Flow, Stop> {
        let items = self.items(value)?;
        let items = self.tested(block, &items)?;
        let outer = Rc::clone(&self.frame);
        self.loops.push((Arc::clone(block), Rc::clone(&outer)));
        let state = (block.loop_named == LoopNamed::Yes).then(|| self.loop_state(&items, level));
        let state = state.transpose()?;
        let mut ran = false;
        for (at, item) in items.iter().enumerate() {
            self.charge(1)?;
            self.frame = Frame::inside(&outer);
            self.assign(&block.target, item.clone())?;
            match (&state, &block.test) {
                (Some(Value::Object(object)), _) => {
                    if let Object::Loop(state) = &**object {
                        state.at.set(at);
                    }
                    self.frame.set(LOOP, Value::Object(Rc::clone(object)));
                }
                (_, Some(test)) if !self.eval(test)?.is_true() => continue,
                _ => {}
            }
            ran = true;
            if self.exec(&block.body, out)? == Flow::Break {
                break;
            }
        }
        self.frame = outer;
        self.loops.pop();
        if !ran {
            let frame = Frame::inside(&self.frame);
            return self.exec_in(frame, &block.otherwise, out);
        }
        Ok(Flow::Next)
    }

    fn loop_state(&mut self, items: &Rc<Items>, level: usize) -> Result<Value, Stop> {
        // It holds the items, so it counts as a level above them.
        let depth = items.depth() + 1;
        if depth > DEPTH_MAX {
            return Err(super::value::too_deep().into());
        }
        Ok(Value::object(Object::Loop(Loop {
            items: Rc::clone(items),
            at: Cell::new(0),
            level,
            last: RefCell::new(None),
            depth,
            place: self.loops.len() - 1,
        })))
    }
}
