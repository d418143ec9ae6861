//! The variable `loop`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::value::{Items, Missing, Value};

#[derive(Debug)]
pub struct Loop {
    pub items: Rc<Items>,
    /// Place of the item that the body is at.
    pub at: Cell<usize>,
    /// Loops around it that called it, from 0.
    pub level: usize,
    /// What `loop.changed` was last given.
    pub last: RefCell<Option<Vec<Value>>>,
    pub depth: u16,
    /// Its place among the loops that run.
    pub place: usize,
}

impl Loop {
    pub fn index(&self) -> usize {
        self.at.get() + 1
    }

    /// An attribute; methods are elsewhere.
    pub fn attribute(&self, name: &str) -> Option<Value> {
        let (at, length) = (self.at.get(), self.items.len());
        let number = |number: usize| Value::Int(number as i64);
        let item = |at: Option<usize>, missing: &'static str| {
            let found = at.and_then(|at| self.items.get(at)).cloned();
            found.unwrap_or(Value::Undefined(Missing::Because(missing)))
        };
        Some(match name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(length - at),
            "revindex0" => number(length - at - 1),
            "first" => Value::Bool(at == 0),
            "last" => Value::Bool(at + 1 == length),
            "length" => number(length),
            "depth" => number(self.level + 1),
            "depth0" => number(self.level),
            "previtem" => item(at.checked_sub(1), "there is no previous item"),
            "nextitem" => item(Some(at + 1), "there is no next item"),
            _ => return None,
        })
    }
}
