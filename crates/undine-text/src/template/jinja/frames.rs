//! Variables: a chain of frames, the innermost first.

use std::cell::RefCell;
use std::rc::Rc;

use super::ast::Symbol;
use super::value::Value;

#[derive(Debug)]
pub struct Frame {
    variables: RefCell<Vec<(Symbol, Value)>>,
    parent: Option<Rc<Frame>>,
}

impl Frame {
    pub fn outermost(variables: Vec<(Symbol, Value)>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::new(variables), parent: None })
    }

    pub fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(Rc::clone(parent)) })
    }

    pub fn set(&self, symbol: Symbol, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| *known == symbol) {
            Some((_, old)) => *old = value,
            None => variables.push((symbol, value)),
        }
    }

    pub fn get(&self, symbol: Symbol) -> Option<Value> {
        let mut frame = Some(self);
        while let Some(Self { variables, parent }) = frame {
            let variables = variables.borrow();
            if let Some((_, value)) = variables.iter().find(|(known, _)| *known == symbol) {
                return Some(value.clone());
            }
            frame = parent.as_deref();
        }
        None
    }

    /// Forgets its variables, which may hold macros that hold it.
    pub fn clear(&self) {
        let variables = self.variables.take();
        drop(variables);
    }
}
