//! Expressions to values.

use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::ast::{Args, Expr, For};
use super::calls::Given;
use super::frames::Frame;
use super::methods;
use super::number::Num;
use super::parser::Template;
use super::print;
use super::value::{Dict, Items, Key, Missing, Object, Value, View};
use super::{functions, slices};

/// Levels of evaluation: expressions in expressions, blocks in blocks, macros in macros. A level takes some 2
/// KB of stack.
const DEPTH_MAX: usize = 600;

/// Why a rendering ends before its end.
#[derive(Clone, PartialEq, Debug)]
pub enum Stop {
    /// `raise_exception`, with its message.
    Raised(String),
    /// What went wrong, and in which line.
    Failed(String, Option<u32>),
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Failed(text, None)
    }
}

/// One rendering.
pub struct Interpreter<'t> {
    pub template: &'t Template,
    fuel: u64,
    pub depth: usize,
    /// Macros that run.
    pub calls: usize,
    pub frame: Rc<Frame>,
    /// The variables of the template itself.
    pub root: Rc<Frame>,
    /// The text of the block that filters are applied to.
    pub captured: Value,
    /// Loops that run, each with the frame around it.
    pub loops: Vec<(Arc<For>, Rc<Frame>)>,
    /// What may hold itself: emptied at the end.
    owned: Vec<Owned>,
}

enum Owned {
    Frame(Rc<Frame>),
    Namespace(Rc<Object>),
}

impl Drop for Interpreter<'_> {
    fn drop(&mut self) {
        for owned in &self.owned {
            match owned {
                Owned::Frame(frame) => frame.clear(),
                Owned::Namespace(object) => {
                    if let Object::Namespace(fields) = &**object {
                        drop(fields.take());
                    }
                }
            }
        }
    }
}

impl<'t> Interpreter<'t> {
    pub fn new(template: &'t Template, variables: Vec<(super::ast::Symbol, Value)>, fuel: u64) -> Self {
        let root = Frame::inside(&Frame::outermost(variables));
        Self {
            template,
            fuel,
            depth: 0,
            calls: 0,
            frame: Rc::clone(&root),
            root,
            captured: Value::None,
            loops: Vec::new(),
            owned: Vec::new(),
        }
    }

    /// Begins a level, which ends with `depth -= 1`.
    pub fn enter_level(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("expressions, blocks and macros nest deeper than {DEPTH_MAX} levels"));
        }
        Ok(())
    }

    /// Pays for work; an error when all that a rendering may do is done.
    pub fn charge(&mut self, fuel: u64) -> Result<(), String> {
        self.fuel = self.fuel.checked_sub(fuel).ok_or("the template does too much: its fuel ran out")?;
        Ok(())
    }

    /// The frame, which a value will hold.
    pub fn captured_frame(&mut self) -> Rc<Frame> {
        let known = matches!(self.owned.last(), Some(Owned::Frame(last)) if Rc::ptr_eq(last, &self.frame));
        if !known {
            self.owned.push(Owned::Frame(Rc::clone(&self.frame)));
        }
        Rc::clone(&self.frame)
    }

    pub fn namespace(&mut self, fields: IndexMap<Arc<str>, Value>) -> Value {
        let object = Rc::new(Object::Namespace(fields.into()));
        self.owned.push(Owned::Namespace(Rc::clone(&object)));
        Value::Object(object)
    }

    pub fn eval(&mut self, expr: &Expr) -> Result<Value, Stop> {
        self.charge(1)?;
        self.enter_level()?;
        let result = self.eval_here(expr);
        self.depth -= 1;
        result
    }

    fn eval_here(&mut self, expr: &Expr) -> Result<Value, Stop> {
        match expr {
            Expr::Constant(constant) => Ok(constant.into()),
            Expr::Name(symbol) => Ok(self.lookup(*symbol)),
            Expr::Captured => Ok(self.captured.clone()),
            Expr::Tuple(items) => Ok(Value::tuple(self.eval_all(items)?)?),
            Expr::List(items) => Ok(Value::list(self.eval_all(items)?)?),
            Expr::Dict(pairs) => self.dict(pairs),
            Expr::Conditional(parts) => self.conditional(&parts.0, &parts.1, parts.2.as_ref()),
            Expr::Or(sides) => {
                let left = self.eval(&sides[0])?;
                if left.is_true() { Ok(left) } else { self.eval(&sides[1]) }
            }
            Expr::And(sides) => {
                let left = self.eval(&sides[0])?;
                if left.is_true() { self.eval(&sides[1]) } else { Ok(left) }
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.is_true())),
            Expr::Negative(value) => {
                let value = self.eval(value)?;
                Ok(self.negative(&value)?)
            }
            Expr::Positive(value) => {
                let value = self.eval(value)?;
                Ok(self.positive(&value)?)
            }
            Expr::Binary(operator, sides) => {
                let left = self.eval(&sides[0])?;
                let right = self.eval(&sides[1])?;
                Ok(self.binary(*operator, &left, &right)?)
            }
            Expr::Concat(sides) => self.concat(sides),
            Expr::Compare(first, rest) => self.comparisons(first, rest),
            Expr::Attribute(value, name) => {
                let value = self.eval(value)?;
                Ok(self.attribute(&value, name)?)
            }
            Expr::Item(sides) => {
                let value = self.eval(&sides[0])?;
                let key = self.eval(&sides[1])?;
                Ok(self.item(&value, &key)?)
            }
            Expr::Slice(parts) => self.slice(&parts.0, &parts.1),
            Expr::Call(callee, args) => self.call_expr(callee, args, None),
            Expr::Filter(value, name, filter, args) => {
                let value = self.eval(value)?;
                let given = self.given(args)?;
                let filter = filter.ok_or_else(|| format!("there is no filter named '{name}'"))?;
                filter(self, &value, given)
            }
            Expr::Test(value, name, test, args) => {
                let value = self.eval(value)?;
                let given = self.given(args)?;
                let test = test.ok_or_else(|| format!("there is no test named '{name}'"))?;
                test(self, &value, given).map(Value::Bool)
            }
        }
    }

    fn lookup(&self, symbol: super::ast::Symbol) -> Value {
        if let Some(value) = self.frame.get(symbol) {
            return value;
        }
        let name = &self.template.names[symbol.0 as usize];
        match functions::find(name) {
            Some(function) => Value::object(Object::Function(function)),
            None => Value::Undefined(Missing::Name(Arc::clone(name))),
        }
    }

    fn eval_all(&mut self, items: &[Expr]) -> Result<Vec<Value>, Stop> {
        items.iter().map(|item| self.eval(item)).collect()
    }

    fn dict(&mut self, pairs: &[(Expr, Expr)]) -> Result<Value, Stop> {
        let mut map = IndexMap::with_capacity(pairs.len());
        for (key, value) in pairs {
            let key = Key::new(self.eval(key)?)?;
            map.insert(key, self.eval(value)?);
        }
        Ok(Value::Dict(Dict::new(map)?))
    }

    fn conditional(&mut self, test: &Expr, then: &Expr, otherwise: Option<&Expr>) -> Result<Value, Stop> {
        if self.eval(test)?.is_true() {
            return self.eval(then);
        }
        match otherwise {
            Some(otherwise) => self.eval(otherwise),
            None => Ok(Value::Undefined(Missing::Because(
                "the inline if-expression evaluated to false and no else section was defined.",
            ))),
        }
    }

    fn concat(&mut self, sides: &[Expr]) -> Result<Value, Stop> {
        let mut text = String::new();
        for side in sides {
            let value = self.eval(side)?;
            print::push_str(&value, &mut text)?;
            self.charge_text(text.len())?;
        }
        Ok(Value::text(text))
    }

    fn comparisons(&mut self, first: &Expr, rest: &[(super::ast::Comparison, Expr)]) -> Result<Value, Stop> {
        let mut left = self.eval(first)?;
        for (comparison, right) in rest {
            let right = self.eval(right)?;
            if !self.compare(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// `value.name`: what Python's attribute is, else the item of that name.
    pub fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Result<Value, String> {
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        let item = match value {
            Value::Dict(dict) => dict.get(name).cloned(),
            _ => None,
        };
        Ok(item.unwrap_or_else(|| missing(value, name)))
    }

    /// An attribute in Python's sense.
    pub fn own_attribute(&mut self, value: &Value, name: &str) -> Result<Option<Value>, String> {
        if let Some(method) = methods::find(value, name) {
            return Ok(Some(Value::object(Object::Method(value.clone(), method))));
        }
        match value {
            Value::Undefined(missing) => Err(missing.message()),
            Value::Object(object) => Ok(match &**object {
                Object::Namespace(fields) => fields.borrow().get(name).cloned(),
                Object::Loop(state) => state.attribute(name),
                Object::Cycler { items, at } if name == "current" => items.get(at.get()).cloned(),
                Object::Macro(block, _) if name == "name" => Some(Value::Text(Arc::clone(&block.name))),
                _ => None,
            }),
            Value::Int(_) | Value::Float(_) if name == "real" => Ok(Some(value.clone())),
            Value::Bool(flag) if name == "real" => Ok(Some(Value::Int(i64::from(*flag)))),
            // What `groupby` gives has names for its two parts; other pairs are not told from it.
            Value::Tuple(items) if items.len() == 2 && name == "grouper" => Ok(Some(items[0].clone())),
            Value::Tuple(items) if items.len() == 2 && name == "list" => Ok(Some(items[1].clone())),
            _ => Ok(None),
        }
    }

    /// `value[key]`: the item, else the attribute of that name.
    pub fn item(&mut self, value: &Value, key: &Value) -> Result<Value, String> {
        let found = match value {
            Value::Undefined(missing) => return Err(missing.message()),
            Value::Dict(dict) => match key.as_text() {
                Some(name) => dict.get(name).cloned(),
                None => Key::new(key.clone()).ok().and_then(|key| dict.map.get(&key).cloned()),
            },
            _ => index_of(key).and_then(|index| slices::item(value, index)),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match key.as_text() {
            Some(name) => match self.own_attribute(value, name)? {
                Some(found) => Ok(found),
                None => Ok(missing(value, name)),
            },
            None => Ok(missing(value, &print::repr(key)?.into())),
        }
    }

    fn slice(&mut self, value: &Expr, bounds: &[Option<Expr>; 3]) -> Result<Value, Stop> {
        let value = self.eval(value)?;
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            let Some(bound) = bound else { continue };
            match self.eval(bound)? {
                Value::None => {}
                bound => match index_of(&bound) {
                    Some(bound) => *number = Some(bound),
                    None => return Ok(missing(&value, &"slice".into())),
                },
            }
        }
        if let Value::Undefined(missing) = &value {
            return Err(missing.message().into());
        }
        match slices::slice(self, &value, numbers)? {
            Some(sliced) => Ok(sliced),
            None => Ok(missing(&value, &"slice".into())),
        }
    }

    /// Evaluates a call; `caller` is the block of `{% call %}`.
    pub fn call_expr(&mut self, callee: &Expr, args: &Args, caller: Option<Value>) -> Result<Value, Stop> {
        if let Expr::Attribute(owner, name) = callee {
            let owner = self.eval(owner)?;
            if let Some(method) = methods::find(&owner, name) {
                let given = self.given(args)?;
                return methods::call(self, &owner, method, given);
            }
            let callee = self.attribute(&owner, name)?;
            let given = self.given_with(args, caller)?;
            return self.call(&callee, given);
        }
        let callee = self.eval(callee)?;
        let given = self.given_with(args, caller)?;
        self.call(&callee, given)
    }

    fn given_with(&mut self, args: &Args, caller: Option<Value>) -> Result<Given, Stop> {
        let mut given = self.given(args)?;
        given.named.extend(caller.map(|caller| ("caller".into(), caller)));
        Ok(given)
    }

    /// What a loop over a value goes over.
    pub fn items(&mut self, value: &Value) -> Result<Rc<Items>, String> {
        let items: Vec<Value> = match value {
            Value::List(items) | Value::Tuple(items) => return Ok(Rc::clone(items)),
            Value::Undefined(_) => Vec::new(),
            Value::Text(text) | Value::Markup(text) => {
                self.charge_items(text.chars().count())?;
                text.chars().map(|character| Value::text(character.to_string())).collect()
            }
            Value::Dict(dict) => dict.map.keys().map(|key| key.0.clone()).collect(),
            Value::Object(object) => match &**object {
                Object::Range { .. } => {
                    let length = object.range_length();
                    self.charge_items(length)?;
                    (0..length).map(|at| object.range_item(at)).collect()
                }
                Object::View(View::Keys, dict) => dict.map.keys().map(|key| key.0.clone()).collect(),
                Object::View(View::Values, dict) => dict.map.values().cloned().collect(),
                Object::View(View::Items, dict) => pairs(dict)?,
                Object::Stream(items, ..) => items.take().into(),
                Object::Loop(state) => return Ok(Rc::clone(&state.items)),
                _ => return Err(not_iterable(value)),
            },
            _ => return Err(not_iterable(value)),
        };
        self.charge_items(items.len())?;
        Items::new(items)
    }
}

fn not_iterable(value: &Value) -> String {
    format!("'{}' object is not iterable", value.type_name())
}

pub fn pairs(dict: &Dict) -> Result<Vec<Value>, String> {
    dict.map.iter().map(|(key, value)| Value::tuple(vec![key.0.clone(), value.clone()])).collect()
}

/// A whole number that a place in a list can be.
pub fn index_of(key: &Value) -> Option<i64> {
    match Num::of(key)? {
        Num::Int(index) => Some(index),
        // Beyond all lists, on either side.
        Num::Big(index) => Some(if index.sign() == num_bigint::Sign::Minus { i64::MIN } else { i64::MAX }),
        Num::Float(_) => None,
    }
}

fn missing(value: &Value, name: &Arc<str>) -> Value {
    Value::Undefined(Missing::Attribute(value.type_name(), Arc::clone(name)))
}
