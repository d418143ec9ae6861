//! Tokens to expressions, in Jinja's order of operators.

use std::sync::Arc;

use super::ast::{Args, Comparison, Constant, Expr, Operator};
use super::lexer::Token;
use super::parser::Parser;
use super::tests;

/// Operators, filters and accesses in one tag: a chain of them is as deep as it is long.
const CHAIN_MAX: usize = 2000;

impl Parser {
    fn counted(&mut self) -> Result<(), String> {
        self.chained += 1;
        if self.chained > CHAIN_MAX {
            return Err(format!("a tag has more than {CHAIN_MAX} operators"));
        }
        Ok(())
    }

    pub fn expression(&mut self) -> Result<Expr, String> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            while parser.skip_word("if") {
                parser.counted()?;
                let test = parser.or()?;
                let otherwise = if parser.skip_word("else") { Some(parser.expression()?) } else { None };
                value = Expr::Conditional(Box::new((test, value, otherwise)));
            }
            Ok(value)
        })
    }

    /// An expression, or several with commas.
    pub fn tuple(&mut self) -> Result<Expr, String> {
        self.tuple_of(&[], Self::expression)
    }

    /// The same where `if` belongs to the statement.
    pub fn tuple_without_condition(&mut self, ends: &[&str]) -> Result<Expr, String> {
        self.tuple_of(ends, Self::or)
    }

    fn tuple_of(
        &mut self,
        ends: &[&str],
        item: impl Fn(&mut Self) -> Result<Expr, String>,
    ) -> Result<Expr, String> {
        let first = item(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_op(",") {
            let ended = matches!(self.peek(), Token::PrintEnd | Token::BlockEnd) || self.is_op(")");
            if ended || ends.iter().any(|end| self.is_word(end)) {
                break;
            }
            items.push(item(self)?);
        }
        Ok(Expr::Tuple(items))
    }

    fn or(&mut self) -> Result<Expr, String> {
        let mut left = self.and()?;
        while self.skip_word("or") {
            self.counted()?;
            left = Expr::Or(Box::new([left, self.and()?]));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.not()?;
        while self.skip_word("and") {
            self.counted()?;
            left = Expr::And(Box::new([left, self.not()?]));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, String> {
        if self.skip_word("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.not()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.peek() {
                Token::Op("==") => Comparison::Equal,
                Token::Op("!=") => Comparison::NotEqual,
                Token::Op("<") => Comparison::Less,
                Token::Op("<=") => Comparison::LessEqual,
                Token::Op(">") => Comparison::Greater,
                Token::Op(">=") => Comparison::GreaterEqual,
                Token::Name(name) if **name == *"in" => Comparison::In,
                Token::Name(name)
                    if **name == *"not"
                        && matches!(self.peek_second(), Token::Name(next) if **next == *"in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((operator, self.sum()?));
        }
        Ok(if rest.is_empty() { left } else { Expr::Compare(Box::new(left), rest) })
    }

    fn sum(&mut self) -> Result<Expr, String> {
        let mut left = self.concat()?;
        loop {
            let operator = match self.peek() {
                Token::Op("+") => Operator::Add,
                Token::Op("-") => Operator::Sub,
                _ => return Ok(left),
            };
            self.counted()?;
            self.next();
            left = Expr::Binary(operator, Box::new([left, self.concat()?]));
        }
    }

    fn concat(&mut self) -> Result<Expr, String> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut sides = vec![first];
        while self.skip_op("~") {
            sides.push(self.product()?);
        }
        Ok(Expr::Concat(sides))
    }

    fn product(&mut self) -> Result<Expr, String> {
        let mut left = self.power()?;
        loop {
            let operator = match self.peek() {
                Token::Op("*") => Operator::Mul,
                Token::Op("/") => Operator::Div,
                Token::Op("//") => Operator::FloorDiv,
                Token::Op("%") => Operator::Mod,
                _ => return Ok(left),
            };
            self.counted()?;
            self.next();
            left = Expr::Binary(operator, Box::new([left, self.power()?]));
        }
    }

    fn power(&mut self) -> Result<Expr, String> {
        let mut left = self.unary()?;
        while self.skip_op("**") {
            self.counted()?;
            left = Expr::Binary(Operator::Pow, Box::new([left, self.unary()?]));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        let value = self.signed()?;
        self.after_value(value)
    }

    /// A value with its signs, which bind tighter than filters do.
    fn signed(&mut self) -> Result<Expr, String> {
        let value = if self.skip_op("-") {
            Expr::Negative(Box::new(self.deeper(Self::signed)?))
        } else if self.skip_op("+") {
            Expr::Positive(Box::new(self.deeper(Self::signed)?))
        } else {
            self.primary()?
        };
        self.postfix(value)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        let expected = "an expression";
        match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                Ok(match &*name {
                    "true" | "True" => Expr::Constant(Constant::Bool(true)),
                    "false" | "False" => Expr::Constant(Constant::Bool(false)),
                    "none" | "None" => Expr::Constant(Constant::None),
                    _ => Expr::Name(self.symbol(&name)),
                })
            }
            Token::Text(mut text) => {
                self.next();
                while let Token::Text(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Expr::Constant(Constant::Text(text.into())))
            }
            Token::Int(number) => {
                self.next();
                Ok(Expr::Constant(number.constant()))
            }
            Token::Float(number) => {
                self.next();
                Ok(Expr::Constant(Constant::Float(number)))
            }
            Token::Op("(") => {
                self.next();
                if self.skip_op(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let value = self.tuple()?;
                self.expect_op(")")?;
                Ok(value)
            }
            Token::Op("[") => {
                self.next();
                Ok(Expr::List(self.items("]", Self::expression)?))
            }
            Token::Op("{") => {
                self.next();
                let pair = |parser: &mut Self| {
                    let key = parser.expression()?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expression()?))
                };
                Ok(Expr::Dict(self.items("}", pair)?))
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Items with commas up to a sign.
    fn items<T>(
        &mut self,
        end: &str,
        item: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.is_op(end) {
                break;
            }
            items.push(item(self)?);
        }
        self.next();
        Ok(items)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr, String> {
        loop {
            if self.is_op(".") || self.is_op("[") {
                value = self.access(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), Box::new(self.args()?));
            } else {
                return Ok(value);
            }
            self.counted()?;
        }
    }

    /// Filters, tests and calls after a value.
    fn after_value(&mut self, mut value: Expr) -> Result<Expr, String> {
        loop {
            if self.skip_op("|") {
                let name = self.expect_name()?;
                value = self.filter(value, name)?;
            } else if self.skip_word("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), Box::new(self.args()?));
            } else {
                return Ok(value);
            }
            self.counted()?;
        }
    }

    fn test(&mut self, value: Expr) -> Result<Expr, String> {
        let negated = self.skip_word("not");
        let name = self.expect_name()?;
        let name = self.dotted(name)?;
        let mut args = Args::default();
        let bare = match self.peek() {
            Token::Name(word) => !matches!(&**word, "else" | "or" | "and"),
            Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{") => true,
            _ => false,
        };
        if self.is_op("(") {
            args = self.args()?;
        } else if bare {
            if self.is_word("is") {
                return Err("tests are not chained with \"is\"".to_owned());
            }
            let value = self.primary()?;
            args.positional.push(self.postfix(value)?);
        }
        let test = tests::find(&name);
        let result = Expr::Test(Box::new(value), name, test, Box::new(args));
        Ok(if negated { Expr::Not(Box::new(result)) } else { result })
    }

    fn access(&mut self, value: Expr) -> Result<Expr, String> {
        if self.skip_op(".") {
            return match self.next() {
                Token::Name(name) => Ok(Expr::Attribute(Box::new(value), name)),
                Token::Int(number) => Ok(Expr::Item(Box::new([value, Expr::Constant(number.constant())]))),
                _ => Err("expected a name or a number after \".\"".to_owned()),
            };
        }
        self.expect_op("[")?;
        let mut keys = Vec::new();
        while !self.is_op("]") {
            if !keys.is_empty() {
                self.expect_op(",")?;
            }
            if let Some(bounds) = self.subscript(&mut keys)? {
                if !keys.is_empty() || self.is_op(",") {
                    return Err("several slices at once are not supported".to_owned());
                }
                self.expect_op("]")?;
                return Ok(Expr::Slice(Box::new((value, bounds))));
            }
        }
        self.next();
        let key = match keys.len() {
            0 => return Err("expected a key in \"[]\"".to_owned()),
            1 => keys.remove(0),
            _ => Expr::Tuple(keys),
        };
        Ok(Expr::Item(Box::new([value, key])))
    }

    /// The bounds of a slice, or a key.
    fn subscript(&mut self, keys: &mut Vec<Expr>) -> Result<Option<[Option<Expr>; 3]>, String> {
        let mut bounds = [None, None, None];
        if !self.is_op(":") {
            let key = self.expression()?;
            if !self.is_op(":") {
                keys.push(key);
                return Ok(None);
            }
            bounds[0] = Some(key);
        }
        for bound in &mut bounds[1..] {
            if !self.skip_op(":") {
                break;
            }
            if !self.is_op(":") && !self.is_op("]") && !self.is_op(",") {
                *bound = Some(self.expression()?);
            }
        }
        Ok(Some(bounds))
    }

    /// The arguments of a call, in parentheses.
    pub fn args(&mut self) -> Result<Args, String> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_op(")") {
            if !std::mem::take(&mut first) {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            let wrong = "an argument stands where it must not";
            if self.skip_op("*") {
                if args.list.is_some() || args.dict.is_some() {
                    return Err(wrong.to_owned());
                }
                args.list = Some(self.expression()?);
            } else if self.skip_op("**") {
                if args.dict.is_some() {
                    return Err(wrong.to_owned());
                }
                args.dict = Some(self.expression()?);
            } else if let (Token::Name(name), Token::Op("=")) = (self.peek(), self.peek_second()) {
                let name: Arc<str> = Arc::clone(name);
                if args.dict.is_some() {
                    return Err(wrong.to_owned());
                }
                self.next();
                self.next();
                args.named.push((name, self.expression()?));
            } else {
                if args.list.is_some() || args.dict.is_some() || !args.named.is_empty() {
                    return Err(wrong.to_owned());
                }
                args.positional.push(self.expression()?);
            }
        }
        self.next();
        Ok(args)
    }
}
