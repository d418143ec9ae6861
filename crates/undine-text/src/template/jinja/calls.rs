//! Calls: arguments, macros, and what else can be called.

use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::ast::{Args, Macro};
use super::eval::{Interpreter, Stop};
use super::frames::Frame;
use super::parser::{CALLER, KWARGS, VARARGS};
use super::value::{Dict, Key, Missing, Object, Value};
use super::{functions, methods};

/// Macros that may call each other.
const CALLS_MAX: usize = super::super::RECURSION_MAX;
/// Arguments of one call.
const ARGUMENTS_MAX: usize = 4096;

/// The values that a call is given.
#[derive(Default)]
pub struct Given {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// The values of these parameters, each if it was given.
    pub fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
    ) -> Result<[Option<Value>; N], String> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(format!("{function} takes at most {N} arguments ({} given)", self.positional.len()));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let at = parameters.iter().position(|parameter| **parameter == *name);
            match at.map(|at| &mut bound[at]) {
                None => return Err(format!("{function} got an unexpected keyword argument '{name}'")),
                Some(Some(_)) => return Err(format!("{function} got multiple values for argument '{name}'")),
                Some(slot) => *slot = Some(value),
            }
        }
        Ok(bound)
    }

    /// Nothing may be given.
    pub fn none(self, function: &str) -> Result<(), String> {
        self.bind::<0>(function, []).map(|[]| ())
    }

    /// Takes an argument by its name.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| **known == *name)?;
        Some(self.named.remove(at).1)
    }
}

/// An argument that must be there.
pub fn required(value: Option<Value>, function: &str, parameter: &str) -> Result<Value, String> {
    value.ok_or_else(|| format!("{function} is missing the argument '{parameter}'"))
}

impl Interpreter<'_> {
    pub fn given(&mut self, args: &Args) -> Result<Given, Stop> {
        let mut given = Given::default();
        for value in &args.positional {
            given.positional.push(self.eval(value)?);
        }
        for (name, value) in &args.named {
            given.named.push((Arc::clone(name), self.eval(value)?));
        }
        if let Some(list) = &args.list {
            let list = self.eval(list)?;
            let items = self.items(&list)?;
            given.positional.extend(items.iter().cloned());
        }
        if let Some(dict) = &args.dict {
            let Value::Dict(dict) = self.eval(dict)? else {
                return Err("the argument after ** must be a mapping".to_owned().into());
            };
            for (key, value) in &dict.map {
                let name = key.0.as_text().ok_or_else(|| "keywords must be strings".to_owned())?;
                given.named.push((Arc::clone(name), value.clone()));
            }
        }
        if given.positional.len() + given.named.len() > ARGUMENTS_MAX {
            return Err(format!("a call is given more than {ARGUMENTS_MAX} arguments").into());
        }
        Ok(given)
    }

    pub fn call(&mut self, callee: &Value, given: Given) -> Result<Value, Stop> {
        match callee {
            Value::Undefined(missing) => Err(missing.message().into()),
            Value::Object(object) => match &**object {
                Object::Method(owner, method) => methods::call(self, owner, method, given),
                Object::Macro(block, frame) => self.call_macro(block, frame, given),
                Object::Function(function) => functions::call(self, *function, given),
                Object::Joiner { separator, used } => {
                    given.none("joiner")?;
                    Ok(if used.replace(true) { separator.clone() } else { Value::text("") })
                }
                Object::Loop(state) => {
                    let [items] = given.bind("loop", ["iterable"])?;
                    let items = required(items, "loop", "iterable")?;
                    self.recurse(state.place, state.level + 1, &items)
                }
                _ => Err(not_callable(callee).into()),
            },
            _ => Err(not_callable(callee).into()),
        }
    }

    /// `loop(…)`: the text of the loop over something else.
    fn recurse(&mut self, place: usize, level: usize, items: &Value) -> Result<Value, Stop> {
        let (block, frame) =
            self.loops.get(place).cloned().ok_or_else(|| "this loop has ended".to_owned())?;
        if block.recursive == super::ast::Recursive::No {
            return Err("the loop must have the 'recursive' marker to be called recursively"
                .to_owned()
                .into());
        }
        self.enter()?;
        let mut text = String::new();
        let outer = std::mem::replace(&mut self.frame, frame);
        self.run_loop(&block, items, level, &mut text)?;
        self.frame = outer;
        self.calls -= 1;
        Ok(Value::text(text))
    }

    fn enter(&mut self) -> Result<(), String> {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            return Err(format!("macros and recursive loops nest deeper than {CALLS_MAX} levels"));
        }
        Ok(())
    }

    fn call_macro(
        &mut self,
        block: &Arc<Macro>,
        defined_in: &Rc<Frame>,
        mut given: Given,
    ) -> Result<Value, Stop> {
        self.enter()?;
        let name = &block.name;
        let frame = Frame::inside(defined_in);
        let outer = std::mem::replace(&mut self.frame, Rc::clone(&frame));
        let mut positional = std::mem::take(&mut given.positional).into_iter();
        let explicit_caller = block.parameters.iter().any(|(symbol, ..)| *symbol == CALLER);
        for (symbol, parameter, default) in &block.parameters {
            let value = match (positional.next().or_else(|| given.take(parameter)), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(default)?,
                (None, None) => {
                    Value::Undefined(Missing::Because("a parameter of the macro was not provided"))
                }
            };
            frame.set(*symbol, value);
        }
        let rest: Vec<Value> = positional.collect();
        if block.takes.caller && !explicit_caller {
            let caller = given.take("caller");
            let caller = caller.unwrap_or(Value::Undefined(Missing::Because("No caller defined")));
            frame.set(CALLER, caller);
        }
        if block.takes.kwargs {
            let named = std::mem::take(&mut given.named);
            let named = named.into_iter().map(|(name, value)| (Key(Value::Text(name)), value));
            frame.set(KWARGS, Value::Dict(Dict::new(named.collect())?));
        } else if let Some((wrong, _)) = given.named.first() {
            return Err(match &**wrong {
                "caller" => format!(
                    "macro '{name}' was invoked with two values for the special caller argument. This is most likely a bug."
                ),
                _ => format!("macro '{name}' takes no keyword argument '{wrong}'"),
            }
            .into());
        }
        if block.takes.varargs {
            frame.set(VARARGS, Value::tuple(rest)?);
        } else if !rest.is_empty() {
            let count = block.parameters.len();
            return Err(format!("macro '{name}' takes not more than {count} argument(s)").into());
        }
        let mut text = String::new();
        self.exec(&block.body, &mut text)?;
        self.frame = outer;
        self.calls -= 1;
        Ok(Value::text(text))
    }
}

fn not_callable(value: &Value) -> String {
    format!("'{}' object is not callable", value.type_name())
}

/// A dict of named values.
pub fn named_dict(start: IndexMap<Key, Value>, named: Vec<(Arc<str>, Value)>) -> Result<Rc<Dict>, String> {
    let mut map = start;
    map.extend(named.into_iter().map(|(name, value)| (Key(Value::Text(name)), value)));
    Dict::new(map)
}
