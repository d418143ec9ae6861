//! Tokens to a template: statements. Expressions are in `expressions.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{
    Args, Expr, For, LoopNamed, Macro, Parameters, Recursive, Stmt, StmtKind, Symbol, Takes, Target,
};
use super::lexer::{self, Token};

/// Levels of statements and of expressions in them.
const DEPTH_MAX: usize = 120;

/// The first symbols, which have a meaning.
pub const LOOP: Symbol = Symbol(0);
pub const CALLER: Symbol = Symbol(1);
pub const KWARGS: Symbol = Symbol(2);
pub const VARARGS: Symbol = Symbol(3);

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    pub body: Vec<Stmt>,
    /// The name of each symbol.
    pub names: Vec<Arc<str>>,
}

/// Parses a template.
pub fn parse(source: &str) -> Result<Template, String> {
    let tokens = lexer::tokens(source)?;
    let mut parser = Parser {
        tokens,
        at: 0,
        names: Vec::new(),
        symbols: HashMap::new(),
        depth: 0,
        chained: 0,
        loops: 0,
        seen: Seen::default(),
    };
    for (name, symbol) in [("loop", LOOP), ("caller", CALLER), ("kwargs", KWARGS), ("varargs", VARARGS)] {
        let known = parser.symbol(&name.into());
        debug_assert_eq!(known, symbol);
    }
    let body = parser.block(&[]).map_err(|text| format!("line {}: {text}", parser.line()))?;
    Ok(Template { body, names: parser.names })
}

pub struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    names: Vec<Arc<str>>,
    symbols: HashMap<Arc<str>, Symbol>,
    depth: usize,
    /// Operators in this tag.
    pub chained: usize,
    /// Loops around that `break` may leave.
    loops: usize,
    seen: Seen,
}

/// Names with a meaning that have been read since somebody asked.
#[derive(Clone, Copy, Default)]
struct Seen {
    loop_named: bool,
    takes: Takes,
}

impl Parser {
    pub fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    pub fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    pub fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    pub fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub fn is_op(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == operator)
    }

    pub fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if **found == *word)
    }

    pub fn skip_op(&mut self, operator: &str) -> bool {
        let found = self.is_op(operator);
        if found {
            self.next();
        }
        found
    }

    pub fn skip_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    pub fn expect_op(&mut self, operator: &str) -> Result<(), String> {
        if self.skip_op(operator) { Ok(()) } else { Err(self.unexpected(&format!("{operator:?}"))) }
    }

    pub fn expect_name(&mut self) -> Result<Arc<str>, String> {
        match self.peek() {
            Token::Name(name) => {
                let name = Arc::clone(name);
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub fn unexpected(&self, expected: &str) -> String {
        let found = match self.peek() {
            Token::Data(_) => "text".to_owned(),
            Token::BlockBegin => "\"{%\"".to_owned(),
            Token::BlockEnd => "\"%}\"".to_owned(),
            Token::PrintBegin => "\"{{\"".to_owned(),
            Token::PrintEnd => "\"}}\"".to_owned(),
            Token::Name(name) => format!("the name {name:?}"),
            Token::Text(_) => "a text".to_owned(),
            Token::Int(_) | Token::Float(_) => "a number".to_owned(),
            Token::Op(operator) => format!("{operator:?}"),
            Token::End => "the end of the template".to_owned(),
        };
        format!("expected {expected}, found {found}")
    }

    /// A name's symbol; those with a meaning are remembered.
    pub fn symbol(&mut self, name: &Arc<str>) -> Symbol {
        let Self { names, symbols, .. } = self;
        let symbol = *symbols.entry(Arc::clone(name)).or_insert_with(|| {
            names.push(Arc::clone(name));
            Symbol(names.len() as u32 - 1)
        });
        match symbol {
            LOOP => self.seen.loop_named = true,
            CALLER => self.seen.takes.caller = true,
            KWARGS => self.seen.takes.kwargs = true,
            VARARGS => self.seen.takes.varargs = true,
            _ => {}
        }
        symbol
    }

    /// Works one level deeper.
    pub fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("the template nests deeper than {DEPTH_MAX} levels"));
        }
        let result = work(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of the words that may end them (which is next), or to the end of the template.
    fn block(&mut self, ends: &[&str]) -> Result<Vec<Stmt>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            self.chained = 0;
            let kind = match self.peek() {
                Token::End if ends.is_empty() => return Ok(body),
                Token::Data(_) => match self.next() {
                    Token::Data(text) => StmtKind::Text(text),
                    _ => unreachable!("the token that was seen"),
                },
                Token::PrintBegin => {
                    self.next();
                    let value = self.tuple()?;
                    if *self.peek() != Token::PrintEnd {
                        return Err(self.unexpected("the end of a print statement"));
                    }
                    self.next();
                    StmtKind::Print(vec![value])
                }
                Token::BlockBegin => {
                    self.next();
                    if ends.iter().any(|end| self.is_word(end)) {
                        return Ok(body);
                    }
                    let kind = self.deeper(Self::statement)?;
                    self.end_of_tag()?;
                    kind
                }
                _ => return Err(self.unexpected(&format!("one of {}", ends.join(", ")))),
            };
            body.push(Stmt { line, kind });
        }
    }

    fn end_of_tag(&mut self) -> Result<(), String> {
        if *self.peek() != Token::BlockEnd {
            return Err(self.unexpected("the end of a tag"));
        }
        self.next();
        Ok(())
    }

    /// The rest of the opening tag, a block, and the word that ends it.
    fn body_to(&mut self, end: &str) -> Result<Vec<Stmt>, String> {
        let body = self.body_until(&[end])?;
        self.next();
        Ok(body)
    }

    fn body_until(&mut self, ends: &[&str]) -> Result<Vec<Stmt>, String> {
        // `{% for …: %}` is allowed.
        self.skip_op(":");
        self.end_of_tag()?;
        self.block(ends)
    }

    fn statement(&mut self) -> Result<StmtKind, String> {
        let word = self.expect_name()?;
        match &*word {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "with" => self.with_statement(),
            "macro" => {
                let name = self.expect_name()?;
                let symbol = self.symbol(&name);
                let block = self.macro_of(name, "endmacro", Self::parameters)?;
                Ok(StmtKind::Macro(symbol, block))
            }
            "call" => self.call_statement(),
            "filter" => {
                let name = self.expect_name()?;
                let filtered = self.filter(Expr::Captured, name)?;
                let filtered = self.filters(filtered)?;
                Ok(StmtKind::Filter(filtered, self.body_to("endfilter")?))
            }
            "print" => self.print_statement(),
            "generation" => {
                self.without_loops(|parser| Ok(StmtKind::Scope(parser.body_to("endgeneration")?)))
            }
            "autoescape" => {
                self.expression()?;
                Ok(StmtKind::Scope(self.body_to("endautoescape")?))
            }
            "block" => {
                self.expect_name()?;
                while self.skip_word("scoped") || self.skip_word("required") {}
                let body = self.without_loops(|parser| parser.body_to("endblock"))?;
                if matches!(self.peek(), Token::Name(_)) {
                    self.next();
                }
                Ok(StmtKind::Block(body))
            }
            "break" | "continue" if self.loops > 0 => {
                Ok(if *word == *"break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "include" | "import" | "from" | "extends" => {
                Err(format!("{{% {word} %}} asks for another template, and there is none"))
            }
            _ => Err(format!("unknown tag {word:?}")),
        }
    }

    fn print_statement(&mut self) -> Result<StmtKind, String> {
        let mut values = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            values.push(self.expression()?);
        }
        Ok(StmtKind::Print(values))
    }

    fn without_loops<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let loops = std::mem::take(&mut self.loops);
        let result = work(self);
        self.loops = loops;
        result
    }

    fn if_statement(&mut self) -> Result<StmtKind, String> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple_without_condition(&[])?;
            branches.push((test, self.body_until(&["elif", "else", "endif"])?));
            if self.skip_word("elif") {
                continue;
            }
            let otherwise = if self.skip_word("else") { self.body_to("endif")? } else { self.end_word() };
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    /// Goes over the word that ends a block without an `else`.
    fn end_word(&mut self) -> Vec<Stmt> {
        self.next();
        Vec::new()
    }

    fn for_statement(&mut self) -> Result<StmtKind, String> {
        let target = self.target(&["in"])?;
        if target.names(LOOP) {
            return Err("\"loop\" is the loop's own variable, not one of its items".to_owned());
        }
        if !self.skip_word("in") {
            return Err(self.unexpected("\"in\""));
        }
        let items = self.tuple_without_condition(&["recursive"])?;
        let outer = std::mem::take(&mut self.seen.loop_named);
        let test = if self.skip_word("if") { Some(self.expression()?) } else { None };
        let recursive = if self.skip_word("recursive") { Recursive::Yes } else { Recursive::No };
        self.loops += 1;
        let body = self.body_until(&["else", "endfor"])?;
        self.loops -= 1;
        let named = self.seen.loop_named || recursive == Recursive::Yes;
        self.seen.loop_named |= outer;
        let otherwise = if self.skip_word("else") { self.body_to("endfor")? } else { self.end_word() };
        let loop_named = if named { LoopNamed::Yes } else { LoopNamed::No };
        Ok(StmtKind::For(Arc::new(For { target, items, test, recursive, body, otherwise, loop_named })))
    }

    fn set_statement(&mut self) -> Result<StmtKind, String> {
        let target = self.target(&[])?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple()?));
        }
        let filtered = self.filters(Expr::Captured)?;
        Ok(StmtKind::SetBlock(target, filtered, self.body_to("endset")?))
    }

    fn with_statement(&mut self) -> Result<StmtKind, String> {
        let mut pairs = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !pairs.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.single_target()?;
            self.expect_op("=")?;
            pairs.push((target, self.expression()?));
        }
        Ok(StmtKind::With(pairs, self.body_to("endwith")?))
    }

    fn call_statement(&mut self) -> Result<StmtKind, String> {
        let mut parameters = Vec::new();
        if self.is_op("(") {
            parameters = self.parameters()?;
        }
        let call = self.expression()?;
        let Expr::Call(called, mut args) = call else { return Err("expected a call".to_owned()) };
        args.named.retain(|(name, _)| **name != *"caller");
        let block = self.macro_of("caller".into(), "endcall", |_| Ok(parameters))?;
        Ok(StmtKind::Call(Expr::Call(called, args), block))
    }

    /// A macro from its parameters on.
    fn macro_of(
        &mut self,
        name: Arc<str>,
        end: &str,
        parameters: impl FnOnce(&mut Self) -> Result<Parameters, String>,
    ) -> Result<Arc<Macro>, String> {
        let outer = std::mem::take(&mut self.seen.takes);
        let parameters = parameters(self)?;
        self.seen.takes = Takes::default();
        let body = self.without_loops(|parser| parser.body_to(end))?;
        let takes = self.seen.takes;
        let either = |a: bool, b: bool| a || b;
        self.seen.takes = Takes {
            caller: either(outer.caller, takes.caller),
            kwargs: either(outer.kwargs, takes.kwargs),
            varargs: either(outer.varargs, takes.varargs),
        };
        Ok(Arc::new(Macro { name, parameters, body, takes }))
    }

    fn parameters(&mut self) -> Result<Parameters, String> {
        let mut parameters: Parameters = Vec::new();
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.expect_name()?;
            let symbol = self.symbol(&name);
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, _, default)| default.is_some()) {
                return Err(format!("the parameter {name:?} has no default and follows one that has"));
            }
            if symbol == CALLER && default.is_none() {
                return Err("the parameter \"caller\" needs a default".to_owned());
            }
            parameters.push((symbol, name, default));
        }
        self.next();
        Ok(parameters)
    }

    /// What is assigned to: names with commas, in parentheses or not.
    fn target(&mut self, ends: &[&str]) -> Result<Target, String> {
        let first = self.single_target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_op(",") {
            let ended = matches!(self.peek(), Token::BlockEnd) || self.is_op("=") || self.is_op(")");
            if ended || ends.iter().any(|end| self.is_word(end)) {
                break;
            }
            targets.push(self.single_target()?);
        }
        Ok(Target::Tuple(targets))
    }

    fn single_target(&mut self) -> Result<Target, String> {
        if self.skip_op("(") || self.is_op("[") && self.skip_op("[") {
            let target = self.deeper(|parser| parser.target(&[]))?;
            if !self.skip_op(")") {
                self.expect_op("]")?;
            }
            return Ok(target);
        }
        let name = self.expect_name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(format!("{name} is not assigned to"));
        }
        let symbol = self.symbol(&name);
        if self.skip_op(".") {
            return Ok(Target::Attribute(symbol, self.expect_name()?));
        }
        Ok(Target::Name(symbol))
    }

    /// The filters after a value, from the first `|` on.
    fn filters(&mut self, mut value: Expr) -> Result<Expr, String> {
        while self.skip_op("|") {
            let name = self.expect_name()?;
            value = self.filter(value, name)?;
        }
        Ok(value)
    }

    /// One filter whose name has been read.
    pub fn filter(&mut self, value: Expr, name: Arc<str>) -> Result<Expr, String> {
        let name = self.dotted(name)?;
        let args = if self.is_op("(") { self.args()? } else { Args::default() };
        let filter = super::filters::find(&name);
        Ok(Expr::Filter(Box::new(value), name, filter, Box::new(args)))
    }

    /// The rest of a name with dots.
    pub fn dotted(&mut self, name: Arc<str>) -> Result<Arc<str>, String> {
        if !self.is_op(".") {
            return Ok(name);
        }
        let mut text = name.to_string();
        while self.skip_op(".") {
            text.push('.');
            text.push_str(&self.expect_name()?);
        }
        Ok(text.into())
    }
}
